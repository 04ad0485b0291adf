"""Edits of a text by character offsets, and marked stretches that are carried along."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

WORD = re.compile(r"\S+")


class Span(NamedTuple):
    """A stretch of a text with a name.

    Attributes:
        start: offset of its first character.
        end: offset behind its last one.
        kind: its name, such as the type of a slot.
    """

    start: int
    end: int
    kind: str


class Edit(NamedTuple):
    """A stretch of a text and what takes its place; an insertion where the stretch is empty."""

    start: int
    end: int
    new: str


@dataclass(frozen=True)
class Marked:
    """A text with marked stretches, which do not overlap."""

    text: str
    spans: tuple[Span, ...] = ()

    def is_inside(self, start: int, end: int) -> bool:
        """Whether a stretch shares a character with a marked one."""
        return any(start < span.end and span.start < end for span in self.spans)

    def edited(self, edits: Iterable[Edit]) -> Marked:
        """The text with edits made, which must not overlap, and the spans where their characters now are.

        What is inserted at an end of a span stays outside of it; what replaces a part of a span belongs to it. A span
        of which nothing is left goes.
        """
        order = sorted(edits)
        pieces, at = [], 0
        for edit in order:
            if edit.start < at or edit.end < edit.start or edit.end > len(self.text):
                raise ValueError(f"edits inside the text that do not overlap are needed, got {edit} behind {at}")
            pieces += [self.text[at : edit.start], edit.new]
            at = edit.end
        text = "".join([*pieces, self.text[at:]])
        spans = (
            Span(_moved(span.start, order, is_end=False), _moved(span.end, order, is_end=True), span.kind)
            for span in self.spans
        )
        return Marked(text, tuple(span for span in spans if span.start < span.end))


def words_of(text: str) -> list[tuple[int, int]]:
    """Start and end of every stretch between white space."""
    return [match.span() for match in WORD.finditer(text)]


def _moved(place: int, edits: Sequence[Edit], *, is_end: bool) -> int:
    """Where a border of a span is after the edits."""
    shift = 0
    for edit in edits:
        is_insertion_behind = is_end and edit.start == edit.end == place
        if edit.end <= place and not is_insertion_behind:
            shift += len(edit.new) - (edit.end - edit.start)
        elif edit.start < place:  # the border lies inside what is replaced
            return edit.start + shift + (len(edit.new) if is_end else 0)
        else:
            break
    return place + shift
