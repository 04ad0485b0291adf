"""Refits: exact on tiny models and explicit distributions; double counting disappears on planted and natural pairs."""

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from scipy.optimize import check_grad
from torch import Tensor

from factorlm.algebra import pad_left, pad_right
from factorlm.errors import InputError, UnknownNameError
from factorlm.factors import Store, bind, factor, lexicon
from factorlm.factors.decorrelation import Refit, decorrelated, decoupled, matched
from factorlm.factors.head import Head, HeadWeights
from factorlm.factors.headed import HeadedModel
from factorlm.factors.manifest import HeadSettings, Manifest
from factorlm.factors.pool import RIDGE, pool_places, pooled
from factorlm.factors.potentials import Moments, Potentials, Texts, own_texts
from factorlm.factors.residual import combined, residual_head, residual_manifest, residuals
from factorlm.models import CausalLM

MakeHead = Callable[..., Head]
TEXT_BT = pad_right([[3, 4, 5, 6], [9, 8], [10, 11, 12]])
PREFIX_BT = pad_left([[0, 5, 6, 7], [0], [0, 9, 10]])


def covariance(num_factors: int, seed: int = 0) -> Tensor:
    root = torch.randn(num_factors, num_factors, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return root @ root.T


class TestDecoupled:
    def test_it_solves_the_faders(self) -> None:
        covariance_KK, exponents = covariance(4), [0.3, -1.0, 2.0, 0.0]
        found_K = decoupled(covariance_KK, exponents, ridge=0.0)
        wanted = covariance_KK.diagonal().numpy() * np.array(exponents)
        np.testing.assert_allclose(found_K.numpy(), np.linalg.solve(covariance_KK.numpy(), wanted), rtol=1e-9)

    def test_independent_factors_stay(self) -> None:
        exponents = [0.3, -1.0, 2.0]
        assert decoupled(torch.diag(torch.tensor([4.0, 0.1, 9.0]).double()), exponents).tolist() == pytest.approx(
            exponents, rel=1e-12
        )

    def test_copies_share(self) -> None:
        covariance_KK = torch.block_diag(torch.full((3, 3), 0.7), torch.tensor([[2.0]])).double()
        found = decoupled(covariance_KK, [0.6, 0.6, 0.6, 0.5]).tolist()
        assert found == pytest.approx([0.2, 0.2, 0.2, 0.5], rel=2 * RIDGE)

    def test_the_scale_of_a_factor_does_not_matter(self) -> None:
        covariance_KK = covariance(3, 1)
        scale_K = torch.tensor([1.0, 100.0, 0.01], dtype=torch.float64)
        want_K = decoupled(covariance_KK, [1.0, 0.5, 0.2])
        exponents = (torch.tensor([1.0, 0.5, 0.2]).double() / scale_K).tolist()
        found_K = decoupled(covariance_KK * scale_K * scale_K[:, None], exponents)
        torch.testing.assert_close(found_K * scale_K, want_K)

    def test_what_does_not_vary_stays(self) -> None:
        covariance_KK = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [1.0, 0.0, 1.0]]).double()
        assert decoupled(covariance_KK, [1.0, 3.0, 1.0]).tolist() == pytest.approx([0.5, 3.0, 0.5], rel=2 * RIDGE)


@dataclass(frozen=True, eq=False)
class Explicit(Potentials):
    """Potentials over distributions that are written down."""

    log_prob_NV: Tensor = None  # type: ignore[assignment]
    potential_KNV: Tensor = None  # type: ignore[assignment]

    def stretches(self) -> Iterator[tuple[Tensor, Tensor]]:
        yield self.log_prob_NV, self.potential_KNV


def explicit(lm: CausalLM, log_prob_NV: Tensor, potential_KNV: Tensor) -> Explicit:
    return Explicit(lm, (lm,) * len(potential_KNV), log_prob_NV, potential_KNV)


def fit(potentials: Potentials, exponents: list[float]) -> tuple[Tensor, Moments, Tensor]:
    """Matched exponents, moments under them, and the movement that was wanted."""
    base, (movement_K, _) = potentials.moments(), potentials.alone(exponents)
    found_K = matched(potentials, exponents, base, movement_K)
    return found_K, potentials.moments(found_K), base.mean_K + movement_K


