"""Estimators against numbers that are known exactly."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from factorlm.inference.uncertainty import inverse
from factorlm.inference.uncertainty.estimators import ESTIMATORS, Tools
from factorlm.inference.uncertainty.evidence import Answer, Evidence, Variant
from factorlm.inference.uncertainty.meanings import Meanings, discrete_semantic_entropy, semantic_entropy

Array = NDArray[np.float64]
TOWNS = {"paris": 0, "the city of paris": 0, "rome": 1, "oslo": 2}


def encode(texts: object) -> Array:
    """A vector for each different text, at right angles to the others."""
    texts = list(texts)  # type: ignore[call-overload]
    place = {text: i for i, text in enumerate(sorted(set(texts)))}
    return np.eye(max(2, len(place)))[[place[text] for text in texts]]


def answers(*texts: str, log_prob: float = -1.0) -> tuple[Answer, ...]:
    return tuple(Answer(text, log_prob, 1) for text in texts)


def constant(number: int, similarity: float) -> Array:
    """Every pair of different texts is equally similar."""
    found = np.full((number, number), similarity)
    np.fill_diagonal(found, 1.0)
    return found


# The grid of the method card, n = 9 variants beside the question: Inv-Entropy by similarity of inputs and of outputs.
OUTPUTS = (1.0, 0.9, 0.7, 0.5, 0.3, 0.1, 0.0)
GRID = {
    0.8: (2.303, 2.306, 2.314, 2.328, 2.356, 2.433, 2.566),
    0.3: (2.303, 2.327, 2.391, 2.493, 2.675, 3.091, 3.536),
    0.0: (2.303, 2.427, 2.723, 3.100, 3.536, 3.378, 0.0),
}


@pytest.mark.parametrize("like", GRID)
def test_inverse_entropy_reproduces_the_grid(like: float) -> None:
    found = [inverse.inverse_entropy(constant(10, like), constant(10, out)) for out in OUTPUTS]
    assert found == pytest.approx(GRID[like], abs=6e-4)  # three decimals


def test_inverse_probability_is_the_closed_form_and_that_of_a_slow_twin() -> None:
    n, eps_x, eps_y = 9, 0.4, 0.7
    formula = (1 + n - n * eps_x - n * eps_y + n * eps_x * eps_y) / ((n + 1 - n * eps_x) * (n + 1 - n * eps_y))
    prob_N = inverse.inverse_probs(constant(10, 1 - eps_x), constant(10, 1 - eps_y))
    assert prob_N == pytest.approx([formula] * 10, abs=1e-12)
    generator = np.random.default_rng(0)
    input_NN, output_NN = generator.random((2, 6, 6)) + 0.1
    slow = [
        sum(output_NN[i, j] / sum(output_NN[i]) * input_NN[j, i] / sum(input_NN[j]) for j in range(6)) for i in range(6)
    ]
    assert inverse.inverse_probs(input_NN, output_NN) == pytest.approx(slow, abs=1e-12)


def test_equal_answers_give_the_log_of_the_number_of_variants() -> None:
    variants = [Variant(f"question {i}", answers("Paris", "Paris")) for i in range(6)]
    assert inverse.estimate(variants, encode, draws=4) == pytest.approx(math.log(6), abs=1e-12)
    assert not inverse.is_past_turn(variants, encode, draws=4)
    two = [Variant("question 1", answers("Paris")), Variant("question 2", answers("Rome"))]
    assert inverse.is_past_turn(two, encode, draws=1)  # both shares are 5/9


def test_an_empty_answer_is_like_empty_ones_only() -> None:
    found = inverse.answer_similarity(["Paris", "", " ", "Rome"], encode)
    assert found[1, 2] == 1.0
    assert found[0, 1] == found[3, 2] == 0.0
    assert found[0, 3] == 0.5  # at right angles


def test_semantic_entropy_is_zero_for_one_meaning_and_log_n_for_n() -> None:
    meanings = Meanings(aliases={"city of paris": "paris"})
    one = answers("Paris", "the city of Paris", "paris.", "Paris")
    clusters = meanings.clusters("Where?", [a.text for a in one])
    assert clusters == [0, 0, 0, 0]
    assert semantic_entropy(clusters, one) == 0.0
    assert discrete_semantic_entropy(clusters) == 0.0
    many = answers("Paris", "Rome", "Oslo", "Bern")
    clusters = meanings.clusters("Where?", [a.text for a in many])
    assert semantic_entropy(clusters, many) == pytest.approx(math.log(4), abs=1e-12)
    assert discrete_semantic_entropy(clusters) == pytest.approx(math.log(4), abs=1e-12)


def test_semantic_entropy_weighs_by_likelihood_per_token() -> None:
    found = (Answer("Paris", math.log(0.6), 1), Answer("Rome", 2 * math.log(0.2), 2), Answer("Paris", math.log(0.2), 1))
    share = np.array([0.8, 0.2])
    assert semantic_entropy([0, 1, 0], found) == pytest.approx(float(-(share * np.log(share)).sum()), abs=1e-12)
    assert discrete_semantic_entropy([0, 1, 0]) == pytest.approx(math.log(3) - 2 / 3 * math.log(2), abs=1e-12)


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("The Eiffel Tower", "eiffel tower.", True),
        ("12 dollars", "$12.0 dollars", True),
        ("12", "13", False),
        ("12 apples", "12 pears", False),
        ("in 1999", "in", False),
        ("", "", True),
        ("", "Paris", False),
        ("Paris", "Rome", False),
        ("it is allowed by all the laws", "it is not allowed by all the laws", False),
    ],
)
def test_what_means_the_same(first: str, second: str, same: bool) -> None:
    assert Meanings(lambda texts: np.ones((len(texts), 1))).same("Q?", first, second) == same


def test_long_answers_are_compared_by_their_vectors() -> None:
    near = Meanings(lambda texts: np.ones((len(texts), 1)))
    far = Meanings(lambda texts: np.eye(2)[: len(texts)])
    long, other = "because the sun warms the whole ground", "since the ground is warmed by sunlight"
    assert near.same("Why?", long, other)
    assert not far.same("Why?", long, other)


def test_every_estimator_says_more_of_a_surer_answer() -> None:
    tools = Tools(encode, Meanings())
    sure = Evidence("Q?", Answer("Paris", -0.1, 1), answers("Paris", "Paris", log_prob=-0.1), 2.0, 2.0,
                    tuple(Variant(f"Q{i}", answers("Paris")) for i in range(4)), 0.0)  # fmt: skip
    unsure = Evidence("Q?", Answer("Paris", -3.0, 1), answers("Rome", "Oslo", log_prob=-3.0), -2.0, -2.0,
                      tuple(Variant(f"Q{i}", answers(f"Town{i}")) for i in range(4)), 0.5)  # fmt: skip
    for name, estimator in ESTIMATORS.items():
        high, low = estimator.confidence(sure, tools), estimator.confidence(unsure, tools)
        assert high > low, name
        assert 0 <= estimator.raw_probability(low) <= estimator.raw_probability(high) <= 1, name
