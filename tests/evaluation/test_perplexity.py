"""Sliding windows against one forward pass per token, mixtures and lexica in windows, and exact values."""

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

import factorlm as fl
from factorlm.algebra import Factor, Interpolation, LocalProduct, State, pad_left, pad_right
from factorlm.errors import InputError
from factorlm.evaluation.perplexity import (
    default_window,
    holds_mixture,
    learns_from_text,
    longest_window,
    token_log_probs,
    windows,
)
from factorlm.factors import bind, lexicon, prompt
from factorlm.factors.head import Head
from factorlm.inference import Model
from factorlm.models import CausalLM
from factorlm.text import Vocabulary

FLOAT32 = 2e-5  # logits of size 10, summed in another order
MakeHead = Callable[..., Head]
LETTERS = "abcdefghijklmnopqrstuvwxyz. "


def text_of(num_letters: int, seed: int) -> str:
    generator = np.random.default_rng(seed)
    return "".join(generator.choice(list(LETTERS), num_letters))


def context_start(token: int, num_tokens: int, window: int, stride: int, num_given: int) -> int:
    """The first token that the prediction of a token may see, from the definition; all count from the start token."""
    if token <= window:
        return 0
    later = (token - window - 1) // stride + 1  # windows behind the first one
    end = min(num_tokens, window + 1 + later * stride)
    return end - 1 - window


@torch.no_grad()
def naive(lm: CausalLM, text: str, window: int, stride: int, count_first: bool = True) -> np.ndarray:
    """One forward pass of transformers' model for each token."""
    row = [*(lm.start_ids if count_first else ()), *lm.encode_text(text)]
    num_given = len(lm.start_ids) if count_first else 1
    found = []
    for token in range(num_given, len(row)):
        first = context_start(token, len(row), window, stride, num_given)
        logit_V = lm.model(torch.tensor([row[first:token]])).logits[0, -1].double()
        found.append(float(logit_V.log_softmax(-1)[row[token]]))
    return np.array(found)


def plain(lm: CausalLM) -> Model:
    return Model(lm, lm)


@pytest.mark.parametrize(
    ("num_tokens", "window", "stride"), [(1, 8, 4), (9, 8, 4), (10, 8, 4), (100, 8, 3), (50, 7, 7)]
)
def test_windows_count_every_token_once_in_as_much_context_as_there_is(
    num_tokens: int, window: int, stride: int
) -> None:
    plans = windows(num_tokens, window, stride)
    assert [t for plan in plans for t in range(plan.start, plan.end)] == list(range(1, num_tokens))
    for plan in plans:
        assert plan.end - 1 - plan.first <= window, "more is read than the window"
        for token in range(plan.start, plan.end):
            assert token - plan.first >= min(token, window - stride + 1)
            assert plan.first == context_start(token, num_tokens, window, stride, 1)


@pytest.mark.parametrize(
    ("num_tokens", "window", "stride"), [(0, 8, 4), (5, 8, 4), (8, 8, 8), (33, 8, 8), (100, 16, 5)]
)
def test_windows_are_the_rolling_windows_of_lm_eval(num_tokens: int, window: int, stride: int) -> None:
    utils = pytest.importorskip("lm_eval.utils", reason="lm-eval is not installed")
    ids = list(range(1, num_tokens + 1))
    theirs = utils.get_rolling_token_windows(ids, 0, window, window - stride + 1)
    row = [0, *ids]
    ours = [(row[p.first : p.end - 1], row[p.start : p.end]) for p in windows(len(row), window, stride)]
    assert ours == [(list(read), list(counted)) for read, counted in theirs]


@pytest.mark.parametrize(("window", "stride", "given"), [(8, 0, 1), (8, 9, 1), (8, 4, 0), (1, 1, 2)])
def test_windows_that_leave_a_token_without_context_are_refused(window: int, stride: int, given: int) -> None:
    with pytest.raises(InputError, match="stride from 1 to the window"):
        windows(10, window, stride, given)


@pytest.mark.parametrize(("window", "stride"), [(32, 13), (24, 24), (256, 128)])
def test_sliding_equals_one_forward_pass_per_token(tiny_lm: CausalLM, window: int, stride: int) -> None:
    text = text_of(200, 0)
    [found] = token_log_probs(plain(tiny_lm), [text], window=window, stride=stride)
    want = naive(tiny_lm, text, window, stride)
    assert found.dtype == np.float64
    assert found.shape == (len(tiny_lm.encode_text(text)),)
    np.testing.assert_allclose(found, want, atol=FLOAT32)
    if window < 100:  # else windows would not matter, and the test could not fail
        assert np.abs(want - naive(tiny_lm, text, 256, 128)).max() > 0.1