class TestMatched:
    def test_independent_factors_stay_at_any_strength(self, tiny_lm: CausalLM) -> None:
        """Tokens are pairs (a, b), drawn independently; one factor reads a, the other b."""
        log_a, log_b = (torch.tensor(p).log() for p in ((0.7, 0.2, 0.1), (0.1, 0.6, 0.3)))
        phi_a, phi_b = torch.tensor([0.0, 1.0, 2.5]), torch.tensor([1.0, -1.0, 0.3])
        log_prob = (log_a[:, None] + log_b).reshape(1, 9)
        potential = torch.stack([phi_a[:, None].expand(3, 3), phi_b.expand(3, 3)]).reshape(2, 1, 9)
        found_K, _, _ = fit(explicit(tiny_lm, log_prob, potential), [1.7, -2.2])
        assert found_K.tolist() == pytest.approx([1.7, -2.2], abs=1e-3)

    def test_movements_are_those_of_each_alone(self, tiny_lm: CausalLM, make_head: MakeHead) -> None:
        head = make_head(3, 2)
        near = replace(make_head(3, 4), weights=combined([head.weights, make_head(3, 4).weights], [0.8, 0.5]))
        potentials = Potentials(tiny_lm, (head, near, make_head(0, 6)))
        exponents = [0.8, 0.9, 0.7]
        found_K, moments, target_K = fit(potentials, exponents)
        deviation_K = potentials.moments().covariance_KK.diagonal().sqrt()
        gap_K = (moments.mean_K - target_K).abs() / deviation_K
        assert float(gap_K.max()) < 3 * RIDGE
        overshoot_K = (potentials.moments(exponents).mean_K - target_K).abs() / deviation_K
        assert float(overshoot_K.max()) > 0.2
        assert abs(float(found_K[0]) - 0.8) > 0.1

    def test_it_is_the_minimum(self, tiny_lm: CausalLM, make_head: MakeHead) -> None:
        """Against another solver's minimum of the same convex function, from its definition."""
        from scipy.optimize import minimize

        potentials = Potentials(tiny_lm, (make_head(3, 2), make_head(2, 4)))
        exponents = [0.6, 0.5]
        found_K, _, target_K = fit(potentials, exponents)
        variance_K = potentials.moments().covariance_KK.diagonal().numpy()

        def value(w: np.ndarray) -> float:
            moments = potentials.moments(w.tolist())
            log_total = w @ moments.mean_K.numpy() - moments.divergence
            return log_total - w @ target_K.numpy() + RIDGE * (variance_K * (w - exponents) ** 2).sum() / 2

        best = minimize(value, exponents, method="Nelder-Mead", options={"xatol": 1e-4, "fatol": 1e-9})
        assert found_K.tolist() == pytest.approx(best.x.tolist(), abs=3e-3)

    def test_what_others_overdo_is_switched_off_not_turned_round(self, tiny_lm: CausalLM) -> None:
        """The second factor is the first one and a little else; a weak wish for it is more than met."""
        generator = torch.Generator().manual_seed(0)
        log_prob_NV = torch.randn(3, 30, generator=generator).log_softmax(-1)
        one_NV = torch.randn(3, 30, generator=generator)
        two_NV = one_NV + 0.5 * torch.randn(3, 30, generator=generator)
        potentials = explicit(tiny_lm, log_prob_NV, torch.stack([one_NV, two_NV]))
        for sign in (1.0, -1.0):
            found_K, moments, target_K = fit(potentials, [sign, sign * 0.1])
            assert found_K.tolist() == pytest.approx([sign, 0.0], abs=2e-3)
            assert sign * float(moments.mean_K[1] - target_K[1]) > 0.1

    def test_an_exponent_of_zero_holds_a_factor_still(self, tiny_lm: CausalLM, make_head: MakeHead) -> None:
        head = make_head(3, 2)
        near = replace(head, weights=combined([head.weights, make_head(0, 6).weights], [0.5, 0.5]))
        potentials = Potentials(tiny_lm, (head, near))
        found_K, moments, _ = fit(potentials, [0.5, 0.0])
        base = potentials.moments()
        assert float(potentials.moments([0.5, 0.0]).mean_K[1] - base.mean_K[1]) > 0.1
        assert float(moments.mean_K[1] - base.mean_K[1]) == pytest.approx(0, abs=5e-3)
        assert float(found_K[1]) < -0.1

    def test_a_ban_stays(self, tiny_lm: CausalLM, make_head: MakeHead) -> None:
        head = make_head(3, 2)
        ban = bind(lexicon(["good"], ban=True), tiny_lm)
        refit = decorrelated(tiny_lm, [(head, 0.5), (replace(head, name="copy"), 0.5), (ban, 1.0)])
        assert refit.exponents_after == pytest.approx((0.25, 0.25, 1.0), abs=1e-3)
        one = decorrelated(tiny_lm, [(head, 0.5), (ban, 1.0)])
        assert one.exponents_after == pytest.approx((0.5, 1.0), abs=1e-3)
        assert one.divergence_independent == pytest.approx(one.divergence_before, abs=1e-3)


