"""Heads: factors that read the shared encoder's last hidden state.

A head is a bias plus a low-rank map of the hidden state, g(h) = c + U (V h). Its log potential for token v is
e_v . g(h), with e_v the unembedding row. Potentials of any number of heads therefore cost one unembedding:
sum_i a_i e_v . g_i(h) = e_v . sum_i a_i g_i(h).

Source: log-linear steering of output embeddings, Han et al. (2024), arXiv:2305.12798.
"""

# Axes: B batch, D width, K heads, N tokens, R rank (of one head, or of all heads laid side by side), V vocabulary.

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from factorlm.algebra import Factor, State, log_mean
from factorlm.errors import IncompatibleError, InputError
from factorlm.factors.strength import StrengthMap
from factorlm.factors.unbound import Unbound
from factorlm.models import CausalLM
from factorlm.models.encoding import Encoded
from factorlm.settings import Config
from factorlm.text import Vocabulary


@dataclass(frozen=True, eq=False)
class HeadWeights:
    """The numbers of one head: c [D], U [D, R], V [R, D]; rank R may be zero."""

    bias_D: Tensor
    up_DR: Tensor
    down_RD: Tensor

    @classmethod
    def shift(cls, bias_D: Tensor) -> HeadWeights:
        """A head of rank zero: just a bias."""
        width = bias_D.shape[0]
        return cls(bias_D, bias_D.new_zeros(width, 0), bias_D.new_zeros(0, width))

    @property
    def rank(self) -> int:
        """Rank R."""
        return self.up_DR.shape[1]

    def __call__(self, hidden_ND: Tensor) -> Tensor:
        """g(h), [..., D]."""
        return self.bias_D + (hidden_ND @ self.down_RD.T) @ self.up_DR.T

    def scaled(self, exponent: float) -> HeadWeights:
        """The head raised to a fixed exponent."""
        return HeadWeights(exponent * self.bias_D, exponent * self.up_DR, self.down_RD)

    def to(self, device: torch.device) -> HeadWeights:
        """The same numbers in float32 on this device."""
        return HeadWeights(*(t.to(device, torch.float32) for t in (self.bias_D, self.up_DR, self.down_RD)))


class EncoderCard(Config):
    """Which encoder a head was made for."""

    name: str
    fingerprint: str
    width: int


@dataclass(frozen=True, eq=False)
class UnboundHead(Unbound):
    """A head as loaded from its file."""

    weights: HeadWeights
    encoder: EncoderCard

    def bind(self, lm: CausalLM) -> Head:
        """See Unbound."""
        if self.encoder.fingerprint not in (lm.fingerprint, lm.base_fingerprint):
            raise IncompatibleError(
                f"factor {self.name!r} needs the encoder {self.encoder.name} ({self.encoder.fingerprint}), got "
                f"{lm.name} ({lm.fingerprint}); use that model or train the factor for this one"
            )
        return Head(self.name, self.weights.to(lm.device), lm, self.strengths)


@dataclass(frozen=True, eq=False)
class Head(Factor):
    """The potential exp(e_v . g(h)) of one head over its encoder; the slow, obvious twin of a HeadStack."""

    name: str
    weights: HeadWeights
    lm: CausalLM
    strengths: StrengthMap | None = None

    @property
    def vocabulary(self) -> Vocabulary:
        """That of the encoder."""
        return self.lm.vocabulary

    def start(self, prefix_BT: Tensor) -> State:
        """See Factor."""
        return self._state(self.lm.encode(prefix_BT))

    def extend(self, state: State, token_B: Tensor) -> State:
        """See Factor."""
        return self._state(self.lm.advance(state.memory, token_B[:, None]))

    def reorder(self, state: State, row_R: Tensor) -> State:
        """See Factor."""
        return State(state.log_weight_BV[row_R], self.lm.rows(state.memory, row_R))

    def trim(self, state: State, num_tokens_B: Tensor) -> State:
        """See Factor."""
        return self._state(self.lm.trimmed(state.memory, num_tokens_B))

    def steps(self, prefix_BT: Tensor, text_BT: Tensor) -> Iterator[Tensor]:
        """See Factor."""
        if text_BT.shape[1]:
            for hidden_BD in self.lm.hidden_before(prefix_BT, text_BT).unbind(1):
                yield self.potential(hidden_BD)

    def potential(self, hidden_ND: Tensor) -> Tensor:
        """Log potential of every next token, [..., V], in nats up to a constant of the state."""
        return self.lm.unembed(self.weights(hidden_ND.float()))

    def _state(self, encoded: Encoded) -> State:
        return State(lambda: self.potential(encoded.hidden_BD), encoded)


