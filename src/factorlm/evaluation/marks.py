"""Marks: measures of the answers to a question set, beside guessing and a simple rule, with what they cannot show."""

# Axes: C columns (numerator, denominator), Q questions, U units.

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factorlm.evaluation.answers import (
    choice_share,
    exact_match,
    final_number,
    least_to_beat,
    token_f1,
    top_is_right,
)
from factorlm.evaluation.intervals import Estimate, ratio_interval
from factorlm.evaluation.questions import QUESTION_SETS, Question

Array = NDArray[np.float64]
Record = dict[str, Any]  # what a model made of a question


@dataclass(frozen=True, eq=False)
class Mark:
    """One measure of the answers to one question set: a ratio of sums over questions, for each model.

    Attributes:
        measure: its name.
        name: of the question set.
        units_Q: what is resampled whole.
        sums_QC: by model, numerator and denominator of each question.
        chance_Q: what guessing gets in the mean; None where nothing can be guessed.
        rule_Q: what the simple rule gets; None where there is none.
        is_hit: whether each question is simply right or wrong, so that guesses can be counted.
        is_bits: whether it is a cost in bits, where less is better, rather than a share.
    """

    measure: str
    name: str
    units_Q: tuple[str, ...]
    sums_QC: dict[str, Array]
    chance_Q: Array | None = None
    rule_Q: Array | None = None
    is_hit: bool = False
    is_bits: bool = False

    @property
    def label(self) -> str:
        """For tables."""
        return f"{QUESTION_SETS[self.name].title}: {self.measure}"

    @property
    def least(self) -> float | None:
        """The smallest share that guessing hardly reaches; None where that cannot be said."""
        return least_to_beat(self.chance_Q) if self.is_hit and self.chance_Q is not None else None

    def sums_UC(self, model: str) -> Array:
        """Sums over the questions of each unit."""
        units = {unit: u for u, unit in enumerate(dict.fromkeys(self.units_Q))}
        sums_UC = np.zeros((len(units), 2))
        np.add.at(sums_UC, [units[unit] for unit in self.units_Q], self.sums_QC[model])
        return sums_UC

    def estimate(self, model: str, seed: int) -> Estimate:
        """With its interval over units."""
        sums_UC = self.sums_UC(model)
        return ratio_interval(sums_UC[:, 0], sums_UC[:, 1], seed=seed)

    def floor(self, model: str) -> str:
        """Why this model is too weak here for a cost to show; empty if it is not."""
        if self.is_bits:
            return ""
        right, number = self.sums_QC[model].sum(0)
        if self.is_hit and self.chance_Q is not None and (self.least is None or right / number < self.least):
            return "no better than guessing"
        return "" if right else "no answer is right"


def choice_marks(name: str, questions: Sequence[Question], records: dict[str, list[Record]]) -> list[Mark]:
    """Marks of chosen answers.

    Args:
        name: of the question set.
        questions: what was asked.
        records: by model, for each question `log_probs` of its right and wrong answers, in this order, in nats.
    """
    units_Q = tuple(q.unit for q in questions)
    sizes = [[len(answer.strip().encode()) for answer in (*q.right, *q.wrong)] for q in questions]
    log_probs = {model: [record["log_probs"] for record in found] for model, found in records.items()}

    def one_right(values: Sequence[Sequence[float]]) -> Array:
        """Whether the best answer wins against the wrong ones."""
        rows = ([v[0], *v[len(q.right) :]] for v, q in zip(values, questions, strict=True))
        return np.array([top_is_right(row, [True] + [False] * (len(row) - 1)) for row in rows])

    def all_answers(judge: Callable[[Sequence[float], list[bool]], float], values: Sequence[Sequence[float]]) -> Array:
        flags = ([True] * len(q.right) + [False] * len(q.wrong) for q in questions)
        return np.nan_to_num([judge(row, right) for row, right in zip(values, flags, strict=True)])

    def mark(measure: str, values: dict[str, Array], chance_Q: Array, rule_Q: Array, *, is_hit: bool) -> Mark:
        sums_QC = {model: np.stack([value_Q, np.ones_like(value_Q)], 1) for model, value_Q in values.items()}
        return Mark(measure, name, units_Q, sums_QC, chance_Q, rule_Q, is_hit)

    guess_Q = np.array([1 / (1 + len(q.wrong)) for q in questions])
    total = {model: one_right(rows) for model, rows in log_probs.items()}
    share = {model: all_answers(choice_share, rows) for model, rows in log_probs.items()}
    share_Q = np.array([len(q.right) / (len(q.right) + len(q.wrong)) for q in questions])
    longest_Q, longest_share_Q = one_right(sizes), all_answers(top_is_right, sizes)
    if QUESTION_SETS[name].judged == "truth":
        return [
            mark("MC1", total, guess_Q, longest_Q, is_hit=True),
            mark("MC2", share, share_Q, longest_share_Q, is_hit=False),
        ]
    per_byte = {
        model: one_right(
            [[x / n for x, n in zip(row, size, strict=True)] for row, size in zip(rows, sizes, strict=True)]
        )
        for model, rows in log_probs.items()
    }
    return [
        mark("accuracy", total, guess_Q, longest_Q, is_hit=True),
        mark("accuracy per byte", per_byte, guess_Q, longest_Q, is_hit=True),
        mark("probability of the right answer", share, share_Q, longest_share_Q, is_hit=False),
    ]


def written_marks(name: str, questions: Sequence[Question], records: dict[str, list[Record]]) -> list[Mark]:
    """Marks of written answers; right answers that are impossible for a model are left out of the bits per byte.

    Args:
        name: of the question set.
        questions: what was asked.
        records: by model, for each question the `text` written, and `log_prob` of the right answer in nats.
    """
    units_Q = tuple(q.unit for q in questions)
    judges: dict[str, Callable[[str, Question], float]] = {
        "F1": lambda text, q: token_f1(text, q.right),
        "exact match": lambda text, q: float(exact_match(text, q.right)),
    }
    if QUESTION_SETS[name].judged == "number":
        judges = {"exact match": lambda text, q: float(final_number(text) == final_number(q.right[0]))}
    marks = []
    for measure, judge in judges.items():
        sums_QC = {
            model: np.array([[judge(r["text"], q), 1.0] for r, q in zip(found, questions, strict=True)])
            for model, found in records.items()
        }
        rule_Q = np.array([judge(q.rule, q) for q in questions])
        marks.append(Mark(measure, name, units_Q, sums_QC, rule_Q=rule_Q))
    bits = {model: np.array([-r["log_prob"] / math.log(2) for r in found]) for model, found in records.items()}
    possible_Q = np.all([np.isfinite(bits_Q) for bits_Q in bits.values()], axis=0)
    bytes_Q = np.array([float(len(q.right[0].encode())) for q in questions])
    kept = tuple(unit for unit, possible in zip(units_Q, possible_Q, strict=True) if possible)
    sums_QC = {model: np.stack([bits_Q, bytes_Q], 1)[possible_Q] for model, bits_Q in bits.items()}
    return [*marks, Mark("bits per byte of the answer", name, kept, sums_QC, is_bits=True)]