def test_a_copy_counts_once(tiny_lm: CausalLM, make_head: MakeHead) -> None:
    head = make_head(3, 2)
    copy = replace(head, name="copy")
    want_BT = HeadedModel(tiny_lm, (head,), (0.7,)).score(PREFIX_BT, TEXT_BT)
    for method in ("faders", "matched", "residual"):
        refit = decorrelated(tiny_lm, [(head, 0.7), (copy, 0.7)], method=method)
        found_BT = HeadedModel(tiny_lm, (head, copy), refit.exponents_after).score(PREFIX_BT, TEXT_BT)
        torch.testing.assert_close(found_BT, want_BT, atol=5e-3, rtol=0)  # the ridge
        assert refit.divergence_after == pytest.approx(refit.divergence_independent / 2, rel=5e-3)
        assert refit.divergence_before > 1.5 * refit.divergence_independent


def test_a_refit_says_what_it_does(tiny_lm: CausalLM, make_head: MakeHead) -> None:
    heads = make_head(3, 2), make_head(0, 6)
    refit = decorrelated(tiny_lm, [(heads[0], 0.7), (heads[1], -0.4)], method="faders")
    potentials = Potentials(tiny_lm, heads)
    base = potentials.moments()
    assert refit.names == ("head3-2", "head0-6")
    assert refit.exponents_after == tuple(decoupled(base.covariance_KK, [0.7, -0.4]).tolist())
    for exponents, movement, divergence in (
        (refit.exponents_before, refit.movement_before, refit.divergence_before),
        (refit.exponents_after, refit.movement_after, refit.divergence_after),
    ):
        moments = potentials.moments(exponents)
        assert movement == tuple((moments.mean_K - base.mean_K).tolist())
        assert divergence == moments.divergence
    movement_K, divergence_K = potentials.alone([0.7, -0.4])
    assert refit.movement_alone == tuple(movement_K.tolist())
    assert refit.divergence_independent == pytest.approx(float(divergence_K.sum()), abs=1e-6)


def test_what_cannot_be_refitted(tiny_lm: CausalLM, make_head: MakeHead) -> None:
    pair = [(make_head(3, 2), 0.5), (make_head(0, 6), 0.5)]
    with pytest.raises(UnknownNameError, match="did you mean faders"):
        decorrelated(tiny_lm, pair, method="fader")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="at least one factor"):
        decorrelated(tiny_lm, [])
    with pytest.raises(InputError, match="finite"):
        decorrelated(tiny_lm, [(make_head(3, 2), math.nan)])
    with pytest.raises(InputError, match="at least 8 texts, got 0"):
        decorrelated(tiny_lm, pair, method="pool")


