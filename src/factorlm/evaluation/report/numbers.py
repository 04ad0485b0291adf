"""The numbers of pictures and of whole reports as tables: for those who cannot see a picture, or want more digits."""

from __future__ import annotations

from factorlm.evaluation.document import Cell, Column, Curve, Intervals, Matrix, Report, Scatter, Series, Table
from factorlm.evaluation.intervals import Estimate


def numbers(picture: Curve | Scatter | Intervals | Matrix) -> Table:
    """What a picture shows, as a table."""
    match picture:
        case Intervals():
            form = ".1%" if picture.is_percent else ".3g"
            columns = (Column(title=picture.x_label), *(Column(title=name, form=form) for name in picture.series))
            rows: tuple[tuple[Cell, ...], ...] = tuple((bar.label, *bar.values) for bar in picture.bars)
        case Matrix():
            columns = (
                Column(title=f"{picture.row_label} / {picture.column_label}"),
                *(Column(title=name, form=picture.form) for name in picture.columns),
            )
            rows = tuple((name, *values) for name, values in zip(picture.rows, picture.values, strict=True))
        case Curve() if _is_function(picture):
            form = ".1%" if picture.is_percent else ".3g"
            columns = (Column(title=picture.x_label), *(Column(title=s.name, form=form) for s in picture.series))
            heights = [{_middle(x): y for x, y in zip(s.x, s.y, strict=True)} for s in picture.series]
            places = sorted({x for found in heights for x in found if x is not None})
            rows = tuple((x, *(found.get(x) for found in heights)) for x in places)
        case _:
            is_curve = isinstance(picture, Curve)
            y_percent = picture.is_percent if isinstance(picture, Curve) else picture.y_is_percent
            x_percent = False if isinstance(picture, Curve) else picture.x_is_percent
            columns = (
                Column(title="line" if is_curve else "points"),
                Column(title="label"),
                Column(title=picture.x_label, form=".1%" if x_percent else ".3g"),
                Column(title=picture.y_label, form=".1%" if y_percent else ".3g"),
            )
            rows = tuple(row for series in picture.series for row in _points(series))
    return Table(title=picture.title, columns=columns, rows=rows)


def measures(report: Report) -> Table:
    """The measures of a report: a row for each, a column for each model.

    What was measured of none of the models under test, such as of a factor alone, stands in the sections only.
    """
    known = [card.name for card in report.models]
    about = {measure: found for measure, found in report.measures.items() if not set(known).isdisjoint(found)}
    names = [*known, *dict.fromkeys(n for found in about.values() for n in found if n not in known)]
    names = [name for name in names if any(name in found for found in about.values())]
    return Table(
        title="Measures",
        columns=(Column(title="measure"), *(Column(title=name) for name in names)),
        rows=tuple((measure, *(found.get(n) for n in names)) for measure, found in about.items()),
    )


def _is_function(picture: Curve) -> bool:
    """Whether every line has one height at a place, and no words of its own."""
    return all(len(set(map(_middle, s.x))) == len(s.x) and not any(s.labels) for s in picture.series)


def _middle(quantity: float | Estimate | None) -> float | None:
    return quantity.value if isinstance(quantity, Estimate) else quantity


def _points(series: Series) -> list[tuple[Cell, ...]]:
    labels = series.labels or ("",) * len(series.x)
    return [(series.name, label, x, y) for label, x, y in zip(labels, series.x, series.y, strict=True)]
