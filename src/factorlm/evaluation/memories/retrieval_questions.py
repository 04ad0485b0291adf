"""Questions with the passages that answer them, or with answers that some passage holds; and measures of them."""

# Axes: C columns (numerator, denominator), Q questions, U units.

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factorlm.errors import InputError
from factorlm.evaluation.corpora import DataFolder, fingerprint
from factorlm.evaluation.intervals import Comparison, Estimate, compare, ratio_interval
from factorlm.evaluation.texts import Corpus
from factorlm.evaluation.workbench import Workbench
from factorlm.text.comparing import normalized

Array = NDArray[np.float64]
BETWEEN = " | "  # passages; a sign that no normalised text has
HELD = {
    "better": "holds here",
    "worse": "is reversed here",
    "no difference shown": "is not shown here",
    "cannot rank": "cannot be told here",
}
SIGNS = ((" @-@ ", "-"), (" @,@ ", ","), (" @.@ ", "."))  # that WikiText sets apart


@dataclass(frozen=True)
class Question:
    """A question.

    Attributes:
        text: as it is asked.
        unit: what is resampled whole: questions about one passage or story share it.
        relevant: numbers of the passages that answer it, the gold passages; empty where none is known.
        answers: right ones.
    """

    text: str
    unit: str
    relevant: tuple[int, ...]
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Asked:
    """Questions and the passages that are searched for them.

    Attributes:
        passages: to be searched.
        questions: in an order of which any beginning has questions of many units.
        unit: what shares of questions are resampled by, in a word.
    """

    passages: tuple[str, ...]
    questions: tuple[Question, ...]
    unit: str


@dataclass(frozen=True, eq=False)
class PerQuestion:
    """One measure of the questions of a set, for each way of searching; a larger one is better.

    Attributes:
        measure: its name.
        units_Q: what is resampled whole.
        value_Q: by way.
        seed: of resampling and sign flips.
    """

    measure: str
    units_Q: tuple[str, ...]
    value_Q: dict[str, Array]
    seed: int

    def estimate(self, way: str) -> Estimate:
        """The mean over questions, with its interval over units."""
        sums_UC = self._sums_UC(way)
        return ratio_interval(sums_UC[:, 0], sums_UC[:, 1], seed=self.seed)

    def against(self, way: str, rival: str) -> Comparison:
        """Two ways, paired over units."""
        return compare(
            self.measure, (way, self._sums_UC(way)), (rival, self._sums_UC(rival)),
            statistic=lambda mean_RC: mean_RC[:, 0] / mean_RC[:, 1], lower_is_better=False, seed=self.seed,
        )  # fmt: skip

    def of(self, is_kept_Q: NDArray[np.bool_]) -> PerQuestion:
        """The same of some of the questions."""
        units_Q = tuple(unit for unit, is_kept in zip(self.units_Q, is_kept_Q, strict=True) if is_kept)
        kept = {way: value_Q[is_kept_Q] for way, value_Q in self.value_Q.items()}
        return PerQuestion(self.measure, units_Q, kept, self.seed)

    def best(self) -> str:
        """The way with the largest mean, the first of equal ones."""
        return max(self.value_Q, key=lambda way: float(self.value_Q[way].mean()))

    def _sums_UC(self, way: str) -> Array:
        units = {unit: u for u, unit in enumerate(dict.fromkeys(self.units_Q))}
        sums_UC = np.zeros((len(units), 2))
        np.add.at(sums_UC[:, 0], [units[unit] for unit in self.units_Q], self.value_Q[way])
        np.add.at(sums_UC[:, 1], [units[unit] for unit in self.units_Q], 1.0)
        return sums_UC


def xquad_en(data: DataFolder, seed: int) -> Asked:
    """Questions about 240 passages of an encyclopedia, each answered by one of them."""
    rows = data.rows("xquad_en/passages")
    number = {row["pid"]: n for n, row in enumerate(rows)}
    questions = [
        Question(row["question"].strip(), row["pid"], (number[row["pid"]],), tuple(row["answers"]))
        for row in data.rows("xquad_en/questions")
    ]
    return Asked(tuple(row["text"].strip() for row in rows), _in_turn(questions, seed), "passage")


