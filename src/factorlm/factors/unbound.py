"""Factors by themselves, before they meet the model whose encoder or vocabulary they read."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn
from weakref import WeakKeyDictionary

from torch import Tensor

from factorlm.algebra import Factor, State, map_leaves
from factorlm.errors import UnboundError

if TYPE_CHECKING:
    from factorlm.factors.strength import StrengthMap
    from factorlm.models import CausalLM
    from factorlm.text import Vocabulary


@dataclass(frozen=True, eq=False)
class Unbound(Factor):
    """A factor that can stand in an expression, and is given its model when it is multiplied by one.

    Attributes:
        name: what people call it.
        strengths: the map from strength to exponent, where one was measured.
    """

    name: str
    strengths: StrengthMap | None

    @abstractmethod
    def bind(self, lm: CausalLM) -> Factor:
        """The factor over this model.

        Raises:
            IncompatibleError: if it was made for another encoder.
        """

    @property
    def vocabulary(self) -> Vocabulary:
        """Known only with a model."""
        self._refuse()

    def start(self, prefix_BT: Tensor) -> State:
        """Possible only with a model."""
        self._refuse()

    def extend(self, state: State, token_B: Tensor) -> State:
        """Possible only with a model."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise UnboundError(
            f"factor {self.name!r} has no model yet; multiply it by one, as in fl.load() * fl.factor({self.name!r})"
        )


_bound: WeakKeyDictionary[Unbound, WeakKeyDictionary[CausalLM, Factor]] = WeakKeyDictionary()


def bind(factor: Factor, lm: CausalLM) -> Factor:
    """The composition with every unbound factor given this model; the same factor is bound to it only once."""

    def change(leaf: Factor) -> Factor:
        if not isinstance(leaf, Unbound):
            return leaf
        mine = _bound.setdefault(leaf, WeakKeyDictionary())
        if lm not in mine:
            mine[lm] = leaf.bind(lm)
        return mine[lm]

    return map_leaves(factor, change)
