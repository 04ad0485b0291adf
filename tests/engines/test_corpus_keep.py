"""Conditions on documents: what they mean, and that nothing else is read as one."""

import math

import pytest

from factorlm.engines.corpus_keep import parse_keep
from factorlm.errors import InputError, UnknownNameError
from factorlm.inference.results import Score

FACTORS = ["positive", "ban('x')", "a-b"]


def score(log_prob: float = -math.log(2) * 80, **evidence: float) -> Score:
    """Ten bytes at eight bits each, by default."""
    return Score("", log_prob, -70.0, 5, 10, {"positive": 3.0, "ban('x')": -math.inf, "a-b": math.nan} | evidence)


@pytest.mark.parametrize(
    ("condition", "is_kept"),
    [
        ("bits_per_byte < 8.001", True),
        ("bits_per_byte<7.999", False),
        ("num_tokens >= 5 and num_tokens <= 5 and num_bytes > 9.5", True),
        ("num_tokens > 5", False),
        ("num_tokens < 5", False),
        ("log_prob < -55.4 and log_prob > -55.5", True),
        ("base_log_prob <= -7e1", True),
        ("factor:positive > 2.9", True),
        ("factor:positive > 3", False),
        ("factor:\"ban('x')\" < 0", True),
        ("factor:a-b < 1", False),  # not a number
        ("factor:a-b >= 1", False),
        ("  num_bytes>9   and num_bytes<11 ", True),
    ],
)
def test_conditions_mean_what_they_say(condition: str, is_kept: bool) -> None:
    assert all(comparison.holds(score()) for comparison in parse_keep([condition], FACTORS)) == is_kept


def test_an_impossible_text_has_infinite_bits() -> None:
    [comparison] = parse_keep(["bits_per_byte < 1e300"], [])
    assert not comparison.holds(score(-math.inf))


def test_several_conditions_are_joined() -> None:
    assert len(parse_keep(["num_bytes > 1 and num_bytes < 4", "log_prob < 0"], [])) == 3
    assert parse_keep([], []) == ()


@pytest.mark.parametrize(
    "condition",
    [
        "",
        "num_bytes",
        "num_bytes > ",
        "num_bytes > nan",
        "num_bytes > inf",
        "num_bytes > 1e999",
        "num_bytes == 3",
        "num_bytes > 3 or num_bytes < 1",
        "num_bytes > 3 and",
        "num_bytes > 3 andnum_bytes < 5",
        "num_bytes > 3 num_bytes < 5",
        "1 < num_bytes",
        "num_bytes > __import__('os')",
        "num_bytes > 3; num_bytes > 4",
        "factor: > 3",
    ],
)
def test_nothing_else_is_read(condition: str) -> None:
    with pytest.raises(InputError):
        parse_keep([condition], FACTORS)


def test_unknown_names_are_told_with_near_ones() -> None:
    with pytest.raises(UnknownNameError, match="bits_per_byte"):
        parse_keep(["bits_per_bite < 1"], FACTORS)
    with pytest.raises(UnknownNameError, match=r"positive.*--factor"):
        parse_keep(["factor:positiv > 1"], FACTORS)
    with pytest.raises(UnknownNameError):
        parse_keep(["__class__ < 1"], FACTORS)
