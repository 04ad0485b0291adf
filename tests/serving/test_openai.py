"""What OpenAI's own client gets from the server is what the model writes."""

import math

import openai
import pytest

import factorlm as fl
from factorlm.factors import bind
from factorlm.inference import Model, Particles, Sampling
from factorlm.inference.strengths import strength_map
from factorlm.models import CausalLM

from .conftest import Limits, Serve, Served

ASKED = {"model": "tiny", "max_tokens": 8, "seed": 3}


@pytest.fixture
def client(server: Served) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0)


@pytest.fixture
def plain(chat_lm: CausalLM) -> Model:
    """The served model, read by nobody else."""
    lm = chat_lm.twin()
    return Model(lm, lm)


def texts(found: openai.types.Completion) -> list[str]:
    return [choice.text for choice in found.choices]


def test_a_completion_is_what_the_model_writes(client: openai.OpenAI, plain: Model) -> None:
    found = client.completions.create(prompt="the good", n=3, **ASKED)
    want = plain.generate("the good", n=3, max_tokens=8, seed=3)
    assert texts(found) == [response.text for response in want]
    assert [choice.finish_reason for choice in found.choices] == [
        "length" if response.finish_reason == "length" else "stop" for response in want
    ]
    for choice, response in zip(found.choices, want, strict=True):
        assert choice.factorlm["token_ids"] == list(response.token_ids)
        assert choice.factorlm["log_prob"] == pytest.approx(response.log_prob, abs=1e-3)
    num_read, num_drawn = len(plain.encode_prompt("the good", 0)), sum(len(response.token_ids) for response in want)
    assert (found.usage.prompt_tokens, found.usage.completion_tokens) == (num_read, num_drawn)
    assert found.usage.total_tokens == num_read + num_drawn


def test_several_prompts_come_in_order(client: openai.OpenAI, plain: Model) -> None:
    found = client.completions.create(prompt=["the good", "a bad tea"], n=2, **ASKED)
    want = plain.generate(["the good", "a bad tea"], n=2, max_tokens=8, seed=3)
    assert [choice.index for choice in found.choices] == [0, 1, 2, 3]
    assert texts(found) == [response.text for response in want]


def test_without_a_seed_texts_differ_and_say_how_to_write_them_again(client: openai.OpenAI) -> None:
    asked = {"model": "tiny", "prompt": "the good", "max_tokens": 16}
    first, second = (client.completions.create(**asked) for _ in range(2))
    # Two texts of 16 tokens from this model agree with a probability far below 1e-6.
    assert texts(first) != texts(second)
    again = client.completions.create(**asked, seed=first.choices[0].factorlm["seed"])
    assert texts(again) == texts(first)


def test_a_completion_that_does_not_say_how_long_has_sixteen_tokens(client: openai.OpenAI) -> None:
    found = client.completions.create(model="tiny", prompt="the", seed=1, extra_body={"regex": "[ab]{40}"})
    assert (found.usage.completion_tokens, found.choices[0].finish_reason) == (16, "length")


def test_sampling_is_as_asked(client: openai.OpenAI, plain: Model) -> None:
    found = client.completions.create(
        prompt="the good", temperature=0.5, top_p=0.9, extra_body={"sampler": {"top_k": 5, "min_p": 0.01}}, **ASKED
    )
    sampling = Sampling(temperature=0.5, top_p=0.9, top_k=5, min_p=0.01)
    assert texts(found) == [plain.generate("the good", max_tokens=8, seed=3, sampling=sampling)[0].text]


def test_a_text_ends_before_a_stop_string(client: openai.OpenAI, plain: Model) -> None:
    whole = plain.generate("the good", max_tokens=40, seed=3)[0].text
    stop = whole[5:7]
    found = client.completions.create(model="tiny", prompt="the good", max_tokens=40, seed=3, stop=[stop, "zzzzzz"])
    assert (texts(found), found.choices[0].finish_reason) == ([whole[: whole.index(stop)]], "stop")


