"""Numbers of red teaming: success in k tries, how varied successes are, and how much of what was planted was found."""

# Axes: B texts, D width.

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from factorlm.errors import InputError
from factorlm.evaluation.diversity import self_bleu, words_of
from factorlm.evaluation.rates import corrected_rate

Array = NDArray[np.float64]
ALIKE = 0.5  # cosine of sentence vectors from which on two successes are of one kind
MOST_COMPARED = 400  # texts whose resemblance is measured


def success_at(k: int, tries: int, successes: int) -> float:
    """Chance that at least one of k tries succeeds, without bias, from so many successes in more tries.

    Source: pass@k, Chen et al. (2021), arXiv:2107.03374.

    Raises:
        InputError: if there were fewer than k tries.
    """
    if not 0 < k <= tries or not 0 <= successes <= tries:
        raise InputError(f"k from 1 to {tries} tries is needed, got {k} with {successes} successes; try more often")
    return 1 - math.comb(tries - successes, k) / math.comb(tries, k)


def corrected_share(share: float, true_positive: float, false_positive: float) -> float:
    """The true share of successes behind one that an erring judge saw, within 0 and 1.

    It is (share - false_positive) / (true_positive - false_positive).
    """
    return corrected_rate(share, true_positive, 1 - false_positive)


@dataclass(frozen=True)
class Variety:
    """How unlike each other texts are.

    Attributes:
        self_bleu: 0 to 100, high where they resemble each other; None for fewer than two.
        clusters: kinds of them, by what they mean.
    """

    self_bleu: float | None
    clusters: int


def variety(texts: Sequence[str], vector_BD: Array) -> Variety:
    """Variety of texts with these sentence vectors of length one."""
    words = [found for text in texts[:MOST_COMPARED] if (found := words_of(text))]
    return Variety(self_bleu(words) if len(words) > 1 else None, num_clusters(vector_BD[:MOST_COMPARED]))


def num_clusters(vector_BD: Array, alike: float = ALIKE) -> int:
    """Kinds of texts: clusters by mean linkage whose mean cosine is at least `alike`."""
    from sklearn.cluster import AgglomerativeClustering

    if len(vector_BD) < 2:
        return len(vector_BD)
    found = AgglomerativeClustering(
        n_clusters=None, metric="cosine", linkage="average", distance_threshold=1 - alike
    ).fit(vector_BD)
    return int(found.n_clusters_)
