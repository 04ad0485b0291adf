"""Factors over HTTP: lists, cards, edits and undoing, versions, deletion, training, pictures; each to its tenant."""

import json
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from factorlm.factors.head import EncoderCard
from factorlm.factors.manifest import Dose, HeadSettings, LexiconSettings, Manifest, PromptSettings, Response
from factorlm.factors.remotes.inspection import inspect
from factorlm.factors.store import MANIFEST, Store
from factorlm.factors.strength import StrengthMap
from factorlm.models import CausalLM
from factorlm.serving import training_routes
from factorlm.serving.workshop import MOST_WAITING, MOST_WAITING_OF_TENANT, Workshop

from .conftest import Served

POSITIVE = [f"the good {letter} is good and {letter}{letter} too" for letter in "abcdefghijklmnopqrst"]
NEGATIVE = [f"the bad {letter} is bad, {letter} {letter} he is in it" for letter in "abcdefghijklmnopqrst"]
DOSES = (
    Dose(strength=0.0, rate=0.2, rate_error=0.01, perplexity_ratio=1.0, distinct=0.9),
    Dose(strength=0.2, rate=0.7, rate_error=0.01, perplexity_ratio=1.2, distinct=0.9),
)


@pytest.fixture
def head(store: Store, chat_lm: CausalLM) -> Manifest:
    """A head in the server's store."""
    generator = torch.Generator().manual_seed(3)
    encoder = EncoderCard(name="tiny", fingerprint=chat_lm.fingerprint, width=chat_lm.width)
    card = Manifest(
        name="mild",
        label="mild words",
        settings=HeadSettings(rank=0),
        encoder=encoder,
        strengths=StrengthMap(points=((-0.5, -2.0), (0.0, 0.0), (0.6, 2.5))),
        response=Response(judge="ours", accuracy=0.9, num_texts=100, num_tokens=20, doses=DOSES),
    )
    empty = torch.zeros(chat_lm.width, 0)
    bias_D = 0.5 * torch.randn(chat_lm.width, generator=generator)
    store.save(card, {"bias": bias_D, "up": empty, "down": empty.T.contiguous()})
    return card


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def own(server: Served, tenant: str = "local") -> Store:
    return Store(server.app.state.settings.store_folder(tenant))


def keyed(server: Served, tenant: str, scope: str = "admin") -> dict[str, str]:
    return {"Authorization": f"Bearer {server.database.create_key('x', tenant, [scope])}"}


def message(answer: httpx.Response, status: int) -> str:
    assert answer.status_code == status, answer.text
    text = answer.json()["error"]["message"]
    assert "\n" not in text
    return str(text)


def test_a_list_has_the_servers_factors(server: Served, head: Manifest, words: Path) -> None:
    listed = {line["name"]: line for line in server.client.get("/v1/factors").json()["data"]}
    mild = listed["mild"]
    assert mild["strengths"] == [-0.5, 0.6]
    assert [mild[key] for key in ("owner", "kind", "label", "fits", "has_response")] == [
        "server", "head", "mild words", True, True,
    ]  # fmt: skip
    assert [listed["kind"][key] for key in ("kind", "fits", "strengths")] == ["lexicon", True, None]
    assert not listed["toxic"]["fits"], "made for another model"


def test_a_card(server: Served, head: Manifest) -> None:
    card = server.client.get("/v1/factors/mild").json()
    assert (card.pop("owner"), card.pop("kind"), card.pop("files").keys()) == (
        "server",
        "head",
        {"weights.safetensors"},
    )
    wanted = json.loads(head.model_dump_json())
    assert card == {key: value for key, value in wanted.items() if key != "files"}
    found = message(server.client.get("/v1/factors/midl"), 404)
    assert "did you mean mild" in found


def test_dose_and_response(server: Served, head: Manifest, words: Path) -> None:
    found = server.client.get("/v1/factors/mild/response").json()
    assert [dose["rate"] for dose in found["response"]["doses"]] == [0.2, 0.7]
    assert found["strengths"] == [[-0.5, -2.0], [0.0, 0.0], [0.6, 2.5]]
    assert server.client.get("/v1/factors/kind/response").json() == {"name": "kind", "response": None, "strengths": []}


def test_correlations(server: Served, head: Manifest, words: Path, store: Store) -> None:
    store.save(Manifest(name="double", settings=LexiconSettings(phrases={"good": 6.0, "bad": -6.0})))
    found = server.client.get("/v1/factors/correlations", params={"names": "kind,double,mild"}).json()
    assert found["names"] == ["kind", "double", "mild"]
    matrix = found["correlation"]
    assert [matrix[i][i] for i in range(3)] == pytest.approx([1, 1, 1])
    assert matrix[0][1] == matrix[1][0] == pytest.approx(1)
    assert abs(matrix[0][2]) < 0.99
    assert found["deviation"][1] == pytest.approx(2 * found["deviation"][0])
    assert 1 < found["effective_number"] < 2.5
    assert any("kind and double push the same" in line for line in found["warnings"])


