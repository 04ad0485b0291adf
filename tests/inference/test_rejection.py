"""Adaptive weighted rejection: unbiased over every order, few tests, and right inside particles."""

import itertools
import math

import pytest
import torch

from factorlm.algebra import global_product, log_weights_of_texts, total_variation
from factorlm.factors.sequence import Check
from factorlm.inference import Particles, Sampling, sample_particles
from factorlm.inference.rejection import drawn_order, first_accepted
from factorlm.models.table import random_table
from factorlm.text import letters

PROB_V = torch.tensor([0.4, 0.3, 0.15, 0.1, 0.05], dtype=torch.float64)
TOKENS = letters("ab")


def share(order: tuple[int, ...]) -> float:
    """Probability of drawing the tokens in this order without replacement."""
    left, total = 1.0, 1.0
    for token in order:
        total *= float(PROB_V[token]) / left
        left -= float(PROB_V[token])
    return total


@pytest.mark.parametrize("passing", [s for n in range(6) for s in itertools.combinations(range(5), n)])
def test_weights_are_unbiased_for_every_token(passing: tuple[int, ...]) -> None:
    """E[mass 1[token = v]] = p(v) 1[v passes], by walking all 120 orders."""
    found = dict.fromkeys(range(5), 0.0)
    frequency = dict.fromkeys(range(5), 0.0)
    for order in itertools.permutations(range(5)):
        accepted = first_accepted(PROB_V, iter(order), lambda token: token in passing)
        if accepted.token is not None:
            found[accepted.token] += share(order) * accepted.mass
            frequency[accepted.token] += share(order)
        else:
            assert accepted.mass == 0
            assert not passing
    mass = sum(float(PROB_V[v]) for v in passing)
    for v in range(5):
        assert found[v] == pytest.approx(float(PROB_V[v]) if v in passing else 0.0, abs=1e-12)
        assert frequency[v] == pytest.approx(float(PROB_V[v]) / mass if v in passing else 0.0, abs=1e-12)


def test_few_tokens_are_tested() -> None:
    """Where all pass, two tests; where a share passes, about its inverse and one more."""
    assert first_accepted(PROB_V, iter(range(5)), lambda token: True).num_tests == 2
    assert first_accepted(PROB_V, iter(range(5)), lambda token: True).mass == 1.0
    assert first_accepted(PROB_V, iter(range(5)), lambda token: False).num_tests == 5


def test_orders_are_drawn_without_replacement() -> None:
    """20,000 orders: the first two tokens against their probabilities, within 5 standard errors."""
    generator = torch.Generator().manual_seed(0)
    prob_V = torch.cat([PROB_V, torch.zeros(1, dtype=torch.float64)])
    count: dict[tuple[int, int], int] = {}
    runs = 20_000
    for _ in range(runs):
        order = list(drawn_order(prob_V, generator))
        assert sorted(order) == list(range(5))  # what is impossible is not drawn
        count[order[0], order[1]] = count.get((order[0], order[1]), 0) + 1
    for pair in itertools.permutations(range(5), 2):
        want = float(PROB_V[pair[0]]) * float(PROB_V[pair[1]]) / (1 - float(PROB_V[pair[0]]))
        assert abs(count.get(pair, 0) / runs - want) <= 5 * math.sqrt(want * (1 - want) / runs)


def test_a_long_order_goes_on_behind_what_is_sorted_first() -> None:
    prob_V = torch.full((200,), 1 / 200, dtype=torch.float64)
    order = list(drawn_order(prob_V, torch.Generator().manual_seed(0)))
    assert sorted(order) == list(range(200))
    assert order != sorted(order)


def test_particles_with_a_check_sample_the_product() -> None:
    """Texts without "bb" that are not "a": Z unbiased, the law right, and the weights those of the composition."""
    check = Check("c", TOKENS, lambda text: "bb" not in text, lambda text: "bb" not in text and text != "a")
    table, other = (random_table("ab", 4, torch.Generator().manual_seed(seed)) for seed in (1, 2))
    product = table * other * check
    want, log_weight = global_product(product, 4), log_weights_of_texts(product, 4)
    log_z = math.log(math.fsum(math.exp(w) for w in log_weight.values()))
    generators = [torch.Generator().manual_seed(n) for n in range(400)]
    found = sample_particles(
        product, [[]] * 400, generators, max_tokens=6, particles=Particles(number=16), sampling=Sampling()
    )
    ratio_R = torch.tensor([math.exp(p.log_z - log_z) for p in found], dtype=torch.float64)
    assert abs(float(ratio_R.mean()) - 1) <= 4.5 * float(ratio_R.std()) / math.sqrt(len(found))
    law: dict[tuple[int, ...], float] = {}  # weighted by Z: unbiased for any number of particles
    for population, ratio in zip(found, ratio_R.tolist(), strict=True):
        assert population.num_tests > 0
        for text, weight, nats in zip(population.token_ids, population.weights, population.log_weights, strict=True):
            if weight > 0:
                law[text] = law.get(text, 0.0) + weight * ratio / len(found)
                assert nats == pytest.approx(log_weight[text], abs=1e-9)
    assert total_variation(law, want) < 0.03


def test_a_check_that_nothing_passes_is_a_dead_end() -> None:
    never = random_table("ab", 4, torch.Generator().manual_seed(1)) * Check("c", TOKENS, lambda text: False)
    [population] = sample_particles(
        never,
        [[]],
        [torch.Generator().manual_seed(0)],
        max_tokens=6,
        particles=Particles(number=4),
        sampling=Sampling(),
    )
    assert population.chosen is None
    assert population.log_z == -math.inf
    assert set(population.log_weights) == {-math.inf}
