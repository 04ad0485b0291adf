"""Guesses from a corpus: what followed the longest suffix of a text there, most often."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from factorlm.errors import InputError
from factorlm.memory.longest_suffix import InfiniGram

LOOKED_AT = 64  # last tokens of a text; a longer suffix says no more


@dataclass(frozen=True, eq=False)
class MemoryDraft:
    """Guesses how texts go on, for speculation, by an ∞-gram memory: a few microseconds a token.

    Source: drafts from n-grams and retrieval: He et al. (2024), REST, arXiv:2311.08252.

    Attributes:
        memory: its gate is not asked.
        num_tokens: most tokens to guess.
        least: tokens of the suffix that must be found; after fewer, nothing is guessed.
        share: of the places that must go on with a token, for it to be guessed.
    """

    memory: InfiniGram
    num_tokens: int = 6
    least: int = 2
    share: float = 0.4

    def __post_init__(self) -> None:
        if self.num_tokens < 1 or self.least < 1:
            raise InputError(f"a draft guesses at least 1 token after at least 1, got {self.num_tokens}, {self.least}")

    def guess(self, read: Sequence[int]) -> list[int]:
        """The next tokens of a text, as far as the corpus is sure enough."""
        state = self.memory.ungated.start(torch.tensor([list(read)[-LOOKED_AT:]]))
        guessed: list[int] = []
        while len(guessed) < self.num_tokens and int(state.memory.length_B[0]) >= self.least:
            log_prob, token = state.log_weight_BV[0].max(0)
            if float(log_prob.exp()) < self.share:
                break
            guessed.append(int(token))
            if int(token) in self.memory.vocabulary.end_ids:
                break
            state = self.memory.ungated.extend(state, token[None])
        return guessed
