"""Several rankings of the same passages made one: by ranks, or by scores brought to one scale."""

# Axes: K passages of a ranking.

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import ConfigDict, Field, NonNegativeFloat, PositiveInt

from factorlm.errors import InputError
from factorlm.memory.ranking import NOTHING, Mask, Rank, Ranking, Scores, highest
from factorlm.settings import Config


class Fusion(Config):
    """How the lists of two retrievers become one.

    Attributes:
        kind: by ranks, or by scores.
        constant: added to ranks; the larger, the less the first places count.
        weights: of the lists, BM25 first. Only their ratio matters.
        depth: how much of each list is looked at, or k if that is more.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    kind: Literal["reciprocal-rank", "min-max"] = "reciprocal-rank"
    constant: Annotated[float, Field(gt=0)] = 60.0
    weights: tuple[NonNegativeFloat, NonNegativeFloat] = (1.0, 1.0)
    depth: PositiveInt = 100

    def ranked(self, parts: Sequence[Rank]) -> Rank:
        """What ranks by these parts, whose lists are made one."""

        def rank(queries: Sequence[str], k: int, allowed_N: Mask | None) -> list[Ranking]:
            lists = [part(queries, max(k, self.depth), allowed_N) for part in parts]
            return [self.fuse(rankings, k) for rankings in zip(*lists, strict=True)]

        return rank

    def fuse(self, rankings: Sequence[Ranking], k: int) -> Ranking:
        """The k best of all lists together."""
        if self.kind == "reciprocal-rank":
            return reciprocal_rank_fusion(rankings, k, constant=self.constant, weights=self.weights)
        return min_max_fusion(rankings, k, weights=self.weights)


def reciprocal_rank_fusion(
    rankings: Sequence[Ranking], k: int, *, constant: float = 60.0, weights: Sequence[float] | None = None
) -> Ranking:
    """Score of a passage: the sum over lists that have it of weight / (constant + rank), ranks counted from one.

    Source: Cormack et al. (2009).
    """
    parts = [
        (ranking.passage_K, 1 / (constant + np.arange(1, len(ranking.passage_K) + 1, dtype=np.float64)))
        for ranking in rankings
    ]
    return _summed([Ranking(*part) for part in parts], k, weights)


def min_max_fusion(rankings: Sequence[Ranking], k: int, *, weights: Sequence[float] | None = None) -> Ranking:
    """Score of a passage: the weighted sum of its scores, each brought to [0, 1] within its list.

    The last of a list gets nothing, as if it were not there; if all of a list are equal, each gets one. Unstable on
    short lists.
    """
    return _summed([Ranking(ranking.passage_K, _to_unit(ranking)) for ranking in rankings], k, weights)


def _to_unit(ranking: Ranking) -> Scores:
    score_K = ranking.score_K
    if not len(score_K):
        return score_K
    least, most = score_K.min(), score_K.max()
    return np.ones_like(score_K) if least == most else (score_K - least) / (most - least)


def _summed(rankings: Sequence[Ranking], k: int, weights: Sequence[float] | None) -> Ranking:
    weights = (1.0,) * len(rankings) if weights is None else weights
    if len(weights) != len(rankings) or not any(weights):
        raise InputError(f"a weight for each of {len(rankings)} lists, not all zero, is needed, got {list(weights)}")
    parts: dict[int, list[float]] = {}
    for ranking, weight in zip(rankings, weights, strict=True):
        if weight:  # a list without weight adds no passages either
            for passage, score in zip(ranking.passage_K.tolist(), ranking.score_K.tolist(), strict=True):
                parts.setdefault(passage, []).append(weight * score)
    if not parts:
        return NOTHING
    # Exact sums: passages whose ranks are those of another in another order are tied.
    totals = np.array([math.fsum(scores) for scores in parts.values()])
    return highest(np.array(list(parts), np.int64), totals, k)
