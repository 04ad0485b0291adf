"""Changing ∞-gram indexes: documents come and go, indexes are joined; whole or not at all, while others read."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from factorlm.errors import IncompatibleError, InputError
from factorlm.memory.building import BuildSettings, Encode, build, sums_of
from factorlm.memory.card import write_memory
from factorlm.memory.infini import InfiniCard, InfiniIndex, ShardMark, open_index
from factorlm.memory.shard import PARTS, ShardWriter
from factorlm.memory.suffixes import write_table
from factorlm.models.progress import Report, quiet


def append(
    path: Path, files: Sequence[Path], encode: Encode, settings: BuildSettings, *, report: Report = quiet
) -> InfiniCard:
    """Add documents to an index, as further shards; `merge` makes one of many.

    Args:
        path: of the index.
        files: what to add.
        encode: from texts to tokens, as the index was built with.
        settings: of what and how.
        report: told of progress.

    Raises:
        InputError: if there is no index, or no document.
    """
    index = open_index(path)
    fresh = path.with_name(f".{path.name}.added")
    if fresh.exists():
        shutil.rmtree(fresh)
    build(files, fresh, encode, index.card.model, index.card.vocabulary_size, settings, report=report)
    try:
        added = open_index(fresh)
        num_old, num_new = len(index.card.shards), len(added.card.shards)

        def fill(folder: Path) -> None:
            _linked(path, folder, [(k, k) for k in range(num_old)])
            _linked(fresh, folder, [(k, num_old + k) for k in range(num_new)])

        known = [path / name for name in index.card.files]
        write_memory(path, _common_card([index, added]), fill, replace=True, known=known)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return open_index(path).card


def remove(path: Path, documents: Iterable[int], settings: BuildSettings, *, report: Report = quiet) -> InfiniCard:
    """Take documents out of an index; the shards that had some are sorted anew.

    Args:
        path: of the index.
        documents: their numbers, counted through all shards; the others move up.
        settings: of memory for sorting.
        report: told of progress.

    Raises:
        InputError: if a number is too large, or nothing would be left.
    """
    index = open_index(path)
    doomed = set(documents)
    if not doomed:
        return index.card
    if min(doomed) < 0 or max(doomed) >= index.card.num_documents:
        raise InputError(f"{path} has documents 0 to {index.card.num_documents - 1}, got {max(doomed)}")
    if len(doomed) == index.card.num_documents:
        raise InputError(f"an index has at least one document, and none would be left of {path}; remove its folder")
    before = 0
    names: list[tuple[int, int]] = []
    shards: list[ShardMark] = []
    changed: list[tuple[int, int, set[int]]] = []
    for k, (shard, mark) in enumerate(zip(index.engine.shards, index.card.shards, strict=True)):
        mine = {number - before for number in doomed if before <= number < before + mark.num_documents}
        before += mark.num_documents
        if len(mine) == mark.num_documents:
            continue
        if not mine:
            names.append((k, len(shards)))
            shards.append(mark)
            continue
        gone = sum(len(shard.document(number)) + 1 for number in mine)
        changed.append((k, len(shards), mine))
        shards.append(ShardMark(num_documents=mark.num_documents - len(mine), num_tokens=mark.num_tokens - gone))

    def fill(folder: Path) -> None:
        _linked(path, folder, names)
        for old, new, mine in changed:
            writer = ShardWriter(folder, new, index.card.width)
            shard = index.engine.shards[old]
            for number in range(shard.num_documents):
                if number not in mine:
                    writer.add(shard.document(number), shard.metadata(number))
            writer.close()
            memory_bytes = int(settings.memory_gib * 2**30)
            table = folder / f"table.{new}"
            write_table(folder / f"tokenized.{new}", index.card.width, table, memory_bytes, report)

    card = index.card.model_copy(update={"removed": index.card.removed + len(doomed), **sums_of(shards)})
    write_memory(path, card, fill, replace=True)
    return open_index(path).card


def merge(
    paths: Sequence[Path], target: Path, settings: BuildSettings, *, replace: bool = False, report: Report = quiet
) -> InfiniCard:
    """One index of several, or of one with several shards: in one shard, sorted as if it had been built at once.

    Args:
        paths: of the indexes, of the same tokens.
        target: where the new one goes; it may be one of them, with `replace`.
        settings: of memory for sorting.
        replace: whether an index that is there may go.
        report: told of progress.

    Raises:
        InputError: if their tokens differ.
    """
    indexes = [open_index(path) for path in paths]
    card = _common_card(indexes)
    shards = [shard for index in indexes for shard in index.engine.shards]
    mark = ShardMark(num_documents=card.num_documents, num_tokens=sum(len(s.text_N) for s in shards))

    def fill(folder: Path) -> None:
        writer = ShardWriter(folder, 0, card.width)
        for done, shard in enumerate(shards, 1):
            for number in range(shard.num_documents):
                writer.add(shard.document(number), shard.metadata(number))
            report("copying", done, len(shards))
        writer.close()
        memory_bytes = int(settings.memory_gib * 2**30)
        write_table(folder / "tokenized.0", card.width, folder / "table.0", memory_bytes, report)

    whole = card.model_copy(update={"shards": (mark,)})
    write_memory(target, whole, fill, replace=replace)
    return open_index(target).card


def _linked(source: Path, folder: Path, pairs: Sequence[tuple[int, int]]) -> None:
    """The files of some shards under other numbers: the same bytes on disk, not copies."""
    for old, new in pairs:
        for part in PARTS:
            if (source / f"{part}.{old}").is_file():  # a public index may have no metadata
                os.link(source / f"{part}.{old}", folder / f"{part}.{new}")


def _common_card(indexes: Sequence[InfiniIndex]) -> InfiniCard:
    """The card of several indexes together.

    Raises:
        InputError: if there are none.
        IncompatibleError: if they hold other tokens.
    """
    if not indexes:
        raise InputError("at least one index is needed to merge, got none")
    first, *others = (index.card for index in indexes)
    for index, card in zip(indexes[1:], others, strict=True):
        if (card.model.vocabulary, card.width) != (first.model.vocabulary, first.width):
            raise IncompatibleError(
                f"{index.path} holds tokens of {card.model.name}, and {indexes[0].path} those of {first.model.name}; "
                "build them with one model"
            )
    troubles: dict[str, int] = {}
    for card in (first, *others):
        for what, number in card.troubles.items():
            troubles[what] = troubles.get(what, 0) + number
    shards = [shard for index in indexes for shard in index.card.shards]
    return first.model_copy(
        update={
            "sources": tuple(source for index in indexes for source in index.card.sources),
            "troubles": troubles,
            "licence": "; ".join(dict.fromkeys(c.licence for c in (first, *others) if c.licence)),
            "removed": sum(card.removed for card in (first, *others)),
            **sums_of(shards),
        }
    )