def test_a_factor_that_does_not_vary_has_no_correlation(server: Served, head: Manifest, store: Store) -> None:
    store.save(Manifest(name="ban", settings=LexiconSettings(phrases={"bad": None})))
    found = server.client.get("/v1/factors/correlations", params={"names": "ban,mild"}).json()
    assert found["correlation"][0] == [None, None]


def test_factors_that_are_not_compared(server: Served, head: Manifest, store: Store) -> None:
    store.save(Manifest(name="asked", settings=PromptSettings(instruction="be kind")))
    for names, status in (("mild", 400), ("mild,mild", 400), ("mild,asked", 400), ("mild,nobody", 404), ("", 400)):
        message(server.client.get("/v1/factors/correlations", params={"names": names}), status)
    message(server.client.get("/v1/factors/correlations", params={"names": ",".join(f"a{n}" for n in range(17))}), 400)
    assert "needs the encoder" in message(server.client.get("/v1/factors/correlations?names=mild,toxic"), 400)


def test_an_edit_of_the_servers_factor_is_a_copy_and_comes_undone(server: Served, head: Manifest, store: Store) -> None:
    before = files_of(store.folder)
    body = {"allow": ["good"], "forbid": ["bad"], "boost": {"the": 1.5}, "context": ["in the"]}
    answer = server.client.post("/v1/factors/mild/edit", json=body)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert (found["version_before"], found["version"], found["owner"]) == ("0.1.0", "0.2.0", "you")
    assert found["change"] == "allow 'good'; forbid 'bad'; boost 'the' to 1.5 nats"
    assert [(row["word"], row["context"]) for row in found["effect"]] == [(w, "in the") for w in ("good", "bad", "the")]
    assert [round(push["after"], 4) for push in found["pushes"]["bad"]] == [-4, -4]
    assert found["collateral"]["divergence"] > 0
    inspect(own(server).folder / "mild")
    assert server.client.get("/v1/factors/mild").json()["owner"] == "you"
    assert server.client.post("/v1/factors/mild/edit", json={"boost": {"in": -1.0}}).json()["version"] == "0.3.0"
    listed = server.client.get("/v1/factors/mild/versions").json()
    assert [(v["version"], v["is_current"]) for v in listed["versions"]] == [
        ("0.1.0", False), ("0.2.0", False), ("0.3.0", True),
    ]  # fmt: skip
    assert [change["version"] for change in listed["changes"]] == ["0.1.0", "0.2.0"]
    undone = [server.client.post("/v1/factors/mild/edit", json={"undo": True}).json() for _ in range(2)]
    assert [(u["version"], u["version_before"], u["undone"], u["owner"]) for u in undone] == [
        ("0.2.0", "0.3.0", True, "you"), ("0.1.0", "0.2.0", True, "server"),
    ]  # fmt: skip
    assert server.client.get("/v1/factors/mild").json()["owner"] == "server"
    message(server.client.post("/v1/factors/mild/edit", json={"undo": True}), 403)
    assert files_of(store.folder) == before, "what the server has stays as it is"


def test_a_lexicon_is_edited(server: Served, words: Path) -> None:
    found = server.client.post("/v1/factors/kind/edit", json={"forbid": ["ill"], "context": ["the"]}).json()
    assert found["effect"][0]["after"] == 0 < found["effect"][0]["before"]
    assert server.client.get("/v1/factors/kind").json()["settings"]["phrases"]["ill"] is None


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ({}, "a word to allow, forbid or boost"),
        ({"allow": ["x"], "undo": True}, "one or the other"),
        ({"allow": [" "]}, "visible character"),
        ({"allow": [""]}, "allow"),
        ({"allow": ["x"], "forbid": ["x"]}, "once"),
        ({"boost": {"x": "much"}}, "boost"),
        ({"allow": ["x"], "strength": 0}, "0.2 is clear"),
        ({"allow": ["x"], "strength": 1e9}, "strength"),
        ({"allow": ["x"] * 65}, "allow"),
        ({"allow": ["x" * 300]}, "allow"),
        ({"allow": ["x"], "context": ["the " * 400]}, "tokens"),
        ({"allow": ["x"], "replace": True}, "not known here"),
        ({"allow": "x"}, "allow"),
    ],
)
def test_edits_that_cannot_be(server: Served, head: Manifest, body: dict[str, Any], wanted: str) -> None:
    found = message(server.client.post("/v1/factors/mild/edit", json=body), 400)
    assert wanted in found
    assert str(server.app.state.settings.state) not in found
    assert not own(server).folder.exists() or files_of(own(server).folder) == {}


