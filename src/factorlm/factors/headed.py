"""The fast path: a language model and any number of heads, with one pass of the encoder and one unembedding."""

# Axes: B batch, D width, K heads, N tokens laid end to end, R rows chosen, T time, V vocabulary.

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from factorlm.algebra import PAD, Factor, LocalProduct, State, Term, flatten, merge, unflatten
from factorlm.factors.head import Head, HeadStack, stack_exponents
from factorlm.factors.prompted import PromptedModel, PromptedProduct, conditions_of
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

    def extend_through(self, state: State, token_BT: Tensor) -> tuple[Tensor, State]:
        """See Factor."""
        encoded, exponent_BK = state.memory
        num_tokens = token_BT.shape[1]
        encoded = self.lm.advance(encoded, token_BT)
        hidden_ND = encoded.hidden.view[:, -num_tokens:].flatten(0, 1)
        log_weight_NV = self._log_weight(hidden_ND, exponent_BK.repeat_interleave(num_tokens, 0))
        log_weight_BTV = log_weight_NV.unflatten(0, token_BT.shape)
        return log_weight_BTV, State(log_weight_BTV[:, -1], (encoded, exponent_BK))

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
        log_prob_N = self.lm.log_prob_of(shifted_ND, token_N)
        return torch.zeros(text_BT.shape, device=self.lm.device).masked_scatter(real_BT, log_prob_N)

    def exponent_BK(self, num_rows: int) -> Tensor:
        """The exponents of a batch of this many rows."""
        return stack_exponents(self.exponents, num_rows, self.lm.device)

    def shifted(self, hidden_ND: Tensor, exponent_NK: Tensor) -> Tensor:
        """H + sum_k a_k g_k(h), in float32: heads are small numbers beside h."""
        hidden_ND = hidden_ND.float()
        return hidden_ND + self.stack.shift(hidden_ND, exponent_NK)

    def _state(self, encoded: Encoded, exponent_BK: Tensor) -> State:
        return State(lambda: self._log_weight(encoded.hidden_BD, exponent_BK), (encoded, exponent_BK))

    @torch.no_grad()
    def _log_weight(self, hidden_ND: Tensor, exponent_NK: Tensor) -> Tensor:
        """Of what follows each state, [N, V]."""
        return self.lm.unembed(self.shifted(hidden_ND, exponent_NK)).log_softmax(-1)


@dataclass(frozen=True, eq=False)
class HeadedProduct(HeadedModel):
    """The product of a language model and heads that read it, not normalised: p(v | h) exp(sum_k a_k e_v . g_k(h)).

    Equal to lm * head_1 ** a_1 * ..., its slow twin, to rounding.
    """

    def score(self, prefix_BT: Tensor, text_BT: Tensor) -> Tensor:
        """See Factor."""
        terms = [Term(head, exponent) for head, exponent in zip(self.heads, self.exponents, strict=True)]
        return unflatten([Term(self.lm), *terms]).score(prefix_BT, text_BT)

    @torch.no_grad()
    def _log_weight(self, hidden_ND: Tensor, exponent_NK: Tensor) -> Tensor:
        both_MV = self.lm.unembed(torch.cat([self.shifted(hidden_ND, exponent_NK), hidden_ND.float()]))
        logit_NV, base_NV = both_MV.chunk(2)
        return logit_NV - base_NV.logsumexp(-1, keepdim=True)


def fuse(factor: Factor) -> Factor:
    """An equal composition that shares the unembedding wherever it can.

    The local product of a language model with heads on it becomes one HeadedModel; other factors of the product stay
    beside it. What cannot be fused is returned as it is, so this is always safe to call.
    """
    if not isinstance(factor, LocalProduct):
        return factor
    joined, rest = _joined(factor.base, HeadedModel)
    joined, rest = _with_conditions(joined, rest, PromptedModel)
    if joined is None or (rest and isinstance(joined, CausalLM)):
        return factor
    return LocalProduct(unflatten([Term(joined), *rest])) if rest else joined


def fuse_product(factor: Factor) -> Factor:
    """As `fuse`, for the product of whole texts that is not normalised: always equal to the factor itself."""
    joined, rest = _with_conditions(*_joined(factor, HeadedProduct), PromptedProduct)
    return factor if joined is None else unflatten([Term(joined), *rest])


def _joined(product: Factor, kind: type[HeadedModel]) -> tuple[Factor | None, list[Term]]:
    """The language model of a product with the heads that read it, as one factor, and the other terms."""
    terms = merge(flatten(product))
    base = next((t for t in terms if isinstance(t.factor, CausalLM) and t.is_plain), None)
    if base is None:
        return None, terms
    assert isinstance(base.factor, CausalLM)
    mine = [t for t in terms if isinstance(t.factor, Head) and t.factor.lm is base.factor]
    rest = [t for t in terms if t is not base and t not in mine]
    heads = tuple(t.factor for t in mine if isinstance(t.factor, Head))
    return kind(base.factor, heads, tuple(t.exponent for t in mine)) if mine else base.factor, rest


def _with_conditions(
    joined: Factor | None, rest: list[Term], kind: type[PromptedModel]
) -> tuple[Factor | None, list[Term]]:
    """The language model with its heads, and with all its instructions as rows of one batch."""
    lm = joined.lm if isinstance(joined, HeadedModel) else joined
    if not isinstance(lm, CausalLM):
        return joined, rest
    found: dict[tuple[int, ...], float | Tensor] = {(): 1.0}
    others = []
    for term in rest:
        conditions = conditions_of(term, lm)
        if conditions is None:
            others.append(term)
            continue
        for condition, exponent in conditions.items():
            found[condition] = found.get(condition, 0.0) + exponent
    if len(found) == 1:
        return joined, rest
    heads, exponents = (joined.heads, joined.exponents) if isinstance(joined, HeadedModel) else ((), ())
    bare, *instructions = found
    assert bare == ()
    return kind(lm, tuple(instructions), tuple(found.values()), heads, exponents), others
