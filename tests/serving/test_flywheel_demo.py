"""Simulated users on the tiny model: the loop runs, goes on where it was, and blocks flipped feedback."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from factorlm.errors import InputError
from factorlm.models import CausalLM
from factorlm.serving.database import Database
from factorlm.serving.flywheel.demo import NAME, Demo, DemoSettings, Written, with_rounds
from factorlm.serving.flywheel.demo_prompts import prompts_shuffled
from factorlm.serving.flywheel.demo_report import write_demo
from factorlm.serving.flywheel.ledger import FlywheelSettings, Ledger

LETTERS = "abcdefghijklmnopqrstuvwxyz"
SETTINGS = DemoSettings(
    rounds=2, pool=65, budget=60, held=60, shown=4, judged=24, samples=4, max_tokens=16, noise=0.0, flipped=2,
    flywheel=FlywheelSettings(
        most_divergence=50.0, most_neutral_cost=50.0, most_fluency_cost=5.0, most_loops=0.99, most_toxic=0.99,
        strength=0.8,
    ),
)  # fmt: skip


def vectors(texts: Sequence[str]) -> np.ndarray:
    """Counts of letters, of length one."""
    counts = np.array([[text.lower().count(letter) for letter in LETTERS] for text in texts], float) + 1e-6
    return counts / np.linalg.norm(counts, axis=1, keepdims=True)


def vowels(texts: Sequence[str]) -> np.ndarray:
    """What these users like: the share of vowels among the letters."""
    return np.array([sum(text.count(v) for v in "aeiou") / max(1, sum(map(str.isalpha, text))) for text in texts])


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACTORLM_CACHE", str(tmp_path / "cache"))


def test_users_are_served_better_and_flipped_feedback_changes_nothing(tiny_lm: CausalLM, tmp_path: Path) -> None:
    demo = Demo(tmp_path / "users", tiny_lm, vowels, vectors, SETTINGS)
    turns = demo.run()
    first, second = turns[1:]
    assert turns[0].labels == 0
    assert 115 <= first.labels <= 120  # a prompt after which all texts are the same is left out
    assert second.labels == first.labels + 60
    assert turns[0].win_rate.value == 0.5
    assert first.decision == "promoted", first.reason
    assert first.win_rate.low is not None
    assert first.win_rate.low > 0.5
    assert second.flipped
    assert second.decision == "blocked"
    assert second.version == first.version
    assert second.win_rate == first.win_rate
    (_, blocked) = Ledger.of(demo.folder, NAME).cards()
    assert set(blocked.quarantined) == set(blocked.new)
    with Database(demo.folder / "server.sqlite") as database:
        rows = database.feedback()
    about = [row.setting["flywheel"] for row in rows if row.setting["flywheel"]["round"] == 1]
    assert {one["propensity"] for one in about if one["how"] == "chosen"} == {1.0}
    (share,) = {one["propensity"] for one in about if one["how"] == "random"}
    assert 0 < share <= 1
    assert sum(one["how"] == "random" for one in about) == 2 * 12  # a fifth of 60 questions
    judged = set(prompts_shuffled(0)[: SETTINGS.judged])
    assert judged.isdisjoint(row.prompt for row in rows)  # what is measured on is never asked about
    assert demo.run() == turns  # all is done already
    with pytest.raises(InputError, match="holds a demonstration with other settings"):
        Demo(demo.folder, tiny_lm, vowels, vectors, with_rounds(SETTINGS, 3, 0)).run()
    paths = write_demo({"users": turns}, SETTINGS, tiny_lm.name, tmp_path / "report", "factorlm test")
    report = json.loads(paths[0].read_text())
    assert report["sections"][0]["blocks"][0]["title"] == "Gain by round"
    assert "blocked" in report["headlines"][0]


def test_a_demonstration_that_was_interrupted_ends_as_one_that_was_not(
    tiny_lm: CausalLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = SETTINGS.model_copy(update={"rounds": 1, "flipped": 0})
    whole = Demo(tmp_path / "whole", tiny_lm, vowels, vectors, settings).run()
    demo = Demo(tmp_path / "broken", tiny_lm, vowels, vectors, settings)
    add, calls = Database.add_feedback, iter(range(10_000))

    def dies(self: Database, given: object) -> int:
        if next(calls) == 101:
            raise KeyboardInterrupt
        return add(self, given)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Database, "add_feedback", dies)
        with pytest.raises(KeyboardInterrupt):
            demo.run()
    with monkeypatch.context() as patch:
        patch.setattr(Demo, "_measured", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            demo.run()
    found = demo.run()
    assert [turn.win_rate for turn in found] == [turn.win_rate for turn in whole]
    assert [turn.labels for turn in found] == [turn.labels for turn in whole]


def test_nobody_is_asked_in_the_arm_that_trains_on_itself(tiny_lm: CausalLM, tmp_path: Path) -> None:
    def nobody(texts: Sequence[str]) -> np.ndarray:
        assert len(texts) == SETTINGS.judged * SETTINGS.samples, "only what is measured may be judged"
        return vowels(texts)

    settings = SETTINGS.model_copy(update={"rounds": 1, "flipped": 0})
    turns = Demo(tmp_path / "self", tiny_lm, nobody, vectors, settings, "self").run()
    assert [turn.labels for turn in turns] == [0, 0]
    assert len(Ledger.of(tmp_path / "self", NAME).cards()) == 1


def test_openings_are_many_and_different() -> None:
    found = prompts_shuffled(0)
    assert len(set(found)) == len(found) > 900
    assert sorted(found) == sorted(prompts_shuffled(1)) != found


@pytest.mark.parametrize("arm", ["users", "self"])
def test_users_choose_what_they_like_and_the_opposite_in_the_flipped_round(
    tiny_lm: CausalLM, tmp_path: Path, arm: str
) -> None:
    demo = Demo(tmp_path, tiny_lm, vowels, vectors, SETTINGS, arm)  # type: ignore[arg-type]
    vowel, other = Written("p", "aaa", 2.0, 2.0), Written("p", "xyz", 1.0, 1.0)
    between = Written("p", "axz", 1.5, 1.5)
    sets = [(vowel, between, other), (other, vowel)]
    choice = (vowel, other) if arm == "users" else (other, vowel)  # the model takes what is more probable to itself
    assert demo._choices(1, sets) == [choice, choice]
    assert demo._choices(2, sets) == [(other, vowel)] * 2
    noisy = Demo(tmp_path, tiny_lm, vowels, vectors, SETTINGS.model_copy(update={"noise": 0.25}))
    errors = sum(best is other for best, _ in noisy._choices(1, sets[1:] * 1000))
    assert 200 < errors < 300  # four standard deviations either way
