"""Caches that only grow: a state never changes, yet adding a token copies nothing.

A span is the first `length` entries of a buffer. Adding to the span that ends where the buffer is filled writes behind
it; adding to an older one copies it first, unless nobody holds what came behind it. So every state stays good for as
long as somebody holds it (prefix reuse, search and speculation need that), while plain decoding, and going on after a
wrong guess, pay no copy.
"""

# Axes: B batch, R rows chosen, T time; other axes are those of the entries.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakSet

import torch
from torch import Tensor

SMALLEST_CAPACITY = 64  # entries; doubles when full


class Buffer:
    """Storage with room to spare along axis `dim`, filled from the left."""

    def __init__(self, start: Tensor, dim: int, capacity: int) -> None:
        shape = list(start.shape)
        shape[dim] = capacity
        self.storage = start.new_empty(shape)
        self.storage.narrow(dim, 0, start.shape[dim]).copy_(start)
        self.filled = start.shape[dim]
        self.capacity = capacity
        self.spans: WeakSet[Span] = WeakSet()

    @classmethod
    def over(cls, storage: Tensor, dim: int, filled: int) -> Buffer:
        """Storage of somebody else, of which the first entries are filled."""
        buffer = cls.__new__(cls)
        buffer.storage, buffer.filled, buffer.capacity = storage, filled, storage.shape[dim]
        buffer.spans = WeakSet()
        return buffer


@dataclass(frozen=True, eq=False)
class Span:
    """The first `length` entries of a buffer along axis `dim`; axis 0 is the batch."""

    buffer: Buffer
    length: int
    dim: int

    def __post_init__(self) -> None:
        self.buffer.spans.add(self)

    @classmethod
    def of(cls, start: Tensor, dim: int) -> Span:
        """A span over a copy of these entries."""
        length = start.shape[dim]
        return cls(Buffer(start, dim, max(SMALLEST_CAPACITY, length + length // 2)), length, dim)

    @classmethod
    def joined(cls, parts: Sequence[Span], length: int) -> Span:
        """The batches of all parts, one after the other, with zeros on the left up to this length."""
        dim = parts[0].dim
        num_rows = sum(part.view.shape[0] for part in parts)
        shape = list(parts[0].view.shape)
        shape[0], shape[dim] = num_rows, length
        whole = parts[0].view.new_zeros(shape)
        row = 0
        for part in parts:
            view = part.view
            place = whole.narrow(0, row, view.shape[0]).narrow(dim, length - part.length, part.length)
            place.copy_(view)
            row += view.shape[0]
        return cls.of(whole, dim)

    @property
    def view(self) -> Tensor:
        """The entries, not copied; not to be written to."""
        return self.buffer.storage.narrow(self.dim, 0, self.length)

    def append(self, new: Tensor, *, reuse: bool = False) -> Span:
        """The span with these entries behind it.

        Args:
            new: the entries.
            reuse: write over entries behind this span that no span holds any more; only where nobody keeps a `view`
                without its span.
        """
        end = self.length + new.shape[self.dim]
        buffer = self.buffer
        is_free = buffer.filled == self.length or (reuse and all(s.length <= self.length for s in buffer.spans))
        # What was filled in inference mode, as by writing a text, may not be written to outside of it.
        is_closed = buffer.storage.is_inference() and not torch.is_inference_mode_enabled()
        if not is_free or is_closed or end > buffer.capacity:
            buffer = Buffer(self.view, self.dim, max(SMALLEST_CAPACITY, 2 * end))
        buffer.storage.narrow(self.dim, self.length, new.shape[self.dim]).copy_(new)
        buffer.filled = end
        return Span(buffer, end, self.dim)

    def rows(self, row_R: Tensor) -> Span:
        """These rows of the batch."""
        return Span.of(self.view.index_select(0, row_R), self.dim)

    def cut(self, num_entries: int) -> Span:
        """Without the last entries."""
        return Span(self.buffer, self.length - num_entries, self.dim)

    def gathered(self, index_BT: Tensor) -> Span:
        """Entry index_BT[b, t] at row b, time t."""
        view = self.view.movedim(self.dim, 1)
        row_B1 = torch.arange(view.shape[0], device=view.device)[:, None]
        return Span.of(view[row_B1, index_BT].movedim(1, self.dim), self.dim)


KeysValues = tuple[tuple[Span, Span], ...]  # a pair [B, heads, T, ...] for each layer of a network
