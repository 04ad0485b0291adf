"""An ∞-gram index on disk: its card, opening one, and checking every byte of it."""

# Axes: N tokens, D documents.

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from factorlm.errors import InputError, IntegrityError
from factorlm.memory.card import (
    CARD,
    FileMark,
    MemoryCard,
    ModelMark,
    changed_files,
    is_memory,
    read_card,
    write_card,
)
from factorlm.memory.engine import Engine
from factorlm.memory.merging import first_disorder
from factorlm.memory.shard import Shard, token_bytes
from factorlm.memory.suffixes import separator_of
from factorlm.models.progress import Report, quiet
from factorlm.settings import Config

CHECKED = 1 << 20  # suffixes checked at once


class ShardMark(Config):
    """Sizes of a shard."""

    num_documents: int
    num_tokens: int


class InfiniCard(MemoryCard):
    """What is said of an ∞-gram index.

    Attributes:
        width: bytes of a token.
        vocabulary_size: tokens that there are.
        shards: in order.
        removed: documents taken out since it was built.
    """

    kind: Literal["infini"] = "infini"
    width: Literal[1, 2, 4]
    vocabulary_size: int
    shards: tuple[ShardMark, ...]
    removed: int = 0


@dataclass(frozen=True, eq=False)
class InfiniIndex:
    """An index that is open.

    Attributes:
        path: of the folder.
        card: what is said of it.
        engine: counts.
    """

    path: Path
    card: InfiniCard
    engine: Engine


def open_index(path: Path | str) -> InfiniIndex:
    """Open an index: its files are mapped, and read when they are asked.

    Raises:
        InputError: if there is none.
        IntegrityError: if a file is missing or has another size.
    """
    card = read_card(path, InfiniCard)
    return InfiniIndex(Path(path), card, engine_of(Path(path), len(card.shards), card.width, card.vocabulary_size))


def engine_of(folder: Path, num_shards: int, width: int, vocabulary_size: int) -> Engine:
    """The shards of a folder."""
    return Engine(tuple(Shard(folder, k, width, vocabulary_size + 1).mapped() for k in range(num_shards)))


def adopt(
    path: Path,
    mark: ModelMark,
    vocabulary_size: int,
    *,
    width: Literal[1, 2, 4] | None = None,
    licence: str = "",
    report: Report = quiet,
) -> InfiniCard:
    """Make a public index, of which there is no card, one of ours: its files stay as they are, a card is added.

    Args:
        path: folder with tokenized.K, table.K and offset.K.
        mark: the model whose tokens it holds.
        vocabulary_size: tokens of that model.
        width: bytes of a token; None takes as few as hold all tokens.
        licence: of the corpus.
        report: told of progress.

    Raises:
        InputError: if there is no such folder, it has a card, or its separators are not those of the layout.
        IntegrityError: if its files do not fit each other.
    """
    if is_memory(path):
        raise InputError(f"{path} has an {CARD} already, so there is nothing to adopt; factorlm index verify checks it")
    numbers = sorted(int(p.suffix[1:]) for p in path.glob("tokenized.*") if p.suffix[1:].isdigit())
    if not numbers or numbers != list(range(len(numbers))):
        raise InputError(
            f"a folder with tokenized.0, tokenized.1, ... is needed, got {path}; name an infini-gram index"
        )
    width = width or token_bytes(vocabulary_size)
    for number in numbers:
        if (path / f"tokenized.{number}").stat().st_size % width:
            raise IntegrityError(f"tokenized.{number} of {path} holds no tokens of {width} bytes; it cannot be adopted")
    engine = engine_of(path, len(numbers), width, vocabulary_size)
    marks = []
    for shard in engine.shards:
        problem = next(_problems(shard, vocabulary_size, report), None)
        if problem is not None:
            raise IntegrityError(f"{problem}; it cannot be adopted")
        marks.append(ShardMark(num_documents=shard.num_documents, num_tokens=len(shard.text_N)))
    files = {p.name: FileMark.of(p) for p in sorted(path.iterdir()) if p.is_file()}
    card = InfiniCard(
        model=mark, num_documents=engine.num_documents, num_tokens=engine.num_tokens - engine.num_documents,
        licence=licence, files=files, width=width, vocabulary_size=vocabulary_size, shards=tuple(marks),
    )  # fmt: skip
    write_card(path, card)
    return card


def verify(path: Path | str, report: Report = quiet) -> list[str]:
    """Sentences on everything that is wrong with an index: bytes that changed, and a table that is not in order.

    Raises:
        InputError: if there is none.
        IntegrityError: if a file is missing or has another size.
    """
    index = open_index(path)
    found = changed_files(index.path, index.card, report)
    for shard in index.engine.shards:
        found += list(_problems(shard, index.card.vocabulary_size, report))
    return found


def _problems(shard: Shard, vocabulary_size: int, report: Report) -> Iterator[str]:
    """Sentences on what does not fit in a shard, the first of each kind."""
    name, text_N = f"shard {shard.number} of {shard.folder}", shard.text_N
    separator = separator_of(shard.width)
    begins = np.flatnonzero(text_N == separator)
    if len(text_N) and (len(begins) == 0 or begins[0] != 0):
        yield f"{name} does not begin with a separator of {shard.width} bytes"
        return
    if not np.array_equal(begins.astype(np.uint64) * np.uint64(shard.width), shard.offset_D):
        yield f"{name} has documents that do not begin at its separators"
    too_large = text_N[(text_N != separator) & (text_N >= vocabulary_size)]
    if len(too_large):
        yield f"{name} has token {int(too_large[0])}, and there are only {vocabulary_size}"
    seen_N = np.zeros(len(text_N), np.bool_)
    for begin in range(0, len(text_N), CHECKED):
        report("order of suffixes", begin, len(text_N))
        end = min(begin + CHECKED, len(text_N))
        rank = first_disorder(text_N, shard.table_NP, shard.width, begin, end, seen_N)
        if rank >= 0:
            yield f"{name} has suffixes out of order at rank {rank}"
            return
    report("order of suffixes", len(text_N), len(text_N))
