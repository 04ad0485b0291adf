"""A report as one HTML page that needs nothing else: no network, no scripts, no fonts of its own."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup, escape

from factorlm.evaluation.document import Cell, Report, Table
from factorlm.evaluation.intervals import Comparison, Estimate
from factorlm.evaluation.report.canvas import SHAPES, colour_of
from factorlm.evaluation.report.numbers import measures, numbers
from factorlm.evaluation.report.pictures import NARROW, WIDE, Picture, draw, summary
from factorlm.evaluation.report.writing import (
    MARKS,
    best_rows,
    cell_text,
    clean,
    interval,
    is_numeric,
    number,
    one_line,
    p_value,
)

OWN_IDS = ("models", "cautions", "measures", "comparisons", "provenance")  # of the page's own parts
WHOLE_SAMPLES = 6  # shown at once; the others unfold
OPEN_MEASURES = 24  # more than that unfold


@dataclass(frozen=True)
class Shown:
    """A cell as the page shows it."""

    text: str
    interval: str = ""
    title: str = ""
    is_best: bool = False
    is_number: bool = False


@dataclass
class Anchors:
    """Ids of headings, each given once."""

    given: set[str] = field(default_factory=lambda: set(OWN_IDS))

    def __call__(self, title: str) -> str:
        """An id made of a title."""
        stem = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:40] or "part"
        name, count = stem, 2
        while name in self.given:
            name, count = f"{stem}-{count}", count + 1
        self.given.add(name)
        return name


def page(report: Report) -> str:
    """The page."""
    files = resources.files(__package__)
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=lambda value: clean(value) if type(value) is str else value,
    )
    environment.filters.update(prose=prose, breakable=breakable, one_line=one_line, p_value=p_value, number=number)
    template = environment.from_string(files.joinpath("page.html").read_text(encoding="utf-8"))
    models = [card.name for card in report.models]
    anchor = Anchors()
    return template.render(
        report=report,
        css=Markup(files.joinpath("page.css").read_text(encoding="utf-8")),
        sections=[(anchor(section.title), section) for section in report.sections],
        anchor=anchor,
        measures=measures(report),
        numbers=numbers,
        rows=shown_rows,
        widths=interval_widths,
        shown_estimate=shown,
        has_best=lambda table: any(best_rows(table, j) for j in range(len(table.columns))),
        picture=lambda block: picture(block, models),
        swatch=swatch,
        pair=pair,
        facts=list(facts(report.provenance.settings)),
        finished=moment(report.provenance.finished),
        took=duration(report.provenance.seconds),
        MARKS=MARKS,
        WHOLE_SAMPLES=WHOLE_SAMPLES,
        OPEN_MEASURES=OPEN_MEASURES,
    )


def prose(text: str) -> Markup:
    """A sentence; what stands between backquotes is code."""
    pieces = re.split(r"`([^`\n]+)`", clean(text))
    return Markup("").join(
        Markup("<code>{}</code>").format(piece) if i % 2 else escape(piece) for i, piece in enumerate(pieces)
    )


def breakable(name: str) -> Markup:
    """A name that may be broken behind its slashes and underscores."""
    return Markup("<wbr>").join(re.split(r"(?<=[/_])", clean(name)))


def shown_rows(table: Table) -> list[list[Shown]]:
    """The cells of a table as text."""
    columns = range(len(table.columns))
    best = [best_rows(table, j) for j in columns]
    numeric = [is_numeric(row[j] for row in table.rows) for j in columns]
    return [
        [shown(row[j], table.columns[j].form, i in best[j], numeric[j]) for j in columns]
        for i, row in enumerate(table.rows)
    ]


def interval_widths(rows: list[list[Shown]]) -> list[int]:
    """Characters of the longest interval in each column, so that values stand below each other."""
    return [max((len(cell.interval) for cell in column), default=0) for column in zip(*rows, strict=True)]


def picture(block: Picture, models: list[str]) -> Markup:
    """A picture twice: one is shown on wide screens and paper, the other on phones."""
    label = clean(summary(block))
    return Markup("").join(
        Markup(canvas.svg(label, classes=name + " large" * (canvas.width > width)))
        for name, width in (("wide", WIDE), ("narrow", NARROW))
        for canvas in [draw(block, width, models)]
    )


def swatch(k: int) -> Markup:
    """The marker of model k in pictures."""
    return Markup(
        f'<svg class="swatch" viewBox="-6 -6 12 12" aria-hidden="true"><path d="{SHAPES[k % len(SHAPES)]}" '
        f'fill="var(--{colour_of(k)})"/></svg>'
    )


def pair(comparisons: tuple[Comparison, ...]) -> tuple[str, str] | None:
    """The two models, if all comparisons are of the same two."""
    pairs = {(c.model, c.rival) for c in comparisons}
    return pairs.pop() if len(pairs) == 1 else None


def facts(settings: dict[str, Any], lead: str = "") -> Iterator[tuple[str, str]]:
    """Settings as dotted names with their values."""
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            yield from facts(value, f"{lead}{key}.")
        else:
            yield (
                f"{lead}{key}",
                value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str),
            )


def duration(seconds: float) -> str:
    """Time in the unit that suits it."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def moment(text: str) -> str:
    """A date and time to the minute; what is none stays as it is."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return text
    return f"{found:%Y-%m-%d %H:%M} {found.tzname() or ''}".strip()


def shown(cell: Cell, form: str = ".3g", is_best: bool = False, is_number: bool = True) -> Shown:
    """A cell as text; what a pointer shows says how sure it is."""
    between = interval(cell, form) if isinstance(cell, Estimate) else ""
    title = ""
    if isinstance(cell, Estimate):
        words = ["not measured" if cell.value is None else f"95 % interval {between}" if between else "no interval"]
        title = "; ".join([*words, *([f"n = {cell.n}"] if cell.n else [])])
    return Shown(cell_text(cell, form), between, title, is_best, is_number)
