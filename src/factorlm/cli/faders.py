"""`--factor NAME=STRENGTH`, `NAME^EXPONENT` or `NAME`: what is asked of each factor."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from factorlm.errors import InputError

if TYPE_CHECKING:
    from factorlm.factors.doses import Choice
    from factorlm.inference import Model

HELP = (
    "A factor and how much of it: NAME=STRENGTH in signed nats per token (0.2 is clear, 0.6 strong), or NAME^EXPONENT. "
    "May be given several times."
)
CLEAR = 0.2  # the strength of a factor that is only named


@dataclass(frozen=True)
class Fader:
    """One --factor option; both numbers are None for a bare name."""

    name: str
    strength: float | None
    exponent: float | None


def parse(options: list[str]) -> list[Fader]:
    """The faders of a command line.

    Raises:
        InputError: for a number that is not finite, or a factor given twice.
    """
    faders = []
    for option in options:
        for sign in "=^":
            name, found, text = option.rpartition(sign)
            if found:
                value = number(text, name + sign)
                faders.append(Fader(name, value if sign == "=" else None, value if sign == "^" else None))
                break
        else:
            faders.append(Fader(option, None, None))
        if not faders[-1].name:
            raise InputError(f"a factor is given as NAME=STRENGTH or NAME^EXPONENT, got {option!r}")
    names = [fader.name for fader in faders]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"each factor is given once, got {name!r} {names.count(name)} times; add up its strengths")
    return faders


def compose(model: Model, faders: list[Fader], bare_exponent: float | None = None) -> Model:
    """The model under these faders.

    Args:
        model: what is steered.
        faders: what to put on it.
        bare_exponent: of factors that are only named; None gives them a clear strength, or exponent 1 to a factor
            that has no strength because it only bans.
    """
    from factorlm.factors import bind, factor
    from factorlm.inference.strengths import exponent_of

    for fader in faders:
        bound = bind(factor(fader.name), model.lm)
        if fader.exponent is not None:
            exponent = fader.exponent
        elif fader.strength is not None:
            exponent = exponent_of(model.lm, bound, fader.strength)
        elif bare_exponent is not None:
            exponent = bare_exponent
        else:
            try:
                exponent = exponent_of(model.lm, bound, CLEAR)
            except InputError:
                exponent = 1.0
        model = model * bound**exponent
    return model


def parse_targets(options: list[str]) -> dict[str, float]:
    """The wanted attribute rate of each factor, from NAME=RATE.

    Raises:
        InputError: for anything else, or a factor given twice.
    """
    targets: dict[str, float] = {}
    for option in options:
        name, found, text = option.rpartition("=")
        if not found or not name:
            raise InputError(f"a target is given as NAME=RATE, got {option!r}; positive=0.9 asks for nine in ten")
        if name in targets:
            raise InputError(f"each factor has one target, got two for {name!r}; leave one out")
        share = number(text.removesuffix("%"), f"{name}=", "--target")
        targets[name] = share / 100 if text.endswith("%") else share
    return targets


def chosen(targets: dict[str, float]) -> dict[str, Choice]:
    """The strength of each factor that reaches its target, by the dose and response on its card."""
    from factorlm.factors.doses import choose
    from factorlm.factors.store import folder_of, read_manifest

    return {name: choose(name, read_manifest(folder_of(name)).response, rate) for name, rate in targets.items()}


def number(text: str, before: str, asked_by: str = "--factor") -> float:
    """A finite number of an option.

    Raises:
        InputError: for anything else.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InputError(f"a finite number is needed in {asked_by} {before}{text}, got {text!r}; try {before}0.3")
    return value