def test_a_boost_that_is_not_finite(server: Served, head: Manifest) -> None:
    kind = {"Content-Type": "application/json"}
    for number in ("NaN", "Infinity", "1e999"):
        content = '{"boost": {"x": ' + number + "}}"
        message(server.client.post("/v1/factors/mild/edit", content=content, headers=kind), 400)


def test_only_own_factors_are_deleted(server: Served, head: Manifest, words: Path) -> None:
    assert "server's own" in message(server.client.delete("/v1/factors/mild"), 403)
    server.client.post("/v1/factors/kind/edit", json={"forbid": ["ill"]})
    assert server.client.delete("/v1/factors/kind").json() == {"name": "kind", "deleted": True}
    assert files_of(own(server).folder) == {}
    assert server.client.get("/v1/factors/kind").json()["owner"] == "server"
    message(server.client.delete("/v1/factors/nobody"), 404)


def test_what_a_key_may_do_to_factors(server: Served, head: Manifest) -> None:
    reader, writer = (keyed(server, "ann", scope) for scope in ("read", "generate"))
    train = {"name": "new", "positive": POSITIVE, "negative": NEGATIVE}
    changes = [
        ("POST", "/v1/factors/mild/edit", {"allow": ["good"]}),
        ("PUT", "/v1/factors/mild", None),
        ("DELETE", "/v1/factors/mild", None),
        ("POST", "/v1/factors/train", train),
        ("GET", "/v1/factors/train/x", None),
    ]
    for headers in (reader, writer):
        for method, path, body in changes:
            message(server.client.request(method, path, json=body, headers=headers), 403)
        for path in ("", "/mild", "/mild/versions", "/mild/response"):
            assert server.client.get(f"/v1/factors{path}", headers=headers).status_code == 200
    message(server.client.get("/v1/factors/correlations?names=mild,toxic", headers=reader), 403)


def test_edits_stay_with_their_tenant(server: Served, head: Manifest) -> None:
    ann, bob = keyed(server, "ann"), keyed(server, "bob")
    assert server.client.post("/v1/factors/mild/edit", json={"allow": ["good"]}, headers=ann).status_code == 200
    assert server.client.get("/v1/factors/mild", headers=ann).json()["version"] == "0.2.0"
    assert server.client.get("/v1/factors/mild", headers=bob).json()["version"] == "0.1.0"
    message(server.client.post("/v1/factors/mild/edit", json={"undo": True}, headers=bob), 403)


def trained(server: Served, number: str, **headers: str) -> dict[str, Any]:
    """What became of a training, asked for again and again."""
    while True:
        found = server.client.get(f"/v1/factors/train/{number}", headers=headers).json()
        if found["state"] in ("done", "failed", "cancelled"):
            return dict(found)
        time.sleep(0.02)


def test_a_factor_is_trained(server: Served) -> None:
    body = {"name": "good", "positive": POSITIVE, "negative": NEGATIVE, "label": "it is good", "licence": "CC0-1.0"}
    answer = server.client.post("/v1/factors/train", json=body)
    assert answer.status_code == 202, answer.text
    assert answer.json()["object"] == "factor.training"
    end = trained(server, answer.json()["id"])
    assert (end["state"], end["message"], end["result"]["name"]) == ("done", "", "good")
    card = inspect(own(server).folder / "good")
    assert (card.label, card.licence, card.data.train[0].num_texts) == ("it is good", "CC0-1.0", 40)
    assert end["result"]["auc"] == card.calibration.dev_auc  # type: ignore[union-attr]
    asked = {"prompt": "the", "max_tokens": 3, "factors": {"good": 0.2}}
    assert server.client.post("/v1/completions", json=asked).status_code == 200