def test_without_a_start_token_the_first_token_is_only_read(tiny_lm: CausalLM) -> None:
    text = text_of(60, 1)
    [found] = token_log_probs(plain(tiny_lm), [text], window=32, stride=16, count_first=False)
    assert math.isnan(found[0])
    np.testing.assert_allclose(found[1:], naive(tiny_lm, text, 32, 16, count_first=False), atol=FLOAT32)


@pytest.mark.parametrize("batch_tokens", [1, 100, 100_000])
def test_batches_equal_one_by_one(tiny_lm: CausalLM, make_head: MakeHead, batch_tokens: int) -> None:
    texts = [text_of(n, n) for n in (90, 3, 1, 40, 41, 90, 7)] + ["", "a"]
    model = plain(tiny_lm) * make_head(2, 1)
    together = token_log_probs(model, texts, window=32, stride=16, batch_tokens=batch_tokens)
    alone = [token_log_probs(model, [text], window=32, stride=16)[0] for text in texts]
    for text, ours, theirs in zip(texts, together, alone, strict=True):
        assert len(ours) == len(tiny_lm.encode_text(text))
        np.testing.assert_allclose(ours, theirs, atol=FLOAT32)


def test_a_document_longer_than_the_model_is_read(tiny_lm: CausalLM) -> None:
    text = text_of(1500, 2)
    [found] = token_log_probs(plain(tiny_lm), [text])
    assert len(found) > 4 * tiny_lm.max_tokens
    assert np.isfinite(found).all()
    # The default window is the model's 256 tokens, so the last token was read behind 256 others.
    row = tiny_lm.encode_text(text)
    logit_V = tiny_lm.model(torch.tensor([row[-257:-1]])).logits[0, -1].double()
    assert found[-1] == pytest.approx(float(logit_V.log_softmax(-1)[row[-1]]), abs=FLOAT32)


def test_windows_that_a_model_cannot_read_are_refused(tiny_lm: CausalLM) -> None:
    asked = Model(bind(tiny_lm * prompt("be good", name="asked"), tiny_lm), tiny_lm)
    num_asked = len(tiny_lm.encode_text("be good\n\n")) + len(tiny_lm.start_ids)
    assert longest_window(tiny_lm) == tiny_lm.max_tokens
    assert longest_window(asked.factor) == tiny_lm.max_tokens - num_asked
    assert default_window([tiny_lm, asked.factor]) == tiny_lm.max_tokens - num_asked
    token_log_probs(asked, [text_of(300, 3)])  # the default fits
    with pytest.raises(InputError, match="window of at most 256 tokens"):
        token_log_probs(plain(tiny_lm), ["good"], window=257)


def test_what_must_be_read_as_text_is_known(tiny_lm: CausalLM, make_head: MakeHead) -> None:
    head, words = make_head(0, 1), bind(lexicon({"good": 1.0}, name="words"), tiny_lm)
    asked = bind(prompt("be good", name="asked"), tiny_lm)
    mixture = fl.mix([plain(tiny_lm), plain(tiny_lm) * head]).factor
    together = fl.interpolate([plain(tiny_lm), plain(tiny_lm) * head]).factor
    for factor in (tiny_lm, LocalProduct(tiny_lm * head**2.0), tiny_lm * asked, together):
        assert not learns_from_text(factor)
        assert not holds_mixture(factor)
    for factor in (mixture, mixture**2.0, LocalProduct(tiny_lm * mixture)):
        assert learns_from_text(factor)
        assert holds_mixture(factor)
    assert learns_from_text(tiny_lm * words)
    assert not holds_mixture(tiny_lm * words)


def test_reading_context_as_a_prefix_is_wrong_for_mixtures_alone(tiny_lm: CausalLM, make_head: MakeHead) -> None:
    """The claim behind `learns_from_text`, checked on the factors themselves."""
    ids = tiny_lm.encode_text(text_of(60, 4))
    whole, split = (pad_left([[0]]), pad_right([ids])), (pad_left([[0, *ids[:30]]]), pad_right([ids[30:]]))
    product = LocalProduct(tiny_lm * make_head(2, 1))
    mixture = fl.mix([plain(tiny_lm), plain(tiny_lm) * make_head(2, 1)]).factor
    torch.testing.assert_close(product.score(*whole)[:, 30:], product.score(*split), atol=FLOAT32, rtol=0)
    assert float((mixture.score(*whole)[:, 30:] - mixture.score(*split)).abs().max()) > 0.01


