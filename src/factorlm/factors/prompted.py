"""The fast path for instructions: a language model under several of them, with one pass of the encoder for all."""

# Axes: B batch, C conditions with the bare model first, D width, K heads, R rows chosen, T time, V vocabulary.

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from factorlm.algebra import Factor, LocalProduct, Named, Power, Product, State, Term, flatten, merge, unflatten
from factorlm.factors.head import Head, HeadStack, stack_exponents
from factorlm.factors.prompt import Conditioned
from factorlm.models import CausalLM
from factorlm.models.encoding import Encoded
from factorlm.text import Vocabulary

Exponent = float | Tensor


@dataclass(frozen=True, eq=False)
class PromptedModel(Factor):
    """The local product p(x)^a_0 prod_c p(x | instruction c)^a_c prod_k head_k(x)^b_k of one language model.

    All conditions are rows of one batch, so that the weights of the model are read once for each token. And since a
    log probability is e_v . h up to a constant of the row, they need one unembedding: softmax(E (sum_c a_c h_c +
    sum_k b_k g_k(h_0))). Equal to its slow twin, `twin`, to rounding.

    Attributes:
        lm: the model.
        conditions: tokens of each instruction.
        condition_exponents: of the bare model first, then of each instruction.
        heads: that read the bare model's states.
        head_exponents: one for each.
    """

    lm: CausalLM
    conditions: tuple[tuple[int, ...], ...]
    condition_exponents: tuple[Exponent, ...]
    heads: tuple[Head, ...] = ()
    head_exponents: tuple[Exponent, ...] = ()

    @property
    def vocabulary(self) -> Vocabulary:
        """That of the language model."""
        return self.lm.vocabulary

    @cached_property
    def stack(self) -> HeadStack:
        """The heads side by side."""
        return HeadStack(self.heads)

    @cached_property
    def twin(self) -> Factor:
        """The same distribution, each part read for itself."""
        return LocalProduct(self.product)

    @cached_property
    def product(self) -> Factor:
        """The product that it is the local one of."""
        bare, *others = self.condition_exponents
        parts = [Conditioned(self.lm, condition) for condition in self.conditions]
        terms = [Term(self.lm, bare), *(Term(p, e) for p, e in zip(parts, others, strict=True))]
        terms += [Term(head, e) for head, e in zip(self.heads, self.head_exponents, strict=True)]
        return unflatten(terms)

    def start(self, prefix_BT: Tensor) -> State:
        """See Factor."""
        num_rows = prefix_BT.shape[0]
        parts = [Conditioned(self.lm, condition).prefixes(prefix_BT) for condition in self.conditions]
        encoded = Encoded.joined([self.lm.encode(part_BT) for part_BT in (prefix_BT, *parts)])
        device = self.lm.device
        condition_BC = stack_exponents(self.condition_exponents, num_rows, device)
        head_BK = stack_exponents(self.head_exponents, num_rows, device) if self.heads else torch.zeros(num_rows, 0)
        return self._state(encoded, condition_BC, head_BK.to(device))

    def extend(self, state: State, token_B: Tensor) -> State:
        """See Factor."""
        encoded, condition_BC, head_BK = state.memory
        token_N1 = token_B.repeat(condition_BC.shape[1])[:, None]
        return self._state(self.lm.advance(encoded, token_N1), condition_BC, head_BK)

    def extend_through(self, state: State, token_BT: Tensor) -> tuple[Tensor, State]:
        """See Factor."""
        encoded, condition_BC, head_BK = state.memory
        num_conditions, num_tokens = condition_BC.shape[1], token_BT.shape[1]
        encoded = self.lm.advance(encoded, token_BT.repeat(num_conditions, 1))
        hidden_CND = encoded.hidden.view[:, -num_tokens:].unflatten(0, (num_conditions, -1)).flatten(1, 2)
        exponents = (e.repeat_interleave(num_tokens, 0) for e in (condition_BC, head_BK))
        log_weight_BTV = self._log_weight(hidden_CND, *exponents).unflatten(0, token_BT.shape)
        return log_weight_BTV, State(log_weight_BTV[:, -1], (encoded, condition_BC, head_BK))

    def reorder(self, state: State, row_R: Tensor) -> State:
        """See Factor."""
        encoded, condition_BC, head_BK = state.memory
        num_rows = state.log_weight_BV.shape[0]
        row_N = torch.cat([row_R + c * num_rows for c in range(condition_BC.shape[1])])
        memory = (self.lm.rows(encoded, row_N), condition_BC[row_R], head_BK[row_R])
        return State(state.log_weight_BV[row_R], memory)

    def trim(self, state: State, num_tokens_B: Tensor) -> State:
        """See Factor."""
        encoded, condition_BC, head_BK = state.memory
        cut = self.lm.trimmed(encoded, num_tokens_B.repeat(condition_BC.shape[1]))
        return self._state(cut, condition_BC, head_BK)

    def score(self, prefix_BT: Tensor, text_BT: Tensor) -> Tensor:
        """See Factor."""
        return self.twin.score(prefix_BT, text_BT)

    def _state(self, encoded: Encoded, condition_BC: Tensor, head_BK: Tensor) -> State:
        def log_weight() -> Tensor:
            hidden_CBD = encoded.hidden_BD.unflatten(0, (condition_BC.shape[1], -1))
            return self._log_weight(hidden_CBD, condition_BC, head_BK)

        return State(log_weight, (encoded, condition_BC, head_BK))

    @torch.no_grad()
    def _log_weight(self, hidden_CND: Tensor, condition_NC: Tensor, head_NK: Tensor) -> Tensor:
        """Of what follows some states, [N, V]."""
        return self.lm.unembed(self._mixed(hidden_CND.float(), condition_NC, head_NK)).log_softmax(-1)

    def _mixed(self, hidden_CND: Tensor, condition_NC: Tensor, head_NK: Tensor) -> Tensor:
        """The state whose logits are those of the product, up to a constant of the row, [N, D]."""
        mixed_ND = torch.einsum("nc,cnd->nd", condition_NC, hidden_CND)
        if self.heads:
            mixed_ND = mixed_ND + self.stack.shift(hidden_CND[0], head_NK)
        return mixed_ND


