"""Answers judged by hand; the distribution of guesses against scipy's and against a count of all outcomes."""

import itertools
import math
from decimal import Decimal

import pytest
from scipy.stats import binom

from factorlm.evaluation.answers import (
    choice_share,
    exact_match,
    final_number,
    last_number,
    least_to_beat,
    normalized,
    token_f1,
    top_is_right,
)


def test_answers_are_compared_without_case_articles_and_punctuation() -> None:
    assert normalized(" The  U.S., an  Apple! ") == "us apple"
    assert normalized("theatre and another") == "theatre and another"
    assert exact_match("the Broncos.", ["Panthers", "Broncos"])
    assert not exact_match("the Bronco", ["Panthers", "Broncos"])
    assert not exact_match("", ["Panthers"])


@pytest.mark.parametrize(
    ("answer", "right", "f1"),
    [
        ("the Denver Broncos", ["Denver Broncos"], 1.0),
        ("Broncos", ["Denver Broncos"], 2 / 3),  # precision 1, recall 1/2
        ("Denver Broncos won it all", ["Denver Broncos"], 2 * 0.4 * 1 / 1.4),
        ("Panthers", ["Denver Broncos"], 0.0),
        ("red red blue", ["red blue blue"], 2 / 3),  # each word counts as often as both have it
        ("Broncos", ["Panthers", "Denver Broncos", "Broncos"], 1.0),
        ("", ["Denver"], 0.0),
        ("the", ["a"], 1.0),
    ],
)
def test_f1_over_words(answer: str, right: list[str], f1: float) -> None:
    assert token_f1(answer, right) == pytest.approx(f1)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("She makes $1,234.50.", "1234.5"),
        ("5 and then 12", "12"),
        ("16-3", "3"),
        ("(16)-3", "3"),
        ("it fell to -3", "-3"),
        ("minus dollars: -$5", "-5"),
        ("1,2", "2"),
        ("12,345,678 people", "12345678"),
        ("1,2345", "2345"),
        ("3.5.", "3.5"),
        ("20%", "20"),
        ("none at all", None),
        ("", None),
    ],
)
def test_last_number(text: str, number: str | None) -> None:
    assert last_number(text) == (None if number is None else Decimal(number))


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("2 + 2 = 4\n#### 4", 4),
        ("2 + 2 = 4\n#### 4\n#### 9 of 10", 4),  # what comes after the answer does not count
        ("2 + 2 = 4", 4),
        ("so 4 ####", 4),
        ("#### $1,000.00", 1000),
    ],
)
def test_final_number(text: str, number: int) -> None:
    assert final_number(text) == number


def test_share_of_right_answers() -> None:
    log_probs = [math.log(0.1), math.log(0.2), math.log(0.1)]
    assert choice_share(log_probs, [True, False, False]) == pytest.approx(0.25)
    assert choice_share(log_probs, [True, False, True]) == pytest.approx(0.5)
    assert choice_share([x - 5000 for x in log_probs], [False, True, False]) == pytest.approx(0.5)
    assert choice_share([-math.inf, -1.0], [True, False]) == 0
    assert math.isnan(choice_share([-math.inf, -math.inf], [True, False]))


def test_ties_are_shared() -> None:
    assert top_is_right([1.0, 0.5], [True, False]) == 1
    assert top_is_right([0.5, 1.0], [True, False]) == 0
    assert top_is_right([1.0, 1.0, 0.0, 1.0], [True, False, True, False]) == pytest.approx(1 / 3)
    assert top_is_right([-math.inf, -math.inf], [True, False]) == 0.5


@pytest.mark.parametrize(("number", "chance"), [(60, 0.2), (5, 0.25), (200, 0.5)])
def test_least_to_beat_is_a_binomial_quantile(number: int, chance: float) -> None:
    least = least_to_beat([chance] * number)
    assert least is not None
    right = round(least * number)
    assert binom.sf(right - 1, number, chance) <= 0.05 < binom.sf(right - 2, number, chance)


def test_least_to_beat_with_different_chances_is_a_count_of_all_outcomes() -> None:
    chances = [0.5, 0.25, 0.2, 0.1, 0.3]
    outcomes = {
        hits: math.prod(p if hit else 1 - p for p, hit in zip(chances, hits, strict=True))
        for hits in itertools.product((0, 1), repeat=5)
    }
    tail = [sum(p for hits, p in outcomes.items() if sum(hits) >= number) for number in range(6)]
    assert least_to_beat(chances) == next(n for n in range(6) if tail[n] <= 0.05) / 5
    assert least_to_beat([0.5] * 4) is None  # all four right by guessing has a chance of 1/16
