"""Estimators over masks: by enumeration of every draw, and the one law that needs samples."""

import math
from itertools import product

import pytest
import torch
from torch import Tensor

from factorlm.errors import InputError
from factorlm.prior.variational import (
    KEPT,
    RIDGE,
    Slopes,
    bernoulli_kl,
    controlled,
    draw_masks,
    enumerate_masks,
    exact_bound,
    gumbel_sigmoid,
    leave_one_out,
    log_q,
    most_probable_mask,
    reinforce,
)

L = 4
EXACT = 1e-12  # float64 over a few hundred terms of size one
LOGIT_L = torch.tensor([0.7, -1.2, 2.0, 0.0], dtype=torch.float64)


def value_of(mask_SL: Tensor) -> Tensor:
    """Not additive, so that what a place is worth depends on the others; far from zero, so that a baseline matters."""
    weight_L = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=torch.float64)
    return -20 + mask_SL @ weight_L + 4 * mask_SL[:, 0] * mask_SL[:, 3] - 3 * mask_SL[:, 1] * mask_SL[:, 2]


def exact_gradient(kl_weight: float = 0.0) -> Tensor:
    logit_L = LOGIT_L.clone().requires_grad_()
    (gradient_L,) = torch.autograd.grad(exact_bound(logit_L, value_of, 0.3, kl_weight), logit_L)
    return gradient_L


def test_all_masks_are_written_down_once() -> None:
    mask_ML = enumerate_masks(L)
    assert sorted(map(tuple, mask_ML.tolist())) == sorted(product([0.0, 1.0], repeat=L))
    assert enumerate_masks(0).shape == (1, 0)
    with pytest.raises(InputError, match="at most 16 places are enumerated, got 17"):
        enumerate_masks(17)


def test_log_q_is_the_product_and_sums_to_one() -> None:
    mask_ML, keep = enumerate_masks(L), [1 / (1 + math.exp(-a)) for a in LOGIT_L.tolist()]
    prob_M = log_q(LOGIT_L, mask_ML).exp()
    want = [math.prod(p if z else 1 - p for p, z in zip(keep, mask, strict=True)) for mask in mask_ML.tolist()]
    torch.testing.assert_close(prob_M, torch.tensor(want, dtype=torch.float64), atol=EXACT, rtol=0)
    assert float(prob_M.sum()) == pytest.approx(1, abs=EXACT)
    certain = torch.tensor([800.0, -800.0], dtype=torch.float64)
    assert log_q(certain, torch.tensor([[1.0, 0.0], [0.0, 0.0]])).tolist() == [0, -800]


@pytest.mark.parametrize("rho", [0.5, 0.1, 0.88])
def test_kl_is_the_sum_over_all_masks(rho: float) -> None:
    mask_ML = enumerate_masks(L)
    num_ones_M = mask_ML.sum(1)
    log_prior_M = num_ones_M * math.log(rho) + (L - num_ones_M) * math.log(1 - rho)
    log_q_M = log_q(LOGIT_L, mask_ML)
    want = float((log_q_M.exp() * (log_q_M - log_prior_M)).sum())
    assert float(bernoulli_kl(LOGIT_L, rho)) == pytest.approx(want, abs=EXACT)
    equal_L = torch.full((L,), math.log(rho / (1 - rho)), dtype=torch.float64)
    assert float(bernoulli_kl(equal_L, rho)) == pytest.approx(0, abs=EXACT)


def test_kl_stays_finite_where_q_is_certain() -> None:
    logit_L = torch.tensor([900.0, -900.0], dtype=torch.float64, requires_grad=True)
    kl = bernoulli_kl(logit_L, 0.5)
    kl.backward()
    assert float(kl.detach()) == pytest.approx(2 * math.log(2), abs=EXACT)
    assert logit_L.grad is not None
    assert logit_L.grad.tolist() == [0, 0]
    for rho in (0.0, 1.0):
        with pytest.raises(InputError, match="between 0 and 1"):
            bernoulli_kl(logit_L, rho)


def test_the_exact_bound_is_below_the_evidence() -> None:
    """And meets it where f does not depend on the mask and q is the prior: Jensen."""
    mask_ML = enumerate_masks(L)
    evidence = float(torch.logsumexp(value_of(mask_ML) + L * math.log(0.5), 0))
    assert float(exact_bound(LOGIT_L, value_of)) < evidence - 0.1
    flat_L = torch.zeros(L, dtype=torch.float64)
    got = exact_bound(flat_L, lambda mask_SL: torch.full((len(mask_SL),), -3.0, dtype=torch.float64))
    assert float(got) == pytest.approx(-3, abs=EXACT)


