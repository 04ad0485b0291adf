"""Claims about memories, from made-up records: they can hold, and they can fail."""

import json
from pathlib import Path
from typing import Any

import pytest

from factorlm.evaluation.claims import CLAIMS, memories, run_claim
from factorlm.evaluation.workbench import Cache

Range = tuple[float, float, float]
Measures = dict[str, dict[str, Range]]
UP, NONE, DOWN = (0.3, 0.2, 0.4), (0.1, -0.1, 0.3), (-0.3, -0.4, -0.2)
SMALL: Range = (0.05, 0.04, 0.06)


def saving(own: Range, other: Range) -> Measures:
    return {"nats saved/a": {"∞-gram": own, "∞-gram of other texts": other}, "nats saved/b": {
        "∞-gram": UP, "∞-gram of other texts": DOWN}}  # fmt: skip


def agreeing(values: list[float], one: float) -> Measures:
    return {
        "agreement by suffix length/a": {str(n): (v, v, v) for n, v in enumerate(values)},
        "agreement/a": {"one continuation": (one, 0, 1), "several": (0.3, 0, 1)},
    }


def gaining(share: Range, gain: Range = UP) -> Measures:
    return {
        "generation, gain in nats per token": {"kNN": gain},
        "generation, share of tokens that gain": {"kNN": share},
        "generation, share of gain in the top twentieth": {"kNN": UP},
    }


def nearness(ours: Range, control: Range) -> Measures:
    return {"generation, MAUVE less that of the model": {"kNN": ours, "model, half of it human": control}}


def imitating(ours: Range, without: Range) -> Measures:
    by = {"MLP, learned weights": ours, "MLP without teacher, learned weights": without}
    return {"imitation, gain in nats per token": by, "imitation, share of the teacher's gain": {
        "MLP, learned weights": UP}}  # fmt: skip


def drafting(*values: Range) -> Measures:
    return {"drafts, speed-up": {f"memory of the domain: {n}, greedy": v for n, v in enumerate(values)} | {
        "memory of the domain: x, top_p 0.9": DOWN}}  # fmt: skip


def dense(*values: Range) -> Measures:
    return {f"likelihood, {n}, bits per byte against bm25": {"dense": v} for n, v in enumerate(values)}


def unlike(copied: Range, own: float) -> Measures:
    return {
        "nats by exponent/law": {"-1": (own, own, own), "0": (3.0, 3, 3)},
        "nats by exponent/tales": {"-1": (2.1, 2, 2), "0": (2.0, 2, 2)},
        "copied by exponent": {"-1": copied, "0": (0.5, 0.4, 0.6)},
    }


CASES: list[tuple[str, Measures, str]] = [
    ("memories-lower-perplexity", saving(UP, SMALL), "holds"),
    ("memories-lower-perplexity", saving(UP, UP), "does not hold here"),
    ("memories-lower-perplexity", saving(NONE, DOWN), "not shown"),
    ("longer-matches-are-righter", agreeing([0.1, 0.2, 0.4, 0.5], 0.7), "holds"),
    ("longer-matches-are-righter", agreeing([0.1, 0.5, 0.4, 0.1], 0.7), "does not hold here"),
    ("longer-matches-are-righter", agreeing([0.1, 0.2, 0.4, 0.5], 0.2), "does not hold here"),
    ("few-tokens-gain", gaining((0.3, 0.2, 0.4)), "holds"),
    ("few-tokens-gain", gaining((0.6, 0.55, 0.7)), "does not hold here"),
    ("few-tokens-gain", gaining((0.3, 0.2, 0.4), NONE), "not shown"),
    ("neighbours-improve-texts", nearness(UP, UP), "holds"),
    ("neighbours-improve-texts", nearness(DOWN, UP), "does not hold here"),
    ("neighbours-improve-texts", nearness(UP, NONE), "not shown"),
    ("mlp-imitates-neighbours", imitating(UP, SMALL), "holds"),
    ("mlp-imitates-neighbours", imitating(UP, UP), "not shown"),
    ("mlp-imitates-neighbours", imitating(DOWN, SMALL), "does not hold here"),
    ("memory-drafts-pay", drafting((1.3, 1.2, 1.4), (1.2, 1.1, 1.3)), "holds"),
    ("memory-drafts-pay", drafting((1.3, 1.2, 1.4), (0.9, 0.8, 0.95)), "does not hold here"),
    ("bm25-best-for-likelihood", dense(UP, UP), "holds"),
    ("bm25-best-for-likelihood", dense(UP, DOWN), "does not hold here"),
    ("bm25-best-for-likelihood", dense(UP, NONE), "not shown"),
    ("unlike-a-corpus", unlike((0.2, 0.1, 0.3), 4.0), "holds"),
    ("unlike-a-corpus", unlike((0.45, 0.3, 0.55), 4.0), "not shown"),
    ("unlike-a-corpus", unlike((0.2, 0.1, 0.3), 3.1), "not shown"),
    ("unlike-a-corpus", unlike((0.7, 0.6, 0.8), 4.0), "does not hold here"),
]


@pytest.mark.parametrize(("name", "measures", "verdict"), CASES)
def test_verdicts(name: str, measures: Measures, verdict: str, tmp_path: Path) -> None:
    found = {
        measure: {of: {"value": value, "low": low, "high": high, "n": 9} for of, (value, low, high) in values.items()}
        for measure, values in measures.items()
    }
    (tmp_path / "memory").mkdir()
    report = {"measures": found, "provenance": {"machine": "here", "commit": "abc"}}
    (tmp_path / "memory" / "report.json").write_text(json.dumps(report))
    ran = run_claim(name, benchmarks=tmp_path, cache=Cache(None))
    assert ran.outcome.verdict == verdict
    assert ran.outcome.numbers["record"]["machine"] == "here"


def engine(times: float, many: float, mixing: float) -> dict[str, Any]:
    single = {"count": {"ours": {"median": 1.0}, "theirs": {"median": times}}}
    build = {"ours": {"tokens a second": times}, "theirs": {"tokens a second": 1.0}}
    size = {
        "tokens": 10, "build": build, "single, µs": single, "batched, µs": {"count": {"ours": 1.0, "theirs": many}},
        "along a text, µs a token": {"ours": 1.0, "theirs": many}, "queries that agree": 10,
    }  # fmt: skip
    return {"sizes": [size], "mixing": {"batch 1": {"ratio": mixing}}}


@pytest.mark.parametrize(
    ("name", "record", "verdict"),
    [
        ("infini-engine-is-fast", engine(1.2, 3.5, 1.0), "holds"),
        ("infini-engine-is-fast", engine(0.9, 3.5, 1.0), "does not hold here"),
        ("infini-engine-is-fast", engine(1.2, 2.0, 1.0), "does not hold here"),
        ("mixing-costs-little", engine(1, 3, 1.05), "holds"),
        ("mixing-costs-little", engine(1, 3, 1.2), "does not hold here"),
    ],
)
def test_verdicts_about_the_engine(name: str, record: dict[str, Any], verdict: str, tmp_path: Path) -> None:
    (tmp_path / "infini.json").write_text(json.dumps(record))
    assert run_claim(name, benchmarks=tmp_path, cache=Cache(None)).outcome.verdict == verdict


def test_every_claim_about_memories_is_tried_here() -> None:
    mine = {name for name, claim in CLAIMS.items() if claim.made_by in (memories.MADE_BY, memories.ENGINE_BY)}
    assert mine == {name for name, *_ in CASES} | {"infini-engine-is-fast", "mixing-costs-little"}
