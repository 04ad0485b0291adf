"""Constraints on texts: an attribute wanted or unwanted, its texts, its words, and who says whether a text meets it."""

# Axes: P prompts, S samples of a prompt.

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from factorlm.errors import InputError
from factorlm.evaluation.judges import JUDGES, Judge, judges_for
from factorlm.evaluation.judging import TEXTS, judged
from factorlm.evaluation.responses import Samples
from factorlm.evaluation.workbench import Workbench
from factorlm.factors.examples import Example, Split, fingerprint, split
from factorlm.factors.response import Judge as SentenceJudge
from factorlm.factors.response import sentence_judge

Array = NDArray[np.float64]
ExamplesOf = Callable[[str], list[Example]]  # labelled texts of an attribute, by the name of its factor

# What an instruction calls an attribute, and its opposite.
PHRASES = {
    "archaic": ("in the English of Shakespeare", "in modern English"),
    "childlike": ("like a story for children", "for grown-up readers"),
    "dialogue": ("a conversation with direct speech", "without any direct speech"),
    "encyclopedic": ("like an encyclopedia", "unlike an encyclopedia"),
    "humorous": ("funny", "serious"),
    "legal": ("in legal language", "in everyday language"),
    "polite": ("polite", "impolite"),
    "positive": ("positive and pleased", "negative and displeased"),
    "romantic": ("romantic", "unromantic"),
    "simple": ("in simple words", "in complicated words"),
    "subjective": ("personal and full of opinions", "factual and without opinions"),
    "toxic": ("rude and offensive", "civil and inoffensive"),
}


@dataclass(frozen=True)
class Constraint:
    """An attribute that texts shall have, or shall not have.

    Attributes:
        factor: the name of its factor.
        is_wanted: whether texts shall have it.
    """

    factor: str
    is_wanted: bool = True

    @staticmethod
    def read(text: str) -> Constraint:
        """From settings: "polite", or "-toxic" for an attribute that is unwanted."""
        return Constraint(text.removeprefix("-"), not text.startswith("-"))

    @property
    def title(self) -> str:
        """For tables."""
        return self.factor if self.is_wanted else f"not {self.factor}"

    @property
    def sign(self) -> int:
        """Of the factor's exponent."""
        return 1 if self.is_wanted else -1

    @property
    def phrase(self) -> str:
        """For an instruction."""
        wanted, unwanted = PHRASES.get(self.factor, (self.factor, f"not {self.factor}"))
        return wanted if self.is_wanted else unwanted

    @property
    def flipped(self) -> Constraint:
        """The opposite."""
        return replace(self, is_wanted=not self.is_wanted)

    def meeting(self, examples: Sequence[Example]) -> list[str]:
        """The texts that meet it."""
        return [e.text for e in examples if e.is_positive == self.is_wanted]


def instruction(constraints: Sequence[Constraint]) -> str:
    """One sentence that asks for all of them."""
    phrases = [c.phrase for c in constraints]
    listed = phrases[0] if len(phrases) == 1 else f"{', '.join(phrases[:-1])} and {phrases[-1]}"
    return f"Write a text that is {listed}."


def remembering(examples_of: ExamplesOf) -> ExamplesOf:
    """The same examples, read once."""
    return functools.lru_cache(maxsize=None)(examples_of)


def split_of(examples_of: ExamplesOf, constraint: Constraint) -> Split:
    """Texts to learn from, and texts held out from heads and fine-tuning alike.

    Raises:
        InputError: if there are too few, saying of which attribute.
    """
    try:
        return split(examples_of(constraint.factor))
    except InputError as error:
        raise InputError(f"texts of {constraint.factor}: {error}") from None


class Examiner(Protocol):
    """Says of texts whether they meet a constraint."""

    @property
    def name(self) -> str:
        """Who judges, and what it learned from."""

    @property
    def accuracy(self) -> float:
        """Share of test texts judged rightly, both classes weighing the same."""

    @property
    def num_tests(self) -> int:
        """Test texts that the accuracy rests on."""

    @property
    def shared(self) -> float:
        """Share of the head's texts that this learned from too."""

    def examine(self, samples: Samples, stage: str) -> Array:
        """1 where a sample meets the constraint, 0 where it does not, nan for one without words, [P, S]."""


