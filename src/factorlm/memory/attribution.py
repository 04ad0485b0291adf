"""Which stretches of a text stand in a corpus word for word, and where.

Source: OLMoTrace, Liu et al. (2025), arXiv:2504.07096: the longest stretches, found by suffix array.
"""

# Axes: T time.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from factorlm.memory.engine import Engine, Occurrence, Queries


@dataclass(frozen=True)
class Stretch:
    """A stretch of a text that stands in the corpus, and that is in no longer one that does.

    Attributes:
        first: token at which it begins.
        length: in tokens.
        count: how often it stands in the corpus.
        surprise: minus the log probability of its tokens by how often each is in the corpus, in nats: rare words
            weigh more than a long run of small ones.
        occurrences: some places.
    """

    first: int
    length: int
    count: int
    surprise: float
    occurrences: tuple[Occurrence, ...]


def stretches(
    engine: Engine, token_ids: Sequence[int], *, at_least: int = 4, most: int = 10, places: int = 3
) -> list[Stretch]:
    """The most surprising stretches of a text that stand in the corpus.

    Args:
        engine: of the corpus.
        token_ids: the text.
        at_least: tokens of a stretch.
        most: stretches to give, those of the largest surprise, in the order of the text.
        places: occurrences of each.
    """
    length_T = longest_matches(engine, token_ids)
    ends = [
        t
        for t, length in enumerate(length_T)
        if length >= at_least and (t + 1 == len(length_T) or length_T[t + 1] != length + 1)
    ]
    num_tokens = max(1, engine.num_tokens)
    counts = engine.count_many(Queries.of([[token] for token in token_ids]))
    nats = np.cumsum([0.0, *(-np.log(np.maximum(counts, 1) / num_tokens))])
    surprise = {t: float(nats[t + 1] - nats[t + 1 - length_T[t]]) for t in ends}
    chosen = sorted(sorted(ends, key=lambda t: -surprise[t])[:most])
    found = []
    for t in chosen:
        first, length = t + 1 - length_T[t], length_T[t]
        tokens = list(token_ids[first : t + 1])
        count = engine.count(tokens)
        found.append(Stretch(first, length, count, surprise[t], tuple(engine.occurrences(tokens, places))))
    return found


def longest_matches(engine: Engine, token_ids: Sequence[int]) -> list[int]:
    """For each token, how long the longest run that ends with it is that stands in the corpus."""
    begins = np.zeros(len(token_ids), np.int64)
    ends = np.arange(1, len(token_ids) + 1, dtype=np.int64)
    found = engine.longest_many(Queries(np.asarray(token_ids, np.int64), begins, ends))
    lengths: list[int] = found.length_B.tolist()
    return lengths
