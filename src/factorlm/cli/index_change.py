"""factorlm index append, remove, merge, verify and weigh: memories that change, and how much they may say."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from factorlm.cli.index_build import Corpus, Documents, Field, MemoryGib, Replace, corpus_settings, tell, use_all_cores
from factorlm.cli.index_query import Place


def append(
    index: Place, corpus: Corpus, documents: Documents = "whole", field: Field = "text", memory_gib: MemoryGib = 4.0
) -> None:
    """Add documents to an ∞-gram index, as a further shard; merge makes one of many.

    Example: factorlm index append office new-letters/
    """
    from factorlm.cli.terminal import progress
    from factorlm.memory import changing
    from factorlm.memory.building import BuildSettings
    from factorlm.memory.card import check_model
    from factorlm.memory.corpus import corpus_files
    from factorlm.memory.infini import open_index
    from factorlm.models.loading import load_model

    settings = BuildSettings(corpus=corpus_settings(documents, field), memory_gib=memory_gib)
    found, files = open_index(index), corpus_files(corpus)
    lm = load_model(found.card.model.name)
    check_model(index, found.card.model, lm)
    use_all_cores()
    with progress() as report:
        card = changing.append(index, files, lm.encode_texts, settings, report=report)
    tell(index, card)


def remove(
    index: Place,
    document: Annotated[list[int], typer.Option("--document", help="Number of one to take out.")] = [],  # noqa: B006
    containing: Annotated[list[str], typer.Option("--containing", help="Take out all that have these words.")] = [],  # noqa: B006
    source: Annotated[list[str], typer.Option("--source", help="Take out all of this file.")] = [],  # noqa: B006
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how many they are.")] = False,
    memory_gib: MemoryGib = 4.0,
) -> None:
    """Take documents out of an ∞-gram index, as if they had never been there.

    Example: factorlm index remove office --containing "Project Bluebird"
    """
    from factorlm.cli.terminal import console, progress
    from factorlm.errors import InputError
    from factorlm.memory import changing
    from factorlm.memory.building import BuildSettings
    from factorlm.memory.infini import open_index
    from factorlm.models.loading import load_model

    if not (document or containing or source):
        raise InputError("--document, --containing or --source is needed to say what goes, got none of them")
    found = open_index(index)
    doomed = set(document)
    if containing:
        lm = load_model(found.card.model.name)
        for words in containing:
            for variant in (words, f" {words}"):
                doomed |= set(found.engine.documents_with(lm.encode_text(variant)))
    if source:
        wanted = set(source)
        number = 0
        for shard in found.engine.shards:
            for inside in range(shard.num_documents):
                path = str(shard.metadata(inside).get("path", ""))
                if path in wanted or Path(path).name in wanted:
                    doomed.add(number)
                number += 1
    told = f"{len(doomed):,} of {found.card.num_documents:,} documents"
    if dry_run or not doomed:
        console.print(f"{told} would go" if doomed else "no document is like that; nothing was changed")
        return
    with progress() as report:
        card = changing.remove(index, doomed, BuildSettings(memory_gib=memory_gib), report=report)
    console.print(f"{told} are gone")
    tell(index, card)


def merge(
    indexes: Annotated[list[Path], typer.Argument(help="Folders of ∞-gram indexes; one is enough.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write to.")],
    memory_gib: MemoryGib = 4.0,
    replace: Replace = False,
) -> None:
    """Make one shard of all shards of some ∞-gram indexes, as if all had been built at once.

    Example: factorlm index merge office archive --out all
    """
    from factorlm.cli.terminal import progress
    from factorlm.memory import changing
    from factorlm.memory.building import BuildSettings

    with progress() as report:
        card = changing.merge(indexes, out, BuildSettings(memory_gib=memory_gib), replace=replace, report=report)
    tell(out, card)


def verify(index: Place) -> None:
    """Check every byte of a memory, and that a suffix array is one. Exit status 2 if something is wrong.

    Example: factorlm index verify office
    """
    from factorlm.cli.terminal import console, progress
    from factorlm.errors import IntegrityError
    from factorlm.memory.card import MemoryCardMarks, changed_files, kind_of, read_card
    from factorlm.memory.infini import verify as verify_infini

    with progress() as report:
        found = (
            verify_infini(index, report)
            if kind_of(index) == "infini"
            else changed_files(index, read_card(index, MemoryCardMarks), report)
        )
    if found:
        more = f"; and {len(found) - 1} more" if len(found) > 1 else ""
        raise IntegrityError(f"{found[0]}{more}; copy it again, or build it anew")
    console.print(f"{index} is whole")


def weigh(
    index: Place,
    held_out: Annotated[list[Path], typer.Option("--held-out", help="Texts like those it will meet, but not in it.")],
    name: Annotated[str, typer.Option("--name", help="Of the weights, such as legal; asked for as INDEX@NAME.")] = "",
    kind: Annotated[str, typer.Option("--kind", help="constant, two, table or logistic.")] = "table",
    model: Annotated[str, typer.Option("--model", help="What it is mixed with: a name or an expression.")] = "",
    documents: Documents = "whole",
    field: Field = "text",
    num_tokens: Annotated[int, typer.Option("--num-tokens", min=100, help="Read at most.")] = 20_000,
    dtype: Annotated[str, typer.Option("--dtype", help="Number format: auto, float32 or bfloat16.")] = "auto",
) -> None:
    """Learn how much a memory may say, by what it knows of its own answer, on texts it was not built from.

    Example: factorlm index weigh office --held-out other-letters.txt
    """
    from factorlm.cli.terminal import console, notes, progress
    from factorlm.errors import UnknownNameError
    from factorlm.inference.expression import compose
    from factorlm.memory.card import MemoryCardMarks, keep_gate, read_card
    from factorlm.memory.corpus import Troubles, corpus_files, read_documents
    from factorlm.memory.kinds import open_memory
    from factorlm.memory.weighing import Weighing, fit_gate, fitted, held_out_evidence

    kinds = ("constant", "two", "table", "logistic")
    if kind not in kinds:
        raise UnknownNameError.of("kind of weights", kind, kinds)
    settings = Weighing(kind=kind, num_tokens=num_tokens)  # type: ignore[arg-type]
    card, files, troubles = read_card(index, MemoryCardMarks), corpus_files(held_out), Troubles()
    texts = read_documents(files, corpus_settings(documents, field), troubles)
    composed = compose(model or card.model.name, dtype=dtype)
    lm = composed.model.lm
    memory = open_memory(index, lm).ungated
    rows = []
    for document in texts:
        rows.append(lm.encode_text(document.text))
        if sum(map(len, rows)) >= num_tokens:
            break
    with progress() as report:
        evidence = held_out_evidence(memory, composed.model.factor, rows, lm.start_ids, settings, report)
    gate = fitted(fit_gate(memory, evidence, settings), evidence, composed.expression, ", ".join(f.name for f in files))
    keep_gate(index, name, gate)
    for line in troubles.sentences():
        notes.print(f"[yellow]{line}[/yellow]", soft_wrap=True)
    console.print(f"{gate.model_nats:.3f} to {gate.mixed_nats:.3f} nats a token on {gate.num_tokens:,} tokens")
    asked = f"{index}@{name}" if name else str(index)
    notes.print(f'try: factorlm generate "..." --memory {asked}', markup=False, soft_wrap=True)
