"""The whole suite on a tiny model: every part runs, numbers are shares, and no text stands in the report unasked."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from factorlm.errors import InputError, UnknownNameError
from factorlm.evaluation.claims import CLAIMS, redteam
from factorlm.evaluation.claims.claim import ClaimBench, Outcome
from factorlm.evaluation.corpora import DataFolder
from factorlm.evaluation.document import Samples, Table
from factorlm.evaluation.intervals import Estimate
from factorlm.evaluation.redteam import written
from factorlm.evaluation.redteam.attacks import suffix as suffixes
from factorlm.evaluation.redteam.exact import Planted
from factorlm.evaluation.redteam.granting import Granting
from factorlm.evaluation.redteam.rule import StandInRule
from factorlm.evaluation.redteam.written import WrittenCases, gap
from factorlm.evaluation.suites import redteam as suite
from factorlm.evaluation.workbench import Cache, Workbench
from factorlm.inference import Model
from factorlm.inference.expression import Composed
from factorlm.models import CausalLM

SECRET = "the bad bad thing"
Run = Callable[..., Any]


@pytest.fixture
def run(
    tiny_lm: CausalLM, make_head: Callable[..., Any], put: Callable[..., DataFolder], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Run:  # fmt: skip
    """The suite on the tiny model, with a writer whose texts are questions."""
    put("redteam/harmful", [{"text": f"{SECRET} {n}", "source": "s", "category": "ab"[n % 2]} for n in range(4)])
    kinds = [("homonyms", 0), ("contrast_homonyms", 1)]
    rows = [{"text": f"good {kind} {n}", "type": kind, "label": label} for kind, label in kinds for n in range(6)]
    data = put("redteam/xstest", rows)
    monkeypatch.setattr(suffixes, "words_in", lambda composed: composed.model.lm.encode_text("xyqz"))
    monkeypatch.setattr("factorlm.evaluation.redteam.writing.question_in", lambda text: text.strip()[:20])
    model = Model(tiny_lm * make_head(0, name="toxic") ** -1.0, tiny_lm)
    bench = Workbench(
        (Composed("tiny * toxic^-1", model, (), "guarded"), Composed("tiny", Model(tiny_lm, tiny_lm), (), "bare")),
        data,
        Cache(tmp_path / "cache"), lambda stage, done, total: None, 0,
    )  # fmt: skip

    def measure(**changes: Any) -> Any:
        settings = suite.Settings(
            max_tokens=8, balance_per_kind=6,
            requests=Granting(source="s", per_category=2, tries=2, searched=1, steps=1, candidates=2, suffix_tokens=2),
            written=WrittenCases(cases=8, shown=2), rule=StandInRule(cases=8, shown=2),
            planted=Planted(cases=200, judged=200, repeats=2),
        ).model_copy(update=changes)  # fmt: skip
        return suite.run(bench, settings)

    return measure


@pytest.mark.model
def test_every_part_runs_and_shows_no_text_unasked(run: Run) -> None:
    found = run()
    whole = json.dumps([s.model_dump(mode="json") for s in found.sections])
    assert SECRET not in whole
    titles = [section.title for section in found.sections]
    for wanted in ("Attacks on tiny", "Refusal balance", "A planted world", "A stand-in rule: no digits", "Judges"):
        assert wanted in titles
    shares = ("refused/", "granted", "off topic/", "toxic/", "toxic broken/", "digit broken/", "planted success")
    for measure, values in found.measures.items():
        for estimate in values.values():
            if measure.startswith(shares) and estimate.value is not None:
                assert 0 <= estimate.value <= 1, measure
    assert any("negated was not tried on tiny," in caution for caution in found.cautions)
    assert set(found.measures["granted/negated/refusal"]) == {"tiny * toxic^-1"}
    [table] = [b for s in found.sections for b in s.blocks if isinstance(b, Table) and b.title == "Attacks on tiny"]
    assert [row[0] for row in table.rows] == [a for a in Granting().attacks if a != "negated"]
    shown = run(parts=("requests",), show_texts=True)
    texts = [b for s in shown.sections for b in s.blocks if isinstance(b, Samples)]
    assert any(SECRET in prompt for block in texts for _, prompt, _ in block.texts)


@pytest.mark.model
def test_failures_become_a_factor_that_is_attacked_again(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny model has no digits, so the rule is about a letter here; it says it in about half of its answers."""
    monkeypatch.setattr("factorlm.evaluation.redteam.writing.DIGIT", re.compile("e"))
    found = run(parts=("rule",), rule=StandInRule(cases=60, shown=2, strength=0.6))
    assert found.sections[1].title == "Failures as a safety factor"
    for what in ("the same attack", "a fresh attack"):
        by = found.measures[f"rule broken, {what}"]
        assert by["change"].value == pytest.approx(by["with the factor"].value - by["before"].value, abs=1e-9)
    same = found.measures["rule broken, the same attack"]
    assert same["with the factor"].value < same["before"].value
    perplexity = found.measures["rule: perplexity"]
    assert perplexity["with the factor"].value != perplexity["before"].value


