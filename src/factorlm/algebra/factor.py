"""The protocol that everything obeys: a factor weighs texts token by token."""

# Axes: B batch, R rows chosen, T time, V vocabulary.

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from factorlm.errors import InputError

if TYPE_CHECKING:
    from factorlm.text import Vocabulary

PAD = -1  # fills ragged batches of tokens: prefixes on the left, texts on the right


class State:
    """What a factor knows after reading a prefix. Never changed in place: an old state stays good.

    Args:
        log_weight: of each next token, or what computes it when somebody asks: states that are only gone on from
            (after a wrong guess, say) then cost nothing.
        memory: caches and counters, whose tensors have B rows each.
    """

    __slots__ = ("_log_weight", "memory")

    def __init__(self, log_weight: Tensor | Callable[[], Tensor], memory: Any = ()) -> None:
        self._log_weight = log_weight
        self.memory = memory

    @property
    def log_weight_BV(self) -> Tensor:
        """Log weight of each next token, in nats; -inf is impossible."""
        if not isinstance(self._log_weight, Tensor):
            self._log_weight = self._log_weight()
        return self._log_weight


class Factor(ABC):
    """A non-negative weight on texts, read token by token: the weight of a text is the product of its steps.

    A subclass must give `vocabulary`, `start` and `extend`. `reorder` works for every memory made of tensors,
    tuples, dicts and dataclasses; `trim` must be given for states that shall be cut back. The laws that every
    factor must obey are in `factorlm.algebra.laws`.

    `p * q`, `p / q` and `p ** a` multiply weights of whole texts; `p | q` and `p & q` take the larger and the
    smaller weight at each token.
    """

    @property
    @abstractmethod
    def vocabulary(self) -> Vocabulary:
        """The tokens that this factor weighs."""

    @abstractmethod
    def start(self, prefix_BT: Tensor) -> State:
        """Read a batch of prefixes, filled on the left with PAD; prefixes themselves are not weighed."""

    @abstractmethod
    def extend(self, state: State, token_B: Tensor) -> State:
        """Read one more token in each row."""

    def extend_through(self, state: State, token_BT: Tensor) -> tuple[Tensor, State]:
        """Read at least one more token in each row: what each is followed by, [B, T, V], and the last state.

        Factors that read several tokens at the price of one override this; speculation needs it.
        """
        log_weights = []
        for token_B in token_BT.unbind(1):
            state = self.extend(state, token_B)
            log_weights.append(state.log_weight_BV)
        return torch.stack(log_weights, 1), state

    def reorder(self, state: State, row_R: Tensor) -> State:
        """The state with these rows, which may be left out, repeated and moved."""
        return State(state.log_weight_BV[row_R], select_rows(state.memory, row_R))

    def trim(self, state: State, num_tokens_B: Tensor) -> State:
        """The state before the last num_tokens_B[b] tokens of each row were read."""
        raise NotImplementedError(f"{type(self).__name__} cannot be trimmed; give it a `trim` method")

    def steps(self, prefix_BT: Tensor, text_BT: Tensor) -> Iterator[Tensor]:
        """Log weights [B, V] from which each token of whole texts is taken, one time after the other.

        Factors that can read a whole text at once override this; what they give after PAD means nothing.
        """
        if text_BT.shape[1] == 0:
            return
        state = self.start(prefix_BT)
        yield state.log_weight_BV
        for token_B in text_BT[:, :-1].unbind(1):
            state = self.extend(state, token_B.clamp(min=0))
            yield state.log_weight_BV

    def score(self, prefix_BT: Tensor, text_BT: Tensor) -> Tensor:
        """Log weight of each token of whole texts, [B, T], in nats; zero where text_BT is PAD.

        Args:
            prefix_BT: what was read before, filled on the left with PAD.
            text_BT: the texts to weigh, filled on the right with PAD.
        """
        chosen = []
        for log_weight_BV, token_B in zip(self.steps(prefix_BT, text_BT), text_BT.unbind(1), strict=True):
            token_B = token_B.to(log_weight_BV.device)
            step_B = log_weight_BV.gather(1, token_B.clamp(min=0)[:, None])[:, 0]
            chosen.append(torch.where(token_B == PAD, 0.0, step_B))
        return torch.stack(chosen, 1) if chosen else torch.zeros(text_BT.shape)

    def for_rows(self, rows: list[int]) -> Factor:
        """The factor for these rows of a batch: itself, unless it has something of its own for each row."""
        return self

    def __mul__(self, other: Factor) -> Factor:
        from factorlm.algebra.operators import Product

        return Product((self, other)) if isinstance(other, Factor) else NotImplemented

    def __truediv__(self, other: Factor) -> Factor:
        from factorlm.algebra.operators import Power, Product

        return Product((self, Power(other, -1.0))) if isinstance(other, Factor) else NotImplemented

    def __pow__(self, exponent: float | Tensor) -> Factor:
        from factorlm.algebra.operators import Power

        return Power(self, exponent)

    def __or__(self, other: Factor) -> Factor:
        from factorlm.algebra.operators import Union

        return Union((self, other)) if isinstance(other, Factor) else NotImplemented

    def __and__(self, other: Factor) -> Factor:
        from factorlm.algebra.operators import Intersection

        return Intersection((self, other)) if isinstance(other, Factor) else NotImplemented


