"""Commands that work, in process, on the default model."""

import json
import math
from pathlib import Path

import pytest

from .conftest import Run, objects

pytestmark = pytest.mark.model


@pytest.fixture(autouse=True)
def _needs_the_model(lm: object) -> None:
    """Skip with the reason of the fixture where there is no model."""


def test_generate_json_adds_up(run: Run) -> None:
    words = ["generate", "The food was", "--factor", "positive=0.4", "--factor", "toxic=-0.3", "--max-tokens", "8",
             "--dtype", "float32"]  # fmt: skip
    ran = run(*words, "--seed", "1", "--n", "2", "--explain", "--json")
    assert ran.status == 0
    found = objects(ran.out)
    assert len(found) == 2
    assert found[0]["text"] != found[1]["text"]
    for response in found:
        assert response["factors"]["positive"]["strength"] == pytest.approx(0.4, abs=1e-3)
        assert response["factors"]["toxic"]["exponent"] < 0
        assert math.fsum(t["log_prob"] for t in response["attribution"]) == pytest.approx(
            response["log_prob"], abs=1e-3
        )
        for token in response["attribution"]:
            total = token["base_log_prob"] + sum(token["factors"].values()) - token["normalizer"]
            assert total == pytest.approx(token["log_prob"], abs=1e-4)
    again = run(*words, "--seed", "1", "--json")
    assert objects(again.out)[0]["text"] == found[0]["text"]  # the same alone as beside another sample


def test_generate_for_people_and_as_a_page(run: Run, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    ran = run(
        "generate", "The food was", "--factor", "positive=0.6", "--max-tokens", "6", "--explain", "--html", str(page)
    )
    assert ran.status == 0
    assert ran.out.startswith("The food was")
    assert "positive^" in ran.out
    content = page.read_text()
    assert "<html" in content
    assert "http" not in content


def test_generate_with_particles(run: Run) -> None:
    words = ["generate", "The food was", "--factor", "positive^1.5", "--max-tokens", "4", "--dtype", "float32",
             "--sampler", "smc", "--particles", "3", "--limit", "cut"]  # fmt: skip
    ran = run(*words, "--n", "2", "--json")
    assert ran.status == 0
    for response in objects(ran.out):
        particles = response["particles"]
        assert particles["number"] == 3
        assert 1 <= particles["effective_size"] <= 3
        assert response["log_prob"] == pytest.approx(particles["log_weight"] - particles["log_z"])
    shown = run(*words, "--explain")
    assert shown.status == 0
    assert "drawn from 3 particles" in shown.out
    assert "not independent" in shown.out


def test_generate_speculates_without_changing_the_text(run: Run) -> None:
    words = ["generate", "one two three four, one two three four, one two", "--max-tokens", "8", "--dtype", "float32"]
    plain, quick = run(*words), run(*words, "--speculate")
    assert quick.status == 0
    assert quick.out == plain.out
    assert "guesses right" in quick.err


def test_generate_lets_the_base_guess(run: Run) -> None:
    words = ["generate", "One day", "--max-tokens", "8", "--dtype", "float32", "--temperature", "0"]
    words += ["--model", 'smollm2 * prompt("Write about the sea.") ^ 0.5']
    plain, quick = run(*words), run(*words, "--speculate", "--draft", "base")
    assert quick.status == 0, quick.err
    assert quick.out == plain.out
    assert "guesses right" in quick.err


def test_generate_keeps_to_a_language(run: Run, tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}')
    ran = run("generate", "As JSON: ", "--json-schema", str(schema), "--max-tokens", "40", "--n", "2", "--json")
    for response in objects(ran.out):
        if response["finish_reason"] == "end":
            assert isinstance(json.loads(response["text"])["age"], int)
        else:
            assert "cut at --max-tokens" in ran.err
    ran = run("generate", "It is", "--model", 'smollm2 * choice(" red", " green")', "--max-tokens", "8", "--json")
    assert objects(ran.out)[0]["text"] in (" red", " green")


def test_score_names_evidence_and_bits(run: Run, tmp_path: Path) -> None:
    texts = ["I loved this place, wonderful!", "I hated it. Terrible service."]
    ran = run("score", "-", "--factor", "positive", "--json", stdin="\n".join(texts).encode())
    good, bad = objects(ran.out)
    assert good["factors"]["positive"] > 0 > bad["factors"]["positive"]
    assert good["log_prob"] == good["base_log_prob"]  # a bare name measures and does not steer
    for text, found in zip(texts, (good, bad), strict=True):
        assert found["num_bytes"] == len(text.encode())
        assert found["bits_per_byte"] == pytest.approx(-found["log_prob"] / math.log(2) / found["num_bytes"])
    steered = run("score", "-", "--factor", "positive=0.4", "--json", stdin=texts[0].encode())
    assert objects(steered.out)[0]["log_prob"] > good["log_prob"]
    assert "positive" in run("score", "-", "--factor", "positive", stdin=texts[0].encode()).out


def test_train_then_use(run: Run, tmp_path: Path) -> None:
    wry, plain = tmp_path / "wry.txt", tmp_path / "plain.txt"
    places = ["office", "train", "shop", "party", "garden", "lecture", "kitchen", "hotel", "museum", "bank"]
    times = ["Monday", "Tuesday", "Friday", "noon", "midnight"]
    wry.write_text("".join(f"Oh joy, another {p} on {t}, how utterly thrilling.\n" for p in places for t in times))
    plain.write_text("".join(f"We went to the {p} on {t} and came home later.\n" for p in places for t in times))
    ran = run("factor", "train", "wry", "--positive", str(wry), "--negative", str(plain))
    assert ran.status == 0, ran.err
    assert objects(run("factor", "list", "--json").out)[0]["name"] == "wry"
    assert "wry" in run("factor", "show", "wry", "--tokens", "4").out
    scores = objects(run("score", "-", "--factor", "wry", "--json", stdin=b"Oh how thrilling.\nWe came home.\n").out)
    assert scores[0]["factors"]["wry"] > scores[1]["factors"]["wry"]
    assert run("factor", "train", "wry", "--positive", str(wry), "--negative", str(plain)).status == 2
    assert run("factor", "remove", "wry").status == 0


def test_a_ban_holds_and_a_boost_boosts(run: Run) -> None:
    assert run("factor", "create", "dull", "--word", "the", "--word", "a", "--word", "and", "--ban").status == 0
    ran = run("generate", "Once upon", "--factor", "dull^1", "--max-tokens", "24", "--n", "4", "--json")
    for response in objects(ran.out):
        words = {w.strip(".,!?'\"").lower() for w in ("x" + response["text"]).split()}
        assert not words & {"the", "and"}
    assert run("generate", "Once upon", "--factor", "dull=0.3", "--max-tokens", "4").status == 2
    assert run("factor", "create", "marvel", "--word", "marvelous", "--boost", "20").status == 0
    boosted = run("generate", "The weather is", "--factor", "marvel^1", "--max-tokens", "12", "--n", "8", "--json")
    assert sum("marvelous" in r["text"] for r in objects(boosted.out)) >= 4


def test_lists_are_json_lines(run: Run) -> None:
    shelf = {f["name"]: f for f in objects(run("factor", "list", "--json").out)}
    assert {"positive", "toxic"} <= set(shelf)
    assert shelf["positive"]["kind"] == "head"
    assert all(f["version"].count(".") == 2 for f in shelf.values())
    assert {"smollm2", "minilm"} <= {m["name"] for m in objects(run("models", "list", "--json").out)}
    assert run("factor", "verify").status == 0
    assert "positive" in run("factor", "list").out
