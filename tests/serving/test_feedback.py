"""Feedback over HTTP: what is taken, what is refused, and pages of it."""

import json
from typing import Any

import pytest

from .conftest import Served

BODY = {"response_id": "cmpl-1", "prompt": "The food was", "text": " bad.", "thumb": "down"}


def test_everything_that_is_said_is_kept(server: Served) -> None:
    setting = {"factors": {"kind": 0.2}, "temperature": 0.7, "stop": ["\n"]}
    body = {**BODY, "choice": 1, "edit": " göod.", "comment": "too rude", "setting": setting, "model": "tiny"}
    assert server.client.post("/v1/feedback", json=body).json() == {"id": 1}
    [found] = server.client.get("/v1/feedback").json()["data"]
    assert found.pop("created")
    assert found == {**body, "id": 1}


@pytest.mark.parametrize(
    "said", [{"thumb": "up"}, {"thumb": None, "edit": "x"}, {"thumb": None, "comment": "x"}, {"text": "", "prompt": ""}]
)
def test_a_thumb_an_edit_or_words_are_enough(server: Served, said: dict[str, Any]) -> None:
    assert server.client.post("/v1/feedback", json={**BODY, **said}).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe",
        b'{"prompt": "\\ud83d", "text": "", "thumb": "up"}',
        b'{"prompt": "a", "text": "b", "thumb": "up", "setting": {"a": NaN}}',
        b'{"prompt": "a", "text": "b", "thumb": "up", "setting": {"a": 1e999}}',
        b'{"prompt": "a", "text": "b", "thumb": "up", "setting": ' + b'{"a":' * 5000 + b"1" + b"}" * 5001,
        json.dumps({**BODY, "thumb": None}).encode(),
        json.dumps({**BODY, "thumb": "sideways"}).encode(),
        json.dumps({**BODY, "thumb": True}).encode(),
        json.dumps({**BODY, "text": 1}).encode(),
        json.dumps({**BODY, "text": "x" * 200_000}).encode(),
        json.dumps({**BODY, "setting": {"a": "x" * 70_000}}).encode(),
        json.dumps({**BODY, "setting": []}).encode(),
        json.dumps({**BODY, "choice": -1}).encode(),
        json.dumps({**BODY, "choice": 2**70}).encode(),
        json.dumps({**BODY, "tenant": "bob"}).encode(),
        json.dumps({"thumb": "up"}).encode(),
    ],
)
def test_what_cannot_be_kept(server: Served, body: bytes) -> None:
    answer = server.client.post("/v1/feedback", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 400, answer.text
    assert len(answer.json()["error"]["message"].splitlines()) == 1
    assert server.database.count_feedback() == 0


def test_pages(server: Served) -> None:
    for number in range(5):
        server.client.post("/v1/feedback", json={**BODY, "prompt": str(number)})
    seen: list[str] = []
    after: int | None = 0
    while after is not None:
        page = server.client.get("/v1/feedback", params={"after": after, "limit": 2}).json()
        seen += [one["prompt"] for one in page["data"]]
        after = page["after"]
    assert seen == list("01234")
    for params in ({"limit": 0}, {"limit": 10**6}, {"after": -1}, {"after": 2**63}, {"after": "x"}):
        assert server.client.get("/v1/feedback", params=params).status_code == 400


def test_deletion(server: Served) -> None:
    for _ in range(3):
        server.client.post("/v1/feedback", json=BODY)
    assert server.client.delete("/v1/feedback", params={"ids": [1, 3, 99]}).json() == {"deleted": 2}
    assert [one["id"] for one in server.client.get("/v1/feedback").json()["data"]] == [2]
    for params in ({}, {"ids": "x"}, {"ids": 0}, {"ids": 2**63}):
        assert server.client.delete("/v1/feedback", params=params).status_code == 400
