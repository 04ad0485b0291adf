"""Claims about alignment: the exact ones run, the others from made-up records can hold, and can fail."""

import json
from pathlib import Path

import pytest

from factorlm.evaluation.claims import CLAIMS, aligned, run_claim
from factorlm.evaluation.workbench import Cache

Range = tuple[float, float, float]
Measures = dict[str, dict[str, Range]]
UP, NONE, DOWN = (0.3, 0.2, 0.4), (0.1, -0.1, 0.3), (-0.3, -0.4, -0.2)


def doses(*gains: Range, nats: tuple[float, ...] = (0.5, 1.0, 2.0)) -> Measures:
    dials = ("w=1", "w=2", "w=4")
    return {
        "nats/DPO, re-weighted": {d: (n, n, n) for d, n in zip(dials, nats, strict=True)},
        "gain in reward/DPO, re-weighted": dict(zip(dials, gains, strict=True)),
    }


def halves(reward: Range, judged: Range) -> Measures:
    return {"upper half/best of n": {"reward": reward, "judged": judged},
            "upper half/soft value": {"reward": UP, "judged": UP}}  # fmt: skip


def lengths(free: Range, controlled: Range) -> Measures:
    against = "pairs whose chosen text is not the shorter one"
    return {
        "pair accuracy/length left in, 40 pairs": {against: free},
        "pair accuracy/length taken out, 40 pairs": {against: controlled},
        "pair accuracy/length left in, 800 pairs": {against: (0.9, 0.8, 1.0)},
        "correlation with length/length left in, 40 pairs": {"all pairs": DOWN},
    }


def errors(before: Range, after: Range, repaired: Range) -> Measures:
    return {
        "calibration error/the model": {"as it is": before},
        "calibration error/DPO, w=1": {"as it is": before, "at its own temperature": before},
        "calibration error/DPO, w=4": {"as it is": after, "at its own temperature": repaired},
    }


def both(one: Range, other: Range) -> Measures:
    return {"gain in civil/both": {"toxicity": one}, "gain in positive/both": {"sentiment": other},
            "gain in civil/civil": {"toxicity": DOWN}}  # fmt: skip


LOW, HIGH = (0.3, 0.2, 0.4), (0.7, 0.6, 0.8)
CASES: list[tuple[str, Measures, str]] = [
    ("best-of-n-beats-dpo-at-small-kl", {"reward, best of n less DPO": {"w=1": UP, "w=2": UP}}, "holds"),
    ("best-of-n-beats-dpo-at-small-kl", {"reward, best of n less DPO": {"w=1": UP, "w=2": DOWN}}, "does not hold here"),
    ("best-of-n-beats-dpo-at-small-kl", {"reward, best of n less DPO": {"w=1": NONE}}, "not shown"),
    ("best-of-n-beats-dpo-at-small-kl", {"nats/x": {"y": UP}}, "not shown"),
    ("decoding-time-realignment", doses((0.1, 0, 0.2), UP, UP), "holds"),
    ("decoding-time-realignment", doses((0.1, 0, 0.2), UP, UP, nats=(0.5, 0.4, 2.0)), "does not hold here"),
    ("decoding-time-realignment", doses(UP, NONE, UP), "not shown"),
    ("over-optimisation-of-a-proxy", halves(UP, DOWN), "holds"),
    ("over-optimisation-of-a-proxy", halves(UP, UP), "does not hold here"),
    ("over-optimisation-of-a-proxy", halves(NONE, DOWN), "not shown"),
    ("reward-heads-learn-length-first", lengths(LOW, HIGH), "holds"),
    ("reward-heads-learn-length-first", lengths(LOW, (0.2, 0.1, 0.3)), "not shown"),
    ("reward-heads-learn-length-first", lengths(HIGH, HIGH), "does not hold here"),
    ("preference-tuning-raises-confidence", errors((0.05, 0.04, 0.06), (0.2, 0.1, 0.3), (0.05, 0, 0.1)), "holds"),
    ("preference-tuning-raises-confidence", errors((0.05, 0.04, 0.06), (0.2, 0.1, 0.3), (0.15, 0, 0.3)), "not shown"),
    (
        "preference-tuning-raises-confidence",
        errors((0.3, 0.25, 0.4), (0.2, 0.1, 0.22), (0.05, 0, 0.1)),
        "does not hold here",
    ),
    ("multi-objective-composition", both(UP, UP), "holds"),
    ("multi-objective-composition", both(UP, DOWN), "does not hold here"),
    ("multi-objective-composition", both(NONE, UP), "not shown"),
]


@pytest.mark.parametrize(("name", "measures", "verdict"), CASES)
def test_rules(name: str, measures: Measures, verdict: str, tmp_path: Path) -> None:
    record = tmp_path / aligned.RECORD
    record.parent.mkdir()
    found = {
        measure: {of: {"value": v, "low": low, "high": high, "n": 9} for of, (v, low, high) in by.items()}
        for measure, by in measures.items()
    }
    record.write_text(json.dumps({"measures": found, "provenance": {"commit": "c"}}))
    outcome = run_claim(name, benchmarks=tmp_path, cache=Cache(None)).outcome
    assert outcome.verdict == verdict
    assert outcome.measured


def test_every_recorded_claim_has_all_three_verdicts() -> None:
    recorded = {name for name, claim in CLAIMS.items() if claim.made_by == aligned.MADE_BY}
    assert {name for name, _, _ in CASES} == recorded
    for name in recorded:
        assert {verdict for found, _, verdict in CASES if found == name} == {"holds", "does not hold here", "not shown"}


@pytest.mark.parametrize("name", ["kl-regularised-optimum-is-a-product", "best-of-n-kl-bound"])
def test_exact_claims(name: str) -> None:
    small = aligned.Worlds(worlds=2, policies=500)
    assert run_claim(name, settings=small, cache=Cache(None)).outcome.verdict == "holds"


def test_an_exact_claim_can_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aligned.exact, "best_of_bound", lambda n: 0.5)
    small = aligned.Worlds(worlds=1)
    outcome = run_claim("best-of-n-kl-bound", settings=small, cache=Cache(None)).outcome
    assert outcome.verdict == "does not hold here"
