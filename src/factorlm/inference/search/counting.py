"""What a search costs: a factor that counts what is read through it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

from factorlm.algebra import PAD, Factor, State

if TYPE_CHECKING:
    from factorlm.text import Vocabulary


@dataclass(frozen=True)
class Spent:
    """What a search has cost.

    Attributes:
        num_tokens: read by the composition, each row of a batch for itself: the work.
        num_passes: times that the composition was called, whatever the batch: the waiting.
        num_rewards: texts that were judged.
    """

    num_tokens: int
    num_passes: int
    num_rewards: int = 0


@dataclass(frozen=True, eq=False)
class Counting(Factor):
    """The factor itself, with a count of what it reads."""

    base: Factor
    counts: dict[str, int] = field(default_factory=lambda: {"tokens": 0, "passes": 0, "rewards": 0})

    @property
    def vocabulary(self) -> Vocabulary:
        """That of the base."""
        return self.base.vocabulary

    @property
    def spent(self) -> Spent:
        """What was read so far."""
        return Spent(self.counts["tokens"], self.counts["passes"], self.counts["rewards"])

    def start(self, prefix_BT: Tensor) -> State:
        """See Factor."""
        self._count(int((prefix_BT != PAD).sum()))
        return self.base.start(prefix_BT)

    def extend(self, state: State, token_B: Tensor) -> State:
        """See Factor."""
        self._count(len(token_B))
        return self.base.extend(state, token_B)

    def extend_through(self, state: State, token_BT: Tensor) -> tuple[Tensor, State]:
        """See Factor."""
        self._count(token_BT.numel())
        return self.base.extend_through(state, token_BT)

    def reorder(self, state: State, row_R: Tensor) -> State:
        """See Factor."""
        return self.base.reorder(state, row_R)

    def trim(self, state: State, num_tokens_B: Tensor) -> State:
        """See Factor."""
        return self.base.trim(state, num_tokens_B)

    def _count(self, num_tokens: int) -> None:
        self.counts["tokens"] += num_tokens
        self.counts["passes"] += 1
