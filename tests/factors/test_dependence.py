"""Dependence between factors: against sums over the vocabulary in double precision, and planted pairs."""

import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from factorlm.algebra import Factor, LocalProduct, Product, pad_left, pad_right
from factorlm.errors import InputError
from factorlm.factors import bind, candidates, lexicon, prompt
from factorlm.factors.calibration import neutral_states
from factorlm.factors.dependence import (
    correlation_of,
    dependence,
    effective_number,
    predicted_divergence,
    shared_pushes,
    text_correlation,
    warnings_of,
)
from factorlm.factors.head import Head, HeadWeights
from factorlm.factors.potentials import Potentials, Texts, log_ratios, own_texts, texts_of
from factorlm.models import CausalLM

MakeHead = Callable[..., Head]
FLOAT32 = 2e-5  # potentials of size 10 in float32, over sums of 55 tokens


@pytest.fixture
def factors(tiny_lm: CausalLM, make_head: MakeHead) -> tuple[Factor, ...]:
    """One of each kind."""
    words = bind(lexicon({"good": 1.5, "bad": -2.0}, name="words"), tiny_lm)
    return make_head(0, 1), make_head(3, 2), words, bind(prompt("be good", name="asked"), tiny_lm)


def enumerated(lm: CausalLM, factors: tuple[Factor, ...], exponents: list[float]) -> tuple[Tensor, Tensor, float]:
    """Means, covariances and divergence by a loop over states and tokens."""
    states = neutral_states(lm)
    potentials = [factor.start(states.prefix_NT).log_weight_BV.double().tolist() for factor in factors]
    num_factors, num_states = len(factors), len(states.prefix_NT)
    mean, square, divergence = torch.zeros(num_factors), torch.zeros(num_factors, num_factors), 0.0
    mean, square = mean.double(), square.double()
    for n, log_prob in enumerate(states.log_prob_NV.double().tolist()):
        phi = [[potential[n][v] for potential in potentials] for v in range(len(log_prob))]
        possible = [v for v in range(len(log_prob)) if min(phi[v]) > -math.inf]
        weight = {
            v: math.exp(log_prob[v] + sum(a * x for a, x in zip(exponents, phi[v], strict=True))) for v in possible
        }
        total = math.fsum(weight.values())
        mine = [sum(weight[v] / total * phi[v][k] for v in possible) for k in range(num_factors)]
        for i, j in itertools.product(range(num_factors), repeat=2):
            square[i, j] += sum(weight[v] / total * (phi[v][i] - mine[i]) * (phi[v][j] - mine[j]) for v in possible)
        mean += torch.tensor(mine, dtype=torch.float64)
        divergence += sum(w / total * (math.log(w / total) - log_prob[v]) for v, w in weight.items())
    return mean / num_states, square / num_states, divergence / num_states


@pytest.mark.parametrize("exponents", [[0.0, 0.0, 0.0, 0.0], [0.7, -0.4, 1.3, 0.2]])
def test_moments_equal_a_loop_over_the_vocabulary(
    tiny_lm: CausalLM, factors: tuple[Factor, ...], exponents: list[float]
) -> None:
    found = Potentials(tiny_lm, factors).moments(exponents)
    mean_K, covariance_KK, divergence = enumerated(tiny_lm, factors, exponents)
    torch.testing.assert_close(found.mean_K, mean_K, atol=FLOAT32, rtol=FLOAT32)
    torch.testing.assert_close(found.covariance_KK, covariance_KK, atol=FLOAT32, rtol=FLOAT32)
    assert found.divergence == pytest.approx(divergence, abs=FLOAT32)