@dataclass(frozen=True)
class ShelfExaminer:
    """A judge of the shelf that knows the attribute."""

    bench: Workbench
    constraint: Constraint
    judge: Judge
    examples_of: ExamplesOf

    @property
    def name(self) -> str:
        """See Examiner."""
        return f"judge {self.judge.name}"

    @property
    def accuracy(self) -> float:
        """See Examiner."""
        return balanced_accuracy(np.array(self.judge.confusion))

    @property
    def num_tests(self) -> int:
        """See Examiner."""
        return self.judge.card.quality[self.judge.card.reference].n

    @functools.cached_property
    def shared(self) -> float:
        """See Examiner; none where nobody knows what the judge learned from."""
        mine = {e.text for e in self.examples_of(self.constraint.factor)}
        try:
            sets = [s.read(self.bench.data) for s in JUDGES[self.judge.name].sets] if self.judge.name in JUDGES else []
        except InputError:  # its texts are not there
            return 0.0
        return len(mine & {e.text for texts in sets for e in texts}) / len(mine)

    def examine(self, samples: Samples, stage: str) -> Array:
        """See Examiner."""
        has_PS = judged(self.bench, self.judge, samples, stage).has(self.constraint.factor)
        return has_PS if self.constraint.is_wanted else 1 - has_PS


@dataclass(frozen=True)
class OwnExaminer:
    """A classifier of sentence vectors, learned from texts held out from heads; its accuracy is by cross-validation."""

    bench: Workbench
    constraint: Constraint
    held_out: tuple[Example, ...]

    @property
    def name(self) -> str:
        """See Examiner."""
        return f"sentence vectors, {len(self.held_out)} held-out texts"

    @property
    def num_tests(self) -> int:
        """See Examiner."""
        return len(self.held_out)

    @property
    def shared(self) -> float:
        """See Examiner: its texts are held out from the head."""
        return 0.0

    @functools.cached_property
    def accuracy(self) -> float:
        """See Examiner."""
        key = {**self._key, "what": "accuracy of a sentence judge"}
        return float(self.bench.cache.get(key, lambda: self._learned[1]))

    def examine(self, samples: Samples, stage: str) -> Array:
        """See Examiner."""
        self.bench.judges_used[f"{self.constraint.factor}, {self.name}"] = self._key["judge"]
        texts = [sample.text for row in samples for sample in row]

        def work(batch: list[str]) -> list[bool | None]:
            readable = [text for text in batch if any(map(str.isalnum, text))]
            said = iter(self._learned[0](readable) if readable else ())
            return [bool(next(said)) if any(map(str.isalnum, text)) else None for text in batch]

        found = self.bench.in_batches(stage, {**self._key, "what": "judged"}, texts, TEXTS, work)
        has_B = np.array([math.nan if said is None else said == self.constraint.is_wanted for said in found], float)
        return has_B.reshape(len(samples), -1)

    @functools.cached_property
    def _learned(self) -> tuple[SentenceJudge, float]:
        return sentence_judge(self.held_out)

    @functools.cached_property
    def _key(self) -> dict[str, str]:
        return {"judge": f"sentence vectors {fingerprint(self.held_out)}"}


def balanced_accuracy(counts: NDArray[np.float64] | NDArray[np.int_]) -> float:
    """Mean over classes of the share judged rightly, from a confusion matrix with a row for each true class."""
    with np.errstate(invalid="ignore"):
        return float(np.nanmean(np.diagonal(counts) / counts.sum(1)))


def examiner_of(bench: Workbench, constraint: Constraint, examples_of: ExamplesOf) -> Examiner:
    """The best judge of the shelf that knows the attribute, else one learned from held-out texts."""
    known = judges_for(constraint.factor)
    if known:
        return ShelfExaminer(bench, constraint, max(known, key=lambda judge: judge.card.accuracy), examples_of)
    return OwnExaminer(bench, constraint, split_of(examples_of, constraint).dev)
