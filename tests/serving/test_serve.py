"""`factorlm serve` as a process: what it says, what it refuses, and how it ends."""

import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from factorlm.cli.app import main
from factorlm.errors import InputError
from factorlm.serving.database import Database
from factorlm.serving.listening import listen
from factorlm.serving.settings import Limits, ServerSettings

SERVE = "import sys; from factorlm.cli.app import main; sys.argv[0] = 'factorlm'; main()"
PATIENCE_S = 400  # before a process counts as hanging; machines may be busy
ANSWERS = re.compile(r"answers at (http://\S+)/v1, the page is (http://\S+)/")


def words_of(folder: Path, state: Path, *options: str) -> list[str]:
    return ["serve", "--model", str(folder), "--dtype", "float32", "--port", "0", "--state", str(state), *options]


@contextmanager
def serving(folder: Path, state: Path, *options: str) -> Iterator[tuple["subprocess.Popen[str]", str, list[str]]]:
    """A server, its address, and the lines that it writes, which go on to come."""
    process = subprocess.Popen(
        [sys.executable, "-c", SERVE, *words_of(folder, state, *options)], stderr=subprocess.PIPE, text=True,
        env={**os.environ, "FACTORLM_STORE": str(state / "store")},
    )  # fmt: skip
    said: list[str] = []
    address = threading.Event()

    def read() -> None:
        for line in process.stderr or ():
            said.append(line)
            if ANSWERS.search(line):
                address.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        assert address.wait(PATIENCE_S), said
        [url] = [found[1] for line in said if (found := ANSWERS.search(line))]
        yield process, url, said
    finally:
        process.kill()
        process.wait(PATIENCE_S)
        reader.join(PATIENCE_S)
        if process.stderr is not None:
            process.stderr.close()


@pytest.fixture
def refused(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., str]:
    """The line that `factorlm serve` ends with when it does not start, in this process."""

    def ask(*options: str) -> str:
        monkeypatch.setattr(sys, "argv", ["factorlm", *words_of(tiny_folder, tmp_path, *options)])
        with pytest.raises(SystemExit) as stop:
            main()
        said = capsys.readouterr().err
        assert (stop.value.code, said.count("\n")) == (2, 1)
        return said

    return ask


def test_it_serves_the_api_and_the_page_and_lets_streams_end(tiny_folder: Path, tmp_path: Path) -> None:
    asked = {"prompt": "the good", "max_tokens": 200, "regex": "[ab]{900}", "seed": 1}
    streamed = {**asked, "stream": True}
    with serving(tiny_folder, tmp_path) as (process, url, said):
        assert httpx.get(f"{url}/v1/models").json()["data"][0]["id"] == tiny_folder.name
        assert "text/html" in httpx.get(f"{url}/").headers["content-type"]
        whole = httpx.post(f"{url}/v1/completions", json=asked, timeout=PATIENCE_S).json()["choices"][0]["text"]
        with httpx.stream("POST", f"{url}/v1/completions", json=streamed, timeout=PATIENCE_S) as stream:
            lines = stream.iter_lines()
            first = next(lines)
            process.send_signal(signal.SIGTERM)  # what was begun is finished
            events = [line.removeprefix("data: ") for line in (first, *lines) if line]
        assert events[-1] == "[DONE]"
        assert "".join(json.loads(event)["choices"][0]["text"] for event in events[:-1]) == whole
        assert process.wait(PATIENCE_S) == 0
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{url}/healthz")
    assert any("200 written" in line for line in said)
    assert not any("good" in line for line in said)  # no text goes into the log


def test_texts_go_into_the_log_if_that_is_asked_for(tiny_folder: Path, tmp_path: Path) -> None:
    with serving(tiny_folder, tmp_path, "--log-texts", "--name", "mine") as (process, url, said):
        body = {"prompt": "the good tea", "max_tokens": 2}
        assert httpx.post(f"{url}/v1/completions", json=body).json()["model"] == "mine"
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE_S) == 0
    assert any("the good tea" in line for line in said)


def test_other_machines_need_keys(tiny_folder: Path, tmp_path: Path, refused: Callable[..., str]) -> None:
    assert "needs a key" in refused("--host", "0.0.0.0")
    with Database(ServerSettings(state=tmp_path).database_path) as database:
        key = database.create_key("k", "ann", ["generate"])
    with serving(tiny_folder, tmp_path, "--host", "0.0.0.0") as (_, url, _):
        near = url.replace("0.0.0.0", "127.0.0.1")
        assert httpx.get(f"{near}/v1/models").status_code == 401
        assert httpx.get(f"{near}/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code == 200


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--engine", "nope"), "engine"),
        (("--memory", "x"), "NAME=FOLDER"),
        (("--memory", "../x=/tmp"), "NAME=FOLDER"),
        (("--memory", "x=/nowhere"), "index.json"),
        (("--prior", "x=/nowhere"), "prior.json"),
        (("--set", "nope=1"), "nope"),
        (("--set", "timeout_s=-1"), "timeout_s"),
        (("--host", "no.such.host.invalid"), "cannot be listened at"),
    ],
)
def test_options_that_cannot_be_used_end_in_one_line(
    refused: Callable[..., str], options: tuple[str, ...], word: str
) -> None:
    assert word in refused(*options)


def test_a_missing_extra_is_told(refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine where only `pip install factorlm` was run."""
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "uvicorn" else found(name))
    assert "factorlm[serve]" in refused()


def test_a_port_that_is_taken_is_told() -> None:
    with listen("127.0.0.1", 0) as taken, pytest.raises(InputError, match="cannot be listened at"):
        listen("127.0.0.1", taken.getsockname()[1])


def test_small_writes_do_not_wait_for_each_other() -> None:
    """An accepted connection has Nagle's algorithm switched off; a stream of tokens would wait 40 ms at each."""
    with listen("127.0.0.1", 0) as listening, socket.create_connection(listening.getsockname()):
        accepted, _ = listening.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", True), ("localhost", True), ("::1", True), ("0.0.0.0", False), ("::", False), ("desk", False)],
)
def test_what_is_loopback(host: str, expected: bool) -> None:
    assert ServerSettings(host=host).is_loopback == expected


@pytest.mark.parametrize("tenant", ["", ".", "..", "a/b", "A", "a\n", "x" * 65])
def test_a_tenant_is_a_name_of_a_folder_and_no_path(tmp_path: Path, tenant: str) -> None:
    with pytest.raises(InputError, match="a tenant is"):
        ServerSettings(state=tmp_path).store_folder(tenant)


def test_limits_are_strict() -> None:
    for wrong in ({"body_bytes": 0}, {"timeout_s": 0.0}, {"nope": 1}, {"n": "3"}):
        with pytest.raises(ValueError):
            Limits.model_validate(wrong)
