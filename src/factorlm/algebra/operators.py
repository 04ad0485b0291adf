"""Operators: they wrap factors and are factors.

Every operator keeps what is impossible impossible: a token with weight zero in a part of a product has weight zero
in the product, whatever the exponents. Where all tokens are impossible the row stays all -inf (no nan), and samplers
report it as a dead end.
"""

# Axes: B batch, K parts, R rows chosen, T time, V vocabulary.

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from factorlm.algebra.factor import Factor, State, end_together, shared_vocabulary
from factorlm.algebra.logspace import log_normalize, scale
from factorlm.errors import InputError

if TYPE_CHECKING:
    from factorlm.text import Vocabulary


@dataclass(frozen=True, eq=False)
class Combination(Factor):
    """Parts that are read side by side; a subclass says how their next-token weights combine."""

    parts: tuple[Factor, ...]

    @property
    def vocabulary(self) -> Vocabulary:
        """The one vocabulary of all parts."""
        return shared_vocabulary(self.parts)

    @abstractmethod
    def combine(self, log_weight_KBV: Tensor) -> Tensor:
        """Next-token log weights [B, V] from those of the parts."""

    def start(self, prefix_BT: Tensor) -> State:
        """See Factor."""
        return self._joined(tuple(part.start(prefix_BT) for part in self.parts))

    def extend(self, state: State, token_B: Tensor) -> State:
        """See Factor."""
        return self._joined(tuple(p.extend(s, token_B) for p, s in zip(self.parts, state.memory, strict=True)))

    def extend_through(self, state: State, token_BT: Tensor) -> tuple[Tensor, State]:
        """See Factor."""
        read = [p.extend_through(s, token_BT) for p, s in zip(self.parts, state.memory, strict=True)]
        log_weight_KNV = torch.stack([log_weight_BTV.flatten(0, 1) for log_weight_BTV, _ in read])
        log_weight_BTV = self.combine(log_weight_KNV).unflatten(0, token_BT.shape)
        return log_weight_BTV, State(log_weight_BTV[:, -1], tuple(after for _, after in read))

    def reorder(self, state: State, row_R: Tensor) -> State:
        """See Factor."""
        states = tuple(p.reorder(s, row_R) for p, s in zip(self.parts, state.memory, strict=True))
        return State(state.log_weight_BV[row_R], states)

    def trim(self, state: State, num_tokens_B: Tensor) -> State:
        """See Factor."""
        return self._joined(tuple(p.trim(s, num_tokens_B) for p, s in zip(self.parts, state.memory, strict=True)))

    def steps(self, prefix_BT: Tensor, text_BT: Tensor) -> Iterator[Tensor]:
        """See Factor."""
        for parts in zip(*(part.steps(prefix_BT, text_BT) for part in self.parts), strict=True):
            yield self.combine(torch.stack(parts))

    def _joined(self, states: tuple[State, ...]) -> State:
        return State(lambda: self.combine(torch.stack([s.log_weight_BV for s in states])), states)


@dataclass(frozen=True, eq=False)
class Product(Combination):
    """Weight prod_k w_k(x) of whole texts: exactly the global product, not normalised."""

    def combine(self, log_weight_KBV: Tensor) -> Tensor:
        """Add log weights."""
        return log_weight_KBV.sum(0)

    def score(self, prefix_BT: Tensor, text_BT: Tensor) -> Tensor:
        """See Factor."""
        return torch.stack([part.score(prefix_BT, text_BT) for part in self.parts]).sum(0)


@dataclass(frozen=True, eq=False)
class Union(Combination):
    """The larger of the parts' weights at each token: what any part would like.

    Source: union operator, Dekoninck et al. (2024), arXiv:2311.14479.
    """

    def combine(self, log_weight_KBV: Tensor) -> Tensor:
        """Elementwise maximum."""
        return log_weight_KBV.amax(0)

    def score(self, prefix_BT: Tensor, text_BT: Tensor) -> Tensor:
        """See Factor."""
        return torch.stack([part.score(prefix_BT, text_BT) for part in self.parts]).amax(0)


