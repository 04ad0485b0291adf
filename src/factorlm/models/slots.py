"""The shared encoder's batch while texts come and go: rows join and leave between steps, and no other row is moved.

All rows end at the same place of one buffer, so that a step writes one column and attention reads one block; a row is
padded on its left. A row that joins is written beside the others up to that place. A row that leaves is overwritten by
the last one. Only when the buffer is full, or what joins is longer than everything read so far, are rows copied.

Source: batching at the level of iterations, Yu et al. (2022), "Orca".
"""

# Axes: D width, H heads of attention, R rows, T time.

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from factorlm.models.causal import CausalLM
from factorlm.models.encoding import Encoded
from factorlm.models.span import Buffer, KeysValues, Span

FEWEST_ROWS, FEWEST_PLACES = 4, 256
TIME = 2  # axis of time in keys and values [R, H, T, ...]


class Slots:
    """Keys and values of the texts that are being written; see the head of this file.

    Attributes:
        lm: what reads.
        num_rows: texts held, in rows 0 to num_rows - 1.
    """

    def __init__(self, lm: CausalLM) -> None:
        self.lm = lm
        self.num_rows = 0
        self._storage: list[tuple[Tensor, Tensor]] = []  # of each layer, [rows, H, places, ...]
        self._is_token_RT = torch.zeros(0, 0, dtype=torch.bool, device=lm.device)
        self._end = 0  # the place where all rows end
        self._lengths: list[int] = []
        self._has_gaps: list[bool] = []
        self._spans: KeysValues | None = None  # the window of all rows, as long as rows stay as they are

    @property
    def width(self) -> int:
        """Tokens of the longest row: a step costs as if all rows were so long."""
        return max(self._lengths, default=0)

    @torch.no_grad()
    def join(self, encoded: Encoded) -> None:
        """Take in rows that were read, behind those that are there."""
        read, own = encoded.hidden.length, self.width
        lengths = (read - encoded.is_token_BT.long().argmax(1)).tolist()  # from the first token on; gaps count
        new = max(lengths)
        self._make_room(len(lengths), new, encoded)
        first, last, end = self.num_rows, self.num_rows + len(lengths), self._end
        for (key, value), (key_to, value_to) in zip(encoded.keys_values, self._storage, strict=True):
            for span, to in ((key, key_to), (value, value_to)):
                # Attention reads padding too, and masks it: it must be numbers there, since nan would stay.
                if new < own:
                    to[first:last].narrow(TIME, end - own, own - new).zero_()
                elif new > own and first:
                    to[:first].narrow(TIME, end - new, new - own).zero_()
                to[first:last].narrow(TIME, end - new, new).copy_(span.view.narrow(TIME, read - new, new))
        self._is_token_RT[first:last] = False
        self._is_token_RT[first:last, end - new : end] = encoded.is_token_BT[:, read - new :]
        self._lengths += lengths
        self._has_gaps += (encoded.num_tokens_B.cpu() < torch.tensor(lengths)).tolist()
        self.num_rows = last
        self._spans = None

    @torch.no_grad()
    def advance(self, token_R: Tensor) -> Tensor:
        """Read one more token in each row: the states that the next ones are drawn from, [R, D]."""
        if self._end >= self._is_token_RT.shape[1]:
            self._repack(self.num_rows, self.width)
        start = self._end - self.width
        self._is_token_RT[: self.num_rows, self._end] = True
        is_padded = min(self._lengths) < self.width or any(self._has_gaps)
        seen_RT = self._is_token_RT[: self.num_rows, start : self._end + 1]
        spans = self._spans if self._spans is not None else self._window(start)
        hidden_RTD, self._spans = self.lm.run_layers(
            token_R.to(self.lm.device)[:, None], seen_RT if is_padded else None, spans, keep=True
        )
        self._end += 1
        self._lengths = [length + 1 for length in self._lengths]
        return hidden_RTD[:, -1]

    def leave(self, rows: Sequence[int]) -> list[int]:
        """Take rows out: where each row that stays was before, in the order in which they are now.

        Rows from the end fill the gaps, so at most as many are copied as leave.
        """
        gone = set(rows)
        order = list(range(self.num_rows))
        for row in sorted(gone, reverse=True):
            moved = order.pop()
            if row < len(order):  # what left was not the last row: that one takes its place
                order[row] = moved
                self._copy_row(len(order), row)
                self._lengths[row], self._has_gaps[row] = self._lengths[len(order)], self._has_gaps[len(order)]
            self._lengths.pop()
            self._has_gaps.pop()
        self.num_rows = len(order)
        self._spans = None
        return order

    def _copy_row(self, source: int, target: int) -> None:
        start = self._end - self._lengths[source]
        for pair in self._storage:
            for whole in pair:
                whole[target].narrow(TIME - 1, start, self._end - start).copy_(
                    whole[source].narrow(TIME - 1, start, self._end - start)
                )
        self._is_token_RT[target] = self._is_token_RT[source]

    def _make_room(self, num_new: int, longest: int, like: Encoded) -> None:
        """Places for new rows: enough rows, and an end at which the longest of them can end."""
        if not self.num_rows:
            self._end = longest
        rows_fit = self.num_rows + num_new <= self._is_token_RT.shape[0]
        is_narrow = max(self._end, longest) >= self._is_token_RT.shape[1]
        if not self._storage or not rows_fit or is_narrow or longest > self._end:
            self._repack(self.num_rows + num_new, max(self.width, longest), like)

    def _repack(self, num_rows: int, width: int, like: Encoded | None = None) -> None:
        """Move all rows into buffers for so many rows, and as many places as `width` and that many again."""
        kept, end = self.num_rows, self._end
        most = max(FEWEST_ROWS, self._is_token_RT.shape[0])
        while most < num_rows:
            most *= 2
        places = max(FEWEST_PLACES, 2 * width + 1)
        now, own = max(width, 1), self.width
        shapes = self._storage or [(key.view, value.view) for key, value in like.keys_values] if like else self._storage
        storage = []
        for pair in shapes:
            moved = []
            for whole in pair:
                fresh = whole.new_empty(most, *whole.shape[1:TIME], places, *whole.shape[TIME + 1 :])
                if kept:
                    fresh[:kept].narrow(TIME, now - own, own).copy_(whole[:kept].narrow(TIME, end - own, own))
                moved.append(fresh)
            storage.append((moved[0], moved[1]))
        is_token_RT = torch.zeros(most, places, dtype=torch.bool, device=self.lm.device)
        if kept:
            is_token_RT[:kept, now - own : now] = self._is_token_RT[:kept, end - own : end]
        self._storage, self._is_token_RT, self._end, self._spans = storage, is_token_RT, now, None

    def _window(self, start: int) -> KeysValues:
        """Keys and values of all rows from a place on, to be written on in their buffers."""
        return tuple(
            (self._span(key[: self.num_rows], start), self._span(value[: self.num_rows], start))
            for key, value in self._storage
        )

    def _span(self, whole: Tensor, start: int) -> Span:
        storage = whole.narrow(TIME, start, whole.shape[TIME] - start)
        return Span(Buffer.over(storage, TIME, self._end - start), self._end - start, TIME)
