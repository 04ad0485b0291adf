"""Typing errors: letters left out, doubled, swapped or hit beside their key."""

from __future__ import annotations

import re
from typing import Literal

import numpy as np

from factorlm.text.perturbations.edits import Edit, Marked

LETTERS = re.compile(r"[^\W\d_]{3,}")  # shorter words would become other words
ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
Where = Literal["anywhere", "inside", "outside"]


def typos(marked: Marked, rate: float, generator: np.random.Generator, where: Where = "anywhere") -> list[Edit]:
    """One error in a word, for a share of the words of three letters or more.

    Args:
        marked: the text.
        rate: share of the words, in the mean.
        generator: of all choices.
        where: which words: all, those inside marked stretches, or those outside.
    """
    edits = []
    for match in LETTERS.finditer(marked.text):
        is_meant = where == "anywhere" or marked.is_inside(*match.span()) == (where == "inside")
        if is_meant and generator.random() < rate:
            edits.append(_error(match.start(), match[0], generator))
    return edits


def entity_typos(marked: Marked, rate: float, generator: np.random.Generator) -> list[Edit]:
    """Errors inside marked stretches."""
    return typos(marked, rate, generator, "inside")


def context_typos(marked: Marked, rate: float, generator: np.random.Generator) -> list[Edit]:
    """Errors outside marked stretches."""
    return typos(marked, rate, generator, "outside")


def neighbours(letter: str) -> str:
    """Letters whose keys lie to the left and right of a letter's on an English keyboard; empty for others."""
    for row in ROWS:
        if (place := row.find(letter.lower())) >= 0:
            found = row[max(0, place - 1) : place] + row[place + 1 : place + 2]
            return found.upper() if letter.isupper() else found
    return ""


def _error(start: int, word: str, generator: np.random.Generator) -> Edit:
    """One error; a swap is of two letters that differ, so that the word always changes."""
    at = int(generator.integers(len(word)))
    swaps = [i for i in range(len(word) - 1) if word[i] != word[i + 1]]
    kinds = ["left out", "doubled", *(["swapped"] if swaps else []), *(["beside"] if neighbours(word[at]) else [])]
    kind = kinds[int(generator.integers(len(kinds)))]
    if kind == "left out":
        return Edit(start + at, start + at + 1, "")
    if kind == "doubled":
        return Edit(start + at, start + at + 1, 2 * word[at])
    if kind == "beside":
        found = neighbours(word[at])
        return Edit(start + at, start + at + 1, found[int(generator.integers(len(found)))])
    at = swaps[int(generator.integers(len(swaps)))]
    return Edit(start + at, start + at + 2, word[at + 1] + word[at])
