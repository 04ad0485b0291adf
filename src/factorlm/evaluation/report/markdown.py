"""A report as Markdown, for repositories and issues; pictures are files beside it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from factorlm.evaluation.document import Block, Cell, Comparisons, Prose, Report, Samples, Table
from factorlm.evaluation.intervals import Comparison, Estimate
from factorlm.evaluation.report.numbers import measures
from factorlm.evaluation.report.page import duration, moment, pair
from factorlm.evaluation.report.pictures import Picture, summary
from factorlm.evaluation.report.writing import (
    MARKS,
    best_rows,
    cell_text,
    clean,
    interval,
    is_numeric,
    one_line,
    p_value,
)

SAMPLES = 4  # shown; all of them are on the page


def markdown(report: Report, picture_path: Callable[[Picture], str]) -> str:
    """The report in the dialect of code hosts.

    Args:
        report: what was found.
        picture_path: where a picture will be, from the Markdown's folder.
    """
    made = report.provenance
    parts = [f"# {_words(report.title)}", _bullets(report.headlines)]
    if report.cautions:
        parts.append("> **What these numbers cannot bear**\n>\n" + _quoted(_bullets(report.cautions)))
    parts += ["## Models" if len(report.models) > 1 else "## Model", "\n".join(
        f"- {_code(card.name)}" + (f": {_code(card.expression)}" if card.expression != card.name else "")
        for card in report.models
    )]  # fmt: skip
    if (table := measures(report)).rows:
        parts += ["## Measures", _table(table)]
    if report.comparisons:
        parts += ["## Comparisons", _comparisons(report.comparisons)]
    for section in report.sections:
        parts += [f"## {_words(section.title)}", _prose(section.lead)]
        for block in section.blocks:
            parts += _block(block, picture_path)
    parts += [
        "## How it was made",
        _fenced(made.command) if made.command else "",
        f"Finished {_words(moment(made.finished))}, after {duration(made.seconds)}, on {_words(made.machine)}; "
        f"seed {made.seed}"
        + (f"; commit {_code(made.commit)}" if made.commit else "")
        + ". Settings, data and versions are in report.json and report.html.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _block(block: Block, picture_path: Callable[[Picture], str]) -> list[str]:
    match block:
        case Prose():
            return [_prose(block.text)]
        case Table():
            has_best = any(best_rows(block, j) for j in range(len(block.columns)))
            legend = "Bold marks the best value of a column." if has_best else ""
            return [f"### {_words(block.title)}", _table(block), " ".join(filter(None, [_prose(block.note), legend]))]
        case Comparisons():
            return [f"### {_words(block.title)}", _comparisons(block.rows), _prose(block.note)]
        case Samples():
            found = [f"### {_words(block.title)}"]
            for heading, prompt, continuation in block.texts[:SAMPLES]:
                found += [f"**{_words(heading)}**", _quoted(_fenced(prompt)), _fenced(continuation)]
            left = len(block.texts) - SAMPLES
            return [*found, *([f"{left} more are in report.html."] if left > 0 else [])]
        case _:
            image = f"![{_words(summary(block))}]({picture_path(block)})"
            return [f"### {_words(block.title)}", image, _prose(block.note)]


def _table(table: Table) -> str:
    best = [best_rows(table, j) for j in range(len(table.columns))]
    numeric = [is_numeric(row[j] for row in table.rows) for j in range(len(table.columns))]
    head = [_words(column.title) for column in table.columns]
    rows = [
        [_cell(cell, table.columns[j].form, i in best[j]) for j, cell in enumerate(row)]
        for i, row in enumerate(table.rows)
    ]
    return _grid(head, numeric, rows) if rows else "Nothing was measured."


def _comparisons(comparisons: Sequence[Comparison]) -> str:
    both = pair(tuple(comparisons))
    lead = f"{_code(both[0])} against {_code(both[1])}; differences are the first minus the second." if both else (
        "Differences are the first model minus the second."
    )  # fmt: skip
    head = ["measure", *([] if both else ["models"]), "verdict", "difference", "p"]
    rows = [
        [
            _words(row.measure),
            *([] if both else [f"{_code(row.model, in_table=True)} against {_code(row.rival, in_table=True)}"]),
            f"{MARKS[row.verdict]} {row.verdict}" + (f" ({_words(row.reason)})" if row.reason else ""),
            _cell(row.difference, ".3g", False),
            _words(p_value(row.p_value)),
        ]
        for row in comparisons
    ]
    if not rows:
        return "Nothing was compared."
    return f"{lead}\n\n{_grid(head, [name in ('difference', 'p') for name in head], rows)}"


def _grid(head: Sequence[str], numeric: Sequence[bool], rows: Sequence[Sequence[str]]) -> str:
    rule = ["---:" if is_number else "---" for is_number in numeric]
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, rule, *rows])


def _cell(cell: Cell, form: str, is_best: bool) -> str:
    text = _words(cell_text(cell, form))
    between = interval(cell, form) if isinstance(cell, Estimate) else ""
    return (f"**{text}**" if is_best else text) + (f" ({between})" if between else "")


def _words(text: str) -> str:
    """Text on one line in which nothing is markup."""
    text = re.sub(r"([\\`*\[\]<>|~&$])", r"\\\1", one_line(text))
    text = re.sub(r"(?<!\w)_|_(?!\w)", r"\\_", text)
    return re.sub(r"^([#+-]|\d+[.)])(?=\s|$)", lambda found: f"{found[1][:-1]}\\{found[1][-1]}", text)


def _prose(text: str) -> str:
    """Words, with code between backquotes."""
    pieces = re.split(r"`([^`\n]+)`", clean(text))
    return "".join(_code(piece) if i % 2 else _edges(piece) for i, piece in enumerate(pieces)).strip()


def _edges(piece: str) -> str:
    """Escaped words that keep the blanks around them."""
    words = _words(piece)
    return (" " if piece[:1].isspace() else "") + words + (" " if words and piece[-1:].isspace() else "")


def _code(text: str, *, in_table: bool = False) -> str:
    """Text as code, fenced by more backquotes than it holds."""
    text = one_line(text)
    fence = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    pad = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{fence}{pad}{text.replace('|', chr(92) + '|') if in_table else text}{pad}{fence}"


def _fenced(text: str) -> str:
    """Text as a block of code, whatever is in it."""
    fence = "`" * max(3, max(map(len, re.findall("`+", text)), default=0) + 1)
    return f"{fence}text\n{clean(text)}\n{fence}"


def _bullets(lines: Sequence[str]) -> str:
    return "\n".join(f"- {_prose(line)}" for line in lines)


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}".rstrip() for line in text.split("\n"))
