"""Corpora cut into shards: stretches of files that begin and end where documents do, the same ones every time.

A shard is closed at the first place where a document may end and at least `shard_bytes` are in it, so small files go
together and large ones are parted. A file that is one document is never parted. Each shard knows a hash of its text,
so that a file that was changed is noticed.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import zlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any, cast

from factorlm.engines.corpus_rows import PARQUET, column_of
from factorlm.errors import InputError
from factorlm.memory.corpus import (
    BLOCK,
    ENDINGS,
    HEADING,
    CorpusSettings,
    Document,
    Troubles,
    cleaned,
    corpus_files,
    holds_objects,
    read_stream,
)
from factorlm.models.progress import Report, quiet
from factorlm.settings import Config

UNREADABLE = "files that could not be read to their end"


class Piece(Config):
    """A stretch of a file.

    Attributes:
        name: of the file, below the folder that was given.
        start: its first byte, unpacked; of a parquet file its first row.
        end: the byte or row behind it.
        num_before: lines, or rows, that stand before it.
    """

    name: str
    start: int
    end: int
    num_before: int


class Shard(Config):
    """What is scored, written and redone as a whole.

    Attributes:
        index: its place in the corpus.
        pieces: its stretches of files.
        num_bytes: of text.
        sha256: of the text, the names of the files and the lines.
        is_torn: whether a file could not be read any further than this, so that errors are no surprise.
    """

    index: int
    pieces: tuple[Piece, ...]
    num_bytes: int
    sha256: str
    is_torn: bool = False


class Source(Config):
    """A file of the corpus, as it was when it was cut.

    Attributes:
        name: below the folder that was given, or its own.
        num_bytes: of the file.
        changed_ns: when it was last changed.
    """

    name: str
    num_bytes: int
    changed_ns: int


def sources_of(place: Path) -> tuple[Path, tuple[Source, ...]]:
    """The folder that names stand below, and the files of a file or folder, in order.

    Raises:
        InputError: if there are none.
    """
    found = corpus_files([place], (*ENDINGS, PARQUET))
    root = place if place.is_dir() else place.parent
    stats = [(path, path.stat()) for path in found]
    return root, tuple(
        Source(name=path.relative_to(root).as_posix(), num_bytes=stat.st_size, changed_ns=stat.st_mtime_ns)
        for path, stat in stats
    )


def cut(
    root: Path,
    sources: Sequence[Source],
    settings: CorpusSettings,
    shard_bytes: int,
    troubles: Troubles,
    report: Report = quiet,
) -> list[Shard]:
    """The shards of a corpus; every file is read once, and nothing is decoded.

    Args:
        root: folder that the names stand below.
        sources: the files.
        settings: what a document is.
        shard_bytes: least bytes of text in a shard, but for the last one.
        troubles: files that cannot be read are counted here.
        report: told of kilobytes on disk.
    """
    cutter = _Cutter(shard_bytes)
    total, done = sum(source.num_bytes for source in sources), 0
    for source in sources:
        path = root / source.name
        cutter.open(source.name)
        try:
            if path.suffix == PARQUET:
                _cut_rows(path, settings.field, cutter, troubles)
            else:
                with path.open("rb") as raw, _unpacked(path, raw) as stream:
                    told = 0
                    while line := stream.readline(BLOCK):
                        _cut_line(line, path, settings, cutter)
                        if cutter.place - told > BLOCK:
                            told = cutter.place
                            report("cutting (kB)", (done + raw.tell()) // 1000, total // 1000)
        except (OSError, EOFError, zlib.error) as error:
            troubles.note(UNREADABLE, f"{source.name}: {error}")
            cutter.tear()
        cutter.may_close()
        done += source.num_bytes
    return cutter.finish()


def read_shard(root: Path, shard: Shard, settings: CorpusSettings, troubles: Troubles) -> Iterator[Document]:
    """The documents of a shard; their sources are names below the root.

    Raises:
        InputError: at the end, if the text is not what it was when the corpus was cut.
    """
    digest = hashlib.sha256()
    for piece in shard.pieces:
        path = root / piece.name
        digest.update(_head(piece.name, piece.num_before))
        try:
            if path.suffix == PARQUET:
                texts = _texts_of_rows(path, piece, settings.field, digest, troubles)
                yield from cleaned(texts, piece.name, settings, troubles)
            else:
                with path.open("rb") as raw, _unpacked(path, raw) as stream:
                    part = io.BufferedReader(_Part(stream, piece, digest), BLOCK)
                    yield from read_stream(part, Path(piece.name), settings, troubles, piece.num_before)
        except (OSError, EOFError, zlib.error) as error:
            if not shard.is_torn:
                raise InputError(f"{path} was read when the corpus was cut, but not now: {error}; see to it") from None
    if digest.hexdigest() != shard.sha256 and not shard.is_torn:
        names = ", ".join(piece.name for piece in shard.pieces[:3])
        raise InputError(f"the text of shard {shard.index} ({names}) has changed while it was scored; begin anew")


class _Cutter:
    """Collects stretches of files until they are large enough."""

    pieces: list[Piece]
    first: tuple[int, int] | None  # place and line where the piece begins that is being taken
    num_bytes: int
    is_torn: bool
    digest: Any

    def __init__(self, shard_bytes: int) -> None:
        self.shard_bytes = shard_bytes
        self.shards: list[Shard] = []
        self.name, self.place, self.line = "", 0, 0
        self._begin()

    def open(self, name: str) -> None:
        """A new file."""
        self._end_piece()
        self.name, self.place, self.line = name, 0, 0

    def take(self, content: bytes, length: int, num_lines: int) -> None:
        """What stands next in the file: what is hashed of it, and how many places and lines it takes."""
        if self.first is None:
            self.digest.update(_head(self.name, self.line))
            self.first = (self.place, self.line)
        self.digest.update(content)
        self.num_bytes += len(content)
        self.place += length
        self.line += num_lines

    def may_close(self) -> None:
        """A document may end here."""
        if self.num_bytes >= self.shard_bytes:
            self._close()

    def tear(self) -> None:
        """The file cannot be read further."""
        self.is_torn = self.first is not None
        if not self.is_torn and self.shards and self.shards[-1].pieces[-1].name == self.name:
            self.shards[-1] = self.shards[-1].model_copy(update={"is_torn": True})

    def finish(self) -> list[Shard]:
        """All shards."""
        if self.num_bytes:
            self._close()
        return self.shards

    def _close(self) -> None:
        self._end_piece()
        self.shards.append(
            Shard(
                index=len(self.shards),
                pieces=tuple(self.pieces),
                num_bytes=self.num_bytes,
                sha256=self.digest.hexdigest(),
                is_torn=self.is_torn,
            )
        )
        self._begin()

    def _begin(self) -> None:
        self.pieces, self.first = [], None
        self.num_bytes, self.is_torn = 0, False
        self.digest = hashlib.sha256()

    def _end_piece(self) -> None:
        if self.first is not None:
            start, line = self.first
            self.pieces.append(Piece(name=self.name, start=start, end=self.place, num_before=line))
            self.first = None


def _cut_line(line: bytes, path: Path, settings: CorpusSettings, cutter: _Cutter) -> None:
    """One more line, or a block of a line that is longer than one."""
    is_whole = line.endswith(b"\n")
    kind = "lines" if holds_objects(path) else settings.documents
    if kind == "headings" and line.startswith(b" = ") and HEADING.fullmatch(line.decode(errors="replace")):
        cutter.may_close()
    cutter.take(line, len(line), is_whole)
    if is_whole and (kind == "lines" or (kind == "paragraphs" and not line.strip())):
        cutter.may_close()


def _cut_rows(path: Path, column: str, cutter: _Cutter, troubles: Troubles) -> None:
    for text in column_of(path, column, 0, None, troubles):
        cutter.take(_of_row(text), 1, 1)
        cutter.may_close()


def _texts_of_rows(path: Path, piece: Piece, column: str, digest: Any, troubles: Troubles) -> Iterator[tuple[str, int]]:
    for row, text in enumerate(column_of(path, column, piece.start, piece.end, troubles), piece.start + 1):
        digest.update(_of_row(text))
        if text is None:
            troubles.note(f"rows without a text in {column!r}, left out", f"{piece.name}:{row}")
        else:
            yield text, row


def _of_row(text: str | None) -> bytes:
    """What is hashed of a row: its text, and where it ends."""
    return b"-" if text is None else b"%d:" % len(text) + text.encode(errors="replace")


def _head(name: str, num_before: int) -> bytes:
    return f"\0{name}\0{num_before}\0".encode(errors="replace")


def _unpacked(path: Path, raw: IO[bytes]) -> AbstractContextManager[IO[bytes]]:
    return cast(AbstractContextManager[IO[bytes]], gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw)


class _Part(io.RawIOBase):
    """A stretch of a stream, hashed as it is read."""

    def __init__(self, stream: IO[bytes], piece: Piece, digest: Any) -> None:
        stream.seek(piece.start)
        self.stream, self.digest, self.left = stream, digest, piece.end - piece.start

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer; 0 at the end."""
        found = cast(Any, self.stream).read1(min(len(buffer), self.left)) if self.left else b""
        self.digest.update(found)
        self.left -= len(found)
        buffer[: len(found)] = found
        return len(found)
