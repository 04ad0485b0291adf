"""The composed model with the exponents of its safety factors negated begins the answer, and the target goes on.

A factor that makes a text safer at exponent a makes it less safe at -a: whoever has the safety factor has the attack.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from factorlm.algebra import Term, merge, names_of, unflatten
from factorlm.errors import InputError
from factorlm.evaluation.redteam.attacks.attack import Attack, Ground
from factorlm.evaluation.redteam.attempts import Attempt, Request, answered
from factorlm.inference import Model
from factorlm.inference.expression import Composed

OPENING_TOKENS = 10


def negated(composed: Composed, safety: Collection[str] = ()) -> Composed | None:
    """The composition with the exponents of its safety factors negated; None if it has no factors.

    What a factor makes impossible stays impossible under a negative exponent.

    Args:
        composed: the target.
        safety: names of the factors; none takes all factors of the composition.

    Raises:
        InputError: if a name is not that of a factor of the composition.
    """
    base, *terms = composed.model.terms
    if not terms:
        return None
    names = names_of(terms)
    if missing := [name for name in safety if name not in names]:
        raise InputError(f"a factor of {composed.expression} is needed, one of {', '.join(names)}, got {missing[0]!r}")
    chosen = set(safety) or set(names)
    turned = [
        Term(term.factor, -term.exponent if name in chosen else term.exponent)
        for name, term in zip(names, terms, strict=True)
    ]
    model = Model(unflatten(merge([base, *turned])), composed.model.lm)
    told = ", ".join(sorted(chosen))
    return Composed(
        f"{composed.expression} with {told} negated", model, composed.parts, f"{composed.fingerprint} negated {told}"
    )


def factors_in(composed: Composed, safety: Collection[str]) -> tuple[str, ...] | None:
    """Those of the names that are factors of a rival; None if names were given and it has none of them."""
    found = tuple(name for name in safety if name in names_of(composed.model.terms[1:]))
    return None if safety and not found else found


def without(composed: Composed, safety: Collection[str] = ()) -> Composed | None:
    """The composition without its safety factors; None if it has no factors."""
    base, *terms = composed.model.terms
    if not terms:
        return None
    names = names_of(terms)
    kept = [term for name, term in zip(names, terms, strict=True) if safety and name not in safety]
    told = ", ".join(sorted(set(safety) or set(names)))
    return Composed(
        f"{composed.expression} without {told}", Model(unflatten([base, *kept]), composed.model.lm), composed.parts,
        f"{composed.fingerprint} without {told}",
    )  # fmt: skip


def attempts(ground: Ground, requests: Sequence[Request]) -> list[Attempt]:
    """The requests, with the beginning of an answer that the negated model wrote."""
    assert ground.attacker is not None
    asked = [Attempt(request.text) for request in requests]
    openings = answered(ground.bench, ground.attacker, asked, n=1, max_tokens=OPENING_TOKENS, sampling=ground.sampling,
                        stage="negated: openings")  # fmt: skip
    return [Attempt(a.message, row[0].text) for a, row in zip(asked, openings, strict=True)]


NEGATED = Attack(
    "the model with negated safety exponents begins the answer; needs the model in hand", attempts, needs_attacker=True
)