@pytest.mark.parametrize("num_masks", [2, 3])
def test_reinforce_is_exact_on_average(num_masks: int) -> None:
    """Over every tuple of masks, weighted by its probability: 16^2 and 16^3 of them."""
    mask_ML = enumerate_masks(L)
    log_q_M, value_M = log_q(LOGIT_L, mask_ML), value_of(mask_ML)
    mean_L, squares_L = torch.zeros(L, dtype=torch.float64), torch.zeros(L, dtype=torch.float64)
    for drawn in product(range(len(mask_ML)), repeat=num_masks):
        index_S = torch.tensor(drawn)
        estimate_L = leave_one_out(mask_ML[index_S], value_M[index_S])
        prob = float(log_q_M[index_S].sum().exp())
        mean_L += prob * estimate_L
        squares_L += prob * estimate_L**2
    torch.testing.assert_close(mean_L, exact_gradient(), atol=EXACT, rtol=0)
    plain_M = log_q_M.exp()[:, None] * (value_M[:, None] * (mask_ML - LOGIT_L.sigmoid())) ** 2
    assert bool(
        (squares_L - mean_L**2 < 0.5 * (plain_M.sum(0) - mean_L**2) / num_masks).all()
    )  # what a baseline is for


def test_a_linear_guess_takes_noise_away_and_leaves_the_mean() -> None:
    """Over every pair of masks; a wrong guess costs nothing in the mean, the right one leaves no noise of its part."""
    mask_ML, slope_L = enumerate_masks(L), torch.tensor([3.0, -2.0, 0.5, 1.0], dtype=torch.float64)
    log_q_M, value_M = log_q(LOGIT_L, mask_ML), value_of(mask_ML) + mask_ML @ slope_L
    want_L = exact_gradient() + slope_L * LOGIT_L.sigmoid() * (1 - LOGIT_L.sigmoid())
    spread = []
    for guess_L in (torch.zeros(L), -slope_L, slope_L):
        found = [
            (float(log_q_M[list(pair)].sum().exp()),
             controlled(LOGIT_L, mask_ML[list(pair)], value_M[list(pair)], guess_L))
            for pair in product(range(len(mask_ML)), repeat=2)
        ]  # fmt: skip
        mean_L = torch.stack([prob * estimate_L for prob, estimate_L in found]).sum(0)
        torch.testing.assert_close(mean_L, want_L, atol=EXACT, rtol=0)
        spread.append(sum(prob * float((estimate_L - want_L).square().sum()) for prob, estimate_L in found))
    plain = sum(
        float(log_q_M[list(pair)].sum().exp())
        * float((leave_one_out(mask_ML[list(pair)], value_of(mask_ML[list(pair)])) - exact_gradient()).square().sum())
        for pair in product(range(len(mask_ML)), repeat=2)
    )
    assert spread[2] == pytest.approx(plain)  # as if the linear part were not there
    assert spread[1] > 1.5 * spread[0] > 2.5 * spread[2]


def test_slopes_are_least_squares_of_all_masks_so_far() -> None:
    generator = torch.Generator().manual_seed(0)
    slope_L, slopes = torch.tensor([3.0, -2.0, 0.5, 1.0], dtype=torch.float64), Slopes.none(L)
    assert slopes.slope_L.tolist() == [0] * L
    masks, values, weights = [], [], []
    for step in range(60):
        mask_SL = draw_masks(torch.zeros(L, dtype=torch.float64), 4, generator)
        value_S = mask_SL @ slope_L + 100 * torch.rand((), generator=generator)  # batches differ, masks are compared
        slopes = slopes.after(mask_SL, value_S)
        masks.append(mask_SL - mask_SL.mean(0))
        values.append(value_S - value_S.mean())
        weights.append(KEPT ** (59 - step))
    weight_N = torch.tensor(weights, dtype=torch.float64).repeat_interleave(4)
    mask_NL, value_N = torch.cat(masks), torch.cat(values)
    outer_LL = mask_NL.T @ (weight_N[:, None] * mask_NL) + RIDGE * torch.eye(L)
    torch.testing.assert_close(slopes.slope_L, outer_LL.inverse() @ (mask_NL.T @ (weight_N * value_N)))
    assert float((slopes.slope_L - slope_L).abs().max()) < 0.15  # the ridge takes one part in 27 away


