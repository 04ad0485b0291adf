"""What the model's own texts teach: values of prefixes, and the bias that fits their changes."""

import math
import random
from pathlib import Path

import pytest
import torch
from torch import Tensor

from factorlm.algebra import pad_left
from factorlm.factors.advantage import (
    LONGEST,
    SPREAD,
    PrefixValue,
    _balanced,
    _prefixes,
    beginnings,
    fit_advantage,
    fit_value,
)
from factorlm.factors.calibration import OPENINGS
from factorlm.factors.examples import Example
from factorlm.factors.features import Features
from factorlm.factors.response import MORE_OPENINGS
from factorlm.factors.rollouts import NUM_TOKENS, SUBJECTS, TOP_P, VERBS, Rollouts, rollouts
from factorlm.factors.training import PREFIX_LOSS, Description, train_head
from factorlm.models import CausalLM


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FACTORLM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def ragged(lengths: list[int], width: int, seed: int = 0) -> Features:
    generator = torch.Generator().manual_seed(seed)
    count = sum(lengths)
    return Features(
        torch.randn(count, width, generator=generator).half(),
        torch.zeros(count, dtype=torch.long),
        torch.tensor([i for i, length in enumerate(lengths) for _ in range(length)]),
    )


def test_features_of_prefixes_are_those_of_a_loop() -> None:
    features = ragged([3, 1, 4], 5)
    found_NF = _prefixes(features)
    for n, owner in enumerate(features.owner_N.tolist()):
        text_ND = features.hidden_ND[: n + 1][features.owner_N[: n + 1] == owner].float()
        assert found_NF[n] == pytest.approx(torch.cat([text_ND.mean(0), text_ND[-1]]), abs=1e-5)


def test_a_value_reads_texts_of_one_length_like_ragged_ones() -> None:
    features = ragged([6, 6, 6], 4)
    value = PrefixValue(torch.arange(8.0), 0.5, 0.0)
    expected_N = _prefixes(features) @ value.weight_F + value.constant
    assert value(features.hidden_ND.reshape(3, 6, 4)).flatten() == pytest.approx(expected_N, abs=1e-4)


def test_credits_add_up_to_the_value_of_the_whole_text() -> None:
    hidden_BTD = torch.randn(3, 7, 4, generator=torch.Generator().manual_seed(0))
    value = PrefixValue(torch.randn(8, generator=torch.Generator().manual_seed(1)), 0.5, 0.0)
    of_mean_D, of_last_D = value.weight_F.chunk(2)
    start_B = hidden_BTD[:, 0] @ (of_mean_D / 7 + of_last_D) + value.constant
    assert start_B + value.credits(hidden_BTD).sum(1) == pytest.approx(value(hidden_BTD)[:, -1], abs=1e-5)


def test_classes_weigh_the_same_and_so_do_texts() -> None:
    features = ragged([2, 6, 4, 4], 3)
    _, share_N = _balanced(features, torch.tensor([1.0, 0.0, 0.0, 0.0]))
    share_B = torch.zeros(4).index_add_(0, features.owner_N, share_N)
    assert share_B == pytest.approx(torch.tensor([1 / 2, 1 / 6, 1 / 6, 1 / 6]), abs=1e-6)


def planted(num_texts: int, seed: int, *, is_noise: bool = False) -> tuple[Features, Tensor]:
    """The first number of every state leans towards the label."""
    chance = random.Random(seed)
    features = ragged([chance.randint(2, 8) for _ in range(num_texts)], 6, seed)
    label_B = torch.tensor([float(chance.random() < 0.3) for _ in range(num_texts)])
    if not is_noise:
        features.hidden_ND[:, 0] += (2 * label_B - 1)[features.owner_N].half()
    return features, label_B


