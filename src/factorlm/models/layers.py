"""A language model that leaves some of its layers out, or has numbers that say how much each adds.

Each layer adds to what runs through: x_{l+1} = x_l + f_l(x_l). Without it x_{l+1} = x_l, and nothing is computed.
"""

# Axes: B texts, D width, L layers, N tokens of a batch laid end to end, T time, V vocabulary.

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from factorlm.algebra import PAD, pad_right
from factorlm.errors import IncompatibleError, InputError
from factorlm.models.body import TransformersBody
from factorlm.models.causal import CHUNK_TOKENS, CausalLM
from factorlm.models.llama import LlamaBody

# What a layer of some networks takes from another layer than the one before it, by the name in their configuration.
ENTANGLED = ("num_kv_shared_layers", "hidden_size_per_layer_input")


def num_layers(lm: CausalLM) -> int:
    """How many layers the language model runs."""
    return int(lm.model.config.num_hidden_layers)


def skipping(lm: CausalLM, kept: Sequence[int]) -> CausalLM:
    """The language model that runs only these of its layers, over the same weights; made in a few milliseconds.

    The others are not run and have no keys and values. What is written into the weights of either is seen by both.

    Args:
        lm: the whole; it stays as it is.
        kept: numbers of layers from 0, rising.

    Raises:
        InputError: if kept is empty, does not rise or names a layer that is not there.
        IncompatibleError: if the layers of this network read more than what the layer before them gives.
    """
    total = num_layers(lm)
    rises = all(a < b for a, b in pairwise(kept))
    if not kept or not rises or kept[0] < 0 or kept[-1] >= total:
        raise InputError(
            f"some of the layers 0 to {total - 1} of {lm.name} are kept, each once and in order, got {list(kept)}; "
            f"give rising numbers"
        )
    network = shortened(lm.model, kept)
    body = lm._body.with_layers(kept) if isinstance(lm._body, LlamaBody) else TransformersBody(network)
    name = lm.name if len(kept) == total else f"{lm.name} with {len(kept)} of {total} layers"
    return lm.with_body(body, network, name)


class Gated:
    """A language model in which what each layer adds is multiplied by a number that a gradient reaches.

    x_{l+1} = x_l + gate_l f_l(x_l): with gates of 0 and 1 it is `skipping`, at the price of the whole.

    Args:
        lm: the language model; it stays as it is.
    """

    def __init__(self, lm: CausalLM) -> None:
        self._lm = lm
        self._network = shortened(lm.model, range(num_layers(lm)))
        self._gate_L: Tensor | None = None
        for number, layer in enumerate(layers_of(self._network)[1]):
            layer.register_forward_hook(self._hook(number), with_kwargs=True)

    def log_prob(self, gate_L: Tensor, rows: Sequence[list[int]]) -> Tensor:
        """Log probability of each text after the start token, [B], in nats, with a gradient for the gates.

        Args:
            gate_L: for each layer.
            rows: tokens of the texts, without the start token.
        """
        lm = self._lm
        text_BT = pad_right([list(row) for row in rows]).to(lm.device)
        start_BT = torch.tensor([lm.start_ids], device=lm.device).expand(len(rows), -1)
        read_BT = torch.cat([start_BT, text_BT], 1)[:, :-1].clamp(min=0)
        self._gate_L = gate_L.to(lm.device)
        # What fills the right side comes after every real token, so a causal model does not see it.
        hidden_BTD = self._network.base_model(input_ids=read_BT, use_cache=False).last_hidden_state
        real_BT = text_BT != PAD
        hidden_ND, token_N = hidden_BTD[:, start_BT.shape[1] - 1 :][real_BT], text_BT[real_BT]
        log_prob_N = [  # logits are computed once more for the gradient instead of being held
            checkpoint(self._log_prob_of, hidden_nD, token_n, use_reentrant=False)
            for hidden_nD, token_n in zip(hidden_ND.split(CHUNK_TOKENS), token_N.split(CHUNK_TOKENS), strict=True)
        ]
        row_N = real_BT.nonzero()[:, 0]
        return torch.zeros(len(rows), device=lm.device).index_add(0, row_N, torch.cat(log_prob_N))

    def _log_prob_of(self, hidden_ND: Tensor, token_N: Tensor) -> Tensor:
        unembedding_VD = self._lm.unembedding_VD
        logit_NV = nn.functional.linear(hidden_ND.to(unembedding_VD.dtype), unembedding_VD)
        return -nn.functional.cross_entropy(logit_NV.float(), token_N, reduction="none")

    def _hook(self, number: int) -> Callable[..., Any]:
        def gate(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
            if self._gate_L is None:
                return output
            before = args[0] if args else kwargs["hidden_states"]
            after = output[0] if isinstance(output, tuple) else output
            gated = before + self._gate_L[number].to(after.dtype) * (after - before)
            return (gated, *output[1:]) if isinstance(output, tuple) else gated

        return gate


def shortened(network: Any, kept: Sequence[int]) -> Any:
    """A network with only these layers: modules on the way to them are new, the rest and all weights are shared.

    Gradients reach the weights through either.

    Args:
        network: of transformers; it stays as it is.
        kept: numbers of layers from 0, rising.

    Raises:
        IncompatibleError: if its layers read more than what the layer before them gives.
    """
    config = network.config
    if entangled := [name for name in ENTANGLED if getattr(config, name, None)]:
        raise IncompatibleError(
            f"the layers of a {type(network).__name__} read others ({entangled[0]}); take a model whose do not"
        )
    path, layers = layers_of(network)
    *folders, name = path.split(".")
    changed = copy.copy(config)
    changed.num_hidden_layers = len(kept)
    if types := getattr(config, "layer_types", None):
        changed.layer_types = [types[number] for number in kept]
    short = owner = _shallow(network)
    short.config = changed
    for folder in folders:
        inner = _shallow(owner._modules[folder])
        owner._modules[folder] = inner
        owner = inner
        if hasattr(owner, "config"):
            owner.config = changed
    owner._modules[name] = nn.ModuleList([_renumbered(layers[number], place) for place, number in enumerate(kept)])
    return short


def layers_of(network: Any) -> tuple[str, nn.ModuleList]:
    """The path of the list of layers in a network, and the list."""
    total = network.config.num_hidden_layers
    found = [(p, m) for p, m in network.named_modules() if isinstance(m, nn.ModuleList) and len(m) == total]
    if len(found) != 1:
        raise IncompatibleError(
            f"a network with one list of {total} layers is needed, got {len(found)} in "
            f"{type(network).__name__}; take a model of another kind"
        )
    return found[0]


def _renumbered(layer: nn.Module, place: int) -> nn.Module:
    """A layer whose parts find their keys and values in this place of a cache."""
    other = _shallow(layer)
    for name, part in layer._modules.items():
        if part is not None and any(hasattr(module, "layer_idx") for module in part.modules()):
            other._modules[name] = _renumbered(part, place)
    if hasattr(layer, "layer_idx"):
        other.layer_idx = place
    return other


def _shallow(module: Any) -> Any:
    """A module of its own with the same parameters and parts, which may be replaced and hooked one by one."""
    other = module.__class__.__new__(module.__class__)
    other.__dict__ = {
        key: copy.copy(value) if isinstance(value, dict) else value for key, value in module.__dict__.items()
    }
    return other
