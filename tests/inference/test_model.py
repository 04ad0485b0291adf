"""The façade: text in, text out, on the tiny model."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import factorlm as fl
from factorlm.algebra import Factor, LocalProduct, Mixture, pad_left, pad_right
from factorlm.errors import DeadEndError, InputError, UnknownNameError
from factorlm.factors.head import EncoderCard, Head
from factorlm.factors.manifest import HeadSettings, Manifest
from factorlm.factors.sequence import pattern_factor
from factorlm.factors.store import Store
from factorlm.factors.strength import StrengthMap
from factorlm.models import CausalLM

FLOAT32 = 1e-3  # nats of a whole text: some ten tokens in float32, summed in another order
PROMPTS = ["the good house", "a", "in the river and then"]
TEXTS = [" and a long way to the good old river.", "", " bad", " the joy of it"]
MakeHead = Callable[..., Head]


@pytest.fixture(scope="module")
def plain(tiny_lm: CausalLM) -> fl.Model:
    return fl.Model(tiny_lm, tiny_lm)


@pytest.fixture
def stored(tiny_lm: CausalLM, make_head: MakeHead, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Head:
    """A head of the user's own store, under the name "mine"."""
    monkeypatch.setenv("FACTORLM_STORE", str(tmp_path))
    head = make_head(3, 4)
    manifest = Manifest(
        name="mine",
        settings=HeadSettings(rank=3),
        encoder=EncoderCard(name="tiny", fingerprint=tiny_lm.fingerprint, width=tiny_lm.width),
        strengths=StrengthMap(points=((-1.0, -2.0), (0.0, 0.0), (1.0, 2.0))),
    )
    weights = head.weights
    Store(tmp_path).save(manifest, {"bias": weights.bias_D, "up": weights.up_DR, "down": weights.down_RD})
    return head


def log_prob(factor: Factor, lm: CausalLM, prompt: str, text: str) -> float:
    """The slow twin of a score."""
    prefix_BT = pad_left([[*lm.start_ids, *lm.encode_text(prompt)]])
    return float(LocalProduct(factor).score(prefix_BT, pad_right([lm.encode_text(text)])).sum())


def test_operators_make_the_algebras_products(plain: fl.Model, make_head: MakeHead, tiny_lm: CausalLM) -> None:
    a, b, lm = make_head(0, 1), make_head(3, 1), tiny_lm
    made: dict[str, tuple[fl.Model, Factor]] = {
        "*": (plain * a, lm * a),
        "* from the left": (a * plain, lm * a),
        "/": (plain / a, lm / a),
        "**": ((plain * a) ** 0.5, (lm * a) ** 0.5),
        "|": ((plain * a) | (plain * b), (lm * a) | (lm * b)),
        "&": ((plain * a) & (plain * b), (lm * a) & (lm * b)),
        "* of models": (plain * (plain * a) ** 0.5, lm * (lm * a) ** 0.5),
    }
    for name, (model, factor) in made.items():
        [score] = model.score(TEXTS[0], prompt="the")
        assert score.log_prob == pytest.approx(log_prob(factor, lm, "the", TEXTS[0]), abs=FLOAT32), name


def test_a_model_is_not_multiplied_by_a_number(plain: fl.Model) -> None:
    with pytest.raises(InputError, match="with a factor or a model, got float"):
        plain * 2.0  # type: ignore[operator]


def test_mixing_and_interpolating(plain: fl.Model, make_head: MakeHead, tiny_lm: CausalLM) -> None:
    a, b = plain * make_head(0, 1) ** 2.0, plain * make_head(0, 2) ** 2.0
    parts = [log_prob(m.factor, tiny_lm, "a", TEXTS[0]) for m in (a, b)]
    want = math.log(0.3 * math.exp(parts[0]) + 0.7 * math.exp(parts[1]))
    [mixed], [averaged] = (make([a, b], [0.3, 0.7]).score(TEXTS[0], prompt="a") for make in (fl.mix, fl.interpolate))
    assert mixed.log_prob == pytest.approx(want, abs=FLOAT32)
    assert abs(averaged.log_prob - mixed.log_prob) > 0.1, "the toy must tell them apart"
    assert fl.mix([a, b]).score("a")[0].log_prob == pytest.approx(fl.mix([a, b], [0.5, 0.5]).score("a")[0].log_prob)
    with pytest.raises(InputError, match="a mixture needs at least one model"):
        fl.mix([])
    with pytest.raises(InputError, match="weights must be non-negative and sum to 1"):
        fl.mix([a, b], [0.3, 0.3])
    assert isinstance(fl.mix([a]).factor.base, Mixture)  # type: ignore[attr-defined]


