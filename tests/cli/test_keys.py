"""factorlm serve keys: make, list and revoke."""

import json
import re
import sys
from pathlib import Path

import pytest

from factorlm.cli import app as command_line
from factorlm.cli.keys import app
from factorlm.serving.database import Database

from .conftest import Ran, Run


@pytest.fixture
def keys(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):  # noqa: ANN201
    """A function that runs `factorlm serve keys` with these words, on a state of its own."""
    monkeypatch.setattr(command_line, "app", app)  # so that errors end as they do on the command line

    def go(*words: str) -> Ran:
        return run(*words, "--state", str(tmp_path / "state"))

    return go


def test_a_key_from_its_making_to_its_end(keys, tmp_path: Path) -> None:  # noqa: ANN001
    made = keys("create", "my phone", "--scope", "admin", "--tenant", "ann")
    assert (made.status, "from now on every request needs one" in made.err) == (0, True)
    secret = made.out.strip()
    assert re.fullmatch(r"flm_[A-Za-z0-9_-]{43}", secret)
    again = json.loads(keys("create", "laptop", "--json").out)
    assert (again["id"], again["tenant"], again["scopes"]) == (2, "local", ["read", "generate"])
    with Database(tmp_path / "state" / "server.sqlite") as database:
        key = database.find_key(secret)
        assert key is not None
        assert (key.name, key.tenant, key.scopes) == ("my phone", "ann", ("read", "generate", "admin"))
        assert database.find_key(again["key"])
    listed = [json.loads(line) for line in keys("list", "--json").out.splitlines()]
    assert [(row["id"], row["name"], row["revoked"]) for row in listed] == [(1, "my phone", None), (2, "laptop", None)]
    shown = keys("list").out
    assert "my phone" in shown
    assert secret not in shown + json.dumps(listed)
    assert keys("revoke", "1").out.strip() == "revoked key 1"
    with Database(tmp_path / "state" / "server.sqlite") as database:
        assert database.find_key(secret) is None
    assert json.loads(keys("list", "--json").out.splitlines()[0])["revoked"]


def test_without_keys(keys) -> None:  # noqa: ANN001
    assert "there are no keys" in keys("list").out
    assert keys("list", "--json").out == ""


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("create", "x", "--scope", "all"), "no scope named 'all'"),
        (("create", "x", "--tenant", "../x"), "a tenant is small letters"),
        (("create", " "), "a key's name"),
        (("revoke", "7"), "no good key number 7"),
    ],
)
def test_bad_input_ends_in_one_line(keys, words: tuple[str, ...], wanted: str) -> None:  # noqa: ANN001
    ran = keys(*words)
    assert (ran.status, ran.out) == (2, "")
    [line] = ran.err.splitlines()
    assert line.startswith("factorlm: ")
    assert wanted in line


def test_a_file_that_is_no_database(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(command_line, "app", app)
    (tmp_path / "server.sqlite").write_text("hello " * 100)
    ran = run("list", "--state", str(tmp_path))
    assert ran.status == 2
    assert "no sound database" in ran.err


def test_importing_is_cheap() -> None:
    import subprocess

    program = "import sys, factorlm.cli.keys; print({'fastapi', 'sqlalchemy', 'torch'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "set()\n"
