"""Exponents that move a model equally far: ways of steering are compared at equal divergence from the base.

Divergence is the mean KL(p_a || p) over the neutral states at which strengths are measured, in nats per token.
"""

# Axes: F factors, N neutral states, V vocabulary.

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from factorlm.algebra import Factor
from factorlm.factors.calibration import neutral_states
from factorlm.factors.potentials import Potentials
from factorlm.factors.strength import mean_divergence
from factorlm.models import CausalLM

LARGEST_EXPONENT = 8.0  # further than that a learned ratio is extrapolated into nonsense


class Matched(NamedTuple):
    """An exponent and the divergence that it causes; less than was asked where a factor has no more to give."""

    exponent: float
    divergence: float


def potentials(lm: CausalLM, factor: Factor) -> Tensor:
    """Log weights of the next token at the neutral states, [N, V], of a factor that forbids nothing."""
    return torch.cat([potential_KnV[0] for _, potential_KnV in Potentials(lm, (factor,)).stretches()])


def divergence(lm: CausalLM, potential_NV: Tensor, exponent: float = 1.0) -> float:
    """Mean divergence of the model times exp(exponent * potential), in nats per token."""
    return mean_divergence(neutral_states(lm).log_prob_NV, potential_NV, exponent)


def matched(lm: CausalLM, potential_NV: Tensor, target: float, *, largest: float = LARGEST_EXPONENT) -> Matched:
    """The positive exponent at which a potential diverges by the target, as far as it can.

    Args:
        lm: the base.
        potential_NV: at the neutral states.
        target: nats per token.
        largest: exponent to try.
    """
    from scipy.optimize import brentq

    def gap(exponent: float) -> float:  # on square roots divergence is nearly linear
        return math.sqrt(max(0.0, divergence(lm, potential_NV, exponent))) - math.sqrt(target)

    high = min(1.0, largest)
    while (at_high := gap(high)) < 0 and high < largest:
        high = min(2 * high, largest)
    found = high if at_high <= 0 else float(brentq(gap, 0.0, high, xtol=1e-4, rtol=1e-4))
    exponent = float(f"{found:.5g}")
    return Matched(exponent, divergence(lm, potential_NV, exponent))


def correlation(lm: CausalLM, factors: Sequence[Factor]) -> NDArray[np.float64]:
    """Correlation of potentials over next tokens drawn from the base, [F, F]: mean covariance, scaled to ones.

    Zero means that the divergences of two factors add up; one, that the second says again what the first said.
    """
    covariance_FF = Potentials(lm, tuple(factors)).moments().covariance_KK.numpy()
    scale_F = np.sqrt(np.diagonal(covariance_FF))
    return np.asarray(covariance_FF / np.outer(scale_F, scale_F))
