"""Factors that judge whole texts: they obey the laws, and the weight of a text is what the judge says."""

import itertools
import math

import pytest
import torch

from factorlm.algebra import Factor, laws, local_product, log_weights_of_texts
from factorlm.errors import InputError
from factorlm.factors.sequence import Check, FunctionFactor, LengthFactor, SequenceFactor, pattern_factor
from factorlm.models.table import random_table
from factorlm.text import letters

TOKENS = letters("ab")
FACTORS: dict[str, Factor] = {
    "a function": FunctionFactor("f", TOKENS, lambda text: 0.5 * text.count("a") - 0.1 * len(text)),
    "with beginnings": FunctionFactor("f", TOKENS, lambda text: text.count("ab"), lambda text: -0.3 * text.count("b")),
    "bans": FunctionFactor("f", TOKENS, lambda text: text.endswith("b"), lambda text: "aab" not in text),
    "a pattern": pattern_factor("p", "a*b?", TOKENS),
    "a check": Check("c", TOKENS, lambda text: "bb" not in text, lambda text: len(text) != 1 and "bb" not in text),
    "a length": LengthFactor("l", TOKENS, 2, 0.7),
}


@pytest.mark.parametrize("name", FACTORS)
def test_laws(name: str) -> None:
    laws.check(FACTORS[name], prefixes=[[0], [1, 0], []], texts=[[0, 1, 1, 2], [1, 1, 0, 0], [0, 0, 1, 2]])


@pytest.mark.parametrize("name", FACTORS)
def test_the_weight_of_a_text_is_what_its_judge_says(name: str) -> None:
    factor = FACTORS[name]
    assert isinstance(factor, SequenceFactor)
    for text, log_weight in log_weights_of_texts(factor, 4).items():
        want = factor.finished((), text)
        beginnings = [text[:n] for n in range(1, len(text))]
        if any(factor.unfinished((), beginning) == -math.inf for beginning in beginnings):
            want = -math.inf
        assert log_weight == pytest.approx(want, abs=1e-12)


def test_a_judge_leaves_the_local_product_blind_until_the_end() -> None:
    """Judging finished texts only changes the odds of ending, judging beginnings those of every letter."""
    table = random_table("ab", 4, torch.Generator().manual_seed(0))
    late = FunctionFactor("late", TOKENS, lambda text: 3.0 * text.startswith("a"))
    early = FunctionFactor("early", TOKENS, late.function, late.function)
    starts = {
        name: {letter: sum(p for text, p in local_product(factor, 4).items() if text[0] == letter) for letter in (0, 1)}
        for name, factor in {"none": table, "late": table * late, "early": table * early}.items()
    }
    assert starts["late"][0] / starts["late"][1] == pytest.approx(starts["none"][0] / starts["none"][1])
    assert starts["early"][0] / starts["early"][1] > 5 * starts["none"][0] / starts["none"][1]


def test_only_what_is_asked_is_judged() -> None:
    """Without a judge of beginnings each step asks about finished texts alone."""
    asked: list[str] = []
    factor = FunctionFactor("f", TOKENS, lambda text: asked.append(text) or 0.0)
    state = factor.start(torch.tensor([[0], [1]]))
    for token in (0, 1):
        state = factor.extend(state, torch.tensor([token, token]))
    assert asked == ["", "", "a", "a", "ab", "ab"]


def test_bad_judges_are_refused() -> None:
    with pytest.raises(InputError, match="regular expression"):
        pattern_factor("p", "(", TOKENS)
    with pytest.raises(InputError, match="positive width"):
        LengthFactor("l", TOKENS, 3, 0)
    for value in (math.nan, math.inf):
        with pytest.raises(InputError, match="must give nats"):
            FunctionFactor("f", TOKENS, lambda text, value=value: value).finished((), (0,))
    assert not any(
        math.isnan(w)
        for text in itertools.product(range(2), repeat=2)
        for w in FACTORS["bans"].start(torch.tensor([text])).log_weight_BV[0].tolist()
    )
