"""The ∞-gram language model: what followed the longest suffix of a text wherever it stands in a corpus.

P(v | text) = count(s v) / count(s), with s the longest suffix that occurs. Documents count as whole texts: where one
ends, the end token follows; and a text that begins with the start token begins as documents do. Extending a text by a
token narrows the range of its suffix in the suffix array, so that a step costs one short search.

Source: Liu, Min, Zettlemoyer, Choi and Hajishirzi (2024), arXiv:2401.17377.
"""

# Axes: B batch, F features, S shards, T time, V vocabulary.

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from factorlm.algebra import PAD, State, pad_left, without_last
from factorlm.memory.engine import Engine, Ints, Occurrence, Queries, Suffixes
from factorlm.memory.remembering import Answer, Memory, Recollection, Source
from factorlm.text import Vocabulary


@dataclass(frozen=True)
class Matched:
    """What was read, and its longest suffix in the corpus.

    Attributes:
        token_BT: filled on the left with PAD; start tokens stand as separators.
        length_B: tokens of the suffix.
        range_BS2: its ranks in each shard.
    """

    token_BT: Tensor
    length_B: Tensor
    range_BS2: Tensor

    @property
    def suffixes(self) -> Suffixes:
        """For the engine."""
        return Suffixes(self.length_B.numpy(), self.range_BS2.numpy())


