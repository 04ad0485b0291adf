"""Texts that are sent while they are written: what comes, and what happens when nobody waits, or too much is asked."""

import json
import threading
import time
from collections.abc import Callable

import httpx
import openai
import pytest

from factorlm.factors.manifest import LexiconSettings, Manifest
from factorlm.factors.store import Store
from factorlm.serving.rates import Rates

from .conftest import Limits, Serve, Served

ASKED = {"model": "tiny", "prompt": "the good", "max_tokens": 12, "seed": 3}
ENDLESS = {"prompt": "the", "max_tokens": 200, "regex": "[ab]{900}", "stream": True}
PATIENCE_S = 300


def events(response: httpx.Response) -> list[str]:
    """What each server-sent event carries."""
    return [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]


def objects(response: httpx.Response) -> list[dict]:
    *found, last = events(response)
    assert last == "[DONE]"
    return [json.loads(event) for event in found]


def until(is_so: Callable[[], bool]) -> None:
    """Wait for something that happens soon."""
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def num_rows(server: Served) -> float:
    load = server.client.get("/healthz").json()["load"]
    return load["rows_active"] + load["rows_waiting"] + load["jobs_whole"]


def test_a_stream_is_the_whole_text_in_pieces(server: Served) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0)
    whole = client.completions.create(**ASKED, n=2)
    chunks = list(client.completions.create(**ASKED, n=2, stream=True, stream_options={"include_usage": True}))
    *pieces, last = chunks
    for number, choice in enumerate(whole.choices):
        own = [chunk.choices[0] for chunk in pieces if chunk.choices[0].index == number]
        assert "".join(piece.text for piece in own) == choice.text
        assert [piece.finish_reason for piece in own] == [None] * (len(own) - 1) + [choice.finish_reason]
        assert len(own) > 2
        assert own[-1].factorlm["token_ids"] == choice.factorlm["token_ids"]
    assert (last.choices, last.usage) == ([], whole.usage)
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    assert {chunk.object for chunk in chunks} == {"text_completion"}


def test_a_stream_of_a_chat_says_first_who_speaks(server: Served) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0)
    asked = {"model": "tiny", "messages": [{"role": "user", "content": "good"}], "max_tokens": 12, "seed": 3}
    whole = client.chat.completions.create(**asked)
    first, *rest = list(client.chat.completions.create(**asked, stream=True))
    assert (first.choices[0].delta.role, first.choices[0].delta.content) == ("assistant", "")
    assert "".join(chunk.choices[0].delta.content or "" for chunk in rest) == whole.choices[0].message.content
    assert {chunk.choices[0].delta.role for chunk in rest} == {None}
    assert rest[-1].choices[0].finish_reason == whole.choices[0].finish_reason
    assert all(chunk.usage is None for chunk in rest)


def test_chunks_carry_log_probabilities_and_explanations(serve: Serve, words: object) -> None:
    server = serve()
    asked = {**ASKED, "logprobs": 2, "explain": True, "factors": {"kind": {"exponent": 1}}}
    [whole] = server.client.post("/v1/completions", json=asked).json()["choices"]
    chunks = [
        chunk["choices"][0] for chunk in objects(server.client.post("/v1/completions", json={**asked, "stream": True}))
    ]
    for name in whole["logprobs"]:
        assert [item for chunk in chunks for item in chunk["logprobs"][name]] == whole["logprobs"][name]
    assert [token for chunk in chunks for token in chunk["factorlm"]["tokens"]] == whole["factorlm"]["attribution"]
    assert chunks[-1]["factorlm"]["factors"] == whole["factorlm"]["factors"]


