"""What components can be made of: how each kind is put together from a card and numbers. One line each."""

# Axes: D width, K components, L layers that are free, M places.

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from factorlm.errors import IncompatibleError, IntegrityError
from factorlm.models import CausalLM
from factorlm.models.loading import load_present
from factorlm.models.lora import Adapter, merged
from factorlm.prior.ensemble import Ensemble, Separate
from factorlm.prior.incontext import InContext
from factorlm.prior.manifest import Kind, Layers, Lora, Models, Prompts, SoftPrompts
from factorlm.prior.parts import layer_parts

Build = Callable[[CausalLM, Kind, dict[str, Tensor]], Ensemble]


def prompt_tokens(lm: CausalLM, assumption: str) -> list[int]:
    """What is read of a sentence that a component assumes: a paragraph of its own before every text."""
    return lm.encode_text(assumption.strip() + "\n\n")


def _soft_prompts(lm: CausalLM, kind: Kind, tensors: dict[str, Tensor]) -> Ensemble:
    assert isinstance(kind, SoftPrompts)
    soft_KMD = _needed(tensors, "soft")
    if soft_KMD.ndim != 3 or soft_KMD.shape[1:] != (kind.places, lm.width):
        raise IntegrityError(
            f"soft prompts of {kind.places} vectors of {lm.width} numbers are needed, got {list(soft_KMD.shape)}; "
            "copy the prior again"
        )
    return InContext(lm, list(soft_KMD.to(lm.device)))


def _prompts(lm: CausalLM, kind: Kind, tensors: dict[str, Tensor]) -> Ensemble:
    assert isinstance(kind, Prompts)
    return InContext(lm, [torch.tensor(prompt_tokens(lm, assumption)) for assumption in kind.assumptions])


def _layers(lm: CausalLM, kind: Kind, tensors: dict[str, Tensor]) -> Ensemble:
    assert isinstance(kind, Layers)
    logit_KL = _needed(tensors, "logits")
    whole = lm if kind.scale is None else _changed(lm, tensors, kind.scale)
    return Separate(layer_parts(whole, logit_KL, kind.first, kind.last))


def _lora(lm: CausalLM, kind: Kind, tensors: dict[str, Tensor]) -> Ensemble:
    assert isinstance(kind, Lora)
    num_components = len({name.partition(".")[0] for name in tensors})
    starts = [f"{k}." for k in range(num_components)]
    own = [{n.removeprefix(start): t for n, t in tensors.items() if n.startswith(start)} for start in starts]
    return Separate(tuple(_changed(lm, found, kind.scale) for found in own))


def _models(lm: CausalLM, kind: Kind, tensors: dict[str, Tensor]) -> Ensemble:
    assert isinstance(kind, Models)
    dtype, device = str(lm.model.dtype).removeprefix("torch."), str(lm.device)
    parts = [lm if name == lm.name else load_present(name, dtype=dtype, device=device) for name in kind.models]
    for name, fingerprint, part in zip(kind.models, kind.fingerprints, parts, strict=True):
        if part.fingerprint != fingerprint:
            raise IncompatibleError(
                f"a component of this prior was {name} ({fingerprint}), which is another model now "
                f"({part.fingerprint}); put the old one back, or learn the prior anew"
            )
        if part.vocabulary != lm.vocabulary:
            raise IncompatibleError(
                f"models with the tokens of {lm.name} are needed, {name} has others; take models with one tokenizer"
            )
    return Separate(tuple(parts))


def _changed(lm: CausalLM, tensors: dict[str, Tensor], scale: float) -> CausalLM:
    """The model with a low-rank change of its layers; see `Adapter.of`."""
    adapter = Adapter.of({name: weight.to(lm.device) for name, weight in tensors.items()}, scale)
    if not adapter.down_RI or adapter.down_RI.keys() != adapter.up_OR.keys():
        raise IntegrityError("both thin matrices of each changed layer are needed, got others; copy the prior again")
    return merged(lm, adapter)


def _needed(tensors: dict[str, Tensor], name: str) -> Tensor:
    if name not in tensors:
        raise IntegrityError(f"numbers named {name!r} are needed, got {', '.join(tensors) or 'none'}; copy it again")
    return tensors[name]


KINDS: dict[str, Build] = {
    "soft-prompt": _soft_prompts,
    "prompt": _prompts,
    "layers": _layers,
    "lora": _lora,
    "model": _models,
}
