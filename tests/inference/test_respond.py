"""Responses of a prior: which component wrote what, the same alone as in a batch, and the three modes as laws."""

import math
from collections import Counter

import pytest
import torch

from factorlm.algebra import pad_left, pad_right
from factorlm.errors import InputError
from factorlm.inference import Model, respond
from factorlm.inference.doubt import Doubt
from factorlm.models import CausalLM
from factorlm.prior import Prior
from factorlm.prior.manifest import Base, ComponentCard, Manifest, SoftPrompts

WEIGHTS = (0.5, 0.3, 0.2)


@pytest.fixture
def prior(tiny_lm: CausalLM) -> Prior:
    soft_KMD = 2 * torch.randn(3, 2, tiny_lm.width, generator=torch.Generator().manual_seed(1))
    cards = tuple(ComponentCard(name=n, weight=w, learned_weight=w) for n, w in zip("abc", WEIGHTS, strict=True))
    base = Base(name=tiny_lm.name, fingerprint=tiny_lm.fingerprint)
    return Prior(Manifest(kind=SoftPrompts(places=2), base=base, components=cards), {"soft": soft_KMD}, tiny_lm)


def test_each_response_is_that_of_its_component(prior: Prior) -> None:
    """Rows with different components share a batch, and are what each component writes alone."""
    responses = respond(prior, ["the good", "a bad in the"], n=5, max_tokens=8, seed=3)
    assert [r.prompt for r in responses] == ["the good"] * 5 + ["a bad in the"] * 5
    assert set(Counter(r.component for r in responses[:3]).values()) == {1}  # each once before any again
    for response in responses:
        assert response.component is not None
        alone = prior.ensemble.component(prior.index(response.component))
        log_prob = alone.score(pad_left([list(response.prompt_ids)]), pad_right([list(response.token_ids)]))
        assert float(log_prob.sum()) == pytest.approx(response.log_prob, abs=1e-3)  # float32
    again = respond(prior, "a bad in the", n=5, max_tokens=8, seed=3)
    assert [r.token_ids for r in again] == [r.token_ids for r in responses[5:]]


def test_draws_follow_the_weights(prior: Prior) -> None:
    """Independent draws over prompts: chi-square with 2 degrees of freedom, false alarm below 1e-6 at 27.7."""
    counts = Counter(int(k) for k in prior.draw(4000, torch.Generator().manual_seed(5), repeat=True))
    chi_square = sum((counts[k] - 4000 * w) ** 2 / (4000 * w) for k, w in enumerate(WEIGHTS))
    assert chi_square < 27.7


def test_response_and_bayes_are_one_law(prior: Prior, tiny_lm: CausalLM) -> None:
    """Every text of two tokens: drawing a component and then the text = writing with all, weighed anew."""
    prefix = pad_left([[*tiny_lm.start_ids, *tiny_lm.encode_text("the")]])
    size = tiny_lm.vocabulary.size
    text_NT = torch.cartesian_prod(torch.arange(size), torch.arange(size))
    prefix_NT = prefix.expand(len(text_NT), -1)
    bayes_N = prior.mixture.score(prefix_NT, text_NT).double().sum(1).exp()
    parts = [prior.ensemble.component(k).score(prefix_NT, text_NT).double().sum(1).exp() for k in range(3)]
    drawn_N = sum(w * part for w, part in zip(WEIGHTS, parts, strict=True))
    assert float((bayes_N - drawn_N).abs().max()) < 1e-7  # parts are float32
    assert float(bayes_N.sum()) == pytest.approx(1, abs=1e-5)
    blend_N = prior.blend.score(prefix_NT, text_NT).double().sum(1).exp()
    assert float((blend_N - bayes_N).abs().sum()) / 2 > 0.01  # another law


def test_modes_and_evidence_from_the_query(prior: Prior) -> None:
    for mode in ("bayes", "blend"):
        found = respond(prior, "the good", n=2, mode=mode, max_tokens=4, explain=True)  # type: ignore[arg-type]
        assert all(r.component is None and r.doubt is not None for r in found)
    query = "the bad bad cat"
    after = prior.posterior([query])
    counts = Counter(
        r.component for s in range(40) for r in respond(prior, query, max_tokens=1, seed=s, query_is_evidence=True)
    )
    likely = prior.names[max(range(3), key=lambda k: after.manifest.weights[k])]
    assert after.manifest.weights[prior.index(likely)] > 0.9, "the query must tell components apart to test this"
    assert counts[likely] >= 30  # of 40 at 0.9 and more: fewer have a probability below 1e-3
    with pytest.raises(InputError, match="mode"):
        respond(prior, "the", mode="all")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="at least 1"):
        respond(prior, "the", n=0)


def test_doubt_shows_the_posterior(prior: Prior, tiny_lm: CausalLM) -> None:
    [response] = respond(prior, "the", max_tokens=6, seed=2, explain=True)
    doubt = response.doubt
    assert doubt is not None
    log_prob_K = [
        math.log(w) + float(prior.ensemble.component(k).score(
            pad_left([list(response.prompt_ids)]), pad_right([list(response.token_ids)])).double().sum())
        for k, w in enumerate(WEIGHTS)
    ]  # fmt: skip
    want_K = torch.tensor(log_prob_K, dtype=torch.float64).softmax(0)
    assert doubt.weights[0] == pytest.approx(WEIGHTS, abs=1e-6)
    assert doubt.weights[-1] == pytest.approx(want_K.tolist(), abs=1e-4)
    assert doubt.mean_between == pytest.approx(sum(doubt.between) / len(doubt.between))
    assert list(doubt.as_json()["posterior"]) == ["a", "b", "c"]
    same = Doubt.of(prior.blend, prior.names, response.prompt_ids, response.token_ids)
    assert same.within == pytest.approx(doubt.within)


def test_a_prior_multiplies_with_factors(prior: Prior, tiny_lm: CausalLM, make_head) -> None:  # noqa: ANN001
    head = make_head(0, seed=4)
    model = Model(prior.mixture, tiny_lm) * head**2.0
    [response] = model.generate("the good", max_tokens=5, explain=True)
    assert response.doubt is not None
    assert response.explanation is not None
    [score] = model.score([response.text or "the"], prompt="the good")
    [base] = Model(prior.mixture, tiny_lm).score([response.text or "the"], prompt="the good")
    assert score.base_log_prob == pytest.approx(base.log_prob, abs=1e-4)
    steered = respond(prior, "the good", n=3, factors=head**2.0, max_tokens=4)
    assert all(r.exponents for r in steered)
