"""Changed matrices beside a model that stays as it is, and a hash that tells whether a matrix is what it was."""

# Axes: F width of keys, O width of values.

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from factorlm.errors import IncompatibleError
from factorlm.models.body import body_of
from factorlm.models.causal import CausalLM
from factorlm.models.editing.algebra import LowRank
from factorlm.models.twins import twin

Change = Mapping[str, LowRank]  # by the name of the module


def patched(lm: CausalLM, change: Change, name: str) -> CausalLM:
    """The model with changed matrices; all its other weights are shared, and the original stays as it is.

    Raises:
        IncompatibleError: if the model has no such matrices.
    """
    return replaced(lm, {where: part.dense_OF for where, part in change.items()}, name)


def replaced(lm: CausalLM, dense: Mapping[str, Tensor], name: str) -> CausalLM:
    """As `patched`, for changes that are not of low rank, [O, F] each."""
    network = twin(lm)
    modules = dict(network.named_modules())
    for where, change_OF in dense.items():
        module = modules.get(where)
        weight = getattr(module, "weight", None)
        change = change_OF if isinstance(module, nn.Linear) else change_OF.T
        if not isinstance(weight, Tensor) or weight.shape != change.shape:
            raise IncompatibleError(f"an edit for {lm.name} is needed, got one for a matrix {where!r} that it lacks")
        summed = (weight.double() + change.to(weight.device).double()).to(weight.dtype)
        module.weight = nn.Parameter(summed, requires_grad=False)  # type: ignore[union-attr]
    other = lm.with_body(body_of(network), network, name)
    # The model's own fingerprint samples a few numbers of each matrix in few bits, and would not see a small change.
    digest = hashlib.sha256(f"{lm.fingerprint} {weights_hash(other, dense)}".encode()).hexdigest()
    other.__dict__["fingerprint"] = digest[:16]
    other.base_fingerprint = lm.base_fingerprint or lm.fingerprint
    return other


def added(changes: Sequence[Change]) -> dict[str, Tensor]:
    """The sum of changes in float64, [O, F] each, by the name of the module."""
    total: dict[str, Tensor] = {}
    for change in changes:
        for where, part in change.items():
            total[where] = total[where] + part.dense_OF if where in total else part.dense_OF
    return total


@torch.no_grad()
def weights_hash(lm: CausalLM, names: Iterable[str]) -> str:
    """Hash of every bit of some matrices."""
    modules = dict(lm.model.named_modules())
    digest = hashlib.sha256()
    for name in sorted(names):
        weight = modules[name].weight.detach().to("cpu", torch.float32).contiguous()
        digest.update(f"{name}{tuple(weight.shape)}".encode() + weight.numpy().tobytes())
    return digest.hexdigest()[:16]