def test_a_value_finds_what_tells_the_classes_apart() -> None:
    value = fit_value(planted(400, 0), planted(200, 1))
    assert value.dev_loss < 0.45  # ln 2 = 0.69 knows nothing
    assert value.is_informed
    of_mean, of_last = value.weight_F[:6], value.weight_F[6:]
    assert of_mean[0] > 4 * of_mean[1:].abs().max()
    assert abs(of_last[0]) < of_mean[0]


def test_a_value_of_noise_stays_near_ignorance() -> None:
    assert fit_value(planted(200, 2, is_noise=True), planted(200, 3, is_noise=True)).dev_loss < math.log(2) + 0.03


def test_only_beginnings_are_compared() -> None:
    features = ragged([LONGEST + 5, 3], 4)
    early = beginnings(features)
    assert torch.bincount(early.owner_N).tolist() == [LONGEST, 3]
    assert torch.equal(early.hidden_ND[-3:], features.hidden_ND[-3:])
    assert torch.equal(early.hidden_ND[:LONGEST], features.hidden_ND[:LONGEST])


def test_the_bias_fits_the_credits_of_the_tokens_chosen() -> None:
    """The value reads one number of the last state, which rises by exactly what each token adds."""
    generator = torch.Generator().manual_seed(0)
    num_texts, width, num_tokens = 600, 8, 40
    unembedding_VD = torch.randn(num_tokens, width, generator=generator)
    truth_D = torch.randn(width, generator=generator)
    prob_BTV = torch.randn(num_texts, NUM_TOKENS, num_tokens, generator=generator).softmax(-1)
    token_BT = torch.multinomial(prob_BTV.flatten(0, 1), 1, generator=generator).reshape(num_texts, NUM_TOKENS)
    mean_BTD = prob_BTV @ unembedding_VD
    gain_BT = ((unembedding_VD[token_BT] - mean_BTD) * truth_D).sum(-1)
    hidden_BTD = torch.randn(num_texts, NUM_TOKENS, width, generator=generator)
    hidden_BTD[:, :, 0] = gain_BT.cumsum(1) - gain_BT
    value = PrefixValue(torch.cat([torch.zeros(width), torch.eye(width)[0]]), 0.0, 0.0)
    texts = Rollouts(hidden_BTD, token_BT, mean_BTD)
    found_D = fit_advantage(unembedding_VD, value, texts, text_bias_D=torch.zeros(width))
    truth_BT = gain_BT / gain_BT.std()
    found_BT = ((unembedding_VD[token_BT] - mean_BTD) * found_D).sum(-1)
    assert found_BT / SPREAD == pytest.approx(truth_BT, abs=0.15)  # up to the ridge of 3 % and chance
    other_D = torch.randn(width, generator=generator)
    mixed_D, scaled_D = (fit_advantage(unembedding_VD, value, texts, text_bias_D=a * other_D) for a in (1.0, 7.0))
    assert mixed_D == pytest.approx(scaled_D, abs=1e-5)  # however large the other bias is
    both = torch.linalg.lstsq(torch.stack([found_D, other_D], 1), mixed_D[:, None])
    assert float(both.solution.min()) > 0
    assert torch.stack([found_D, other_D], 1) @ both.solution[:, 0] == pytest.approx(mixed_D, abs=1e-5)


