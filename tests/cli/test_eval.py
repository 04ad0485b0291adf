"""`factorlm eval` as a user runs it: on a tiny model and texts of one's own, and with all that can be wrong."""

import json
import re
from pathlib import Path

import pytest

from factorlm.evaluation.document import Report
from factorlm.evaluation.suites import SUITES

from .conftest import Run


@pytest.fixture
def words(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Options that measure the tiny model on twelve short texts."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FACTORLM_CACHE", str(tmp_path / "cache"))
    texts = [f"the good food, {word} the bad" for word in ("the", "good", "a", "ba", "in", "go")] * 2
    Path("mine.txt").write_text("\n".join(f"{n * 'a '}{text}" for n, text in enumerate(texts)))
    return ["--model", f'"{tiny_folder}"', "--text", "mine=mine.txt"]


def test_a_report_is_written_and_measured_only_once(run: Run, words: list[str], tiny_folder: Path) -> None:
    rival = f'"{tiny_folder}" * lexicon("bad": 1)'
    ran = run("eval", "perplexity", *words, "--vs", rival, "--out", "out", "--json")
    assert ran.status == 0, ran.err
    lines = [json.loads(line) for line in ran.out.splitlines()]
    measures = [line for line in lines if "value" in line]
    comparisons = [line for line in lines if "verdict" in line]
    mine, other = sorted({line["model"] for line in measures}, key=len, reverse=True)
    assert mine in (f'"{tiny_folder}"', "B" if other == "A" else "A")  # a letter where an expression is long
    assert other in ("A", "B")
    assert all(line["low"] <= line["value"] <= line["high"] for line in measures if line["low"] is not None)
    assert comparisons
    report = Report.model_validate_json(Path("out/report.json").read_text())
    assert report.suite == "perplexity"
    assert report.models[1].expression == rival
    assert report.provenance.command.startswith("factorlm eval perplexity --model")
    assert report.provenance.settings["texts"] == ["mine=mine.txt"]
    assert set(report.provenance.data) == {"mine"}
    assert "<html" in Path("out/report.html").read_text()
    assert "mine" in Path("out/report.md").read_text()
    kept = {path: path.stat().st_mtime_ns for path in Path("cache/evaluations").iterdir()}
    assert kept
    again = run("eval", "perplexity", *words, "--vs", rival, "--json")
    assert again.out == ran.out
    assert {path: path.stat().st_mtime_ns for path in Path("cache/evaluations").iterdir()} == kept


def test_the_summary_fits_a_terminal(run: Run, words: list[str]) -> None:
    ran = run("eval", "perplexity", *words, "--no-cache")
    assert ran.status == 0, ran.err
    assert "mine" in ran.out
    assert max(map(len, re.sub(r"\x1b\[[0-9;]*m", "", ran.out).splitlines())) <= 80
    assert not Path("cache/evaluations").exists()


@pytest.mark.parametrize("suite", SUITES)
def test_settings_can_be_seen_changed_and_read_back(suite: str, run: Run, tmp_path: Path) -> None:
    small = json.loads(run("eval", suite, "--print-settings").out)
    full = json.loads(run("eval", suite, "--print-settings", "--size", "full").out)
    assert small != full
    assert small.keys() == full.keys()


def test_one_setting_is_changed(run: Run) -> None:
    found = json.loads(run("eval", "quick", "--print-settings", "--set", "control.num_prompts=7").out)
    assert found["control"]["num_prompts"] == 7


MINE = ["--model", "TINY", "--text", "mine=mine.txt"]
BAD = {
    "no such suite": (["eval", "perplexty"], "did you mean 'perplexity'"),
    "no such size": (["eval", "perplexity", "--size", "huge"], "no size named 'huge'"),
    "no such option": (["eval", "perplexity", "--modle", "x"], "no such option"),
    "no such model": (["eval", "perplexity", "--model", "smolm2"], "did you mean smollm2"),
    "no model at all": (["eval", "perplexity", "--model", "positive"], "a language model is needed"),
    "unreadable": (["eval", "perplexity", "--model", "smollm2 **"], "a number is needed at character"),
    "a model against itself": (["eval", "perplexity", *MINE, "--vs", "TINY"], "different models are needed"),
    "no data": (["eval", "perplexity", "--model", "TINY", "--data", "absent"], "folder of data sets"),
    "no such text": (["eval", "perplexity", "--model", "TINY", "--text", "a=absent.txt"], "absent.txt"),
    "no group": (["eval", "perplexity", "--model", "TINY", "--text", "mine.txt"], "group"),
    "empty text": (["eval", "perplexity", "--model", "TINY", "--text", "a=empty.txt"], "empty.txt"),
    "texts for another suite": (["eval", "toxicity", "--text", "mine=mine.txt"], "--text is for"),
    "no such setting": (["eval", "perplexity", *MINE, "--set", "windw=3"], "did you mean window"),
    "bad setting": (["eval", "perplexity", *MINE, "--set", "window='x'"], "window"),
    "out is a file": (["eval", "perplexity", *MINE, "--out", "mine.txt"], "got the file mine.txt"),
    "no such recipe": (["eval", "perplexity", *MINE, "--recipe", "absent.toml"], "absent.toml"),
    "no such claim": (["eval", "claim", "locl-is-not-global"], "did you mean local-is-not-global"),
    "no such judge": (["eval", "judge", "show", "sentimnt"], "did you mean sentiment"),
    "command without argument": (["generate"], "missing argument"),
    "not a whole number": (["generate", "x", "--n", "many"], "integer"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_ends_in_one_line(case: str, run: Run, words: list[str], tiny_folder: Path) -> None:
    Path("empty.txt").write_text("\n")
    options, wanted = BAD[case]
    ran = run(*(f'"{tiny_folder}"' if word == "TINY" else word for word in options))
    assert ran.status == 2
    [line] = [line for line in ran.err.splitlines() if line.strip()]
    assert line.startswith("factorlm: ")
    assert wanted.lower() in line.lower()
    assert not Path("out").exists()
