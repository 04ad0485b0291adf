"""Which texts are worth asking people about, where answers cost something, and with which probability each was asked.

A question is worth its uncertainty, the entropy of what the version in use expects people to choose, times its novelty,
one minus the largest cosine to what is labelled already. A share is drawn at random from the rest: only from that can
be estimated what people think of all texts, and only with known propensities (Horvitz and Thompson, 1952).
"""

# Axes: D width, L labelled, N questions.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from factorlm.errors import InputError

Array = NDArray[np.float64]
RANDOM_SHARE = 0.2


@dataclass(frozen=True)
class Selection:
    """What is asked about.

    Attributes:
        indices: of the questions: first those that are worth it, then the random ones.
        propensities: the probability with which each was asked about, given the pool.
        num_random: how many at the end were drawn at random.
    """

    indices: tuple[int, ...]
    propensities: tuple[float, ...]
    num_random: int

    def is_random(self, position: int) -> bool:
        """Whether the one at this position was drawn at random."""
        return position >= len(self.indices) - self.num_random


def entropy(log_weights: Sequence[float]) -> float:
    """Of a choice among things with these log weights, in nats; the log of their number where nothing is expected."""
    log_prob = np.asarray(log_weights, float) - np.logaddexp.reduce(log_weights)
    prob = np.exp(log_prob)
    return float(-(prob * np.where(prob > 0, log_prob, 0.0)).sum())


def select(
    uncertainty_N: Array,
    vector_ND: Array,
    labelled_LD: Array | None,
    budget: int,
    generator: np.random.Generator,
    *,
    random_share: float = RANDOM_SHARE,
) -> Selection:
    """Choose questions of a pool one after the other, each choice making its like less new; then draw the random share.

    Args:
        uncertainty_N: of each question.
        vector_ND: what each question shows, as vectors of length one.
        labelled_LD: the same of what is labelled; None if nothing is.
        budget: questions to ask; at most those that there are.
        generator: of the random share.
        random_share: of the budget, rounded up.

    Raises:
        InputError: for a budget or a share that makes no sense.
    """
    if budget < 1 or not 0 <= random_share <= 1:
        raise InputError(f"a budget of at least 1 and a share from 0 to 1 are needed, got {budget} and {random_share}")
    num = len(uncertainty_N)
    budget = min(budget, num)
    num_random = min(budget, int(np.ceil(random_share * budget - 1e-9)))
    cosine_N = np.full(num, -1.0) if labelled_LD is None or not len(labelled_LD) else (vector_ND @ labelled_LD.T).max(1)
    free_N = np.ones(num, bool)
    chosen: list[int] = []
    for _ in range(budget - num_random):
        worth_N = np.where(free_N, uncertainty_N * (1 - np.clip(cosine_N, -1, 1)), -1.0)
        best = int(worth_N.argmax())
        chosen.append(best)
        free_N[best] = False
        cosine_N = np.maximum(cosine_N, vector_ND @ vector_ND[best])
    rest = np.flatnonzero(free_N)
    drawn = generator.choice(rest, num_random, replace=False).tolist() if num_random else []
    share = num_random / len(rest) if len(rest) else 1.0
    return Selection((*chosen, *drawn), (1.0,) * len(chosen) + (share,) * num_random, num_random)
