"""What came of steering a prior by its components, in numbers."""

# Axes: B texts, J judges, K components.

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from factorlm.evaluation.intervals import Estimate, mean_interval
from factorlm.evaluation.judges import Judge
from factorlm.evaluation.priors.tilting import COMPONENTS, Written, beyond, difference_of
from factorlm.prior import Prior, beliefs

Array = NDArray[np.float64]
HALF = 0.5  # of the probability of a label, from which on a text counts as having it


@dataclass(frozen=True, eq=False)
class Tilt:
    """The weights at one temperature, and texts by them.

    Attributes:
        prior: untilted.
        temperature: of the tilt.
        rewards: of the components.
        written: texts.
    """

    prior: Prior
    temperature: float
    rewards: list[float]
    written: Written

    @cached_property
    def tilted(self) -> Prior:
        """The prior with other weights."""
        return self.prior.tilt(self.rewards, temperature=self.temperature)

    @property
    def weight_K(self) -> Array:
        """Of the components."""
        return np.asarray(self.tilted.log_prob_K.exp().numpy())

    @property
    def predicted(self) -> float:
        """Mean reward by these weights."""
        return float(self.weight_K @ np.array(self.rewards))

    @property
    def divergence(self) -> float:
        """KL to the untilted weights, in nats: no law over texts moves further than its weights."""
        return beliefs.divergence(self.tilted.log_prob_K, self.prior.log_prob_K)

    @property
    def num_alive(self) -> int:
        """Components with weight: as many as before."""
        return int((self.tilted.log_prob_K > -math.inf).sum())


@dataclass(frozen=True, eq=False)
class Steered:
    """Everything that was written.

    Attributes:
        prior: untilted.
        judges: the one that gives rewards, and the one that measures; the last measures.
        label: the attribute.
        rewarded: texts of each component.
        rewards: of each component.
        untilted: texts by the weights as they were learned.
        tilts: from weak to strong.
        tokens: texts with tilted tokens by way, from no tilt on.
    """

    prior: Prior
    judges: tuple[Judge, ...]
    label: str
    rewarded: Written
    rewards: list[float]
    untilted: Written
    tilts: list[Tilt]
    tokens: dict[str, list[Written]]

    @property
    def everything(self) -> list[Written]:
        """Every setting once: untilted, tilted components, tilted tokens."""
        others = [w for written in self.tokens.values() for w in written if w is not self.untilted]
        return [self.untilted, *(tilt.written for tilt in self.tilts), *others]

    @property
    def lines(self) -> dict[str, list[Written]]:
        """Settings by way, from no tilt on."""
        return {COMPONENTS: [self.untilted, *(tilt.written for tilt in self.tilts)], **self.tokens}

    @property
    def weight_K(self) -> Array:
        """Of the components, untilted."""
        return np.asarray(self.prior.log_prob_K.exp().numpy())

    @property
    def predicted(self) -> float:
        """Mean reward, untilted."""
        return float(self.weight_K @ np.array(self.rewards))

    @property
    def last(self) -> int:
        """The number of the judge that measures."""
        return len(self.judges) - 1

    def reward_of(self, k: int, judge: int = 0) -> Estimate:
        """Mean probability of the label over the texts of a component, by a judge."""
        return mean_interval(self.rewarded.judged_BJ[self.rewarded.component_B == k, judge], seed=self.untilted.seed)

    def rate(self, written: Written, judge: int | None = None) -> Estimate:
        """Share of texts that have the label by a judge; by default the one that measures."""
        return written.rate(self.last if judge is None else judge, HALF)

    def gain(self, written: Written, judge: int) -> Estimate:
        """Mean probability of the label by a judge, more than that of untilted texts."""
        ours_B2, theirs_B2 = (_with_words(w.judged_BJ[:, judge]) for w in (written, self.untilted))
        return difference_of(ours_B2, theirs_B2, self.untilted.seed)

    def moved(self, written: Written) -> Estimate:
        """Nats that the law of texts and their components moved from where its way begins, per text."""
        for tilt in self.tilts:
            if tilt.written is written:
                return Estimate(value=tilt.divergence, n=len(written.texts))
        return mean_interval(written.moved_B, seed=written.seed)

    def beyond_own(self, written: Written, weight_K: Array) -> Estimate:
        """Nats per token under the components that wrote, more than the same components need without a tilt."""
        return beyond(written.own_B2, self.rewarded.own_B2, self.rewarded.component_B, weight_K, written.seed)


@dataclass(frozen=True, eq=False)
class Pair:
    """Settings of tilted components and of tilted tokens with about the same rate.

    Attributes:
        ours: tilted components.
        theirs: tilted tokens.
        bare: nats per token under the bare model, theirs minus ours.
        nearest: the same under the nearest component.
    """

    ours: Written
    theirs: Written
    bare: Estimate
    nearest: Estimate


def equal_rates(found: Steered) -> list[Pair]:
    """For each way of tilting tokens, the two settings beyond the start whose rates are nearest."""
    pairs, seed = [], found.untilted.seed
    for line in found.tokens.values():
        measured = [
            (abs(theirs - ours), tilt.written, w)
            for tilt in found.tilts
            for w in line[1:]
            if (ours := found.rate(tilt.written).value) is not None and (theirs := found.rate(w).value) is not None
        ]
        if measured:
            _, ours_w, theirs_w = min(measured, key=lambda item: item[0])
            pairs.append(
                Pair(ours_w, theirs_w, difference_of(theirs_w.bare_B2, ours_w.bare_B2, seed),
                     difference_of(theirs_w.nearest_B2, ours_w.nearest_B2, seed))
            )  # fmt: skip
    return pairs


def _with_words(judged_B: Array) -> Array:
    """Probability, and one, of each text with words."""
    kept_B = judged_B[~np.isnan(judged_B)]
    return np.stack([kept_B, np.ones_like(kept_B)], 1)
