"""Which documents are kept: comparisons of what was measured with numbers, joined by `and`.

    condition  = comparison ("and" comparison)*
    comparison = quantity ("<" | "<=" | ">" | ">=") number
    quantity   = log_prob | base_log_prob | num_tokens | num_bytes | bits_per_byte | factor:NAME | factor:"NAME"

A text that a ban makes impossible has log_prob -infinity and bits_per_byte infinity. A comparison with a number that
is not known (nan) fails.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from factorlm.errors import InputError, UnknownNameError
from factorlm.inference.results import Score

QUANTITIES = ("log_prob", "base_log_prob", "num_tokens", "num_bytes", "bits_per_byte")
SIGNS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
COMPARISON = re.compile(
    r"""\s*(?:factor:(?:"(?P<quoted>[^"]+)"|(?P<factor>[^\s<>="]+))|(?P<quantity>\w+))
    \s*(?P<sign><=|>=|<|>)\s*(?P<number>[^\s<>=]+)\s*""",
    re.VERBOSE,
)
JOINT = re.compile(r"and\s")


@dataclass(frozen=True)
class Comparison:
    """A quantity of a document, or a factor's evidence of it, against a number."""

    quantity: str
    is_factor: bool
    sign: str
    number: float

    def holds(self, score: Score) -> bool:
        """Whether it is true of a document."""
        value = score.log_ratios[self.quantity] if self.is_factor else float(getattr(score, self.quantity))
        return SIGNS[self.sign](value, self.number)


def parse_keep(conditions: Sequence[str], factors: Collection[str]) -> tuple[Comparison, ...]:
    """The comparisons that a document must pass, all of them.

    Args:
        conditions: as typed.
        factors: names of the composition's factors.

    Raises:
        InputError: for something that is no comparison, or a number that is not finite.
        UnknownNameError: for a quantity or a factor that there is not.
    """
    return tuple(comparison for condition in conditions for comparison in _parse(condition, factors))


def _parse(condition: str, factors: Collection[str]) -> list[Comparison]:
    found: list[Comparison] = []
    place = 0
    while True:
        match = COMPARISON.match(condition, place)
        if match is None:
            raise InputError(
                f"comparisons joined by and are needed, such as 'bits_per_byte < 1.2 and factor:positive > 3', got "
                f"{condition!r}, which cannot be read at {condition[place:].strip()[:30]!r}"
            )
        found.append(_comparison(match, condition, factors))
        place = match.end()
        if place == len(condition):
            return found
        joint = JOINT.match(condition, place)
        place = joint.end() if joint else place  # what is not joined is no comparison, and is complained of
        if joint is None:
            raise InputError(
                f"comparisons are joined by and, got {condition[place:][:30]!r} in {condition!r}; give alternatives in "
                "runs of their own"
            )


def _comparison(match: re.Match[str], condition: str, factors: Collection[str]) -> Comparison:
    factor = match["quoted"] or match["factor"]
    if factor is not None and factor not in factors:
        raise UnknownNameError.of("factor in this composition", factor, factors, "add it with --factor")
    if factor is None and match["quantity"] not in QUANTITIES:
        raise UnknownNameError.of("quantity", match["quantity"], {*QUANTITIES, "factor:NAME"})
    try:
        number = float(match["number"])
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"a finite number is needed in {condition!r}, got {match['number']!r}; compare with 1.2, say")
    return Comparison(factor or match["quantity"], factor is not None, match["sign"], number)
