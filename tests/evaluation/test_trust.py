"""The overview: numbers and verdicts come from records, and what has none is said to have none."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from factorlm.cli.app import main
from factorlm.errors import InputError
from factorlm.evaluation.claims import CLAIMS, write_record
from factorlm.evaluation.claims.claim import ClaimRecord, Outcome
from factorlm.evaluation.document import Provenance, Report, Table
from factorlm.evaluation.intervals import Estimate
from factorlm.evaluation.report import write_report
from factorlm.evaluation.trust.dimensions import ABOUT_TRUST, DIMENSIONS
from factorlm.evaluation.trust.overview import overview

NAME = "typos-worst-for-taggers"


def report(suite: str, **measures: float) -> Report:
    provenance = Provenance(command=f"factorlm eval {suite}", settings={}, seed=0, data={}, versions={}, machine="here",
                            commit="abc", seconds=1.0, finished="2026-01-01T00:00:00+00:00")  # fmt: skip
    found = {name: {"of it": Estimate(value=value, low=value, high=value)} for name, value in measures.items()}
    return Report(suite=suite, title=suite, models=(), sections=(), measures=found, provenance=provenance)


def claim_record(rule: str) -> ClaimRecord:
    claim = CLAIMS[NAME]
    outcome = Outcome(measured="seventeen", numbers={}, verdict="does not hold here")
    return ClaimRecord(
        name=NAME, sentence=claim.sentence, source="", reported="", rule=rule, outcome=outcome, command="",
        made_by=claim.made_by, settings={}, seed=0, machine="", threads=1, versions={}, commit="", seconds=0.0,
        finished="",
    )  # fmt: skip


def rows(found: Report, section: str, title: str) -> list[tuple[Any, ...]]:
    [blocks] = [s.blocks for s in found.sections if s.title == section]
    return [row for block in blocks if isinstance(block, Table) and block.title == title for row in block.rows]


def test_figures_come_from_records_and_the_rest_is_named(tmp_path: Path) -> None:
    write_report(report("robustness", **{"F1/slots/snips/x": 0.123, "other": 0.9}), tmp_path / "mine")
    found = overview(tmp_path)
    figures = rows(found, "Robustness", "Figures on record")
    assert (
        "errors in prompts",
        "mine",
        "F1/slots/snips/x",
        "of it",
        Estimate(value=0.123, low=0.123, high=0.123),
    ) in figures
    assert not any("other" in str(row) for row in figures)
    assert ("poisoned training", "not measured", "", "", None) in figures
    assert any(row[1].startswith("not measured yet: no record of markers") for row in figures)
    assert ("errors that were recorded (shift)", "not measured in mine", "", "", None) in figures
    assert found.headlines[0].startswith(f"1 of {sum(len(d.aspects) for d in DIMENSIONS)} ")
    assert found.provenance.data == {"mine/report.json": "abc"}


def test_verdicts_are_those_on_record(tmp_path: Path) -> None:
    write_report(report("robustness"), tmp_path / "robustness")
    assert {
        row[1] for row in rows(overview(tmp_path), "Robustness", "Claims and their verdicts") if row[3] == NAME
    } == {"not yet run"}
    write_record(claim_record(CLAIMS[NAME].rule), tmp_path / "claims")
    [row] = [r for r in rows(overview(tmp_path), "Robustness", "Claims and their verdicts") if r[3] == NAME]
    assert row[1:3] == ("does not hold here", "seventeen")
    write_record(claim_record("another"), tmp_path / "claims")
    [row] = [r for r in rows(overview(tmp_path), "Robustness", "Claims and their verdicts") if r[3] == NAME]
    assert row[1] == "does not hold here (rule changed since)"


def test_the_command_writes_a_page_and_refuses_folders_without_records(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    records = tmp_path / "records"
    write_report(report("robustness", **{"F1/slots/snips/x": 0.123}), records / "robustness")

    def run(folder: Path, out: Path) -> int:
        monkeypatch.setattr(sys, "argv", ["factorlm", "eval", "trust", "--records", str(folder), "--out", str(out)])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0)

    assert run(records, tmp_path / "out") == 0
    assert "0.123" in (tmp_path / "out/report.md").read_text(encoding="utf-8")
    assert json.loads((tmp_path / "out/report.json").read_text(encoding="utf-8"))["suite"] == "trust"
    capsys.readouterr()
    for folder in (tmp_path / "nowhere", records / "robustness"):
        assert run(folder, tmp_path / "none") == 2
        assert "needed" in capsys.readouterr().err
        assert not (tmp_path / "none").exists()
    (records / "robustness/report.json").write_text("{}")
    with pytest.raises(InputError, match="robustness"):
        overview(records)


def test_of_a_suite_about_other_things_only_claims_about_trust_are_told(tmp_path: Path) -> None:
    write_report(report("memory", **{"copied by exponent/0": 0.1}), tmp_path / "mine")
    told = {row[-1] for row in rows(overview(tmp_path), "Safety", "Claims and their verdicts")}
    assert "unlike-a-corpus" in told
    assert not told & {"neighbours-improve-texts", "bm25-best-for-likelihood"}
    assert set(ABOUT_TRUST["memory"]) <= set(CLAIMS)
