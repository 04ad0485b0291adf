"""Killed at any moment, a server loses nothing that it acknowledged, and leaves nothing half-written.

Clients give feedback, delete it, upload factors and edit them all the time, over HTTP; the server gets SIGKILL at a
random moment among that, and the next server on the same state is asked for everything that was ever acknowledged.
"""

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from factorlm.factors.remotes.inspection import inspect
from factorlm.factors.store import VERSIONS, Store
from factorlm.models import CausalLM
from factorlm.serving.database import Database
from factorlm.serving.settings import ServerSettings

from .test_uploads import head, weights, words

LONGEST_S = 1.0  # of a server's life after its first acknowledgement


@dataclass
class Acknowledged:
    """What clients were told, over all lives of the server."""

    feedback: dict[int, str] = field(default_factory=dict)  # id -> prompt
    deleted: set[int] = field(default_factory=set)
    uploads: set[tuple[str, str, str]] = field(default_factory=set)  # name, version, sha256
    edits: set[tuple[str, str]] = field(default_factory=set)  # name, version
    counts: list[int] = field(default_factory=list)  # of each life

    @property
    def number(self) -> int:
        return len(self.feedback) + len(self.deleted) + len(self.uploads) + len(self.edits)


@dataclass
class Clients:
    """Everybody who uses a server until it is gone."""

    url: str
    life: int
    lm: CausalLM
    known: Acknowledged
    first: threading.Event = field(default_factory=threading.Event)
    complaints: list[str] = field(default_factory=list)

    def run(self) -> list[threading.Thread]:
        works = [self.give, self.give, self.forget, self.upload_words, self.upload_heads, self.edit]
        threads = [threading.Thread(target=self._until_gone, args=(n, work)) for n, work in enumerate(works)]
        for thread in threads:
            thread.start()
        return threads

    def _until_gone(self, client: int, work: Callable[[httpx.Client, int, int], None]) -> None:
        with httpx.Client(base_url=self.url, timeout=60) as http:
            try:
                for number in range(100_000):
                    work(http, client, number)
                    self.first.set()
            except httpx.TransportError:
                pass  # the server is gone
            except Exception as error:
                self.complaints.append(repr(error))

    def give(self, http: httpx.Client, client: int, number: int) -> None:
        prompt = f"{self.life}.{client}.{number} " + "x" * random.Random(number).randrange(20_000)
        answer = http.post("/v1/feedback", json={"prompt": prompt, "text": "a", "thumb": "up"})
        self.known.feedback[answer.raise_for_status().json()["id"]] = prompt

    def forget(self, http: httpx.Client, client: int, number: int) -> None:
        answer = http.post("/v1/feedback", json={"prompt": "to go", "text": "a", "thumb": "up"})
        doomed = answer.raise_for_status().json()["id"]
        assert http.delete("/v1/feedback", params={"ids": [doomed]}).raise_for_status().json() == {"deleted": 1}
        self.known.deleted.add(doomed)

    def upload(self, http: httpx.Client, name: str, parts: dict[str, bytes]) -> None:
        files = {part: (part, content) for part, content in parts.items()}
        found = http.put(f"/v1/factors/{name}", files=files).raise_for_status().json()
        self.known.uploads.add((found["name"], found["version"], found["sha256"]))

    def upload_words(self, http: httpx.Client, client: int, number: int) -> None:
        name = f"words{self.life}"
        self.upload(http, name, words(name, f"0.{number}.0", good=float(number)))

    def upload_heads(self, http: httpx.Client, client: int, number: int) -> None:
        name = f"head{self.life}"
        self.upload(http, name, head(self.lm, weights(seed=number), name=name, version=f"0.{number}.0"))

    def edit(self, http: httpx.Client, client: int, number: int) -> None:
        name = f"edited{self.life}"
        if number == 0:
            self.upload(http, name, words(name))
        found = http.post(f"/v1/factors/{name}/edit", json={"boost": {"bad": float(number)}, "context": ["a"]})
        self.known.edits.add((name, found.raise_for_status().json()["version"]))


def check_everything_is_there(url: str, state: Path, known: Acknowledged) -> None:
    with httpx.Client(base_url=url, timeout=60) as http:
        kept: dict[int, str] = {}
        after: int | None = 0
        while after is not None:
            page = http.get("/v1/feedback", params={"after": after, "limit": 1000}).raise_for_status().json()
            kept |= {one["id"]: one["prompt"] for one in page["data"]}
            after = page["after"]
        assert {number: kept.get(number) for number in known.feedback} == known.feedback
        assert not known.deleted & kept.keys(), "what was deleted came back"
        there: set[tuple[str, str, str]] = set()
        for name in {name for name, *_ in known.uploads}:
            versions = http.get(f"/v1/factors/{name}/versions").raise_for_status().json()["versions"]
            there |= {(name, version["version"], version["sha256"]) for version in versions}
        assert known.uploads <= there
        assert known.edits <= {(name, version) for name, version, _ in there}
    settings = ServerSettings(state=state)
    with Database(settings.database_path) as database:
        database.check()  # PRAGMA integrity_check, beside the server that runs
    store = Store(settings.store_folder("local"))
    for name in store.names():
        inspect(store.folder / name)
        for version in (store.folder / VERSIONS / name).glob("*"):
            inspect(version)
    left = [path for path in state.rglob("*") if re.search(r"\.(partial|old|removed)$", path.name)]
    assert left == []
    assert list((state / "incoming").glob("*")) == []