def test_exponents_for_each_row_equal_one_by_one(plain: fl.Model, stored: Head) -> None:
    exponents = [0.0, 2.0, -1.0]
    together = plain.generate(PROMPTS, exponents={"mine": exponents}, n=2, max_tokens=12, seed=5)
    alone = [
        r
        for prompt, a in zip(PROMPTS, exponents, strict=True)
        for r in plain.generate(prompt, exponents={"mine": a}, n=2, max_tokens=12, seed=5)
    ]
    assert [r.token_ids for r in together] == [r.token_ids for r in alone]
    assert [r.exponents["mine"] for r in together] == [0.0, 0.0, 2.0, 2.0, -1.0, -1.0]
    assert [r.log_prob for r in together] == pytest.approx([r.log_prob for r in alone], abs=FLOAT32)


def test_a_strength_is_an_exponent_by_the_stored_map(plain: fl.Model, stored: Head) -> None:
    by_strength = plain.steered(strengths={"mine": 1.0}).terms[1].exponent
    assert by_strength == pytest.approx(2.0)
    assert plain.steered(strengths={"mine": 0.0}).terms[1].exponent == 0.0
    by_row = plain.steered(strengths={"mine": [0.25, -1.0]}).terms[1].exponent
    assert torch.as_tensor(by_row).tolist() == pytest.approx([1.0, -2.0])


def test_a_factor_of_the_model_is_turned_not_added(plain: fl.Model, make_head: MakeHead) -> None:
    model = plain * make_head(0, name="own") ** 3.0
    turned = model.steered(exponents={"own": 0.5})
    assert [(t.name, t.exponent) for t in turned.terms[1:]] == [("own", 0.5)]


def test_what_cannot_be_steered(plain: fl.Model, stored: Head) -> None:
    with pytest.raises(InputError, match="a strength or an exponent is wanted for 'mine', got both"):
        plain.steered(strengths={"mine": 1.0}, exponents={"mine": 1.0})
    with pytest.raises(UnknownNameError, match="did you mean mine"):
        plain.steered(exponents={"mime": 1.0})
    with pytest.raises(InputError, match="one for each of 3 texts, is needed, got 2"):
        plain.generate(PROMPTS, exponents={"mine": [1.0, 2.0]})
    with pytest.raises(InputError, match="finite"):
        plain.generate("a", exponents={"mine": math.nan})
    with pytest.raises(InputError, match="finite"):
        plain.generate("a", strengths={"mine": math.inf})


def test_scores_keep_the_order_and_equal_one_by_one(plain: fl.Model, stored: Head) -> None:
    exponents = [1.0, 0.0, -1.0, 2.0]
    together = plain.score(TEXTS, prompt="so", exponents={"mine": exponents})
    assert [score.text for score in together] == TEXTS
    for text, exponent, score in zip(TEXTS, exponents, together, strict=True):
        [alone] = plain.score(text, prompt="so", exponents={"mine": exponent})
        want = log_prob(plain.factor * stored**exponent, plain.lm, "so", text)
        assert score.log_prob == pytest.approx(alone.log_prob, abs=FLOAT32) == pytest.approx(want, abs=FLOAT32)
        assert score.base_log_prob == pytest.approx(log_prob(plain.factor, plain.lm, "so", text), abs=FLOAT32)
        assert score.log_ratios["mine"] == pytest.approx(alone.log_ratios["mine"], abs=FLOAT32)
        assert score.num_bytes == len(text)
        assert score.num_tokens == len(plain.lm.encode_text(text))
    assert math.isnan(together[1].bits_per_byte)
    assert together[2].bits_per_byte == pytest.approx(-together[2].log_prob / math.log(2) / 4)


def test_scores_of_a_model_steered_by_row_keep_their_rows(plain: fl.Model, stored: Head) -> None:
    exponents = [1.0, 0.0, -1.0, 2.0]
    want = plain.score(TEXTS, exponents={"mine": exponents})
    got = plain.steered(exponents={"mine": exponents}).score(TEXTS)
    assert [s.log_prob for s in got] == pytest.approx([s.log_prob for s in want], abs=FLOAT32)


def test_steering_keeps_two_factors_of_one_name(plain: fl.Model, stored: Head) -> None:
    model = plain * fl.lexicon({"good": 1.0}) * fl.lexicon({"bad": -1.0})
    assert len(model.steered(exponents={"mine": 1.0}).terms) == 4


