"""The map on top of the bias: its sums over candidates, what it can learn, and when it is kept."""

import random
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from factorlm.algebra import log_mean
from factorlm.errors import InputError
from factorlm.factors.calibration import OPENINGS, auc, evidence, head_strengths
from factorlm.factors.examples import Example, evenly
from factorlm.factors.features import Features, encode
from factorlm.factors.head import Head, HeadWeights
from factorlm.factors.lowrank import LowRankLearner, Texts, draw_candidates, fit_low_rank
from factorlm.factors.separation import NUM_SAMPLES, Separation, separation
from factorlm.factors.training import Description, Trained, effect_key, train_head
from factorlm.models import CausalLM

KINDS = ("cfjk", "pqrs")  # letters that no merge of the tiny tokenizer joins


@pytest.fixture(autouse=True)
def keep_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACTORLM_CACHE", str(tmp_path / "cache"))


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Steps this small wait for other threads longer than they compute."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def contextual(num_texts: int, seed: int = 0) -> list[Example]:
    """A letter keeps the kind of the one before with probability 0.9 or 0.1; single letters tell nothing."""
    chance = random.Random(seed)
    examples = []
    for n in range(num_texts):
        kind, text = chance.randrange(2), ""
        for _ in range(16):
            text += chance.choice(KINDS[kind])
            kind ^= (chance.random() < 0.9) != bool(n % 2)
        examples.append(Example(text, bool(n % 2)))
    return examples


def labels(examples: list[Example]) -> Tensor:
    return torch.tensor([float(e.is_positive) for e in examples])


def read(lm: CausalLM, examples: list[Example]) -> tuple[Features, Tensor]:
    return encode(lm, [e.text for e in examples]), labels(examples)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# Candidates


def test_a_small_vocabulary_is_summed_exactly(tiny_lm: CausalLM) -> None:
    hidden_ND = read(tiny_lm, contextual(4))[0].hidden_ND
    candidates = draw_candidates(tiny_lm, hidden_ND, seeded())
    assert candidates.token_NC.shape == (len(hidden_ND), tiny_lm.unembedding_VD.shape[0])
    phi_NV = torch.randn(len(hidden_ND), 55, generator=seeded(1)).clamp(-2, 2)
    log_prob_NV = tiny_lm.unembed(hidden_ND).log_softmax(-1)
    phi_NC = phi_NV.gather(1, candidates.token_NC.long())
    found_N = log_mean(phi_NC, candidates.log_weight_NC.float())
    torch.testing.assert_close(found_N, log_mean(phi_NV, log_prob_NV), atol=2e-3, rtol=0)  # half precision


def test_a_drawn_tail_stands_for_all_of_it(tiny_lm: CausalLM) -> None:
    hidden_ND = read(tiny_lm, contextual(20))[0].hidden_ND
    log_prob_NV = tiny_lm.unembed(hidden_ND).log_softmax(-1)
    phi_NV = 4 * torch.rand(len(hidden_ND), 55, generator=seeded(1)) - 2
    exact_N = log_mean(phi_NV, log_prob_NV)

    def differences(num_top: int, num_tail: int, seed: int) -> Tensor:
        found = draw_candidates(tiny_lm, hidden_ND, seeded(seed), num_top=num_top, num_tail=num_tail)
        assert found.token_NC.shape[1] == num_top + num_tail
        return log_mean(phi_NV.gather(1, found.token_NC.long()), found.log_weight_NC.float()) - exact_N

    assert differences(24, 30, 0).abs().mean() < 0.02
    # Few candidates: noisy, but Z itself is right on average. 12 draws of some 340 states; five standard errors.
    ratio_N = torch.stack([differences(4, 8, seed).exp() for seed in range(12)]).mean(0)
    assert abs(ratio_N.mean() - 1) < 5 * ratio_N.std() / len(ratio_N) ** 0.5


def learner_of(lm: CausalLM, features: Features, rank: int = 3) -> LowRankLearner:
    learner = LowRankLearner(lm, torch.randn(lm.width, generator=seeded(5)) / 3, features, rank, seeded(6))
    with torch.no_grad():
        learner.up_DR.normal_(std=0.3, generator=seeded(7))
    return learner


