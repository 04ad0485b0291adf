"""vLLM itself: runs in an environment of its own, whose interpreter FACTORLM_VLLM_PYTHON names."""

import json
import os
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from factorlm.factors.store import SHELF

PYTHON = os.environ.get("FACTORLM_VLLM_PYTHON", "")
SCRIPT = Path(__file__).with_name("vllm_texts.py")
SOURCES = Path(__file__).parents[2] / "src"
NEAR_TIE = 1e-3  # nats between the two most probable tokens, below which rounding may choose

pytestmark = pytest.mark.skipif(not PYTHON, reason="set FACTORLM_VLLM_PYTHON to an interpreter that has vLLM")


def run(*arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(SOURCES), "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
    found = subprocess.run([PYTHON, *arguments], env=environment, capture_output=True, text=True, timeout=900)
    assert found.returncode == 0, found.stdout[-2000:] + found.stderr[-4000:]
    return found.stdout


@cache
def said(outside: Path) -> tuple[dict[str, Any], ...]:
    lines = [line for line in run(str(SCRIPT), str(outside)).splitlines() if line.startswith("SAID ")]
    return tuple(json.loads(line.removeprefix("SAID ")) for line in lines)


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A factor in no store."""
    folder = tmp_path_factory.mktemp("else") / "outside"
    shutil.copytree(SHELF / "positive", folder)
    return folder


def of(part: str, outside: Path) -> list[dict[str, Any]]:
    return [found for found in said(outside) if found["part"] == part]


@pytest.mark.model
@pytest.mark.slow
def test_a_hundred_greedy_texts_are_those_of_the_embedded_engine(outside: Path) -> None:
    found = of("equal", outside)
    assert len(found) == 100
    differ = [one for one in found if not one["is_equal"]]
    assert all(one["gap"] is not None and one["gap"] < NEAR_TIE for one in differ), differ
    assert len(differ) <= 3
    same = [one for one in found if one["is_equal"]]
    assert all(one["is_text_equal"] and one["reason"] == one["wanted_reason"] for one in same)
    assert max(one["difference"] for one in same) < 5e-3  # nats of a text: two implementations in float32
    assert sum(one["is_plain"] for one in found) < 40, "the factors changed too few texts for this to mean anything"


@pytest.mark.model
@pytest.mark.slow
def test_what_a_server_asks_of_an_engine(outside: Path) -> None:
    (seeds,) = of("seeds", outside)
    assert seeds["is_same"]
    assert seeds["num_texts"] == 3
    assert set(seeds["top"]) == {3}
    (stop,) = of("stop", outside)
    assert stop["reason"] == "stop"
    assert "the" not in stop["text"]
    (choice,) = of("choice", outside)
    assert choice["text"] in ("yes, it is", "no, never")
    assert choice["reason"] == "end"
    assert of("chat", outside)[0]["is_same"]
    (cancel,) = of("cancel", outside)
    assert (cancel["during"], cancel["after"], cancel["left"]) == (4, 0, 0)
    (overload,) = of("overload", outside)
    assert overload["is_refused"]
    assert overload["after_s"] >= 1
    assert of("score", outside)[0]["rows"] == 0


@pytest.mark.model
@pytest.mark.slow
def test_what_cannot_be_done_is_refused_by_name(outside: Path) -> None:
    found = of("refused", outside)
    assert len(found) == 7
    for one in found:
        assert one["words"] in one["message"]
        assert "\n" not in one["message"]


@pytest.mark.slow
def test_the_behavioural_check_passes() -> None:
    lines = run("-m", "factorlm.engines.vllm", "check", "--no-note").splitlines()
    verdicts = [line.split()[0] for line in lines if line.startswith(("right", "WRONG"))]
    assert len(verdicts) >= 14
    assert set(verdicts) == {"right"}, lines
    assert any(line.endswith("passed") for line in lines)