@dataclass
class Nursery:
    """See nursery.py."""

    process: subprocess.Popen[str]
    alive: int = 0  # the server, if there is one

    def bear(self) -> tuple[int, str]:
        """Number and address of a new server."""
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        born = self.read()
        self.alive = born["pid"]
        return born["pid"], f"http://127.0.0.1:{born['port']}"

    def read(self) -> dict[str, int]:
        assert self.process.stdout
        return json.loads(self.process.stdout.readline())

    def kill(self, pid: int) -> None:
        self.alive = 0
        os.kill(pid, signal.SIGKILL)
        assert self.read() == {"status": -signal.SIGKILL}, "it ended before it was killed"


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return {**os.environ, "FACTORLM_STORE": str(tmp_path / "store"), "OMP_NUM_THREADS": "1"}


@pytest.fixture
def nursery(tiny_folder: Path, state: Path, environment: dict[str, str]) -> Iterator[Nursery]:
    words = [sys.executable, str(Path(__file__).with_name("nursery.py")), str(tiny_folder), str(state)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(words, env=environment, **pipes) as process:  # type: ignore[call-overload]
        found = Nursery(process)
        try:
            yield found
        finally:
            if found.alive:  # the test failed
                os.kill(found.alive, signal.SIGKILL)
            assert process.stdin
            process.stdin.close()
            assert process.wait(60) == 0


def live_and_die(url: str, kill: Callable[[], None], life: int, lm: CausalLM, known: Acknowledged) -> None:
    before = known.number
    clients = Clients(url, life, lm, known)
    threads = clients.run()
    assert clients.first.wait(60), clients.complaints
    time.sleep(LONGEST_S * random.Random(life).random())
    kill()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert clients.complaints == []
    known.counts.append(known.number - before)


def kill_often(nursery: Nursery, state: Path, lm: CausalLM, num_kills: int) -> None:
    known = Acknowledged()
    for life in range(num_kills):
        pid, url = nursery.bear()
        check_everything_is_there(url, state, known)
        live_and_die(url, lambda pid=pid: nursery.kill(pid), life, lm, known)  # type: ignore[misc]
    pid, url = nursery.bear()
    check_everything_is_there(url, state, known)
    nursery.kill(pid)
    assert len(known.counts) == num_kills
    assert all(known.counts), "every server was killed in the midst of work"
    assert all((known.feedback, known.deleted, known.uploads, known.edits))
    print(f"{num_kills} kills; acknowledged: {len(known.feedback)} feedback, {len(known.deleted)} deletions, "
          f"{len(known.uploads)} uploads, {len(known.edits)} edits")  # fmt: skip


@pytest.mark.slow
def test_nothing_acknowledged_is_lost(nursery: Nursery, state: Path, tiny_lm: CausalLM) -> None:
    kill_often(nursery, state, tiny_lm, 5)


@pytest.mark.long
def test_nothing_acknowledged_is_lost_over_fifty_kills(nursery: Nursery, state: Path, tiny_lm: CausalLM) -> None:
    kill_often(nursery, state, tiny_lm, 50)


@pytest.mark.slow
def test_the_command_itself_is_killed(
    state: Path, environment: dict[str, str], tiny_folder: Path, tiny_lm: CausalLM
) -> None:
    words = [sys.executable, "-c", "from factorlm.cli.serve import app; app()", "--model", str(tiny_folder)]
    words += ["--port", "0", "--state", str(state), "--set", "requests_per_minute=0"]
    known = Acknowledged()
    for life in range(2):
        with (
            subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True) as process,
            ExitStack() as stack,
        ):
            stack.callback(process.kill)  # where the test fails
            assert process.stderr
            said = iter(process.stderr.readline, "")
            url = next(found for line in said if (found := re.search(r"http://127\.0\.0\.1:\d+", line)))
            check_everything_is_there(url[0], state, known)
            if life == 0:
                live_and_die(url[0], process.kill, life, tiny_lm, known)
            else:
                process.terminate()
                process.stderr.read()
                assert process.wait(60) == 0
    assert known.counts[0] > 0
