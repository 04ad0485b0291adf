"""Alignment against counts: the optimum, soft values, best of n, DPO and re-weighting where every text is known."""

import math

import pytest
import torch

from factorlm.algebra import log_weights_of_texts
from factorlm.evaluation.alignment.exact import (
    best_of,
    best_of_bound,
    best_value,
    divergence,
    dpo_optimum,
    led_by,
    objective,
    optimum,
    soft_values,
    total_variation,
)
from factorlm.factors.sequence import FunctionFactor
from factorlm.inference.draw import Sampling, generator_of
from factorlm.inference.particles import Particles, sample_particles
from factorlm.models.table import random_table

BETAS = (0.2, 1.0, 5.0)


@pytest.fixture(scope="module")
def world() -> tuple[dict[tuple[int, ...], float], dict[tuple[int, ...], float]]:
    """Log probability and reward of every text of up to four letters; the reward knows the first letter to the last."""
    language = log_weights_of_texts(random_table("ab", 3, torch.Generator().manual_seed(0)), 4)
    language = {text: log_prob for text, log_prob in language.items() if log_prob > -math.inf}
    generator = torch.Generator().manual_seed(1)
    return language, {text: float(torch.randn((), generator=generator)) for text in language}


def vectors(world: tuple[dict[tuple[int, ...], float], ...]) -> tuple[torch.Tensor, torch.Tensor]:
    return tuple(torch.tensor(list(part.values()), dtype=torch.float64) for part in world)


@pytest.mark.parametrize("beta", BETAS)
def test_the_product_is_best_and_its_value_is_beta_log_z(world: tuple[dict, dict], beta: float) -> None:
    log_prob_X, reward_X = vectors(world)
    best_X = optimum(log_prob_X, reward_X, beta)
    value = float(objective(best_X, log_prob_X, reward_X, beta))
    assert value == pytest.approx(best_value(log_prob_X, reward_X, beta), abs=1e-12)
    generator = torch.Generator().manual_seed(2)
    noise_NX = torch.randn(10_000, len(log_prob_X), generator=generator, dtype=torch.float64)
    size_N1 = torch.logspace(-3, 1, 10_000, dtype=torch.float64)[:, None]  # from near the optimum to far from it
    rivals_NX = (best_X + size_N1 * noise_NX).log_softmax(-1)
    assert float(objective(rivals_NX, log_prob_X, reward_X, beta).max()) < value


@pytest.mark.parametrize("beta", BETAS)
def test_soft_values_lead_to_the_product(world: tuple[dict, dict], beta: float) -> None:
    language, reward = world
    value = soft_values(language, reward, beta)
    for prefix in value:  # the recursion against the definition
        below = [(p, reward[text]) for text, p in language.items() if text[: len(prefix)] == prefix]
        mass = sum(math.exp(p) for p, _ in below)
        direct = beta * math.log(sum(math.exp(p + r / beta) for p, r in below) / mass)
        assert value[prefix] == pytest.approx(direct, abs=1e-9)
    led_X = torch.tensor(list(led_by(language, value, beta).values()), dtype=torch.float64)
    assert total_variation(led_X, optimum(*vectors(world), beta)) < 1e-9


def test_the_plain_expectation_is_right_to_first_order_only(world: tuple[dict, dict]) -> None:
    language, reward = world
    mean = soft_values(language, reward, math.inf)
    apart = []
    for beta in (1.0, 10.0, 100.0):
        led_X = torch.tensor(list(led_by(language, mean, beta).values()), dtype=torch.float64)
        apart.append(total_variation(led_X, optimum(*vectors(world), beta)))
    assert apart[0] > 1e-3
    assert apart[1] < apart[0] / 30  # it falls as 1 / beta ** 2, by 100 for each tenfold
    assert apart[2] < apart[1] / 60


@pytest.mark.parametrize("beta", [0.5, 1.0])
def test_dpo_on_all_pairs_finds_the_reward_and_the_product(world: tuple[dict, dict], beta: float) -> None:
    log_prob_X, reward_X = vectors(world)
    found_X = dpo_optimum(log_prob_X, reward_X, beta)
    implicit_X = beta * (found_X - log_prob_X)
    assert float(torch.corrcoef(torch.stack([implicit_X, reward_X]))[0, 1]) > 0.99
    assert total_variation(found_X, optimum(log_prob_X, reward_X, beta)) < 0.05


def test_reweighting_dpo_is_another_beta(world: tuple[dict, dict]) -> None:
    log_prob_X, reward_X = vectors(world)
    tuned_X = dpo_optimum(log_prob_X, reward_X, 1.0)
    for weight in (0.5, 2.0, 4.0):
        again_X = (log_prob_X + weight * (tuned_X - log_prob_X)).log_softmax(0)
        retrained_X = dpo_optimum(log_prob_X, reward_X, 1.0 / weight)
        assert total_variation(again_X, retrained_X) < 0.02
        assert total_variation(again_X, optimum(log_prob_X, reward_X, 1.0 / weight)) < 0.05


def test_divergence_of_the_best_of_n_is_the_bound_where_no_text_is_likely() -> None:
    reward_X = torch.arange(1024, dtype=torch.float64)
    log_prob_X = torch.full((1024,), -math.log(1024), dtype=torch.float64)
    for n in (2, 4, 8):
        assert float(divergence(best_of(log_prob_X, reward_X, n), log_prob_X)) == pytest.approx(
            best_of_bound(n), rel=0.02
        )


def test_the_bound_holds_where_texts_are_likely_and_rewards_equal(world: tuple[dict, dict]) -> None:
    log_prob_X, reward_X = vectors(world)
    for rewards_X in (reward_X, reward_X.round()):
        for n in (1, 2, 5, 16):
            law_X = best_of(log_prob_X, rewards_X, n)
            assert float(law_X.exp().sum()) == pytest.approx(1, abs=1e-9)
            assert float(divergence(law_X, log_prob_X)) < best_of_bound(n) + 1e-12


def test_particles_estimate_z_of_a_reward_without_bias() -> None:
    table = random_table("ab", 3, torch.Generator().manual_seed(0))
    judge = FunctionFactor("reward", table.vocabulary, lambda text: text.count("a") / 0.5)
    factor = table * judge
    log_z = math.log(sum(math.exp(w) for w in log_weights_of_texts(factor, 4).values()))
    runs = 500
    populations = sample_particles(
        factor, [[]] * runs, [generator_of(0, [], n) for n in range(runs)], max_tokens=4,
        particles=Particles(number=4), sampling=Sampling(),
    )  # fmt: skip
    ratio_R = torch.tensor([math.exp(p.log_z - log_z) for p in populations], dtype=torch.float64)
    error = float(ratio_R.std()) / math.sqrt(runs)
    assert abs(float(ratio_R.mean()) - 1) < 4 * error  # false alarm rate below 1e-4
    assert error < 0.1
