"""Building ∞-gram indexes: whole or not at all, and a broken run goes on where it stood."""

from __future__ import annotations

import hashlib
import itertools
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, PositiveFloat, PositiveInt, ValidationError

from factorlm.errors import InputError
from factorlm.files import write_whole
from factorlm.memory.card import ModelMark, SourceFile, check_place, counted, write_memory
from factorlm.memory.corpus import CorpusSettings, Document, Troubles, read_documents
from factorlm.memory.infini import InfiniCard, ShardMark
from factorlm.memory.shard import PARTS, ShardWriter, token_bytes
from factorlm.memory.suffixes import write_table
from factorlm.models.progress import Report, quiet
from factorlm.settings import Config

Encode = Callable[[Sequence[str]], list[list[int]]]
BATCH_CHARACTERS = 1 << 20  # of documents encoded together
SAVED_EVERY = 10.0  # seconds
PROGRESS = "progress.json"


class BuildSettings(Config):
    """How an index is built.

    Attributes:
        corpus: how files become documents.
        shard_tokens: of a shard, about; None makes one shard, whatever its size.
        memory_gib: that sorting may take; larger shards are sorted in pieces and merged on disk.
    """

    corpus: CorpusSettings = CorpusSettings()
    shard_tokens: PositiveInt | None = None
    memory_gib: PositiveFloat = 4.0


class _Progress(Config):
    """How far a build has come.

    Attributes:
        key: of files, settings and tokens; another one begins anew.
        done: documents that were written down.
        shards: that are whole, the last of which may be growing.
        sizes: of the files of the last shard.
        is_read: whether all documents were.
        troubles: of the files, once they were read.
        num_sorted: shards that have a table.
    """

    key: str
    done: int = 0
    shards: tuple[ShardMark, ...] = ()
    sizes: dict[str, int] = Field(default_factory=dict)
    is_read: bool = False
    troubles: dict[str, int] = Field(default_factory=dict)
    num_sorted: int = 0


def build(
    files: Sequence[Path],
    target: Path,
    encode: Encode,
    mark: ModelMark,
    vocabulary_size: int,
    settings: BuildSettings,
    *,
    licence: str = "",
    replace: bool = False,
    report: Report = quiet,
) -> InfiniCard:
    """Build an ∞-gram index of files; one that was broken off goes on, if nothing else has changed.

    Args:
        files: see `corpus_files`.
        target: the folder to write.
        encode: from texts to tokens.
        mark: the model whose tokens these are.
        vocabulary_size: tokens of that model.
        settings: of what and how.
        licence: of the corpus, as its owner states it.
        replace: whether an index that is there may go.
        report: told of progress.

    Raises:
        InputError: if there is no document in the files, or the place cannot be written.
    """
    check_place(target, replace=replace)
    work = target.with_name(f".{target.name}.building")
    sources = tuple(SourceFile(path=str(path), size=path.stat().st_size) for path in files)
    stamps = [(s.path, s.size, path.stat().st_mtime_ns) for s, path in zip(sources, files, strict=True)]
    key = hashlib.sha256(f"{stamps}{settings.model_dump_json()}{mark}{vocabulary_size}".encode()).hexdigest()
    width = token_bytes(vocabulary_size)
    try:
        state = _begun(work, key)
        if not state.is_read:
            troubles, at_byte, total = Troubles(), [0], sum(s.size for s in sources)
            documents = read_documents(files, settings.corpus, troubles, at_byte)
            state = _write_texts(
                work, state, documents, encode, width, settings.shard_tokens,
                lambda: report("reading", at_byte[0], total),
            )  # fmt: skip
            state = _save(work, state.model_copy(update={"troubles": counted(troubles)}))
        for k in range(state.num_sorted, len(state.shards)):
            memory_bytes = int(settings.memory_gib * 2**30)
            write_table(work / f"tokenized.{k}", width, work / f"table.{k}", memory_bytes, report)
            state = _save(work, state.model_copy(update={"num_sorted": k + 1}))
    except OSError as error:
        raise InputError(f"{work} cannot be written: {error.strerror or error}; make room, then run it again") from None
    if sum(shard.num_documents for shard in state.shards) == 0:
        shutil.rmtree(work, ignore_errors=True)
        told = "; ".join(f"{what}: {number}" for what, number in state.troubles.items()) or "the files are empty"
        raise InputError(f"at least one document is needed, got none: {told}")
    card = InfiniCard(
        model=mark,
        sources=sources,
        troubles=state.troubles,
        licence=licence,
        width=width,
        vocabulary_size=vocabulary_size,
        **sums_of(state.shards),
    )

    def fill(folder: Path) -> None:
        for name in (f"{part}.{k}" for k in range(len(state.shards)) for part in PARTS):
            os.link(work / name, folder / name)  # not moved: they are needed again if this is broken off

    write_memory(target, card, fill, replace=replace)
    shutil.rmtree(work, ignore_errors=True)
    return card


def sums_of(shards: Sequence[ShardMark]) -> dict[str, Any]:
    """What a card says of all shards together; separators are no tokens of documents."""
    num_documents = sum(shard.num_documents for shard in shards)
    num_tokens = sum(shard.num_tokens for shard in shards) - num_documents
    return {"shards": tuple(shards), "num_documents": num_documents, "num_tokens": num_tokens}


def _write_texts(
    work: Path,
    state: _Progress,
    documents: Iterator[Document],
    encode: Encode,
    width: int,
    shard_tokens: int | None,
    tell: Callable[[], None],
) -> _Progress:
    """Write all documents into shards, saving now and then how far that is."""
    for _ in itertools.islice(documents, state.done):  # they are there already, but must be passed
        tell()
    *whole, last = state.shards or (ShardMark(num_documents=0, num_tokens=0),)
    num_documents, done, saved = last.num_documents, state.done, time.monotonic()
    writer = ShardWriter(work, len(whole), width, state.sizes)

    def now(is_read: bool = False) -> _Progress:
        growing = ShardMark(num_documents=num_documents, num_tokens=writer.num_tokens)
        return state.model_copy(
            update={"done": done, "shards": (*whole, growing), "sizes": writer.sizes, "is_read": is_read}
        )

    try:
        for batch in _batches(documents):
            for document, token_ids in zip(batch, encode([d.text for d in batch]), strict=True):
                if shard_tokens and num_documents and writer.num_tokens >= shard_tokens:
                    whole.append(ShardMark(num_documents=num_documents, num_tokens=writer.num_tokens))
                    writer.close()
                    writer, num_documents = ShardWriter(work, len(whole), width), 0
                writer.add(token_ids, {"path": document.source, "linenum": document.line - 1})
                num_documents += 1
            done += len(batch)
            tell()
            if time.monotonic() - saved > SAVED_EVERY:
                _save(work, now())
                saved = time.monotonic()
        return now(is_read=True)
    finally:
        writer.close()


def _batches(documents: Iterator[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document.text)
        if size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _begun(work: Path, key: str) -> _Progress:
    """What a broken run of the same kind has left; anything else is thrown away."""
    place = work / PROGRESS
    if place.is_file():
        try:
            state = _Progress.model_validate_json(place.read_bytes())
        except ValidationError:
            state = _Progress(key="")
        if state.key == key:
            return state
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    return _save(work, _Progress(key=key))


def _save(work: Path, state: _Progress) -> _Progress:
    write_whole(work / PROGRESS, state.model_dump_json())
    return state
