"""Ranked passages: how the best are chosen, with ties broken by number, and how good a ranking is."""

# Axes: K passages of a ranking, N passages.

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from factorlm.errors import InputError

Numbers = NDArray[np.int64]
Scores = NDArray[np.float64]
Mask = NDArray[np.bool_]


class Ranking(NamedTuple):
    """Passages, the best first.

    Attributes:
        passage_K: their numbers.
        score_K: how well each fits, in the unit of its retriever; never rising.
    """

    passage_K: Numbers
    score_K: Scores


Rank = Callable[[Sequence[str], int, Mask | None], list[Ranking]]  # for queries, at most so many, among those allowed
NOTHING = Ranking(np.zeros(0, np.int64), np.zeros(0))


def highest(passage_N: Numbers, score_N: Scores, k: int) -> Ranking:
    """The k passages of highest score, or all there are; of equal ones those of lower number come first.

    Args:
        passage_N: numbers of passages, in any order.
        score_N: of each.
        k: at least one.
    """
    if len(score_N) > k:
        least = np.partition(score_N, -k)[-k]
        kept_N = score_N >= least  # with all ties, so that the order of the input does not matter
        passage_N, score_N = passage_N[kept_N], score_N[kept_N]
    order_K = np.lexsort((passage_N, -score_N))[:k]
    return Ranking(passage_N[order_K].astype(np.int64), score_N[order_K].astype(np.float64))


def by_chance(query: str, num_passages: int, k: int, seed: int, allowed_N: Mask | None = None) -> Ranking:
    """Passages drawn without looking: what retrieval has to beat. None for a query without signs.

    Args:
        query: that is asked; with the seed it decides what is drawn, so that others beside it do not matter.
        num_passages: to draw from.
        k: most that are drawn.
        seed: of randomness.
        allowed_N: which passages may be drawn; None allows all.
    """
    if not query.strip():
        return NOTHING
    passage_M = np.arange(num_passages) if allowed_N is None else np.flatnonzero(allowed_N)
    digest = hashlib.sha256(f"{seed}/{query}".encode()).digest()
    generator = np.random.default_rng(int.from_bytes(digest[:8], "big"))
    chosen_K = generator.choice(passage_M, min(k, len(passage_M)), replace=False)
    return Ranking(chosen_K.astype(np.int64), np.zeros(len(chosen_K)))


def recall_at(ranked: Sequence[int], relevant: Collection[int], k: int) -> float:
    """Share of the relevant passages that are among the first k.

    Raises:
        InputError: if nothing is relevant, or k is less than one.
    """
    _check(len(relevant), k)
    return len(set(ranked[:k]) & set(relevant)) / len(set(relevant))


def ndcg_at(ranked: Sequence[int], relevance: Mapping[int, float], k: int) -> float:
    """Discounted gain of the first k, as a share of the best possible one: gain 2^rel - 1, discount log2(rank + 1).

    Source: Burges et al. (2005), after Järvelin and Kekäläinen (2002).

    Args:
        ranked: numbers of passages, the best first.
        relevance: of each passage, at least zero; those not named have none.
        k: how many are looked at.

    Raises:
        InputError: if nothing is relevant, or k is less than one.
    """
    gains = sorted((2.0**rel - 1 for rel in relevance.values() if rel > 0), reverse=True)
    _check(len(gains), k)
    found = [2.0 ** relevance.get(passage, 0.0) - 1 for passage in ranked[:k]]
    return _discounted(found) / _discounted(gains[:k])


def reciprocal_rank(ranked: Sequence[int], relevant: Collection[int]) -> float:
    """One over the rank of the first relevant passage, counted from one; zero if there is none.

    Raises:
        InputError: if nothing is relevant.
    """
    _check(len(relevant), 1)
    return next((1 / rank for rank, passage in enumerate(ranked, 1) if passage in relevant), 0.0)


def _discounted(gains: Sequence[float]) -> float:
    return math.fsum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, 1))


def _check(num_relevant: int, k: int) -> None:
    if num_relevant < 1 or k < 1:
        raise InputError(f"a relevant passage and k of at least 1 are needed, got {num_relevant} and k = {k}")
