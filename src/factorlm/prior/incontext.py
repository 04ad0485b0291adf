"""Components that are one language model with different things to read first: sentences, or vectors in their place.

What a component reads first is read once and kept; rows with different components share every batch, so one component
for each response costs no more than the bare model.
"""

# Axes: B batch, D width, K components, M places of an assumption, R rows chosen, T time.

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property

import torch
from torch import Tensor

from factorlm.algebra import PAD, State, pad_left
from factorlm.models import CausalLM
from factorlm.models.encoding import Encoded
from factorlm.models.reading import ReadsMore
from factorlm.prior.ensemble import Ensemble


class InContext(ReadsMore, Ensemble):
    """A language model that reads the assumption of its row behind the start token.

    Attributes:
        lm: the model.
        assumptions: vectors [M, D] in the places of tokens, or token ids [M]; one of each component.
    """

    def __init__(self, lm: CausalLM, assumptions: Sequence[Tensor]) -> None:
        self.lm = lm
        self.assumptions = tuple(assumptions)

    @property
    def num_components(self) -> int:
        """See Ensemble."""
        return len(self.assumptions)

    @cached_property
    def before(self) -> Encoded:
        """The start token and the assumption of each component, read: K rows."""
        rows = []
        for assumption in self.assumptions:
            embedded_MD = assumption if assumption.is_floating_point() else self.lm.embed(assumption)
            start_ND = self.lm.embed(torch.tensor(self.lm.start_ids))
            rows.append(self.lm.encode_embedded(torch.cat([start_ND, embedded_MD.to(start_ND)])[None]))
        return Encoded.joined(rows) if len(rows) > 1 else rows[0]

    @torch.no_grad()
    def start(self, prefix_BT: Tensor, component_B: Tensor) -> State:
        """See Ensemble."""
        rest_BT = self._rest(prefix_BT)
        is_empty_B = (rest_BT != PAD).sum(1) == 0
        component_B = component_B.to(self.device)
        if bool(is_empty_B.all()):
            return self._state(self.before.rows(component_B))
        if not bool(is_empty_B.any()):
            return self._state(self.lm.advance(self.before.rows(component_B), rest_BT))
        empty_R, other_R = is_empty_B.nonzero()[:, 0], (~is_empty_B).nonzero()[:, 0]
        parts = [
            self.before.rows(component_B[empty_R]),
            self.lm.advance(self.before.rows(component_B[other_R]), rest_BT[other_R]),
        ]
        return self._state(Encoded.joined(parts).rows(torch.cat([empty_R, other_R]).argsort()))

    @torch.no_grad()
    def steps(self, prefix_BT: Tensor, text_BT: Tensor, component_B: Tensor) -> Iterator[Tensor]:
        """See Ensemble."""
        if text_BT.shape[1]:
            for hidden_BD in self.hidden_before(prefix_BT, text_BT, component_B).unbind(1):
                yield self.lm.unembed(hidden_BD).log_softmax(-1)

    @torch.no_grad()
    def score(self, prefix_BT: Tensor, text_BT: Tensor, component_B: Tensor) -> Tensor:
        """See Ensemble."""
        text_BT = text_BT.to(self.device)
        log_prob_BT = torch.zeros(text_BT.shape, device=self.device)
        if text_BT.shape[1] == 0:
            return log_prob_BT
        real_BT = text_BT != PAD
        hidden_ND = self.hidden_before(prefix_BT, text_BT, component_B)[real_BT]
        return log_prob_BT.masked_scatter(real_BT, self.lm.log_prob_of(hidden_ND, text_BT[real_BT]))

    @torch.no_grad()
    def hidden_before(self, prefix_BT: Tensor, text_BT: Tensor, component_B: Tensor) -> Tensor:
        """Hidden states from which each token of the texts is predicted, [B, T, D]; meaningless where it is PAD."""
        return self.lm.hidden_behind(self.start(prefix_BT, component_B).memory, text_BT.to(self.device))

    def _rest(self, prefix_BT: Tensor) -> Tensor:
        """Prefixes without their start token, which stands before the assumption."""
        start = list(self.lm.start_ids)
        rows = [[t for t in row if t != PAD] for row in prefix_BT.tolist()]
        return pad_left([row[len(start) :] if row[: len(start)] == start else row for row in rows]).to(self.device)

    def _state(self, encoded: Encoded) -> State:
        return State(lambda: self.lm.log_prob(encoded), encoded)
