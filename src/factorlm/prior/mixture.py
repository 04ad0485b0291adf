"""Three ways to read and write with a distribution over models, two of which are one distribution over texts.

For weights mu and models p_k:
    one model for each response     k ~ mu, then x ~ p_k: one forward pass for each token;
    sequential Bayes                next tokens by sum_k w_k p_k(. | x_<t), w_k ∝ mu_k p_k(x_<t): K passes;
    blend                           next tokens by sum_k mu_k p_k(. | x_<t): another, which can change its mind in a
                                    sentence.
By the chain rule the first two are the same law sum_k mu_k p_k(x). The second shows what the mixture thinks of each
next token, and is what scores, products and samplers use.
"""

# Axes: B batch, K components, N rows of all components (component by component), R rows chosen, T time, V vocabulary.

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from factorlm.algebra import PAD, Factor, State, end_together, log_normalize
from factorlm.algebra.operators import check_weights
from factorlm.errors import InputError
from factorlm.prior.ensemble import Ensemble

if TYPE_CHECKING:
    from factorlm.text import Vocabulary


@dataclass(frozen=True, eq=False)
class PerResponse(Factor):
    """Each row of a batch is read by its own component, drawn before.

    Attributes:
        ensemble: the components.
        component_B: the number of that of each row.
    """

    ensemble: Ensemble
    component_B: Tensor

    @property
    def vocabulary(self) -> Vocabulary:
        """That of the ensemble."""
        return self.ensemble.vocabulary

    @property
    def device(self) -> torch.device:
        """That of the ensemble."""
        return self.ensemble.device

    def for_rows(self, rows: list[int]) -> Factor:
        """See Factor."""
        return replace(self, component_B=self.component_B[rows])

    def start(self, prefix_BT: Tensor) -> State:
        """See Factor."""
        return self.ensemble.start(prefix_BT, self._checked(prefix_BT))

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
        return self.ensemble.steps(prefix_BT, text_BT, self._checked(prefix_BT))

    def score(self, prefix_BT: Tensor, text_BT: Tensor) -> Tensor:
        """See Factor."""
        return self.ensemble.score(prefix_BT, text_BT, self._checked(prefix_BT))

    def _checked(self, prefix_BT: Tensor) -> Tensor:
        if len(self.component_B) != prefix_BT.shape[0]:
            raise InputError(
                f"one component for each of {prefix_BT.shape[0]} rows is needed, got {len(self.component_B)}"
            )
        return self.component_B


