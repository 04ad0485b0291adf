"""Short texts of several sources, cut alike and stripped of what gives a source away by its file: spacing, case, marks.

Texts to learn from and texts to measure on never come from one document.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import PositiveInt

from factorlm.errors import InputError
from factorlm.evaluation.corpora import DataFolder, fingerprint
from factorlm.evaluation.texts import Corpus
from factorlm.evaluation.workbench import Workbench
from factorlm.text.cleaning import cleaned

HELD_OUT = 0.25  # of the documents of a source
STRETCHES = 20  # that a source of fewer documents is cut into
LEAST_LETTERS = 0.7  # of the characters that are no white space; below it is a table or a formula
TAIL = 8  # characters in which an abbreviation is looked for
Lines = Literal["apart", "joined", "whole"]
SPEAKER = re.compile(r"^\W*(?:[\w.'’-]+ ){0,3}[\w.'’-]+:$")
SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
ABBREVIATION = re.compile(r"(?:\b(?:mr|mrs|ms|dr|st|no|nos|inc|ltd|co|corp|jr|vs|sec|art|e\.g|i\.e|[a-z]))\.$", re.I)


class Source(Corpus):
    """A part of a data set that short texts are cut from: its sentences of about one length, headings left out.

    Attributes:
        max_documents: the first ones are read; None reads all.
        max_characters: of a document; None reads all.
        lines: whether sentences go on over the lines of a paragraph ("joined"), lines stand for themselves ("apart"),
            or a document is one text as it is ("whole").
    """

    max_documents: PositiveInt | None = 400
    max_characters: PositiveInt | None = 20_000
    lines: Lines = "apart"


@dataclass(frozen=True)
class Passages:
    """Texts of one source.

    Attributes:
        name: of the source.
        train: to learn from.
        held_out: of other documents.
    """

    name: str
    train: tuple[str, ...]
    held_out: tuple[str, ...]


def load_passages(
    bench: Workbench,
    sources: Sequence[Source],
    *,
    num_train: int,
    num_held_out: int,
    words: tuple[int, int],
    is_lower: bool,
) -> list[Passages]:
    """Texts of each source, the same for the same settings and seed of the bench.

    Args:
        bench: whose data and seed are used; what was read is noted there.
        sources: of different names.
        num_train: texts of each to learn from.
        num_held_out: further texts of each.
        words: fewest and most of a text.
        is_lower: whether all is put in lower case, as some sources are by themselves.

    Raises:
        InputError: if a source has too few sentences of such a length, or two have one name.
    """
    names = [source.group for source in sources]
    if len(set(names)) < len(names):
        raise InputError(f"sources of different names are needed, got {', '.join(names)}; give each a name")
    return [_of_source(bench, source, num_train, num_held_out, words, is_lower) for source in sources]


def sentences(document: str, words: tuple[int, int], *, lines: Lines = "apart") -> list[str]:
    """The sentences of a document with so many words, cleaned; names of speakers and headings are left out."""
    if lines == "whole":
        text = cleaned(document)
        return [text] if text and _is_text(text, words) else []
    kept = [line for line in document.split("\n") if not SPEAKER.match(line.strip())]
    parts = re.split(r"\n\s*\n", "\n".join(kept)) if lines == "joined" else kept
    found = []
    for part in parts:
        begun = ""
        for piece in SENTENCE_END.split(cleaned(part)):
            begun = f"{begun} {piece}" if begun else piece
            if ABBREVIATION.search(begun[-TAIL:]):  # no end of a sentence
                continue
            if begun and begun[-1] in ".!?;," and _is_text(begun, words):
                found.append(begun)
            begun = ""
    return found


def _is_text(sentence: str, words: tuple[int, int]) -> bool:
    letters = sum(map(str.isalpha, sentence))
    characters = sum(not c.isspace() for c in sentence)
    is_long_enough = words[0] <= len(sentence.split()) <= words[1]
    return (
        is_long_enough and "<unk>" not in sentence and not sentence.isupper() and letters >= LEAST_LETTERS * characters
    )


def _of_source(
    bench: Workbench, source: Source, num_train: int, num_held_out: int, words: tuple[int, int], is_lower: bool
) -> Passages:
    documents = _documents(source, bench.data, words)
    rng = random.Random(f"{bench.seed} {source.group}")
    rng.shuffle(documents)
    num_train_documents = len(documents) - round(HELD_OUT * len(documents))
    seen: set[str] = set()
    found = []
    for part, number in ((documents[:num_train_documents], num_train), (documents[num_train_documents:], num_held_out)):
        texts = [text.lower() if is_lower else text for document in part for text in document]
        texts = [text for text in dict.fromkeys(texts) if text not in seen]
        rng.shuffle(texts)
        if len(texts) < number:
            raise InputError(
                f"{number} sentences of {words[0]} to {words[1]} words are wanted of {source.part}, got {len(texts)}; "
                "ask for fewer, or read more documents"
            )
        found.append(tuple(texts[:number]))
        seen.update(texts)
    bench.used[source.part] = fingerprint([*found[0], *found[1]])
    return Passages(source.group, found[0], found[1])


def _documents(source: Source, data: DataFolder, words: tuple[int, int]) -> list[list[str]]:
    """The sentences of each document that has any; a few long documents are cut into stretches."""
    found = [sentences(document.text, words, lines=source.lines) for document in source.load(data)]
    found = [document for document in found if document]
    if len(found) >= STRETCHES:
        return found
    everything = [text for document in found for text in document]
    size = max(1, -(-len(everything) // STRETCHES))
    return [everything[i : i + size] for i in range(0, len(everything), size)]
