"""factorlm prior on a tiny random model: the whole way from texts to tilted weights, and every bad input."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from factorlm.prior.files import read_manifest

from .conftest import objects

Run = Callable[..., Any]
GOOD, BAD = "the good good food", "a bad bad cat in a tree"


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "texts.txt"
    path.write_text(f"{GOOD}\n{BAD}\n" * 12)
    return path


@pytest.fixture
def world(run: Run, corpus: Path, tiny_folder: Path, tmp_path: Path) -> Path:
    """A prior of two components, which two kinds of texts part."""
    out = tmp_path / "world.prior"
    words = ["--components", "2", "--rounds", "3", "--names", "bright,dark", "--set", "soft.learning_rate=0.3"]
    ran = run("prior", "fit", str(corpus), *words, "--model", str(tiny_folder), "--dtype", "float32", "--out", str(out))
    assert ran.status == 0, ran.err
    assert "bright" in ran.out
    assert "factorlm prior sample" in ran.out
    assert not out.with_name("world.prior.checkpoint").exists()
    return out


def test_show_sample_and_update(run: Run, world: Path, tmp_path: Path) -> None:
    shown = run("prior", "show", str(world))
    assert shown.status == 0
    for word in ("2 components (soft-prompt)", "bright", "dark", "explains", "writes", "nats per token"):
        assert word in shown.out
    [card] = objects(run("prior", "show", str(world), "--json").out)
    assert [c["name"] for c in card["components"]] == ["bright", "dark"]

    ran = run("prior", "sample", str(world), "the", "--n", "2", "--max-tokens", "5", "--explain", "--json")
    found = objects(ran.out)
    assert sorted(r["component"] for r in found) == ["bright", "dark"]  # without replacement first
    tokens = found[0]["uncertainty"]["tokens"]
    assert all(math.isclose(sum(t["weights"].values()), 1, abs_tol=1e-6) and t["between"] >= 0 for t in tokens)
    for mode in ("bayes", "blend"):
        assert run("prior", "sample", str(world), "the", "--mode", mode, "--max-tokens", "3").status == 0

    after = tmp_path / "after.prior"
    ran = run("prior", "posterior", str(world), "--say", GOOD, "--out", str(after), "--json")
    [update] = objects(ran.out)
    bright = max(update["after"], key=update["after"].get)
    assert update["after"][bright] > 0.9
    assert update["divergence"] > 0
    assert read_manifest(after).updates[0].what == "posterior"
    [back] = objects(run("prior", "posterior", str(after), *["--say", BAD] * 3, "--json").out)
    assert back["after"][bright] < 0.1  # contrary evidence turns it round
    ran = run("prior", "filter", str(world), "--say", GOOD, "--epsilon", "0.01", "--out", str(after), "--replace")
    assert "dropped" in ran.out
    assert read_manifest(after).weights.count(0.0) == 1
    assert "strike" not in run("prior", "show", str(after)).out  # drawn, not spelled


def test_tilts(run: Run, world: Path, tmp_path: Path) -> None:
    rewards = tmp_path / "rewards.json"
    rewards.write_text('{"bright": 1, "dark": 0}')
    before = read_manifest(world).weights
    shares = []
    for temperature in ("2", "1", "0.2"):
        [update] = objects(run("prior", "tilt", str(world), "--reward", str(rewards), "--temperature", temperature,
                               "--json").out)  # fmt: skip
        want = before[0] * math.exp(1 / float(temperature))
        assert update["after"]["bright"] == pytest.approx(want / (want + before[1]), abs=1e-9)
        shares.append(update["after"]["bright"])
    assert shares == sorted(shares)
    thumbs = tmp_path / "thumbs.jsonl"
    thumbs.write_text(
        '{"component": "bright", "thumb": "up"}\n' * 8
        + '{"component": "dark", "thumb": "down", "time": "2026-01-01"}\n'
    )
    [update] = objects(run("prior", "tilt", str(world), "--thumbs", str(thumbs), "--temperature", "0.1", "--json").out)
    want = before[0] * math.exp(0.9 / 0.1) / (before[0] * math.exp(0.9 / 0.1) + before[1] * math.exp((1 / 3) / 0.1))
    assert update["after"]["bright"] == pytest.approx(want, abs=1e-9)
    assert run("prior", "tilt", str(world), "--thumbs", str(thumbs), "--explore", "--seed", "3").status == 0


def test_a_prior_is_a_language_model(run: Run, world: Path, tmp_path: Path) -> None:
    texts = tmp_path / "some.txt"
    texts.write_text(f"{GOOD}\n{BAD}\n")
    found = objects(run("score", str(texts), "--model", str(world), "--dtype", "float32", "--json").out)
    assert all(math.isfinite(s["log_prob"]) for s in found)
    ran = run(
        "generate", "the", "--model", f"'{world}' * lexicon(\"good\":3)", "--max-tokens", "4", "--explain", "--json"
    )
    assert ran.status == 0, ran.err
    [response] = objects(ran.out)
    assert {"posterior", "tokens"} <= set(response["uncertainty"])


def test_report_of_a_prior(run: Run, world: Path, tmp_path: Path) -> None:
    ran = run("prior", "show", str(world), "--out", str(tmp_path / "shown"))
    assert ran.status == 0, ran.err
    page = (tmp_path / "shown/report.html").read_text()
    assert "Divergence of each two components" in page
    assert "What each assumes" in page


def test_a_stopped_run_goes_on(run: Run, corpus: Path, tiny_folder: Path, tmp_path: Path) -> None:
    """The same command after an interruption gives what an unbroken run gives."""
    words = ["prior", "fit", str(corpus), "--components", "2", "--rounds", "3", "--model", str(tiny_folder), "--dtype",
             "float32"]  # fmt: skip
    whole, broken = tmp_path / "whole.prior", tmp_path / "broken.prior"
    assert run(*words, "--out", str(whole)).status == 0
    import factorlm.prior.fitting as fitting

    learn = fitting.learn

    def stopping(*arguments: Any, save: Callable[..., None], **options: Any) -> Any:
        def save_then_stop(progress: Any) -> None:
            save(progress)
            if len(progress.rounds) == 2:
                raise KeyboardInterrupt

        return learn(*arguments, save=save_then_stop, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fitting, "learn", stopping)
        assert run(*words, "--out", str(broken)).status == 130
    assert broken.with_name("broken.prior.checkpoint").is_file()
    assert not broken.exists()
    assert run(*words, "--out", str(broken)).status == 0
    first, second = (json.loads((place / "prior.json").read_text()) for place in (whole, broken))
    assert first["components"] == second["components"]
    assert first["files"] == second["files"]


BAD_INPUTS = {
    "no corpus": (["fit", "absent.txt", "--out", "x"], "absent.txt"),
    "empty corpus": (["fit", "empty.txt", "--out", "x"], "at least one text"),
    "broken objects": (["fit", "broken.jsonl", "--out", "x"], "line 2 of broken.jsonl"),
    "unknown kind": (["fit", "texts.txt", "--out", "x", "--kind", "soft"], "kind"),
    "unknown method": (["fit", "texts.txt", "--out", "x", "--method", "mcmc"], "method"),
    "unknown setting": (["fit", "texts.txt", "--out", "x", "--set", "soft.place=3"], "place"),
    "occupied": (["fit", "texts.txt", "--out", "texts.txt"], "name another place"),
    "too many components": (["fit", "texts.txt", "--out", "x", "--components", "60"], "at least 60 texts"),
    "two of three names": (["fit", "texts.txt", "--out", "x", "--names", "a,b", "--components", "3"], "3 different"),
    "pool for another kind": (["fit", "texts.txt", "--out", "x", "--pool", "texts.txt"], "kind prompt"),
    "models for another kind": (["fit", "texts.txt", "--out", "x", "--member", "smollm2"], "kind model"),
    "no prior": (["show", "absent"], "prior fit makes one"),
    "no evidence": (["posterior", "world.prior"], "--evidence FILE or --say TEXT"),
    "empty evidence": (["posterior", "world.prior", "--evidence", "empty.txt"], "--evidence FILE or --say TEXT"),
    "bad beta": (["posterior", "world.prior", "--say", "the", "--beta", "0"], "beta"),
    "bad epsilon": (["filter", "world.prior", "--say", "the", "--epsilon", "2"], "epsilon"),
    "no reward": (["tilt", "world.prior"], "one of --factor, --reward and --thumbs"),
    "two rewards": (["tilt", "world.prior", "--factor", "a=1", "--reward", "b"], "exactly one"),
    "bad temperature": (["tilt", "world.prior", "--reward", "rewards.json", "--temperature", "0"], "temperature"),
    "unknown judge": (["tilt", "world.prior", "--reward", "judgement"], "judge"),
    "rewards of others": (["tilt", "world.prior", "--reward", "others.json"], "bright, dark"),
    "thumbs of others": (["tilt", "world.prior", "--thumbs", "thumbs.jsonl"], "line 1 of thumbs.jsonl"),
    "unknown mode": (["sample", "world.prior", "the", "--mode", "all"], "mode"),
    "empty prompt": (["sample", "world.prior", ""], "prompt"),
    "message as evidence": (["sample", "world.prior", "the", "--chat", "--query-is-evidence"], "message"),
}  # fmt: skip


def test_bad_input_ends_in_one_line(
    run: Run, world: Path, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.txt").write_text("\n")
    Path("broken.jsonl").write_text('{"text": "good"}\n{"txt": "bad"}\n')
    Path("rewards.json").write_text('{"bright": 1, "dark": 0}')
    Path("others.json").write_text('{"bright": 1}')
    Path("thumbs.jsonl").write_text('{"component": "grey", "thumb": "up"}\n')
    before = sorted(path.name for path in tmp_path.iterdir())
    for name, (words, complaint) in BAD_INPUTS.items():
        model = ["--model", str(tiny_folder)] if words[0] == "fit" else []
        ran = run("prior", *words, *model)
        assert ran.status == 2, name
        assert complaint in ran.err, name
        last = ran.err.strip().splitlines()[-1]
        assert last.startswith("factorlm: "), name
        assert "Traceback" not in ran.err
    assert sorted(path.name for path in tmp_path.iterdir()) == before  # nothing half-written