def test_progress_as_events(server: Served) -> None:
    body = {"name": "good", "positive": POSITIVE, "negative": NEGATIVE}
    number = server.client.post("/v1/factors/train", json=body).json()["id"]
    with server.client.stream("GET", f"/v1/factors/train/{number}", headers={"Accept": "text/event-stream"}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = [json.loads(line.removeprefix("data: ")) for line in answer.iter_lines() if line.startswith("data: ")]
    assert events[-1]["state"] == "done"
    assert all(event["id"] == number for event in events)
    with server.client.stream("GET", f"/v1/factors/train/{number}", headers={"Accept": "text/event-stream"}) as answer:
        assert sum(line.startswith("data: ") for line in answer.iter_lines()) == 1, "one that has ended tells its end"


def test_training_supersedes_only_if_asked_and_keeps_what_was(server: Served) -> None:
    body = {"name": "good", "positive": POSITIVE, "negative": NEGATIVE}
    assert trained(server, server.client.post("/v1/factors/train", json=body).json()["id"])["state"] == "done"
    before = (own(server).folder / "good" / MANIFEST).read_bytes()
    assert "another name" in message(server.client.post("/v1/factors/train", json=body), 400)
    again = {**body, "replace": True, "seed": 1, "label": "again"}
    assert trained(server, server.client.post("/v1/factors/train", json=again).json()["id"])["state"] == "done"
    [kept] = (own(server).folder / ".versions" / "good").iterdir()
    assert (kept / MANIFEST).read_bytes() == before
    assert server.client.get("/v1/factors/good").json()["label"] == "again"


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({"positive": POSITIVE[:5]}, "at least 10 different positive texts"),
        ({"negative": POSITIVE}, "at least 10 different"),
        ({"negative": []}, "negative"),
        ({"negative": [""] * 20}, "at least 10 different negative texts"),
        ({"positive": ["a" * 30_000]}, "positive"),
        ({"name": "../up"}, "name"),
        ({"name": "train"}, "another name"),
        ({"seed": -1}, "seed"),
        ({"rank": 4}, "not known here"),
        ({"positive": "text"}, "positive"),
    ],
)
def test_trainings_that_cannot_be(server: Served, changes: dict[str, Any], wanted: str) -> None:
    body = {"name": "good", "positive": POSITIVE, "negative": NEGATIVE, **changes}
    found = message(server.client.post("/v1/factors/train", json=body), 400)
    assert wanted in found
    assert str(server.app.state.settings.state) not in found
    assert not own(server).folder.exists() or files_of(own(server).folder) == {}


class Held:
    """Training that waits until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.has_begun, self.may_end = threading.Event(), threading.Event()
        monkeypatch.setattr(training_routes, "_trained", self.work)

    def work(self, lm: CausalLM, *rest: Any) -> dict[str, Any]:
        report = rest[-1]
        self.has_begun.set()
        while not self.may_end.wait(0.01):
            report("waiting", 1, 3)
        return {"name": "x"}


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch, server: Served) -> Held:
    return Held(monkeypatch)


def begin(server: Served, name: str, **headers: str) -> httpx.Response:
    body = {"name": name, "positive": POSITIVE, "negative": NEGATIVE}
    return server.client.post("/v1/factors/train", json=body, headers=headers)


def test_a_training_is_its_tenants(server: Served, held: Held) -> None:
    ann, bob = keyed(server, "ann"), keyed(server, "bob")
    number = begin(server, "a", **ann).json()["id"]
    message(server.client.get(f"/v1/factors/train/{number}", headers=bob), 404)
    message(server.client.delete(f"/v1/factors/train/{number}", headers=bob), 404)
    assert server.client.get(f"/v1/factors/train/{number}", headers=ann).status_code == 200
    held.may_end.set()
    assert trained(server, number, **ann)["state"] == "done"


def test_a_training_is_cancelled(server: Served, held: Held) -> None:
    running, waiting = (begin(server, name).json()["id"] for name in "ab")
    held.has_begun.wait(10)
    assert server.client.get(f"/v1/factors/train/{waiting}").json()["state"] == "waiting"
    for number in (waiting, running):
        server.client.delete(f"/v1/factors/train/{number}")
    assert [trained(server, number)["state"] for number in (running, waiting)] == ["cancelled", "cancelled"]


def test_too_much_work_is_refused_and_nothing_grows(server: Served, held: Held) -> None:
    numbers = [begin(server, name).json()["id"] for name in "abcdefgh"[:MOST_WAITING_OF_TENANT]]
    answer = begin(server, "more")
    assert "retry-after" in answer.headers
    assert "of yours have not ended" in message(answer, 429)
    workshop: Workshop = server.app.state.workshop
    others = [workshop.train(f"t{n}", "x", lambda lm, report: {}) for n in range(MOST_WAITING - len(numbers))]
    assert "are waiting" in message(begin(server, "x", **keyed(server, "eve")), 429)
    held.may_end.set()
    eve = keyed(server, "eve")
    while any(not training.has_ended for training in others):
        time.sleep(0.01)
    assert trained(server, begin(server, "x", **eve).json()["id"], **eve)["state"] == "done"


def test_what_fails_in_training_is_told_without_places(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*rest: Any) -> None:
        raise RuntimeError(f"secret {server.app.state.settings.state}")

    monkeypatch.setattr(training_routes, "_trained", fail)
    end = trained(server, begin(server, "a").json()["id"])
    assert (end["state"], end["message"]) == ("failed", "something went wrong in the server; its log has more")


def test_a_server_that_stops_stops_training(server: Served, held: Held) -> None:
    numbers = [begin(server, name).json()["id"] for name in "ab"]
    held.has_begun.wait(10)
    workshop: Workshop = server.app.state.workshop
    workshop.close()
    deadline = time.monotonic() + 20
    while any(not workshop.training("local", number).has_ended for number in numbers):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert "stopping" in message(begin(server, "c"), 429)
