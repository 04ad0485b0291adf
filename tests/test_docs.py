"""Every Python block and every factorlm command of the README and the docs runs as it is written."""

import contextlib
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from factorlm.evaluation.suites import SUITES

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def commands(page: Path) -> list[str]:
    lines = [line.split("  #")[0].strip() for block in blocks(page, "bash") for line in block.splitlines()]
    return [line for line in lines if line.startswith("factorlm ") and not line.startswith("factorlm bench")]


WITH_PYTHON = [page for page in PAGES if blocks(page, "python")]
WITH_COMMANDS = [page for page in PAGES if commands(page)]


@pytest.mark.model
@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda p: p.name)
def test_python_blocks_run(page: Path, lm: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    space: dict[str, object] = {"__name__": "docs"}
    for block in blocks(page, "python"):
        exec(compile(block, str(page), "exec"), space)  # one page is one session


@pytest.mark.model
@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_COMMANDS, ids=lambda p: p.name)
def test_commands_run(
    page: Path, lm: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from factorlm.cli.app import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FACTORLM_STORE", str(tmp_path / "store"))
    wry = [f"Oh wonderful, {n} more meetings about the {w}." for n in range(8) for w in ("printer", "budget", "roof")]
    plain = [f"There were {n} meetings about the {w}." for n in range(8) for w in ("printer", "budget", "roof")]
    (tmp_path / "wry.txt").write_text("\n".join(wry))
    (tmp_path / "plain.txt").write_text("\n".join(plain))
    (tmp_path / "reviews.txt").write_text("A fine place.\nA dreadful place.\n")
    rows = [f'{{"text": "{t}", "label": "{k}"}}' for texts, k in ((wry, "wry"), (plain, "plain")) for t in texts]
    (tmp_path / "comments.jsonl").write_text("\n".join(rows))
    pairs = [
        {"prompt": f"Note {n}:", "chosen": c, "rejected": r} for n, (c, r) in enumerate(zip(plain, wry, strict=True))
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    seen: set[str] = set()
    for command in commands(page):
        words = shlex.split(command)
        if words[:3] == ["factorlm", "factor", "train"] and words[3] in seen:
            words.append("--replace")  # a page may show two ways of making one factor
        if words[:2] == ["factorlm", "eval"] and words[2] in SUITES:
            words.append("--print-settings")  # suites run in tests/evaluation; here their options must be right
        if words[:2] == ["factorlm", "redteam"]:
            words.append("--print-settings")  # tests/evaluation/redteam runs it
        if words[1:3] == ["guide", "fit-model"]:
            words.append("--print-settings")  # learning from so few texts cannot work; tests/cli does it
        seen.update(words[3:4])
        monkeypatch.setattr(sys, "argv", words)
        with contextlib.suppress(SystemExit):
            main()
        assert "factorlm: " not in capsys.readouterr().err, command


@pytest.mark.model
@pytest.mark.slow
def test_the_demo_runs(lm: object, tmp_path: Path) -> None:
    page = tmp_path / "demo.html"
    ran = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "demo.py"), "--max-tokens", "6", "--html", str(page)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "positive^" in ran.stdout
    assert page.is_file()


@pytest.mark.model
@pytest.mark.slow
def test_the_example_of_measuring_runs(lm: object, tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "measure.py"), "--out", str(tmp_path / "report")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert "bits_per_byte/mine" in ran.stdout
    assert (tmp_path / "report" / "report.html").is_file()
