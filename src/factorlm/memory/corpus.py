"""Documents from files that nobody has checked: broken lines are mended or left out, and counted.

Files are read as a stream, so that neither a large file nor a line without end fills the memory.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Literal

from pydantic import PositiveInt

from factorlm.errors import InputError
from factorlm.settings import Config

ENDINGS = (".txt", ".jsonl", ".md", ".rst", ".json", ".text")  # that are taken from a folder, gzipped or not
HEADING = re.compile(r" = [^=\n]+ = *\n?")  # of a WikiText article; its sections have more signs
BLOCK = 1 << 20  # bytes of a file without line ends that are looked at together
Stream = IO[bytes] | gzip.GzipFile


class CorpusSettings(Config):
    """How files become documents.

    Attributes:
        documents: what a document of plain text is: the whole file, a line, a paragraph between blank lines, or an
            article under a heading of WikiText. In .jsonl a line is one.
        field: of an object in .jsonl that holds the text.
        longest: characters of a document; a longer one becomes several, parted at white space.
        longest_line: bytes of a line in .jsonl; a longer one is left out.
    """

    documents: Literal["whole", "lines", "paragraphs", "headings"] = "whole"
    field: str = "text"
    longest: PositiveInt = 1_000_000
    longest_line: PositiveInt = 64 << 20


@dataclass(frozen=True)
class Document:
    """A text and where it stands.

    Attributes:
        text: without NULs, and UTF-8 throughout.
        source: file.
        line: its first one, counted from one.
    """

    text: str
    source: str
    line: int


@dataclass
class Troubles:
    """What was wrong in a corpus: how often, and where it was seen first."""

    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)

    def note(self, what: str, where: str) -> None:
        """One more of a kind."""
        self.counts[what] = self.counts.get(what, 0) + 1
        self.first.setdefault(what, where)

    def sentences(self) -> list[str]:
        """For people: a line for each kind."""
        return [f"{what}: {number} (first in {self.first[what]})" for what, number in sorted(self.counts.items())]


def corpus_files(paths: Sequence[Path | str], endings: Sequence[str] = ENDINGS) -> list[Path]:
    """The files of some files and folders, in order; folders are searched through and through.

    Args:
        paths: files, whatever they end in, and folders.
        endings: of the files that are taken from folders, gzipped or not.

    Raises:
        InputError: if one is not there, or a folder has no texts.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.is_file() and _plain(p).suffix in endings)
            if not inside:
                raise InputError(f"{path} has no file that ends in {', '.join(endings)}, plain or .gz; name the files")
            found += inside
        elif path.exists():
            found.append(path)
        else:
            raise InputError(f"no file or folder {path}; check the path (it is read from {Path.cwd()})")
    if not found:
        raise InputError("a corpus needs at least one file, got none")
    return found


def read_documents(
    files: Sequence[Path], settings: CorpusSettings, troubles: Troubles, at_byte: list[int] | None = None
) -> Iterator[Document]:
    """The documents of files, one after the other; what is wrong with them is counted.

    Args:
        files: see `corpus_files`.
        settings: what a document is.
        troubles: where it is counted.
        at_byte: its one entry is kept at the number of bytes read of all files, as they stand on disk.
    """
    before = 0
    for path in files:
        try:
            with path.open("rb") as raw:
                for document in _of_file(path, raw, settings, troubles):
                    if at_byte is not None:
                        at_byte[0] = before + raw.tell()
                    yield document
        except (OSError, EOFError, zlib.error) as error:
            troubles.note("files that could not be read to their end", f"{path}: {error}")
        before += path.stat().st_size if path.exists() else 0


def holds_objects(path: Path) -> bool:
    """Whether each line of a file is an object of JSON."""
    return _plain(path).suffix in (".jsonl", ".json")


def read_stream(
    stream: Stream, path: Path, settings: CorpusSettings, troubles: Troubles, num_before: int = 0
) -> Iterator[Document]:
    """The documents of a file, or of a part that begins where a document does.

    Args:
        stream: unpacked.
        path: says what is in it, and is the source of the documents.
        settings: what a document is.
        troubles: where they are counted.
        num_before: lines of the file that stand before the stream.
    """
    read = _objects if holds_objects(path) else _plain_texts
    return cleaned(read(path, stream, settings, troubles, num_before + 1), str(path), settings, troubles)


