"""Texts from files."""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path

from factorlm.errors import InputError


def read_texts(path: Path | str) -> list[str]:
    """The texts of a file, which may be gzipped: one a line, or, in .jsonl, one object with `text` a line.

    Raises:
        InputError: if it cannot be read, is not UTF-8, or an object has no text; naming the line.
    """
    numbered = numbered_lines(path)
    if ".jsonl" not in Path(path).suffixes:
        return [line for _, line in numbered]
    return [_text(line, f"line {number} of {path}") for number, line in numbered]


def numbered_lines(path: Path | str) -> list[tuple[int, str]]:
    """The lines of a file, which may be gzipped, that are not empty, each with its number.

    Raises:
        InputError: if it cannot be read or is not UTF-8.
    """
    path = Path(path)
    try:
        raw = path.read_bytes()
        lines = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8").split("\n")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"a file of UTF-8 texts is needed, got {path}: {reason}") from None
    return [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]


def _text(line: str, where: str) -> str:
    try:
        found = json.loads(line)
    except ValueError:
        found = None
    text = found.get("text") if isinstance(found, dict) else None
    if not isinstance(text, str) or not text.strip():
        raise InputError(f'an object with "text" is needed in {where}, got {line[:60]!r}')
    return text