def test_a_ban_is_left_out_for_all_and_has_no_correlation(tiny_lm: CausalLM, make_head: MakeHead) -> None:
    both = (make_head(3, 2), bind(lexicon(["good", "e"], ban=True, name="ban", whole_word=False), tiny_lm))
    potentials = Potentials(tiny_lm, both)
    found = potentials.moments([0.8, 2.0])
    mean_K, covariance_KK, divergence = enumerated(tiny_lm, both, [0.8, 2.0])
    torch.testing.assert_close(found.mean_K, mean_K, atol=FLOAT32, rtol=FLOAT32)
    torch.testing.assert_close(found.covariance_KK, covariance_KK, atol=FLOAT32, rtol=FLOAT32)
    assert found.divergence == pytest.approx(divergence, abs=FLOAT32)
    correlation_KK = correlation_of(potentials.moments().covariance_KK)
    assert correlation_KK[0, 0] == 1
    assert bool(correlation_KK[1].isnan().all())
    assert effective_number(correlation_KK) == 1


def test_alone_is_each_factor_without_the_others(tiny_lm: CausalLM, factors: tuple[Factor, ...]) -> None:
    exponents = [0.9, -0.6, 1.0, 0.3]
    movement_K, divergence_K = Potentials(tiny_lm, factors).alone(exponents)
    for k, (factor, exponent) in enumerate(zip(factors, exponents, strict=True)):
        one = Potentials(tiny_lm, (factor,))
        before, after = one.moments(), one.moments([exponent])
        assert float(movement_K[k]) == pytest.approx(float(after.mean_K - before.mean_K), abs=FLOAT32)
        assert float(divergence_K[k]) == pytest.approx(after.divergence, abs=FLOAT32)


def test_correlation_knows_sign_not_scale(tiny_lm: CausalLM, make_head: MakeHead) -> None:
    head = make_head(3, 2)
    scaled = [replace(head, weights=head.weights.scaled(scale)) for scale in (1.0, -0.3)]
    constant = Head("constant", HeadWeights.shift(torch.eye(tiny_lm.width)[0]), tiny_lm)  # a gauge: see conftest
    correlation_KK = correlation_of(Potentials(tiny_lm, (*scaled, constant)).moments().covariance_KK)
    assert float(correlation_KK[0, 1]) == pytest.approx(-1, abs=1e-6)
    assert bool(correlation_KK[2].isnan().all())


def test_predicted_divergence_is_right_in_the_small(tiny_lm: CausalLM, factors: tuple[Factor, ...]) -> None:
    potentials = Potentials(tiny_lm, factors)
    covariance_KK = potentials.moments().covariance_KK
    gaps = []
    for size in (0.2, 0.1, 0.05):
        exponents = [size, -size, size, size]
        predicted, independent = predicted_divergence(covariance_KK, exponents)
        gaps.append(abs(predicted / potentials.moments(exponents).divergence - 1))
        by_hand = sum(float(covariance_KK[k, k]) for k in range(4)) * size**2 / 2
        assert independent == pytest.approx(by_hand)
    assert gaps[0] > 1.5 * gaps[1] > 2.25 * gaps[2]  # the next order falls with the exponents
    assert gaps[2] < 0.05


def test_effective_number() -> None:
    assert effective_number(torch.eye(5)) == pytest.approx(5)
    assert effective_number(torch.ones(4, 4)) == pytest.approx(1)
    assert effective_number(torch.block_diag(torch.ones(2, 2), torch.ones(2, 2))) == pytest.approx(2)
    half = torch.tensor([[1.0, 0.5], [0.5, 1.0]])  # eigenvalues 1.5 and 0.5
    assert effective_number(half) == pytest.approx(4 / 2.5)


def test_log_ratios_equal_normalised_products(tiny_lm: CausalLM, factors: tuple[Factor, ...]) -> None:
    prefixes, rows = ((0,), (0, 5), (0, 9, 10)), ((3, 4, 5, 6), (9, 8), (10, 45, 46, 12, 13))
    found_BK = log_ratios(tiny_lm, factors, Texts(prefixes, rows, (0, 1, 2)))
    prefix_BT, text_BT = pad_left([list(p) for p in prefixes]), pad_right([list(r) for r in rows])
    base_B = tiny_lm.score(prefix_BT, text_BT).double().sum(1)
    for k, factor in enumerate(factors):
        want_B = LocalProduct(Product((tiny_lm, factor))).score(prefix_BT, text_BT).double().sum(1) - base_B
        torch.testing.assert_close(found_BK[:, k], want_B, atol=5e-4, rtol=0)  # batches of other shapes, in float32


