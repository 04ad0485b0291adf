"""Who is asked what: worth is uncertainty times novelty, and propensities are those of the draw."""

import itertools
import math

import numpy as np
import pytest

from factorlm.errors import InputError
from factorlm.serving.flywheel.selection import entropy, select


class Chosen:
    """A generator whose draw is an argument."""

    def __init__(self, picks: tuple[int, ...]) -> None:
        self.picks = picks

    def choice(self, rest: np.ndarray, size: int, replace: bool) -> np.ndarray:
        assert not replace
        assert size == len(self.picks)
        return rest[list(self.picks)]


def test_entropy_is_that_of_a_coin_and_of_a_die() -> None:
    share = 1 / (1 + math.exp(-2))
    coin = -share * math.log(share) - (1 - share) * math.log(1 - share)
    assert entropy([0.0, 0.0]) == pytest.approx(math.log(2), abs=1e-12)
    assert entropy([5.0] * 6) == pytest.approx(math.log(6), abs=1e-12)
    assert entropy([0.0, 2.0]) == pytest.approx(coin, abs=1e-12) == entropy([-1.0, -3.0])
    assert entropy([0.0, -800.0]) == 0.0


def test_weighing_by_the_inverse_propensity_estimates_the_whole_pool_without_bias() -> None:
    value = np.array([3.0, -1.0, 4.0, 1.0, -5.0, 9.0, 2.0])
    worth = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
    vectors = np.eye(7)
    estimates = []
    for picks in itertools.combinations(range(4), 2):  # 5 of 7 are asked, 2 of them at random from the other 4
        found = select(worth, vectors, None, 5, Chosen(picks), random_share=0.4)  # type: ignore[arg-type]
        assert found.num_random == 2
        assert [found.is_random(k) for k in range(5)] == [False] * 3 + [True] * 2
        assert len(set(found.indices)) == 5
        estimates.append(sum(value[i] / p for i, p in zip(found.indices, found.propensities, strict=True)))
    assert len(estimates) == math.comb(4, 2)
    assert np.mean(estimates) == pytest.approx(value.sum(), abs=1e-12)
    assert np.std(estimates) > 0


def test_what_is_labelled_or_chosen_already_is_not_worth_asking_again() -> None:
    uncertainty = np.array([0.7, 0.69, 0.4, 0.5])
    vectors = np.array([[1.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    draw = np.random.default_rng(0)
    assert select(uncertainty, vectors, None, 3, draw, random_share=0.0).indices == (0, 3, 2)
    labelled = np.array([[1.0, 0, 0]])
    assert select(uncertainty, vectors, labelled, 2, draw, random_share=0.0).indices == (3, 2)


def test_everything_is_asked_where_the_budget_allows_it() -> None:
    found = select(np.ones(3), np.eye(3), None, 9, np.random.default_rng(0))
    assert sorted(found.indices) == [0, 1, 2]
    assert found.propensities == (1.0, 1.0, 1.0)
    with pytest.raises(InputError, match="budget of at least 1"):
        select(np.ones(3), np.eye(3), None, 0, np.random.default_rng(0))