def cleaned(
    texts: Iterable[tuple[str, int]], source: str, settings: CorpusSettings, troubles: Troubles
) -> Iterator[Document]:
    """Documents of texts with their lines: mended, and parted where they are too long; empty ones are left out."""
    for text, line in texts:
        text = _mended(text, f"{source}:{line}", troubles)
        if not text.strip():
            troubles.note("empty documents, left out", f"{source}:{line}")
            continue
        parts = _parted(text, settings.longest)
        if len(parts) > 1:
            troubles.note("documents too long, parted", f"{source}:{line}")
        for part in parts:
            yield Document(part, source, line)


def _of_file(path: Path, raw: IO[bytes], settings: CorpusSettings, troubles: Troubles) -> Iterator[Document]:
    stream: Stream = gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw
    return read_stream(stream, path, settings, troubles)


def _objects(
    path: Path, stream: Stream, settings: CorpusSettings, troubles: Troubles, first_line: int
) -> Iterator[tuple[str, int]]:
    for number, line in _lines(stream, settings.longest_line, first_line):
        where = f"{path}:{number}"
        if line is None:
            troubles.note(f"lines longer than {settings.longest_line} bytes, left out", where)
            continue
        if not line.strip():
            continue
        try:
            found = json.loads(_decoded(line, where, troubles))
        except (ValueError, RecursionError):
            troubles.note("lines that are not JSON, left out", where)
            continue
        text = found.get(settings.field) if isinstance(found, dict) else None
        if isinstance(text, str):
            yield text, number
        else:
            troubles.note(f"objects without a text in {settings.field!r}, left out", where)


def _plain_texts(
    path: Path, stream: Stream, settings: CorpusSettings, troubles: Troubles, first_line: int
) -> Iterator[tuple[str, int]]:
    """Documents of plain text; one that grows too long is given out in parts while it is read."""
    kept: list[str] = []
    first, size = first_line, 0
    for number, line in _lines(stream, None, first_line):
        assert line is not None
        text = _decoded(line, f"{path}:{number}", troubles)
        is_blank = not text.strip()
        ends_before = (settings.documents == "headings" and HEADING.fullmatch(text) is not None) or (
            settings.documents == "paragraphs" and is_blank
        )
        if kept and (ends_before or settings.documents == "lines" or size > settings.longest):
            yield "".join(kept), first
            kept, size = [], 0
        if not kept:
            first = number
            if is_blank and settings.documents != "whole":
                continue
        kept.append(text)
        size += len(text)
    if kept:
        yield "".join(kept), first


def _lines(stream: Stream, longest: int | None, first: int) -> Iterator[tuple[int, bytes | None]]:
    """Lines with their numbers; None for one that is longer than allowed, or, if all are, blocks of it."""
    number, is_rest = first, False
    while True:
        piece = stream.readline(BLOCK if longest is None else longest + 1)
        if not piece:
            return
        is_whole = piece.endswith(b"\n")
        if longest is None:
            yield number, piece
        elif not is_rest:
            yield number, piece if is_whole or len(piece) <= longest else None
        is_rest = not is_whole
        number += is_whole


def _decoded(raw: bytes, where: str, troubles: Troubles) -> str:
    try:
        return raw.decode("utf-8-sig" if raw.startswith(b"\xef\xbb\xbf") else "utf-8")
    except UnicodeDecodeError:
        troubles.note("lines that are not UTF-8, mended", where)
        return raw.decode("utf-8", errors="replace")


def _mended(text: str, where: str, troubles: Troubles) -> str:
    if "\0" in text:
        troubles.note("documents with NULs, taken out", where)
        text = text.replace("\0", "")
    try:
        text.encode()
    except UnicodeEncodeError:
        troubles.note("documents with halves of characters, mended", where)
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", errors="replace")
    return text


def _parted(text: str, longest: int) -> list[str]:
    parts = []
    while len(text) > longest:
        place = max(text.rfind(" ", 1, longest), text.rfind("\n", 1, longest))
        place = place if place > 0 else longest
        parts.append(text[:place])
        text = text[place:]
    return [*parts, text]


def _plain(path: Path) -> Path:
    return path.with_suffix("") if path.suffix == ".gz" else path
