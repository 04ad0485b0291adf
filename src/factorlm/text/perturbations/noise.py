"""Noise: kinds of errors with their rates, one after the other; a pure function of text and seed."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from factorlm.errors import InputError, UnknownNameError
from factorlm.text.perturbations import sentences, typos, words
from factorlm.text.perturbations.edits import Edit, Marked

Level = Literal["character", "word", "sentence"]


@dataclass(frozen=True)
class Perturbation:
    """A kind of error.

    Attributes:
        level: of what it changes.
        rate: usual one: of characters and words the share that is changed, of sentences the probability of a change.
        edits: from a marked text, a rate and a generator to the edits.
        what: in a sentence.
        needs_spans: whether it does nothing to a text without marked stretches.
    """

    level: Level
    rate: float
    edits: Callable[[Marked, float, np.random.Generator], list[Edit]]
    what: str
    needs_spans: bool = False


PERTURBATIONS = {
    "typos": Perturbation("character", 0.2, typos.typos, "Letters left out, doubled, swapped, hit beside their key."),
    "context_typos": Perturbation("character", 0.5, typos.context_typos, "Typos outside what is asked for."),
    "entity_typos": Perturbation("character", 0.5, typos.entity_typos, "Typos in what is asked for.", True),
    "speech": Perturbation("word", 0.5, words.speech, "Words of the same sound, words run together, hesitations."),
    "abbreviations": Perturbation("word", 0.8, words.abbreviations, "Short forms of messages, numbers in digits."),
    "simplify": Perturbation("sentence", 0.8, sentences.simplify, "Courtesy and small words taken out."),
    "verbose": Perturbation("sentence", 0.8, sentences.verbose, "About ten words of chatter before and behind."),
    "append": Perturbation("sentence", 1.0, sentences.append, "A sentence about something else."),
}


@dataclass(frozen=True)
class Noise:
    """Kinds of errors made one after the other.

    Attributes:
        steps: kind and rate of each.
    """

    steps: tuple[tuple[str, float], ...]

    @classmethod
    def of(cls, text: str) -> Noise:
        """From text such as "typos=0.1+append"; a kind without a rate has its usual one.

        Raises:
            UnknownNameError: for an unknown kind.
            InputError: for a rate outside 0 to 1, or no kind at all.
        """
        steps = []
        for part in text.split("+"):
            kind, is_rated, number = (piece.strip() for piece in part.partition("="))
            if not kind:
                raise InputError(f"errors such as typos=0.1+append are needed, got {text!r}")
            if kind not in PERTURBATIONS:
                raise UnknownNameError.of("kind of error", kind, PERTURBATIONS)
            try:
                rate = float(number) if is_rated else PERTURBATIONS[kind].rate
            except ValueError:
                rate = np.nan
            if not 0 <= rate <= 1:
                raise InputError(f"a rate from 0 to 1 is needed, got {number!r} for {kind}; write {kind}=0.1")
            steps.append((kind, rate))
        return cls(tuple(steps))

    def __str__(self) -> str:
        return "+".join(kind if rate == PERTURBATIONS[kind].rate else f"{kind}={rate:g}" for kind, rate in self.steps)

    @property
    def needs_spans(self) -> bool:
        """Whether a kind does nothing to a text without marked stretches."""
        return any(PERTURBATIONS[kind].needs_spans for kind, _ in self.steps)

    def mark(self, marked: Marked, seed: int) -> Marked:
        """The text with errors and its marked stretches; the same text and seed give the same errors."""
        for kind, rate in self.steps:
            generator = _generator(kind, marked.text, seed)
            marked = marked.edited(PERTURBATIONS[kind].edits(marked, rate, generator))
        return marked

    def text(self, text: str, seed: int) -> str:
        """A text without marks, with errors."""
        return self.mark(Marked(text), seed).text


def _generator(kind: str, text: str, seed: int) -> np.random.Generator:
    digest = hashlib.sha256(f"{seed}\n{kind}\n{text}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))
