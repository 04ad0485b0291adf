"""Estimates with intervals, and comparisons that say when they cannot tell.

Units (documents, prompts) are resampled whole, since tokens and samples of one unit hang together.
"""

# Axes: C columns, R resamples, U units.

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from factorlm.errors import InputError
from factorlm.settings import Config

Array = NDArray[np.float64]
RESAMPLES = 2000
LEVEL = 0.95
FEWEST_UNITS = 8  # with fewer, no arrangement of signs is rarer than 1 % in a two-sided test
BLOCK_NUMBERS = 4_000_000  # of resampling counts held at once


class Estimate(Config):
    """A number with its 95 % interval.

    Attributes:
        value: the estimate; None where there was nothing to measure.
        low: lower end of the interval; None where the units are too few for one.
        high: upper end.
        n: units (documents, prompts) that it rests on.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0

    def __str__(self) -> str:
        if self.value is None:
            return "not measured"
        return f"{self.value:.3g}" if self.low is None else f"{self.value:.3g} ({self.low:.3g} to {self.high:.3g})"


class Comparison(Config):
    """A paired comparison of one measure of two models over the same units.

    Attributes:
        measure: what is compared.
        model: of which the measure is subtracted from.
        rival: whose measure is subtracted.
        difference: model minus rival.
        p_value: of the paired sign-flip test, two-sided; None where the units are too few.
        verdict: which model is better, or that it cannot be told.
        reason: why it cannot be told; empty otherwise.
    """

    measure: str
    model: str
    rival: str
    difference: Estimate
    p_value: float | None
    verdict: Literal["better", "worse", "no difference shown", "cannot rank"]
    reason: str = ""


def mean_interval(values_U: Sequence[float] | Array, *, seed: int = 0, resamples: int = RESAMPLES) -> Estimate:
    """The mean over units, with its percentile bootstrap interval (Efron, 1979); nan units are left out."""
    found_U = np.asarray(values_U, dtype=float)
    found_U = found_U[~np.isnan(found_U)]
    return ratio_interval(found_U, np.ones_like(found_U), seed=seed, resamples=resamples)


def ratio_interval(
    numerator_U: Sequence[float] | Array,
    denominator_U: Sequence[float] | Array,
    *,
    change: Callable[[Array], Array] = lambda x: x,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Estimate:
    """change(sum of numerators / sum of denominators) over units, with its bootstrap interval.

    Args:
        numerator_U: of each unit, such as nats.
        denominator_U: of each unit, such as tokens.
        change: applied to ratios, such as `np.exp` for perplexity.
        seed: of the resampling.
        resamples: how many.
    """

    def statistic(mean_RC: Array) -> Array:
        with np.errstate(divide="ignore", invalid="ignore"):
            return change(mean_RC[:, 0] / mean_RC[:, 1])

    return bootstrap(np.stack([np.asarray(numerator_U, float), np.asarray(denominator_U, float)], 1), statistic,
                     seed=seed, resamples=resamples)  # fmt: skip


def bootstrap(
    values_UC: Array, statistic: Callable[[Array], Array], *, seed: int = 0, resamples: int = RESAMPLES
) -> Estimate:
    """A statistic of column means over units, with its percentile interval over resampled units.

    Args:
        values_UC: the numbers of each unit.
        statistic: from means [R, C] to statistics [R].
        seed: of the resampling.
        resamples: how many.
    """
    num_units = len(values_UC)
    if num_units == 0:
        return Estimate(value=None)
    value = float(statistic(values_UC.mean(0, keepdims=True))[0])
    if math.isnan(value):
        return Estimate(value=None, n=num_units)
    if num_units < 2:
        return Estimate(value=value, n=num_units)
    found = statistic(resampled_means(values_UC, seed=seed, resamples=resamples))
    found = found[~np.isnan(found)]
    low, high = (float(x) for x in np.quantile(found, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]))
    return Estimate(value=value, low=low, high=high, n=num_units)


def resampled_means(values_UC: Array, *, seed: int = 0, resamples: int = RESAMPLES) -> Array:
    """Column means [R, C] of units drawn with replacement."""
    generator = np.random.default_rng(seed)
    num_units = len(values_UC)
    rows = max(1, BLOCK_NUMBERS // num_units)
    share = np.full(num_units, 1 / num_units)
    blocks = []
    for start in range(0, resamples, rows):
        count_RU = generator.multinomial(num_units, share, size=min(rows, resamples - start))
        blocks.append(count_RU @ values_UC / num_units)
    return np.concatenate(blocks)


def sign_flip_p_value(difference_U: Sequence[float] | Array, *, seed: int = 0, resamples: int = 9999) -> float:
    """Two-sided p-value of paired differences having mean zero, by flipping their signs (Fisher, 1935).

    Exact when there are at most `resamples` ways of flipping; else they are drawn, and the p-value
    counts what was seen among them, so it is never zero.
    """
    from scipy.stats import permutation_test

    found = permutation_test(
        (np.asarray(difference_U, float),),
        lambda x, axis: np.abs(x.mean(axis=axis)),
        permutation_type="samples",
        alternative="greater",
        vectorized=True,
        n_resamples=resamples,
        batch=max(1, BLOCK_NUMBERS // max(1, len(difference_U))),
        rng=np.random.default_rng(seed),
    )
    return float(found.pvalue)


def compare(
    measure: str,
    model: tuple[str, Array],
    rival: tuple[str, Array],
    *,
    statistic: Callable[[Array], Array] | None = None,
    lower_is_better: bool,
    seed: int = 0,
) -> Comparison:
    """Compare two models on the same units.

    Args:
        measure: its name.
        model: name, and a number [U] or numbers [U, C] of each unit.
        rival: the same of the rival, unit by unit.
        statistic: from column means [R, C] to the measure [R]; None takes the mean of the first column. The test
            is on each unit's own statistic, the interval on that of all units.
        lower_is_better: whether a smaller measure is the better one.
        seed: of resampling and sign flips.
    """
    name, ours_UC = model[0], _columns(model[1])
    other, theirs_UC = rival[0], _columns(rival[1])
    if ours_UC.shape != theirs_UC.shape:
        raise InputError(
            f"a paired comparison needs the same units, got {len(ours_UC)} of {name} and {len(theirs_UC)} of {other}"
        )
    of = statistic or (lambda mean_RC: mean_RC[:, 0])
    both_UC = np.concatenate([ours_UC, theirs_UC], 1)
    width = ours_UC.shape[1]
    both_UC = both_UC[~np.isnan(both_UC).any(1)]
    difference = bootstrap(both_UC, lambda mean_RC: of(mean_RC[:, :width]) - of(mean_RC[:, width:]), seed=seed)

    def found(verdict: str, p_value: float | None = None, reason: str = "") -> Comparison:
        return Comparison(measure=measure, model=name, rival=other, difference=difference, p_value=p_value,
                          verdict=verdict, reason=reason)  # type: ignore[arg-type]  # fmt: skip

    if len(both_UC) < FEWEST_UNITS or difference.value is None or difference.low is None or difference.high is None:
        return found("cannot rank", reason=f"{len(both_UC)} units; at least {FEWEST_UNITS} are needed")
    with np.errstate(divide="ignore", invalid="ignore"):
        difference_U = of(both_UC[:, :width]) - of(both_UC[:, width:])
    difference_U = difference_U[np.isfinite(difference_U)]
    p_value = sign_flip_p_value(difference_U, seed=seed) if len(difference_U) >= FEWEST_UNITS else None
    # Interval and test must agree: the one may be about the ratio of sums, the other about the mean of units.
    if p_value is None or p_value >= 1 - LEVEL or difference.low <= 0 <= difference.high:
        return found("no difference shown", p_value)
    return found("better" if (difference.value < 0) == lower_is_better else "worse", p_value)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for their number, in the order given (Holm, 1979)."""
    order = np.argsort(p_values)
    adjusted = np.empty(len(p_values))
    largest = 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * float(p_values[i])))
        adjusted[i] = largest
    return adjusted.tolist()


def adjusted(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons with p-values adjusted for their number (Holm, 1979), and verdicts that stand it."""
    tested = [i for i, c in enumerate(comparisons) if c.p_value is not None]
    found = list(comparisons)
    for i, p_value in zip(tested, holm([c.p_value for c in comparisons if c.p_value is not None]), strict=True):
        change: dict[str, object] = {"p_value": p_value}
        if p_value >= 1 - LEVEL and found[i].verdict in ("better", "worse"):
            alone = f"p = {comparisons[i].p_value:.2g} alone, but {len(tested)} were tested"
            change |= {"verdict": "no difference shown", "reason": alone}
        found[i] = found[i].model_copy(update=change)
    return found


def _columns(values: Array) -> Array:
    found = np.asarray(values, float)
    return found[:, None] if found.ndim == 1 else found
