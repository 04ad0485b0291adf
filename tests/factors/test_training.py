"""Training on a tiny model: what can be learned is, what cannot is not, and exponent one is the likelihood ratio."""

import math
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from factorlm.algebra import LocalProduct, pad_left, pad_right
from factorlm.errors import InputError
from factorlm.factors.calibration import auc, calibrate, evidence, factor_strengths, head_strengths, neutral_states
from factorlm.factors.examples import Example
from factorlm.factors.features import Features, encode
from factorlm.factors.head import Head, HeadWeights
from factorlm.factors.headed import HeadedModel
from factorlm.factors.strength import mean_divergence
from factorlm.factors.training import Description, train_head
from factorlm.inference.draw import Sampling
from factorlm.inference.local import Row, sample_local
from factorlm.models import CausalLM
from factorlm.text import TextStream

GOOD = ("good", "sun", "joy", "kiss", "warm", "song")
BAD = ("bad", "mud", "pain", "kick", "cold", "scream")
COMMON = ("the", "a", "of", "in", "house", "river", "and", "then")
MakeHead = Callable[..., Head]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FACTORLM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def corpus(num_texts: int, seed: int = 0) -> list[Example]:
    """Texts of eight words, three of which tell the class."""
    chance = random.Random(seed)
    examples = []
    for n in range(num_texts):
        words = chance.choices(GOOD if n % 2 else BAD, k=3) + chance.choices(COMMON, k=5)
        chance.shuffle(words)
        examples.append(Example(" ".join(words), bool(n % 2)))
    return examples


def test_two_sets_of_words_are_told_apart(tiny_lm: CausalLM) -> None:
    stages: list[tuple[str, int, int]] = []
    trained = train_head(
        tiny_lm,
        corpus(400),
        Description("nice", sources=(("toy", "CC0-1.0", "us"),)),
        tests={"fresh": corpus(100, seed=1)},
        report=lambda stage, done, total: stages.append((stage, done, total)),
    )
    card = trained.manifest
    assert card.calibration is not None
    assert card.calibration.dev_auc > 0.9
    assert card.calibration.test_auc["fresh"] > 0.9
    assert card.calibration.dev_loss < math.log(2)
    assert card.encoder is not None
    assert card.encoder.fingerprint == tiny_lm.fingerprint
    assert card.data.train[0].num_texts == 400
    assert card.strengths is not None
    assert all(0 <= done <= total for _, done, total in stages)
    assert {name: tuple(t.shape) for name, t in trained.tensors.items()} == {
        "bias": (32,),
        "up": (32, 0),
        "down": (0, 32),
    }
    # The map means what it says: nats of divergence over the neutral states.
    states = neutral_states(tiny_lm)
    potential_NV = Head("nice", trained.weights, tiny_lm).potential(states.hidden_ND)
    for strength, exponent in card.strengths.points:
        found = mean_divergence(states.log_prob_NV, potential_NV, exponent)
        assert found == pytest.approx(abs(strength), rel=0.02, abs=1e-6)  # the solver's tolerance and rounding


def test_shuffled_labels_teach_nothing(tiny_lm: CausalLM) -> None:
    """The dev split holds 180 texts, so the standard error of the area is 0.043; the bounds are 4.6 of them away."""
    texts = corpus(1200)
    labels = [e.is_positive for e in texts]
    random.Random(7).shuffle(labels)
    shuffled = [Example(e.text, label) for e, label in zip(texts, labels, strict=True)]
    card = train_head(tiny_lm, shuffled, Description("noise")).manifest
    assert card.calibration is not None
    assert 0.3 <= card.calibration.dev_auc <= 0.7
    assert card.calibration.dev_loss > 0.6  # ln 2 knows nothing


