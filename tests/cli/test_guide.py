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
    [card] = [c for c in objects(run("guide", "list", "--json").out) if c["name"] == "glad"]
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


def test_an_empty_store_has_the_guides_of_the_package(run: Run) -> None:
    cards = objects(run("guide", "list", "--json").out)
    assert [card["name"] for card in cards] == ["polite", "positive", "toxic"]
    assert all(card["licence"] != "unspecified" and card["quality"]["auc"] > 0.7 for card in cards)


@pytest.mark.model
def test_a_guide_with_a_hidden_layer_and_unknown_kinds(run: Run, files: Path, lm: object) -> None:
    words = ("guide", "train", "glad", "--positive", "glad.txt", "--negative", "sour.txt", "--kind")
    assert run(*words, "mlp").status == 0
    [card] = [c for c in objects(run("guide", "list", "--json").out) if c["name"] == "glad"]
    assert card["units"] == 32
    first, second = objects(run("guide", "score", "glad", "new.txt", "--json").out)
    assert first["prob"] > second["prob"]
    ran = run(*words, "cubic", "--replace")
    assert ran.status == 2
    assert "no kind of guide named 'cubic'" in ran.err


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    lines = [f"the {PLACES[n % 10]} is {'good' if n % 3 else 'bad'} and it was so in {chr(97 + n % 26)}{n // 26}"
             for n in range(150)]  # fmt: skip
    path = tmp_path / "corpus.txt"
    path.write_text("\n".join(lines))
    return path


SMALL = [
    "--set", "windows.prefix=[3,30]", "--set", "windows.continuation=[8,60]", "--set", "windows.sentences=1",
    "--set", "decoded=40", "--set", "held_out=10", "--steps", "20", "--set", "denoiser.network.width=16",
    "--set", "denoiser.network.blocks=1", "--set", "bias.steps=5", "--set", "soft.steps=5", "--set", "soft.batch=4",
    "--set", "soft.plan.places=2", "--set", "soft.plan.heads=4", "--set", "soft.plan.layers=1", "--dtype", "float32",
]  # fmt: skip


@pytest.mark.model
def test_meanings_are_learned_and_guide(run: Run, files: Path, corpus: Path, tiny_folder: Path, lm: object) -> None:
    """A tiny language model and the real encoder: from a corpus to guided texts with their plans."""
    made = run("guide", "fit-model", str(corpus), "--out", "my.meanings", "--model", str(tiny_folder), *SMALL)
    assert made.status == 0, made.err
    assert "nats per token, soft decoder" in made.out
    assert not (files / "my.meanings.checkpoint").exists()
    again = run("guide", "fit-model", str(corpus), "--out", "my.meanings", "--model", str(tiny_folder))
    assert again.status == 2
    assert "--replace" in again.err
    assert run("guide", "train", "glad", "--positive", "glad.txt", "--negative", "sour.txt").status == 0
    words = ("generate", "the harbour is", "--model", str(tiny_folder), "--meanings", "my.meanings", "--dtype",
             "float32", "--max-tokens", "6")  # fmt: skip
    ran = run(*words, "--guide", "glad=8", "--guide", "topic:boats=2", "--n", "2", "--json", "--explain")
    assert ran.status == 0, ran.err
    found = objects(ran.out)
    assert len(found) == 2
    for one in found:
        assert one["plan"]["guides"]["glad"]["strength"] == 8
        assert len(one["plan"]["guides"]["topic:boats"]["steps"]) == 20
        assert len(one["plan"]["nearest"]) == 3
        assert one["attribution"]["factors"][0]["name"] == "plan" if "factors" in one["attribution"] else True
    for decoder in ("soft", "bias"):
        shown = run(*words, "--guide", "glad=8", "--decoder", decoder, "--explain", "--html", "page.html")
        assert shown.status == 0, shown.err
        assert "real sentences nearest to the plan" in shown.out
        assert "from noise to plan" in " ".join(shown.out.split())
    page = (files / "page.html").read_text()
    assert "<polyline" in page
    assert "Real sentences nearest" in page
    plain = run(*words, "--guide", "glad=0", "--n", "2", "--json")
    bare = run(*words, "--n", "2", "--json")
    assert [o["text"] for o in objects(plain.out)] == [o["text"] for o in objects(bare.out)]


@pytest.mark.model
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--guide", "nobody=3"), "no guide named 'nobody'"),
        (("--guide", "glad=much"), "a finite number is needed in --guide glad=much"),
        (("--guide", "glad=1", "--guide", "glad=2"), "each guide is given once"),
        (("--guide", "colour:red=2"), "no kind of guide from words named 'colour'"),
        (("--guide", "glad=3", "--sampler", "smc"), "with the local sampler"),
        (("--guide", "glad=3", "--decoder", "hard"), "no decoder named 'hard'"),
        (("--meanings", "nowhere"), "meanings.json"),
        (("--guide", "positive=3", "--meaning-particles", "1"), "0 or at least 2"),
    ],
)
def test_bad_guiding_ends_in_one_line(run: Run, files: Path, words: tuple[str, ...], message: str, lm: object) -> None:
    ran = run("generate", "The food was", *words)
    assert ran.status == 2
    assert message in ran.err
    assert len(ran.err.strip().splitlines()) == 1
