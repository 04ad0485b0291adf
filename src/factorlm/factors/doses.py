"""From a wanted attribute rate to a strength, by a factor's measured dose and response."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from factorlm.errors import InputError
from factorlm.factors.manifest import Response

GRID = 0.01  # nats per token: no finer than what a rate can tell
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Choice:
    """A strength for a wanted rate, and what it costs.

    Attributes:
        strength: signed nats per token.
        rate: share of texts that have the attribute there, as measured on neutral openings.
        base_rate: the same without the factor.
        perplexity_ratio: perplexity of such texts under the base model, over that of its own texts.
    """

    strength: float
    rate: float
    base_rate: float
    perplexity_ratio: float


def rising_rates(response: Response) -> Floats:
    """The rates at the doses, made to rise by pooling neighbours that do not, weighted by their precision.

    Source: pool adjacent violators, Ayer et al. (1955).
    """
    from sklearn.isotonic import IsotonicRegression

    strengths = [d.strength for d in response.doses]
    weights = [1 / max(d.rate_error, 0.01) ** 2 for d in response.doses]
    fit = IsotonicRegression().fit(strengths, [d.rate for d in response.doses], sample_weight=weights)
    return np.asarray(fit.predict(strengths), dtype=float)


def is_monotone(response: Response) -> bool:
    """Whether no rate falls short of an earlier one by more than two standard errors of their difference."""
    return all(
        before.rate - after.rate <= 2 * (before.rate_error**2 + after.rate_error**2) ** 0.5
        for i, before in enumerate(response.doses)
        for after in response.doses[i + 1 :]
    )


def choose(name: str, response: Response | None, rate: float) -> Choice:
    """The strength nearest to zero at which the rate is reached: there texts are cheapest.

    A rate above the base model's asks for a positive strength, one below for a negative one.

    Raises:
        InputError: for a rate that is no share, that the factor does not reach, or a factor that was not measured.
    """
    if not 0 < rate < 1:
        raise InputError(f"a share between 0 and 1 is needed as target of {name!r}, got {rate:g}; 0.9 is high")
    if response is None:
        raise InputError(
            f"{name!r} has no measured dose and response to choose a strength by; give a strength, as in {name}=0.3, "
            f"or run factorlm factor measure {name}"
        )
    strengths = np.array([d.strength for d in response.doses])
    rates = rising_rates(response)
    base_rate = float(np.interp(0.0, strengths, rates))
    side = strengths >= 0 if rate >= base_rate else strengths <= 0
    grid = np.arange(0.0, np.abs(strengths[side]).max() + GRID / 2, GRID) * (1 if rate >= base_rate else -1)
    found = np.interp(grid, strengths, rates)
    reached = np.flatnonzero(found >= rate if rate >= base_rate else found <= rate)
    if not reached.size:
        end = found[-1]
        raise InputError(
            f"{name!r} reaches {end:.0%} at strength {grid[-1]:+g}, got {rate:.0%} as target; take at "
            f"{'most' if rate >= base_rate else 'least'} {end:.2g}, or give a strength"
        )
    strength = float(round(grid[reached[0]], 2))
    log_ratio = np.log([d.perplexity_ratio for d in response.doses])
    return Choice(
        strength=strength,
        rate=float(found[reached[0]]),
        base_rate=base_rate,
        perplexity_ratio=float(np.exp(np.interp(strength, strengths, log_ratio))),
    )