def naive_loss(lm: CausalLM, learner: LowRankLearner, features: Features, label_B: Tensor, penalty: float) -> Tensor:
    """The loss as the docstring of the module says it, over the whole vocabulary."""
    state_ND = (features.hidden_ND.float() - learner.mean_D) / learner.std_D
    g_ND = learner.bias_D + (state_ND @ learner.down_RD.T) @ learner.up_DR.T
    phi_NV = g_ND @ lm.unembedding_VD.T
    log_prob_NV = (features.hidden_ND.float() @ lm.unembedding_VD.T).log_softmax(-1)
    own_N1 = features.token_N[:, None]
    ratio = {s: ((log_prob_NV + s * phi_NV).log_softmax(-1) - log_prob_NV).gather(1, own_N1)[:, 0] for s in (1, -1)}
    label_N = label_B[features.owner_N]
    generative = -(label_N * ratio[1] + (1 - label_N) * ratio[-1]).mean()
    mean_B = torch.stack([(ratio[1] - ratio[-1])[features.owner_N == b].mean() for b in range(len(label_B))])
    prob_B = (learner.log_scale.exp() * mean_B + learner.prior).sigmoid()
    discriminative = -(label_B * prob_B.log() + (1 - label_B) * (1 - prob_B).log()).mean()
    prob_NV = log_prob_NV.exp()
    variance_N = (prob_NV * phi_NV**2).sum(1) - (prob_NV * phi_NV).sum(1) ** 2
    return 0.8 * generative + 0.2 * discriminative + penalty * variance_N.mean()


def test_loss_and_gradients_equal_the_obvious_ones(tiny_lm: CausalLM) -> None:
    features, label_B = read(tiny_lm, contextual(6))
    learner = learner_of(tiny_lm, features)
    texts = Texts(features, label_B, draw_candidates(tiny_lm, features.hidden_ND, seeded()))
    parameters = list(learner.parameters())
    loss, evidence_B = learner.loss(texts, 0.7)
    want = naive_loss(tiny_lm, learner, features, label_B, 0.7)
    torch.testing.assert_close(loss, want, atol=2e-3, rtol=1e-3)  # probabilities are kept in half precision
    for found, wanted in zip(torch.autograd.grad(loss, parameters), torch.autograd.grad(want, parameters), strict=True):
        torch.testing.assert_close(found, wanted, atol=5e-3, rtol=5e-3)
    want_B = evidence(tiny_lm, learner.folded(), features, (1.0,))[0]
    torch.testing.assert_close(evidence_B.detach(), want_B, atol=0.03, rtol=0)  # the same, summed over 17 tokens


def test_a_selection_of_texts_is_those_texts(tiny_lm: CausalLM) -> None:
    features, label_B = read(tiny_lm, contextual(6))
    learner = learner_of(tiny_lm, features)
    texts = Texts(features, label_B, draw_candidates(tiny_lm, features.hidden_ND, seeded()))
    text_B = torch.tensor([4, 1, 3])
    _, all_B = learner.loss(texts, 1.0)
    _, some_B = learner.loss(texts.select(text_B), 1.0)
    torch.testing.assert_close(some_B, all_B[text_B])
    assert torch.equal(texts.select(text_B).label_B, label_B[text_B])


def test_standardisation_folds_into_plain_weights(tiny_lm: CausalLM) -> None:
    features, _ = read(tiny_lm, contextual(6))
    learner = learner_of(tiny_lm, features)
    hidden_ND = features.hidden_ND.float()
    state_ND = (hidden_ND - hidden_ND.mean(0)) / hidden_ND.std(0)
    want_ND = learner.bias_D + (state_ND @ learner.down_RD.T) @ learner.up_DR.T
    torch.testing.assert_close(learner.folded()(hidden_ND), want_ND, atol=1e-5, rtol=1e-5)


# Learning


def test_context_is_learned_where_a_bias_learns_nothing(tiny_lm: CausalLM) -> None:
    train, dev = (read(tiny_lm, contextual(num, seed)) for num, seed in ((480, 0), (150, 1)))
    bias_D = 0.1 * torch.randn(tiny_lm.width, generator=seeded())
    shift = HeadWeights.shift(bias_D)
    found = fit_low_rank(tiny_lm, shift, *train, *dev, rank=2)
    assert found.rank == 2
    fresh = read(tiny_lm, contextual(200, 2))
    by_shift, by_map = (auc(evidence(tiny_lm, w, fresh[0], (1.0,))[0], fresh[1]) for w in (shift, found))
    assert 0.35 < by_shift < 0.65  # half, give or take four standard errors
    assert by_map > 0.72
    again = fit_low_rank(tiny_lm, shift, *train, *dev, rank=2)
    assert torch.equal(found.up_DR, again.up_DR)