@dataclass(frozen=True, eq=False)
class Intersection(Combination):
    """The smaller of the parts' weights at each token: what all parts would like.

    Source: intersection operator, Dekoninck et al. (2024), arXiv:2311.14479.
    """

    def combine(self, log_weight_KBV: Tensor) -> Tensor:
        """Elementwise minimum."""
        return log_weight_KBV.amin(0)

    def score(self, prefix_BT: Tensor, text_BT: Tensor) -> Tensor:
        """See Factor."""
        return torch.stack([part.score(prefix_BT, text_BT) for part in self.parts]).amin(0)


@dataclass(frozen=True, eq=False)
class Interpolation(Combination):
    """Next-token distribution sum_k weight_k p_k, averaged anew at each token; parts are normalised first.

    Source: linear interpolation, Jelinek and Mercer (1980).
    """

    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        check_weights(self.weights, len(self.parts))

    def combine(self, log_weight_KBV: Tensor) -> Tensor:
        """Log of the weighted mean of the parts' distributions."""
        return torch.logsumexp(_log(self.weights, log_weight_KBV)[:, None, None] + log_normalize(log_weight_KBV), 0)


@dataclass(frozen=True, eq=False)
class Mixture(Factor):
    """Weight sum_k weight_k w_k(x) of whole texts: draw a model once, then a text from it.

    Its steps weigh the parts by their posterior given what was read after the prefix.
    """

    parts: tuple[Factor, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        check_weights(self.weights, len(self.parts))

    @property
    def vocabulary(self) -> Vocabulary:
        """The one vocabulary of all parts."""
        return shared_vocabulary(self.parts)

    def start(self, prefix_BT: Tensor) -> State:
        """See Factor."""
        states = tuple(part.start(prefix_BT) for part in self.parts)
        log_weight_BV = states[0].log_weight_BV
        joint_BTK = _log(self.weights, log_weight_BV).expand(log_weight_BV.shape[0], 1, -1)
        return self._joined(states, joint_BTK)

    def extend(self, state: State, token_B: Tensor) -> State:
        """See Factor."""
        states, joint_BTK = state.memory
        step_BK = torch.stack([s.log_weight_BV.gather(1, token_B[:, None])[:, 0] for s in states], 1)
        joint_BTK = torch.cat([joint_BTK, (joint_BTK[:, -1] + step_BK)[:, None]], 1)
        return self._joined(tuple(p.extend(s, token_B) for p, s in zip(self.parts, states, strict=True)), joint_BTK)

    def reorder(self, state: State, row_R: Tensor) -> State:
        """See Factor."""
        states, joint_BTK = state.memory
        states = tuple(p.reorder(s, row_R) for p, s in zip(self.parts, states, strict=True))
        return State(state.log_weight_BV[row_R], (states, joint_BTK[row_R]))

    def trim(self, state: State, num_tokens_B: Tensor) -> State:
        """See Factor."""
        states, joint_BTK = state.memory
        states = tuple(p.trim(s, num_tokens_B) for p, s in zip(self.parts, states, strict=True))
        return self._joined(states, end_together(joint_BTK, num_tokens_B))

    def steps(self, prefix_BT: Tensor, text_BT: Tensor) -> Iterator[Tensor]:
        """See Factor."""
        joint_BK: Tensor | None = None
        streams = zip(*(part.steps(prefix_BT, text_BT) for part in self.parts), strict=True)
        for parts, token_B in zip(streams, text_BT.unbind(1), strict=True):
            log_weight_KBV = torch.stack(parts)
            if joint_BK is None:
                joint_BK = _log(self.weights, log_weight_KBV).expand(log_weight_KBV.shape[1], -1)
            yield _averaged(joint_BK, log_weight_KBV)
            token_KB1 = token_B.to(log_weight_KBV.device).clamp(min=0)[None, :, None].expand(len(parts), -1, 1)
            joint_BK = joint_BK + log_weight_KBV.gather(2, token_KB1)[..., 0].T

    def posterior(self, state: State) -> Tensor:
        """Log probability of each part given what was read since the prefix, [B, K], in nats."""
        return log_normalize(state.memory[1][:, -1])

    def _joined(self, states: tuple[State, ...], joint_BTK: Tensor) -> State:
        return State(
            lambda: _averaged(joint_BTK[:, -1], torch.stack([s.log_weight_BV for s in states])), (states, joint_BTK)
        )


def _averaged(joint_BK: Tensor, log_weight_KBV: Tensor) -> Tensor:
    """Next-token log weights [B, V] of parts weighed by their posterior, from joint log weights of part and text."""
    return torch.logsumexp(log_normalize(joint_BK).T[:, :, None] + log_weight_KBV, 0)


@dataclass(frozen=True, eq=False)
class Power(Factor):
    """Weight w(x) ** exponent; what was impossible stays so, whatever the exponent.

    Attributes:
        base: the factor to raise.
        exponent: one number, or a tensor [B] with one for each row of the batch.
    """

    base: Factor
    exponent: float | Tensor

    def __post_init__(self) -> None:
        if not torch.as_tensor(self.exponent).isfinite().all():
            raise InputError(f"an exponent must be a finite number, got {self.exponent}; -1 divides, 0 switches off")

    @property
    def vocabulary(self) -> Vocabulary:
        """That of the base."""
        return self.base.vocabulary

    def start(self, prefix_BT: Tensor) -> State:
        """See Factor."""
        inner = self.base.start(prefix_BT)
        exponent_B = torch.as_tensor(self.exponent, dtype=inner.log_weight_BV.dtype, device=inner.log_weight_BV.device)
        if exponent_B.ndim and len(exponent_B) != prefix_BT.shape[0]:
            raise InputError(f"one exponent for each of {prefix_BT.shape[0]} rows is needed, got {len(exponent_B)}")
        return self._raised(inner, exponent_B.expand(prefix_BT.shape[0]))

    def extend(self, state: State, token_B: Tensor) -> State:
        """See Factor."""
        inner, exponent_B = state.memory
        return self._raised(self.base.extend(inner, token_B), exponent_B)

    def extend_through(self, state: State, token_BT: Tensor) -> tuple[Tensor, State]:
        """See Factor."""
        inner, exponent_B = state.memory
        log_weight_BTV, after = self.base.extend_through(inner, token_BT)
        return scale(log_weight_BTV, exponent_B[:, None, None]), self._raised(after, exponent_B)

    def reorder(self, state: State, row_R: Tensor) -> State:
        """See Factor."""
        inner, exponent_B = state.memory
        return State(state.log_weight_BV[row_R], (self.base.reorder(inner, row_R), exponent_B[row_R]))

    def trim(self, state: State, num_tokens_B: Tensor) -> State:
        """See Factor."""
        inner, exponent_B = state.memory
        return self._raised(self.base.trim(inner, num_tokens_B), exponent_B)

    def steps(self, prefix_BT: Tensor, text_BT: Tensor) -> Iterator[Tensor]:
        """See Factor."""
        for log_weight_BV in self.base.steps(prefix_BT, text_BT):
            exponent = torch.as_tensor(self.exponent, dtype=log_weight_BV.dtype, device=log_weight_BV.device)
            yield scale(log_weight_BV, exponent[:, None] if exponent.ndim else exponent)

    def score(self, prefix_BT: Tensor, text_BT: Tensor) -> Tensor:
        """See Factor."""
        log_weight_BT = self.base.score(prefix_BT, text_BT)
        exponent = torch.as_tensor(self.exponent, dtype=log_weight_BT.dtype, device=log_weight_BT.device)
        return scale(log_weight_BT, exponent[:, None] if exponent.ndim else exponent)

    def _raised(self, inner: State, exponent_B: Tensor) -> State:
        return State(lambda: scale(inner.log_weight_BV, exponent_B[:, None]), (inner, exponent_B))


@dataclass(frozen=True, eq=False)
class LocalProduct(Factor):
    """The language model p(x_t | x_<t) ∝ w(x_t | x_<t): normalised at each token, cheap and myopic.

    It is not the global product: it does not foresee where the parts will disagree.
    """

    base: Factor

    @classmethod
    def of(cls, factor: Factor) -> LocalProduct:
        """The factor normalised at each token; itself if it is that already."""
        return factor if isinstance(factor, LocalProduct) else cls(factor)

    @property
    def vocabulary(self) -> Vocabulary:
        """That of the base."""
        return self.base.vocabulary

    def start(self, prefix_BT: Tensor) -> State:
        """See Factor."""
        return self._normalized(self.base.start(prefix_BT))

    def extend(self, state: State, token_B: Tensor) -> State:
        """See Factor."""
        return self._normalized(self.base.extend(state.memory, token_B))

    def extend_through(self, state: State, token_BT: Tensor) -> tuple[Tensor, State]:
        """See Factor."""
        log_weight_BTV, after = self.base.extend_through(state.memory, token_BT)
        log_prob_BTV = log_normalize(log_weight_BTV)
        return log_prob_BTV, State(log_prob_BTV[:, -1], after)

    def reorder(self, state: State, row_R: Tensor) -> State:
        """See Factor."""
        return State(state.log_weight_BV[row_R], self.base.reorder(state.memory, row_R))

    def trim(self, state: State, num_tokens_B: Tensor) -> State:
        """See Factor."""
        return self._normalized(self.base.trim(state.memory, num_tokens_B))

    def steps(self, prefix_BT: Tensor, text_BT: Tensor) -> Iterator[Tensor]:
        """See Factor."""
        for log_weight_BV in self.base.steps(prefix_BT, text_BT):
            yield log_normalize(log_weight_BV)

    def _normalized(self, inner: State) -> State:
        return State(lambda: log_normalize(inner.log_weight_BV), inner)


@dataclass(frozen=True, eq=False)
class Named(Factor):
    """A factor under a name, read as one whole by explanations and by per-row exponents.

    Attributes:
        name: what people call it.
        base: the factor.
        strengths: its map from strength to exponent, carried along for whoever turns it.
    """

    name: str
    base: Factor
    strengths: Any = None

    @property
    def vocabulary(self) -> Vocabulary:
        """That of the base."""
        return self.base.vocabulary

    def start(self, prefix_BT: Tensor) -> State:
        """See Factor."""
        return self.base.start(prefix_BT)

    def extend(self, state: State, token_B: Tensor) -> State:
        """See Factor."""
        return self.base.extend(state, token_B)

    def extend_through(self, state: State, token_BT: Tensor) -> tuple[Tensor, State]:
        """See Factor."""
        return self.base.extend_through(state, token_BT)

    def reorder(self, state: State, row_R: Tensor) -> State:
        """See Factor."""
        return self.base.reorder(state, row_R)

    def trim(self, state: State, num_tokens_B: Tensor) -> State:
        """See Factor."""
        return self.base.trim(state, num_tokens_B)

    def steps(self, prefix_BT: Tensor, text_BT: Tensor) -> Iterator[Tensor]:
        """See Factor."""
        yield from self.base.steps(prefix_BT, text_BT)

    def score(self, prefix_BT: Tensor, text_BT: Tensor) -> Tensor:
        """See Factor."""
        return self.base.score(prefix_BT, text_BT)


def check_weights(weights: Sequence[float], num_parts: int) -> None:
    """Raise InputError unless there is one non-negative weight for each part and they sum to one."""
    if len(weights) != num_parts:
        raise InputError(f"one weight for each of {num_parts} parts is needed, got {len(weights)}")
    if not all(0 <= w < float("inf") for w in weights) or abs(sum(weights) - 1) > 1e-6:
        raise InputError(f"weights must be non-negative and sum to 1, got {list(weights)}; divide them by their sum")


def _log(weights: Sequence[float], like: Tensor) -> Tensor:
    return torch.tensor(weights, dtype=torch.float64).log().to(like)
