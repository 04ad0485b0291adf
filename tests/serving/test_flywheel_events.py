"""What is learned from: consent, contradictions, copies; and what export writes is what training reads."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from factorlm.factors.feedback import from_thumbs
from factorlm.prior.thumbs import read_thumbs
from factorlm.serving.database import Database, Feedback
from factorlm.serving.flywheel.events import (
    BOTH_THUMBS,
    NEAR_ONES,
    NO_COMPONENT,
    NO_CONSENT,
    NOTHING_SAID,
    PERSONAL_DATA,
    TAKEN_BACK,
    collect,
    component_lines,
    firsts,
    key_of,
    shingles,
    similarity,
)

NUMBERS = iter(range(1, 10_000))


def row(prompt: str, text: str, thumb: str | None = "up", **more: object) -> Feedback:
    number = next(NUMBERS)
    return replace(
        Feedback(number, f"2026-01-01T00:00:{number:05}", "local", f"r{number}", prompt, text, thumb), **more
    )


def test_only_what_may_and_can_be_learned_from_is_kept() -> None:
    good = row("the food was", "very good indeed")
    found = collect(
        [
            good,
            row("the food was", "sold to others", setting={"consent": False}),
            row("the food was", "never rated", None),
            row("the food was", "edited to itself", None, edit=" edited to itself "),
            row("the food was", "  "),
            row("write to", "jane.doe@example.org today"),
            row("call me", "at +49 170 123 45 67 please"),
            row("in 2024", "we sold 1,250 tickets for 3.50 each"),
        ]
    )
    assert [event.text for event in found.events] == [good.text, "we sold 1,250 tickets for 3.50 each"]
    assert found.left_out == {NO_CONSENT: 1, NOTHING_SAID: 3, PERSONAL_DATA: 2}


def test_a_later_thumb_of_the_same_person_counts_and_the_majority_of_several() -> None:
    first = row("p q", "a text that is rated")
    again = replace(first, id=9_001, thumb="down")
    found = collect([first, again])
    assert [(event.id, event.thumb) for event in found.events] == [(9_001, "down")]
    assert found.left_out == {TAKEN_BACK: 1}
    up, down, up_too = (row("p q", "a text that is rated", thumb, tenant=thumb) for thumb in ("up", "down", "up"))
    assert [event.id for event in collect([up, down, up_too]).events] == [up.id]
    assert collect([up, down]).events == ()
    assert collect([up, down]).left_out == {BOTH_THUMBS: 2}


def test_an_edit_stays_though_the_thumb_is_outvoted() -> None:
    up, up_too = row("p", "a plain text to rate"), row("p", "a plain text to rate")
    edited = row("p", "a plain text to rate", "down", edit="a better text altogether")
    (kept, only_edit) = collect([up, up_too, edited]).events
    assert (kept.id, kept.thumb, kept.edit) == (up.id, "up", "")
    assert (only_edit.id, only_edit.thumb, only_edit.edit) == (edited.id, None, "a better text altogether")


def test_of_near_copies_with_the_same_thumb_the_first_is_kept() -> None:
    text = "one two three four five six seven eight nine ten eleven twelve"
    rows = [row("p", text), row("p", text + " thirteen"), row("p", text.upper() + "!"), row("p", text + ".", "down")]
    found = collect(rows)
    assert [event.id for event in found.events] == [rows[0].id, rows[3].id]
    assert found.left_out == {NEAR_ONES: 2}


@pytest.mark.parametrize("near", [0.3, 0.5, 0.8, 1.0])
def test_the_fast_search_for_copies_agrees_with_comparing_all(near: float) -> None:
    chance = random.Random(int(100 * near))
    texts = [" ".join(chance.choices("abc", k=chance.randint(1, 7))) for _ in range(150)] + ["", "?!", "?!"]
    kept: list[int] = []
    expected = []
    for n, text in enumerate(texts):
        first = next((m for m in kept if similarity(shingles(texts[m]), shingles(text)) >= near), n)
        expected.append(first)
        kept += [n] * (first == n)
    assert firsts(texts, near) == expected
    assert len(kept) < len(texts)


def test_a_hash_tells_every_change() -> None:
    one = row("p", "a text")
    changes = {"text": "b", "thumb": "down", "edit": "c", "prompt": "q", "tenant": "x", "created": "y", "id": 10**6}
    keys = {key_of(replace(one, **{name: value})) for name, value in changes.items()}
    assert len(keys | {key_of(one)}) == len(changes) + 1
    assert key_of(one) == key_of(replace(one))


def test_propensities_of_strangers_are_not_believed() -> None:
    for said in (0, -1, 2, "x", True, None, float("nan")):
        (event,) = collect([row("p", "some text", setting={"flywheel": {"how": "random", "propensity": said}})]).events
        assert event.propensity == 1.0
    (event,) = collect([row("p", "some text", setting={"flywheel": {"how": "chosen", "propensity": 0.25}})]).events
    assert event.line(reweight=True)["weight"] == 4.0
    assert event.line()["weight"] == 1.0
    assert not event.is_unbiased


def test_lines_are_what_training_reads(tmp_path: Path) -> None:
    with Database(tmp_path / "server.sqlite") as database:
        for thumb, text in (("up", "the better one"), ("down", "the worse one")):
            database.add_feedback(Feedback(prompt="which is", text=text, thumb=thumb, setting={"component": "tom"}))
        database.add_feedback(Feedback(prompt="and", text="a slip", edit="a slip mended"))
        rows = database.feedback()
    path = tmp_path / "thumbs.jsonl"
    path.write_text("".join(json.dumps(event.line()) + "\n" for event in collect(rows).events))
    found = from_thumbs(path)
    assert {(pair.prompt, pair.chosen, pair.rejected) for pair in found.pairs} == {
        ("which is", "the better one", "the worse one"),
        ("and", "a slip mended", "a slip"),
    }
    assert found.rated == ()
    lines, left_out = component_lines(rows, ("tom", "ann"))
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [(thumb.component, thumb.is_up) for thumb in read_thumbs(path, ("tom", "ann"))] == [
        ("tom", True),
        ("tom", False),
    ]
    assert left_out == {"without thumb": 1}
    assert component_lines(rows, ("ann",))[1] == {NO_COMPONENT: 2, "without thumb": 1}
