"""Passages: documents cut into pieces that can be searched, in a folder from which one is read without the rest.

`passages.jsonl` has a passage in each line, `passages.offsets` where each line begins, `passages.documents` the
document of each; beside them stand the index of BM25, or vectors, or both. `retrievers` makes such folders and searches
them.
"""

# Axes: N passages, U tokens or words of a document.

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, groupby, islice
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeInt, PositiveInt, ValidationError, model_validator

from factorlm.errors import InputError, IntegrityError
from factorlm.memory.bm25 import Bm25Settings
from factorlm.memory.card import MemoryCard, read_card
from factorlm.memory.corpus import Document
from factorlm.memory.dense import DenseSettings, EncoderMark
from factorlm.memory.ranking import Mask
from factorlm.models import CausalLM
from factorlm.models.progress import Report
from factorlm.settings import Config

LINES, OFFSETS, DOCUMENTS = "passages.jsonl", "passages.offsets", "passages.documents"
OFFSET, NUMBER = np.dtype("<i8"), np.dtype("<i4")
LONGEST_WORD = 64  # characters; more without a blank count as several words
WORD = re.compile(r"\S+")
REPORTED = 256  # documents from one report to the next

Ends = Callable[[str], Sequence[int]]  # where each token or word of a text ends, in characters; never falling


class PassageSettings(Config):
    """How documents are cut, and how passages are found again.

    Attributes:
        unit: what sizes count: tokens of the model's tokenizer, or words between white space.
        size: most of a passage. It ends at white space if there is some in its second half.
        overlap: with the passage before, at most half the size.
        retrievers: what is built.
        bm25: for lexical retrieval.
        dense: for retrieval by vectors.
    """

    unit: Literal["tokens", "words"] = "tokens"
    size: PositiveInt = 96
    overlap: NonNegativeInt = 0
    retrievers: tuple[Literal["bm25", "dense"], ...] = ("bm25",)
    bm25: Bm25Settings = Field(default_factory=Bm25Settings)
    dense: DenseSettings = Field(default_factory=DenseSettings)

    @model_validator(mode="after")
    def _check(self) -> PassageSettings:
        if 2 * self.overlap > self.size:
            raise ValueError(f"passages overlap by at most half their size of {self.size}")
        if not self.retrievers:
            raise ValueError("at least one of bm25, dense is needed")
        return self


class PassageCard(MemoryCard):
    """What is said of passages.

    Attributes:
        settings: that they were cut and indexed by.
        num_passages: in it.
        encoder: that vectors are by, where there are any.
        num_tokens: of all passages, in the unit of the settings; what two of them share is counted twice.
    """

    kind: Literal["passages"] = "passages"
    settings: PassageSettings
    num_passages: PositiveInt
    encoder: EncoderMark | None = None


class Passage(Config):
    """A piece of a document.

    Attributes:
        text: without white space around it.
        source: file of the document.
        line: where the document begins in it, counted from one.
        document: its number in this memory, counted from zero.
        start: where the passage begins in the document, in characters.
        num_tokens: of it, in the unit of the settings.
    """

    text: str
    source: str
    line: int
    document: NonNegativeInt
    start: NonNegativeInt
    num_tokens: NonNegativeInt


@dataclass(frozen=True, eq=False)
class PassageStore:
    """Passages in a folder; see the head of this file.

    Attributes:
        path: the folder.
        card: what is said of them.
        document_N: the document of each passage.
    """

    path: Path
    card: PassageCard
    document_N: NDArray[np.int32]
    _offset_N: NDArray[np.int64]
    _lines: NDArray[np.uint8]

    @classmethod
    def open(cls, path: Path | str) -> PassageStore:
        """The passages in a folder; files are mapped, and stay readable when the folder is replaced.

        Raises:
            InputError: if there is no memory.
            IntegrityError: if it is not one of passages, or its files do not fit together.
        """
        folder = Path(path)
        card = read_card(folder, PassageCard)
        try:
            lines = np.memmap(folder / LINES, np.uint8, mode="r")
            offset_N = np.memmap(folder / OFFSETS, OFFSET, mode="r")
            document_N = np.memmap(folder / DOCUMENTS, NUMBER, mode="r")
        except (OSError, ValueError) as error:
            raise IntegrityError(f"passages in {folder} cannot be read: {error}; copy them again") from None
        sizes = len(offset_N), len(document_N), int(offset_N[-1])
        if sizes != (card.num_passages + 1, card.num_passages, len(lines)) or bool((np.diff(offset_N) < 1).any()):
            raise IntegrityError(f"{folder / OFFSETS} is not of the passages beside it; copy it again, or build anew")
        return cls(folder, card, document_N, offset_N, lines)

    def __len__(self) -> int:
        return self.card.num_passages

    def passage(self, number: int) -> Passage:
        """One passage.

        Raises:
            InputError: if there is none of that number.
            IntegrityError: if its line is damaged.
        """
        if not 0 <= number < len(self):
            raise InputError(f"a passage from 0 to {len(self) - 1} is needed, got {number}")
        line = self._lines[self._offset_N[number] : self._offset_N[number + 1]].tobytes()
        try:
            return Passage.model_validate_json(line)
        except ValidationError:
            raise IntegrityError(f"passage {number} of {self.path / LINES} is damaged; copy it again") from None

    @cached_property
    def sources(self) -> tuple[str, ...]:
        """File of each document."""
        first_N = np.flatnonzero(np.diff(self.document_N, prepend=-1))
        return tuple(self.passage(number).source for number in first_N.tolist())

    def documents_of(self, sources: Collection[str]) -> frozenset[int]:
        """Numbers of the documents that came from these files."""
        wanted = {sources} if isinstance(sources, str) else set(sources)
        return frozenset(n for n, source in enumerate(self.sources) if source in wanted) if wanted else frozenset()

    def documents(self, passage_M: NDArray[np.int64]) -> Iterator[list[Passage]]:
        """These passages, of rising numbers, by document."""
        for _, numbers in groupby(passage_M.tolist(), lambda number: int(self.document_N[number])):
            yield [self.passage(number) for number in numbers]

    def allowed(self, exclude_documents: Collection[int]) -> Mask | None:
        """Which passages are of no excluded document, [N]; None if nothing is excluded."""
        if not exclude_documents:
            return None
        return ~np.isin(self.document_N, np.array(sorted(exclude_documents), np.int64))


