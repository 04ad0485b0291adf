"""factorlm ask: an answer, how sure the model is of it, and refusals in one line."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from factorlm.inference.expression import compose
from factorlm.inference.uncertainty import Map, Recalibration
from factorlm.inference.uncertainty.recalibration import identity_of

Run = Callable[..., Any]
ESTIMATORS = ("--estimator", "mean-log-prob", "--estimator", "agreement", "--estimator", "discrete-semantic-entropy")


@pytest.fixture
def ask(run: Run, tiny_folder: Path) -> Run:
    """`factorlm ask "is it good?"` of the tiny model with three samples."""
    words = ("--model", str(tiny_folder), "--no-examples", "--max-tokens", "4", "--samples", "3", "--dtype", "float32")
    return lambda *more: run("ask", "is it good?", *words, *more)


def objects(text: str) -> list[dict]:
    import json

    return [json.loads(line) for line in text.splitlines()]


def test_an_answer_comes_with_raw_numbers_and_says_so(ask: Run) -> None:
    ran = ask("--uncertainty", *ESTIMATORS)
    assert ran.status == 0
    assert "(raw, mean log probability)" in ran.out
    assert "no recalibration is known" in ran.err
    [found] = objects(ask("--uncertainty", *ESTIMATORS, "--json").out)
    assert found["answer"] in ran.out
    assert len(found["samples"]) == 3
    assert not found["is_calibrated"]
    assert found["confidence"] == pytest.approx(found["estimators"]["mean-log-prob"]["raw"])
    assert found["log_prob"] / found["num_tokens"] == pytest.approx(found["estimators"]["mean-log-prob"]["value"])
    [again] = objects(ask("--uncertainty", *ESTIMATORS, "--json").out)
    assert again == found
    [other] = objects(ask("--uncertainty", *ESTIMATORS, "--json", "--seed", "1").out)
    assert other["samples"] != found["samples"]


def test_without_uncertainty_only_the_answer_comes(ask: Run) -> None:
    ran = ask()
    assert ran.status == 0
    assert "confidence" not in ran.out
    assert "recalibration" not in ran.err


def test_a_recalibration_of_this_model_is_used_and_another_is_refused(
    ask: Run, tiny_folder: Path, tmp_path: Path
) -> None:
    composed = compose(str(tiny_folder), dtype="float32")
    maps = Recalibration(
        expression=composed.expression, identity=identity_of(composed), questions="some", number=50, accuracy=0.5,
        maps={"agreement": Map(method="platt", slope=0.0, offset=-1.0986122886681098, auroc=0.7)},
    )  # fmt: skip
    maps.save(tmp_path / "maps.json")
    [found] = objects(ask("--uncertainty", *ESTIMATORS, "--json", "--recalibration", str(tmp_path / "maps.json")).out)
    assert found["is_calibrated"]
    assert found["estimator"] == "agreement"
    assert found["confidence"] == pytest.approx(0.25)
    maps.model_copy(update={"identity": "0" * 16}).save(tmp_path / "other.json")
    ran = ask("--uncertainty", "--recalibration", str(tmp_path / "other.json"))
    assert ran.status == 2
    assert ran.out == ""
    assert len(ran.err.splitlines()) == 1
    assert "was fitted to" in ran.err


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--estimator", "agreement"), "--uncertainty"),
        (("--uncertainty", "--estimator", "agreementt"), "did you mean agreement"),
        (("--uncertainty", "--estimator", "p-ik"), "P(IK) needs a head"),
        (("--uncertainty", "--estimator", "between"), "needs a prior"),
        (("--uncertainty", "--recalibration", "absent.json"), "recalibration file is needed, got absent.json"),
        (("--chat", "--context", "a passage"), "leave one out"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(ask: Run, words: tuple[str, ...], complaint: str) -> None:
    ran = ask(*words)
    assert ran.status == 2
    assert complaint in ran.err
    assert len(ran.err.strip().splitlines()) == 1


def test_estimators_are_listed_without_a_question(run: Run) -> None:
    ran = run("ask", "--list")
    assert ran.status == 0
    assert {"semantic-entropy", "p-ik", "inv-entropy", "between"} <= {
        line.split()[0] for line in ran.out.splitlines() if line.strip()
    }
    assert run("ask", " ").status == 2
