"""Dose and response on the tiny model, against what can be counted by hand."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from factorlm.algebra import pad_left, pad_right
from factorlm.factors.calibration import OPENINGS, head_strengths
from factorlm.factors.examples import Example
from factorlm.factors.head import Head, HeadWeights
from factorlm.factors.response import (
    MORE_OPENINGS,
    NUM_TOKENS,
    continuations,
    decoded,
    measure_response,
    sentence_judge,
)
from factorlm.models import CausalLM

MakeHead = Callable[..., Head]


@pytest.fixture(scope="module")
def good_head(tiny_lm: CausalLM) -> Head:
    """A head that pushes the piece " good"."""
    piece = tiny_lm.vocabulary.token_bytes.index(b" good")
    weights = HeadWeights.shift(tiny_lm.unembedding_VD[piece].float() * 0.3)
    return Head("good", weights, tiny_lm, head_strengths(tiny_lm, weights))


def _has_good(texts: list[str]) -> list[bool]:
    return ["good" in text for text in texts]


def test_the_rate_rises_and_the_price_is_that_of_the_texts(tiny_lm: CausalLM, good_head: Head) -> None:
    seen: list[str] = []

    def judge(texts: list[str]) -> list[bool]:
        seen.extend(texts)
        return _has_good(texts)

    response = measure_response(
        tiny_lm, good_head, judge, judge_name="a word", accuracy=1.0, strengths=(-0.2, 0.4, 0.8), num_samples=4
    )
    assert response is not None
    assert [d.strength for d in response.doses] == [-0.2, 0.0, 0.4, 0.8]
    rates = [d.rate for d in response.doses]
    assert rates[0] <= rates[1] < rates[2] < rates[3]
    count = 4 * (len(OPENINGS) + len(MORE_OPENINGS))
    assert len(seen) == 4 * count
    assert rates[3] == pytest.approx(sum(_has_good(seen[-count:])) / count, abs=1e-4)
    assert response.doses[1].perplexity_ratio == 1.0
    assert response.doses[3].perplexity_ratio > 1.0


def test_the_price_is_the_base_models_own(tiny_lm: CausalLM, good_head: Head) -> None:
    response = measure_response(
        tiny_lm, good_head, _has_good, judge_name="a word", accuracy=1.0, strengths=(0.4,), num_samples=1, seed=3
    )
    assert response is not None
    assert good_head.strengths is not None
    openings = (*OPENINGS, *MORE_OPENINGS)
    prompts = pad_left([[*tiny_lm.start_ids, *tiny_lm.encode_text(o)] for o in openings])
    nothing = replace(good_head, weights=good_head.weights.scaled(0.0))
    common = {"num_samples": 1, "num_tokens": NUM_TOKENS}
    (base,) = continuations(tiny_lm, nothing, [0.0], openings, seed=3, **common)  # type: ignore[arg-type]
    exponent = good_head.strengths.exponent(0.4)
    (steered,) = continuations(tiny_lm, good_head, [exponent], openings, seed=4, **common)  # type: ignore[arg-type]
    nats = [-float(tiny_lm.score(prompts, pad_right(side.token_ids)).mean()) for side in (steered, base)]
    assert response.doses[1].perplexity_ratio == pytest.approx(torch.tensor(nats[0] - nats[1]).exp().item(), rel=1e-3)


def test_texts_follow_the_distribution_cut_at_its_mass(tiny_lm: CausalLM, good_head: Head) -> None:
    """First tokens of many texts against the probabilities; chi-square with a false alarm of 1e-6."""
    from scipy.stats import chi2

    from factorlm.factors.headed import HeadedModel

    opening, count = "the house", 4000
    (written,) = continuations(tiny_lm, good_head, [1.0], [opening], num_samples=count, num_tokens=1, seed=5)
    model = HeadedModel(tiny_lm, (good_head,), (1.0,))
    log_prob_V = model.start(pad_left([[*tiny_lm.start_ids, *tiny_lm.encode_text(opening)]])).log_weight_BV[0].clone()
    log_prob_V[list(tiny_lm.vocabulary.end_ids)] = -torch.inf
    prob_V, token_V = log_prob_V.softmax(-1).sort(descending=True)
    kept_V = torch.where(prob_V.cumsum(-1) - prob_V < 0.9, prob_V, 0.0)
    expected_V = (kept_V / kept_V.sum() * count).double()
    seen_V = torch.bincount(written.token_BT[:, 0], minlength=len(prob_V))[token_V].double()
    inside = expected_V > 0
    assert not seen_V[~inside].any()
    statistic = float(((seen_V - expected_V)[inside] ** 2 / expected_V[inside]).sum())
    assert statistic < chi2.isf(1e-6, int(inside.sum()) - 1)


def test_a_head_that_moves_nothing_has_no_response(tiny_lm: CausalLM) -> None:
    idle = Head("idle", HeadWeights.shift(torch.zeros(tiny_lm.width)), tiny_lm)
    assert measure_response(tiny_lm, idle, _has_good, judge_name="a word", accuracy=1.0) is None


def test_decoding_replaces_what_is_no_character(tiny_lm: CausalLM) -> None:
    assert decoded(tiny_lm, tiny_lm.encode_text(" the sun")) == "the sun"
    half = tiny_lm.vocabulary.token_bytes.index(b"\xc3")
    assert decoded(tiny_lm, [half]) == "\ufffd"


@pytest.mark.model
def test_a_sentence_judge_knows_how_good_it_is() -> None:
    words = {True: ("lovely", "superb", "delicious", "charming"), False: ("awful", "dreadful", "rotten", "nasty")}
    things = ("food", "hotel", "film", "garden", "service")
    examples = [Example(f"The {thing} was {word}.", good) for good in words for word in words[good] for thing in things]
    judge, accuracy = sentence_judge(examples)
    assert accuracy > 0.8
    assert list(judge(["A wonderful place!", "A horrible place!"])) == [True, False]
