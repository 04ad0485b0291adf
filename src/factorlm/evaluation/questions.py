"""Question sets as they are put to a model: what it reads, which answers are right, what a simple rule says."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from factorlm.errors import InputError
from factorlm.evaluation.corpora import DataFolder
from factorlm.text.comparing import normalized

WORKINGS = re.compile(r"<<[^>]*>>")  # notes for a calculator, which no reader would write
SENTENCES = re.compile(r"(?<=[.!?])\s+")
PRIMER = (
    ("How many days are there in a week?", "There are seven days in a week."),
    ("Which planet is nearest to the Sun?", "Mercury is the planet nearest to the Sun."),
    ("What do bees make from nectar?", "Bees make honey from nectar."),
    ("Who wrote the play Hamlet?", "William Shakespeare wrote the play Hamlet."),
)


@dataclass(frozen=True)
class Question:
    """A question and its answers.

    Attributes:
        unit: what is resampled whole; questions about one passage share it.
        prompt: what is read before the answer.
        right: right answers as they would be written after the prompt; the best one comes first.
        wrong: wrong answers to choose among; empty where the answer is to be written.
        rule: the answer of a simple rule, where the answer is to be written.
    """

    unit: str
    prompt: str
    right: tuple[str, ...]
    wrong: tuple[str, ...] = ()
    rule: str = ""


@dataclass(frozen=True)
class QuestionSet:
    """A data set and how it is asked.

    Attributes:
        title: for tables.
        part: the data set whose rows are asked about.
        ask: from the data, a number of questions (None for all), a number of examples and a seed to questions.
        how: how it is asked, in a sentence or two.
        rule: what the simple rule without a model is.
        judged: "choice": among one right and some wrong answers; "truth": among all answers, right and wrong; "number":
            by the final number written; "words": by the words written.
        stops: strings at which a written answer ends; empty where answers are chosen.
    """

    title: str
    part: str
    ask: Callable[[DataFolder, int | None, int, int], list[Question]]
    how: str
    rule: str
    judged: Literal["choice", "truth", "number", "words"]
    stops: tuple[str, ...] = ()


def commonsense_qa(data: DataFolder, number: int | None, shots: int, seed: int) -> list[Question]:
    """Everyday questions with five answers; the model does not see the other answers."""

    def prompt(row: dict[str, Any]) -> str:
        return f"Question: {row['question'].strip()}\nAnswer:"

    def answer(row: dict[str, Any], letter: str) -> str:
        return f" {row['choices'][letter].strip()}"

    examples = _drawn(data.rows("commonsense_qa/train"), shots, seed) if shots else []
    before = _joined([prompt(row) + answer(row, row["answer"]) for row in examples])
    return [
        Question(
            unit=row["id"],
            prompt=before + prompt(row),
            right=(answer(row, row["answer"]),),
            wrong=tuple(answer(row, letter) for letter in sorted(row["choices"]) if letter != row["answer"]),
        )
        for row in _drawn(data.rows("commonsense_qa/dev"), number, seed)
    ]


def truthfulqa(data: DataFolder, number: int | None, shots: int, seed: int) -> list[Question]:
    """Questions that people often answer wrongly, with all their answers, after pairs of our own."""
    if shots > len(PRIMER):
        raise InputError(f"at most {len(PRIMER)} pairs can stand before a question of truthfulqa, got {shots}")

    def answer(text: str) -> str:
        return f" {text.strip()}" if text.strip().endswith((".", "!", "?")) else f" {text.strip()}."

    before = _joined([f"Q: {question}\nA: {text}" for question, text in PRIMER[:shots]])
    return [
        Question(
            unit=row["question"],
            prompt=f"{before}Q: {row['question'].strip()}\nA:",
            right=tuple(dict.fromkeys(answer(text) for text in (row["best_answer"], *row["correct_answers"]))),
            wrong=tuple(dict.fromkeys(answer(text) for text in row["incorrect_answers"])),
        )
        for row in _drawn(data.rows("truthfulqa/all"), number, seed)
    ]


def gsm8k(data: DataFolder, number: int | None, shots: int, seed: int) -> list[Question]:
    """Word problems, with worked answers of the training part before them."""

    def prompt(row: dict[str, Any]) -> str:
        return f"Question: {row['question'].strip()}\nAnswer:"

    def answer(row: dict[str, Any]) -> str:
        return f" {WORKINGS.sub('', row['answer']).strip()}"

    examples = _drawn(data.rows("gsm8k/train"), shots, seed) if shots else []
    before = _joined([prompt(row) + answer(row) for row in examples])
    return [
        Question(
            unit=row["question"],
            prompt=before + prompt(row),
            right=(answer(row),),
            rule=row["question"],  # its own final number
        )
        for row in _drawn(data.rows("gsm8k/test"), number, seed)
    ]


def xquad_en(data: DataFolder, number: int | None, shots: int, seed: int) -> list[Question]:
    """Questions about a passage; the shortest passages are examples and never asked about."""
    passages = {row["pid"]: row["text"].strip() for row in data.rows("xquad_en/passages")}
    asked: dict[str, list[dict[str, Any]]] = {}
    for row in data.rows("xquad_en/questions"):
        asked.setdefault(row["pid"], []).append(row)

    def prompt(row: dict[str, Any]) -> str:
        return f"Passage: {passages[row['pid']]}\nQuestion: {row['question'].strip()}\nAnswer:"

    by_length = sorted(asked, key=lambda pid: (len(passages[pid]), pid))
    before = _joined([prompt(asked[pid][0]) + f" {asked[pid][0]['answers'][0]}" for pid in by_length[:shots]])
    pids = _drawn(sorted(by_length[shots:]), None, seed)
    most = max((len(asked[pid]) for pid in pids), default=0)
    # One question of each passage, then a second one of each, so that a small sample holds many passages.
    rows = [asked[pid][turn] for turn in range(most) for pid in pids if turn < len(asked[pid])]
    if number is not None and number > len(rows):
        raise InputError(f"at most {len(rows)} questions can be asked of xquad_en, got {number}; ask for fewer")
    return [
        Question(
            unit=row["pid"],
            prompt=before + prompt(row),
            right=tuple(f" {text.strip()}" for text in row["answers"]),
            rule=nearest_sentence(passages[row["pid"]], row["question"]),
        )
        for row in rows[:number]
    ]


QUESTION_SETS = {
    "commonsense_qa": QuestionSet(
        title="CommonsenseQA",
        judged="choice",
        part="commonsense_qa/dev",
        ask=commonsense_qa,
        how="Each of five answers is read after the question; the choice is the one of largest log probability, in "
        "total or per byte.",
        rule="always the longest answer",
    ),
    "truthfulqa": QuestionSet(
        title="TruthfulQA",
        judged="truth",
        part="truthfulqa/all",
        ask=truthfulqa,
        how="MC1: the best answer is more probable than every wrong one. MC2: share of the right answers in the "
        "probability of all answers (Lin et al., 2021). Examples are our own, not the published ones, so figures "
        "compare with each other and not with published ones.",
        rule="always the longest answer",
    ),
    "gsm8k": QuestionSet(
        title="GSM8K",
        judged="number",
        part="gsm8k/test",
        ask=gsm8k,
        how="The answer is written greedily after worked examples; its final number is compared. Bits per byte are "
        "those of the worked answer, and move long before numbers come out right.",
        rule="always the last number of the question",
        stops=("\n\n", "Question:"),
    ),
    "xquad_en": QuestionSet(
        title="XQuAD (English)",
        judged="words",
        part="xquad_en/questions",
        ask=xquad_en,
        how="The answer is written greedily after passage and question, up to the end of the line, and compared by "
        "words (Rajpurkar et al., 2016). Bits per byte are those of the right answer.",
        rule="the sentence that has most words of the question",
        stops=("\n",),
    ),
}


def nearest_sentence(passage: str, question: str) -> str:
    """The sentence of a passage that has most words of the question, the first of several."""
    words = set(normalized(question).split())
    return max(SENTENCES.split(passage), key=lambda sentence: len(words & set(normalized(sentence).split())))


def _drawn(rows: Sequence[Any], number: int | None, seed: int) -> list[Any]:
    """Rows in random order, the first of them; a larger number keeps those of a smaller one."""
    if number is not None and number > len(rows):
        raise InputError(f"at most {len(rows)} questions can be asked, got {number}; ask for fewer")
    return [rows[i] for i in np.random.default_rng(seed).permutation(len(rows))[:number]]


def _joined(examples: list[str]) -> str:
    return "".join(f"{example}\n\n" for example in examples)