class TestPool:
    def test_its_loss_is_the_likelihood_and_its_gradient_the_slope(
        self, tiny_lm: CausalLM, make_head: MakeHead
    ) -> None:
        heads = make_head(3, 2), make_head(0, 6)
        texts = Texts(((0,),) * 3, ((3, 4, 5, 6), (9, 8), (10, 11, 12)), (0, 1, 2))
        places = pool_places(tiny_lm, heads, texts)
        exponents = np.array([0.8, -0.3])
        prefix_BT = pad_left([[0]] * 3)
        gain_BT = HeadedModel(tiny_lm, heads, (0.8, -0.3)).score(prefix_BT, TEXT_BT) - tiny_lm.score(prefix_BT, TEXT_BT)
        assert places.loss(exponents, 0.0)[0] == pytest.approx(-float(gain_BT.sum()) / 9, abs=2e-5)
        for ridge in (0.0, 0.1):
            gap = check_grad(
                lambda w, r=ridge: places.loss(w, r)[0], lambda w, r=ridge: places.loss(w, r)[1], exponents
            )
            assert gap < 1e-6

    def test_candidates_stand_for_all_tokens(self, tiny_lm: CausalLM, make_head: MakeHead) -> None:
        heads = make_head(3, 2), make_head(0, 6)
        texts = own_texts(tiny_lm, per_opening=4, num_tokens=12, seed=1)
        exact = pool_places(tiny_lm, heads, texts).loss(np.array([0.3, 0.2]), 0.0)
        few = pool_places(tiny_lm, heads, texts, top=12, tail=6).loss(np.array([0.3, 0.2]), 0.0)
        assert few[0] == pytest.approx(exact[0], abs=0.01)
        np.testing.assert_allclose(few[1], exact[1], atol=0.02)

    def test_it_finds_the_exponents_that_texts_were_drawn_with(self, tiny_lm: CausalLM, make_head: MakeHead) -> None:
        """Six standard errors at most: of 1280 tokens the information is their number times the covariance."""
        heads = make_head(3, 2), make_head(0, 6)
        for wanted in ((0.8, 0.5), (-0.6, 0.4)):
            texts = drawn(tiny_lm, heads, wanted)
            found_K = pooled(tiny_lm, heads, texts, allow_negative=True)
            error_K = (Potentials(tiny_lm, heads).moments(wanted).covariance_KK * 1280).inverse().diagonal().sqrt()
            assert float(((found_K - torch.tensor(wanted)) / error_K).abs().max()) < 6
            assert float(error_K.max()) < 0.06
            bounded_K = pooled(tiny_lm, heads, texts)
            assert float(bounded_K[0]) == pytest.approx(max(0.0, float(found_K[0])), abs=0.1)
            assert float(bounded_K.min()) >= 0

    def test_copies_share(self, tiny_lm: CausalLM, make_head: MakeHead) -> None:
        head = make_head(3, 2)
        texts = drawn(tiny_lm, (head, make_head(0, 6)), (0.8, 0.0))
        one = float(pooled(tiny_lm, (head,), texts))
        both = pooled(tiny_lm, (head, replace(head, name="copy")), texts).tolist()
        assert both == pytest.approx([one / 2, one / 2], abs=2e-3)

    def test_a_text_that_is_banned_is_refused(self, tiny_lm: CausalLM, make_head: MakeHead) -> None:
        ban = bind(lexicon(["e"], ban=True, whole_word=False), tiny_lm)
        texts = own_texts(tiny_lm, per_opening=1, num_tokens=10)
        with pytest.raises(InputError, match="possible under every factor"):
            decorrelated(tiny_lm, [(make_head(), 1.0), (ban, 1.0)], method="pool", texts=texts)


def drawn(lm: CausalLM, heads: tuple[Head, ...], exponents: tuple[float, ...]) -> Texts:
    """64 texts of 20 tokens of the composition."""
    model, generator = HeadedModel(lm, heads, exponents), torch.Generator().manual_seed(3)
    prefix_BT = torch.zeros(64, 1, dtype=torch.long)
    state, written = model.start(prefix_BT), []
    for _ in range(20):
        written.append(torch.multinomial(state.log_weight_BV.exp(), 1, generator=generator)[:, 0])
        state = model.extend(state, written[-1])
    rows = tuple(map(tuple, torch.stack(written, 1).tolist()))
    return Texts(((0,),) * 64, rows, tuple(range(64)))


