"""The shelf from the command line: listing, cards, recipes, and what is asked of a composition as a whole."""

import json
import re
from pathlib import Path

import pytest

from .conftest import Run

POLITE, POSITIVE = "polite=0.3", "positive=0.3"


def test_the_list_names_what_each_factor_does(run: Run) -> None:
    ran = run("factor", "list", "--kind", "lexicon", "--json")
    rows = [json.loads(line) for line in ran.out.splitlines()]
    assert len(rows) >= 8
    assert {row["kind"] for row in rows} == {"lexicon"}
    heads = [json.loads(line) for line in run("factor", "list", "--kind", "head", "--json").out.splitlines()]
    assert len(heads) >= 12
    for row in heads:
        assert row["calibration"]["dev_auc"] > 0.5
        assert row["response"]["doses"]
        assert row["licence"] != "unspecified"
        assert 0 < row["num_bytes"] < 20_000
    assert "polite" in run("factor", "list").out


def test_a_card_as_a_page(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "card.html"
    assert run("factor", "show", "polite", "--tokens", "0", "--html", str(path)).status == 0
    assert "Texts judged polite" in path.read_text()
    assert "texts judged polite" in run("factor", "show", "polite", "--tokens", "0").out


def test_a_lexicon_is_built_from_a_recipe(run: Run, tmp_path: Path) -> None:
    recipe = tmp_path / "sea.toml"
    recipe.write_text(
        'name = "sea"\ndescription = "The sea."\nlicence = "MIT"\n[[lexicon]]\nboost = 1.5\nphrases = ["ship"]\n'
    )
    out = tmp_path / "out"
    ran = run("factor", "build", str(recipe), "--out", str(out), "--data", str(tmp_path))
    assert ran.status == 0
    manifest = json.loads((out / "sea" / "factor.json").read_text())
    assert manifest["settings"]["phrases"] == {"ship": 1.5}
    before = (out / "sea" / "factor.json").stat().st_mtime_ns
    run("factor", "build", str(recipe), "--out", str(out), "--data", str(tmp_path))
    assert (out / "sea" / "factor.json").stat().st_mtime_ns == before, "made by the same recipe: left alone"


def test_factors_made_side_by_side_are_those_made_one_by_one(run: Run, tmp_path: Path) -> None:
    names = ("british", "clean", "safe")
    for jobs in ("1", "2"):
        ran = run("factor", "build", *names, "--jobs", jobs, "--out", str(tmp_path / jobs), "--data", str(tmp_path))
        assert ran.status == 0
        assert all(name in ran.out for name in names)
    for name in names:
        assert (tmp_path / "1" / name / "factor.json").read_bytes() == (
            tmp_path / "2" / name / "factor.json"
        ).read_bytes()


ERRORS = {
    "no data set": (["factor", "build", "polite", "--data", "."], "data set in ."),
    "no recipe": (["factor", "build", "polit"], "did you mean polite"),
    "no kind": (["factor", "list", "--kind", "hed"], "did you mean head"),
    "a target that is no pair": (["generate", "x", "--target", "polite"], "NAME=RATE"),
    "a target that is no share": (["generate", "x", "--target", "polite=2"], "share between 0 and 1"),
    "a target out of reach": (["generate", "x", "--target", "polite=0.999"], "'polite' reaches"),
    "a target of a lexicon": (["generate", "x", "--target", "nature=0.5"], "no measured dose and response"),
    "two targets": (["generate", "x", "--target", "polite=0.6", "--target", "polite=0.7"], "one target"),
    "a target and a strength": (["generate", "x", "--target", "polite=0.8", "--factor", "polite=0.1"], "given once"),
    "a lexicon to measure": (["factor", "measure", "nature"], "a lexicon"),
    "no judge": (["factor", "measure", "archaic"], "a judge of 'archaic' is needed"),
    "two judges": (["factor", "measure", "polite", "--judge", "x", "--table", "y"], "exactly one"),
}


@pytest.mark.parametrize("what", ERRORS)
def test_bad_input_ends_in_one_line(run: Run, what: str) -> None:
    words, message = ERRORS[what]
    ran = run(*words)
    assert ran.status == 2
    assert message in ran.err
    assert len(ran.err.strip().splitlines()) == 1


@pytest.mark.model
def test_targets_budgets_and_refits_are_told(run: Run) -> None:
    common = ["--max-tokens", "4", "--json"]
    ran = run("generate", "The staff", "--target", "polite=80%", *common)
    assert re.search(r"polite=0.\d+ for 8\d% \(base \d+%\)", " ".join(ran.err.split()))
    assert 0.05 < json.loads(ran.out)["factors"]["polite"]["strength"] < 0.4
    ran = run("generate", "The staff", "--factor", POLITE, "--factor", POSITIVE, "--budget", "0.1", *common)
    assert "kept by taking all exponents" in " ".join(ran.err.split())
    strengths = [row["strength"] for row in json.loads(ran.out)["factors"].values()]
    assert all(0 < s < 0.1 for s in strengths)
    plain = run("generate", "The staff", "--factor", POLITE, "--factor", POSITIVE, *common)
    assert "push alike" in " ".join(plain.err.split())
    refit = run("generate", "The staff", "--factor", POLITE, "--factor", POSITIVE, "--decorrelate", *common)
    exponents = [{k: v["exponent"] for k, v in json.loads(r.out)["factors"].items()} for r in (plain, refit)]
    assert all(0 < exponents[1][name] < exponents[0][name] for name in exponents[0])
    assert run("generate", "The staff", "--factor", POLITE, "--decorrelate", *common).status == 2
