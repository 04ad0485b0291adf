"""Data sets for evaluation: a folder of NAME/PART.jsonl.gz, and files of the user's own."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from factorlm.errors import InputError, UnknownNameError

DEFAULT = Path("../shared/data")


@dataclass(frozen=True)
class Document:
    """A text to measure.

    Attributes:
        text: as it stands in the source.
        group: its language or domain.
        id: equal for translations of one text; empty where there are none.
    """

    text: str
    group: str
    id: str = ""


@dataclass(frozen=True)
class DataFolder:
    """Data sets in a folder, one folder each with parts in JSON lines or plain text, gzipped."""

    folder: Path

    @staticmethod
    def default() -> DataFolder:
        """$FACTORLM_DATA, or ../shared/data seen from the working folder."""
        return DataFolder(Path(os.environ.get("FACTORLM_DATA") or DEFAULT))

    def has(self, part: str) -> bool:
        """Whether a part, such as "sst2/test", is there."""
        return any((self.folder / f"{part}{suffix}").is_file() for suffix in (".jsonl.gz", ".txt.gz"))

    def rows(self, part: str) -> list[dict[str, Any]]:
        """The rows of a part in JSON lines, such as "sst2/test".

        Raises:
            InputError: if the folder or the part is missing or broken.
        """
        return [json.loads(line) for line in self._text(part, ".jsonl.gz").split("\n") if line.strip()]

    def either(self, part: str) -> list[dict[str, Any]]:
        """The rows of a part in either form: plain text has a row for each line that is not empty, with `text`."""
        if (self.folder / f"{part}.txt.gz").is_file():
            return [{"text": line} for line in self.text(part).split("\n") if line.strip()]
        return self.rows(part)

    def asking(self, text: str) -> str:
        """A prompt that was cut from a text of the data, as it is put to a model."""
        return text

    def parts(self) -> list[str]:
        """All parts, such as "sst2/test", sorted."""
        return sorted(
            str(path.relative_to(self.folder))[: -len(suffix)]
            for suffix in (".jsonl.gz", ".txt.gz")
            for path in self.folder.glob(f"*/*{suffix}")
        )

    def text(self, part: str) -> str:
        """A part in plain text, such as "wikitext/wikitext2_test"."""
        return self._text(part, ".txt.gz")

    def _text(self, part: str, suffix: str) -> str:
        path = self.folder / f"{part}{suffix}"
        if not self.folder.is_dir():
            raise InputError(
                f"a folder of data sets is needed, got {self.folder}, which is not there; give --data FOLDER or set "
                "FACTORLM_DATA"
            )
        if not path.is_file():
            known = sorted(str(p.relative_to(self.folder))[: -len(suffix)] for p in self.folder.glob(f"*/*{suffix}"))
            raise UnknownNameError.of(f"data set in {self.folder}", part, known)
        try:
            return gzip.decompress(path.read_bytes()).decode("utf-8")
        except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
            raise InputError(f"{path} cannot be read as gzipped UTF-8: {error}; get the data set again") from None


def fingerprint(texts: Sequence[str]) -> str:
    """Hash of texts, in order."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(f"{len(text)}\n{text}".encode())
    return digest.hexdigest()[:16]
