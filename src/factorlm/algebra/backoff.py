"""Back-off: one distribution speaks for as much of the mass as it dares, another for the rest."""

# Axes: B batch, K parts, V vocabulary.

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from factorlm.algebra.logspace import log_normalize
from factorlm.algebra.operators import Combination
from factorlm.errors import InputError


@dataclass(frozen=True, eq=False)
class Backoff(Combination):
    """Next-token distribution w(v) + (1 - sum_u w(u)) p(v): the first part says what it dares, the second the rest.

    The first part's weights sum to at most one at each token, and how much they sum to is its weight there: an
    interpolation whose weights depend on the context. Where it says nothing, this is the second part alone. Where the
    second part is at a dead end, the first one speaks for everything; both dead is a dead end.

    Source: interpolated back-off, Jelinek and Mercer (1980); Chen and Goodman (1998).
    """

    def __post_init__(self) -> None:
        if len(self.parts) != 2:
            raise InputError(f"a back-off has two parts, what speaks first and the rest, got {len(self.parts)}")

    def combine(self, log_weight_KBV: Tensor) -> Tensor:
        """Log of what the first part says, and of the second's share of the rest."""
        said_BV, rest_BV = log_weight_KBV[0], log_normalize(log_weight_KBV[1])
        said_B1 = said_BV.logsumexp(-1, keepdim=True)
        share_B1 = torch.log1p(-said_B1.exp().clamp(max=1.0))  # -inf where everything was said
        mixed_BV = share_B1 + rest_BV
        is_said_BV = said_BV > -torch.inf
        if 4 * int(is_said_BV.sum()) < is_said_BV.numel():  # most tokens are left to the second part, as it is
            mixed_BV[is_said_BV] = torch.logaddexp(said_BV[is_said_BV], mixed_BV[is_said_BV])
        else:
            mixed_BV = torch.logaddexp(said_BV, mixed_BV)
        is_alone_B1 = rest_BV.amax(-1, keepdim=True) == -torch.inf
        return torch.where(is_alone_B1, log_normalize(said_BV), mixed_BV) if bool(is_alone_B1.any()) else mixed_BV


@dataclass(frozen=True, eq=False)
class BackoffRatio(Backoff):
    """The weight w(v) / p(v) + 1 - sum_u w(u): what a back-off multiplies its second part by.

    It is never less than 1 - sum_u w(u), so it bans nothing; at exponent one, times the second part, it is the
    back-off. Where the second part is at a dead end, nothing is possible.
    """

    def combine(self, log_weight_KBV: Tensor) -> Tensor:
        """Log of the back-off, minus that of the second part."""
        rest_BV = log_normalize(log_weight_KBV[1])
        ratio_BV = super().combine(log_weight_KBV) - rest_BV
        return torch.where(rest_BV == -torch.inf, -torch.inf, ratio_BV)
