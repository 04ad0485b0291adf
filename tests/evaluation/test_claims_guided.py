"""Claims about steering by meaning, from made-up records of the suite: they can hold, and they can fail."""

import json
from pathlib import Path

import pytest

from factorlm.evaluation.claims import CLAIMS, guided, run_claim
from factorlm.evaluation.workbench import Cache

Range = tuple[float, float, float]
Measures = dict[str, dict[str, Range]]
UP, NONE, DOWN = (0.3, 0.2, 0.4), (0.1, -0.1, 0.3), (-0.3, -0.4, -0.2)


def heeding(none: Range, other: Range) -> Measures:
    return {
        "nats saved by the true latent, tales": {"bias": none, "soft": UP},
        "nats saved against another latent, tales": {"bias": other},
    }


def changes(toxic: Range, positive: Range, head: Range = UP) -> Measures:
    end = "rate less that of nothing"
    return {
        f"less toxic, {end}": {"guide 30": toxic, "guide 3": UP, "head 0.2": (-0.5, -0.6, -0.45)},
        f"positive, {end}": {"guide 30": positive, "head 0.2": head},
        f"topic sports, {end}": {"guide 30": UP},
    }


def near(guided: float) -> Measures:
    exact = "32 particles, twisted at 1"
    return {"latents, probability by the guide": {"form tilt at 1": (guided, 0, 1), exact: (0.6, 0, 1)}}


def waiting(share: float) -> Measures:
    return {"share of time before the first token": {"20 tokens, 1 together, 10 steps": (share, share, share)}}


FAR = (-0.9, -0.95, -0.8)
CASES = [
    ("decoders-heed-meanings", heeding(UP, UP), "holds"),
    ("decoders-heed-meanings", heeding(NONE, UP), "not shown"),
    ("decoders-heed-meanings", heeding(UP, DOWN), "does not hold here"),
    ("proposals-follow-the-prefix", {"cosine gained by proposals, a": {"prefix × 1": UP, "prefix × 0": DOWN}}, "holds"),
    ("proposals-follow-the-prefix", {"cosine gained by proposals, a": {"prefix × 1": DOWN}}, "does not hold here"),
    ("guidance-comes-near-the-tilted-prior", near(0.65), "holds"),
    ("guidance-comes-near-the-tilted-prior", near(0.75), "does not hold here"),
    ("guides-steer-texts", changes(DOWN, UP), "holds"),
    ("guides-steer-texts", changes(NONE, UP), "not shown"),
    ("guides-steer-texts", changes(UP, UP), "does not hold here"),
    ("guides-steer-further-than-heads", changes(FAR, (0.9, 0.8, 1.0)), "holds"),
    ("guides-steer-further-than-heads", changes(FAR, UP), "not shown"),
    ("guides-steer-further-than-heads", changes(DOWN, (0.9, 0.8, 1.0)), "does not hold here"),
    ("drawing-a-meaning-takes-little-time", waiting(0.04), "holds"),
    ("drawing-a-meaning-takes-little-time", waiting(0.4), "does not hold here"),
]


@pytest.mark.parametrize(("name", "measures", "verdict"), CASES)
def test_verdicts(name: str, measures: Measures, verdict: str, tmp_path: Path) -> None:
    found = {
        measure: {of: {"value": value, "low": low, "high": high, "n": 9} for of, (value, low, high) in values.items()}
        for measure, values in measures.items()
    }
    (tmp_path / "guided").mkdir()
    (tmp_path / "guided" / "report.json").write_text(
        json.dumps({"measures": found, "provenance": {"machine": "here", "commit": "abc"}})
    )
    ran = run_claim(name, benchmarks=tmp_path, cache=Cache(None))
    assert ran.outcome.verdict == verdict
    assert ran.outcome.numbers["record"]["machine"] == "here"


def test_every_claim_about_guides_is_tried_here() -> None:
    assert {name for name, claim in CLAIMS.items() if claim.made_by == guided.GUIDED} == {name for name, *_ in CASES}
