"""The unit people turn: signed nats per token of divergence from the base model, when a factor is used alone."""

# Axes: N cached states, V vocabulary.

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from pydantic import ConfigDict, model_validator
from torch import Tensor

from factorlm.errors import InputError
from factorlm.settings import Config

MEASURED_STRENGTHS = (0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0, 1.5)  # nats per token, each with both signs
LARGEST_EXPONENT = 1000.0


class StrengthMap(Config):
    """Measured pairs (strength, exponent), rising in both; between them the square root of strength is linear.

    A side that ends before the largest measured strength is saturated: the factor has no more to give there.

    Near zero the divergence is half the variance of the potential times the exponent squared, so the exponent is
    proportional to the square root of strength there.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    points: tuple[tuple[float, float], ...]

    @model_validator(mode="after")
    def _check(self) -> StrengthMap:
        if len(self.points) < 2 or any(
            not (a[0] < b[0] and a[1] < b[1]) for a, b in zip(self.points, self.points[1:], strict=False)
        ):
            raise ValueError("strengths and exponents must both rise")
        return self

    def exponent(self, strength: float) -> float:
        """The exponent that moves the base model by this many nats per token, towards the factor if positive."""
        if not math.isfinite(strength):
            raise InputError(f"a strength is a finite number of nats per token, got {strength}; 0.2 is clear")
        side = [s for s, _ in self.points if s * strength > 0]
        reached = max(map(abs, side), default=0.0)
        if abs(strength) > reached * (1 + 1e-6) and reached < MEASURED_STRENGTHS[-1]:
            raise InputError(
                f"this factor moves the model by at most about {reached} nats per token in that direction, got "
                f"{strength}; take less, or give an exponent"
            )
        return _interpolate([(_root(s), e) for s, e in self.points], _root(strength))

    def strength(self, exponent: float) -> float:
        """The divergence that an exponent causes, in signed nats per token."""
        root = _interpolate([(e, _root(s)) for s, e in self.points], exponent)
        return math.copysign(root * root, root)


def measure(divergence: Callable[[float], float]) -> StrengthMap | None:
    """Solve for the exponent of each measured strength.

    Args:
        divergence: mean KL(p_a || p) of an exponent a over cached states, in nats per token.

    Returns:
        The map, or None for a factor whose divergence does not depend on its exponent (a ban).
    """
    points = [(0.0, 0.0)]
    for sign in (-1.0, 1.0):
        previous = 0.0
        at_once = divergence(sign * 1e-6)  # what its bans cause, however small the exponent
        for strength in MEASURED_STRENGTHS:
            if strength <= at_once:
                continue
            found = _solve(lambda size, sign=sign: divergence(sign * size), strength, previous)  # type: ignore[misc]
            if found is None or found <= previous:
                break  # the factor has nothing more to give on this side
            previous = found
            points.append((sign * strength, float(f"{sign * found:.6g}")))
    return StrengthMap(points=tuple(sorted(points))) if len(points) >= 2 else None


def mean_divergence(log_prob_NV: Tensor, potential_NV: Tensor, exponent: float) -> float:
    """Mean over states of KL(p_a || p), p_a ∝ p exp(a potential), in nats.

    It is E_pa[a potential] - log Z: one exponential for each entry.
    """
    safe_NV = torch.where(potential_NV == -torch.inf, 0.0, exponent * potential_NV)
    log_weight_NV = torch.where(potential_NV == -torch.inf, -torch.inf, log_prob_NV + safe_NV)
    largest_N1 = log_weight_NV.amax(-1, keepdim=True)
    weight_NV = (log_weight_NV - largest_N1).exp()
    total_N = weight_NV.sum(-1)
    log_total_N = total_N.log() + largest_N1[:, 0]
    return float(((weight_NV * safe_NV).sum(-1) / total_N - log_total_N).mean())


def _solve(rising: Callable[[float], float], target: float, low: float) -> float | None:
    """The size at which a rising function reaches the target: bracket, then regula falsi with halving (Illinois).

    It works on square roots, where a divergence is nearly linear, so that few evaluations are needed.
    """
    goal = math.sqrt(target)

    def gap(size: float) -> float:
        return math.sqrt(max(rising(size), 0.0)) - goal

    high = max(1.5 * low, 0.5)
    gap_low, gap_high = gap(low), gap(high)
    while gap_high < 0:
        low, gap_low, high = high, gap_high, 2 * high
        if high > LARGEST_EXPONENT:
            return None
        gap_high = gap(high)
    if gap_low >= 0:
        return None
    for _ in range(30):
        middle = (low * gap_high - high * gap_low) / (gap_high - gap_low)
        gap_middle = gap(middle)
        if abs(gap_middle) < 1e-3 * goal:
            return middle
        if gap_middle < 0:
            low, gap_low, gap_high = middle, gap_middle, gap_high / 2
        else:
            high, gap_high, gap_low = middle, gap_middle, gap_low / 2
    return (low + high) / 2


def _root(strength: float) -> float:
    return math.copysign(math.sqrt(abs(strength)), strength)


def _interpolate(points: list[tuple[float, float]], x: float) -> float:
    """Piecewise linear; beyond the measured points the outermost piece goes on."""
    index = next((i for i, (known, _) in enumerate(points) if x <= known), len(points) - 1)
    (x0, y0), (x1, y1) = points[max(index, 1) - 1], points[max(index, 1)]
    return y0 + (y1 - y0) * (x - x0) / (x1 - x0)
