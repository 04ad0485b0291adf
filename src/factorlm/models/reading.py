"""Factors that are a language model with something else read first: their states are the model's own."""

# Axes: B batch, R rows chosen, T time.

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from factorlm.algebra import State
from factorlm.models.causal import CausalLM

if TYPE_CHECKING:
    from factorlm.text import Vocabulary


class ReadsMore:
    """Everything but how reading starts, and whole texts; to be named before Factor among the bases."""

    lm: CausalLM

    @property
    def vocabulary(self) -> Vocabulary:
        """That of the language model."""
        return self.lm.vocabulary

    @property
    def device(self) -> torch.device:
        """That of the language model."""
        return self.lm.device

    def extend(self, state: State, token_B: Tensor) -> State:
        """See Factor."""
        return self.lm.extend(state, token_B)

    def extend_through(self, state: State, token_BT: Tensor) -> tuple[Tensor, State]:
        """See Factor."""
        return self.lm.extend_through(state, token_BT)

    def reorder(self, state: State, row_R: Tensor) -> State:
        """See Factor."""
        return self.lm.reorder(state, row_R)

    def trim(self, state: State, num_tokens_B: Tensor) -> State:
        """See Factor."""
        return self.lm.trim(state, num_tokens_B)