@dataclass(frozen=True, eq=False)
class Together(Factor):
    """All components read every row, in one batch of K times as many; a subclass says how they combine.

    Attributes:
        ensemble: the components.
        log_prob_K: their weights, in nats; components at -inf are not run.
        names: what people call them.
    """

    ensemble: Ensemble
    log_prob_K: Tensor
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_weights(self.log_prob_K.exp().tolist(), self.ensemble.num_components)

    @property
    def vocabulary(self) -> Vocabulary:
        """That of the ensemble."""
        return self.ensemble.vocabulary

    @property
    def device(self) -> torch.device:
        """That of the ensemble."""
        return self.ensemble.device

    @property
    def alive(self) -> Tensor:
        """Numbers of the components that have weight."""
        return (self.log_prob_K > -torch.inf).nonzero()[:, 0]

    @abstractmethod
    def combine(self, joint_BK: Tensor, log_prob_KBV: Tensor) -> Tensor:
        """Next-token log probabilities [B, V], from log weights of component and text so far, and the components'."""

    def start(self, prefix_BT: Tensor) -> State:
        """See Factor."""
        num_rows = prefix_BT.shape[0]
        inner = self.ensemble.start(self._repeated(prefix_BT), self.alive.repeat_interleave(num_rows))
        return self._state(inner, self._prior().expand(num_rows, 1, -1))

    def extend(self, state: State, token_B: Tensor) -> State:
        """See Factor."""
        inner, joint_BTK = state.memory
        joint_BTK = torch.cat([joint_BTK, self._told(inner, joint_BTK[:, -1], token_B)[:, None]], 1)
        return self._state(self.ensemble.extend(inner, self._repeated(token_B)), joint_BTK)

    def extend_through(self, state: State, token_BT: Tensor) -> tuple[Tensor, State]:
        """See Factor."""
        inner, joint_BTK = state.memory
        log_prob_NTV, after = self.ensemble.extend_through(inner, self._repeated(token_BT))
        log_prob_KBTV = log_prob_NTV.unflatten(0, (len(self.alive), -1))
        joint_BK = self._told(inner, joint_BTK[:, -1], token_BT[:, 0])
        joints = [joint_BK]
        for t, token_B in enumerate(token_BT[:, 1:].unbind(1)):
            joint_BK = joint_BK + _at(log_prob_KBTV[:, :, t], token_B)
            joints.append(joint_BK)
        found = [self.combine(joint, log_prob_KBTV[:, :, t]) for t, joint in enumerate(joints)]
        log_weight_BTV = torch.stack(found, 1)
        return log_weight_BTV, State(log_weight_BTV[:, -1], (after, torch.cat([joint_BTK, torch.stack(joints, 1)], 1)))

    def reorder(self, state: State, row_R: Tensor) -> State:
        """See Factor."""
        inner, joint_BTK = state.memory
        row_R = row_R.to(joint_BTK.device)
        row_N = torch.cat([row_R + k * joint_BTK.shape[0] for k in range(len(self.alive))])
        return State(state.log_weight_BV[row_R], (self.ensemble.reorder(inner, row_N), joint_BTK[row_R]))

    def trim(self, state: State, num_tokens_B: Tensor) -> State:
        """See Factor."""
        inner, joint_BTK = state.memory
        return self._state(
            self.ensemble.trim(inner, self._repeated(num_tokens_B)), end_together(joint_BTK, num_tokens_B)
        )

    def steps(self, prefix_BT: Tensor, text_BT: Tensor) -> Iterator[Tensor]:
        """See Factor."""
        for joint_BK, log_prob_KBV in self.beliefs(prefix_BT, text_BT):
            yield self.combine(joint_BK, log_prob_KBV)

    def beliefs(self, prefix_BT: Tensor, text_BT: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Before each token of whole texts: log weights [B, K] of component and text so far, and next tokens [K, B, V].

        K counts the components that have weight.
        """
        num_rows = prefix_BT.shape[0]
        component_N = self.alive.repeat_interleave(num_rows)
        joint_BK = self._prior().expand(num_rows, -1)
        stream = self.ensemble.steps(self._repeated(prefix_BT), self._repeated(text_BT), component_N)
        for log_prob_NV, token_B in zip(stream, text_BT.unbind(1), strict=True):
            log_prob_KBV = log_prob_NV.unflatten(0, (len(self.alive), -1))
            yield joint_BK, log_prob_KBV
            joint_BK = joint_BK + _at(log_prob_KBV, token_B.to(log_prob_KBV.device).clamp(min=0))

    def posterior(self, state: State) -> Tensor:
        """Log probability of each component given what was read since the prefix, [B, K], in nats."""
        found_BA = log_normalize(state.memory[1][:, -1])
        log_prob_BK = found_BA.new_full((found_BA.shape[0], self.ensemble.num_components), -torch.inf)
        log_prob_BK[:, self.alive] = found_BA
        return log_prob_BK

    def _prior(self) -> Tensor:
        return self.log_prob_K[self.alive].to(self.device)

    def _repeated(self, rows: Tensor) -> Tensor:
        return rows.repeat(len(self.alive), *(1 for _ in rows.shape[1:]))

    def _told(self, inner: State, joint_BK: Tensor, token_B: Tensor) -> Tensor:
        log_prob_KBV = inner.log_weight_BV.unflatten(0, (len(self.alive), -1))
        return joint_BK + _at(log_prob_KBV, token_B)

    def _state(self, inner: State, joint_BTK: Tensor) -> State:
        def log_weight() -> Tensor:
            return self.combine(joint_BTK[:, -1], inner.log_weight_BV.unflatten(0, (len(self.alive), -1)))

        return State(log_weight, (inner, joint_BTK))


@dataclass(frozen=True, eq=False)
class Bayes(Together):
    """The law sum_k mu_k p_k(x), token by token: components are weighed by their posterior given the text so far."""

    def combine(self, joint_BK: Tensor, log_prob_KBV: Tensor) -> Tensor:
        """See Together."""
        log_weight_BK = log_normalize(joint_BK).to(log_prob_KBV.dtype)
        return torch.logsumexp(log_weight_BK.T[:, :, None] + log_prob_KBV, 0)

    def score(self, prefix_BT: Tensor, text_BT: Tensor) -> Tensor:
        """See Factor; sums over a text are its marginal log probability."""
        log_prob_KBT = self.score_all(prefix_BT, text_BT)
        joint_KBT = self._prior()[:, None, None] + log_prob_KBT.double().cumsum(2)
        total_BT = torch.logsumexp(joint_KBT, 0)
        before_BT = torch.cat([torch.logsumexp(self._prior(), 0).expand(len(total_BT), 1), total_BT[:, :-1]], 1)
        found_BT = torch.where(before_BT == -torch.inf, -torch.inf, total_BT - before_BT)
        return torch.where(text_BT.to(found_BT.device) == PAD, 0.0, found_BT).to(log_prob_KBT.dtype)

    def score_all(self, prefix_BT: Tensor, text_BT: Tensor) -> Tensor:
        """Log probability of each token of whole texts under each component that has weight, [K, B, T], in nats."""
        component_N = self.alive.repeat_interleave(prefix_BT.shape[0])
        log_prob_NT = self.ensemble.score(self._repeated(prefix_BT), self._repeated(text_BT), component_N)
        return log_prob_NT.unflatten(0, (len(self.alive), -1))


@dataclass(frozen=True, eq=False)
class Blend(Together):
    """Next-token distributions averaged anew at each token with fixed weights: no longer one model for each text."""

    def combine(self, joint_BK: Tensor, log_prob_KBV: Tensor) -> Tensor:
        """See Together."""
        return torch.logsumexp(self._prior().to(log_prob_KBV.dtype)[:, None, None] + log_prob_KBV, 0)


def _at(log_prob_KBV: Tensor, token_B: Tensor) -> Tensor:
    """What each component gives these tokens, [B, K], in float64."""
    token_KB1 = token_B.to(log_prob_KBV.device)[None, :, None].expand(log_prob_KBV.shape[0], -1, 1)
    return log_prob_KBV.gather(2, token_KB1)[..., 0].T.double()
