"""Counting in a corpus: how often any run of tokens stands in it, what follows it, and where.

All counts are exact, of all shards together. Single queries take microseconds where the index is in memory; the
batched ones take them without the cost of a call for each.
"""

# Axes: B queries, D documents, L places, N tokens, S shards, V vocabulary.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from factorlm.memory import ranges
from factorlm.memory.ranges import place_at
from factorlm.memory.shard import Shard
from factorlm.memory.suffixes import separator_of

Ints = NDArray[np.int64]
UNLIMITED = 1 << 40


class Ratio(NamedTuple):
    """How often a context stands in the corpus, and how often with a token behind it."""

    num_context: int
    num_both: int

    @property
    def prob(self) -> float:
        """Their quotient; nan for a context that does not occur."""
        return self.num_both / self.num_context if self.num_context else float("nan")


class Following(NamedTuple):
    """What follows a context: tokens, by number, each with its count.

    Attributes:
        num_context: how often the context occurs.
        tokens: that follow, by number; the separator, where documents end, is the last.
        counts: how often each does.
    """

    num_context: int
    tokens: Ints
    counts: Ints


class Suffixes(NamedTuple):
    """The longest suffix of each of some contexts that occurs in the corpus.

    Attributes:
        length_B: tokens of it.
        range_BS2: ranks of its suffixes in each shard.
    """

    length_B: Ints
    range_BS2: Ints

    @property
    def count_B(self) -> Ints:
        """How often each occurs."""
        return np.asarray((self.range_BS2[..., 1] - self.range_BS2[..., 0]).sum(1))


@dataclass(frozen=True)
class Occurrence:
    """A place where some tokens stand.

    Attributes:
        document: its number, counted through all shards.
        place: tokens of the document before it.
        metadata: what is said of the document.
        token_ids: some tokens of the document around the place.
        first: where the place is among these.
    """

    document: int
    place: int
    metadata: dict[str, Any]
    token_ids: tuple[int, ...]
    first: int


class Queries(NamedTuple):
    """Runs of tokens, laid end to end."""

    token_Q: Ints
    begin_B: Ints
    end_B: Ints

    @staticmethod
    def of(rows: Sequence[Sequence[int]]) -> Queries:
        """From a list of each."""
        end_B = np.cumsum([len(row) for row in rows], dtype=np.int64)
        token_Q = np.fromiter((t for row in rows for t in row), np.int64, int(end_B[-1]) if len(rows) else 0)
        return Queries(token_Q, np.concatenate([[0], end_B[:-1]]).astype(np.int64), end_B)