@dataclass(frozen=True, eq=False)
class HeadStack:
    """Several heads of one encoder laid side by side, so that they cost two thin products and no loop."""

    heads: tuple[Head, ...]

    @cached_property
    def bias_KD(self) -> Tensor:
        """All biases."""
        return torch.stack([head.weights.bias_D for head in self.heads])

    @cached_property
    def down_DR(self) -> Tensor:
        """All V, transposed."""
        return torch.cat([head.weights.down_RD for head in self.heads]).T.contiguous()

    @cached_property
    def up_RD(self) -> Tensor:
        """All U, transposed."""
        return torch.cat([head.weights.up_DR for head in self.heads], 1).T.contiguous()

    @cached_property
    def owner_R(self) -> Tensor:
        """The head that each rank column belongs to."""
        ranks = torch.tensor([head.weights.rank for head in self.heads])
        return torch.repeat_interleave(torch.arange(len(self.heads)), ranks).to(self.bias_KD.device)

    def shift(self, hidden_ND: Tensor, exponent_NK: Tensor) -> Tensor:
        """sum_k a_k g_k(h), [N, D], with exponents for each row."""
        shift_ND = exponent_NK @ self.bias_KD
        if self.owner_R.numel():
            low_NR = (hidden_ND @ self.down_DR) * exponent_NK[:, self.owner_R]
            shift_ND = torch.addmm(shift_ND, low_NR, self.up_RD)
        return shift_ND

    def log_ratio(self, hidden_ND: Tensor, token_N: Tensor, prob_NV: Tensor) -> Tensor:
        """Evidence log p_k(x) / p(x) of each head at exponent one, [N, K], in nats.

        The normaliser E_p[exp(e_v . g_k(h))] of a head of rank zero does not need its potential at every state:
        exp(e_v . c_k) is one column, and all such columns together are one thin product with p.

        Args:
            hidden_ND: states before each token.
            token_N: the tokens.
            prob_NV: next-token probabilities of the base, or numbers proportional to them.
        """
        lm = self.heads[0].lm
        ratio_NK = torch.empty(len(token_N), len(self.heads), device=hidden_ND.device)
        log_total_N1 = prob_NV.sum(-1, keepdim=True).log()
        fixed = [k for k, head in enumerate(self.heads) if head.weights.rank == 0]
        if fixed:
            value_VK = self._fixed_potential_KV[fixed].T
            largest_K = value_VK.amax(0)  # taken out, so that no exponential overflows
            normalizer_NK = (prob_NV @ (value_VK - largest_K).exp()).log() + largest_K - log_total_N1
            ratio_NK[:, fixed] = value_VK[token_N] - normalizer_NK
        for k, head in enumerate(self.heads):
            if head.weights.rank:
                potential_NV = lm.unembed(head.weights(hidden_ND.float()))
                value_N = potential_NV.gather(1, token_N[:, None])[:, 0]
                ratio_NK[:, k] = value_N - log_mean(potential_NV, prob_NV.log()) + log_total_N1[:, 0]
        return ratio_NK

    @cached_property
    def _fixed_potential_KV(self) -> Tensor:
        return self.heads[0].lm.unembed(self.bias_KD)

    def outputs(self, hidden_ND: Tensor) -> Tensor:
        """g_k(h) of each head, [N, K, D]."""
        return torch.stack([head.weights(hidden_ND) for head in self.heads], 1)


def stack_exponents(exponents: Sequence[float | Tensor], num_rows: int, device: torch.device) -> Tensor:
    """Exponents [B, K] from one number or one tensor [B] for each head."""
    for exponent in exponents:
        if isinstance(exponent, Tensor) and exponent.ndim and len(exponent) != num_rows:
            raise InputError(f"one exponent for each of {num_rows} rows is needed, got {len(exponent)}")
    columns = [torch.as_tensor(e, dtype=torch.float32, device=device).expand(num_rows) for e in exponents]
    return torch.stack(columns, 1)
