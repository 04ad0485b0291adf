"""Memories that look up the shared encoder's last hidden state: it costs nothing where the model is read anyway."""

# Axes: B batch, D width, N states laid end to end, R rows chosen, T time, V vocabulary.

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from factorlm.algebra import State
from factorlm.memory.remembering import Answer, Memory
from factorlm.models import CausalLM
from factorlm.models.encoding import Encoded

if TYPE_CHECKING:
    from factorlm.text import Vocabulary

TOGETHER = 256  # states of whole texts that are looked up at once: [256, V] of float32 is about 50 MB


@dataclass(frozen=True, eq=False)
class StateMemory(Memory):
    """A memory whose answer depends on a hidden state alone; a subclass says how.

    Attributes:
        lm: whose states are looked up.
    """

    lm: CausalLM

    @abstractmethod
    def answers(self, hidden_ND: Tensor) -> Answer:
        """What is said after each of these states: [N, V] and features [N, F]."""

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

    def extend_through(self, state: State, token_BT: Tensor) -> tuple[Tensor, State]:
        """See Factor."""
        encoded = self.lm.advance(state.memory, token_BT)
        hidden_BTD = encoded.hidden.view[:, -token_BT.shape[1] :]
        log_weight_BTV = torch.stack([self.weighed(answer) for answer in self._over_time(hidden_BTD)], 1)
        return log_weight_BTV, State(log_weight_BTV[:, -1], encoded)

    def reorder(self, state: State, row_R: Tensor) -> State:
        """See Factor."""
        return State(state.log_weight_BV[row_R], self.lm.rows(state.memory, row_R))

    def trim(self, state: State, num_tokens_B: Tensor) -> State:
        """See Factor."""
        return self._state(self.lm.trimmed(state.memory, num_tokens_B))

    def look(self, memory: Encoded) -> Answer:
        """See Memory."""
        return self.answers(memory.hidden_BD)

    def looks(self, prefix_BT: Tensor, text_BT: Tensor) -> Iterator[Answer]:
        """See Memory."""
        if text_BT.shape[1]:
            yield from self._over_time(self.lm.hidden_before(prefix_BT, text_BT))

    def _over_time(self, hidden_BTD: Tensor) -> Iterator[Answer]:
        """Answers to the states of each time, looked up many times together."""
        num_rows = hidden_BTD.shape[0]
        for hidden_BSD in hidden_BTD.split(max(1, TOGETHER // num_rows), dim=1):
            log_prob_NV, feature_NF = self.answers(hidden_BSD.transpose(0, 1).flatten(0, 1))
            yield from map(Answer, log_prob_NV.split(num_rows), feature_NF.split(num_rows))
