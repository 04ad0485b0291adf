"""What a suite finds, as data: a report of sections, tables and pictures that HTML, Markdown and JSON are made from."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from factorlm.evaluation.intervals import Comparison, Estimate
from factorlm.settings import Config

Cell = str | int | float | Estimate | None


class Column(Config):
    """A column of a table.

    Attributes:
        title: its heading.
        form: how numbers are written, as in `format`: ".2f", ".0%", "d".
        best: which end is the better one, so that it can be marked; None marks nothing.
    """

    title: str
    form: str = ".3g"
    best: Literal["low", "high"] | None = None

    @field_validator("form")
    @classmethod
    def _writes_numbers(cls, form: str) -> str:
        format(1, form)
        return form


class Table(Config):
    """Rows of cells.

    Attributes:
        kind: which block this is.
        title: what it shows.
        columns: headings and forms; the first column names the row.
        rows: the cells.
        note: how to read it.
    """

    kind: Literal["table"] = "table"
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    note: str = ""

    @model_validator(mode="after")
    def _is_rectangular(self) -> Table:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"{len(self.columns)} cells are wanted in a row of {self.title!r}, got {len(row)}")
        return self


class Series(Config):
    """One line, or one cloud, of points.

    Attributes:
        name: for the legend.
        x: positions, or estimates where the horizontal position is measured too; None leaves a gap.
        y: heights.
        labels: written beside the points; empty for none.
        is_reference: whether it is a yardstick, such as human text: drawn grey and dashed. In a curve, a yardstick of
            one point is a level over the whole width.
    """

    name: str
    x: tuple[float | Estimate | None, ...]
    y: tuple[float | Estimate | None, ...]
    labels: tuple[str, ...] = ()
    is_reference: bool = False

    @model_validator(mode="after")
    def _has_equal_lengths(self) -> Series:
        if len(self.y) != len(self.x) or len(self.labels) not in (0, len(self.x)):
            raise ValueError(
                f"as many heights and labels as positions are wanted in {self.name!r}, got {len(self.x)} positions, "
                f"{len(self.y)} heights and {len(self.labels)} labels"
            )
        return self


class Curve(Config):
    """Lines over a quantity, with bands for intervals: dose and response, value against position.

    Attributes:
        kind: which block this is.
        title: what it shows.
        x_label: with unit.
        y_label: with unit.
        series: the lines.
        is_percent: whether heights are shares, written in per cent.
        note: how to read it.
    """

    kind: Literal["curve"] = "curve"
    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    is_percent: bool = False
    note: str = ""


class Scatter(Config):
    """Points in a plane of two measured quantities, joined in order: quality against cost (Pareto pictures).

    Attributes:
        kind: which block this is.
        title: what it shows.
        x_label: with unit.
        y_label: with unit.
        series: the points; labels say what each is.
        x_is_percent: whether positions are shares.
        y_is_percent: whether heights are shares.
        best: the corner that is best, such as "upper left".
        note: how to read it.
    """

    kind: Literal["scatter"] = "scatter"
    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    x_is_percent: bool = False
    y_is_percent: bool = False
    best: Literal["upper left", "upper right", "lower left", "lower right"] | None = None
    note: str = ""


class Bar(Config):
    """One row of a picture of intervals."""

    label: str
    values: tuple[Estimate, ...]  # one for each series


class Intervals(Config):
    """Dots with intervals, a row for each thing measured and a colour for each model.

    Attributes:
        kind: which block this is.
        title: what it shows.
        x_label: with unit.
        series: names of the colours.
        bars: the rows, from the top.
        zero: a value to draw a line at, such as no difference; None for none.
        is_percent: whether values are shares.
        note: how to read it.
    """

    kind: Literal["intervals"] = "intervals"
    title: str
    x_label: str
    series: tuple[str, ...]
    bars: tuple[Bar, ...]
    zero: float | None = None
    is_percent: bool = False
    note: str = ""

    @model_validator(mode="after")
    def _has_a_value_for_each_series(self) -> Intervals:
        for bar in self.bars:
            if len(bar.values) != len(self.series):
                raise ValueError(f"{len(self.series)} values are wanted in {bar.label!r}, got {len(bar.values)}")
        return self


class Matrix(Config):
    """Coloured numbers by row and column: confusion, interference.

    Attributes:
        kind: which block this is.
        title: what it shows.
        row_label: what rows are.
        column_label: what columns are.
        rows: their names.
        columns: their names.
        values: the numbers; None where nothing was measured.
        form: how numbers are written.
        is_signed: whether zero is the middle of the colours.
        note: how to read it.
    """

    kind: Literal["matrix"] = "matrix"
    title: str
    row_label: str
    column_label: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]
    form: str = ".2f"
    is_signed: bool = False
    note: str = ""

    @model_validator(mode="after")
    def _is_rectangular(self) -> Matrix:
        if len(self.values) != len(self.rows) or any(len(row) != len(self.columns) for row in self.values):
            raise ValueError(
                f"{len(self.rows)} rows of {len(self.columns)} values are wanted in {self.title!r}, got rows of "
                f"{', '.join(str(len(row)) for row in self.values) or 'none'}"
            )
        return self


class Samples(Config):
    """Texts to read: each with a heading and a line of small print.

    Attributes:
        kind: which block this is.
        title: what they are.
        texts: (heading, prompt, continuation) of each.
    """

    kind: Literal["samples"] = "samples"
    title: str
    texts: tuple[tuple[str, str, str], ...]


class Comparisons(Config):
    """Paired comparisons with their verdicts."""

    kind: Literal["comparisons"] = "comparisons"
    title: str
    rows: tuple[Comparison, ...]
    note: str = ""


class Prose(Config):
    """A paragraph: a definition, a caution, a finding; what stands between backquotes is shown as code."""

    kind: Literal["prose"] = "prose"
    text: str


Block = Annotated[
    Table | Curve | Scatter | Intervals | Matrix | Samples | Comparisons | Prose, Field(discriminator="kind")
]


class Section(Config):
    """A part of a report.

    Attributes:
        title: its heading.
        lead: one or two sentences on what is measured and how.
        blocks: what follows.
    """

    title: str
    lead: str = ""
    blocks: tuple[Block, ...] = ()


class ModelCard(Config):
    """A model under test.

    Attributes:
        name: A, B, ... in tables where the expression is too long.
        expression: as it can be typed again.
        parts: name, kind and fingerprint of each part.
    """

    name: str
    expression: str
    parts: tuple[dict[str, str], ...]


class Provenance(Config):
    """How the numbers came about.

    Attributes:
        command: that makes them again.
        settings: complete.
        seed: of all randomness.
        data: set -> fingerprint of the texts used.
        judges: name -> fingerprint.
        versions: of what matters.
        machine: processor and cores.
        commit: of the code, where it is known; "+" marks changes since.
        seconds: that the run took, cached parts not counted again.
        finished: date and time, UTC.
    """

    command: str
    settings: dict[str, object]
    seed: int
    data: dict[str, str]
    judges: dict[str, str] = Field(default_factory=dict)
    versions: dict[str, str]
    machine: str
    commit: str | None = None
    seconds: float
    finished: str


class Report(Config):
    """All that a suite found.

    Its JSON reads back as the same report, but for numbers that are not finite: JSON has none, they become null.

    Attributes:
        format: of this file.
        suite: which one.
        title: of the page.
        headlines: the findings in a sentence each.
        cautions: what the numbers cannot bear, in a sentence each.
        models: under test; the first is the model, the others are rivals.
        sections: in order.
        measures: the numbers by name for scripts: measure -> model -> estimate.
        provenance: how they came about.
    """

    format: Literal[1] = 1
    suite: str
    title: str
    headlines: tuple[str, ...] = ()
    cautions: tuple[str, ...] = ()
    models: tuple[ModelCard, ...]
    sections: tuple[Section, ...]
    measures: dict[str, dict[str, Estimate]]
    comparisons: tuple[Comparison, ...] = ()
    provenance: Provenance
