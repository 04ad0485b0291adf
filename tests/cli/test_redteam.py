"""factorlm redteam: what can be chosen, and what is wrong ends in one line."""

import json
from pathlib import Path

import pytest

from factorlm.cli.redteam import _without_keys

from .conftest import Run


def test_options_become_settings(run: Run) -> None:
    words = ["--parts", "requests, planted", "--attacks", "plain,persona", "--safety", "toxic", "--set", "max_tokens=9"]
    found = json.loads(run("redteam", *words, "--print-settings").out)
    assert found["parts"] == ["requests", "planted"]
    assert found["requests"]["attacks"] == ["plain", "persona"]
    assert (found["safety"], found["max_tokens"], found["show_texts"]) == (["toxic"], 9, False)
    assert json.loads(run("redteam", "--print-settings").out) == json.loads(
        run("eval", "redteam", "--print-settings").out
    )


BAD = {
    "no such part": (["--parts", "asks"], "parts"),
    "texts without a report": (["--show-texts"], "add --out folder"),
    "out is a file": (["--out", "taken"], "got the file taken"),
    "groups without a server": (["--groups", "names"], "for servers"),
    "no address": (["--server", "localhost"], "the address of a server"),
    "no server there": (["--server", "http://127.0.0.1:9"], "start one with factorlm serve"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_ends_in_one_line(case: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("taken").write_text("x")
    options, wanted = BAD[case]
    ran = run("redteam", *options)
    assert ran.status == 2
    [line] = [line for line in ran.err.splitlines() if line.strip()]
    assert line.startswith("factorlm: ")
    assert wanted in line.lower()


def test_keys_are_not_written_down() -> None:
    words = ["redteam", "--server", "u", "--key", "flm_a", "--other-key=flm_b", "--out", "x"]
    assert _without_keys(words) == "factorlm redteam --server u --out x"