def test_what_cannot_be_measured_is_told_in_one_line(run: Run) -> None:
    with pytest.raises(InputError, match="at least one part"):
        run(parts=())
    with pytest.raises(InputError, match="one of toxic, got 'rude'"):
        run(safety=("rude",))
    with pytest.raises(UnknownNameError, match="did you mean persona"):
        run(parts=("requests",), requests=Granting(source="s", attacks=("persna",)))
    with pytest.raises(InputError, match="a source of redteam/harmful is needed"):
        run(parts=("requests",), requests=Granting(source="nope"))


def test_the_gap_of_two_samples_by_hand() -> None:
    found = gap(np.array([1.0, 1, 0, 1]), np.array([0.0, 1]), 0)
    assert found.value == pytest.approx(0.25)
    assert written.gap(np.array([1.0]), np.array([0.0]), 0).value == 1


# Claims


def record(tmp_path: Path, measures: dict[str, dict[str, Estimate]]) -> ClaimBench:
    folder = tmp_path / "records" / "redteam"
    folder.mkdir(parents=True)
    told = {m: {of: e.model_dump() for of, e in values.items()} for m, values in measures.items()}
    (folder / "report.json").write_text(json.dumps({"measures": told, "provenance": {"commit": "x"}}))
    return ClaimBench(DataFolder(tmp_path), Cache(None), lambda stage, done, total: None, 0, folder.parent)


def around(value: float, half: float = 0.1) -> Estimate:
    return Estimate(value=value, low=value - half, high=value + half, n=50)


@pytest.mark.parametrize(
    ("first", "second", "want"),
    [(0.3, 0.2, "holds"), (0.3, 0.05, "not shown"), (0.3, -0.2, "does not hold here")],
)
def test_claims_about_two_judges_need_both(first: float, second: float, want: str, tmp_path: Path) -> None:
    bench = record(
        tmp_path,
        {
            "toxic broken, negated less zero-shot": {"a": around(first), "b": around(second)},
            "youden/a": {"smollm2": around(first)},
            "youden/b": {"smollm2": around(second)},
            **{
                f"rule broken, {what}": {"change": around(-change)}
                for what, change in (("the same attack", first), ("a fresh attack", second))
            },
            "rule: perplexity": {"before": around(9), "with the factor": around(10)},
        },
    )
    for claim in (redteam.NEGATED, redteam.BALANCED, redteam.LOWERS):
        found: Outcome = claim.run(bench, claim.settings)
        assert found.verdict == want, claim.name
    assert "9" in redteam.LOWERS.run(bench, redteam.LOWERS.settings).measured


def test_claims_of_the_planted_world_can_fail() -> None:
    bench = ClaimBench(DataFolder(Path()), Cache(None), lambda stage, done, total: None, 0, Path())
    small = Planted(cases=300, judged=20_000, repeats=1)
    assert redteam.CORRECTS.run(bench, small).verdict == "holds"
    spoilt = {
        redteam.FINDS: {"temperature": 1e6},  # examples are drawn without looking at their success
        redteam.TRADE: {"alphas": (1e6,)},  # reinforcement does not move
        redteam.CORRECTS: {"flips": 0.0},  # a judge that does not err needs no correction
        redteam.LEARNS: {"exponent": 0.0},  # the factor does nothing
    }
    for claim, change in spoilt.items():
        assert claim.run(bench, small.model_copy(update=change)).verdict == "does not hold here", claim.name


def test_the_command_of_the_record_is_the_one_of_the_claims() -> None:
    names = {name for name, claim in CLAIMS.items() if claim.made_by == redteam.MADE_BY}
    assert names == {redteam.LOWERS.name, redteam.NEGATED.name, redteam.BALANCED.name}
