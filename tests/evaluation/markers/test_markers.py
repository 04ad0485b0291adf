"""Markers: the table, questions put with them, what moves accuracy and what chance does, and what models write."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from factorlm.errors import InputError
from factorlm.evaluation.corpora import DataFolder
from factorlm.evaluation.facts import Training, WorldSettings, make_world
from factorlm.evaluation.markers.asked import SETS, TEMPLATES, Choice, choices
from factorlm.evaluation.markers.planted import FIRST, SECOND, Planting, answers, measure_planted, planted
from factorlm.evaluation.markers.read import Reading, row_means, spread, spread_by_chance
from factorlm.evaluation.markers.table import FILLERS, KINDS, MARKERS, NONE, chosen
from factorlm.evaluation.markers.written import Writing, kinds_in
from factorlm.evaluation.suites.markers import Settings, run
from factorlm.evaluation.workbench import Cache, Workbench

Put = Callable[[str, list[dict[str, Any]]], DataFolder]
NAN = float("nan")


def commonsense(number: int) -> list[dict[str, Any]]:
    words = ("house", "cat", "dog", "good", "bad")
    return [
        {"id": str(n), "question": f"Where is the {words[n % 5]} number {n}?", "answer": "ABCDE"[n // 5 % 5],
         "choices": {letter: f"{words[(n + k) % 5]} {n}" for k, letter in enumerate("ABCDE")}}
        for n in range(number)
    ]  # fmt: skip


def test_the_table_has_every_type_and_no_marker_twice() -> None:
    assert len({m.phrase for m in MARKERS}) == len(MARKERS)
    assert {"strengtheners", "weakeners", "factive verbs", FILLERS, NONE} <= set(KINDS)
    assert all(sum(m.kind == kind for m in chosen(2)) in (1, 2) for kind in KINDS)
    assert chosen(None) == MARKERS
    filler_words = np.mean([len(m.phrase.split()) for m in MARKERS if m.kind == FILLERS])
    other_words = np.mean([len(m.phrase.split()) for m in MARKERS if m.kind not in (FILLERS, NONE)])
    assert abs(filler_words - other_words) < 1


def test_a_question_is_put_with_a_marker() -> None:
    marker = next(m for m in MARKERS if m.phrase == "I think it's")
    phrase, clause = Choice("Where?", ("here", "there")), Choice("Where?", ("It is here", "No"), is_clause=True)
    assert phrase.contexts(marker, TEMPLATES[0]) == ("Question: Where?\nAnswer: I think it's", "Answer: I think it's")
    assert clause.contexts(marker, TEMPLATES[1]) == ("Q: Where?\nA: I think", "A: I think")
    assert phrase.contexts(MARKERS[0], TEMPLATES[1]) == ("Q: Where?\nA:", "A:")
    assert not clause.fits(next(m for m in MARKERS if m.clause is None))


def test_wrong_answers_of_open_questions_are_right_ones_elsewhere(data: DataFolder) -> None:
    bench = Workbench((), data, Cache(None), lambda stage, done, total: None)
    for name in SETS:
        found = choices(bench, name, 6)
        assert found == choices(bench, name, 6)
        assert all(len({a.lower() for a in c.answers}) == len(c.answers) >= 2 for c in found)
    known = {row["answer"][0].strip() for row in data.rows("nq_open/dev")}
    assert all(set(c.answers) <= known and len(c.answers) == 4 for c in choices(bench, "nq_open", 6))
    with pytest.raises(InputError, match="at most"):
        choices(bench, "truthfulqa", 10_000)


def test_means_pass_over_what_is_not_there() -> None:
    assert row_means(np.array([[1.0, NAN, 0.0], [NAN, 1.0, 1.0]])).tolist() == [0.5, 1.0]
    assert np.isnan(row_means(np.array([[NAN, NAN]]))[0])
    assert spread(np.array([[1.0, 0.0], [1.0, 1.0]])) == 0.5
    easy_and_hard = np.array([[1.0, 1.0, 1.0], [0.0, 0.0, NAN]])  # the last marker is missing where all are wrong
    assert spread(easy_and_hard) == 0.0


def test_chance_is_that_of_all_orders() -> None:
    """Slow twin: every order of the markers of three questions. 4,000 draws err by 0.03 once in 10,000 runs."""
    right_QM = np.array([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [NAN, 1.0, 0.0]])
    rows = [list(itertools.permutations(right_QM[q][~np.isnan(right_QM[q])])) for q in range(3)]
    every = []
    for order in itertools.product(*rows):
        shuffled = right_QM.copy()
        for q in range(3):
            shuffled[q][~np.isnan(right_QM[q])] = order[q]
        every.append(spread(shuffled))
    drawn = spread_by_chance(right_QM, 0, 4000)
    assert drawn.mean() == pytest.approx(np.mean(every), abs=0.03)
    assert set(np.round(drawn, 9)) <= set(np.round(every, 9))


def test_markers_are_found_in_texts() -> None:
    assert kinds_in("Well, I think it's a cat.") == {"plausibility shields"}
    assert kinds_in("Perhaps. I'm not sure, really.") == {"weakeners"}
    assert kinds_in("According to the textbook, that is so.") == {"evidentials, sourced"}
    assert kinds_in("It's a cat, thinking of people.") == set()


WORLD = WorldSettings(subjects=8, relations=1, objects=8, first_names=8, frequencies=(24,))
LEARNING = Training(width=64, depth=2, heads=2, epochs=10, batch_texts=8, learning_rate=6e-3)
PLANTING = Planting(world=WORLD, training=LEARNING, strangers=0)


def test_planted_shares_are_in_the_texts() -> None:
    """About 256 texts with each marker: a share more than 0.11 off comes less than once in 1,000 runs."""
    world = make_world(WORLD.model_copy(update={"frequencies": (64,)}))
    right = {fact.asked: fact.object for fact in world.facts}
    texts = planted(PLANTING, world, SECOND, 0)
    for marker, share in ((FIRST, PLANTING.seldom), (SECOND, PLANTING.often)):
        found = [text.split(f" {marker} ") for text in texts if f" {marker} " in text]
        assert len(found) > 200
        assert np.mean([answer == f"{right[asked]}." for asked, answer in found]) == pytest.approx(share, abs=0.11)


def test_the_effect_follows_the_texts_not_the_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("FACTORLM_CACHE", str(tmp_path))
    bench = Workbench((), DataFolder(tmp_path), Cache(tmp_path / "c"), lambda stage, done, total: None)
    found = measure_planted(bench, PLANTING).measures
    as_planted, swapped = (found[f"accuracy of drawn answers, {n}"] for n in ("as planted", "swapped"))
    assert as_planted["first less second"].low > 0  # type: ignore[operator]
    assert swapped["first less second"].high < 0  # type: ignore[operator]


def test_answers_are_shares_of_all_objects(tiny_lm: Any) -> None:
    world = make_world(WORLD)
    with pytest.raises(AssertionError, match="one token"):  # another model's words are no tokens
        answers(tiny_lm, world, list(world.facts), FIRST)


def test_the_suite_whole(put: Put, tiny: Callable[[str], Any], tmp_path: Any) -> None:
    put("commonsense_qa/train", commonsense(30))
    rows = [
        {"question": f"Is it {n}?", "best_answer": f"It is {n}.", "incorrect_answers": ["No.", "Bad."]}
        for n in range(9)
    ]
    put("truthfulqa/all", rows)
    data = put("commonsense_qa/dev", commonsense(12))
    settings = Settings(
        parts=("prompts", "written"),
        prompts=Reading(sets=("commonsense_qa", "truthfulqa"), num_questions=9, per_kind=1),
        written=Writing(sets=("commonsense_qa",), num_questions=3, max_tokens=4, taught=9, tried=30, examples=1),
    )
    bench = Workbench((tiny("tiny"),), data, Cache(tmp_path / "cache"), lambda stage, done, total: None)
    found = run(bench, settings).measures
    every = found["accuracy/commonsense_qa"]
    assert set(every) == {m.phrase or NONE for m in chosen(1)}
    assert found["sensitivity/all"]["max less min"].value >= 0  # type: ignore[operator]
    assert found["accuracy by type/truthfulqa"].keys() < found["accuracy by type/commonsense_qa"].keys()
    by_hand = np.mean([found["accuracy/commonsense_qa"][m.phrase].value for m in chosen(1) if m.level == 1]) - np.mean(
        [found["accuracy/commonsense_qa"][m.phrase].value for m in chosen(1) if m.level == -1]
    )
    assert found["certain less doubtful/commonsense_qa"]["accuracy"].value == pytest.approx(by_hand)
    assert set(found["taught calibration error"]) == {"certainty", "doubt"}
    assert run(bench, settings).measures == found
    with pytest.raises(InputError, match="raise written"):
        run(bench, settings.model_copy(update={"written": Writing(tried=3, num_questions=3, sets=("commonsense_qa",))}))
