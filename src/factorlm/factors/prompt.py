"""The prompt factor p(x | instruction) / p(x): what an instruction changes, as a factor with an exponent.

Source: classifier-free guidance for text, Sanchez et al. (2023), arXiv:2306.17806; PREADD, Pei et al. (2023).
"""

# Axes: B batch, R rows chosen, T time.

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from factorlm.algebra import PAD, Factor, Named, State, pad_left
from factorlm.factors.unbound import Unbound
from factorlm.models import CausalLM
from factorlm.models.reading import ReadsMore


@dataclass(frozen=True, eq=False)
class Conditioned(ReadsMore, Factor):
    """A language model that always reads some tokens first, behind the start token."""

    lm: CausalLM
    condition: tuple[int, ...]

    def start(self, prefix_BT: Tensor) -> State:
        """See Factor."""
        return self.lm.start(self.prefixes(prefix_BT))

    def steps(self, prefix_BT: Tensor, text_BT: Tensor) -> Iterator[Tensor]:
        """See Factor."""
        return self.lm.steps(self.prefixes(prefix_BT), text_BT)

    def score(self, prefix_BT: Tensor, text_BT: Tensor) -> Tensor:
        """See Factor."""
        return self.lm.score(self.prefixes(prefix_BT), text_BT)

    def prefixes(self, prefix_BT: Tensor) -> Tensor:
        """What is read in the place of these prefixes, [B, T']: the condition behind the start token."""
        start = list(self.lm.start_ids)
        rows = []
        for row in prefix_BT.tolist():
            tokens = [t for t in row if t != PAD]
            if tokens[: len(start)] == start:
                tokens = tokens[len(start) :]
            rows.append([*start, *self.condition, *tokens])
        return pad_left(rows).to(prefix_BT.device)


@dataclass(frozen=True, eq=False)
class UnboundPrompt(Unbound):
    """An instruction that any model can be given."""

    instruction: str

    def bind(self, lm: CausalLM) -> Factor:
        """See Unbound."""
        condition = tuple(lm.encode_text(self.instruction.strip() + "\n\n"))
        return Named(self.name, Conditioned(lm, condition) / lm, self.strengths)
