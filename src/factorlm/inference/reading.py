"""What a composition thinks of given texts: log probabilities, what each factor did, and each factor's evidence."""

# Axes: B batch, D width, K factors, N tokens of a block laid end to end, T time, V vocabulary.

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from factorlm.algebra import (
    PAD,
    Factor,
    LocalProduct,
    Term,
    device_of,
    entropy,
    flatten,
    log_mean,
    log_normalize,
    mean_where_possible,
    merge,
    names_of,
    scale,
)
from factorlm.factors.head import Head, HeadStack, stack_exponents
from factorlm.models import CausalLM

BLOCK_TOKENS = 512


@dataclass(frozen=True, eq=False)
class Reading:
    """Every token of some texts under a composition, in nats; entries after the end of a text are zero.

    For a token x the composed log probability is
        base_log_prob + sum_k contribution_k - normalizer,
    where contribution_k = a_k (log w_k(x) - E_p[log w_k]) says how far factor k, with its exponent a_k, pushed this
    token compared with the tokens that the base p would have written, and the normaliser, which is the same for all
    tokens, is the price of disagreeing with the base (never negative when no token is banned).

    Attributes:
        names: of the factors, in order of K; the base is not among them.
        exponents_BK: of the factors.
        base_log_prob_BT: under the base.
        log_prob_BT: under the local product of base and factors.
        contribution_BTK: of each factor; None if not asked for.
        normalizer_BT: see above; None if contributions were not asked for.
        log_ratio_BTK: log p_k(x)/p(x), with p_k ∝ p w_k: the evidence of each factor at exponent one; None if not
            asked for.
        entropy_BT: of the composed next-token distribution before each token; None if the shape was not asked for.
        is_top_BT: whether each token is the most probable one of that distribution, alone or with others; false after
            the end of a text; None if the shape was not asked for.
    """

    names: tuple[str, ...]
    exponents_BK: Tensor
    base_log_prob_BT: Tensor
    log_prob_BT: Tensor
    contribution_BTK: Tensor | None
    normalizer_BT: Tensor | None
    log_ratio_BTK: Tensor | None
    entropy_BT: Tensor | None = None
    is_top_BT: Tensor | None = None


@torch.no_grad()
def read(
    factor: Factor,
    prefix_BT: Tensor,
    text_BT: Tensor,
    *,
    with_contributions: bool = False,
    with_ratios: bool = False,
    with_shape: bool = False,
) -> Reading:
    """Read texts with a product of factors; its first term is the base.

    Args:
        factor: a product, or its local product.
        prefix_BT: what stands before the texts, filled on the left with PAD.
        text_BT: the texts, filled on the right with PAD.
        with_contributions: whether to find what each factor did to each token.
        with_ratios: whether to find each factor's evidence.
        with_shape: whether to find the entropy of each next-token distribution, and whether its top token came.
    """
    device = device_of(factor)
    prefix_BT, text_BT = prefix_BT.to(device), text_BT.to(device)
    base, *terms = merge(flatten(factor.base if isinstance(factor, LocalProduct) else factor))
    blocks = _Blocks(base, terms, prefix_BT, text_BT, with_contributions, with_ratios, with_shape)
    parts = list(blocks)
    num_rows = text_BT.shape[0]
    num_factors = len(terms)

    real_BT = (text_BT != PAD).to(blocks.device)

    def joined(found: list[Tensor], *axes: int) -> Tensor:
        whole = torch.cat(found, 1) if found else torch.zeros((num_rows, 0, *axes))
        real = real_BT.reshape(*real_BT.shape, *(1 for _ in axes))
        return torch.where(real, whole, 0.0)

    return Reading(
        tuple(names_of(terms)),
        blocks.exponent_BK,
        joined([part.base_log_prob for part in parts]),
        joined([part.log_prob for part in parts]),
        joined([part.contribution for part in parts], num_factors) if with_contributions else None,
        joined([part.normalizer for part in parts]) if with_contributions else None,
        joined([part.log_ratio for part in parts], num_factors) if with_ratios else None,
        joined([part.entropy for part in parts]) if with_shape else None,
        joined([part.is_top for part in parts]).bool() if with_shape else None,
    )


def read_base(factor: Factor, prefix_BT: Tensor, text_BT: Tensor) -> Reading:
    """The part of a reading that needs the base alone: its factors are named, but not asked; log_prob_BT is the base's.

    Args:
        factor: a product, or its local product; its first term is the base.
        prefix_BT: what stands before the texts, filled on the left with PAD.
        text_BT: the texts, filled on the right with PAD.
    """
    base, *terms = merge(flatten(factor.base if isinstance(factor, LocalProduct) else factor))
    reading = read(base.as_factor(), prefix_BT, text_BT)
    if not terms:
        return reading
    exponent_BK = stack_exponents([t.exponent for t in terms], text_BT.shape[0], reading.exponents_BK.device)
    return replace(reading, names=tuple(names_of(terms)), exponents_BK=exponent_BK)