class TestResiduals:
    def test_each_is_uncorrelated_with_what_came_before(self) -> None:
        covariance_KK = covariance(5, 2)
        lower_KK = residuals(covariance_KK)
        cross_KK = lower_KK @ covariance_KK  # of residual j with factor k
        assert bool((lower_KK.diagonal() == 1).all())
        for j, k in itertools.product(range(5), repeat=2):
            if k < j:
                assert float(cross_KK[j, k]) == pytest.approx(0, abs=1e-9)
            if k > j:
                assert float(lower_KK[j, k]) == 0
        among_KK = lower_KK @ covariance_KK @ lower_KK.T
        torch.testing.assert_close(among_KK, torch.diag(among_KK.diagonal()), atol=1e-9, rtol=0)

    def test_independent_factors_stay_and_copies_vanish(self) -> None:
        assert residuals(torch.diag(torch.tensor([2.0, 0.1, 0.0]).double())).equal(torch.eye(3, dtype=torch.float64))
        lower_KK = residuals(torch.ones(3, 3, dtype=torch.float64))
        assert lower_KK.sum(1).tolist() == pytest.approx([1.0, 0.0, 0.0], abs=1e-9)

    def test_exponents_on_residuals_are_exponents_on_factors(self, tiny_lm: CausalLM, make_head: MakeHead) -> None:
        heads = [make_head(3, 2), make_head(0, 6), make_head(2, 4)]
        lower_KK = residuals(Potentials(tiny_lm, tuple(heads)).moments().covariance_KK)
        asked = torch.tensor([0.5, -0.4, 0.7], dtype=torch.float64)
        new = [
            Head(f"new{j}", combined([h.weights for h in heads[: j + 1]], lower_KK[j, : j + 1].tolist()), tiny_lm)
            for j in range(3)
        ]
        assert [head.weights.rank for head in new] == [3, 3, 5]
        on_new_BT = HeadedModel(tiny_lm, tuple(new), tuple(asked.tolist())).score(PREFIX_BT, TEXT_BT)
        on_old_BT = HeadedModel(tiny_lm, tuple(heads), tuple((lower_KK.T @ asked).tolist())).score(PREFIX_BT, TEXT_BT)
        torch.testing.assert_close(on_new_BT, on_old_BT, atol=1e-4, rtol=0)
        refit = decorrelated(tiny_lm, list(zip(heads, asked.tolist(), strict=True)), method="residual")
        assert refit.exponents_after == pytest.approx((lower_KK.T @ asked).tolist())

    def test_a_residual_can_be_kept(self, tiny_lm: CausalLM, make_head: MakeHead, tmp_path: object) -> None:
        first, second = make_head(3, 2), make_head(0, 6)
        near = replace(second, weights=combined([first.weights, second.weights], [0.6, 1.0]))
        residual, taken_out = residual_head(tiny_lm, near, [first], "rest")
        correlation_KK = Potentials(tiny_lm, (first, residual)).moments().covariance_KK
        assert float(correlation_KK[0, 1]) == pytest.approx(0, abs=1e-5)
        assert taken_out[0] == pytest.approx(
            float(np.divide(*Potentials(tiny_lm, (first, near)).moments().covariance_KK[0].flip(0).tolist())), rel=1e-4
        )
        cards = [
            Manifest(name=name, licence=licence, label="a label", settings=HeadSettings(rank=0))
            for name, licence in (("near", "CC-BY-4.0"), ("first", "MIT"))
        ]
        manifest, tensors = residual_manifest(residual, taken_out, cards[0], cards[1:])
        assert manifest.licence == "CC-BY-4.0 and MIT"
        assert manifest.origin == f"near 0.1.0, less first^{taken_out[0]:.3g}"
        folder = Store(tmp_path).save(manifest, tensors)  # type: ignore[arg-type]
        loaded = bind(factor(str(folder)), tiny_lm)
        assert isinstance(loaded, Head)
        assert loaded.strengths == residual.strengths
        hidden_ND = torch.randn(4, tiny_lm.width, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(loaded.potential(hidden_ND), residual.potential(hidden_ND))

    def test_nothing_is_left_of_a_copy(self, tiny_lm: CausalLM, make_head: MakeHead) -> None:
        head = make_head(3, 2)
        twice = Head("twice", HeadWeights(*(2 * t for t in vars(head.weights).values())), tiny_lm)
        with pytest.raises(InputError, match="twice does nothing that head3-2 does not do already"):
            residual_head(tiny_lm, replace(twice, weights=head.weights.scaled(2.0)), [head], "rest")


@pytest.mark.model
def test_double_counting_disappears_on_the_default_model(lm: CausalLM) -> None:
    """The same head twice, a head beside one that has much of it, and two of the shelf."""
    positive, toxic = (bind(factor(name), lm) for name in ("positive", "toxic"))
    assert isinstance(positive, Head)
    assert isinstance(toxic, Head)
    clear = positive.strengths.exponent(0.2)
    copied = decorrelated(lm, [(positive, clear), (replace(positive, name="again"), clear)])
    assert copied.divergence_before > 0.5
    assert copied.divergence_after == pytest.approx(0.2, rel=0.02)
    assert copied.movement_after == pytest.approx(copied.movement_alone, rel=0.01)
    assert copied.exponents_after == pytest.approx((clear / 2, clear / 2), rel=0.01)
    near = replace(toxic, weights=HeadWeights.shift(toxic.weights.bias_D - 0.5 * positive.weights.bias_D))
    for refit in (
        decorrelated(lm, [(positive, clear), (near, -1.0)]),
        decorrelated(lm, [(positive, clear), (toxic, -1.0)]),
    ):
        assert moved_apart(refit) < 0.01
        assert refit.movement_after == pytest.approx(refit.movement_alone, rel=0.02)


def moved_apart(refit: Refit) -> float:
    """Largest difference between what factors move together after the refit and what each moves alone, in nats."""
    return max(abs(a - b) for a, b in zip(refit.movement_after, refit.movement_alone, strict=True))
