"""What is not known of the next token and of the model, against sums written out."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from factorlm.algebra import Mixture, entropy, log_normalize, log_weights_of_texts, pad_right
from factorlm.models.table import Table, random_table
from factorlm.prior.ensemble import Separate
from factorlm.prior.incontext import InContext
from factorlm.prior.mixture import Bayes, Blend
from factorlm.prior.uncertainty import decomposed, pairwise_divergence, uncertainty
from factorlm.text import letters

WEIGHTS = (0.2, 0.5, 0.3)
PARTS = tuple(random_table("ab", 5, torch.Generator().manual_seed(n), zeros=z) for n, z in ((1, 0), (2, 0.3), (3, 0)))
BAYES = Bayes(Separate(PARTS), torch.tensor(WEIGHTS, dtype=torch.float64).log())
TEXTS = [[0, 1, 2], [1], [1, 1, 0]]
NOTHING_BT = torch.empty(3, 0, dtype=torch.long)


def next_tokens(text: list[int]) -> tuple[list[float], list[list[float]]]:
    """Posterior weights of the components after a text, and their next-token probabilities, in plain numbers."""
    joint = [
        w * math.exp(float(part.score(NOTHING_BT[:1], torch.tensor([text]).long()).sum()))
        for w, part in zip(WEIGHTS, PARTS, strict=True)
    ]
    return [j / sum(joint) for j in joint], [part.log_weight[tuple(text)].exp().tolist() for part in PARTS]


def entropy_of(probs: list[float]) -> float:
    return -math.fsum(p * math.log(p) for p in probs if p > 0)


def test_the_split_is_that_of_information_theory() -> None:
    """Mutual information by its definition: sum_kv p(k, v) log p(k, v) / (p(k) p(v))."""
    found = uncertainty(BAYES, NOTHING_BT, pad_right(TEXTS))
    for b, text in enumerate(TEXTS):
        for t, token in enumerate(text):
            weights, probs = next_tokens(text[:t])
            mixed = [math.fsum(w * p[v] for w, p in zip(weights, probs, strict=True)) for v in range(3)]
            information = math.fsum(
                w * p * math.log(p / m)
                for w, row in zip(weights, probs, strict=True)
                for p, m in zip(row, mixed, strict=True)
                if w * p > 0
            )
            within = math.fsum(w * entropy_of(p) for w, p in zip(weights, probs, strict=True))
            assert float(found.between_BT[b, t]) == pytest.approx(information, abs=1e-12)
            assert float(found.within_BT[b, t]) == pytest.approx(within, abs=1e-12)
            assert float(found.total_BT[b, t]) == pytest.approx(entropy_of(mixed), abs=1e-12)
            assert float(found.log_prob_BT[b, t]) == pytest.approx(math.log(mixed[token]), abs=1e-12)
            assert found.weight_BTK[b, t].tolist() == pytest.approx(weights, abs=1e-12)
        for values in (found.within_BT, found.between_BT, found.log_prob_BT, found.weight_BTK):
            assert not values[b, len(text) :].any()
    assert float(found.between_BT.max()) > 0.05


def test_over_whole_texts_information_is_that_of_text_and_component() -> None:
    """Chain rule: the sum over a text, in the mean over texts, is the mutual information of component and text."""
    texts = log_weights_of_texts(Mixture(PARTS, WEIGHTS), 5)
    each = [log_weights_of_texts(part, 5) for part in PARTS]
    want = math.fsum(
        w * math.exp(found[text]) * (found[text] - texts[text])
        for w, found in zip(WEIGHTS, each, strict=True)
        for text in texts
        if found[text] > -math.inf
    )
    rows = [list(text) for text, log_prob in texts.items() if log_prob > -math.inf]
    found = uncertainty(BAYES, torch.empty(len(rows), 0, dtype=torch.long), pad_right(rows))
    prob_B = torch.tensor([math.exp(texts[tuple(row)]) for row in rows], dtype=torch.float64)
    assert float((prob_B * found.between_BT.sum(1)).sum()) == pytest.approx(want, abs=1e-12)


def test_equal_components_leave_nothing_open() -> None:
    same = Bayes(Separate((PARTS[1],) * 3), BAYES.log_prob_K)
    found = uncertainty(same, NOTHING_BT, pad_right(TEXTS))
    assert float(found.between_BT.max()) < 1e-15
    assert float(found.within_BT.max()) > 0.1


@pytest.mark.parametrize("num_components", [2, 5])
def test_certain_components_that_disagree_leave_all_open(num_components: int) -> None:
    alphabet = letters("abcde")
    certain = [torch.full((6,), -torch.inf, dtype=torch.float64).index_fill(0, torch.tensor(k), 0.0) for k in range(5)]
    parts = tuple(Table(alphabet, {(): certain[k]}) for k in range(num_components))
    log_prob_K = torch.full((num_components,), 1 / num_components, dtype=torch.float64).log()
    found = uncertainty(Bayes(Separate(parts), log_prob_K), NOTHING_BT[:1], torch.tensor([[1, 5]]))
    assert found.between_BT.tolist()[0] == pytest.approx([math.log(num_components), 0], abs=1e-15)
    assert not found.within_BT.any()
    assert found.weight_BTK[0, 1].tolist() == [0.0, 1.0, 0.0, 0.0, 0.0][:num_components]
    apart_KK = pairwise_divergence(Bayes(Separate(parts), log_prob_K), NOTHING_BT[:1], torch.tensor([[1]]))
    want_KK = math.log(2) * (1 - torch.eye(num_components, dtype=torch.float64))
    torch.testing.assert_close(apart_KK, want_KK, atol=1e-15, rtol=0)


def test_an_impossible_text_is_no_mistake() -> None:
    found = uncertainty(BAYES, NOTHING_BT[:1], torch.tensor([[2, 0, 1]]))
    assert found.log_prob_BT[0, 1:].tolist() == [-math.inf] * 2
    for values in (found.within_BT, found.between_BT, found.weight_BTK):
        assert bool(values.isfinite().all())


def test_components_without_weight_are_left_out() -> None:
    some = Bayes(Separate(PARTS), torch.tensor([0.25, 0.0, 0.75], dtype=torch.float64).log())
    few = Bayes(Separate((PARTS[0], PARTS[2])), torch.tensor([0.25, 0.75], dtype=torch.float64).log())
    got, want = (uncertainty(model, NOTHING_BT, pad_right(TEXTS)) for model in (some, few))
    for name in ("within_BT", "between_BT", "log_prob_BT"):
        assert torch.equal(getattr(got, name), getattr(want, name))
    assert torch.equal(got.weight_BTK[..., [0, 2]], want.weight_BTK)
    assert not got.weight_BTK[..., 1].any()
    apart_KK = pairwise_divergence(some, NOTHING_BT, pad_right(TEXTS))
    assert not apart_KK[1].any()
    assert torch.equal(apart_KK[[0, 2]][:, [0, 2]], pairwise_divergence(few, NOTHING_BT, pad_right(TEXTS)))


def test_a_blend_is_split_with_the_weights_of_the_mixture() -> None:
    got = uncertainty(Blend(BAYES.ensemble, BAYES.log_prob_K), NOTHING_BT, pad_right(TEXTS))
    want = uncertainty(BAYES, NOTHING_BT, pad_right(TEXTS))
    assert torch.equal(got.between_BT, want.between_BT)
    assert torch.equal(got.weight_BTK, want.weight_BTK)


def test_divergences_are_means_over_tokens() -> None:
    def divergence(p: list[float], q: list[float]) -> float:
        mixed = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
        return entropy_of(mixed) - (entropy_of(p) + entropy_of(q)) / 2

    total = [[0.0] * 3 for _ in range(3)]
    for text in TEXTS:
        for t in range(len(text)):
            _, probs = next_tokens(text[:t])
            for k in range(3):
                for j in range(3):
                    total[k][j] += divergence(probs[k], probs[j]) / 7
    got_KK = pairwise_divergence(BAYES, NOTHING_BT, pad_right(TEXTS))
    torch.testing.assert_close(got_KK, torch.tensor(total, dtype=torch.float64), atol=1e-12, rtol=0)
    assert not got_KK.diagonal().any()
    assert torch.equal(got_KK, got_KK.T)


def test_no_text_has_no_uncertainty() -> None:
    found = uncertainty(BAYES, NOTHING_BT, NOTHING_BT)
    assert found.total_BT.shape == (3, 0)
    assert found.weight_BTK.shape == (3, 0, 3)
    assert not pairwise_divergence(BAYES, NOTHING_BT, NOTHING_BT).any()


def test_over_a_network_the_parts_add_up_to_the_entropy(in_context: InContext) -> None:
    model = Bayes(in_context, BAYES.log_prob_K)
    prefix_BT, text_BT = torch.tensor([[0, 5], [0, 6]]), torch.tensor([[7, 8, 9], [10, 11, -1]])
    found = uncertainty(model, prefix_BT, text_BT)
    want_BT = torch.stack([entropy(log_prob_BV) for log_prob_BV in model.steps(prefix_BT, text_BT)], 1)
    real_BT = text_BT != -1
    torch.testing.assert_close(found.total_BT[real_BT], want_BT[real_BT], atol=1e-5, rtol=0)  # float32
    torch.testing.assert_close(found.log_prob_BT, model.score(prefix_BT, text_BT), atol=1e-4, rtol=0)  # float32


def test_the_split_of_one_step_needs_no_model() -> None:
    generator = torch.Generator().manual_seed(0)
    log_prob_KBV = torch.randn(4, 3, 7, generator=generator, dtype=torch.float64).log_softmax(-1)
    log_weight_BK = log_normalize(torch.randn(3, 4, generator=generator, dtype=torch.float64))
    within_B, between_B, log_prob_BV = decomposed(log_weight_BK, log_prob_KBV)
    mixed_BV: Tensor = torch.einsum("bk,kbv->bv", log_weight_BK.exp(), log_prob_KBV.exp())
    torch.testing.assert_close(log_prob_BV.exp(), mixed_BV, atol=1e-14, rtol=0)
    torch.testing.assert_close(within_B + between_B, entropy(mixed_BV.log()), atol=1e-14, rtol=0)