def test_log_probabilities_are_those_of_the_composition(client: openai.OpenAI, plain: Model) -> None:
    asked = {"model": "tiny", "prompt": "the good", "max_tokens": 4, "temperature": 0}
    found = client.completions.create(**asked, logprobs=3).choices[0]
    told = found.logprobs
    want = plain.generate("the good", max_tokens=4, sampling=Sampling(temperature=0))[0]
    assert found.finish_reason == "length"  # so that there is no end token
    assert "".join(told.tokens) == found.text == want.text
    assert sum(told.token_logprobs) == pytest.approx(want.log_prob, abs=1e-3)
    for token, log_prob, top, offset in zip(
        told.tokens, told.token_logprobs, told.top_logprobs, told.text_offset, strict=True
    ):
        assert 1 <= len(top) <= 3
        assert found.text[offset:].startswith(token)
        assert log_prob == max(top.values())  # greedy takes the best
    nothing = client.completions.create(**asked).choices[0]
    only_tokens = client.completions.create(**asked, logprobs=0).choices[0]
    assert nothing.logprobs is None
    assert [len(top) for top in only_tokens.logprobs.top_logprobs] == [0] * len(only_tokens.logprobs.tokens)


def test_end_tokens_are_no_text_and_no_token_of_logprobs(client: openai.OpenAI) -> None:
    found = client.completions.create(prompt="the", logprobs=0, extra_body={"choice": ["good", "bad"]}, **ASKED)
    choice = found.choices[0]
    assert (choice.text in ("good", "bad"), choice.finish_reason) == (True, "stop")
    assert "".join(choice.logprobs.tokens) == choice.text
    assert len(choice.factorlm["token_ids"]) == len(choice.logprobs.tokens) + 1 == found.usage.completion_tokens


def test_a_chat_answers_the_last_message(client: openai.OpenAI, plain: Model) -> None:
    found = client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "good"}], max_tokens=8, seed=3, n=2
    )
    want = plain.generate("good", n=2, max_tokens=8, seed=3, chat=True)
    assert [choice.message.content for choice in found.choices] == [response.text for response in want]
    assert found.choices[0].message.role == "assistant"


def test_a_chat_reads_all_turns_and_both_names_of_the_limit(client: openai.OpenAI, plain: Model) -> None:
    turns = [
        {"role": "developer", "content": "tea"},
        {"role": "user", "content": [{"type": "text", "text": "the "}, {"type": "text", "text": "good"}]},
        {"role": "assistant", "content": "bad"},
        {"role": "user", "content": "in the"},
    ]
    found = client.chat.completions.create(model="tiny", messages=turns, max_completion_tokens=8, seed=3)
    written = "system: tea\nuser: the good\nassistant: bad\nuser: in the\nassistant:"
    prompt_ids = plain.lm.tokenizer(written, add_special_tokens=False).input_ids
    assert found.usage.prompt_tokens == len(prompt_ids)
    assert found.usage.completion_tokens <= 8


def test_a_chat_without_a_limit_writes_until_the_context_is_full(client: openai.OpenAI, plain: Model) -> None:
    found = client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "a"}], seed=1, extra_body={"regex": "[ab]{600}"}
    )
    assert found.usage.total_tokens == plain.lm.max_tokens
    assert found.choices[0].finish_reason == "length"


def test_a_chat_tells_log_probabilities_with_bytes(client: openai.OpenAI) -> None:
    found = client.chat.completions.create(
        model="tiny", messages=[{"role": "user", "content": "good"}], max_tokens=8, seed=3, logprobs=True,
        top_logprobs=2, temperature=0,
    ).choices[0]  # fmt: skip
    assert "".join(token.token for token in found.logprobs.content) == found.message.content
    for token in found.logprobs.content:
        assert token.bytes is None or bytes(token.bytes).decode() == token.token
        assert [top.logprob for top in token.top_logprobs] == sorted(
            (t.logprob for t in token.top_logprobs), reverse=True
        )
        assert token.top_logprobs[0].token == token.token


@pytest.mark.parametrize("asked", [{"exponent": 1.5}, {"strength": 0.2}, -0.2, 0])
def test_factors_are_composed_as_they_would_be_here(
    serve: Serve, plain: Model, words: object, asked: dict[str, float] | float
) -> None:
    client = openai.OpenAI(base_url=f"{serve().url}/v1", api_key="unused", max_retries=0)
    found = client.completions.create(prompt="the ", n=2, extra_body={"factors": {"kind": asked}}, **ASKED)
    bound = bind(fl.factor("kind"), plain.lm)
    strengths = strength_map(plain.lm, bound)
    strength = asked if not isinstance(asked, dict) else asked.get("strength")
    exponent = asked["exponent"] if isinstance(asked, dict) and strength is None else strengths.exponent(strength)
    want = (plain * bound**exponent).generate("the ", n=2, max_tokens=8, seed=3)
    assert texts(found) == [response.text for response in want]
    told = found.choices[0].factorlm["factors"]["kind"]
    assert told["exponent"] == pytest.approx(exponent, rel=1e-5)
    assert told["strength"] == strength  # of an exponent it is not known without measuring
    if exponent > 0:
        assert texts(found) != [response.text for response in plain.generate("the ", n=2, max_tokens=8, seed=3)]