@dataclass(frozen=True, eq=False)
class Engine:
    """The shards of a corpus.

    Attributes:
        shards: at least one.
    """

    shards: tuple[Shard, ...]

    @property
    def separator(self) -> int:
        """The token before each document."""
        return separator_of(self.shards[0].width)

    @property
    def num_tokens(self) -> int:
        """Of all shards, separators among them."""
        return sum(len(shard.text_N) for shard in self.shards)

    @property
    def num_documents(self) -> int:
        """Of all shards."""
        return sum(shard.num_documents for shard in self.shards)

    def count(self, tokens: Sequence[int]) -> int:
        """How often some tokens stand one behind the other; of none, how many tokens there are."""
        return int(self.count_many(Queries.of([tokens]))[0])

    def count_many(self, queries: Queries) -> Ints:
        """`count` for each query, [B]."""
        range_BS2 = self._ranges(queries)
        return np.asarray((range_BS2[..., 1] - range_BS2[..., 0]).sum(1))

    def ratio(self, context: Sequence[int], token: int) -> Ratio:
        """Counts of an n-gram and of its context, n being one more than the context is long."""
        counts = self.count_many(Queries.of([context, [*context, token]]))
        return Ratio(int(counts[0]), int(counts[1]))

    def longest_ratio(self, context: Sequence[int], token: int) -> tuple[int, Ratio]:
        """The ∞-gram: length of the context's longest suffix that occurs, with counts of it and of it and the token."""
        found = self.longest_many(Queries.of([context]))
        return int(found.length_B[0]), Ratio(int(found.count_B[0]), int(self.with_token(found, np.array([token]))[0]))

    def with_token(self, found: Suffixes, token_B: Ints) -> Ints:
        """How often each suffix stands with this token behind it, [B]."""
        range_BS2 = self.narrowed(found.range_BS2, found.length_B, token_B)
        return np.asarray((range_BS2[..., 1] - range_BS2[..., 0]).sum(1))

    def narrowed(self, range_BS2: Ints, depth_B: Ints, token_B: Ints) -> Ints:
        """Ranks of what goes on with this token, of ranks whose suffixes share so many tokens, [B, S, 2]."""
        narrowed_BS2 = np.zeros_like(range_BS2)
        for s, shard in enumerate(self.shards):
            part_B2 = np.zeros((len(depth_B), 2), np.int64)
            whole_B2 = np.ascontiguousarray(range_BS2[:, s])
            ranges.narrow_many(
                shard.text_N, shard.table_NP, shard.width, whole_B2, depth_B, token_B.astype(np.int64), part_B2
            )
            narrowed_BS2[:, s] = part_B2
        return narrowed_BS2

    def longest_many(self, queries: Queries, at_most_B: Ints | None = None) -> Suffixes:
        """The longest suffix of each query that occurs, of at most so many tokens."""
        num_queries = len(queries.begin_B)
        at_most_B = np.full(num_queries, UNLIMITED) if at_most_B is None else at_most_B
        length_SB = np.zeros((len(self.shards), num_queries), np.int64)
        range_BS2 = np.zeros((num_queries, len(self.shards), 2), np.int64)
        for s, shard in enumerate(self.shards):
            part_B2 = np.zeros((num_queries, 2), np.int64)
            ranges.longest_many(
                shard.text_N, shard.table_NP, shard.width, shard.first_V2, *queries, at_most_B, length_SB[s], part_B2
            )
            range_BS2[:, s] = part_B2
        length_B = length_SB.max(0)
        range_BS2[(length_SB < length_B).T] = 0  # a shard with only a shorter one has none of the longest
        return Suffixes(length_B, range_BS2)

    def next_counts(self, found: Suffixes) -> tuple[Ints, Ints, Ints]:
        """What follows each suffix: row, token and count, [L] each, by row and then by token.

        The token behind the last one stands for the end of a document.
        """
        parts = [self._listed(shard, s, found) for s, shard in enumerate(self.shards)]
        row_L, token_L, count_L = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        place_L = row_L * self.shards[0].num_rows + token_L
        if len(self.shards) == 1:
            order_L = np.argsort(place_L, kind="stable")
            return row_L[order_L], token_L[order_L], count_L[order_L]
        place_L, inverse_L = np.unique(place_L, return_inverse=True)
        totals = np.bincount(inverse_L, count_L, len(place_L)).astype(np.int64)
        return place_L // self.shards[0].num_rows, place_L % self.shards[0].num_rows, totals

    def _listed(self, shard: Shard, number: int, found: Suffixes) -> tuple[Ints, Ints, Ints]:
        range_B2 = np.ascontiguousarray(found.range_BS2[:, number])
        room = int(np.minimum(range_B2[:, 1] - range_B2[:, 0], shard.num_rows).sum())
        token_L, count_L, end_B = np.empty(room, np.int64), np.empty(room, np.int64), np.zeros(len(range_B2), np.int64)
        ranges.list_next_counts_many(
            shard.text_N, shard.table_NP, shard.width, shard.first_V2, range_B2, found.length_B, token_L, count_L, end_B
        )
        row_L = np.repeat(np.arange(len(end_B)), np.diff(end_B, prepend=0))
        return row_L, token_L[: len(row_L)], count_L[: len(row_L)]

    def following(self, context: Sequence[int]) -> Following:
        """What follows a context, all of it being looked for: the n-gram distribution."""
        queries = Queries.of([context])
        range_BS2 = self._ranges(queries)
        return self._following(Suffixes(np.array([len(context)]), range_BS2))

    def longest_following(self, context: Sequence[int]) -> tuple[int, Following]:
        """Length of the longest suffix that occurs, and what follows it: the ∞-gram distribution."""
        found = self.longest_many(Queries.of([context]))
        return int(found.length_B[0]), self._following(found)

    def occurrences(self, tokens: Sequence[int], most: int = 10, around: int = 20) -> list[Occurrence]:
        """Places where some tokens stand, evenly taken from all of them where there are more than `most`."""
        return self.occurrences_of(self._ranges(Queries.of([tokens]))[0], len(tokens), most, around)

    def occurrences_of(self, range_S2: Ints, length: int, most: int = 10, around: int = 20) -> list[Occurrence]:
        """As `occurrences`, from the ranks of the tokens in each shard."""
        sizes = range_S2[:, 1] - range_S2[:, 0]
        total = int(sizes.sum())
        chosen = [n * total // min(most, total) for n in range(min(most, total))]
        found, before, documents_before = [], 0, 0
        for shard, (low, _), size in zip(self.shards, range_S2.tolist(), sizes.tolist(), strict=True):
            ranks = [low + n - before for n in chosen if before <= n < before + size]
            places = np.array([place_at(shard.table_NP, rank, shard.width) for rank in ranks], np.int64)
            for place, document in zip(places.tolist(), shard.document_at(places).tolist(), strict=True):
                found.append(_occurrence(shard, place, document, documents_before, length, around))
            before += size
            documents_before += shard.num_documents
        return found

    def document(self, number: int) -> tuple[NDArray[Any], dict[str, Any]]:
        """Tokens of a document, counted through all shards, and what is said of it."""
        for shard in self.shards:
            if number < shard.num_documents:
                return shard.document(number), shard.metadata(number)
            number -= shard.num_documents
        raise IndexError(number)

    def documents_with(self, tokens: Sequence[int]) -> list[int]:
        """Numbers of all documents in which some tokens stand."""
        range_S2 = self._ranges(Queries.of([tokens]))[0]
        found: set[int] = set()
        before = 0
        for shard, (low, high) in zip(self.shards, range_S2.tolist(), strict=True):
            places = np.array([place_at(shard.table_NP, rank, shard.width) for rank in range(low, high)], np.int64)
            found |= {before + int(d) for d in shard.document_at(places)}
            before += shard.num_documents
        return sorted(found)

    def _ranges(self, queries: Queries) -> Ints:
        range_BS2 = np.zeros((len(queries.begin_B), len(self.shards), 2), np.int64)
        for s, shard in enumerate(self.shards):
            part_B2 = np.zeros((len(queries.begin_B), 2), np.int64)
            ranges.count_many(shard.text_N, shard.table_NP, shard.width, shard.first_V2, *queries, part_B2)
            range_BS2[:, s] = part_B2
        return range_BS2

    def _following(self, found: Suffixes) -> Following:
        _, tokens, counts = self.next_counts(found)
        named = np.where(tokens == self.shards[0].num_rows - 1, self.separator, tokens)
        return Following(int(found.count_B[0]), named, counts)


def _occurrence(shard: Shard, place: int, document: int, before: int, length: int, around: int) -> Occurrence:
    tokens = shard.document(document)
    inside = place - int(shard.offset_D[document]) // shard.width - 1
    begin = max(0, inside - around)
    return Occurrence(
        document=before + document,
        place=max(inside, 0),
        metadata=shard.metadata(document),
        token_ids=tuple(int(t) for t in tokens[begin : max(inside, 0) + length + around]),
        first=max(inside, 0) - begin,
    )
