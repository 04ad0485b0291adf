"""Who gives most of an attribute for its price: points of methods, curves through them, and paired differences."""

# Axes: C columns, K points of a curve, P prompts, R resamples.

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from factorlm.evaluation.diversity import cut, distinct, jackknife_interval, leave_groups_out, words_of
from factorlm.evaluation.intervals import Estimate, bootstrap, mean_interval, resampled_means
from factorlm.evaluation.judging import divergence
from factorlm.evaluation.responses import Samples, base_nats

Array = NDArray[np.float64]
MOST_MISSING = 0.05  # of resamples that never reach a price; beyond it the rest are the lucky ones


@dataclass(frozen=True, eq=False)
class Point:
    """Texts that a method wrote at one setting of its dial, with what is said of them.

    Attributes:
        method: who wrote.
        dial: the setting, negative away from the attribute; 0 where there is none.
        samples: the texts.
        scores: numbers of each prompt, [P], by measure and judge; nan for a prompt without words.
        seed: of the intervals.
    """

    method: str
    dial: float
    samples: Samples
    scores: dict[tuple[str, str], Array]
    seed: int = 0

    @property
    def name(self) -> str:
        """For tables."""
        return f"{self.method} {self.dial:+g}" if self.dial else self.method

    @cached_property
    def nats_P2(self) -> Array:
        """Nats under the base and tokens of each prompt."""
        return base_nats(self.samples)

    @cached_property
    def moved(self) -> Estimate:
        """Nats a token from the base."""
        return divergence(self.samples, self.seed)

    def score(self, key: tuple[str, str]) -> Estimate:
        """Mean over prompts of a measure by a judge."""
        return mean_interval(self.scores[key], seed=self.seed)

    def price(self, base: Point) -> Estimate:
        """Perplexity under the base, over that of what the base writes itself; resampled together."""
        return bootstrap(np.concatenate([self.nats_P2, base.nats_P2], 1), _ratio, seed=self.seed)

    def distinct_3(self, num_words: int, num_samples: int) -> Estimate:
        """Different runs of three words over all of them, of the first texts to each prompt, cut to so many words."""
        texts = [words_of(cut(s.text, num_words)) for row in self.samples for s in row[:num_samples]]
        unit_B = [p for p, row in enumerate(self.samples) for _ in row[:num_samples]]

        def of(index_B: NDArray[np.intp]) -> Array:
            return np.array([distinct([texts[i] for i in index_B], 3)])

        whole, deleted_G1 = leave_groups_out(of, unit_B, seed=self.seed)
        return jackknife_interval(float(whole[0]), deleted_G1[:, 0], len(self.samples))


def _ratio(mean_RC: Array) -> Array:
    return np.asarray(np.exp(mean_RC[:, 0] / mean_RC[:, 1] - mean_RC[:, 2] / mean_RC[:, 3]))


def at_price(points: Sequence[Point], base: Point, key: tuple[str, str], price: float) -> Estimate:
    """The score of a method at a price, interpolated between its settings; None if it never gets there.

    It has no interval where too many resamples of prompts never get there.

    Args:
        points: of one method, in order of the dial.
        base: the model as it is, where every curve begins.
        key: measure and judge.
        price: perplexity ratio.
    """
    return _where_reached(_columns([base, *points], key), lambda mean_RC: _crossing(mean_RC, price), base.seed)


def difference_at_price(
    ours: Sequence[Point], theirs: Sequence[Point], base: Point, key: tuple[str, str], price: float
) -> Estimate:
    """Our score at a price minus theirs, over the same resamples of prompts."""
    width = 4 * (len(ours) + 1)
    both_PC = np.concatenate([_columns([base, *ours], key), _columns([base, *theirs], key)], 1)
    return _where_reached(
        both_PC,
        lambda mean_RC: _crossing(mean_RC[:, :width], price) - _crossing(mean_RC[:, width:], price),
        base.seed,
    )


def _where_reached(values_PC: Array, statistic: Callable[[Array], Array], seed: int) -> Estimate:
    found = bootstrap(values_PC, statistic, seed=seed)
    if found.low is None:
        return found
    missing = np.isnan(statistic(resampled_means(values_PC, seed=seed))).mean()
    return found if missing <= MOST_MISSING else Estimate(value=found.value, n=found.n)


def _columns(points: Sequence[Point], key: tuple[str, str]) -> Array:
    """Of each point: score, whether there is one, nats, tokens; [P, 4K]."""
    columns = []
    for point in points:
        score_P = point.scores[key]
        columns += [np.nan_to_num(score_P), (~np.isnan(score_P)).astype(float), *point.nats_P2.T]
    return np.stack(columns, 1)


def _crossing(mean_RC: Array, price: float) -> Array:
    """Score where the curve through the points first reaches a price, [R]; nan where it does not."""
    mean_RK4 = mean_RC.reshape(len(mean_RC), -1, 4)
    with np.errstate(divide="ignore", invalid="ignore"):
        score_RK = mean_RK4[..., 0] / mean_RK4[..., 1]
        nats_RK = mean_RK4[..., 2] / mean_RK4[..., 3]
    price_RK = np.exp(nats_RK - nats_RK[:, :1])
    found_R = np.full(len(mean_RC), math.nan)
    for k in range(price_RK.shape[1] - 1):
        low_R, high_R = price_RK[:, k], price_RK[:, k + 1]
        crosses_R = np.isnan(found_R) & (low_R <= price) & (price <= high_R) & (low_R < high_R)
        with np.errstate(divide="ignore", invalid="ignore"):
            share_R = (price - low_R) / (high_R - low_R)
            value_R = score_RK[:, k] + share_R * (score_RK[:, k + 1] - score_RK[:, k])
        found_R = np.where(crosses_R, value_R, found_R)
    return found_R


def undominated(values: Sequence[tuple[float, float]], *, lower_is_better: bool) -> list[bool]:
    """Whether each (price, score) is on the frontier: nothing else is as good for less, or better for no more.

    What has no number for either is not on it.

    Args:
        values: price, of which less is better, and score.
        lower_is_better: whether a smaller score is the better one.
    """
    sign = -1 if lower_is_better else 1

    def beats(other: tuple[float, float], mine: tuple[float, float]) -> bool:
        at_least = other[0] <= mine[0] and sign * other[1] >= sign * mine[1]
        return at_least and other != mine

    return [not any(map(math.isnan, mine)) and not any(beats(other, mine) for other in values) for mine in values]


def nearest_pair(
    ours: Sequence[Point], theirs: Sequence[Point], base: Point, price: float
) -> tuple[Point, Point] | None:
    """The setting of each of two methods whose price is nearest to a fixed one, whatever their scores.

    Args:
        ours: settings of one method.
        theirs: of the other.
        base: the model as it is.
        price: perplexity ratio.

    Returns:
        None if a method has no setting with a price.
    """

    def nats(point: Point) -> float:
        total_2 = point.nats_P2.sum(0)
        return float(total_2[0] / total_2[1]) if total_2[1] else math.nan

    target = nats(base) + math.log(price)
    found = []
    for points in (ours, theirs):
        priced = [point for point in points if math.isfinite(nats(point))]
        if not priced:
            return None
        found.append(min(priced, key=lambda point: abs(nats(point) - target)))
    return found[0], found[1]
