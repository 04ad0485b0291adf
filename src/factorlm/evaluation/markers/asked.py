"""Questions with one right and some wrong answers, from three data sets, and the forms in which they are put."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from factorlm.errors import InputError, UnknownNameError
from factorlm.evaluation.corpora import fingerprint
from factorlm.evaluation.markers.table import Marker
from factorlm.evaluation.workbench import Workbench

SLOT = "{question}"
TEMPLATES = (
    f"Question: {SLOT}\nAnswer:",
    f"Q: {SLOT}\nA:",
    f"Somebody asked: {SLOT}\nThis is what was answered:",
)
NUM_WRONG = 3  # of nq_open, whose wrong answers are right ones to the questions most alike


@dataclass(frozen=True)
class Choice:
    """A question and its answers.

    Attributes:
        question: as it stands in the data.
        answers: the right one first.
        is_clause: whether answers are sentences.
    """

    question: str
    answers: tuple[str, ...]
    is_clause: bool = False

    def contexts(self, marker: Marker, template: str) -> tuple[str, str]:
        """What is read before an answer, and the same without the question."""
        words = marker.clause if self.is_clause else marker.phrase
        behind = f" {words}" if words else ""
        line = template.rpartition("\n")[2]
        return template.replace(SLOT, self.question) + behind, line + behind

    def fits(self, marker: Marker) -> bool:
        """Whether the marker is English before these answers."""
        return not self.is_clause or marker.clause is not None


def choices(bench: Workbench, name: str, number: int | None) -> list[Choice]:
    """Questions of a set, drawn by the seed; None takes all.

    Raises:
        UnknownNameError: for an unknown set.
        InputError: if there are fewer.
    """
    if name not in SETS:
        raise UnknownNameError.of("question set", name, SETS)
    part, make = SETS[name]
    rows = bench.data.rows(part)
    if number is not None and number > len(rows):
        raise InputError(f"at most {len(rows)} questions can be asked of {name}, got {number}; ask for fewer")
    order = np.random.default_rng(bench.seed).permutation(len(rows))[:number]
    found = make(rows, [int(i) for i in order])
    bench.used[part] = fingerprint([text for c in found for text in (c.question, *c.answers)])
    return found


def commonsense(rows: list[dict[str, Any]], order: Sequence[int]) -> list[Choice]:
    """Rows of commonsense_qa, in this order."""
    found = []
    for row in (rows[i] for i in order):
        wrong = [row["choices"][letter].strip() for letter in sorted(row["choices"]) if letter != row["answer"]]
        found.append(Choice(row["question"].strip(), (row["choices"][row["answer"]].strip(), *wrong)))
    return found


def _truthful(rows: list[dict[str, Any]], order: list[int]) -> list[Choice]:
    return [
        Choice(
            row["question"].strip(),
            tuple(text.strip().rstrip(".") for text in (row["best_answer"], *row["incorrect_answers"])),
            is_clause=True,
        )
        for row in (rows[i] for i in order)
    ]


def _open(rows: list[dict[str, Any]], order: list[int]) -> list[Choice]:
    from sklearn.feature_extraction.text import TfidfVectorizer

    questions = [row["question"].strip() for row in rows]
    weights = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True).fit_transform(questions)
    near = (weights[order] @ weights.T).toarray()
    found = []
    for row, similarity in zip((rows[i] for i in order), near, strict=True):
        right = {text.strip().lower() for text in row["answer"]}
        wrong: list[str] = []
        for other in np.argsort(-similarity, kind="stable"):
            text = rows[int(other)]["answer"][0].strip()
            if text.lower() not in right | {w.lower() for w in wrong}:
                wrong.append(text)
            if len(wrong) == NUM_WRONG:
                break
        found.append(Choice(f"{row['question'].strip()}?", (row["answer"][0].strip(), *wrong)))
    return found


SETS = {
    "commonsense_qa": ("commonsense_qa/dev", commonsense),
    "truthfulqa": ("truthfulqa/all", _truthful),
    "nq_open": ("nq_open/dev", _open),
}