def test_a_map_that_misleads_leaves_the_bias_as_it_was(tiny_lm: CausalLM) -> None:
    """The dev texts have the opposite labels, so no epoch is better than none."""
    features, label_B = read(tiny_lm, contextual(40))
    bias_D = torch.randn(tiny_lm.width, generator=seeded())
    found = fit_low_rank(tiny_lm, HeadWeights.shift(bias_D), features, label_B, features, 1 - label_B, rank=2)
    assert torch.equal(found.up_DR, torch.zeros(tiny_lm.width, 2))
    assert torch.equal(found.bias_D, bias_D)


# Choosing


def trained(lm: CausalLM, judge: object, rank: int = 2) -> Trained:
    return train_head(lm, contextual(700), Description("steady"), rank=rank, judge=judge)  # type: ignore[arg-type]


def test_a_map_that_pays_is_kept(tiny_lm: CausalLM) -> None:
    verdicts = iter([[False] * 128, [True] * 64 + [False] * 64])  # of the bias, then of the map
    card = (found := trained(tiny_lm, lambda texts: next(verdicts))).manifest
    assert card.settings.rank == found.weights.rank == 2  # type: ignore[union-attr]
    assert card.effect[effect_key("rank 2")] == 1
    assert card.effect[effect_key("bias")] == 0
    assert card.calibration is not None
    assert card.calibration.dev_auc > 0.72
    assert found.tensors["up"].shape == (32, 2)


def test_a_map_that_does_not_pay_is_dropped(tiny_lm: CausalLM) -> None:
    """The better classifier goes if the judge sees no more of it."""
    found = trained(tiny_lm, lambda texts: [bool(n % 2) for n, _ in enumerate(texts)])
    plain = trained(tiny_lm, None, rank=0)
    assert found.weights.rank == 0
    assert torch.equal(found.weights.bias_D, plain.weights.bias_D)
    assert found.manifest.model_copy(update={"effect": {}}) == plain.manifest
    assert found.manifest.effect[effect_key("rank 2")] == 0
    assert len(found.manifest.effect) == 4
    assert plain.manifest.effect == {}


def test_a_rank_must_fit(tiny_lm: CausalLM) -> None:
    for rank in (-1, 33):
        with pytest.raises(InputError, match="0 to the width 32"):
            trained(tiny_lm, None, rank=rank)


def test_a_spread_keeps_the_shares_of_classes() -> None:
    examples = [Example(str(n), n < 75) for n in range(100)]
    some = evenly(examples, 40)
    assert len(some) == len(set(some)) == 40
    assert sum(e.is_positive for e in some) == 30
    assert evenly(examples, 200) == examples


def test_a_difference_must_exceed_its_error() -> None:
    assert Separation(0.5, 0.03).exceeds(Separation(0.44, 0.04))
    assert not Separation(0.5, 0.03).exceeds(Separation(0.46, 0.04))
    assert not Separation(0.0, 0.0).exceeds(Separation(0.0, 0.0))


@cache
def letter_head(lm: CausalLM) -> Head:
    """Towards the letter e."""
    token = lm.encode_text("e")[0]
    weights = HeadWeights.shift(lm.unembedding_VD[token].clone())
    return Head("e", weights, lm, head_strengths(lm, weights))


def test_separation_has_a_sign_a_range_and_a_seed(tiny_lm: CausalLM) -> None:
    head = letter_head(tiny_lm)
    seen: list[list[str]] = []

    def judge(texts: list[str]) -> list[bool]:
        seen.append(texts)
        return [text.count("e") > 0 for text in texts]

    found = separation(tiny_lm, head, judge, strength=0.6)
    assert found == separation(tiny_lm, head, judge, strength=0.6)
    assert seen[0] == seen[1]
    assert len(seen[0]) == 2 * len(OPENINGS) * NUM_SAMPLES
    assert found.value > 4 * found.standard_error > 0
    against = separation(tiny_lm, head, judge, strength=-0.6)
    assert against.value < 0
    assert separation(tiny_lm, head, lambda texts: [True] * len(texts)) == (0.0, 0.0)
    assert separation(tiny_lm, replace(head, strengths=None), judge) == (0.0, 0.0)