class Piece(NamedTuple):
    """Where a passage begins and ends in its document, in characters, and how many tokens or words it has."""

    start: int
    end: int
    num_tokens: int


def word_ends(text: str) -> list[int]:
    """Where the words of a text end; see `Ends`."""
    ends: list[int] = []
    for word in WORD.finditer(text):
        ends += [*range(word.start() + LONGEST_WORD, word.end(), LONGEST_WORD), word.end()]
    return ends


def token_ends(lm: CausalLM) -> Ends:
    """Tells where the tokens of a text end for a model's tokenizer; see `Ends`."""

    def ends(text: str) -> list[int]:
        read = lm.tokenizer(text, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True)
        return [end for _, end in read["offset_mapping"]]

    return ends


def cut(text: str, ends: Sequence[int], size: int, overlap: int = 0) -> list[Piece]:
    """Passages of a text, without the white space around them; together they hold all that is not white space.

    Args:
        text: a document.
        ends: where its tokens or words end. A character of several tokens is never split, so that a passage may be a
            few bytes longer than its size says.
        size: most tokens or words of a passage.
        overlap: of one passage and the next, at most half the size.
    """
    place_U = [0, *accumulate(ends, max)]
    place_U = [*place_U[:-1], len(text)] if len(place_U) > 1 else [0, len(text)]  # with what has no token

    def is_between(unit: int) -> bool:
        place = place_U[unit]
        return place in (0, len(text)) or text[place].isspace() or text[place - 1].isspace()

    pieces, first, num_units = list[Piece](), 0, len(place_U) - 1
    while True:
        last = min(first + size, num_units)
        if last < num_units:
            last = next((u for u in range(last, first + (size + 1) // 2, -1) if is_between(u)), last)
        piece = text[place_U[first] : place_U[last]]
        if piece.strip():
            start = place_U[first] + len(piece) - len(piece.lstrip())
            pieces.append(Piece(start, start + len(piece.strip()), last - first))
        if last == num_units:
            return pieces
        first = next((u for u in range(last - overlap, last) if is_between(u)), last)


def passages_of(
    documents: Iterable[Document], settings: PassageSettings, token_ends: Ends | None, report: Report
) -> Iterator[list[Passage]]:
    """Passages of each document, their number still to be given; some may have none."""
    ends = word_ends if settings.unit == "words" or token_ends is None else token_ends
    for number, document in enumerate(documents, 1):
        text = document.text
        yield [
            Passage(
                text=text[start:end], source=document.source, line=document.line, document=0, start=start,
                num_tokens=num_tokens,
            )
            for start, end, num_tokens in cut(text, ends(text), settings.size, settings.overlap)
        ]  # fmt: skip
        if number % REPORTED == 0:
            report("documents", number, 0)


class PassageWriter:
    """Lines of passages on their way to a folder; the other two files come at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.offsets, self.documents = array("q", [0]), array("i")
        self.num_documents = self.num_tokens = 0

    def __enter__(self) -> PassageWriter:
        self._file = (self.folder / LINES).open("wb")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        np.array(self.offsets, OFFSET).tofile(self.folder / OFFSETS)
        np.array(self.documents, NUMBER).tofile(self.folder / DOCUMENTS)

    def add(self, passages: Sequence[Passage]) -> None:
        """A document, which gets the next number; one without passages gets none."""
        for passage in passages:
            numbered = passage.model_copy(update={"document": self.num_documents})
            line = numbered.model_dump_json().encode() + b"\n"
            self._file.write(line)
            self.offsets.append(self.offsets[-1] + len(line))
            self.documents.append(self.num_documents)
            self.num_tokens += passage.num_tokens
        self.num_documents += bool(passages)

    def counted(self, card: PassageCard) -> PassageCard:
        """The card of what was written, but for its files."""
        counts = {"num_documents": self.num_documents, "num_tokens": self.num_tokens}
        return card.model_copy(update={**counts, "num_passages": len(self.documents), "files": {}})


def texts_of(folder: Path, first: int = 0) -> Iterator[str]:
    """Texts of the passages that were written to a folder, from this one on."""
    with (folder / LINES).open("rb") as lines:
        for line in islice(lines, first, None):
            yield Passage.model_validate_json(line).text