def test_texts_are_drawn_from_the_model_and_kept(fresh_lm: CausalLM, cache: Path) -> None:
    written = rollouts(fresh_lm, 300)
    assert written.token_BT.shape == (300, NUM_TOKENS)
    assert written.hidden_BTD.shape == written.mean_BTD.shape == (300, NUM_TOKENS, 32)
    assert not bool(torch.isin(written.token_BT, torch.tensor(list(fresh_lm.vocabulary.end_ids))).any())
    # The state before each token, and the distribution that it was drawn from, are the model's own.
    state_ND = written.hidden_BTD[7].float()
    log_prob_NV = fresh_lm.unembed(state_ND).log_softmax(-1)
    log_prob_NV[:, list(fresh_lm.vocabulary.end_ids)] = -torch.inf
    for log_prob_V, token, mean_D in zip(log_prob_NV, written.token_BT[7], written.mean_BTD[7], strict=True):
        prob_V, order_V = log_prob_V.softmax(-1).sort(descending=True)
        kept_V = order_V[: int((prob_V.cumsum(0) - prob_V < TOP_P).sum())]
        assert token in kept_V
        weight_V = log_prob_V[kept_V].softmax(-1)
        assert mean_D.float() == pytest.approx(weight_V @ fresh_lm.unembedding_VD[kept_V].float(), abs=2e-2)
    again = rollouts(fresh_lm, 300)
    assert torch.equal(again.token_BT, written.token_BT)
    assert torch.equal(again.hidden_BTD, written.hidden_BTD)
    assert not torch.equal(rollouts(fresh_lm, 300, seed=1).token_BT, written.token_BT)


def test_a_damaged_cache_is_drawn_again(fresh_lm: CausalLM, cache: Path) -> None:
    first = rollouts(fresh_lm, 4)
    (path,) = (cache / "rollouts").iterdir()
    path.write_bytes(path.read_bytes()[:50])
    assert torch.equal(rollouts(fresh_lm, 4).token_BT, first.token_BT)


def test_states_follow_the_tokens_drawn(fresh_lm: CausalLM) -> None:
    """Reading the tokens after their opening gives the states that were kept."""
    written = rollouts(fresh_lm, 3, seed=5)
    openings = [f"{subject} {verb}" for subject in SUBJECTS for verb in VERBS]
    order = torch.randperm(len(openings), generator=torch.Generator().manual_seed(5))[:3]
    rows = [[*fresh_lm.start_ids, *fresh_lm.encode_text(openings[i])] for i in order]
    hidden_BTD = fresh_lm.hidden_before(pad_left(rows), written.token_BT)
    assert written.hidden_BTD.float() == pytest.approx(hidden_BTD.float(), abs=2e-2)


def test_no_opening_is_one_that_factors_are_measured_on() -> None:
    measured = {*OPENINGS, *MORE_OPENINGS}
    assert not {f"{subject} {verb}" for subject in SUBJECTS for verb in VERBS} & measured
    assert len(set(SUBJECTS)) * len(set(VERBS)) == 1024


def corpus(num_texts: int) -> list[Example]:
    chance = random.Random(0)
    words = ("the", "a", "of", "in", "house", "river", "and", "then")
    kinds = (("bad", "mud", "pain"), ("good", "sun", "joy"))
    return [
        Example(
            " ".join(chance.sample((*chance.choices(kinds[n % 2], k=3), *chance.choices(words, k=5)), 8)), n % 2 > 0
        )
        for n in range(num_texts)
    ]


def test_a_head_that_learned_from_own_texts_too(tiny_lm: CausalLM) -> None:
    plain, both, again = (train_head(tiny_lm, corpus(300), Description("nice"), own_texts=n) for n in (0, 200, 200))
    assert not torch.equal(plain.weights.bias_D, both.weights.bias_D)
    assert torch.equal(both.weights.bias_D, again.weights.bias_D)
    assert (plain.manifest.data.own_texts, both.manifest.data.own_texts) == (0, 200)
    assert both.manifest.calibration is not None
    assert both.manifest.calibration.dev_auc > 0.85
    assert both.manifest.strengths is not None


def test_a_classifier_that_knows_nothing_teaches_nothing(tiny_lm: CausalLM) -> None:
    texts = corpus(200)
    labels = [e.is_positive for e in texts]
    random.Random(3).shuffle(labels)
    noise = [Example(e.text, label) for e, label in zip(texts, labels, strict=True)]
    plain, both = (train_head(tiny_lm, noise, Description("noise"), own_texts=n) for n in (0, 100))
    assert both.manifest.effect[PREFIX_LOSS] > math.log(2) - 0.01
    assert torch.equal(plain.weights.bias_D, both.weights.bias_D)
