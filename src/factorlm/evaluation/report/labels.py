"""Where labels of points go, so that they neither cover each other nor the points."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from factorlm.evaluation.report.canvas import Canvas, Point, fitted, text_width

Box = tuple[float, float, float, float]  # left, top, right, bottom
SIZE = 11.5
LONGEST = 170  # width of a label; the whole of it is in what a pointer shows


@dataclass
class Labels:
    """Places that are taken in a plane with these edges."""

    left: float
    right: float
    top: float
    bottom: float
    taken: list[Box] = field(default_factory=list)
    reserved: list[Box] = field(default_factory=list)

    def block(self, left: float, top: float, right: float, bottom: float) -> None:
        """Keep a marker, or a line between two places, free."""
        self.taken.append((left - 5, top - 5, right + 5, bottom + 5))

    def block_line(self, start: Point, end: Point) -> None:
        """Keep a slanting line free, as a chain of small boxes."""
        steps = max(1, int(math.dist(start, end) / 8))
        for i in range(1, steps):
            x, y = (a + (b - a) * i / steps for a, b in zip(start, end, strict=True))
            self.taken.append((x - 3, y - 3, x + 3, y + 3))

    def reserve(self, left: float, top: float, right: float, bottom: float) -> None:
        """Keep an area free, unless it is crowded elsewhere."""
        self.reserved.append((left, top, right, bottom))

    def write(self, canvas: Canvas, label: str, x: float, y: float) -> None:
        """Write a label beside a point, where it covers least; it moves as far as two lines."""
        if not label:
            return
        shown = fitted(label, LONGEST, SIZE)
        width, height = text_width(shown, SIZE), 13.0
        right, left, middle = x + 8, x - 8 - width, x - width / 2
        corners = [
            *((right, y - 7), (left, y - 7), (middle, y - 20), (middle, y + 7)),
            *((right, y - 18), (right, y + 4), (left, y - 18), (left, y + 4)),
            *((middle, y - 33), (middle, y + 20), (right, y + 17), (right, y - 31), (left, y + 17), (left, y - 31)),
        ]
        boxes = [(a, b, a + width, b + height) for a, b in corners]
        box = min(boxes, key=self._cost)
        self.taken.append(box)
        halo = 'stroke="var(--paper)" stroke-width="3" stroke-linejoin="round" paint-order="stroke"'
        canvas.text(box[0], box[3] - 3, shown, size=SIZE, more=halo)

    def _cost(self, box: Box) -> float:
        """Area of what is covered; what leaves the plane counts ten times."""
        inside = overlap(box, (self.left, self.top, self.right, self.bottom))
        outside = (box[2] - box[0]) * (box[3] - box[1]) - inside
        return (
            10 * outside + sum(overlap(box, b) for b in self.taken) + 0.5 * sum(overlap(box, b) for b in self.reserved)
        )


def overlap(a: Box, b: Box) -> float:
    """The area that two boxes share."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Heights near those wanted, at least a gap apart, between the edges as far as they fit."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    found = [0.0] * len(wanted)
    above = low - gap
    for i in order:
        found[i] = above = max(wanted[i], above + gap)
    below = high + gap
    for i in reversed(order):
        found[i] = below = min(found[i], below - gap)
    return found
