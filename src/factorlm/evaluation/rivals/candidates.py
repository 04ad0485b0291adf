"""Weights of the few likeliest next tokens, each judged by the text that it would make; all others keep weight one."""

# Axes: B batch, D width, K candidates, R rows chosen, T time, V vocabulary.

from __future__ import annotations

from abc import abstractmethod
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from factorlm.algebra import PAD, Factor, State, without_last
from factorlm.models import CausalLM
from factorlm.models.body import SpanLayer
from factorlm.models.encoding import Encoded
from factorlm.text import Vocabulary

REMEMBERED = 20_000  # rows whose weights are kept: what was written is read again for its likelihood
FORWARD_TOKENS = 1024  # candidates read together


@dataclass(frozen=True, eq=False)
class Candidates(Factor):
    """The weight C(text with v) / C(text) of each of the k likeliest tokens v of the base, for some classifier C.

    A subclass says what log C is. The ratio is that of FUDGE and of the classifier term of model arithmetic: relative
    to the text so far, a token that was not looked at keeps its probability.

    Attributes:
        lm: the base, which chooses the candidates.
        num_candidates: how many of them.
        most: largest weight, in nats, either way.
    """

    lm: CausalLM
    num_candidates: int = 50
    most: float = 6.0
    known: OrderedDict[tuple[int, ...], tuple[Tensor, Tensor]] = field(default_factory=OrderedDict)

    @property
    def vocabulary(self) -> Vocabulary:
        """That of the base."""
        return self.lm.vocabulary

    @abstractmethod
    def log_class(self, encoded: Encoded, rows: list[list[int]], candidate_BK: Tensor) -> tuple[Tensor, Tensor]:
        """Log C of each text, [B], and of each text with each candidate behind it, [B, K].

        Args:
            encoded: the texts, read by the base.
            rows: their tokens.
            candidate_BK: the next tokens to look at.
        """

    def start(self, prefix_BT: Tensor) -> State:
        """See Factor."""
        return self._state(self.lm.encode(prefix_BT), prefix_BT)

    def extend(self, state: State, token_B: Tensor) -> State:
        """See Factor."""
        encoded, token_BT = state.memory
        token_BT = torch.cat([token_BT, token_B[:, None].to(token_BT)], 1)
        return self._state(self.lm.advance(encoded, token_B[:, None]), token_BT)

    def reorder(self, state: State, row_R: Tensor) -> State:
        """See Factor."""
        encoded, token_BT = state.memory
        return State(state.log_weight_BV[row_R], (self.lm.rows(encoded, row_R), token_BT[row_R.to(token_BT.device)]))

    def trim(self, state: State, num_tokens_B: Tensor) -> State:
        """See Factor."""
        encoded, token_BT = state.memory
        return self._state(self.lm.trimmed(encoded, num_tokens_B), without_last(token_BT, num_tokens_B))

    def _state(self, encoded: Encoded, token_BT: Tensor) -> State:
        log_prob_BV = self.lm.log_prob(encoded)
        rows = [[t for t in row if t != PAD] for row in token_BT.tolist()]
        new = [b for b, row in enumerate(rows) if tuple(row) not in self.known]
        new = list({tuple(rows[b]): b for b in new}.values())  # samples of one prompt begin alike
        if new:
            index_R = torch.tensor(new, device=log_prob_BV.device)
            candidate_RK = log_prob_BV[index_R].topk(min(self.num_candidates, log_prob_BV.shape[1])).indices
            some = encoded if len(new) == len(rows) else self.lm.rows(encoded, index_R)
            before_R, after_RK = self.log_class(some, [rows[b] for b in new], candidate_RK)
            value_RK = (after_RK - before_R[:, None]).clamp(-self.most, self.most).to(log_prob_BV)
            self.known.update((tuple(rows[b]), (candidate_RK[r], value_RK[r])) for r, b in enumerate(new))
        log_weight_BV = torch.zeros_like(log_prob_BV)
        for b, row in enumerate(rows):
            candidate_K, value_K = self.known[tuple(row)]
            log_weight_BV[b, candidate_K] = value_K
        while len(self.known) > REMEMBERED:
            self.known.popitem(last=False)
        return State(log_weight_BV, (encoded, token_BT))


class _BorrowedLayer(SpanLayer):
    """A cache that is read and not added to: what comes behind it is seen once and forgotten."""

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """What was read and what is new; nothing is kept."""
        assert self.spans is not None
        key, value = self.spans
        return torch.cat([key.view, key_states], 2), torch.cat([value.view, value_states], 2)


@torch.no_grad()
def states_after(lm: CausalLM, encoded: Encoded, candidate_BK: Tensor) -> Tensor:
    """Last hidden states [B, K, D] after each text and one of K tokens: one pass, no copy of what was read.

    The candidates lie side by side at the same position; each sees the text and itself.
    """
    from transformers.cache_utils import Cache

    num_rows, num_candidates = candidate_BK.shape
    size = max(1, FORWARD_TOKENS // num_candidates)
    if num_rows > size:
        parts = torch.arange(num_rows, device=candidate_BK.device).split(size)
        return torch.cat([states_after(lm, lm.rows(encoded, part), candidate_BK[part]) for part in parts])
    read_BT = encoded.is_token_BT
    itself_KK = torch.eye(num_candidates, dtype=torch.bool, device=read_BT.device)
    seen_BKT = torch.cat([read_BT[:, None].expand(-1, num_candidates, -1), itself_KK[None].expand(num_rows, -1, -1)], 2)
    mask_B1KT = torch.zeros(seen_BKT.shape, dtype=lm.model.dtype, device=read_BT.device)
    mask_B1KT = mask_B1KT.masked_fill(~seen_BKT, torch.finfo(lm.model.dtype).min)[:, None]
    output = lm.model.base_model(
        input_ids=candidate_BK,
        attention_mask=mask_B1KT,
        position_ids=encoded.num_tokens_B[:, None].expand(-1, num_candidates),
        past_key_values=Cache(layers=[_BorrowedLayer(spans) for spans in encoded.keys_values]),
        use_cache=True,
    )
    hidden_BKD: Tensor = output.last_hidden_state
    return hidden_BKD
