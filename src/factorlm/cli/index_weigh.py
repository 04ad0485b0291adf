"""factorlm index weigh: how much a memory may say, learned on texts that it was not built from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from factorlm.cli.index_build import Documents, Field, corpus_settings
from factorlm.cli.index_query import Place

GATES = ("constant", "two", "table", "logistic")


def weigh(
    index: Place,
    held_out: Annotated[list[Path], typer.Option("--held-out", help="Texts like those it will meet, but not in it.")],
    name: Annotated[str, typer.Option("--name", help="Of the weights, such as legal; asked for as INDEX@NAME.")] = "",
    kind: Annotated[str, typer.Option("--kind", help="constant, two, table or logistic.")] = "logistic",
    model: Annotated[str, typer.Option("--model", help="What it is mixed with: a name or an expression.")] = "",
    documents: Documents = "whole",
    field: Field = "text",
    num_tokens: Annotated[int, typer.Option("--num-tokens", min=100, help="Read at most.")] = 20_000,
    dtype: Annotated[str, typer.Option("--dtype", help="Number format: auto, float32 or bfloat16.")] = "auto",
) -> None:
    """Learn how much a memory may say, by what it knows of its own answer, on texts it was not built from.

    Example: factorlm index weigh office --held-out other-letters.txt
    """
    from factorlm.cli.index_kinds import reading
    from factorlm.cli.terminal import console, notes, progress
    from factorlm.errors import UnknownNameError
    from factorlm.inference.expression import compose
    from factorlm.memory.card import MemoryCardMarks, read_card
    from factorlm.memory.learned_weights import learn_weights
    from factorlm.memory.weighing import Weighing

    if kind not in GATES:
        raise UnknownNameError.of("kind of weights", kind, GATES)
    settings = Weighing(kind=kind, num_tokens=num_tokens)  # type: ignore[arg-type]
    card, texts = read_card(index, MemoryCardMarks), reading(held_out, corpus_settings(documents, field))
    composed = compose(model or card.model.name, dtype=dtype)
    rows: list[list[int]] = []
    for document in texts.documents(lambda *_: None):
        rows.append(composed.model.lm.encode_text(document.text))
        if sum(map(len, rows)) >= num_tokens:
            break
    about = ", ".join(path.name for path in texts.files)
    with progress() as report:
        gate = learn_weights(
            index, composed.model.lm, composed.model.factor, rows, settings,
            name=name, mixed_with=composed.expression, learned_on=about, report=report,
        )  # fmt: skip
    for line in texts.troubles.sentences():
        notes.print(f"[yellow]{line}[/yellow]", soft_wrap=True)
    console.print(f"{gate.model_nats:.3f} to {gate.mixed_nats:.3f} nats a token on {gate.num_tokens:,} tokens")
    asked = f"{index}@{name}" if name else str(index)
    notes.print(f'try: factorlm generate "..." --memory {asked}', markup=False, soft_wrap=True)
