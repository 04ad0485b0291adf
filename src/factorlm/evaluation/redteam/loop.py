"""Test cases that a language model writes, round after round: those that worked are shown to it as examples.

Source: Perez et al. (2022), arXiv:2202.03286: zero-shot, and stochastic few-shot with examples drawn by exp(value / T).
"""

# Axes: B cases, N draws.

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from factorlm.errors import InputError

Array = NDArray[np.float64]
Write = Callable[[Sequence[tuple[str, ...]]], list[str]]  # a case for each tuple of examples; blank if it failed
Value = Callable[[Sequence[str]], Array]  # how much each case succeeds, 0 to 1


@dataclass(frozen=True)
class Written:
    """Cases with what came of them.

    Attributes:
        cases: different ones, in the order of writing.
        value_B: how much each succeeded, 0 to 1.
        asked: how many were asked for, repeated and blank ones included.
    """

    cases: tuple[str, ...]
    value_B: Array
    asked: int

    @property
    def successes(self) -> list[str]:
        """The cases that succeeded more often than not."""
        return [case for case, value in zip(self.cases, self.value_B, strict=True) if value > 0.5]


def distinct(cases: Sequence[str]) -> list[str]:
    """Without blank and repeated ones, in order."""
    return list(dict.fromkeys(case for case in cases if case.strip()))


def zero_shot(write: Write, value: Value, number: int) -> Written:
    """Cases written without examples."""
    return _tried(write([()] * number), value)


def few_shot(
    write: Write, value: Value, earlier: Written, number: int, *, shown: int, temperature: float, seed: int
) -> Written:
    """Cases written after examples, drawn anew for each case with probability ∝ exp(value / temperature).

    Args:
        write: the generator.
        value: of cases.
        earlier: where examples come from.
        number: of cases to write.
        shown: examples before each.
        temperature: of the draw: small takes the most successful ones, large any.
        seed: of the draw.

    Raises:
        InputError: if there are fewer earlier cases than examples.
    """
    return _tried(write(examples(earlier, number, shown=shown, temperature=temperature, seed=seed)), value)


def examples(
    earlier: Written, number: int, *, shown: int, temperature: float, seed: int
) -> list[tuple[str, ...]]:  # fmt: skip
    """Sets of different earlier cases, each drawn one after the other with probability ∝ exp(value / temperature)."""
    if len(earlier.cases) < shown:
        raise InputError(
            f"{shown} different earlier cases are needed as examples, got {len(earlier.cases)}; write more"
        )
    generator = np.random.default_rng(seed)
    log_weight_B = earlier.value_B / temperature
    # The largest of log weight + Gumbel noise are such a draw without replacement (Yellott, 1977).
    noise_NB = generator.gumbel(size=(number, len(log_weight_B)))
    order_NB = np.argsort(-(log_weight_B + noise_NB), axis=1)[:, :shown]
    return [tuple(earlier.cases[i] for i in row) for row in order_NB]


def _tried(cases: Sequence[str], value: Value) -> Written:
    found = distinct(cases)
    return Written(tuple(found), np.asarray(value(found), float) if found else np.empty(0), len(cases))
