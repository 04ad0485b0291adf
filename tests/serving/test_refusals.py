"""What cannot be used is refused with one line in OpenAI's shape, whatever came."""

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from factorlm.factors.manifest import LexiconSettings, Manifest
from factorlm.factors.store import Store
from factorlm.serving.bodies import is_near

from .conftest import Limits, Serve, Served

FINE = {"prompt": "a", "max_tokens": 1}
SCHEMA = {"type": "json_schema", "json_schema": {"schema": {"type": "nope"}}}
BODIES = [  # what is added to a body that can be used, the field that is named, a word of the message
    ({"prompt": ""}, "prompt", "at least 1 character"),
    ({"prompt": []}, "prompt", "at least 1 item"),
    ({"prompt": ["a", ""]}, "prompt", "prompt.1"),
    ({"prompt": [1, 2]}, "prompt", "string"),
    ({"prompt": ["a"] * 17}, "prompt", "at most 16"),
    ({"prompt": "a" * 300}, "prompt", "at most 256 tokens"),
    ({"max_token": 3}, "max_token", "not known"),
    ({"n": 0}, "n", "greater"),
    ({"n": 17}, "n", "at most 16"),
    ({"n": 10**30}, "n", "at most 16"),
    ({"n": 1.5}, "n", "integer"),
    ({"prompt": ["a"] * 5, "n": 7}, "n", "at most 32"),
    ({"max_tokens": 0}, "max_tokens", "greater"),
    ({"max_tokens": 10**9}, "max_tokens", "at most 2048"),
    ({"max_tokens": 300}, "max_tokens", "at most 256 tokens"),
    ({"temperature": -1}, "temperature", "greater"),
    ({"temperature": "1"}, "temperature", "number"),
    ({"temperature": True}, "temperature", "number"),
    ({"top_p": 0}, "top_p", "greater"),
    ({"seed": 2**63}, "seed", "less"),
    ({"stop": ""}, "stop", "at least 1 character"),
    ({"stop": ["a"] * 5}, "stop", "at most 4"),
    ({"stop": "x" * 300}, "stop", "at most 256"),
    ({"logprobs": 21}, "logprobs", "less"),
    ({"echo": True}, "echo", "not honoured"),
    ({"suffix": "b"}, "suffix", "not honoured"),
    ({"best_of": 2}, None, "best_of"),
    ({"presence_penalty": 0.5}, "presence_penalty", "not honoured"),
    ({"frequency_penalty": -0.5}, "frequency_penalty", "not honoured"),
    ({"logit_bias": {"5": 1}}, "logit_bias", "not honoured"),
    ({"factors": {"nope": 0.2}}, "factors", "no factor named 'nope'"),
    ({"factors": {"../toxic": 0.2}}, "factors", "a name"),
    ({"factors": {"/etc/passwd": 0.2}}, "factors", "a name"),
    ({"factors": {"kind\n": 0.2}}, "factors", "a name"),
    ({"factors": {".versions": 0.2}}, "factors", "a name"),
    ({"factors": {"kind": "x"}}, "factors", "number"),
    ({"factors": {"kind": True}}, "factors", "number"),
    ({"factors": {"kind": None}}, "factors", "number"),
    ({"factors": {"kind": {"strength": 1, "exponent": 2}}}, "factors", "not known"),
    ({"factors": {"kind": {"exponent": 1e9}}}, "factors", "less than or equal to 1000"),
    ({"factors": {"kind": 500}}, "factors", "less than or equal to 100"),
    ({"factors": {f"f{number}": 0.1 for number in range(65)}}, "factors", "at most 64"),
    ({"factors": {"ban": 0.2}}, "factors", "no strength"),
    ({"factors": {"positive": {"exponent": 1}}}, None, "needs the encoder"),
    ({"guides": {"../x": 3}}, "guides", "a name"),
    ({"guides": {"positive": 3}}, None, "meanings"),
    ({"prior": "nope"}, "prior", "no prior named"),
    ({"prior": "../x"}, "prior", "pattern"),
    ({"prior": {"name": "nope", "mode": "x"}}, "prior", "blend"),
    ({"memory": {"nope": 0.1}}, "memory", "no memory named"),
    ({"memory": {"nope": 2}}, "memory", "from 0 to 1"),
    ({"memory": {"/etc": 0.1}}, "memory", "a name"),
    ({"regex": "("}, None, "regular expression"),
    ({"grammar": "nope"}, None, "grammar"),
    ({"choice": []}, "choice", "at least 1"),
    ({"choice": ["a"] * 300}, "choice", "at most 256"),
    ({"regex": "a" * 70000}, "regex", "at most 65536"),
    ({"regex": "a", "choice": ["b"]}, None, "one language"),
    ({"response_format": SCHEMA}, None, "JSON schema"),
    ({"response_format": {"type": "json_schema"}}, "response_format", "is needed"),
    ({"response_format": {"type": "xml"}}, "response_format", "json_object"),
    ({"sampler": {"kind": "smc", "particles": 10**6}}, "sampler", "at most 256"),
    ({"sampler": {"kind": "smc", "particles": 200}, "n": 2}, "sampler", "at most 256"),
    ({"sampler": {"kind": "x"}}, "sampler", "metropolis"),
    ({"sampler": {"topk": 3}}, "sampler", "not known"),
]
CHATS = [
    ({"messages": []}, "messages", "at least 1"),
    ({"messages": "a"}, "messages", "list"),
    ({"messages": [{"role": "tool", "content": "a"}]}, "messages", "assistant"),
    ({"messages": [{"role": "user", "content": ""}]}, "messages", "at least 1"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages", "text"),
    ({"tools": [{"type": "function"}]}, "tools", "not honoured"),
    ({"tool_choice": "auto"}, "tool_choice", "none"),
    ({"top_logprobs": 2}, None, "top_logprobs"),
    ({"max_tokens": 2, "max_completion_tokens": 3}, None, "leave one out"),
]
RAW = [
    b"",
    b"[]",
    b"null",
    b'{"prompt": "a"',
    b'{"prompt": NaN}',
    b'{"prompt": "a", "temperature": Infinity}',
    b'{"prompt": "a", "temperature": 1e999}',
    b'{"prompt": "a", "factors": {"kind": -1e999}}',
    b'{"prompt": "a", "response_format": {"type": "json_schema", "json_schema": {"schema": {"minimum": 1e999}}}}',
    b'{"prompt": "\\ud800"}',
    b'{"prompt": "\xff"}',
    b"\xff\xfe{\x00}\x00",
    b"[" * 100_000,
]


def complaint(response: httpx.Response, status: int = 400) -> dict:
    """The error in an answer, which has the shape that clients read, and one line."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(response.json()) == {"error"}
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"]
    assert "\n" not in error["message"]
    return error


@pytest.fixture
def shelf(store: Store, words: Path) -> None:
    """A factor with strengths and one without."""
    store.save(Manifest(name="ban", settings=LexiconSettings(phrases={"bad": None})))


@pytest.mark.parametrize("stream", [False, True])
def test_bodies_that_cannot_be_used_are_refused_by_name(shelf: None, server: Served, stream: bool) -> None:
    wrong = []
    for added, param, word in BODIES:
        error = complaint(server.client.post("/v1/completions", json={**FINE, "stream": stream, **added}))
        if error["param"] != param or word not in error["message"]:
            wrong.append((added, error))
    assert wrong == []
    assert server.client.post("/v1/completions", json=FINE).status_code == 200


def test_options_of_streams_are_for_streams(server: Served) -> None:
    error = complaint(server.client.post("/v1/completions", json={**FINE, "stream_options": {"include_usage": True}}))
    assert "stream_options" in error["message"]


def test_chats_that_cannot_be_used_are_refused_by_name(server: Served) -> None:
    fine = {"messages": [{"role": "user", "content": "a"}]}
    for added, param, word in CHATS:
        error = complaint(server.client.post("/v1/chat/completions", json={**fine, **added}))
        assert (error["param"], word in error["message"]) == (param, True), (added, error)


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/chat/completions", "/v1/score", "/v1/feedback"])
def test_what_is_no_json_is_refused_everywhere(server: Served, path: str) -> None:
    for raw in RAW:
        complaint(server.client.post(path, content=raw, headers={"Content-Type": "application/json"}))
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        complaint(server.client.post(path, content=json.dumps(FINE), headers={"Content-Type": kind} if kind else {}))


def test_scores_are_refused_by_name(server: Served) -> None:
    for body, param in [
        ({"texts": []}, "texts"),
        ({"texts": [""]}, "texts"),
        ({"texts": ["a"] * 257}, "texts"),
        ({"texts": ["a" * 300]}, None),
        ({"texts": ["a"], "n": 2}, "n"),
        ({"texts": ["a"], "factors": {"nope": 1}}, "factors"),
    ]:
        assert complaint(server.client.post("/v1/score", json=body))["param"] == param


def test_large_bodies_are_not_read(serve: Serve) -> None:
    server = serve(limits=Limits(body_bytes=1000))
    error = complaint(server.client.post("/v1/completions", json={**FINE, "prompt": "a" * 2000}), 413)
    assert "1,000 bytes" in error["message"]

    def pieces() -> Iterator[bytes]:
        for _ in range(100):
            yield b" " * 100

    for kind in ("application/json", "text/plain"):  # no Content-Length tells how much will come
        complaint(server.client.post("/v1/completions", content=pieces(), headers={"Content-Type": kind}), 413)
    assert server.client.post("/v1/completions", json=FINE).status_code == 200


def test_unknown_paths_and_methods_are_refused_in_the_same_shape(server: Served) -> None:
    complaint(server.client.get("/nope"), 404)
    complaint(server.client.get("/v1/models/../../etc/passwd"), 404)
    complaint(server.client.get("/v1/models/%2e%2e%2fetc%00"), 404)
    for method, path, allowed in [
        ("GET", "/v1/completions", "POST"),
        ("PUT", "/v1/feedback", "DELETE, GET, POST"),
        ("POST", "/v1/factors/kind", "DELETE, GET, PUT"),
        ("PATCH", "/v1/factors/train", "POST"),
    ]:
        response = server.client.request(method, path)
        error = complaint(response, 405)
        assert (response.headers["allow"], error["type"]) == (allowed, "invalid_request_error")


def test_a_key_and_its_scope_are_needed_once_there_are_keys(server: Served) -> None:
    reading = server.database.create_key("r", "ann", ["read"])
    writing = server.database.create_key("w", "ann", ["generate"])
    asks = {"read": ("GET", "/v1/models", None), "generate": ("POST", "/v1/completions", FINE)}
    for scope, (method, path, body) in asks.items():
        for key, status in [("", 401), ("flm_nope", 401), (reading, 200 if scope == "read" else 403), (writing, 200)]:
            headers = {"Authorization": f"Bearer {key}"} if key else {}
            response = server.client.request(method, path, json=body, headers=headers)
            assert response.status_code == status
            if status != 200:
                complaint(response, status)
    assert server.client.get("/healthz").status_code == 200


def test_without_keys_a_page_of_somebody_elses_name_is_refused(server: Served) -> None:
    complaint(server.client.post("/v1/completions", json=FINE, headers={"Host": "evil.example:8000"}), 401)
    assert server.client.post("/v1/completions", json=FINE, headers={"Host": "localhost:8000"}).status_code == 200


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True), ("localhost:80", True), ("127.0.0.1:8000", True), ("[::1]:8000", True), ("[::1]", True),
        ("127.9.9.9", True), ("desk", True), ("desk.localhost:1", True), ("evil.example", False),
        ("10.0.0.1:8000", False), ("127.0.0.1.evil.example", False), ("localhost.evil.example:80", False),
    ],
)  # fmt: skip
def test_names_of_this_machine(host: str, expected: bool) -> None:
    assert is_near(host) == expected


def test_errors_do_not_tell_where_things_are(serve: Serve, tmp_path: Path, store: Store, words: Path) -> None:
    """A memory and a factor that are broken: their names are told, and not their folders."""
    folder = tmp_path / "secret"
    folder.mkdir()
    (folder / "index.json").write_text("{}")
    server = serve(memories={"notes": folder})
    (store.folder / "kind/factor.json").write_text("{}")
    for body in ({"memory": {"notes": 0.1}}, {"factors": {"kind": {"exponent": 1}}}):
        for stream in (False, True):
            error = complaint(server.client.post("/v1/completions", json={**FINE, **body, "stream": stream}))
            assert str(tmp_path) not in error["message"]
            assert next(iter(next(iter(body.values())))) in error["message"]


def test_a_model_without_a_chat_template_says_so(serve: Serve, tiny_lm: object) -> None:
    from factorlm.inference import Model

    server = serve(served=Model(tiny_lm, tiny_lm))  # type: ignore[arg-type]
    error = complaint(server.client.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "a"}]}))
    assert (error["param"], "chat template" in error["message"]) == ("messages", True)
