"""K language models over one vocabulary, run side by side: each row of a batch is read by the one it is given."""

# Axes: B batch, K components, R rows chosen, T time, V vocabulary.

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from factorlm.algebra import PAD, Factor, State, device_of
from factorlm.algebra.factor import shared_vocabulary
from factorlm.errors import InputError

if TYPE_CHECKING:
    from factorlm.text import Vocabulary


class Ensemble(ABC):
    """Language models that differ in their assumptions; a row of a batch says which one reads it."""

    @property
    @abstractmethod
    def vocabulary(self) -> Vocabulary:
        """The tokens of all of them."""

    @property
    @abstractmethod
    def num_components(self) -> int:
        """K."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """Where they compute."""

    @abstractmethod
    def start(self, prefix_BT: Tensor, component_B: Tensor) -> State:
        """Read a batch of prefixes, each row with its component; see Factor."""

    @abstractmethod
    def extend(self, state: State, token_B: Tensor) -> State:
        """See Factor."""

    @abstractmethod
    def extend_through(self, state: State, token_BT: Tensor) -> tuple[Tensor, State]:
        """See Factor."""

    @abstractmethod
    def reorder(self, state: State, row_R: Tensor) -> State:
        """See Factor; a row keeps its component."""

    @abstractmethod
    def trim(self, state: State, num_tokens_B: Tensor) -> State:
        """See Factor."""

    @abstractmethod
    def steps(self, prefix_BT: Tensor, text_BT: Tensor, component_B: Tensor) -> Iterator[Tensor]:
        """See Factor; each row with its component."""

    @abstractmethod
    def score(self, prefix_BT: Tensor, text_BT: Tensor, component_B: Tensor) -> Tensor:
        """See Factor; each row with its component."""

    def component(self, index: int) -> Component:
        """One of them alone, as a factor."""
        if not 0 <= index < self.num_components:
            raise InputError(f"components are numbered from 0 to {self.num_components - 1}, got {index}")
        return Component(self, index)


@dataclass(frozen=True, eq=False)
class Component(Factor):
    """One language model of an ensemble, reading every row."""

    ensemble: Ensemble
    index: int

    @property
    def vocabulary(self) -> Vocabulary:
        """That of the ensemble."""
        return self.ensemble.vocabulary

    @property
    def device(self) -> torch.device:
        """That of the ensemble."""
        return self.ensemble.device

    def start(self, prefix_BT: Tensor) -> State:
        """See Factor."""
        return self.ensemble.start(prefix_BT, self._everywhere(prefix_BT))

    def extend(self, state: State, token_B: Tensor) -> State:
        """See Factor."""
        return self.ensemble.extend(state, token_B)

    def extend_through(self, state: State, token_BT: Tensor) -> tuple[Tensor, State]:
        """See Factor."""
        return self.ensemble.extend_through(state, token_BT)

    def reorder(self, state: State, row_R: Tensor) -> State:
        """See Factor."""
        return self.ensemble.reorder(state, row_R)

    def trim(self, state: State, num_tokens_B: Tensor) -> State:
        """See Factor."""
        return self.ensemble.trim(state, num_tokens_B)

    def steps(self, prefix_BT: Tensor, text_BT: Tensor) -> Iterator[Tensor]:
        """See Factor."""
        return self.ensemble.steps(prefix_BT, text_BT, self._everywhere(prefix_BT))

    def score(self, prefix_BT: Tensor, text_BT: Tensor) -> Tensor:
        """See Factor."""
        return self.ensemble.score(prefix_BT, text_BT, self._everywhere(prefix_BT))

    def _everywhere(self, prefix_BT: Tensor) -> Tensor:
        return torch.full((prefix_BT.shape[0],), self.index)


@dataclass(frozen=True, eq=False)
class Separate(Ensemble):
    """Any language models: the rows of each are a batch of their own.

    Attributes:
        parts: the models, normalised factors over one vocabulary.
    """

    parts: tuple[Factor, ...]

    @property
    def vocabulary(self) -> Vocabulary:
        """See Ensemble."""
        return shared_vocabulary(self.parts)

    @property
    def num_components(self) -> int:
        """See Ensemble."""
        return len(self.parts)

    @property
    def device(self) -> torch.device:
        """See Ensemble."""
        return device_of(self.parts[0])

    def start(self, prefix_BT: Tensor, component_B: Tensor) -> State:
        """See Ensemble."""
        rows = _by_component(component_B)
        states = tuple(self.parts[k].start(_without_padding(prefix_BT[row_R])) for k, row_R in rows)
        return _together(tuple((k, row_R, state) for (k, row_R), state in zip(rows, states, strict=True)))

    def extend(self, state: State, token_B: Tensor) -> State:
        """See Ensemble."""
        return _together(tuple((k, row_R, self.parts[k].extend(s, token_B[row_R])) for k, row_R, s in state.memory))

    def extend_through(self, state: State, token_BT: Tensor) -> tuple[Tensor, State]:
        """See Ensemble."""
        read = [(k, row_R, *self.parts[k].extend_through(s, token_BT[row_R])) for k, row_R, s in state.memory]
        log_weight_BTV = _scattered([(row_R, found) for _, row_R, found, _ in read])
        return log_weight_BTV, _together(tuple((k, row_R, after) for k, row_R, _, after in read))

    def reorder(self, state: State, row_R: Tensor) -> State:
        """See Ensemble."""
        row_R = row_R.cpu()
        groups = []
        for k, own_R, inner in state.memory:
            is_own_RN = row_R[:, None] == own_R[None]
            place_R, found_R = is_own_RN.nonzero(as_tuple=True)
            if len(place_R):
                groups.append((k, place_R, self.parts[k].reorder(inner, found_R)))
        return _together(tuple(groups), state.log_weight_BV[row_R])

    def trim(self, state: State, num_tokens_B: Tensor) -> State:
        """See Ensemble."""
        return _together(tuple((k, row_R, self.parts[k].trim(s, num_tokens_B[row_R])) for k, row_R, s in state.memory))

    def steps(self, prefix_BT: Tensor, text_BT: Tensor, component_B: Tensor) -> Iterator[Tensor]:
        """See Ensemble."""
        rows = _by_component(component_B)
        streams = [self.parts[k].steps(_without_padding(prefix_BT[row_R]), text_BT[row_R]) for k, row_R in rows]
        for found in zip(*streams, strict=True):
            yield _scattered([(row_R, log_weight_RV) for (_, row_R), log_weight_RV in zip(rows, found, strict=True)])

    def score(self, prefix_BT: Tensor, text_BT: Tensor, component_B: Tensor) -> Tensor:
        """See Ensemble."""
        found = [
            (row_R, self.parts[k].score(_without_padding(prefix_BT[row_R]), text_BT[row_R]))
            for k, row_R in _by_component(component_B)
        ]
        return _scattered(found) if found else torch.zeros(text_BT.shape)


def _by_component(component_B: Tensor) -> list[tuple[int, Tensor]]:
    """The rows of each; their numbers stay on the processor, where they can index whatever is read."""
    component_B = component_B.cpu()
    return [(int(k), (component_B == k).nonzero()[:, 0]) for k in component_B.unique()]


def _without_padding(prefix_BT: Tensor) -> Tensor:
    """Rows that need less padding now that longer ones are elsewhere."""
    used_T = (prefix_BT != PAD).any(0).nonzero()[:, 0]
    return prefix_BT[:, int(used_T[0]) :] if len(used_T) else prefix_BT[:, :0]


def _scattered(found: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Rows back in their places."""
    place_B = torch.cat([row_R for row_R, _ in found])
    values = torch.cat([value for _, value in found])
    return values[place_B.argsort().to(values.device)]


def _together(groups: tuple[tuple[int, Tensor, State], ...], log_weight_BV: Tensor | None = None) -> State:
    return State(
        log_weight_BV
        if log_weight_BV is not None
        else lambda: _scattered([(row_R, state.log_weight_BV) for _, row_R, state in groups]),
        groups,
    )
