"""Run the command line as a user does, in this process."""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO, TextIOWrapper

import pytest

from factorlm.cli.app import main


@dataclass(frozen=True)
class Ran:
    """What a command did."""

    status: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path_factory) -> Run:  # noqa: ANN001
    """A function that runs `factorlm` with these words and this standard input; the store is empty at first."""
    monkeypatch.setenv("FACTORLM_STORE", str(tmp_path_factory.mktemp("store")))

    def go(*words: str, stdin: bytes = b"") -> Ran:
        monkeypatch.setattr(sys, "argv", ["factorlm", *words])
        monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO(stdin)))
        capsys.readouterr()
        try:
            main()
            status = 0
        except SystemExit as stop:
            status = int(stop.code or 0)
        captured = capsys.readouterr()
        return Ran(status, captured.out, captured.err)

    return go


def objects(text: str) -> list[dict]:
    """What a command with --json printed."""
    return [json.loads(line) for line in text.splitlines()]
