"""Resampling: equally weighted particles in the place of weighted ones. Every scheme is unbiased.

A particle of weight W is expected to have N W offspring under each of them; they differ in the noise around that.
Source: Douc, Cappé and Moulines (2005), arXiv:cs/0507025.
"""

# Axes: N particles.

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Scheme = Callable[[Tensor, Tensor], Tensor]


def stratified(weight_N: Tensor, uniform_N: Tensor) -> Tensor:
    """One draw from each of N equal slices of the mass."""
    num = len(weight_N)
    return _at(weight_N, (torch.arange(num, dtype=torch.float64) + uniform_N) / num)


def systematic(weight_N: Tensor, uniform_N: Tensor) -> Tensor:
    """The same place in each of N equal slices of the mass."""
    num = len(weight_N)
    return _at(weight_N, (torch.arange(num, dtype=torch.float64) + uniform_N[0]) / num)


def residual(weight_N: Tensor, uniform_N: Tensor) -> Tensor:
    """floor(N W) offspring for sure, the rest by independent draws from what is left. Liu and Chen (1998)."""
    expected_N = len(weight_N) * weight_N
    sure_N = (expected_N + 1e-12).floor()  # 3.0 must not become 2.9999 and a draw
    left_N = (expected_N - sure_N).clamp(min=0)
    sure = torch.arange(len(weight_N)).repeat_interleave(sure_N.long())
    missing = len(weight_N) - len(sure)
    if missing == 0:
        return sure
    return torch.cat([sure, _at(left_N / left_N.sum(), uniform_N[:missing])]).sort().values


def multinomial(weight_N: Tensor, uniform_N: Tensor) -> Tensor:
    """N independent draws: the noisiest scheme, and the one that theory speaks of."""
    return _at(weight_N, uniform_N.sort().values)


SCHEMES: dict[str, Scheme] = {
    "stratified": stratified,
    "systematic": systematic,
    "residual": residual,
    "multinomial": multinomial,
}
"""By name: from weights [N], float64, that sum to one, and N uniform numbers to the ancestor of each particle [N]."""


def effective_size(log_weight_N: Tensor) -> float:
    """(sum w)^2 / sum w^2, in [1, N]; 0 where every weight is zero. Kong, Liu and Wong (1994)."""
    if bool((log_weight_N == -torch.inf).all()):
        return 0.0
    weight_N = log_weight_N.double().softmax(0)
    return float(1 / weight_N.square().sum())


def _at(weight_N: Tensor, place_M: Tensor) -> Tensor:
    total_N = weight_N.double().cumsum(0)
    index_M = torch.searchsorted(total_N, place_M * total_N[-1], right=True)
    return index_M.clamp(max=int(weight_N.nonzero()[-1]))
