"""factorlm guide: learned from files, kept in the store, tried on texts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from .conftest import objects

Run = Callable[..., Any]
PLACES = ("harbour", "market", "garden", "library", "station", "kitchen", "castle", "bridge", "museum", "island")


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    glad = [f"I {verb} the {place}." for place in PLACES for verb in ("loved", "adored", "enjoyed")]
    sour = [f"I {verb} the {place}." for place in PLACES for verb in ("hated", "loathed", "disliked")]
    (tmp_path / "glad.txt").write_text("\n".join(glad))
    (tmp_path / "sour.txt").write_text("\n".join(sour))
    (tmp_path / "few.txt").write_text("One.\nTwo.\n")
    (tmp_path / "both.txt").write_text("\n".join([*sour[:20], glad[0]]))
    (tmp_path / "new.txt").write_text("We all loved the theatre.\nWe all hated the theatre.\n")
    return tmp_path


@pytest.mark.model
def test_a_guide_is_learned_and_tried(run: Run, files: Path, lm: object) -> None:
    ran = run("guide", "train", "glad", "--positive", "glad.txt", "--negative", "sour.txt", "--licence", "CC0-1.0")
    assert ran.status == 0, ran.err
    assert "held-out accuracy" in ran.out
    [card] = objects(run("guide", "list", "--json").out)
    assert (card["name"], card["num_positive"], card["licence"], card["encoder"]) == ("glad", 30, "CC0-1.0", "minilm")
    assert card["quality"]["auc"] > 0.9
    assert "glad" in run("guide", "list").out
    first, second = objects(run("guide", "score", "glad", "new.txt", "--json").out)
    assert first["prob"] > 0.6 > 0.4 > second["prob"]
    assert "theatre" in run("guide", "score", "glad", "-", stdin=b"We all loved the theatre.\n").out
    again = run("guide", "train", "glad", "--positive", "sour.txt", "--negative", "glad.txt")
    assert again.status == 2
    assert "--replace" in again.err
    assert run("guide", "train", "glad", "--positive", "sour.txt", "--negative", "glad.txt", "--replace").status == 0
    first, second = objects(run("guide", "score", "glad", "new.txt", "--json").out)
    assert first["prob"] < 0.4 < 0.6 < second["prob"]
    assert "glad" not in run("factor", "list").out.split()  # guides are no factors


@pytest.mark.model
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("guide", "train", "Glad", "--positive", "glad.txt", "--negative", "sour.txt"), "small letters"),
        (("guide", "train", "glad", "--positive", "few.txt", "--negative", "sour.txt"), "at least 8 texts"),
        (("guide", "train", "glad", "--positive", "glad.txt", "--negative", "both.txt"), "1 texts stand in both"),
        (("guide", "train", "glad", "--positive", "none.txt", "--negative", "sour.txt"), "none.txt"),
        (("guide", "score", "glad", "new.txt"), "no guide named 'glad'"),
    ],
)
def test_bad_input_ends_in_one_line(run: Run, files: Path, words: tuple[str, ...], message: str, lm: object) -> None:
    ran = run(*words)
    assert ran.status == 2
    assert message in ran.err
    assert len(ran.err.strip().splitlines()) == 1


def test_an_empty_store_says_so(run: Run) -> None:
    assert "no guides yet" in run("guide", "list").err
    assert run("guide", "list", "--json").out == ""
