"""From strengths to exponents, for factors whose map is stored and for those that must be measured now."""

from __future__ import annotations

import math
import weakref

from factorlm.algebra import Factor
from factorlm.errors import InputError
from factorlm.factors.calibration import factor_strengths
from factorlm.factors.strength import StrengthMap
from factorlm.models import CausalLM


def known_map(factor: Factor) -> StrengthMap | None:
    """A factor's stored map, or the one that was measured before, if any."""
    return getattr(factor, "strengths", None) or _measured.get(factor)


_measured: weakref.WeakKeyDictionary[Factor, StrengthMap] = weakref.WeakKeyDictionary()


def strength_map(lm: CausalLM, factor: Factor) -> StrengthMap:
    """A bound factor's stored map, else one measured now over neutral states (some seconds) and remembered.

    Raises:
        InputError: for a factor whose exponent changes nothing, such as a ban.
    """
    found = known_map(factor)
    if found is None:
        found = factor_strengths(lm, factor)
        if found is None:
            name = getattr(factor, "name", "it")
            raise InputError(
                f"factor {name!r} has no strength: its exponent changes nothing; switch it on with {name}^1"
            )
        _measured[factor] = found
    return found


def exponent_of(lm: CausalLM, factor: Factor, strength: float) -> float:
    """The exponent that makes a factor, used alone, diverge by this many signed nats per token."""
    if not math.isfinite(strength):
        raise InputError(f"a strength is a finite number of nats per token, got {strength}; 0.2 is clear")
    return strength_map(lm, factor).exponent(strength) if strength else 0.0
