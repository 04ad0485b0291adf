"""Labelled texts for training a head: from two text files, or from one labelled table."""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from factorlm.errors import InputError

FEWEST_TEXTS = 10  # of each class; below that nothing can be held out
DEV_SHARE, MOST_DEV = 0.15, 600

Item = TypeVar("Item")


@dataclass(frozen=True)
class Example:
    """A text and whether it has the attribute."""

    text: str
    is_positive: bool


@dataclass(frozen=True)
class Split:
    """Examples to learn from and examples to stop and calibrate on; no text stands in both."""

    train: tuple[Example, ...]
    dev: tuple[Example, ...]


def evenly(items: Sequence[Item], most: int) -> list[Item]:
    """At most this many, taken evenly: examples come sorted by class, and shares of classes shall stay."""
    count = min(most, len(items))
    return [items[n * len(items) // count] for n in range(count)]


def read_lines(path: Path | str) -> list[str]:
    """The non-empty lines of a UTF-8 text file, which may be gzipped.

    Raises:
        InputError: if the file is missing, is a folder, or is not UTF-8.
    """
    return [line for _, line in numbered_lines(path)]


def decode_lines(raw: bytes, source: str) -> list[str]:
    """The non-empty lines of UTF-8 bytes, without blanks around them.

    Raises:
        InputError: naming the line and byte that is not UTF-8.
    """
    return [line for _, line in _decoded(raw, source)]


def numbered_lines(path: Path | str) -> list[tuple[int, str]]:
    """As read_lines, each line with its number in the file."""
    path = Path(path)
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"no file {path}; check the path (it is read from {Path.cwd()})") from None
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"a readable text file is needed, got {path}: {reason}") from None
    return _decoded(raw, str(path))


def _decoded(raw: bytes, source: str) -> list[tuple[int, str]]:
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise InputError(
            f"UTF-8 text is needed, got byte 0x{raw[error.start]:02x} in line {line} of {source}; convert it, "
            "for example with iconv -f latin1 -t utf-8"
        ) from None
    return [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip()]


def from_files(positive: Path | str, negative: Path | str) -> list[Example]:
    """Examples from two text files, one text a line."""
    return [Example(t, True) for t in read_lines(positive)] + [Example(t, False) for t in read_lines(negative)]


def from_table(path: Path | str, *, positive: str = "1", negative: str | None = None) -> list[Example]:
    """Examples from JSON lines with `text` and `label` (or `label_name`), or from tab-separated text and label.

    Args:
        path: a .jsonl or .tsv file, which may be gzipped.
        positive: the label of texts that have the attribute.
        negative: the label of texts that do not; None takes all other labels.
    """
    rows = list(_rows(Path(path)))
    examples = []
    for text, labels in rows:
        if positive in labels:
            examples.append(Example(text, True))
        elif negative is None or negative in labels:
            examples.append(Example(text, False))
    if not any(e.is_positive for e in examples):
        seen = sorted({label for _, labels in rows for label in labels})
        raise InputError(f"no text in {path} has the label {positive!r}; labels there: {', '.join(seen[:20])}")
    return examples


def _rows(path: Path) -> Iterable[tuple[str, set[str]]]:
    lines = numbered_lines(path)
    if ".tsv" in path.suffixes:
        for number, row in ((number, line.split("\t")) for number, line in lines):
            if len(row) != 2:
                raise InputError(f"two columns, text and label, are needed, got {len(row)} in line {number} of {path}")
            yield row[0].strip(), {row[1].strip()}
        return
    for number, line in lines:
        try:
            row = json.loads(line)
            if not isinstance(row["text"], str):
                raise TypeError("text is no string")
            labels = {str(row[key]) for key in ("label", "label_name") if row.get(key) is not None}
            if not labels:
                raise KeyError("label")
            yield row["text"].strip(), labels
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise InputError(
                f"a JSON object with text and label is needed in line {number} of {path}, got {line[:60]!r} ({error})"
            ) from None


def split(examples: Sequence[Example]) -> Split:
    """Drop repeated texts and hold out a share of each class, chosen by the text itself, so that it never changes.

    Raises:
        InputError: if a class has too few texts.
    """
    unique: dict[str, Example] = {}
    ambiguous = set()
    for example in examples:
        known = unique.setdefault(" ".join(example.text.split()), example)
        if known.is_positive != example.is_positive:
            ambiguous.add(" ".join(example.text.split()))
    train: list[Example] = []
    dev: list[Example] = []
    for is_positive in (True, False):
        mine = [e for key, e in unique.items() if e.is_positive == is_positive and key not in ambiguous and e.text]
        if len(mine) < FEWEST_TEXTS:
            raise InputError(
                f"at least {FEWEST_TEXTS} different {'positive' if is_positive else 'negative'} texts are needed, "
                f"got {len(mine)}; add some (a few hundred of each steer well)"
            )
        mine.sort(key=lambda e: hashlib.sha256(e.text.encode()).digest())
        num_dev = min(MOST_DEV // 2, max(2, int(DEV_SHARE * len(mine))))
        dev += mine[:num_dev]
        train += mine[num_dev:]
    return Split(tuple(train), tuple(dev))


def fingerprint(examples: Sequence[Example]) -> str:
    """Hash of the texts and labels, in order."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(f"{int(example.is_positive)}{example.text}\n".encode())
    return digest.hexdigest()[:16]
