"""The language models that choices of layers stand for."""

# Axes: K components, L layers that are free.

from __future__ import annotations

from torch import Tensor

from factorlm.errors import InputError
from factorlm.models import CausalLM
from factorlm.models.layers import num_layers, skipping
from factorlm.prior.variational import most_probable_mask


def layer_parts(lm: CausalLM, logit_KL: Tensor, first: int, last: int) -> tuple[CausalLM, ...]:
    """The language model with the most probable layers of each component; equal choices are one object.

    Args:
        lm: the whole.
        logit_KL: of running each layer that is free.
        first: layers at the beginning that are always run.
        last: layers at the end that are always run.

    Raises:
        InputError: if there are not as many free layers as logits.
    """
    num_free = count_free(lm, first, last)
    if logit_KL.shape[1] != num_free:
        raise InputError(
            f"logits of the {num_free} layers of {lm.name} behind the first {first} and before the last {last} are "
            f"needed, got {logit_KL.shape[1]}; they were learned with another model or other settings"
        )
    known: dict[tuple[int, ...], CausalLM] = {}
    parts = []
    for logit_L in logit_KL:
        kept = most_probable_layers(logit_L, first, last)
        if kept not in known:
            known[kept] = skipping(lm, kept)
        parts.append(known[kept])
    return tuple(parts)


def most_probable_layers(logit_L: Tensor, first: int, last: int) -> tuple[int, ...]:
    """Numbers of the layers of the whole that are run with the most probable mask."""
    free = (most_probable_mask(logit_L).nonzero()[:, 0] + first).tolist()
    behind = first + len(logit_L)
    return (*range(first), *free, *range(behind, behind + last))


def count_free(lm: CausalLM, first: int, last: int) -> int:
    """How many layers may be skipped.

    Raises:
        InputError: if there are none.
    """
    num_free = num_layers(lm) - first - last
    if num_free < 1:
        raise InputError(
            f"a layer to choose is needed, got none: {lm.name} has {num_layers(lm)}, and the first {first} and last "
            f"{last} are always run; set fewer"
        )
    return num_free
