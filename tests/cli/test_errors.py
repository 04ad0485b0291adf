"""Every bad input ends with one line that says what was wanted, what came and what to do, and exit status 2."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from factorlm.factors.store import SHELF

Run = Callable[..., Any]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with good and bad inputs, made the working directory."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "latin.txt").write_bytes(b"good\ncaf\xe9\n")
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "few.txt").write_text("one\ntwo\n")
    (tmp_path / "good.txt").write_text("".join(f"text number {i}\n" for i in range(40)))
    (tmp_path / "long.txt").write_text("short\n" + "word " * 9000 + "\n")
    (tmp_path / "table.jsonl").write_text('{"text": "a"}\n')
    torch.save({"bias": torch.zeros(3)}, tmp_path / "weights.pt")
    for name, change in (("corrupted", b"x"), ("pickled", None)):
        folder = tmp_path / name
        shutil.copytree(SHELF / "positive", folder)
        weights = folder / "weights.safetensors"
        if change is None:
            torch.save({"bias": torch.zeros(576)}, weights)
        else:
            weights.write_bytes(weights.read_bytes()[:-1] + change)
    shutil.copytree(SHELF / "positive", tmp_path / "foreign")
    card = tmp_path / "foreign" / "factor.json"
    card.write_text(card.read_text().replace("1158e90dd46bb884", "0" * 16))
    return tmp_path


CHEAP = {
    "missing file": (["score", "absent.txt"], "no file absent.txt"),
    "a folder": (["score", "."], "readable text file"),
    "not UTF-8": (["score", "latin.txt"], "byte 0xe9 in line 2 of latin.txt"),
    "no texts": (["score", "empty.txt"], "at least one text"),
    "not a number": (["generate", "x", "--factor", "positive=much"], "finite number"),
    "not finite": (["generate", "x", "--factor", "positive=nan"], "finite number"),
    "infinite exponent": (["generate", "x", "--factor", "positive^inf"], "finite number"),
    "no name": (["generate", "x", "--factor", "=0.3"], "NAME=STRENGTH"),
    "a factor twice": (["generate", "x", "--factor", "toxic=0.3", "--factor", "toxic^1"], "once"),
    "bad temperature": (["generate", "x", "--temperature", "-1"], "temperature"),
    "bad top-p": (["generate", "x", "--top-p", "1.5"], "top_p"),
    "empty stop string": (["generate", "x", "--stop", ""], "stop"),
    "unknown sampler": (["generate", "x", "--sampler", "locl"], "did you mean local"),
    "unknown resampling": (["generate", "x", "--sampler", "smc", "--resampling", "some"], "known: multinomial"),
    "unknown limit": (["generate", "x", "--sampler", "smc", "--limit", "never"], "'end' or 'cut'"),
    "guessing particles": (["generate", "x", "--sampler", "smc", "--speculate"], "leave one out"),
    "an unknown draft": (["generate", "x", "--speculate", "--draft", "luck"], "known: base, lookup"),
    "a draft for nothing": (["generate", "x", "--draft", "base"], "--speculate"),
    "a draft with nothing to leave out": (["generate", "x", "--speculate", "--draft", "base"], "guess by lookup"),
    "an unknown search": (["search", "luck", "x"], "known: beam, best"),
    "a search without its judge": (["search", "tree", "x"], "--judge is for best and tree"),
    "a judge for no search": (["search", "beam", "x", "--judge", "positive"], "--judge is for best and tree"),
    "no answer": (["search", "vote", "x", "--answer", "("], "regular expression"),
    "a twist without particles": (["generate", "x", "--twist", "positive^2"], "take --sampler smc"),
    "two languages": (["generate", "x", "--regex", "a", "--choice", "b"], "one of json_schema"),
    "no schema": (["generate", "x", "--json-schema", "nowhere.json"], "got nowhere.json"),
    "greedy particles": (["generate", "x", "--sampler", "smc", "--temperature", "0"], "temperature above 0"),
    "unknown model": (["generate", "x", "--model", "smolm2"], "did you mean smollm2"),
    "unknown model to fetch": (["models", "fetch", "minilmm"], "did you mean minilm"),
    "unknown factor to show": (["factor", "show", "positiv"], "did you mean positive"),
    "bad name": (["factor", "create", "Bad Name", "--word", "x"], "small letters"),
    "no kind": (["factor", "create", "thing"], "exactly one kind"),
    "two kinds": (["factor", "create", "thing", "--word", "x", "--prompt", "y"], "exactly one kind"),
    "boost not finite": (["factor", "create", "thing", "--word", "x", "--boost", "inf"], "--ban"),
    "one file only": (["factor", "train", "wry", "--positive", "good.txt"], "--negative"),
    "too few texts": (["factor", "train", "wry", "--positive", "good.txt", "--negative", "few.txt"], "at least 10"),
    "table without labels": (["factor", "train", "wry", "--table", "table.jsonl"], "label"),
    "corrupted": (["factor", "verify", "./corrupted"], "corrupted: sha256"),
    "pickle as weights": (["factor", "verify", "./pickled"], "pickle"),
    "not a factor": (["factor", "verify", "./"], "no factor.json"),
    "remove what is not mine": (["factor", "remove", "positive"], "no factor of your own"),
}


def one_line(text: str, wanted: str) -> None:
    lines = [line for line in text.splitlines() if line.startswith("factorlm: ")]
    assert len(lines) == 1, text
    assert wanted in lines[0]
    assert "Traceback" not in text


@pytest.mark.parametrize("case", CHEAP)
def test_bad_input_that_needs_no_model(case: str, run: Run, files: Path) -> None:
    words, wanted = CHEAP[case]
    ran = run(*words)
    assert ran.status == 2
    assert ran.out == ""
    one_line(ran.err, wanted)


NEED_MODEL = {
    "empty prompt": (["generate", ""], "empty one"),
    "prompt too long": (["generate", "word " * 9000], "at most 8192 tokens"),
    "too many new tokens": (["generate", "x", "--max-tokens", "9000"], "at most 8192 tokens"),
    "line too long": (["score", "long.txt"], "text 2 of long.txt"),
    "unknown factor": (["generate", "x", "--factor", "positve=0.3"], "did you mean positive"),
    "another encoder": (["generate", "x", "--factor", "./foreign=0.3"], "needs the encoder smollm2 (0000"),
    "corrupted factor": (["generate", "x", "--factor", "./corrupted=0.3"], "corrupted: sha256"),
    "pickled factor": (["generate", "x", "--factor", "./pickled=0.3"], "pickle"),
    "a pickle itself": (["generate", "x", "--factor", "weights.pt=0.3"], "pickle"),
}


@pytest.mark.model
@pytest.mark.parametrize("case", NEED_MODEL)
def test_bad_input_that_needs_the_model(case: str, run: Run, files: Path, lm: object) -> None:
    words, wanted = NEED_MODEL[case]
    ran = run(*words)
    assert ran.status == 2
    one_line(ran.err, wanted)


def test_words_that_the_parser_refuses_end_with_status_2(run: Run) -> None:
    assert run("generate").status == 2
    assert run("generate", "x", "--n", "0").status == 2
    assert run("nonsense").status == 2


@pytest.mark.model
def test_all_tokens_banned(run: Run, lm: object) -> None:
    words = [w for letter in map(chr, range(33, 127)) for w in ("--word", letter)]
    assert run("factor", "create", "silence", *words, "--ban", "--anywhere").status == 0
    path = run("factor", "list", "--json").out
    assert '"silence"' in path
    ran = run("generate", "x", "--factor", "silence^1", "--top-k", "1", "--max-tokens", "4", "--json")
    assert ran.status == 0  # white space and other alphabets are left
    assert not any("!" <= c <= "~" for c in ran.out.split('"text": "')[1].split('", "token_ids"')[0].replace("\\n", ""))


def test_a_failed_training_leaves_nothing_behind(run: Run, files: Path) -> None:
    run("factor", "train", "wry", "--positive", "good.txt", "--negative", "absent.txt")
    assert '"wry"' not in run("factor", "list", "--json").out