def test_text_correlation_without_length_is_the_usual_one() -> None:
    """Its interval is near Fisher's (1921), which is exact for normal values; resampling adds about 0.02."""
    generator = torch.Generator().manual_seed(0)
    ratio_BK = torch.randn(400, 3, generator=generator, dtype=torch.float64)
    ratio_BK[:, 1] += ratio_BK[:, 0]
    found_SKK = text_correlation(ratio_BK, torch.full((400,), 7), range(400))
    torch.testing.assert_close(found_SKK[0], torch.corrcoef(ratio_BK.T), atol=1e-9, rtol=0)
    for i, j in ((0, 1), (0, 2), (1, 2)):
        value, low, high = found_SKK[:, i, j].tolist()
        for end, sign in ((low, -1), (high, 1)):
            assert end == pytest.approx(math.tanh(math.atanh(value) + sign * 1.96 / math.sqrt(397)), abs=0.025)


def test_length_alone_makes_no_correlation() -> None:
    generator = torch.Generator().manual_seed(1)
    length_B = torch.randint(5, 60, (200,), generator=generator)
    ratio_BK = torch.randn(200, 2, generator=generator, dtype=torch.float64) - 0.2 * length_B[:, None]
    assert float(torch.corrcoef(ratio_BK.T)[0, 1]) > 0.8
    value, low, high = text_correlation(ratio_BK, length_B, range(200))[:, 0, 1].tolist()
    assert low < 0 < high
    assert abs(value) < 0.25  # of independent values by chance one time in two thousand


def test_texts_of_one_unit_count_once() -> None:
    """Each text four times under one unit: the interval is that of the texts once, not half as wide."""
    generator = torch.Generator().manual_seed(2)
    ratio_BK, length_B = torch.randn(40, 2, generator=generator, dtype=torch.float64), torch.full((40,), 5)
    once_SKK = text_correlation(ratio_BK, length_B, range(40))
    copied_SKK = text_correlation(ratio_BK.repeat(4, 1), length_B.repeat(4), [*range(40)] * 4)
    torch.testing.assert_close(copied_SKK, once_SKK)
    split_SKK = text_correlation(ratio_BK.repeat(4, 1), length_B.repeat(4), range(160))
    width, narrow = once_SKK[2, 0, 1] - once_SKK[1, 0, 1], split_SKK[2, 0, 1] - split_SKK[1, 0, 1]
    assert float(narrow) < 0.7 * float(width)


def test_impossible_texts_are_left_out_and_too_few_say_nothing() -> None:
    generator = torch.Generator().manual_seed(3)
    ratio_BK = torch.randn(12, 2, generator=generator, dtype=torch.float64)
    ratio_BK[:2, 1] = -torch.inf
    found_SKK = text_correlation(ratio_BK, torch.full((12,), 5), range(12))
    torch.testing.assert_close(found_SKK[0], torch.corrcoef(ratio_BK[2:].T), atol=1e-9, rtol=0)
    assert bool(text_correlation(ratio_BK[:8], torch.full((8,), 5), range(8)).isnan().all())


def test_shared_pushes_find_planted_words(tiny_lm: CausalLM, make_head: MakeHead) -> None:
    head = make_head(0, 1)
    minus = replace(head, name="minus", weights=head.weights.scaled(-1.0))
    one, two = (
        bind(lexicon(words, name=name, whole_word=False), tiny_lm)
        for name, words in (("one", {"good": 3.0, "x": 3.0}), ("two", {"good": 3.0, "y": 3.0, "x": -3.0}))
    )
    found = shared_pushes(Potentials(tiny_lm, (head, head, minus, one, two)), count=10)
    assert found[0, 1].num_together == 10
    assert found[0, 1].num_against == 0
    assert found[0, 2].num_together == 0
    assert found[0, 2].num_against == 20
    assert found[3, 4].together[0] == "good"
    assert "x" in found[3, 4].against
    assert "y" not in found[3, 4].together + found[3, 4].against


