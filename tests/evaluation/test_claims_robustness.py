"""Claims about errors, markers and planted bias, from made-up records: they can hold, and they can fail."""

import json
from pathlib import Path

import pytest

from factorlm.evaluation.claims import CLAIMS, fairness, markers, robustness, run_claim
from factorlm.evaluation.workbench import Cache

Range = tuple[float, float, float]
Measures = dict[str, dict[str, Range]]
UP, SLIGHT, NONE, DOWN = (0.3, 0.2, 0.4), (0.03, 0.01, 0.045), (0.1, -0.1, 0.3), (-0.3, -0.4, -0.2)


def typos(*values: Range) -> Measures:
    found: Measures = {f"next worst less typos/slots/a/{n}, clean": {"F1": value} for n, value in enumerate(values)}
    return found | {"next worst less typos/slots/a/0, augmented": {"F1": DOWN}}


def mixed(*values: Range) -> Measures:
    return {"worst part less mixture/slots/a/states, clean": {f"x+{n}": value for n, value in enumerate(values)}}


def repaired(gained: Range, lost: float) -> Measures:
    return {
        "augmentation/slots/a/states": {"noisy F1 gained": gained, "clean F1 lost": (lost, lost, lost)},
        "F1/recorded slots/a/states, clean": {"clean": UP, "x": (0.5, 0, 1)},
        "F1/recorded slots/a/states, augmented": {"clean": UP, "x": (0.75, 0, 1)},
    }


def shown(*values: Range) -> Measures:
    by = {f"demonstrations/prompted/{n}": {"nearest utterances": value} for n, value in enumerate(values)}
    return by | {"demonstrations/prompted/x": {"values of slots": DOWN}}


def mimicry(planted: Range, swapped: Range) -> Measures:
    return {f"accuracy of drawn answers, {name}": {"first less second": value}
            for name, value in (("as planted", planted), ("swapped", swapped))}  # fmt: skip


def sensitive(most: float, p_value: float) -> Measures:
    point = (most, most, most)
    return {
        "sensitivity/all": {"max less min": point, "by chance": NONE, "p-value": (p_value, p_value, p_value)},
        "certain less doubtful/all": {"accuracy": DOWN},
    }


def bias(planted: float, twin: float) -> Measures:
    return {"preference for blorps": {"planted": (planted, 0, 1), "twin without bias": (twin, 0, 1)}}


CASES: list[tuple[str, Measures, str]] = [
    ("typos-worst-for-taggers", typos(UP, UP), "holds"),
    ("typos-worst-for-taggers", typos(UP, DOWN), "does not hold here"),
    ("typos-worst-for-taggers", typos(UP, NONE), "not shown"),
    ("mixed-noise-at-least-its-worst-part", mixed(UP, (0.0, -0.1, 0.1)), "holds"),
    ("mixed-noise-at-least-its-worst-part", mixed(UP, DOWN), "does not hold here"),
    ("mixed-noise-at-least-its-worst-part", mixed(UP, (-0.01, -0.1, 0.1)), "not shown"),
    ("augmentation-repairs", repaired(UP, 0.01), "holds"),
    ("augmentation-repairs", repaired(UP, 0.03), "does not hold here"),
    ("augmentation-repairs", repaired(SLIGHT, 0.01), "does not hold here"),
    ("augmentation-repairs", repaired(NONE, 0.01), "not shown"),
    ("demonstrations-help-the-prompted-model", shown(UP), "holds"),
    ("demonstrations-help-the-prompted-model", shown(UP, SLIGHT), "does not hold here"),
    ("demonstrations-help-the-prompted-model", shown(UP, NONE), "not shown"),
    ("markers-are-mimicry", mimicry(UP, DOWN), "holds"),
    ("markers-are-mimicry", mimicry(UP, UP), "does not hold here"),
    ("markers-are-mimicry", mimicry(NONE, DOWN), "not shown"),
    ("markers-change-accuracy", sensitive(0.2, 0.01), "holds"),
    ("markers-change-accuracy", sensitive(0.08, 0.01), "does not hold here"),
    ("markers-change-accuracy", sensitive(0.2, 0.3), "not shown"),
    ("planted-bias-recovered", bias(0.8, 0.5), "holds"),
    ("planted-bias-recovered", bias(0.95, 0.5), "does not hold here"),
    ("planted-bias-recovered", bias(0.8, 0.6), "does not hold here"),
]


@pytest.mark.parametrize(("name", "measures", "verdict"), CASES)
def test_verdicts(name: str, measures: Measures, verdict: str, tmp_path: Path) -> None:
    found = {
        measure: {of: {"value": value, "low": low, "high": high, "n": 9} for of, (value, low, high) in values.items()}
        for measure, values in measures.items()
    }
    report = {"measures": found, "provenance": {"machine": "here", "commit": "abc"}}
    for suite in ("robustness", "markers", "fairness"):
        (tmp_path / suite).mkdir()
        (tmp_path / suite / "report.json").write_text(json.dumps(report))
    ran = run_claim(name, benchmarks=tmp_path, cache=Cache(None))
    assert ran.outcome.verdict == verdict
    assert ran.outcome.numbers["record"]["commit"] == "abc"


def test_gains_on_recorded_errors_are_told(tmp_path: Path) -> None:
    test_verdicts("augmentation-repairs", repaired(UP, 0.01), "holds", tmp_path)
    ran = run_claim("augmentation-repairs", benchmarks=tmp_path, cache=Cache(None))
    assert ran.outcome.numbers["recorded"] == {"a/states": 0.25}


def test_every_claim_here_is_tried() -> None:
    records = (robustness.MADE_BY, markers.MADE_BY, fairness.MADE_BY)
    assert {name for name, claim in CLAIMS.items() if claim.made_by in records} == {name for name, *_ in CASES}
