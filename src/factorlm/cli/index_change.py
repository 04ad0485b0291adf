"""factorlm index append, remove, merge and verify: memories that change."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from factorlm.cli.index_build import Corpus, Documents, Field, MemoryGib, Replace, corpus_settings, tell
from factorlm.cli.index_query import Place

if TYPE_CHECKING:
    from factorlm.memory.card import MemoryCard


def append(
    index: Place, corpus: Corpus, documents: Documents = "whole", field: Field = "text", memory_gib: MemoryGib = 4.0
) -> None:
    """Add documents to a memory. An ∞-gram index gets a further shard for them; merge makes one of many.

    Example: factorlm index append office new-letters/
    """
    from factorlm.cli.index_kinds import loaded, reading, tools, use_all_cores
    from factorlm.cli.terminal import progress
    from factorlm.memory.card import MemoryCardMarks, check_model, read_card

    found, texts = read_card(index, MemoryCardMarks), reading(corpus, corpus_settings(documents, field))
    _check_kind(index, found.kind)
    lm = loaded(found.model.name)
    check_model(index, found.model, lm)
    card: MemoryCard
    with progress() as report:
        if found.kind == "infini":
            from factorlm.memory.building import BuildSettings
            from factorlm.memory.changing import append

            use_all_cores()
            settings = BuildSettings(corpus=texts.texts, memory_gib=memory_gib)
            card = append(index, texts.files, lm.encode_texts, settings, report=report)
        elif found.kind == "knn":
            from factorlm.memory.neighbour_building import append_neighbours

            card = append_neighbours(
                lm, index, texts.documents(report), troubles=texts.troubles, sources=texts.sources, report=report
            )
        else:
            from factorlm.memory.passages import PassageStore
            from factorlm.memory.retrievers import append_documents

            with_what = tools(lm, PassageStore.open(index).card.settings)
            card = append_documents(
                index, texts.documents(report), **with_what, sources=texts.sources, troubles=texts.counts
            ).card
    tell(index, card)


def remove(
    index: Place,
    document: Annotated[list[int], typer.Option("--document", help="Number of one to take out.")] = [],  # noqa: B006
    containing: Annotated[
        list[str], typer.Option("--containing", help="Take out all that have these words (infini).")
    ] = [],  # noqa: B006
    source: Annotated[list[str], typer.Option("--source", help="Take out all of this file.")] = [],  # noqa: B006
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how many they are.")] = False,
    memory_gib: MemoryGib = 4.0,
) -> None:
    """Take documents out of a memory, as if they had never been there.

    Example: factorlm index remove office --containing "Project Bluebird"
    """
    from factorlm.cli.terminal import console, progress
    from factorlm.errors import InputError
    from factorlm.memory.card import MemoryCardMarks, read_card

    if not (document or containing or source):
        raise InputError("--document, --containing or --source is needed to say what goes, got none of them")
    found = read_card(index, MemoryCardMarks)
    _check_kind(index, found.kind)
    if containing and found.kind != "infini":
        raise InputError(f"only an ∞-gram index knows where words stand, got a {found.kind} memory; give --source")
    doomed = set(document) | _containing(index, containing) | _of_sources(index, found.kind, set(source))
    told = f"{len(doomed):,} of {found.num_documents:,} documents"
    if dry_run or not doomed:
        console.print(f"{told} would go" if doomed else "no document is like that; nothing was changed")
        return
    card: MemoryCard
    with progress() as report:
        if found.kind == "infini":
            from factorlm.memory.building import BuildSettings
            from factorlm.memory.changing import remove

            card = remove(index, doomed, BuildSettings(memory_gib=memory_gib), report=report)
        elif found.kind == "knn":
            from factorlm.memory.neighbour_building import remove_neighbours

            card = remove_neighbours(index, doomed)
        else:
            from factorlm.memory.retrievers import remove_documents

            card = remove_documents(index, doomed, report=report).card
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
    from factorlm.memory.card import MemoryCardMarks, changed_files, read_card
    from factorlm.memory.infini import verify as verify_infini

    card = read_card(index, MemoryCardMarks)
    with progress() as report:
        found = verify_infini(index, report) if card.kind == "infini" else changed_files(index, card, report)
    if found:
        more = f"; and {len(found) - 1} more" if len(found) > 1 else ""
        raise IntegrityError(f"{found[0]}{more}; copy it again, or build it anew")
    console.print(f"{index} is whole")


def _containing(index: Path, words: list[str]) -> set[int]:
    """Numbers of the documents of an ∞-gram index that have some words, as they are or behind a space."""
    if not words:
        return set()
    from factorlm.cli.index_kinds import loaded
    from factorlm.memory.infini import open_index

    found = open_index(index)
    lm = loaded(found.card.model.name)
    variants = [variant for some in words for variant in (some, f" {some}")]
    return {number for text in variants for number in found.engine.documents_with(lm.encode_text(text))}


def _of_sources(index: Path, kind: str, wanted: set[str]) -> set[int]:
    """Numbers of the documents of some files, by path or by name."""
    if not wanted:
        return set()
    if kind == "infini":
        from factorlm.memory.infini import open_index

        shards = open_index(index).engine.shards
        paths = [str(shard.metadata(n).get("path", "")) for shard in shards for n in range(shard.num_documents)]
    elif kind == "knn":
        from factorlm.memory.datastore import Datastore

        paths = [str(document["source"]) for document in Datastore.open(index).documents]
    else:
        from factorlm.memory.passages import PassageStore

        store = PassageStore.open(index)
        return set(store.documents_of([path for path in store.sources if path in wanted or Path(path).name in wanted]))
    return {number for number, path in enumerate(paths) if path in wanted or Path(path).name in wanted}


def _check_kind(index: Path, kind: str) -> None:
    from factorlm.errors import InputError

    if kind == "mlp":
        raise InputError(f"{index} is a network that has learned; change its knn memory, and learn anew")
