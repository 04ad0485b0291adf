"""factorlm factor push, pull and verify, as a user runs them."""

import functools
import json
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from factorlm.cli.pull import list_shared
from factorlm.factors.seal import seal
from factorlm.factors.store import SHELF, default_stores, read_manifest

Run = Callable[..., Any]

POSITIVE, TOXIC = (read_manifest(SHELF / name).version for name in ("positive", "toxic"))


@pytest.fixture
def factor(run: Run, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A function that runs `factorlm factor` with these words; the store holds a sealed copy of the shelf's factors."""
    own = default_stores()[0].folder
    for name in ("positive", "toxic"):
        shutil.copytree(SHELF / name, own / name)
        seal(own / name)
    return lambda *words: run("factor", *words)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_round_trip(factor: Run, tmp_path: Path) -> None:
    shared, own = str(tmp_path / "shared"), default_stores()[0].folder
    before = files(own / "positive")
    ran = factor("push", "positive", "toxic", "--to", shared)
    assert (ran.status, ran.err) == (0, "")
    assert f"positive {POSITIVE}" in ran.out
    assert f"is now in {shared}" in ran.out
    assert f"toxic {TOXIC} is already in {shared}" in factor("push", "toxic", "--to", shared).out
    shutil.rmtree(own / "positive")
    ran = factor("pull", "positive", "--from", shared)
    assert (ran.status, files(own / "positive")) == (0, before)
    assert "not for the default model" not in ran.err
    found = json.loads(factor("pull", "positive", "--from", shared, "--json").out)
    assert found == {
        "name": "positive",
        "version": POSITIVE,
        "folder": str(own / "positive"),
        "was_there": True,
        "notes": [],
    }
    ran = factor("verify", "--from", shared)
    assert (ran.status, ran.out.splitlines()) == (0, [f"sound positive {POSITIVE}", f"sound toxic {TOXIC}"])
    assert factor("verify", "positive", "toxic").out.splitlines() == [
        f"sound positive {POSITIVE}",
        f"sound toxic {TOXIC}",
    ]


def test_listing(factor: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shared = str(tmp_path / "shared")
    factor("push", "positive", "toxic", "--to", shared)
    list_shared(shared, as_json=True)
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(f["name"], f["kind"], f["versions"]) for f in found] == [
        ("positive", "head", [POSITIVE]),
        ("toxic", "head", [TOXIC]),
    ]
    list_shared(shared, as_json=False)
    assert "positive" in capsys.readouterr().out


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a plain web server, which only reads, over the shared folder."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(sys, "stderr", StringIO())  # where it writes its log
    (tmp_path / "shared").mkdir()
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}/shared"
        httpd.shutdown()
        thread.join()


def test_a_pushed_folder_can_be_served_as_it_is(factor: Run, tmp_path: Path, web: str) -> None:
    own = default_stores()[0].folder
    before = files(own / "positive")
    factor("push", "positive", "--to", str(tmp_path / "shared"))
    shutil.rmtree(own / "positive")
    assert factor("pull", "positive", "--from", web).status == 0
    assert files(own / "positive") == before


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("file", ["factor.json", "weights.safetensors", "factor.sha256"])
def test_verify_names_what_is_broken_and_goes_on(factor: Run, file: str) -> None:
    flip(default_stores()[0].folder / "positive" / file)
    ran = factor("verify", "positive", "toxic")
    assert ran.status == 2
    assert f"sound toxic {TOXIC}" in ran.out
    [line] = ran.err.splitlines()
    assert line.startswith("factorlm: positive")
    assert str(default_stores()[0].folder / "positive") in line


def test_verify_tells_of_several(factor: Run, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    factor("push", "positive", "toxic", "--to", str(shared))
    for name, version in (("positive", POSITIVE), ("toxic", TOXIC)):
        flip(shared / name / version / "weights.safetensors")
    ran = factor("verify", "--from", str(shared))
    assert ran.status == 2
    assert f"2 are broken: positive {POSITIVE}: " in ran.err
    assert len(ran.err.splitlines()) == 1
    rows = [json.loads(line) for line in factor("verify", "--from", str(shared), "--json").out.splitlines()]
    assert [(row["name"], "corrupted" in row["problem"]) for row in rows] == [("positive", True), ("toxic", True)]


ERRORS = {
    "no such address": (["pull", "positive", "--from", "s3://bucket"], "a store is a folder, an http(s) URL"),
    "no store": (["pull", "positive", "--from", "absent"], "has no index.json"),
    "no store to verify": (["verify", "--from", "absent"], "has no index.json"),
    "no such factor": (["push", "positiv", "--to", "absent"], "did you mean positive"),
    "no place": (["push", "positive"], "--to"),
    "no source": (["pull", "positive"], "--from"),
    "offline": (["pull", "positive", "--from", "hf://ann/factors"], "HF_HUB_OFFLINE is set"),
    "not reached": (["pull", "positive", "--from", "http://127.0.0.1:1/x"], "cannot be reached"),
    "installed factors": (["push", "positive", "--to", str(SHELF)], "holds installed factors"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_are_one_line(factor: Run, case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words, message = ERRORS[case]
    monkeypatch.chdir(tmp_path)
    ran = factor(*words)
    assert ran.status == 2
    [line] = [line for line in ran.err.splitlines() if line.startswith("factorlm: ")]
    assert message in line
    assert list(tmp_path.iterdir()) == []
