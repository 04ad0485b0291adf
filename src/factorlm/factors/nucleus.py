"""Drawing from the smallest set of tokens with a given probability, without sorting the vocabulary."""

# Axes: B batch, K most probable tokens, R rows of the batch, V vocabulary.

from __future__ import annotations

import torch
from torch import Tensor

MOST_SORTED = 2048  # tokens: they hold the usual mass in most rows; the others are sorted whole


def most_probable(prob_BV: Tensor, mass: float) -> list[tuple[Tensor, Tensor, Tensor]]:
    """The smallest set of most probable tokens of each row that holds the mass, in groups of rows.

    Args:
        prob_BV: probabilities.
        mass: in (0, 1].

    Returns:
        Of each group: its rows [R], probabilities [R, K] in falling order, zero outside the set, and tokens [R, K].
    """
    num_tokens = prob_BV.shape[1]
    prob_BK, token_BK = prob_BV.topk(min(MOST_SORTED, num_tokens), dim=-1)
    is_held_B = (prob_BK.sum(-1) >= mass) | (prob_BK.shape[1] == num_tokens)
    groups = [(is_held_B.nonzero()[:, 0], prob_BK[is_held_B], token_BK[is_held_B])]
    if not bool(is_held_B.all()):
        groups.append(((~is_held_B).nonzero()[:, 0], *prob_BV[~is_held_B].sort(-1, descending=True)))
    return [
        (row_R, torch.where(prob_RK.cumsum(-1) - prob_RK < mass, prob_RK, 0.0), token_RK)
        for row_R, prob_RK, token_RK in groups
        if len(row_R)
    ]


def draw_nucleus(prob_BV: Tensor, mass: float, generator: torch.Generator) -> Tensor:
    """A token of each row, [B], from the smallest set that holds the mass; Holtzman et al. (2020)."""
    uniform_B = torch.rand(prob_BV.shape[0], generator=generator, dtype=torch.float64).to(prob_BV.device)
    token_B = torch.empty(prob_BV.shape[0], dtype=torch.long, device=prob_BV.device)
    for row_R, prob_RK, token_RK in most_probable(prob_BV, mass):
        token_B[row_R] = token_RK.gather(1, quantile(prob_RK, uniform_B[row_R])[:, None])[:, 0]
    return token_B


def quantile(weight_RK: Tensor, uniform_R: Tensor) -> Tensor:
    """The place in each row, [R], where the cumulative share of the weights passes a number in [0, 1)."""
    total_RK = weight_RK.double().cumsum(-1)
    place_R1 = torch.searchsorted(total_RK, uniform_R.double()[:, None] * total_RK[:, -1:], right=True)
    return place_R1[:, 0].clamp(max=weight_RK.shape[1] - 1)
