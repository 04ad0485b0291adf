"""Heat maps."""

from __future__ import annotations

import math

from factorlm.evaluation.document import Matrix
from factorlm.evaluation.report.canvas import Canvas, fitted, place, text_width
from factorlm.evaluation.report.writing import number

FULLEST = 0.6  # of a colour, so that numbers on it can be read
ROW = 30


def matrix(picture: Matrix, width: float) -> Canvas:
    """Numbers on grounds whose fullness is their size; it is as wide as its numbers need, and at least this."""
    values = [v for row in picture.values for v in row if v is not None and math.isfinite(v)]
    low, high = _range(values, picture.is_signed)
    texts = [[number(v, picture.form) for v in row] for row in picture.values]
    left = min(max(map(text_width, picture.rows), default=0), 0.36 * width) + 14
    needed = max((text_width(text) for row in texts for text in row), default=0) + 14
    num_columns = max(1, len(picture.columns))
    cell = max(needed, min(92, (width - left) / num_columns))
    headings = [fitted(name, 150) for name in picture.columns]
    longest = max(map(text_width, headings), default=0)
    is_slanted = longest > cell - 6
    over = longest * 0.71 if is_slanted else 0  # what a slanted heading of the last column needs beyond it
    if is_slanted and left + num_columns * cell + over > width:
        cell = max(needed, (width - left - over) / num_columns)
    canvas = Canvas(max(width, left + num_columns * cell + over))
    canvas.text(0, 14, fitted(f"↓ {picture.row_label}    → {picture.column_label}", width), fill="dim")
    top = 26 + (over + 14 if is_slanted else 20)
    for j, heading in enumerate(headings):
        x, y = left + (j + 0.5) * cell, top - 8
        if is_slanted:
            canvas.text(x, y, heading, more=f'transform="rotate(-45 {place(x)} {place(y)})"')
        else:
            canvas.text(x, y, heading, anchor="middle")
    for i, name in enumerate(picture.rows):
        y = top + i * ROW
        canvas.text(0, y + 19, fitted(name, left - 12))
        for j, value in enumerate(picture.values[i]):
            x = left + j * cell
            share = 0.0
            if value is not None and math.isfinite(value):
                share = abs(value) / high if picture.is_signed else (value - low) / (high - low)
            colour = "below" if picture.is_signed and (value or 0) < 0 else "above"
            canvas.cell(x + 1, y + 1, cell - 2, ROW - 2, colour, 0.04 + (FULLEST - 0.04) * share)
            canvas.text(x + cell / 2, y + 19, texts[i][j], anchor="middle", fill="dim" if value is None else "ink")
    canvas.height = top + ROW * len(picture.rows) + 4
    return canvas


def _range(values: list[float], is_signed: bool) -> tuple[float, float]:
    """What has no colour, and what has it full."""
    if is_signed:
        return 0.0, max(map(abs, values), default=0.0) or 1.0
    low, high = min(values, default=0.0), max(values, default=1.0)
    if 0 <= low <= high / 2:
        low = 0.0
    return (low, high) if high > low else (low - 1, high + 1)