def test_own_texts_are_repeatable_and_grouped(tiny_lm: CausalLM) -> None:
    texts = own_texts(tiny_lm, per_opening=3, num_tokens=4, seed=5)
    assert texts == own_texts(tiny_lm, per_opening=3, num_tokens=4, seed=5)
    assert texts.rows != own_texts(tiny_lm, per_opening=3, num_tokens=4, seed=6).rows
    assert texts.num_tokens_B.tolist() == [4] * 48
    assert not {1} & {token for row in texts.rows for token in row}  # no end token
    for (prefix, unit), (other, same) in itertools.combinations(zip(texts.prefixes, texts.units, strict=True), 2):
        assert (prefix == other) == (unit == same)


def test_dependence_of_a_copy(tiny_lm: CausalLM, make_head: MakeHead) -> None:
    head = make_head(3, 2)
    potentials = Potentials(tiny_lm, (head, replace(head, name="copy"), make_head(0, 5)))
    found = dependence(potentials, texts_of(tiny_lm, [f"the {word} book" * 2 for word in "abcdefghijkl"]))
    assert found.names == ("head3-2", "copy", "head0-5")
    assert found.num_texts == 12
    assert float(found.correlation_KK[0, 1]) == pytest.approx(1, abs=1e-6)
    assert float(found.text_correlation_SKK[1, 0, 1]) == pytest.approx(1, abs=1e-6)
    assert 1 < found.effective_number < 2.2
    assert len(found.warnings()) == 1
    assert found.warnings([1.0, 0.0, 1.0]) == []


def test_dependence_needs_two_factors_and_some_texts(tiny_lm: CausalLM, make_head: MakeHead) -> None:
    with pytest.raises(InputError, match="at least two factors"):
        dependence(Potentials(tiny_lm, (make_head(),)))
    with pytest.raises(InputError, match="at least 8 texts"):
        dependence(Potentials(tiny_lm, (make_head(), make_head(3))), texts_of(tiny_lm, ["a", "b"]))


class TestWarnings:
    def test_what_is_said(self, tiny_lm: CausalLM, make_head: MakeHead) -> None:
        head = make_head(3, 2)
        copy, minus = replace(head, name="copy"), replace(head, name="minus", weights=head.weights.scaled(-2.0))
        [same] = warnings_of(tiny_lm, [(head, 0.5), (copy, 2.0)])
        assert "head3-2 and copy push the same tokens (correlation 1.00" in same
        assert "--decorrelate" in same
        [against] = warnings_of(tiny_lm, [(head, 0.5), (copy, -2.0)])
        assert "pull against each other" in against
        [turned] = warnings_of(tiny_lm, [(head, 0.5), (minus, -2.0)])
        assert "push the same tokens" in turned
        assert "opposite signs" in turned

    def test_what_is_not_at_work_is_passed_over(self, tiny_lm: CausalLM, make_head: MakeHead) -> None:
        head = make_head(3, 2)
        copy, words = replace(head, name="copy"), bind(lexicon({"good": 1.0}), tiny_lm)
        assert warnings_of(tiny_lm, [(head, 0.5), (copy, 0.0)]) == []
        assert warnings_of(tiny_lm, [(head, 0.5), (words, 1.0)]) == []
        assert warnings_of(tiny_lm, [(head, torch.tensor([0.0, 1.0])), (copy, torch.tensor([1.0, 0.0]))]) == []
        assert len(warnings_of(tiny_lm, [(head, torch.tensor([0.0, 1.0])), (copy, torch.tensor([1.0, 1.0]))])) == 1

    def test_the_threshold(self, tiny_lm: CausalLM, make_head: MakeHead) -> None:
        pair = (make_head(0, 1), make_head(3, 2))
        correlation = abs(float(correlation_of(Potentials(tiny_lm, pair).moments().covariance_KK)[0, 1]))
        assert 0.01 < correlation < 0.5
        asked = [(head, 1.0) for head in pair]
        assert warnings_of(tiny_lm, asked) == []
        assert len(warnings_of(tiny_lm, asked, threshold=correlation - 0.005)) == 1
        assert warnings_of(tiny_lm, asked, threshold=correlation + 0.005) == []