def test_texts_repeat_by_seed_and_differ_by_sample(plain: fl.Model) -> None:
    first, again = (plain.generate("the", n=6, max_tokens=15, seed=1) for _ in range(2))
    other = plain.generate("the", n=6, max_tokens=15, seed=2)
    assert [r.token_ids for r in first] == [r.token_ids for r in again]
    assert all(a.token_ids != b.token_ids for a, b in zip(first, other, strict=True))
    assert len({r.token_ids for r in first}) > 3, "samples differ, but for short texts"
    fewer = plain.generate("the", n=2, max_tokens=15, seed=1)
    assert [r.token_ids for r in fewer] == [r.token_ids for r in first[:2]]


def test_a_response_says_what_was_drawn(plain: fl.Model, make_head: MakeHead) -> None:
    model = plain * make_head(0, name="own")
    for r in model.generate(PROMPTS, max_tokens=20, explain=True):
        assert r.text == model.lm.vocabulary.decode(r.token_ids).decode(errors="replace")
        assert r.finish_reason == ("end" if r.token_ids[-1] == 1 else "length")
        assert r.explanation is not None
        assert math.fsum(r.explanation.log_probs) == pytest.approx(r.log_prob, abs=FLOAT32)
        assert math.fsum(r.explanation.base_log_probs) == pytest.approx(r.base_log_prob, abs=FLOAT32)


def test_a_stream_says_the_same(plain: fl.Model) -> None:
    stream = plain.stream(PROMPTS, max_tokens=10, seed=4)
    written = ["", "", ""]
    for chunk in stream:
        written[chunk.row] += chunk.text
    assert written == [r.text for r in stream.responses()]
    assert written == [r.text for r in plain.generate(PROMPTS, max_tokens=10, seed=4)]


def test_no_tokens_and_no_prompts_are_no_mistake(plain: fl.Model) -> None:
    [response] = plain.generate("a", max_tokens=0, explain=True)
    assert (response.text, response.log_prob, response.explanation) == ("", 0.0, None)
    assert plain.generate([]) == []
    assert plain.score([]) == []


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        ({"prompts": ""}, "at least one character"),
        ({"prompts": ["a", ""]}, "at least one character"),
        ({"prompts": "a", "max_tokens": 255}, "at most 256 tokens, got 257"),
        ({"prompts": "a" * 300}, "at most 256 tokens"),
        ({"prompts": "a", "n": 0}, "n is at least 1"),
        ({"prompts": "a", "max_tokens": -1}, "max_tokens at least 0"),
        ({"prompts": "a", "chat": True}, "no chat template"),
    ],
)
def test_what_cannot_be_generated(plain: fl.Model, ask: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        plain.generate(**ask)


def test_what_cannot_be_scored_or_explained(plain: fl.Model) -> None:
    with pytest.raises(InputError, match="at most 256 tokens"):
        plain.score("a" * 300)
    with pytest.raises(InputError, match="text to explain is needed"):
        plain.explain("a", "")


def test_particles_answer_with_what_was_drawn(plain: fl.Model, make_head: MakeHead) -> None:
    steered = plain * make_head(3) ** 1.5
    settings = fl.Particles(number=6, threshold=1.0)
    found = steered.generate(PROMPTS, n=2, max_tokens=8, seed=3, particles=settings, explain=True)
    assert [r.prompt for r in found] == [p for p in PROMPTS for _ in range(2)]
    for response in found:
        population = response.population
        assert population is not None
        chosen = population.drawn()
        assert response.token_ids == population.token_ids[chosen]
        assert response.text == population.texts[chosen]
        assert response.log_prob == population.log_weights[chosen] - population.log_z
        assert response.explanation is not None
        assert response.base_log_prob == pytest.approx(
            math.fsum(t["base_log_prob"] for t in response.explanation.as_json()), abs=FLOAT32
        )
        assert len(population.effective_sizes) <= 9
    [alone] = steered.generate(PROMPTS[2], max_tokens=8, seed=3, particles=settings)
    assert alone.token_ids == found[4].token_ids  # whatever else is written


def test_a_text_that_no_particle_finds_is_refused(plain: fl.Model) -> None:
    never = pattern_factor("never", "no such text", plain.lm.vocabulary)
    with pytest.raises(DeadEndError, match="4 particles"):
        (plain * never).generate("a", max_tokens=3, particles=fl.Particles(number=4))


def test_guesses_change_no_text(plain: fl.Model, make_head: MakeHead) -> None:
    steered = plain * make_head(3) ** 1.5
    want = steered.generate(PROMPTS, n=2, max_tokens=12, seed=3)
    got = steered.generate(PROMPTS, n=2, max_tokens=12, seed=3, draft=fl.PromptLookup(longest=1))
    for a, b in zip(want, got, strict=True):
        assert (a.token_ids, a.text, a.finish_reason) == (b.token_ids, b.text, b.finish_reason)
        assert a.log_prob == pytest.approx(b.log_prob, abs=FLOAT32)
