"""What each factor did to one token while its text is being written: the live form of a Reading."""

# Axes: A alternatives, D width, K factors, V vocabulary.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from factorlm.algebra import log_normalize, mean_where_possible
from factorlm.factors.head import Head
from factorlm.models import CausalLM

SHOWN_ALTERNATIVES = 5


@dataclass(frozen=True)
class Pushes:
    """One token under a composition, in nats; see Reading for what the numbers mean.

    Attributes:
        base_log_prob: under the base.
        contributions: of each factor by name, in the order of the composition.
        normalizer: base_log_prob + contributions - normalizer = log probability.
        without: for each factor, id and log probability of the most probable tokens if it were not there; under ""
            those of the base alone.
    """

    base_log_prob: float
    contributions: dict[str, float]
    normalizer: float
    without: dict[str, tuple[tuple[int, float], ...]]


def pushes_of(
    lm: CausalLM,
    hidden_D: Tensor,
    log_prob_V: Tensor,
    token: int,
    heads: Mapping[Head, float],
    rest: Sequence[tuple[str, Tensor]],
) -> Pushes:
    """What heads and other factors did to a token.

    Args:
        lm: the base.
        hidden_D: its state before the token.
        log_prob_V: of the composition.
        token: that was drawn.
        heads: with their exponents.
        rest: names of the other factors, with their log weights [V] at their exponents.
    """
    outputs_KD = torch.stack([hidden_D, *(exponent * head.weights(hidden_D) for head, exponent in heads.items())])
    logit_KV = lm.unembed(outputs_KD)
    base_V = logit_KV[0].log_softmax(-1)
    named = [*zip((head.name for head in heads), logit_KV[1:], strict=True), *rest]
    contributions: dict[str, float] = {}
    without = {"": alternatives(base_V, SHOWN_ALTERNATIVES)}
    for name, log_weight_V in named:
        key = _free(name, contributions)
        mean = mean_where_possible(log_weight_V[None], base_V[None])[0]
        contributions[key] = float(log_weight_V[token] - mean)
        others = [other_V for other_name, other_V in named if other_V is not log_weight_V]
        without[key] = alternatives(log_normalize(torch.stack([base_V, *others]).sum(0)), SHOWN_ALTERNATIVES)
    base_log_prob, log_prob = float(base_V[token]), float(log_prob_V[token])
    return Pushes(base_log_prob, contributions, base_log_prob + sum(contributions.values()) - log_prob, without)


def alternatives(log_prob_V: Tensor, number: int) -> tuple[tuple[int, float], ...]:
    """Id and log probability of the most probable tokens, impossible ones left out."""
    found = log_prob_V.topk(min(number, log_prob_V.shape[-1]))
    return tuple(
        (token, value)
        for token, value in zip(found.indices.tolist(), found.values.tolist(), strict=True)
        if value > -torch.inf
    )


def _free(name: str, taken: Mapping[str, float]) -> str:
    """The name, with a number where an earlier factor has it."""
    same = sum(known.partition("#")[0] == name for known in taken)
    return f"{name}#{same + 1}" if same else name
