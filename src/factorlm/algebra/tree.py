"""Walking and rewriting a composition: which factors stand in it, under which names and exponents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from factorlm.algebra.factor import Factor
from factorlm.algebra.operators import Combination, LocalProduct, Mixture, Named, Power, Product


@dataclass(frozen=True, eq=False)
class Term:
    """One factor of a product and its exponent: a number, or a tensor [B] with one for each row."""

    factor: Factor
    exponent: float | Tensor = 1.0

    @property
    def name(self) -> str:
        """The name people know the factor by."""
        return str(getattr(self.factor, "name", type(self.factor).__name__.lower()))

    @property
    def is_plain(self) -> bool:
        """Whether the factor stands as it is: one exponent for all rows, and that is one."""
        return not isinstance(self.exponent, Tensor) and self.exponent == 1.0

    def as_factor(self) -> Factor:
        """The factor raised to its exponent."""
        return self.factor if self.is_plain else Power(self.factor, self.exponent)


def flatten(factor: Factor, exponent: float | Tensor = 1.0) -> list[Term]:
    """The terms of a product of powers, nested or not; any other factor is one term."""
    if isinstance(factor, Product):
        return [term for part in factor.parts for term in flatten(part, exponent)]
    if isinstance(factor, Power):
        return flatten(factor.base, exponent * factor.exponent)
    return [Term(factor, exponent)]


def merge(terms: list[Term]) -> list[Term]:
    """One term for each factor, in order of first appearance; exponents of the same factor add."""
    merged: dict[int, Term] = {}
    for term in terms:
        key = id(term.factor)
        if key in merged:
            total = torch.as_tensor(merged[key].exponent) + torch.as_tensor(term.exponent)
            merged[key] = Term(term.factor, total if total.ndim else total.item())
        else:
            merged[key] = term
    return list(merged.values())


def names_of(terms: list[Term]) -> list[str]:
    """A name for each term, in order; where two factors share one, the later gets a number."""
    names: list[str] = []
    for term in terms:
        same = sum(name.partition("#")[0] == term.name for name in names)
        names.append(f"{term.name}#{same + 1}" if same else term.name)
    return names


def unflatten(terms: list[Term]) -> Factor:
    """The product of the terms; a single plain term is its factor itself."""
    parts = tuple(term.as_factor() for term in terms)
    return parts[0] if len(parts) == 1 else Product(parts)


def map_leaves(factor: Factor, change: Callable[[Factor], Factor]) -> Factor:
    """The same composition with every leaf (a factor that wraps no other) changed."""
    if isinstance(factor, (Combination, Mixture)):
        return replace(factor, parts=tuple(map_leaves(part, change) for part in factor.parts))
    if isinstance(factor, (Power, LocalProduct, Named)):
        return replace(factor, base=map_leaves(factor.base, change))
    return change(factor)


def rows_of(factor: Factor, rows: list[int]) -> Factor:
    """The composition for these rows of a batch: what is given by row is picked, the rest stays."""
    if isinstance(factor, (Combination, Mixture)):
        return replace(factor, parts=tuple(rows_of(part, rows) for part in factor.parts))
    if isinstance(factor, Power):
        exponent = factor.exponent
        is_by_row = isinstance(exponent, Tensor) and exponent.ndim > 0
        return Power(rows_of(factor.base, rows), exponent[rows] if is_by_row else exponent)  # type: ignore[index]
    if isinstance(factor, (LocalProduct, Named)):
        return replace(factor, base=rows_of(factor.base, rows))
    return factor.for_rows(rows)


def device_of(factor: Factor) -> torch.device:
    """Where a composition computes: the device of its first leaf that has one."""
    for leaf in leaves(factor):
        found = getattr(leaf, "device", None) or getattr(getattr(leaf, "lm", None), "device", None)
        if found is not None:
            return torch.device(found)
    return torch.device("cpu")


def leaves(factor: Factor) -> list[Factor]:
    """Every factor in a composition that wraps no other."""
    found: list[Factor] = []

    def note(leaf: Factor) -> Factor:
        found.append(leaf)
        return leaf

    map_leaves(factor, note)
    return found