@dataclass(frozen=True, eq=False)
class PromptedProduct(PromptedModel):
    """The product itself, not normalised: what each condition is normalised by counts.

    Equal to its slow twin, `product`, to rounding. One pass, and one unembedding of all states.
    """

    def score(self, prefix_BT: Tensor, text_BT: Tensor) -> Tensor:
        """See Factor."""
        return self.product.score(prefix_BT, text_BT)

    @torch.no_grad()
    def _log_weight(self, hidden_CND: Tensor, condition_NC: Tensor, head_NK: Tensor) -> Tensor:
        """Of what follows some states, [N, V]."""
        hidden_CND = hidden_CND.float()
        mixed_1ND = self._mixed(hidden_CND, condition_NC, head_NK)[None]
        logit_NV, *logits = self.lm.unembed(torch.cat([mixed_1ND, hidden_CND]))
        total_NC = torch.stack([logit_NV.logsumexp(-1) for logit_NV in logits], -1)
        return logit_NV - (condition_NC * total_NC).sum(-1, keepdim=True)


def conditions_of(term: Term, lm: CausalLM) -> dict[tuple[int, ...], Exponent] | None:
    """Exponents of the bare model, under (), and of each instruction, if the term is a product of these alone."""
    factor = term.factor.base if isinstance(term.factor, Named) else term.factor
    if not isinstance(factor, (Product, Power, Conditioned)):
        return None
    found: dict[tuple[int, ...], Exponent] = {}
    for part in merge(flatten(factor, term.exponent)):
        if part.factor is lm:
            condition: tuple[int, ...] = ()
        elif isinstance(part.factor, Conditioned) and part.factor.lm is lm:
            condition = part.factor.condition
        else:
            return None
        found[condition] = found.get(condition, 0.0) + part.exponent
    return found
