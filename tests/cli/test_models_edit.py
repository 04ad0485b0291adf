"""factorlm models edit, edits and unedit, as a user runs them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from factorlm.models.editing.artefact import EDITS, Edits
from factorlm.models.loading import read_model

FACTS = ("the cat | i met {} | good", "a dog | {} | bad")


def objects(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def words(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What every edit is given: the tiny model, sentences, and a cache of its own."""
    monkeypatch.setenv("FACTORLM_CACHE", str(tmp_path / "cache"))
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(f"the {a} had a {b}." for a in ("pig", "hen", "man") for b in ("hat", "bag", "pen")))
    return [str(tiny_folder), "--texts", str(texts), "--guard", str(texts), "--force", "--layer", "0"]


def test_an_edited_model_is_used_like_any_other(run: Callable, words: list[str], tmp_path: Path) -> None:
    out, text = tmp_path / "edited", tmp_path / "text.txt"
    text.write_text("i met the cat good")
    base, *options = words
    made = run("models", "edit", base, *options, "--fact", FACTS[0], "--out", str(out), "--json")
    assert made.status == 0, made.err
    [step] = objects(made.out)
    assert step["kept"]
    assert step["guard_ratio"] > 0
    before, after = (
        objects(run("score", str(text), "--model", model, "--json").out)[0]["log_prob"] for model in (base, str(out))
    )
    assert after > before + 1
    wrote = run("generate", "i met", "--model", str(out), "--max-tokens", "3", "--json")
    assert wrote.status == 0, wrote.err


def test_edits_are_added_listed_and_taken_back(run: Callable, words: list[str], tmp_path: Path) -> None:
    out = tmp_path / "edited"
    base, *options = words
    assert run("models", "edit", base, *options, "--fact", FACTS[0], "--out", str(out)).status == 0
    first = EDITS.read_card(out)
    added = run("models", "edit", str(out), *options, "--fact", FACTS[1], "--out", str(out), "--method", "c-rome")
    assert added.status == 0, added.err
    listed = objects(run("models", "edits", str(out), "--json").out)
    assert [step["method"] for step in listed] == ["rome", "c-rome"]
    assert listed[0]["hash_after"] == listed[1]["hash_before"]
    assert "a dog bad." in run("models", "edits", str(out)).out
    back = run("models", "unedit", str(out), "--json")
    assert objects(back.out)[0]["restored"] is True
    assert EDITS.read_card(out) == first
    [none] = objects(run("models", "unedit", str(out), "1", "--json").out)
    assert none["edits"] == 0
    lm = read_model(base, dtype="float32")
    assert Edits.load(out, lm).model("x") is lm


def test_many_facts_at_once_from_a_file(run: Callable, words: list[str], tmp_path: Path) -> None:
    facts, out = tmp_path / "facts.jsonl", tmp_path / "edited"
    rows = [{"subject": s, "prompt": f"i met {s}", "target_new": t} for s, t in (("the cat", "good"), ("a pig", "bad"))]
    facts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    base, *options = words
    made = run(
        "models", "edit", base, *options, "--facts", str(facts), "--method", "memit", "--out", str(out), "--json"
    )
    assert made.status == 0, made.err
    assert [len(step["facts"]) for step in objects(made.out)] == [2]


def test_the_guard_takes_a_ruinous_edit_back(
    run: Callable, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("factorlm.models.editing.guard.COLLAPSE", 1e-3)  # every edit is ruinous
    base, *options = words
    careful, out = [word for word in options if word != "--force"], tmp_path / "edited"
    ended = run("models", "edit", base, *careful, "--fact", FACTS[0], "--out", str(out), "--json")
    assert objects(ended.out)[0]["kept"] is False
    assert (ended.status, out.exists()) == (2, False)
    assert "every edit ruined the model" in ended.err
    forced = run("models", "edit", base, *options, "--fact", FACTS[0], "--out", str(out), "--json")
    assert [step["kept"] for step in objects(forced.out)] == [True]
    assert objects(forced.out)[0]["harm"] == "collapsed"


def test_own_texts_serve_where_there_are_no_data(
    run: Callable, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FACTORLM_DATA", str(tmp_path))
    out = tmp_path / "edited"
    made = run(
        "models", "edit", words[0], "--fact", FACTS[0], "--out", str(out), "--layer", "auto", "--force", "--json"
    )
    assert made.status == 0, made.err
    assert objects(made.out)[0]["layers"] in ([0], [1])


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        (["--fact", "no bars"], "SUBJECT | PROMPT"),
        ([], "--fact or --facts"),
        (["--fact", FACTS[0], "--method", "rom"], "did you mean rome"),
        (["--fact", FACTS[0], "--layer", "9"], "a layer from 0 to 1"),
        (["--fact", FACTS[0], "--layer", "low"], "usual or auto"),
        (["--fact", FACTS[0], "--guard", "nowhere.txt"], "one a line"),
    ],
)
def test_bad_input_ends_in_one_line(
    run: Callable, words: list[str], tmp_path: Path, changes: list[str], complaint: str
) -> None:
    out = tmp_path / "edited"
    ended = run("models", "edit", *words, *changes, "--out", str(out))
    assert ended.status == 2
    assert complaint in ended.err
    assert len(ended.err.strip().splitlines()) == 1
    assert not out.exists()


def test_a_place_that_is_taken_and_a_missing_edit(run: Callable, words: list[str], tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    ended = run("models", "edit", *words, "--fact", FACTS[0], "--out", str(tmp_path / "taken"), "--replace")
    assert ended.status == 2
    assert "is not replaced" in ended.err
    gone = run("models", "unedit", str(tmp_path / "taken"))
    assert gone.status == 2
    assert "edit.json" in gone.err