def test_a_mixture_learns_within_its_window(tiny_lm: CausalLM, make_head: MakeHead) -> None:
    members, weights = [plain(tiny_lm), plain(tiny_lm) * make_head(2, 1)], (0.3, 0.7)
    text = text_of(90, 5)
    [found] = token_log_probs(fl.mix(members, weights), [text], window=32, stride=16)
    row = [*tiny_lm.start_ids, *tiny_lm.encode_text(text)]
    want = []
    for plan in windows(len(row), 32, 16):
        prefix_BT, text_BT = pad_left([row[plan.first : plan.first + 1]]), pad_right([row[plan.first + 1 : plan.end]])
        step_KT = torch.stack([LocalProduct(m.factor).score(prefix_BT, text_BT)[0].double() for m in members])
        joint_KT = torch.tensor(weights).double().log()[:, None] + torch.cat([torch.zeros(2, 1), step_KT.cumsum(1)], 1)
        want += joint_KT.logsumexp(0).diff()[plan.start - plan.first - 1 :].tolist()
    np.testing.assert_allclose(found, want, atol=FLOAT32)


def test_a_lexicon_sees_phrases_that_begin_before_the_counted_tokens(tiny_lm: CausalLM) -> None:
    text = " good bad" * 20
    model = Model(bind(tiny_lm * lexicon({"good bad": 2.0, "bad good": -1.0}, name="words"), tiny_lm), tiny_lm)
    [found] = token_log_probs(model, [text], window=10, stride=3)
    local, row = LocalProduct(model.factor), [*tiny_lm.start_ids, *tiny_lm.encode_text(text)]
    want = []
    for plan in windows(len(row), 10, 3):
        state = local.start(pad_left([row[plan.first : plan.first + 1]]))
        for place in range(plan.first + 1, plan.end):
            if place >= plan.start:
                want.append(float(state.log_weight_BV[0, row[place]]))
            state = local.extend(state, torch.tensor([row[place]]))
    np.testing.assert_allclose(found, want, atol=FLOAT32)


def test_averaging_probabilities_costs_at_most_the_mean_of_its_members(tiny_lm: CausalLM, make_head: MakeHead) -> None:
    members = [plain(tiny_lm), plain(tiny_lm) * make_head(2, 1), plain(tiny_lm) * make_head(0, 3)]
    texts = [text_of(80, 6), text_of(200, 7)]
    each_KD = [[-row.sum() for row in token_log_probs(m, texts, window=256)] for m in members]
    for join in (fl.interpolate, fl.mix):  # whole documents in a window: a mixture's posterior is never cut
        joined = token_log_probs(join(members), texts, window=256)
        for d, row in enumerate(joined):
            mean = sum(nats[d] for nats in each_KD) / len(members)
            assert -row.sum() < mean - 1, "the members differ, so the inequality is strict"
    assert isinstance(fl.interpolate(members).factor.base, Interpolation)  # type: ignore[attr-defined]


class OnlyBytes(Factor):
    """Weight one for every token that spells something, zero for the others."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self.log_weight_V = torch.tensor([0.0 if token else -torch.inf for token in vocabulary.token_bytes])

    @property
    def vocabulary(self) -> Vocabulary:
        return self._vocabulary

    def start(self, prefix_BT: Tensor) -> State:
        return State(self.log_weight_V.expand(len(prefix_BT), -1))

    def extend(self, state: State, token_B: Tensor) -> State:
        return state


def test_a_uniform_model_has_the_perplexity_of_its_vocabulary(fresh_lm: CausalLM) -> None:
    with torch.no_grad():
        fresh_lm.unembedding_VD.zero_()
    texts = [text_of(100, 8), text_of(30, 9)]
    found = token_log_probs(plain(fresh_lm), texts, window=16, stride=8)
    assert np.exp(-np.concatenate(found).mean()) == pytest.approx(fresh_lm.vocabulary.size, rel=1e-5)
    allowed = OnlyBytes(fresh_lm.vocabulary)
    found = token_log_probs(Model(fresh_lm * allowed, fresh_lm), texts, window=16, stride=8)
    assert np.exp(-np.concatenate(found).mean()) == pytest.approx(fresh_lm.vocabulary.size - 2, rel=1e-5)


@pytest.mark.model
def test_totals_equal_those_of_transformers_and_more_context_helps(model: fl.Model) -> None:
    """A licence text, whose length and regularity leave no doubt that context helps; 0.2 % is noise of rounding."""
    words = (Path(__file__).parents[2] / "LICENSE").read_text(encoding="utf-8").split()
    text = " ".join(words[:200])
    ids = model.lm.encode_text(text)
    assert 230 < len(ids) < 330
    [whole] = token_log_probs(model, [text])
    row = torch.tensor([[*model.lm.start_ids, *ids]])
    with torch.no_grad():
        loss = float(model.lm.model(input_ids=row, labels=row).loss)  # a mean over the labels behind the first
    assert -whole.sum() == pytest.approx(loss * len(ids), rel=1e-5)
    strides = [-token_log_probs(model, [text], window=64, stride=s)[0].sum() for s in (64, 32)]
    shortest = -token_log_probs(model, [text], window=16, stride=8)[0].sum()
    for costs in (strides, [shortest, strides[1], -whole.sum()]):
        assert all(b <= a * 1.002 for a, b in pairwise(costs))
        assert costs[-1] < costs[0]
