"""Answers against right answers: exact match, overlap of words, the final number, and choices by log probability.

Sources: exact match and F1 over words, Rajpurkar et al. (2016); the final number of worked answers, Cobbe et al.
(2021); MC1 and MC2, Lin et al. (2021).
"""

# Axes: Q questions, S numbers of right answers.

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from decimal import Decimal

import numpy as np
from numpy.typing import NDArray

from factorlm.text.comparing import NUMBER, last_number, normalized

Array = NDArray[np.float64]
FINAL = "####"  # stands before the final number of worked answers
FALSE_ALARM = 0.05


def exact_match(answer: str, right: Sequence[str]) -> bool:
    """Whether an answer is one of the right ones, as normalised."""
    return normalized(answer) in {normalized(text) for text in right}


def token_f1(answer: str, right: Sequence[str]) -> float:
    """Harmonic mean of precision and recall of words against the right answer that is nearest, as normalised.

    Two texts without any word agree; a text without words has nothing in common with one that has some.
    """
    return max((_f1(normalized(answer).split(), normalized(text).split()) for text in right), default=0.0)


def final_number(text: str) -> Decimal | None:
    """The number that a worked answer ends with: the first after ####, else the last of all."""
    _, marked, after = text.partition(FINAL)
    first = NUMBER.search(after) if marked else None
    return last_number(after[: first.end()]) if first else last_number(text)


def choice_share(log_probs: Sequence[float], is_right: Sequence[bool]) -> float:
    """Share of the probability of all choices that goes to right ones: MC2, or how sure a model is of one choice.

    Nan where every choice is impossible.
    """
    log_prob_Q = np.asarray(log_probs, float)
    if not len(log_prob_Q) or log_prob_Q.max() == -np.inf:
        return float("nan")
    weight_Q = np.exp(log_prob_Q - log_prob_Q.max())
    return float(weight_Q[np.asarray(is_right, bool)].sum() / weight_Q.sum())


def top_is_right(values: Sequence[float], is_right: Sequence[bool]) -> float:
    """Whether the choice of largest value is right; of several equally large ones, the share that is.

    Choices that are all impossible are tied like any others.
    """
    tied = [right for value, right in zip(values, is_right, strict=True) if value == max(values)]
    return sum(tied) / len(tied)


def least_to_beat(chance_Q: Sequence[float] | Array) -> float | None:
    """The smallest accuracy that guessing reaches or exceeds in at most 5 % of all tries.

    The number of right guesses is a sum of independent events with these chances; its distribution is exact.

    Args:
        chance_Q: of guessing each question right.

    Returns:
        None if even all questions right would be no surprise.
    """
    prob_S = np.ones(1)
    for chance in chance_Q:
        prob_S = np.convolve(prob_S, [1 - chance, chance])
    tail_S = prob_S[::-1].cumsum()[::-1]  # of at least that many
    rare = np.flatnonzero(tail_S <= FALSE_ALARM)
    return float(rare[0] / (len(prob_S) - 1)) if len(rare) else None


def _f1(words: list[str], right: list[str]) -> float:
    if not words or not right:
        return float(words == right)
    num_same = (Counter(words) & Counter(right)).total()
    return 2 * num_same / (len(words) + len(right))