class _Found(NamedTuple):
    """What is found for a stretch of tokens, [N, ...] or [B, T, ...]; empty where it was not asked for."""

    base_log_prob: Tensor
    log_prob: Tensor
    contribution: Tensor
    normalizer: Tensor
    log_ratio: Tensor
    entropy: Tensor
    is_top: Tensor


@dataclass(frozen=True)
class _Stretch:
    """Tokens laid end to end, with what the base and the factors that are no heads think of all tokens there."""

    token_N: Tensor
    hidden_ND: Tensor | None  # None where the base is no language model of ours
    base_NV: Tensor
    rest_KNV: list[Tensor]
    weight_NV: Tensor  # proportional to the probabilities of the base

    def at(self, x_NV: Tensor) -> Tensor:
        """The numbers of the tokens themselves, [N]."""
        return x_NV.gather(1, self.token_N[:, None])[:, 0]

    @cached_property
    def base_log_prob_NV(self) -> Tensor:
        """Of the base; heads need only its weights."""
        return log_normalize(self.base_NV)


class _Blocks:
    """Reads a stretch of time at a time, so that no [B, T, V] tensor is ever held."""

    def __init__(
        self,
        base: Term,
        terms: list[Term],
        prefix_BT: Tensor,
        text_BT: Tensor,
        contributions: bool,
        ratios: bool,
        shape: bool,
    ) -> None:
        lm = base.factor if isinstance(base.factor, CausalLM) and base.is_plain else None
        self.base, self.lm, self.prefix_BT, self.text_BT = base, lm, prefix_BT, text_BT
        self.contributions, self.ratios, self.shape = contributions, ratios, shape
        self.is_head = [lm is not None and isinstance(t.factor, Head) and t.factor.lm is lm for t in terms]
        self.heads = HeadStack(tuple(t.factor for t, head in zip(terms, self.is_head, strict=True) if head))  # type: ignore[misc]
        self.rest = [term for term, head in zip(terms, self.is_head, strict=True) if not head]
        self.device = lm.device if lm is not None else prefix_BT.device
        num_rows = text_BT.shape[0]
        exponents = [term.exponent for term in terms]
        self.exponent_BK = (
            stack_exponents(exponents, num_rows, self.device) if terms else torch.zeros(num_rows, 0, device=self.device)
        )
        head_K = torch.tensor(self.is_head, dtype=torch.bool, device=self.device)
        self.head_exponent_BK, self.rest_exponent_BK = self.exponent_BK[:, head_K], self.exponent_BK[:, ~head_K]
        self.order_K = torch.cat([head_K.nonzero()[:, 0], (~head_K).nonzero()[:, 0]]).argsort()

    def __iter__(self) -> Iterator[_Found]:
        num_rows, length = self.text_BT.shape
        if length == 0:
            return
        width = max(1, BLOCK_TOKENS // num_rows)
        hidden_BTD = self.lm.hidden_before(self.prefix_BT, self.text_BT) if self.lm is not None else None
        base = None if self.lm is not None else self.base.as_factor().steps(self.prefix_BT, self.text_BT)
        rest = [term.factor.steps(self.prefix_BT, self.text_BT) for term in self.rest]
        for start in range(0, length, width):
            token_BT = self.text_BT[:, start : start + width].clamp(min=0).to(self.device)
            span = token_BT.shape[1]
            log_weight_KNV = [_take(steps, span) for steps in rest]
            if hidden_BTD is not None and self.lm is not None:
                hidden_ND = hidden_BTD[:, start : start + width].flatten(0, 1)
                base_NV = self.lm.unembed(hidden_ND)
            else:
                assert base is not None
                hidden_ND, base_NV = None, _take(base, span)
            values = self._block(token_BT.flatten(), span, hidden_ND, base_NV, log_weight_KNV)
            yield _Found(*(value.unflatten(0, (num_rows, span)) for value in values))

    def _block(
        self, token_N: Tensor, span: int, hidden_ND: Tensor | None, base_NV: Tensor, rest_KNV: list[Tensor]
    ) -> _Found:
        # One exponential over the vocabulary serves the normaliser, the means and the evidence of all heads.
        largest_N1 = base_NV.amax(-1, keepdim=True)
        largest_N1 = torch.where(largest_N1 == -torch.inf, 0.0, largest_N1)
        stretch = _Stretch(token_N, hidden_ND, base_NV, rest_KNV, (base_NV - largest_N1).exp_())
        base_total_N = stretch.weight_NV.sum(-1).log() + largest_N1[:, 0]
        base_log_prob_N = stretch.at(base_NV) - base_total_N
        composed_NV = base_NV
        head_exponent_NK = self.head_exponent_BK.repeat_interleave(span, 0)
        rest_exponent_NK = self.rest_exponent_BK.repeat_interleave(span, 0)
        if self.heads.heads and bool(head_exponent_NK.any()):
            assert self.lm is not None
            assert hidden_ND is not None
            shift_ND = self.heads.shift(hidden_ND.float(), head_exponent_NK)
            composed_NV = self.lm.unembed(hidden_ND.float() + shift_ND)
        for k, log_weight_NV in enumerate(rest_KNV):
            composed_NV = composed_NV + scale(log_weight_NV, rest_exponent_NK[:, k : k + 1])
        is_plain = composed_NV is base_NV
        total_N = base_total_N if is_plain else composed_NV.logsumexp(-1)
        log_prob_N = base_log_prob_N if is_plain else stretch.at(composed_NV) - total_N
        nothing = token_N.new_zeros(len(token_N), 0, dtype=torch.float32)
        contribution_NK, normalizer_N, entropy_N, is_top_N = (nothing,) * 4
        if self.contributions:
            centred_NK, mean_NK = self._centred(stretch)
            exponent_NK = torch.cat([head_exponent_NK, rest_exponent_NK], 1)
            contribution_NK = scale(centred_NK, exponent_NK)[:, self.order_K]
            normalizer_N = total_N - base_total_N - (exponent_NK * mean_NK).sum(-1)
        ratio_NK = self._ratios(stretch) if self.ratios else nothing
        if self.shape:
            entropy_N, is_top_N = entropy(log_normalize(composed_NV)), _is_top(stretch.at(composed_NV), composed_NV)
        return _Found(base_log_prob_N, log_prob_N, contribution_NK, normalizer_N, ratio_NK, entropy_N, is_top_N)

    def _centred(self, stretch: _Stretch) -> tuple[Tensor, Tensor]:
        """Log w_k(x) - E_p[log w_k] and E_p[log w_k], [N, K], heads first; means are over possible tokens."""
        centred, means = [], []
        if self.heads.heads:
            assert self.lm is not None
            assert stretch.hidden_ND is not None
            table_VD = self.lm.unembedding_VD.float()
            output_NKD = self.heads.outputs(stretch.hidden_ND.float())
            mean_ND = (stretch.weight_NV @ table_VD) / stretch.weight_NV.sum(-1, keepdim=True)
            mean_NK = torch.einsum("nd,nkd->nk", mean_ND, output_NKD)
            value_NK = torch.einsum("nd,nkd->nk", table_VD[stretch.token_N], output_NKD)
            centred.append(value_NK - mean_NK)
            means.append(mean_NK)
        for log_weight_NV in stretch.rest_KNV:
            mean_N = mean_where_possible(log_weight_NV, stretch.base_log_prob_NV)
            centred.append((stretch.at(log_weight_NV) - mean_N)[:, None])
            means.append(mean_N[:, None])
        if not centred:
            empty = stretch.base_NV.new_zeros(len(stretch.token_N), 0)
            return empty, empty
        return torch.cat(centred, 1), torch.cat(means, 1)

    def _ratios(self, stretch: _Stretch) -> Tensor:
        """Log w_k(x) - log E_p[w_k], [N, K], in the order of the terms."""
        columns = []
        if self.heads.heads:
            assert stretch.hidden_ND is not None
            columns.append(self.heads.log_ratio(stretch.hidden_ND, stretch.token_N, stretch.weight_NV))
        for log_weight_NV in stretch.rest_KNV:
            ratio_N = stretch.at(log_weight_NV) - log_mean(log_weight_NV, stretch.base_log_prob_NV)
            columns.append(ratio_N[:, None])
        if not columns:
            return stretch.base_NV.new_zeros(len(stretch.token_N), 0)
        return torch.cat(columns, 1)[:, self.order_K]


def _is_top(log_weight_N: Tensor, log_weight_NV: Tensor) -> Tensor:
    """Whether these weights are the largest of each row, [N], and possible; 1.0 or 0.0."""
    return ((log_weight_N >= log_weight_NV.amax(-1)) & (log_weight_N > -torch.inf)).float()


def _take(steps: Iterator[Tensor], span: int) -> Tensor:
    """The next log weights [B * span, V], row by row."""
    return torch.stack([next(steps) for _ in range(span)], 1).flatten(0, 1).float()
