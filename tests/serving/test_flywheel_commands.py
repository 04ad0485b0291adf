"""The commands, as somebody types them."""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from factorlm.cli import feedback, flywheel, prior
from factorlm.errors import FactorlmError
from factorlm.factors.feedback import from_thumbs
from factorlm.prior.files import read_manifest
from factorlm.prior.thumbs import read_thumbs
from factorlm.serving.database import Database, Feedback

Run = Callable[..., str]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setenv("FACTORLM_STORE", str(tmp_path / "own"))
    monkeypatch.setenv("FACTORLM_CACHE", str(tmp_path / "cache"))

    def go(command: str, *words: object) -> str:
        app = {"feedback": feedback.app, "flywheel": flywheel.app}[command]
        capsys.readouterr()
        app([str(word) for word in words], standalone_mode=False)
        return capsys.readouterr().out

    return go


@pytest.fixture
def state(tmp_path: Path) -> Path:
    with Database(tmp_path / "state" / "server.sqlite") as database:
        for n in range(12):
            for thumb, text in (("up", f"good {'abcdefghijkl'[n]} day"), ("down", f"bad {'abcdefghijkl'[n]} day")):
                prompt = f"the {'abcdefghijkl'[n]}"
                tenant = "ann" if n % 2 else "local"
                database.add_feedback(Feedback(prompt=prompt, text=text, thumb=thumb, tenant=tenant))
        database.add_feedback(Feedback(prompt="x", text="secret", thumb="up", setting={"consent": False}))
    return tmp_path / "state"


def test_export_counts_what_it_leaves_out(run: Run, state: Path, tmp_path: Path) -> None:
    out = tmp_path / "thumbs.jsonl"
    told = json.loads(run("feedback", "export", "--state", state, "--out", out, "--json"))
    assert told == {"rows": 25, "written": 24, "left_out": {"without consent": 1}}
    assert len(from_thumbs(out).pairs) == 12
    told = json.loads(run("feedback", "export", "--state", state, "--out", out, "--tenant", "ann", "--json"))
    assert told == {"rows": 12, "written": 12, "left_out": {}}


def test_a_head_is_trained_and_used_from_the_store(run: Run, state: Path, tiny_folder: Path, tmp_path: Path) -> None:
    out = run("feedback", "train", "liked", "--state", state, "--model", tiny_folder)
    assert "liked is in" in out
    card = json.loads((tmp_path / "own" / "liked" / "factor.json").read_text())
    assert card["data"]["train"][0]["name"] == "feedback"
    assert card["data"]["train"][0]["num_texts"] == 24
    with pytest.raises(FactorlmError, match="there is a factor named 'liked'"):
        run("feedback", "train", "liked", "--state", state, "--model", tiny_folder)


def test_a_round_with_little_feedback_waits_and_says_for_what(run: Run, state: Path, tiny_folder: Path) -> None:
    told = json.loads(run("flywheel", "run", "liked", "--state", state, "--model", tiny_folder, "--json"))
    assert told["decision"] == "waiting"
    assert "20 held-out prompts" in told["reason"]
    assert run("flywheel", "show", "liked", "--state", state) == ""
    dry = json.loads(run("flywheel", "forget", "liked", "3", "--state", state, "--dry", "--json"))
    assert (dry["versions"], dry["deleted"]) == ([], False)


def test_complaints_name_the_next_move(run: Run, state: Path, tmp_path: Path) -> None:
    for words, complaint in (
        (("feedback", "export", "--state", tmp_path / "no", "--out", "x"), "without server.sqlite; give --state"),
        (("feedback", "export", "--state", state, "--out", "x", "--as", "heda"), "did you mean head"),
        (("feedback", "export", "--state", state, "--out", "x", "--as", "prior"), "--prior FOLDER belongs to"),
        (("flywheel", "rollback", "liked", "--state", state), "is needed to roll back from, got none in use"),
        (("flywheel", "forget", "liked", "--state", state), "or --deleted, are needed"),
        (("flywheel", "run", "liked", "--state", state, "--set", "strengths=1"), "did you mean strength"),
        (("flywheel", "demo", "--out", tmp_path / "demo", "--size", "smaller"), "did you mean small"),
        (("flywheel", "demo", "--out", tmp_path / "demo", "--arms", "users,slef"), "did you mean self"),
    ):
        with pytest.raises(FactorlmError, match=complaint):
            run(*words)


def test_thumbs_tilt_a_prior_to_the_components_that_are_liked(run: Run, tiny_folder: Path, tmp_path: Path) -> None:
    texts, world, out = tmp_path / "texts.txt", tmp_path / "world.prior", tmp_path / "liked.prior"
    texts.write_text("the good in the good\na bad o bad a bad\n" * 12)
    settings = ["--components", "2", "--rounds", "2", "--names", "bright,dark", "--dtype", "float32"]
    prior.app(["fit", str(texts), *settings, "--model", str(tiny_folder), "--out", str(world)], standalone_mode=False)
    state = tmp_path / "state"
    with Database(state / "server.sqlite") as database:
        for n, (component, thumb) in enumerate([("bright", "up")] * 6 + [("dark", "down")] * 6 + [("other", "up")]):
            row = Feedback(
                response_id=f"r{n}", prompt="the", text="good", thumb=thumb, setting={"component": component}
            )
            database.add_feedback(row)
    lines = tmp_path / "thumbs.jsonl"
    told = json.loads(
        run("feedback", "export", "--state", state, "--out", lines, "--as", "prior", "--prior", world, "--json")
    )
    assert told == {"rows": 13, "written": 12, "left_out": {"without a component of this prior": 1}}
    run("feedback", "train", out, "--state", state, "--as", "prior", "--prior", world, "--temperature", "0.5")
    before, after = (read_manifest(place).weights for place in (world, out))
    # Ratings are the means of Beta(7, 1) and Beta(1, 7).
    odds = before[0] / before[1] * math.exp((7 / 8 - 1 / 8) / 0.5)
    assert after[0] / after[1] == pytest.approx(odds, rel=1e-6)
    update = read_manifest(out).updates[-1]
    assert update.why.startswith("12 thumbs: bright 0.875")
    assert [thumb.is_up for thumb in read_thumbs(lines, ("bright", "dark"))] == [True] * 6 + [False] * 6
