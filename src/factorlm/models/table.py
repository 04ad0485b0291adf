"""Explicit languages: every next-token weight written down, for exact tests and small examples."""

# Axes: B batch, T time, V vocabulary.

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from factorlm.algebra import PAD, Factor, State
from factorlm.errors import InputError
from factorlm.text import Vocabulary, letters

Text = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Table(Factor):
    """Next-token log weights by everything read so far, back to the first token.

    Attributes:
        tokens: the vocabulary.
        log_weight: for each text read so far (without end tokens) the weights [V] of what comes next, in nats.
            After a text that is not listed only the end of the text is possible.
    """

    tokens: Vocabulary
    log_weight: Mapping[Text, Tensor]
    name: str = "table"

    @property
    def vocabulary(self) -> Vocabulary:
        """The tokens of the table."""
        return self.tokens

    def start(self, prefix_BT: Tensor) -> State:
        """See Factor."""
        return self._after(tuple(tuple(t for t in row if t != PAD) for row in prefix_BT.tolist()))

    def extend(self, state: State, token_B: Tensor) -> State:
        """See Factor."""
        return self._after(tuple((*text, int(t)) for text, t in zip(state.memory, token_B, strict=True)))

    def reorder(self, state: State, row_R: Tensor) -> State:
        """See Factor."""
        return self._after(tuple(state.memory[r] for r in row_R.tolist()))

    def trim(self, state: State, num_tokens_B: Tensor) -> State:
        """See Factor."""
        return self._after(tuple(t[: len(t) - int(n)] for t, n in zip(state.memory, num_tokens_B, strict=True)))

    def _after(self, texts: tuple[Text, ...]) -> State:
        ended_V = torch.full((self.tokens.size,), -torch.inf, dtype=torch.float64)
        ended_V[self.tokens.end_ids[0]] = 0.0
        rows = [self.log_weight.get(text, ended_V) for text in texts]
        return State(torch.stack(rows) if rows else torch.empty(0, self.tokens.size), texts)


def random_table(
    alphabet: str, max_tokens: int, generator: torch.Generator, *, is_normalized: bool = True, zeros: float = 0.0
) -> Table:
    """A language over the alphabet whose texts have at most max_tokens tokens, the end included.

    Its next-token weights are drawn anew for every text read so far, so nothing that forgets its first token can
    pass for it.

    Args:
        alphabet: one token a letter.
        max_tokens: longest text, with its end.
        generator: source of the weights.
        is_normalized: whether the steps sum to one.
        zeros: share of tokens that are impossible; the end of the text never is.
    """
    if not 0 <= zeros < 1:
        raise InputError(f"a share of zeros lies in [0, 1), got {zeros}")
    vocabulary = letters(alphabet)
    log_weight: dict[Text, Tensor] = {}
    for length in range(max_tokens - 1):
        for text in itertools.product(range(len(alphabet)), repeat=length):
            weight_V = torch.randn(vocabulary.size, generator=generator, dtype=torch.float64)
            impossible_V = torch.rand(vocabulary.size, generator=generator) < zeros
            impossible_V[-1] = False
            weight_V[impossible_V] = -torch.inf
            log_weight[text] = weight_V.log_softmax(0) if is_normalized else weight_V
    return Table(vocabulary, log_weight)


def markov_pair() -> tuple[Table, Table]:
    """Two languages over {a, b}, two letters long, whose local and global products differ by 0.32.

    Both draw the first letter evenly and repeat an a with probability 9/10; after b the first writes a with 9/10,
    the second with 1/10. So they disagree only after b, and the global product avoids b.
    """

    def language(prob_a_after_b: float) -> Table:
        rows = {(): (0.5, 0.5, 0.0), (0,): (0.9, 0.1, 0.0), (1,): (prob_a_after_b, 1 - prob_a_after_b, 0.0)}
        return Table(letters("ab"), {text: torch.tensor(row, dtype=torch.float64).log() for text, row in rows.items()})

    return language(0.9), language(0.1)