def select_rows(memory: Any, row_R: Tensor) -> Any:
    """Take these rows of every tensor in a nest of tuples, dicts, states and dataclasses."""
    if isinstance(memory, Tensor):
        return memory[row_R]
    if isinstance(memory, State):
        return State(memory.log_weight_BV[row_R], select_rows(memory.memory, row_R))
    if isinstance(memory, tuple):
        return tuple(select_rows(item, row_R) for item in memory)
    if isinstance(memory, dict):
        return {key: select_rows(item, row_R) for key, item in memory.items()}
    if is_dataclass(memory) and not isinstance(memory, type):
        return replace(memory, **{f.name: select_rows(getattr(memory, f.name), row_R) for f in fields(memory)})
    if memory is None:
        return None
    raise TypeError(f"cannot take rows of {type(memory).__name__}; give the factor its own `reorder`")


def end_together(x_BT: Tensor, num_tokens_B: Tensor) -> Tensor:
    """Drop the last num_tokens_B[b] entries of each row along axis 1, and move rows right so that they end together.

    What enters on the left is a copy of the first entry; callers mask it or never read it.
    """
    length = x_BT.shape[1]
    kept = length - int(num_tokens_B.min())
    index_BT = torch.arange(length - kept, length, device=x_BT.device)[None] - num_tokens_B[:, None]
    return x_BT[torch.arange(x_BT.shape[0], device=x_BT.device)[:, None], index_BT.clamp(min=0)]


def without_last(token_BT: Tensor, num_tokens_B: Tensor) -> Tensor:
    """Rows of tokens without the last num_tokens_B[b] of each; they still end together, filled on the left with PAD."""
    index_BT = torch.arange(token_BT.shape[1], device=token_BT.device)[None] - num_tokens_B.to(token_BT)[:, None]
    return torch.where(index_BT < 0, PAD, token_BT.gather(1, index_BT.clamp(min=0)))


def pad_left(rows: list[list[int]]) -> Tensor:
    """A batch of prefixes [B, T], filled on the left with PAD."""
    width = max(map(len, rows), default=0)
    return torch.tensor([[PAD] * (width - len(row)) + row for row in rows], dtype=torch.long).reshape(len(rows), width)


def pad_right(rows: list[list[int]]) -> Tensor:
    """A batch of texts [B, T], filled on the right with PAD."""
    width = max(map(len, rows), default=0)
    return torch.tensor([row + [PAD] * (width - len(row)) for row in rows], dtype=torch.long).reshape(len(rows), width)


def shared_vocabulary(parts: tuple[Factor, ...]) -> Vocabulary:
    """The one vocabulary of all parts.

    Raises:
        InputError: if there are no parts, or two parts have different vocabularies.
    """
    if not parts:
        raise InputError("an operator needs at least one factor, got none")
    first, *rest = (part.vocabulary for part in parts)
    for other in rest:
        if other != first:
            raise InputError(
                f"factors can be combined only over one vocabulary, got {first.size} tokens ({first.fingerprint}) "
                f"and {other.size} tokens ({other.fingerprint}); take models with the same tokenizer"
            )
    return first
