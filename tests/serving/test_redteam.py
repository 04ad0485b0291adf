"""Attempts against a live server: all of them hold, and each would be seen if it did not."""

import json
from pathlib import Path

import pytest

from factorlm.errors import InputError, UnknownNameError
from factorlm.evaluation.redteam.client import Client, Reply
from factorlm.evaluation.redteam.probes import CHAT, GROUPS, is_refused, keeps_to, stays_text
from factorlm.evaluation.redteam.server import probe_server, server_report

from .conftest import Served


def quiet(stage: str, done: int, total: int) -> None:
    """No progress."""


@pytest.mark.parametrize("group", GROUPS)
def test_every_attempt_holds(server: Served, words: Path, tmp_path: Path, group: str) -> None:
    found = probe_server(Client(server.url), [group], quiet)
    assert [(p.probe.name, p.seen) for p in found if not p.held] == []
    assert len(found) > 5
    assert not (tmp_path / "up").exists()
    assert not list(tmp_path.rglob("redteam-probe"))


def test_tenants_are_kept_apart_and_nothing_is_left(server: Served) -> None:
    ann, bob = (server.database.create_key("x", tenant, ["admin"]) for tenant in ("ann", "bob"))
    found = probe_server(Client(server.url, ann), ["names"], quiet, Client(server.url, bob))
    assert found[-1].probe.group == "tenants"
    assert found[-1].held, found[-1].seen
    same = probe_server(Client(server.url, ann), ["names"], quiet, Client(server.url, ann))
    assert not same[-1].held  # whoever holds the key of the tenant can do all of it, and that is seen
    assert server.client.get("/v1/factors/redteam-probe", headers={"Authorization": f"Bearer {ann}"}).status_code == 404


@pytest.mark.parametrize(
    ("status", "content", "want"),
    [
        (400, json.dumps({"error": {"message": "no"}}), True),
        (200, json.dumps({"error": {"message": "no"}}), False),
        (500, json.dumps({"error": {"message": "no"}}), False),
        (400, json.dumps({"error": {"message": "no\nyes"}}), False),
        (400, json.dumps({"error": {"message": "Traceback (most recent call last)"}}), False),
        (400, "no", False),
        (400, "[]", False),
        (0, "", False),
    ],
)
def test_what_counts_as_a_refusal(status: int, content: str, want: bool) -> None:
    assert is_refused(Reply(status, content, 0.0))[0] == want


def test_a_server_that_reads_marks_as_marks_is_seen() -> None:
    class Naive(Client):
        """Counts a mark as one token, and ends texts at it."""

        def post(self, path: str, body: object) -> Reply:
            assert isinstance(body, dict)
            if "choice" in body:
                return Reply(200, json.dumps({"choices": [{"text": body["choice"][0].split("<s>")[0]}]}), 0.0)
            text = body["messages"][0]["content"]
            return Reply(200, json.dumps({"usage": {"prompt_tokens": len(text.replace("<s>", "#"))}}), 0.0)

    def wrap(text: str) -> dict[str, object]:
        return {"messages": [{"role": "user", "content": text}]}

    assert stays_text(CHAT, wrap, "<s>")(Naive("")) == (False, "4 marks took 4 tokens")
    assert stays_text(CHAT, wrap, "<x>")(Naive(""))[0]
    assert not keeps_to("a<s>b")(Naive(""))[0]


def test_the_report_tells_what_did_not_hold(server: Served) -> None:
    found = probe_server(Client(server.url), ["numbers"], quiet)
    broken = [type(found[0])(found[0].probe, held=False, seen="status 200", seconds=0.1), *found[1:]]
    report = server_report(broken, server.url, "factorlm redteam", 1.0)
    assert report.measures["held"]["numbers"].value == len(found) - 1
    assert [s.title for s in report.sections] == ["Attempts", "Holes"]
    assert [s.title for s in server_report(found, server.url, "", 1.0).sections] == ["Attempts"]


def test_what_is_no_server_is_told_in_one_line(server: Served) -> None:
    with pytest.raises(InputError, match="the address of a server"):
        probe_server(Client("localhost"), [], quiet)
    with pytest.raises(InputError, match="got status none"):
        probe_server(Client("http://127.0.0.1:9"), [], quiet)
    with pytest.raises(UnknownNameError, match="names"):
        probe_server(Client(server.url), ["nmes"], quiet)