class TestCandidates:
    def test_a_sketch_of_all_tokens_is_exact(self, tiny_lm: CausalLM, make_head: MakeHead) -> None:
        assert tiny_lm.vocabulary.size <= candidates.TOP
        heads = [make_head(0, 1), make_head(3, 2), make_head(2, 7)]
        want_KK = Potentials(tiny_lm, tuple(heads)).moments().covariance_KK
        found_KK = candidates.sketched_covariance(tiny_lm, heads)
        torch.testing.assert_close(found_KK, want_KK, atol=FLOAT32, rtol=FLOAT32)
        again_KK = candidates.sketched_covariance(tiny_lm, heads[::-1])  # from memory, in another order
        torch.testing.assert_close(again_KK, found_KK.flip(0, 1))

    def test_weights_are_unbiased(self) -> None:
        """E[sum of share f] is the sum of p f; a false alarm at five standard errors comes once in a million runs."""
        generator = torch.Generator().manual_seed(0)
        log_prob_nV = (2 * torch.randn(1, 12, generator=generator, dtype=torch.float64)).log_softmax(-1)
        value_V = torch.randn(12, generator=generator, dtype=torch.float64)
        token_nC, log_share_nC = candidates.choose(log_prob_nV.expand(20_000, -1), generator, top=3, tail=2)
        torch.testing.assert_close(log_share_nC.exp().sum(1), torch.ones(20_000, dtype=torch.float64))
        found_n = (log_share_nC.exp() * value_V[token_nC]).sum(1)
        error = float(found_n.std()) / math.sqrt(20_000)
        assert float(found_n.mean()) == pytest.approx(float((log_prob_nV.exp() * value_V).sum()), abs=5 * error)

    def test_nothing_is_left_to_the_tail(self) -> None:
        log_prob_nV = torch.tensor([[0.0, -torch.inf, -torch.inf, -torch.inf]])
        _, log_share_nC = candidates.choose(log_prob_nV, torch.Generator().manual_seed(0), top=1, tail=2)
        assert log_share_nC.exp().tolist() == [[1.0, 0.0, 0.0]]

    def test_places_are_kept_and_damage_is_noticed(
        self, tiny_lm: CausalLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("FACTORLM_CACHE", str(tmp_path))
        candidates.neutral_places.cache_clear()
        made = candidates.neutral_places(tiny_lm)
        [kept] = (tmp_path / "features").glob("neutral-*")
        for damage in (b"", b"no tensors"):
            if damage:
                kept.write_bytes(damage)
            candidates.neutral_places.cache_clear()
            found = candidates.neutral_places(tiny_lm)
            for name in ("hidden_ND", "token_NC", "share_NC"):
                torch.testing.assert_close(getattr(found, name), getattr(made, name))
        candidates.neutral_places.cache_clear()


@pytest.mark.model
def test_the_sketch_is_near_the_exact_correlation(lm: CausalLM) -> None:
    from factorlm.factors import factor

    heads = [bind(factor(name), lm) for name in ("positive", "toxic")]
    near = heads[0], replace(heads[1], weights=HeadWeights.shift(heads[0].weights.bias_D + heads[1].weights.bias_D))
    exact_KK = correlation_of(Potentials(lm, near).moments().covariance_KK)
    found_KK = correlation_of(candidates.sketched_covariance(lm, near))  # type: ignore[arg-type]
    assert float((found_KK - exact_KK).abs().max()) < 0.03
