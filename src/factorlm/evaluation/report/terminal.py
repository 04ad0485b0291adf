"""A report for the command line: what was found, in 80 columns or more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table as Grid
from rich.text import Text

from factorlm.evaluation.document import Cell, Report, Table
from factorlm.evaluation.intervals import Comparison, Estimate
from factorlm.evaluation.report.numbers import measures
from factorlm.evaluation.report.page import OPEN_MEASURES, pair
from factorlm.evaluation.report.writing import MARKS, cell_text, interval, one_line, p_value

STYLES = {"better": "green", "worse": "red", "no difference shown": "dim", "cannot rank": "yellow"}
COLUMNS = 4  # models that fit beside each other; more stand below each other
LONG_NAME = 26


def terminal(report: Report) -> RenderableType:
    """Headlines, models called by a letter, measures, verdicts and cautions; all else is in the files."""
    return Group(*_parts(report))


def _parts(report: Report) -> Iterator[RenderableType]:
    yield Text(one_line(report.title), style="bold")
    yield from _bullets(report.headlines)
    short = [card for card in report.models if card.expression != card.name]
    if short:
        yield Text()
    for card in short:
        yield _hanging(Text(f"{one_line(card.name)} ", style="bold"), Text(one_line(card.expression)))
    num_measures = len(measures(report).rows)
    if num_measures:
        yield Text()
        if num_measures > OPEN_MEASURES:
            yield Text(f"{num_measures} measures: --json prints them, --out FOLDER writes them.", style="dim")
        else:
            yield _measures(report)
    if report.comparisons:
        yield _comparisons(report.comparisons)
    if report.cautions:
        yield Text("What these numbers cannot bear", style="bold")
        yield from _bullets(report.cautions)


def _bullets(lines: Sequence[str]) -> Iterator[RenderableType]:
    for line in lines:
        yield _hanging(Text("• "), Text(one_line(line.replace("`", ""))))


def _hanging(lead: Text, text: Text) -> RenderableType:
    """Text whose further lines begin below its first word."""
    grid = Grid.grid()
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row(lead, text)
    return grid


def _measures(report: Report) -> RenderableType:
    table = measures(report)
    names = [one_line(column.title) for column in table.columns[1:]]
    if len(names) > COLUMNS:
        return _long_measures(table, names)
    grid = Grid(box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    grid.add_column(table.columns[0].title, overflow="fold")
    for name in names:
        grid.add_column(Text(name), justify="right", overflow="fold")
    for row in table.rows:
        grid.add_row(_name(row[0]), *map(_cell, row[1:]))
    return grid


def _long_measures(table: Table, names: Sequence[str]) -> RenderableType:
    """A row for each measure and model."""
    grid = Grid(box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    grid.add_column("measure and model", overflow="fold")
    grid.add_column("value", justify="right", no_wrap=True)
    grid.add_column("95 % interval", style="dim", no_wrap=True)
    for row in table.rows:
        grid.add_row(_name(row[0]))
        for name, cell in zip(names, row[1:], strict=True):
            if isinstance(cell, Estimate):
                grid.add_row(Text(f"  {name}", style="dim"), cell_text(cell), interval(cell))
    return grid


def _name(cell: Cell) -> Text:
    """A measure's name, with a break where a long one has its part."""
    name = cell_text(cell)
    return Text(name.replace("/", "/\n ", 1) if len(name) > LONG_NAME else name)


def _cell(cell: Cell) -> Text:
    between = interval(cell) if isinstance(cell, Estimate) else ""
    text = Text(cell_text(cell))
    return text.append(f"\n{between}", style="dim") if between else text


def _comparisons(comparisons: Sequence[Comparison]) -> RenderableType:
    both = pair(tuple(comparisons))
    grid = Grid(box=SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    grid.add_column("measure", overflow="fold")
    if not both:
        grid.add_column("models", overflow="fold")
    grid.add_column("verdict", overflow="fold")
    grid.add_column("difference", justify="right", overflow="fold")
    grid.add_column("p", justify="right", no_wrap=True)
    for row in comparisons:
        verdict = Text(f"{MARKS[row.verdict]} {row.verdict}", style=STYLES[row.verdict])
        if row.reason:
            verdict.append(f"\n{one_line(row.reason)}", style="dim not bold")
        names = [] if both else [Text(f"{one_line(row.model)} against {one_line(row.rival)}")]
        grid.add_row(_name(row.measure), *names, verdict, _cell(row.difference), p_value(row.p_value))
    if both is None:
        return grid
    return Group(Text(f"{one_line(both[0])} against {one_line(both[1])}"), grid)
