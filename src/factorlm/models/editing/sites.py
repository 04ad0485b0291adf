"""Where facts are written: the matrices that the MLPs of a network end with, and what they read and give."""

# Axes: B rows, D width of the model, F width of keys, O width of values, T time.

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from factorlm.algebra import pad_right
from factorlm.errors import IncompatibleError, InputError
from factorlm.models.causal import CausalLM
from factorlm.models.editing.facts import Located
from factorlm.models.layers import layers_of, num_layers

# Names of the matrix in a layer; in a gated MLP its input is the product behind the gate.
DOWN = ("mlp.down_proj", "mlp.c_proj", "mlp.fc_out", "mlp.dense_4h_to_h", "fc2")


@dataclass(frozen=True, eq=False)
class Site:
    """The matrix of one layer.

    Attributes:
        layer: its number.
        name: of the module, in the network.
        module: which holds it.
        block: the layer.
    """

    layer: int
    name: str
    module: Any
    block: nn.Module

    @property
    def is_transposed(self) -> bool:
        """Whether the network holds it as [F, O], as GPT-2 does."""
        return not isinstance(self.module, nn.Linear)

    @property
    def weight_OF(self) -> Tensor:
        """The matrix, in float32."""
        weight: Tensor = self.module.weight.detach()
        return (weight.T if self.is_transposed else weight).float()


def site_of(lm: CausalLM, layer: int) -> Site:
    """The matrix of a layer.

    Raises:
        InputError: if there is no such layer.
        IncompatibleError: if its MLP is of a kind that we do not know.
    """
    if not 0 <= layer < num_layers(lm):
        raise InputError(f"a layer from 0 to {num_layers(lm) - 1} is needed, got {layer}")
    path, layers = layers_of(lm.model)
    block = layers[layer]
    inside = dict(block.named_modules())
    for name in DOWN:
        if name in inside and isinstance(getattr(inside[name], "weight", None), Tensor):
            return Site(layer, f"{path}.{layer}.{name}", inside[name], block)
    raise IncompatibleError(
        f"{lm.name} has no matrix named {', '.join(DOWN)} in layer {layer}, so no fact can be written there; take a "
        "model with plain MLPs"
    )


@torch.no_grad()
def check_residual(lm: CausalLM, site: Site) -> None:
    """Raise IncompatibleError if what the matrix gives is not simply added to what runs through the layers."""
    token_BT = torch.tensor([lm.start_ids], device=lm.device)
    place_B = torch.tensor([token_BT.shape[1] - 1], device=lm.device)
    before_BD = run(lm, token_BT, place_B, [site]).after_SBD[0]
    probe_BO = torch.ones_like(before_BD) * float(before_BD.abs().max())
    after_BD = run(lm, token_BT, place_B, [site], add=(site, probe_BO)).after_SBD[0]
    if float((after_BD - before_BD - probe_BO).abs().max()) > 1e-3 * float(probe_BO.abs().max()):
        raise IncompatibleError(f"{lm.name} changes what its MLPs give before it adds it; take a model that does not")


@dataclass(frozen=True, eq=False)
class Seen:
    """What happened at the places asked for, at each site.

    Attributes:
        key_SBF: inputs of the matrices; a list, since their widths may differ.
        value_SBO: what they gave, a bias included.
        after_SBD: states behind their layers.
        hidden_BTD: last hidden states.
    """

    key_SBF: list[Tensor]
    value_SBO: list[Tensor]
    after_SBD: list[Tensor]
    hidden_BTD: Tensor


def run(
    lm: CausalLM,
    token_BT: Tensor,
    place_B: Tensor,
    sites: Sequence[Site],
    *,
    add: tuple[Site, Tensor] | None = None,
) -> Seen:
    """Read rows, padded on the right, and watch some sites at one place of each row.

    Args:
        lm: the model; its weights are not touched.
        token_BT: what is read, beginning at the first place.
        place_B: one place of each row.
        sites: to watch.
        add: a site, and what is added there to what it gives at the places, [B, O]; a gradient reaches it.
    """
    row_B = torch.arange(len(place_B), device=place_B.device)
    seen: dict[tuple[str, int], Tensor] = {}

    def watch(site: Site) -> Iterator[Any]:
        def inside(module: Any, args: tuple[Any, ...], value_BTO: Tensor) -> Tensor:
            if add is not None and add[0].layer == site.layer:
                value_BTO = value_BTO.index_put((row_B, place_B), value_BTO[row_B, place_B] + add[1])
            seen["key", site.layer] = args[0][row_B, place_B]
            seen["value", site.layer] = value_BTO[row_B, place_B]
            return value_BTO

        def behind(module: Any, args: tuple[Any, ...], found: Any) -> None:
            state_BTD = found[0] if isinstance(found, tuple) else found
            seen["after", site.layer] = state_BTD[row_B, place_B]

        yield site.module.register_forward_hook(inside)
        yield site.block.register_forward_hook(behind)

    watched = {site.layer: site for site in (*sites, *([add[0]] if add else []))}
    with _hooks(handle for site in watched.values() for handle in watch(site)):
        hidden_BTD = lm.model.base_model(input_ids=token_BT.clamp(min=0), use_cache=False).last_hidden_state
    key_SBF, value_SBO, after_SBD = ([seen[what, site.layer] for site in sites] for what in ("key", "value", "after"))
    return Seen(key_SBF, value_SBO, after_SBD, hidden_BTD)


@contextmanager
def _hooks(handles: Iterator[Any]) -> Iterator[None]:
    """Hooks that are gone afterwards, whatever happens; our own faster body never sees them."""
    held: list[Any] = []
    try:
        for handle in handles:
            held.append(handle)
        yield
    finally:
        for handle in held:
            handle.remove()


def batched(lm: CausalLM, rows: Sequence[Located]) -> tuple[Tensor, Tensor]:
    """Tokens [B, T], padded on the right, and places [B]."""
    token_BT = pad_right([list(row.ids) for row in rows]).to(lm.device)
    return token_BT, torch.tensor([row.place for row in rows], device=lm.device)