def test_an_explanation_adds_up(serve: Serve, words: object) -> None:
    client = openai.OpenAI(base_url=f"{serve().url}/v1", api_key="unused", max_retries=0)
    body = {"factors": {"kind": {"exponent": 2}}, "explain": True}
    told = client.completions.create(prompt="the ", extra_body=body, **ASKED).choices[0].factorlm
    assert [token["token"] for token in told["attribution"]] == told["token_ids"]
    for token in told["attribution"]:
        pushed = token["base_log_prob"] + token["factors"]["kind"] - token["normalizer"]
        assert pushed == pytest.approx(token["log_prob"], abs=1e-3)
        assert set(token["without"]) == {"", "kind"} or set(token["without"]) == {"kind"}
        assert token["top"]
    assert sum(token["log_prob"] for token in told["attribution"]) == pytest.approx(told["log_prob"], abs=1e-4)
    assert sum(t["base_log_prob"] for t in told["attribution"]) == pytest.approx(told["base_log_prob"], abs=1e-4)


def test_particles_write_whole_texts_and_tell_of_themselves(client: openai.OpenAI, plain: Model) -> None:
    sampler = {"kind": "smc", "particles": 8, "resampling": "systematic", "ess": 0.7}
    body = {"sampler": sampler, "choice": ["the good", "the bad", "a"]}
    found = client.completions.create(prompt="the ", extra_body=body, **ASKED).choices[0]
    particles = Particles(number=8, scheme="systematic", threshold=0.7)
    composed = plain * fl.grammar(choices=["the good", "the bad", "a"])
    want = composed.generate("the ", max_tokens=8, seed=3, particles=particles)[0]
    assert found.text == want.text
    assert found.factorlm["log_prob"] == pytest.approx(want.log_prob, abs=1e-3)
    assert found.factorlm["particles"]["log_z"] == pytest.approx(want.population.log_z, abs=1e-3)
    for number in (0, 1):  # tokens of a text that was weighed as a whole have no distributions of their own
        with pytest.raises(openai.BadRequestError, match="logprobs"):
            client.completions.create(prompt="the ", logprobs=number, extra_body=body, **ASKED)


def test_the_model_says_what_can_be_asked_of_it(client: openai.OpenAI, plain: Model) -> None:
    [listed] = client.models.list().data
    assert listed == client.models.retrieve("tiny")
    assert (listed.id, listed.object, listed.owned_by) == ("tiny", "model", "factorlm")
    assert listed.factorlm["max_tokens"] == plain.lm.max_tokens
    assert listed.factorlm["limits"]["n"] == Limits().n
    with pytest.raises(openai.NotFoundError, match="no model named 'gpt-9'"):
        client.models.retrieve("gpt-9")
    with pytest.raises(openai.NotFoundError) as refused:
        client.completions.create(model="gpt-9", prompt="a")
    assert (refused.value.param, refused.value.code) == ("model", "model_not_found")


def test_texts_are_weighed(serve: Serve, plain: Model, words: object) -> None:
    server = serve()
    asked = {"texts": ["the good", "a bad tea"], "prompt": "in ", "factors": {"kind": {"exponent": 0}}}
    found = server.client.post("/v1/score", json=asked).json()
    want = plain.steered(exponents={"kind": 0.0}).score(asked["texts"], prompt="in ")
    for got, score in zip(found["data"], want, strict=True):
        assert got["text"] == score.text
        assert (got["num_tokens"], got["num_bytes"]) == (score.num_tokens, score.num_bytes)
        assert got["log_prob"] == pytest.approx(score.log_prob, abs=1e-3)
        assert got["base_log_prob"] == pytest.approx(score.base_log_prob, abs=1e-3)
        assert got["bits_per_byte"] == pytest.approx(-score.log_prob / math.log(2) / score.num_bytes, abs=1e-3)
        assert got["factors"] == {"kind": pytest.approx(score.log_ratios["kind"], abs=1e-3)}
    assert found["usage"]["completion_tokens"] == 0