def test_training_is_the_same_every_time(tiny_lm: CausalLM) -> None:
    first, again, other = (train_head(tiny_lm, corpus(60), Description("x"), seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.weights.bias_D, again.weights.bias_D)
    assert first.manifest == again.manifest
    assert not torch.equal(first.weights.bias_D, other.weights.bias_D)


def test_too_few_texts_are_refused(tiny_lm: CausalLM) -> None:
    with pytest.raises(InputError, match="at least 10 different"):
        train_head(tiny_lm, corpus(18), Description("x"))


def written_by(head: Head, exponent: float, num_texts: int, seed: int) -> list[list[int]]:
    """Token ids of texts drawn from p(x) w(x)^a, normalised at each token."""
    rows = [
        Row([*head.lm.start_ids], torch.Generator().manual_seed(seed * num_texts + n), TextStream())
        for n in range(num_texts)
    ]
    factor = HeadedModel(head.lm, (head,), (exponent,))
    list(sample_local(factor, rows, max_tokens=20, sampling=Sampling()))
    return [row.token_ids for row in rows]


def features_of(lm: CausalLM, rows: list[list[int]]) -> Features:
    text_BT = pad_right(rows)
    real_BT = text_BT >= 0
    hidden_BTD = lm.hidden_before(torch.tensor([lm.start_ids] * len(rows)), text_BT)
    owner_BT = torch.arange(len(rows))[:, None].expand_as(text_BT)
    return Features(hidden_BTD[real_BT].half(), text_BT[real_BT], owner_BT[real_BT])


@pytest.mark.parametrize("rank", [0, 2])
def test_calibration_finds_the_true_likelihood_ratio(tiny_lm: CausalLM, make_head: MakeHead, rank: int) -> None:
    """Texts are drawn at exponents +1 and -1; a head three times too strong must be scaled by a third.

    Over ten seeds of these numbers of texts the scale found spreads by 7% at rank 0 and by 16% at rank 2, the grid
    of scales included; the bounds, a factor of two, are more than four times that away.
    """
    true = make_head(rank, 3)
    true = replace(true, weights=true.weights.scaled(0.35))
    rows = written_by(true, 1.0, 400, seed=0) + written_by(true, -1.0, 400, seed=1)
    label_B = torch.tensor([1.0] * 400 + [0.0] * 400)
    found = calibrate(tiny_lm, true.weights.scaled(3.0), features_of(tiny_lm, rows), label_B)
    assert 1 / 6 < found.scale < 2 / 3
    torch.testing.assert_close(found.weights.bias_D, 3 * found.scale * true.weights.bias_D)
    assert abs(found.prior) < 0.5
    assert found.loss < math.log(2)
    assert found.auc > 0.7


@pytest.mark.parametrize("rank", [0, 2])
def test_evidence_equals_two_models(tiny_lm: CausalLM, make_head: MakeHead, rank: int) -> None:
    head = make_head(rank)
    rows = [[5, 6, 7], [9], [20, 21, 22, 23, 24]]
    scales = (0.3, 1.0, 2.0)
    found_SB = evidence(tiny_lm, head.weights, features_of(tiny_lm, rows), scales)
    prefix_BT = pad_left([[*tiny_lm.start_ids]] * 3)
    for scale, found_B in zip(scales, found_SB, strict=True):
        up_B, down_B = (
            LocalProduct(tiny_lm * head**a).score(prefix_BT, pad_right(rows)).sum(1) for a in (scale, -scale)
        )
        # Features are kept in half precision: 1e-3 of a hidden state, some 1e-3 nats a token.
        torch.testing.assert_close(found_B, up_B - down_B, atol=0.05, rtol=0)


def test_area_under_the_curve_counts_pairs() -> None:
    evidence_B, label_B = torch.tensor([0.1, 0.5, 0.5, 2.0]), torch.tensor([0.0, 1.0, 0.0, 1.0])
    assert auc(evidence_B, label_B) == pytest.approx(3.5 / 4)


def test_texts_are_read_once(fresh_lm: CausalLM, cache: Path) -> None:
    texts = [example.text for example in corpus(12)]
    first = encode(fresh_lm, texts)
    num_read = fresh_lm.num_tokens_read
    assert num_read > 0
    again = encode(fresh_lm, texts)
    assert fresh_lm.num_tokens_read == num_read
    assert all(torch.equal(getattr(first, part), getattr(again, part)) for part in ("hidden_ND", "token_N", "owner_N"))
    assert again.num_texts == 12
    encode(fresh_lm, [*texts, "more"], keep=False)
    assert fresh_lm.num_tokens_read > num_read
    assert len(list((cache / "features").iterdir())) == 1


def test_states_belong_to_their_texts(tiny_lm: CausalLM) -> None:
    texts = ["the good house", "a", "in the bad river and then of a house"]  # read in order of length
    features = encode(tiny_lm, texts)
    for owner, text in enumerate(texts):
        mine_N = features.owner_N == owner
        ids = tiny_lm.encode_text(" " + text)
        assert features.token_N[mine_N].tolist() == ids
        want_ND = tiny_lm.hidden_before(torch.tensor([tiny_lm.start_ids]), torch.tensor([ids]))[0]
        torch.testing.assert_close(features.hidden_ND[mine_N].float(), want_ND, atol=5e-3, rtol=2e-3)  # half precision


def test_head_and_factor_have_one_map(tiny_lm: CausalLM, make_head: MakeHead) -> None:
    head = make_head(2)
    by_head, by_factor = head_strengths(tiny_lm, head.weights), factor_strengths(tiny_lm, head)
    assert by_head is not None
    assert by_factor is not None
    torch.testing.assert_close(torch.tensor(by_head.points), torch.tensor(by_factor.points), atol=2e-3, rtol=2e-3)


def test_a_potential_without_effect_has_no_map(tiny_lm: CausalLM) -> None:
    assert head_strengths(tiny_lm, HeadWeights.shift(torch.zeros(tiny_lm.width))) is None
