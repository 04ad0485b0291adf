"""How numbers, intervals and untrusted texts are written, in all forms of a report."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable

from factorlm.evaluation.document import Cell, Table
from factorlm.evaluation.intervals import Estimate

MISSING = "—"
MARKS = {"better": "✓", "worse": "✗", "no difference shown": "≈", "cannot rank": "?"}
# Controls, lone surrogates and non-characters, which neither HTML nor a terminal should get; tabs and newlines stay.
UNSPEAKABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff\u202a-\u202e\u2066-\u2069]")


def clean(text: str) -> str:
    """The text, with a replacement for each character that could harm a page or a terminal, or turn its direction."""
    return UNSPEAKABLE.sub("\ufffd", text.replace("\r\n", "\n"))


def one_line(text: str) -> str:
    """The clean text with every run of blanks and newlines as one blank."""
    return " ".join(clean(text).split())


def number(value: float | None, form: str = ".3g") -> str:
    """A number in this form with a true minus sign; a dash for none."""
    if value is None or math.isnan(value):
        return MISSING
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    form = form or ".3g"
    if isinstance(value, int) and form.endswith("g"):
        text = str(value)
    elif form.endswith("d"):
        text = format(round(value), form)
    else:
        text = format(value, form)
        if "e" in text and 1e-4 <= abs(value) < 1e7:
            text = f"{value:.0f}"
    if re.fullmatch(r"-0(\.0+)?%?", text):
        text = text[1:]
    return re.sub(r"e([+-])0*", r"e\1", text).replace("e+", "e").replace("-", "−")


def estimate_form(estimate: Estimate, form: str) -> str:
    """The form of an estimate and its ends: significant digits are those of the largest, so that all end alike."""
    counted = re.fullmatch(r"\.(\d+)g", form)
    found = [abs(v) for v in (estimate.value, estimate.low, estimate.high) if v is not None and math.isfinite(v)]
    largest = max(found, default=0.0)
    if counted is None or not 1e-4 <= largest < 1e7:
        return form
    return f".{max(0, int(counted[1]) - 1 - math.floor(math.log10(largest)))}f"


def interval(estimate: Estimate, form: str = ".3g") -> str:
    """The interval, "0.88–0.95"; empty where there is none."""
    if estimate.value is None or estimate.low is None or estimate.high is None:
        return ""
    form = estimate_form(estimate, form)
    low, high = number(estimate.low, form), number(estimate.high, form)
    if low.endswith("%") and high.endswith("%"):
        low = low[:-1]
    return f"{low} to {high}" if "−" in low + high else f"{low}–{high}"


def cell_text(cell: Cell, form: str = ".3g") -> str:
    """A cell without its interval."""
    if isinstance(cell, str):
        return one_line(cell)
    if isinstance(cell, Estimate):
        return number(cell.value, estimate_form(cell, form))
    return number(cell, form)


def p_value(value: float | None) -> str:
    """A p-value with the digits that matter."""
    if value is None:
        return MISSING
    return "< 0.001" if value < 0.001 else number(value, ".3f" if value < 0.1 else ".2f")


def best_rows(table: Table, column: int) -> frozenset[int]:
    """Rows with the best value of the column; none where no end is the better one, or there is nothing to choose."""
    better = table.columns[column].best
    values = {i: v for i, row in enumerate(table.rows) if (v := _value(row[column])) is not None}
    if better is None or len(values) < 2:
        return frozenset()
    best = (min if better == "low" else max)(values.values())
    return frozenset(i for i, v in values.items() if v == best)


def is_numeric(cells: Iterable[Cell]) -> bool:
    """Whether a column holds numbers, so that it stands to the right."""
    found = [cell for cell in cells if cell is not None]
    return bool(found) and not any(isinstance(cell, str) for cell in found)


def _value(cell: Cell) -> float | None:
    found = cell.value if isinstance(cell, Estimate) else cell
    return None if found is None or isinstance(found, str) or math.isnan(found) else float(found)