def test_reinforce_draws_from_q_and_passes_values_on() -> None:
    seen: list[Tensor] = []

    def log_lik(mask_SL: Tensor) -> Tensor:
        seen.append(mask_SL)
        return value_of(mask_SL)

    gradient_L, drawn_SL, value_S = reinforce(LOGIT_L, log_lik, 5, torch.Generator().manual_seed(3))
    again_SL = draw_masks(LOGIT_L, 5, torch.Generator().manual_seed(3))
    [mask_SL] = seen
    assert torch.equal(mask_SL, again_SL)
    assert torch.equal(drawn_SL, mask_SL)
    assert torch.equal(value_S, value_of(mask_SL))
    assert torch.equal(gradient_L, leave_one_out(mask_SL, value_of(mask_SL)))
    with pytest.raises(InputError, match="at least two masks"):
        reinforce(LOGIT_L, value_of, 1, torch.Generator())


def test_the_mean_over_many_draws_is_the_gradient_in_float32_too() -> None:
    """20000 pairs; each place's mean lies within 6 of its standard errors but once in 10^8: false alarms under 1e-6."""
    generator = torch.Generator().manual_seed(0)
    logit_L = LOGIT_L.float()
    drawn_NL = torch.stack(
        [reinforce(logit_L, lambda z: value_of(z.double()), 2, generator)[0] for _ in range(20_000)]
    ).double()
    z_L = (drawn_NL.mean(0) - exact_gradient()) / (drawn_NL.std(0) / math.sqrt(len(drawn_NL)))
    assert float(z_L.abs().max()) < 6


def test_hard_draws_have_the_probabilities_of_q() -> None:
    """40000 draws at two temperatures, each place within 6 standard errors: false alarms under 1e-6."""
    many_NL = LOGIT_L.expand(40_000, L)
    keep_L = LOGIT_L.sigmoid()
    for temperature in (0.2, 5.0):
        mask_NL = gumbel_sigmoid(many_NL, temperature, torch.Generator().manual_seed(1))
        assert set(mask_NL.unique().tolist()) == {0.0, 1.0}
        z_L = (mask_NL.mean(0) - keep_L) / (keep_L * (1 - keep_L) / len(many_NL)).sqrt()
        assert float(z_L.abs().max()) < 6
    drawn_NL = draw_masks(LOGIT_L, 40_000, torch.Generator().manual_seed(2))
    assert float(((drawn_NL.mean(0) - keep_L) / (keep_L * (1 - keep_L) / 40_000).sqrt()).abs().max()) < 6


@pytest.mark.parametrize("hard", [True, False])
def test_a_relaxed_draw_has_the_gradient_of_its_formula(hard: bool) -> None:
    """Y = sigmoid((a + n) / tau) has dy/da = y (1 - y) / tau for the noise n that was drawn."""
    tau, coefficient_L = 0.7, torch.tensor([1.0, -2.0, 3.0, 0.5], dtype=torch.float64)
    logit_L = LOGIT_L.clone().requires_grad_()
    drawn_L = gumbel_sigmoid(logit_L, tau, torch.Generator().manual_seed(5), hard=hard)
    (gradient_L,) = torch.autograd.grad(drawn_L @ coefficient_L, logit_L)
    noise_L = torch.rand(L, generator=torch.Generator().manual_seed(5), dtype=torch.float64).logit()
    soft_L = 1 / (1 + torch.exp(-(LOGIT_L + noise_L) / tau))
    torch.testing.assert_close(gradient_L, coefficient_L * soft_L * (1 - soft_L) / tau, atol=EXACT, rtol=0)
    torch.testing.assert_close(drawn_L.detach(), soft_L.round() if hard else soft_L, atol=EXACT, rtol=0)


def test_relaxed_draws_become_hard_as_they_cool() -> None:
    logit_NL = LOGIT_L.expand(200, L)
    distance = []
    for temperature in (1.0, 0.1, 1e-3):
        soft, hard = (gumbel_sigmoid(logit_NL, temperature, torch.Generator().manual_seed(9), hard=h) for h in (0, 1))
        assert torch.equal(soft.round(), hard)
        distance.append(float((soft - hard).abs().mean()))
    assert distance[0] > 0.1
    assert distance[1] < distance[0] / 3
    assert distance[2] < 1e-3


def test_the_most_probable_mask_is_that_of_enumeration() -> None:
    logit_L = torch.tensor([0.7, -1.2, 2.0, 0.1], dtype=torch.float64)
    mask_ML = enumerate_masks(L)
    best_L = mask_ML[log_q(logit_L, mask_ML).argmax()]
    assert most_probable_mask(logit_L).tolist() == best_L.bool().tolist()
