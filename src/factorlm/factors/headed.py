"""The fast path: a language model and any number of heads, with one pass of the encoder and one unembedding."""

# Axes: B batch, D width, K heads, N tokens laid end to end, R rows chosen, T time, V vocabulary.

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from factorlm.algebra import PAD, Factor, LocalProduct, State, Term, flatten, merge, unflatten
from factorlm.factors.head import Head, HeadStack, stack_exponents
from factorlm.models import CausalLM
from factorlm.models.encoding import Encoded
from factorlm.text import Vocabulary


@dataclass(frozen=True, eq=False)
class HeadedModel(Factor):
    """The local product of a language model and heads that read it: softmax(E (h + sum_k a_k g_k(h))).

    Equal to LocalProduct(lm * head_1 ** a_1 * ...), its slow twin, to rounding.
    """

    lm: CausalLM
    heads: tuple[Head, ...]
    exponents: tuple[float | Tensor, ...]

    @property
    def vocabulary(self) -> Vocabulary:
        """That of the language model."""
        return self.lm.vocabulary

    @cached_property
    def stack(self) -> HeadStack:
        """The heads side by side."""
        return HeadStack(self.heads)

    def start(self, prefix_BT: Tensor) -> State:
        """See Factor."""
        return self._state(self.lm.encode(prefix_BT), self.exponent_BK(prefix_BT.shape[0]))

    def extend(self, state: State, token_B: Tensor) -> State:
        """See Factor."""
        encoded, exponent_BK = state.memory
        return self._state(self.lm.advance(encoded, token_B[:, None]), exponent_BK)

    def reorder(self, state: State, row_R: Tensor) -> State:
        """See Factor."""
        encoded, exponent_BK = state.memory
        return State(state.log_weight_BV[row_R], (self.lm.rows(encoded, row_R), exponent_BK[row_R]))

    def trim(self, state: State, num_tokens_B: Tensor) -> State:
        """See Factor."""
        encoded, exponent_BK = state.memory
        return self._state(self.lm.trimmed(encoded, num_tokens_B), exponent_BK)

    def score(self, prefix_BT: Tensor, text_BT: Tensor) -> Tensor:
        """See Factor."""
        if text_BT.shape[1] == 0:
            return torch.zeros(text_BT.shape, device=self.lm.device)
        real_BT = (text_BT != PAD).to(self.lm.device)
        hidden_ND = self.lm.hidden_before(prefix_BT, text_BT)[real_BT]
        token_N = text_BT.to(self.lm.device)[real_BT]
        row_N = real_BT.nonzero()[:, 0]
        shifted_ND = self.shifted(hidden_ND, self.exponent_BK(text_BT.shape[0])[row_N])
        log_prob_N = torch.cat(
            [log_prob.gather(1, token_N[part, None])[:, 0] for part, log_prob in self.lm.chunks(shifted_ND)]
            or [shifted_ND.new_zeros(0)]
        )
        return torch.zeros(text_BT.shape, device=self.lm.device).masked_scatter(real_BT, log_prob_N)

    def exponent_BK(self, num_rows: int) -> Tensor:
        """The exponents of a batch of this many rows."""
        return stack_exponents(self.exponents, num_rows, self.lm.device)

    def shifted(self, hidden_ND: Tensor, exponent_NK: Tensor) -> Tensor:
        """H + sum_k a_k g_k(h), in float32: heads are small numbers beside h."""
        hidden_ND = hidden_ND.float()
        return hidden_ND + self.stack.shift(hidden_ND, exponent_NK)

    @torch.no_grad()
    def _state(self, encoded: Encoded, exponent_BK: Tensor) -> State:
        logit_BV = self.lm.unembed(self.shifted(encoded.hidden_BD, exponent_BK))
        return State(logit_BV.log_softmax(-1), (encoded, exponent_BK))


def fuse(factor: Factor) -> Factor:
    """An equal composition that shares the unembedding wherever it can.

    The local product of a language model with heads on it becomes one HeadedModel; other factors of the product stay
    beside it. What cannot be fused is returned as it is, so this is always safe to call.
    """
    if not isinstance(factor, LocalProduct):
        return factor
    terms = merge(flatten(factor.base))
    base = next((t for t in terms if isinstance(t.factor, CausalLM) and t.is_plain), None)
    if base is None:
        return factor
    mine = [t for t in terms if isinstance(t.factor, Head) and t.factor.lm is base.factor]
    rest = [t for t in terms if t is not base and t not in mine]
    if not mine:
        return factor if rest else base.factor
    heads = tuple(t.factor for t in mine if isinstance(t.factor, Head))
    assert isinstance(base.factor, CausalLM)
    headed = HeadedModel(base.factor, heads, tuple(t.exponent for t in mine))
    return LocalProduct(unflatten([Term(headed), *rest])) if rest else headed
