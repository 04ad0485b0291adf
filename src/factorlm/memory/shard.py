"""Shards: tokens, suffix array and documents of a part of a corpus, in the public layout of infini-gram.

`tokenized.K` holds the tokens, little-endian, each document behind a separator whose bits are all set; `table.K` the
suffix array, as byte offsets; `offset.K` where each document begins (8 bytes each); `metadata.K` a JSON line for each
document, and `metaoff.K` where that begins. Source: Liu et al. (2024), arXiv:2401.17377, and the public indexer.
"""

# Axes: D documents, N tokens, P bytes of a place, V vocabulary.

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

from factorlm.errors import IntegrityError
from factorlm.memory.ranges import first_ranges
from factorlm.memory.suffixes import open_table, open_text, place_bytes, separator_of

PARTS = ("tokenized", "table", "offset", "metadata", "metaoff")
Ints = NDArray[np.int64]


def token_bytes(vocabulary_size: int) -> Literal[1, 2, 4]:
    """Bytes of a token: as few as hold all tokens and the separator."""
    return 1 if vocabulary_size < 1 << 8 else 2 if vocabulary_size < 1 << 16 else 4


@dataclass(frozen=True, eq=False)
class Shard:
    """A shard, mapped into memory; may be read by many at once.

    Attributes:
        folder: where it lies.
        number: K.
        width: bytes of a token.
        num_rows: tokens that are told apart at the beginning of a query, and one more for separators.
    """

    folder: Path
    number: int
    width: int
    num_rows: int

    @cached_property
    def text_N(self) -> NDArray[Any]:
        """Its tokens."""
        return open_text(self._path("tokenized"), self.width)

    @cached_property
    def table_NP(self) -> NDArray[np.uint8]:
        """Its suffix array.

        Raises:
            IntegrityError: if there is not a place for each token.
        """
        num_bytes = place_bytes(self.text_N.nbytes)
        path = self._path("table")
        if path.stat().st_size != num_bytes * len(self.text_N):
            raise IntegrityError(
                f"{path} should have {num_bytes} bytes for each of {len(self.text_N)} tokens, and has "
                f"{path.stat().st_size} in all; build the index anew"
            )
        return open_table(path, num_bytes)

    @cached_property
    def first_V2(self) -> Ints:
        """For each token the ranks of suffixes that begin with it; last for separators."""
        found: Ints = first_ranges(self.text_N, self.table_NP, self.width, self.num_rows)
        return found

    @cached_property
    def offset_D(self) -> NDArray[np.uint64]:
        """Byte at which each document begins, with its separator."""
        return np.asarray(open_text(self._path("offset"), 8))

    @property
    def num_documents(self) -> int:
        """Documents in it."""
        return len(self.offset_D)

    def document_at(self, places: Ints) -> Ints:
        """The document in which each place lies."""
        return np.searchsorted(self.offset_D, places.astype(np.uint64) * np.uint64(self.width), side="right") - 1

    def document(self, number: int) -> NDArray[Any]:
        """The tokens of a document, without its separator."""
        begin = int(self.offset_D[number]) // self.width + 1
        is_last = number + 1 == self.num_documents
        end = len(self.text_N) if is_last else int(self.offset_D[number + 1]) // self.width
        return self.text_N[begin:end]

    @cached_property
    def about(self) -> tuple[NDArray[np.uint8], NDArray[np.uint64]] | None:
        """What is said of all documents, and where it begins for each; None where nothing is."""
        if not self._path("metadata").is_file():
            return None
        return open_text(self._path("metadata"), 1), np.asarray(open_text(self._path("metaoff"), 8))

    def metadata(self, number: int) -> dict[str, Any]:
        """What is said of a document; empty where nothing is.

        Raises:
            IntegrityError: if it is no JSON.
        """
        if self.about is None:
            return {}
        text, begins = self.about
        end = int(begins[number + 1]) if number + 1 < len(begins) else len(text)
        try:
            found = json.loads(text[int(begins[number]) : end].tobytes())
        except ValueError:
            raise IntegrityError(
                f"{self._path('metadata')} has no JSON for document {number}; build the index anew"
            ) from None
        return found if isinstance(found, dict) else {}

    def mapped(self) -> Shard:
        """The shard with all its files mapped: whatever is put in their place, these are read."""
        _ = self.text_N, self.table_NP, self.offset_D, self.about
        return self

    def _path(self, part: str) -> Path:
        return self.folder / f"{part}.{self.number}"


class ShardWriter:
    """Writes the documents of a shard, one after the other; a broken run goes on behind its last checkpoint.

    Args:
        folder: where it shall lie.
        number: of the shard.
        width: bytes of a token.
        sizes: of its files when they were last known to be whole; what stands behind is cut off. None begins anew.
    """

    def __init__(self, folder: Path, number: int, width: int, sizes: dict[str, int] | None = None) -> None:
        self.number, self.width = number, width
        self._dtype = np.dtype(f"<u{width}")
        self._separator = np.array([separator_of(width)], self._dtype).tobytes()
        self._files: dict[str, IO[bytes]] = {}
        for part in PARTS:
            if part != "table":
                path = folder / f"{part}.{number}"
                size = (sizes or {}).get(part, 0)
                path.touch()
                file = path.open("r+b")
                file.truncate(size)
                file.seek(size)
                self._files[part] = file

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of each file, all of which are on disk afterwards."""
        for file in self._files.values():
            file.flush()
        return {part: file.tell() for part, file in self._files.items()}

    @property
    def num_tokens(self) -> int:
        """Tokens written, separators among them."""
        return self._files["tokenized"].tell() // self.width

    def add(self, token_ids: NDArray[Any] | list[int], metadata: dict[str, Any]) -> None:
        """Write a document."""
        text, about = self._files["tokenized"], self._files["metadata"]
        self._files["offset"].write(text.tell().to_bytes(8, "little"))
        text.write(self._separator)
        text.write(np.asarray(token_ids).astype(self._dtype).tobytes())
        self._files["metaoff"].write(about.tell().to_bytes(8, "little"))
        about.write(json.dumps(metadata, ensure_ascii=False).encode() + b"\n")

    def close(self) -> None:
        """No more documents."""
        for file in self._files.values():
            file.close()
