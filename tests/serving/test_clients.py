"""Clients that others wrote: curl, simonw's llm, and OpenAI's on the real model."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from factorlm.inference import Model
from factorlm.serving.settings import ServerSettings

from .conftest import Served, started

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["name", "age"],
    "additionalProperties": False,
}


def curl(*words: str) -> str:
    return subprocess.run(
        ["curl", "-sS", "--max-time", "60", *words], capture_output=True, text=True, check=True
    ).stdout


def test_curl_gets_texts_and_streams(server: Served) -> None:
    body = json.dumps({"prompt": "the good", "max_tokens": 6, "seed": 1})
    asked = ("-H", "Content-Type: application/json", "-d")
    whole = json.loads(curl(f"{server.url}/v1/completions", *asked, body))["choices"][0]["text"]
    lines = curl("-N", f"{server.url}/v1/completions", *asked, body[:-1] + ', "stream": true}').split("\n\n")
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    assert "".join(chunk["choices"][0]["text"] for chunk in chunks) == whole != ""
    assert json.loads(curl(f"{server.url}/healthz"))["status"] == "ok"
    refused = curl("-o", "/dev/null", "-w", "%{http_code}", f"{server.url}/v1/completions", *asked, "{")
    assert refused == "400"


@pytest.mark.parametrize("options", [(), ("--no-stream",)])
def test_llm_talks_to_a_model_in_its_list_of_extra_ones(
    server: Served, tmp_path: Path, options: tuple[str, ...]
) -> None:
    """As https://llm.datasette.io describes for OpenAI-compatible servers: extra-openai-models.yaml."""
    listed = f"- model_id: served\n  model_name: tiny\n  api_base: {server.url}/v1\n"
    (tmp_path / "extra-openai-models.yaml").write_text(listed)
    program = "import sys; from llm.cli import cli; cli()"
    words = ["-m", "served", "--key", "unused", "-o", "seed", "1", "-o", "max_tokens", "8", *options, "good tea"]
    answer = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, timeout=120,
        env={**os.environ, "LLM_USER_PATH": str(tmp_path)},
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    turn = {"role": "user", "content": "good tea"}
    body = {"messages": [turn], "seed": 1, "max_tokens": 8}
    want = server.client.post("/v1/chat/completions", json=body).json()["choices"][0]["message"]["content"]
    assert answer.stdout == want + "\n"


@pytest.fixture(scope="module")
def real(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    """A client of a server of the default model."""
    lm = model.lm.twin()
    with started(Model(lm, lm), "smollm2", ServerSettings(state=tmp_path_factory.mktemp("state"))) as server:
        yield openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0)


@pytest.mark.model
def test_json_of_a_schema_comes_from_the_real_model(real: openai.OpenAI) -> None:
    found = real.chat.completions.create(
        model="smollm2", messages=[{"role": "user", "content": "Who are you, and how old?"}], max_tokens=60, seed=1,
        response_format={"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA, "strict": True}},
    ).choices[0]  # fmt: skip
    person = json.loads(found.message.content or "")
    assert found.finish_reason == "stop"
    assert (set(person), type(person["name"]), type(person["age"])) == ({"name", "age"}, str, int)
    free = real.chat.completions.create(
        model="smollm2", messages=[{"role": "user", "content": "Say something as JSON."}], max_tokens=200, seed=1,
        response_format={"type": "json_object"}, extra_body={"regex": None},
    ).choices[0]  # fmt: skip
    assert free.message.content is not None
    assert free.message.content.startswith("{")


@pytest.mark.model
def test_factors_of_the_shelf_steer_the_real_model(real: openai.OpenAI, model: Model) -> None:
    asked = {"model": "smollm2", "prompt": "The food was", "max_tokens": 12, "seed": 2, "n": 2}
    found = real.completions.create(**asked, extra_body={"factors": {"positive": 0.4, "toxic": {"strength": -0.2}}})
    want = model.generate("The food was", n=2, max_tokens=12, seed=2, strengths={"positive": 0.4, "toxic": -0.2})
    assert [choice.text for choice in found.choices] == [response.text for response in want]
    told = found.choices[0].factorlm["factors"]
    assert told["positive"]["exponent"] == pytest.approx(want[0].exponents["positive"], rel=1e-6)
    plain = real.completions.create(**asked)
    assert [choice.text for choice in plain.choices] != [choice.text for choice in found.choices]
