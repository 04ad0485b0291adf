"""factorlm index query for passages and neighbours: what is near to a text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from factorlm.errors import InputError

SHOWN_CHARACTERS = 160  # of a passage
Near = Callable[[Path, str, int, str, str], list[dict[str, Any]]]


def passages(index: Path, text: str, top: int, retriever: str, model: str) -> list[dict[str, Any]]:
    """The best passages for a text."""
    from factorlm.memory.retrievers import open_passages

    opened = open_passages(index, retriever)
    [hits] = opened.search([text], top)
    found = []
    for hit in hits:
        passage = opened.store.passage(hit.passage)
        found.append(
            {"score": hit.score, "source": passage.source, "line": passage.line, "document": passage.document,
             "text": passage.text}
        )  # fmt: skip
    return found


def neighbours(index: Path, text: str, top: int, retriever: str, model: str) -> list[dict[str, Any]]:
    """The stored states nearest to that of a text."""
    from factorlm.cli.index_kinds import loaded
    from factorlm.memory.card import MemoryCardMarks, read_card
    from factorlm.memory.neighbours import open_neighbours

    lm = loaded(model or read_card(index, MemoryCardMarks).model.name)
    found = open_neighbours(index, lm).nearest(text)[:top]
    return [
        {"distance": n.distance, "prob": n.prob, "source": n.source, "line": n.line, "document": n.document,
         "before": lm.vocabulary.text(n.context), "token": lm.vocabulary.text([n.token])}
        for n in found
    ]  # fmt: skip


def nothing(index: Path, text: str, top: int, retriever: str, model: str) -> list[dict[str, Any]]:
    """A network cannot say what it has seen."""
    raise InputError(f"{index} is a network, which cannot tell what it learned from; ask the knn memory it imitates")


def show_passages(places: list[dict[str, Any]]) -> None:
    """For a terminal."""
    from rich.text import Text

    from factorlm.cli.terminal import console

    for place in places:
        console.print(Text(f"{place['score']:.3f}  {_where(place)}", style="cyan"))
        text = " ".join(place["text"].split())
        console.print(Text(text[:SHOWN_CHARACTERS] + ("…" if len(text) > SHOWN_CHARACTERS else "")))
    if not places:
        console.print("no passage has any of its words")


def show_neighbours(places: list[dict[str, Any]]) -> None:
    """For a terminal."""
    from rich.table import Table
    from rich.text import Text

    from factorlm.cli.terminal import console

    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("distance", "prob"):
        table.add_column(heading, justify="right")
    table.add_column("what followed where")
    table.add_column("in", style="cyan", no_wrap=True)
    for place in places:
        line = Text(place["before"].replace("\n", " "), style="dim")
        line.append(place["token"].replace("\n", " "), style="bold not dim")
        table.add_row(f"{place['distance']:.3f}", f"{place['prob']:.2f}", line, _where(place))
    console.print(table)


def _where(place: dict[str, Any]) -> str:
    return f"{Path(place['source']).name}:{place['line']}"


NEAR: dict[str, tuple[Near, Callable[[list[dict[str, Any]]], None]]] = {
    "passages": (passages, show_passages),
    "knn": (neighbours, show_neighbours),
    "mlp": (nothing, show_neighbours),
}
