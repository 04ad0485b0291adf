"""Questions put to a model, with the evidence on each answer and whether it was right; cached in batches."""

# Axes: B questions.

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factorlm.evaluation.answers import token_f1
from factorlm.evaluation.corpora import DataFolder, fingerprint
from factorlm.evaluation.workbench import Workbench
from factorlm.inference.expression import Composed
from factorlm.inference.uncertainty import Answer, Asking, Evidence, Query, Variant, gather
from factorlm.inference.uncertainty.estimators import Need

Array = NDArray[np.float64]
Right = Callable[[str], bool]
ENOUGH = 0.5  # F1 of words from which on an answer counts as right
ROWS = 48  # texts written together


@dataclass(frozen=True)
class Asked:
    """A question with its check.

    Attributes:
        query: as it is put.
        is_right: judges an answer.
        group: questions of one group stay together wherever some are held out.
        variants: of the query, for estimators that compare; empty for none.
    """

    query: Query
    is_right: Right
    group: str
    variants: tuple[Query, ...] = ()


@dataclass(frozen=True, eq=False)
class Graded:
    """What a model made of questions.

    Attributes:
        name: of the set.
        asked: the questions.
        evidence: of each.
    """

    name: str
    asked: tuple[Asked, ...]
    evidence: tuple[Evidence, ...]

    @property
    def right_B(self) -> Array:
        """Whether the greedy answer was right, 1 or 0."""
        return np.array([a.is_right(e.answer.text) for a, e in zip(self.asked, self.evidence, strict=True)], float)

    @property
    def share_B(self) -> Array:
        """Share of samples that were right."""
        return np.array([np.mean([a.is_right(text) for text in e.texts]) if e.texts else np.nan
                         for a, e in zip(self.asked, self.evidence, strict=True)])  # fmt: skip

    @property
    def groups(self) -> list[str]:
        """Of each question."""
        return [asked.group for asked in self.asked]

    def with_known(self, logit_B: Array) -> Graded:
        """The same with log odds of P(IK)."""
        known = [replace(e, known_logit=float(x)) for e, x in zip(self.evidence, logit_B, strict=True)]
        return replace(self, evidence=tuple(known))


def graded(
    bench: Workbench,
    composed: Composed,
    name: str,
    asked: Sequence[Asked],
    needs: Collection[Need],
    asking: Asking,
    *,
    replications: int = 3,
    rows: int = ROWS,
) -> Graded:
    """Ask a model all questions.

    Args:
        bench: cache and progress.
        composed: that is asked.
        name: of the set, for the progress bar.
        asked: the questions; with variants where "variants" is needed.
        needs: of the estimators.
        asking: how.
        replications: answers to each variant.
        rows: texts written together.
    """
    needs = tuple(sorted(needs))
    key = {
        "what": "evidence",
        "model": composed.fingerprint,
        "needs": list(needs),
        "asking": asking.model_dump(mode="json"),
        "replications": replications,
    }
    items = [{"query": asdict(a.query), "variants": [asdict(v) for v in a.variants]} for a in asked]

    def work(batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
        queries = [Query(**item["query"]) for item in batch]
        varied = {query: [Query(**v) for v in item["variants"]] for query, item in zip(queries, batch, strict=True)}
        found = gather(composed.model, queries, needs, asking, vary=varied.__getitem__, replications=replications)
        return [asdict(evidence) for evidence in found]

    texts = 1 + asking.samples * ("samples" in needs)
    if "variants" in needs:
        texts = max(texts, replications * (1 + max((len(a.variants) for a in asked), default=0)))
    stage = f"asking {name}"
    found = bench.in_batches(stage, key, items, max(1, rows // texts), work)
    return Graded(name, tuple(asked), tuple(_evidence(item) for item in found))


def _evidence(found: dict[str, Any]) -> Evidence:
    """From JSON."""
    return Evidence(**{
        **found,
        "answer": Answer(**found["answer"]),
        "samples": tuple(Answer(**answer) for answer in found["samples"]),
        "variants": tuple(
            Variant(v["question"], tuple(Answer(**answer) for answer in v["answers"])) for v in found["variants"]
        ),
    })  # fmt: skip


def nq_open(data: DataFolder, number: int, seed: int) -> list[Asked]:
    """Questions of searchers, without a passage."""
    rows = _drawn(data.rows("nq_open/dev"), number, seed)
    return [
        Asked(Query.short(_sentence(row["question"])), _checker(row["answer"]), row["question"]) for row in rows
    ]  # fmt: skip


def xquad_en(data: DataFolder, number: int, seed: int) -> list[Asked]:
    """Questions about a passage of an encyclopedia; one of each passage before a second one of any."""
    passages = {row["pid"]: row["text"].strip() for row in data.rows("xquad_en/passages")}
    rows = _one_of_each(data.rows("xquad_en/questions"), "pid", number, seed)
    return [
        Asked(Query.short(row["question"].strip(), passages[row["pid"]]), _checker(row["answers"]), row["pid"])
        for row in rows
    ]


def fairytale_qa(data: DataFolder, number: int, seed: int) -> list[Asked]:
    """Questions about a short section of a fairy tale, of those whose answer stands in it."""
    sections = {
        f"{row['story']} {row['section']}": " ".join(row["text"].split())
        for row in data.rows("fairytale_qa/test_sections")
    }
    rows = [
        {**row, "place": f"{row['story']} {row['sections'][0]}"}
        for row in data.rows("fairytale_qa/test_questions")
        if row["kind"] == "explicit" and len(row["sections"]) == 1
    ]
    rows = [row for row in rows if len(sections.get(row["place"], " " * LONGEST_SECTION)) < LONGEST_SECTION]
    return [
        Asked(Query.short(row["question"].strip(), sections[row["place"]]), _checker(row["answers"]), row["place"])
        for row in _one_of_each(rows, "place", number, seed)
    ]


LONGEST_SECTION = 1200  # characters
SETS: dict[str, Callable[[DataFolder, int, int], list[Asked]]] = {
    "xquad_en": xquad_en,
    "nq_open": nq_open,
    "fairytale_qa": fairytale_qa,
}


def asked_of(bench: Workbench, name: str, number: int) -> list[Asked]:
    """Questions of a set, noted for the provenance."""
    found = SETS[name](bench.data, number, bench.seed)
    bench.used[name] = fingerprint([asked.query.prompt for asked in found])
    return found


def _checker(right: Sequence[str]) -> Right:
    answers = tuple(right)
    return lambda answer: bool(token_f1(answer, answers) >= ENOUGH and answer.strip())


def _sentence(question: str) -> str:
    """With a capital letter and a question mark, as the examples have them."""
    text = question.strip().rstrip("?").strip()
    return f"{text[:1].upper()}{text[1:]}?"


def _drawn(rows: Sequence[dict[str, Any]], number: int, seed: int) -> list[dict[str, Any]]:
    return [rows[i] for i in np.random.default_rng(seed).permutation(len(rows))[:number]]


def _one_of_each(rows: Sequence[dict[str, Any]], key: str, number: int, seed: int) -> list[dict[str, Any]]:
    """Rows in random order, the first of every group before the second of any."""
    seen: dict[Any, int] = {}
    turns: list[tuple[int, int, dict[str, Any]]] = []
    for row in _drawn(rows, len(rows), seed):
        seen[row[key]] = seen.get(row[key], -1) + 1
        turns.append((seen[row[key]], len(turns), row))
    return [row for _, _, row in sorted(turns, key=lambda turn: turn[:2])[:number]]