def test_a_stream_is_server_sent_events_that_nobody_keeps(server: Served) -> None:
    response = server.client.post("/v1/completions", json={**ASKED, "stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    assert response.headers["cache-control"] == "no-store"
    assert "content-length" not in response.headers
    assert events(response)[-1] == "[DONE]"


def test_a_complaint_before_the_first_token_has_its_status(serve: Serve, store: Store) -> None:
    """A ban of every token leaves nothing to draw."""
    letters = [*"abcdefghijklmnopqrstuvwxyz"]
    store.save(Manifest(name="mute", settings=LexiconSettings(phrases=dict.fromkeys(letters), whole_word=False)))
    server = serve()
    asked = {**ASKED, "factors": {"mute": {"exponent": 1}}, "regex": "[a-z]{5}"}
    for stream in (False, True):
        response = server.client.post("/v1/completions", json={**asked, "stream": stream})
        assert response.status_code == 400
        assert "impossible" in response.json()["error"]["message"]


def test_a_client_that_goes_frees_its_rows(serve: Serve) -> None:
    server = serve(limits=Limits(max_rows=1))  # so that all of it takes 3200 steps
    asked = {**ENDLESS, "prompt": [ENDLESS["prompt"]] * 16}
    with server.client.stream("POST", "/v1/completions", json=asked) as stream:
        lines = stream.iter_lines()
        next(lines)
        assert num_rows(server) > 0
    until(lambda: num_rows(server) == 0)
    assert server.engine.load()["tokens_drawn"] < 16 * 200  # it was not written to the end


def test_a_client_that_goes_before_its_whole_answer_frees_its_rows(serve: Serve) -> None:
    server = serve(limits=Limits(max_rows=1))
    asked = {**ENDLESS, "prompt": [ENDLESS["prompt"]] * 16, "stream": False}
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{server.url}/v1/completions", json=asked, timeout=httpx.Timeout(PATIENCE_S, read=0.3))
    until(lambda: num_rows(server) == 0)
    assert server.engine.load()["tokens_drawn"] < 16 * 200


def test_what_takes_too_long_is_dropped(serve: Serve) -> None:
    server = serve(limits=Limits(timeout_s=0.2))
    asked = {**ENDLESS, "n": 8}
    whole = server.client.post("/v1/completions", json={**asked, "stream": False})
    assert (whole.status_code, whole.json()["error"]["code"]) == (504, "timeout")
    stream = server.client.post("/v1/completions", json=asked)
    assert json.loads(events(stream)[-1])["error"]["code"] == "timeout"  # and no [DONE]
    until(lambda: num_rows(server) == 0)


def test_what_does_not_fit_into_the_queue_is_refused_with_a_time_to_come_back(serve: Serve) -> None:
    server = serve(limits=Limits(max_rows=1, queue=16))
    asked = {**ENDLESS, "prompt": [ENDLESS["prompt"]] * 16}
    with server.client.stream("POST", "/v1/completions", json=asked) as stream:
        lines = stream.iter_lines()
        next(lines)  # one text is being written, and others wait
        for is_stream in (False, True):
            refused = server.client.post("/v1/completions", json={**asked, "stream": is_stream})
            assert (refused.status_code, refused.json()["error"]["code"]) == (429, "overloaded")
            assert int(refused.headers["retry-after"]) >= 1
    until(lambda: num_rows(server) == 0)
    assert server.client.post("/v1/completions", json=ASKED).status_code == 200


def test_streams_side_by_side_are_those_that_come_alone(serve: Serve, words: object) -> None:
    server = serve()
    asked = [
        {**ASKED, "seed": seed, "factors": {"kind": {"exponent": seed / 4}}, "stream": seed % 2 == 0}
        for seed in range(8)
    ]
    alone = [server.client.post("/v1/completions", json={**body, "stream": False}).json() for body in asked]
    together: dict[int, str] = {}

    def ask(number: int) -> None:
        response = httpx.post(f"{server.url}/v1/completions", json=asked[number], timeout=PATIENCE_S)
        found = objects(response) if asked[number]["stream"] else [response.json()]
        together[number] = "".join(chunk["choices"][0]["text"] for chunk in found)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert [together[number] for number in range(8)] == [found["choices"][0]["text"] for found in alone]


def test_a_key_gets_back_what_it_did_not_use(serve: Serve) -> None:
    server = serve()
    server.app.state.rates = Rates(0, 60, clock=lambda: 0.0)  # time stands still, so nothing comes in again
    short = {"prompt": "the", "max_tokens": 20, "choice": ["a"]}  # 3 tokens read; an "a" and its end written
    for _ in range(5):  # 23 tokens each, if nothing were given back
        assert server.client.post("/v1/completions", json=short).status_code == 200
    long = {"prompt": "the", "max_tokens": 20, "regex": "[ab]{99}"}
    answers = [server.client.post("/v1/completions", json=long) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 429, 429]  # 35 were left, then 12
    assert int(answers[-1].headers["retry-after"]) >= 1


def test_numbers_for_prometheus_count_tokens(server: Served) -> None:
    found = server.client.post("/v1/completions", json=ASKED).json()["usage"]
    told = server.client.get("/metrics").text
    assert f'factorlm_tokens_total{{kind="prompt"}} {found["prompt_tokens"]:.1f}' in told
    assert f'factorlm_tokens_total{{kind="text"}} {found["completion_tokens"]:.1f}' in told
    assert "factorlm_time_to_first_token_seconds_count 1.0" in told
    assert 'factorlm_requests_total{method="POST",route="/v1/completions",status="200"} 1.0' in told