@dataclass(frozen=True, eq=False)
class InfiniGram(Memory):
    """An ∞-gram memory.

    Attributes:
        engine: counts in a corpus.
        tokens: the vocabulary of its tokens.
        start_ids: what texts begin with, as documents begin with a separator.
        ends: whether documents are whole texts, whose end is a token; else it says nothing.
        device: where answers go.
    """

    FEATURES: ClassVar[tuple[str, ...]] = ("suffix length", "log count", "sparse")

    engine: Engine
    tokens: Vocabulary
    start_ids: tuple[int, ...]
    ends: bool = True
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def vocabulary(self) -> Vocabulary:
        """Of the corpus."""
        return self.tokens

    def start(self, prefix_BT: Tensor) -> State:
        """See Factor."""
        return self._state(self._matched(self._read(prefix_BT)))

    def extend(self, state: State, token_B: Tensor) -> State:
        """See Factor."""
        return self._state(self._extended(state.memory, token_B.cpu()))

    def trim(self, state: State, num_tokens_B: Tensor) -> State:
        """See Factor."""
        return self._state(self._matched(without_last(state.memory.token_BT, num_tokens_B.cpu())))

    def look(self, memory: Matched) -> Answer:
        """See Memory."""
        found = Suffixes(memory.length_B.numpy().copy(), memory.range_BS2.numpy().copy())
        row_L, token_L, count_L = self._counts(found)
        while True:  # until no row is left behind whose suffix documents end, where that is no token
            total_B = np.bincount(row_L, count_L, len(found.length_B))
            lost_B = (total_B == 0) & (found.length_B > 0)
            if not lost_B.any():
                break
            shorter = self._longest(memory.token_BT[torch.from_numpy(lost_B)], found.length_B[lost_B] - 1)
            found.length_B[lost_B], found.range_BS2[lost_B] = shorter.length_B, shorter.range_BS2
            row_L, token_L, count_L = self._counts(found)
        log_prob_BV = torch.full((len(total_B), self.tokens.size), -torch.inf)
        log_prob_L = np.log(count_L / total_B[row_L]).astype(np.float32)
        log_prob_BV[torch.from_numpy(row_L), torch.from_numpy(token_L)] = torch.from_numpy(log_prob_L)
        is_sparse_B = np.bincount(row_L, minlength=len(total_B)) == 1
        features = (found.length_B, np.log(np.maximum(total_B, 1)), is_sparse_B)
        feature_BF = torch.tensor(np.stack([np.asarray(f, np.float32) for f in features], 1))
        return Answer(log_prob_BV.to(self.device), feature_BF)

    def looks(self, prefix_BT: Tensor, text_BT: Tensor) -> Iterator[Answer]:
        """See Memory."""
        if text_BT.shape[1] == 0:
            return
        matched = self._matched(self._read(prefix_BT))
        yield self.look(matched)
        for token_B in text_BT[:, :-1].cpu().unbind(1):
            matched = self._extended(matched, token_B.clamp(min=0))
            yield self.look(matched)

    def recollect(self, prefix_ids: Sequence[int], text_ids: Sequence[int], most: int = 3) -> list[Recollection]:
        """See Memory; sources are places of the suffix with the token, or, where it never follows, of the suffix."""
        found = []
        matched = self._matched(self._read(torch.tensor([list(prefix_ids)])))
        for token in text_ids:
            answer = self.look(matched)
            length, range_BS2 = matched.suffixes
            both_BS2 = self.engine.narrowed(range_BS2, length, np.array([self.separator_or(token)]))
            follows = bool((both_BS2[..., 1] > both_BS2[..., 0]).any())
            places = self.engine.occurrences_of((both_BS2 if follows else range_BS2)[0], int(length[0]) + follows, most)
            sources = [source_of(place, int(length[0])) for place in places] if length[0] else []
            found.append(self._recollection(answer, token, sources))
            matched = self._extended(matched, torch.tensor([token]))
        return found

    def separator_or(self, token: int) -> int:
        """What stands in the corpus for a token: a separator for the end of a text."""
        return self.engine.separator if token in self.tokens.end_ids else token

    def _state(self, matched: Matched) -> State:
        # What was looked up is kept with the state: explanations and gates ask again.
        look = functools.cache(lambda: self.look(matched))
        return State(lambda: self.weighed(look()), matched)

    def _counts(self, found: Suffixes) -> tuple[Ints, Ints, Ints]:
        """How often each token follows: row, token and count; the end of a document is a token, or left out."""
        row_L, token_L, count_L = self.engine.next_counts(found)
        is_end_L = token_L == self.tokens.size
        if not is_end_L.any():
            return row_L, token_L, count_L
        if not self.ends:
            return row_L[~is_end_L], token_L[~is_end_L], count_L[~is_end_L]
        place_L = row_L * self.tokens.size + np.where(is_end_L, self.tokens.end_ids[0], token_L)
        place_L, inverse_L = np.unique(place_L, return_inverse=True)  # a corpus may have the end token itself
        totals = np.bincount(inverse_L, count_L, len(place_L)).astype(np.int64)
        return place_L // self.tokens.size, place_L % self.tokens.size, totals

    def _read(self, prefix_BT: Tensor) -> Tensor:
        """Prefixes as they would stand in the corpus."""
        rows = []
        for row in prefix_BT.tolist():
            tokens = [t for t in row if t != PAD]
            if self.start_ids and tuple(tokens[: len(self.start_ids)]) == self.start_ids:
                tokens = [self.engine.separator, *tokens[len(self.start_ids) :]]
            rows.append(tokens)
        return pad_left(rows)

    def _matched(self, token_BT: Tensor) -> Matched:
        found = self._longest(token_BT, None)
        return Matched(token_BT, torch.from_numpy(found.length_B), torch.from_numpy(found.range_BS2))

    def _extended(self, matched: Matched, token_B: Tensor) -> Matched:
        token_BT = torch.cat([matched.token_BT, token_B[:, None]], 1)
        before = matched.suffixes
        range_BS2 = self.engine.narrowed(before.range_BS2, before.length_B, token_B.numpy())
        length_B = before.length_B + 1
        lost_B = (range_BS2[..., 1] == range_BS2[..., 0]).all(1)
        if lost_B.any():
            shorter = self._longest(token_BT[torch.from_numpy(lost_B)], before.length_B[lost_B])
            length_B[lost_B], range_BS2[lost_B] = shorter.length_B, shorter.range_BS2
        return Matched(token_BT, torch.from_numpy(length_B), torch.from_numpy(range_BS2))

    def _longest(self, token_BT: Tensor, at_most_B: Ints | None) -> Suffixes:
        num_rows, length = token_BT.shape
        num_pad_B = (token_BT == PAD).sum(1).numpy()
        begin_B = np.arange(num_rows, dtype=np.int64) * length
        queries = Queries(token_BT.reshape(-1).numpy(), begin_B + num_pad_B, begin_B + length)
        return self.engine.longest_many(queries, at_most_B)


def source_of(place: Occurrence, length: int) -> Source:
    """A place of so many tokens, for explanations."""
    first, tokens, line = place.first, place.token_ids, place.metadata.get("linenum")
    return Source(
        document=place.document,
        path=str(place.metadata.get("path", "")),
        line=line + 1 if isinstance(line, int) else None,
        before=tokens[:first],
        match=tokens[first : first + length],
        after=tokens[first + length :],
    )
