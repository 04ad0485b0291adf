"""factorlm search, twists of generate, and grammars in stores."""

import json
from pathlib import Path

import pytest

from .conftest import Run, objects

pytestmark = pytest.mark.model
SHORT = ["--max-tokens", "6", "--dtype", "float32"]


@pytest.fixture(autouse=True)
def _needs_the_model(lm: object) -> None:
    """Skip with the reason of the fixture where there is no model."""


@pytest.mark.parametrize("method", ["beam", "contrastive"])
def test_a_text_is_found_and_its_cost_told(run: Run, method: str) -> None:
    ran = run("search", method, "The food was", *SHORT)
    assert ran.status == 0, ran.err
    assert ran.out.startswith("The food was ")
    assert "tokens read in" in ran.err
    [found] = objects(run("search", method, "The food was", *SHORT, "--json").out)
    assert found["text"] in ran.out
    assert found["log_weight"] < 0
    assert found["spent"]["num_passes"] >= 6


def test_a_judge_chooses(run: Run) -> None:
    words = ["search", "best", "The food was", *SHORT, "--n", "6", "--seed", "1", "--json"]
    [liked], [other] = (objects(run(*words, "--judge", judge).out) for judge in ("positive", "toxic"))
    assert liked["value"] > 0.5
    assert liked["spent"]["num_rewards"] == other["spent"]["num_rewards"] == 6
    [found] = objects(
        run("search", "tree", "The food was", *SHORT, "--simulations", "3", "--judge", "positive", "--json").out
    )
    assert 0 < found["value"] < 1


def test_a_vote_counts_answers(run: Run) -> None:
    ran = run("search", "vote", "Two and two are", *SHORT, "--n", "5", "--answer", r"\w+")
    assert ran.status == 0, ran.err
    assert "%" in ran.out
    nothing = run("search", "vote", "Two and two are", *SHORT, "--n", "2", "--answer", "xyzzy")
    assert "none of 2 texts" in nothing.out


def test_a_twist_leads_particles(run: Run) -> None:
    words = ["generate", "The food was", *SHORT, "--sampler", "smc", "--particles", "3", "--limit", "cut", "--json"]
    plain, led = run(*words), run(*words, "--twist", "positive^3")
    assert led.status == 0, led.err
    assert objects(led.out)[0]["factors"] == {}
    assert objects(plain.out)[0]["text"] != objects(led.out)[0]["text"]


def test_a_grammar_is_kept_as_a_factor(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACTORLM_STORE", str(tmp_path / "store"))
    schema = tmp_path / "schema.json"
    schema.write_text('{"enum": ["left", "right"]}')
    made = run("factor", "create", "side", "--json-schema", str(schema), "--description", "left or right")
    assert made.status == 0, made.err
    assert "(grammar)" in made.out
    [row] = [r for r in objects(run("factor", "list", "--json").out) if r["name"] == "side"]
    assert row["kind"] == "grammar"
    assert run("factor", "verify", "side").status == 0
    assert "left or right" in run("factor", "show", "side").out
    for factor in ("side", "side^1"):
        [response] = objects(run("generate", "As JSON: ", "--factor", factor, *SHORT, "--json").out)
        assert json.loads(response["text"]) in ("left", "right")
    assert run("factor", "create", "other", "--choice", "yes", "--choice", "no").status == 0
    bad = run("factor", "create", "broken", "--regex", "(")
    assert bad.status == 2
    assert "regular expression" in bad.err