def fairytale_qa(data: DataFolder, seed: int) -> Asked:
    """Questions about fairy tales, each answered by one or more sections of one tale; all tales are searched."""
    rows = data.rows("fairytale_qa/test_sections")
    number = {(row["story"], row["section"]): n for n, row in enumerate(rows)}
    questions = []
    for row in data.rows("fairytale_qa/test_questions"):
        relevant = [number[key] for section in row["sections"] if (key := (row["story"], section)) in number]
        if relevant:
            questions.append(
                Question(row["question"].strip(), row["story"], tuple(dict.fromkeys(relevant)), tuple(row["answers"]))
            )
    return Asked(tuple(row["text"].strip() for row in rows), _in_turn(questions, seed), "story")


GOLD_SETS: dict[str, Callable[[DataFolder, int], Asked]] = {"xquad_en": xquad_en, "fairytale_qa": fairytale_qa}


def load_gold(bench: Workbench, name: str, number: int | None) -> Asked:
    """A set of questions whose passages are known, or the first of them.

    Raises:
        InputError: if there are no questions.
    """
    asked = GOLD_SETS[name](bench.data, bench.seed)
    if not asked.questions:
        raise InputError(f"questions are needed in {name}, got none; get the data set again")
    bench.used[name] = fingerprint([*asked.passages, *(q.text for q in asked.questions)])
    return Asked(asked.passages, asked.questions[:number], asked.unit)


def encyclopedia(bench: Workbench, parts: Sequence[str]) -> list[str]:
    """Articles of parts of WikiText, with the signs joined to their words again."""
    articles = []
    for part in parts:
        corpus = Corpus(part=part, documents="headings", max_documents=None, max_characters=None)
        texts = [document.text for document in corpus.load(bench.data)]
        bench.used[part] = fingerprint(texts)
        articles += [joined(text) for text in texts]
    return articles


def answerable(bench: Workbench, part: str, passages: Sequence[str]) -> tuple[tuple[Question, ...], int]:
    """Questions of which a right answer stands in some passage, in random order; and how many there are in all."""
    rows: list[dict[str, Any]] = bench.data.rows(part)
    bench.used[part] = used = fingerprint([row["question"] for row in rows])
    key = {"what": "memory, answerable", "part": used, "passages": fingerprint(passages)}

    def find() -> list[int]:
        everything = spelt(BETWEEN.join(map(normalized, passages)))
        return [n for n, row in enumerate(rows) if any(_stands_in(everything, answer) for answer in row["answer"])]

    found = bench.cache.get(key, find)
    questions = [Question(rows[n]["question"].strip(), f"{part} {n}", (), tuple(rows[n]["answer"])) for n in found]
    return _in_turn(questions, bench.seed), len(rows)


def holds(texts: Sequence[str], answers: Sequence[str]) -> bool:
    """Whether a right answer stands in one of some texts, word for word as normalised."""
    return any(_stands_in(spelt(normalized(text)), answer) for text in texts for answer in answers)


def spelt(text: str) -> str:
    """With a blank on both sides, so that words are found whole."""
    return f" {text} "


def joined(text: str) -> str:
    """Text of WikiText with hyphens, commas and points inside of words and numbers as people write them."""
    for apart, sign in SIGNS:
        text = text.replace(apart, sign)
    return text


def held(comparison: Comparison) -> str:
    """Whether a finding holds here, by the comparison that shows it if its first way is the better one."""
    return HELD[comparison.verdict]


def _stands_in(everything: str, answer: str) -> bool:
    words = normalized(answer)
    return bool(words) and spelt(words) in everything


def _in_turn(questions: Sequence[Question], seed: int) -> tuple[Question, ...]:
    """One question of each unit, units in random order, then a second one of each, and so on."""
    by_unit: dict[str, list[Question]] = {}
    for question in questions:
        by_unit.setdefault(question.unit, []).append(question)
    units = list(by_unit)
    order = [by_unit[units[n]] for n in np.random.default_rng(seed).permutation(len(units))]
    most = max(map(len, order), default=0)
    return tuple(some[turn] for turn in range(most) for some in order if turn < len(some))
