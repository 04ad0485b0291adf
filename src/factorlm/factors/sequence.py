"""Factors that judge a text as a whole: a Python function, a pattern that the text must match, a wish for its length.

They fit the protocol by telescoping: a step weighs psi(x_1..x_t) / psi(x_1..x_t-1), and the last one brings the
weight of the finished text, so the weight of a text is what its judge says. Before the end psi is one unless a judge
of unfinished texts is given, which lets a sampler look ahead. Steps of such a judge cost one judgement for each token
of the vocabulary: exact and slow. Sequential Monte Carlo asks only about tokens that were drawn.
"""

# Axes: B batch, T time, V vocabulary.

from __future__ import annotations

import math
import re
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from factorlm.algebra import PAD, Factor, State, end_together
from factorlm.errors import InputError
from factorlm.text import Vocabulary

Tokens = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class SequenceFactor(Factor):
    """A weight on whole texts. A subclass gives `finished`, and `unfinished` if it can judge beginnings.

    Attributes:
        name: for people.
        tokens: the vocabulary.
    """

    name: str
    tokens: Vocabulary

    @abstractmethod
    def finished(self, prefix: Tokens, text: Tokens) -> float:
        """Log weight of a finished text, in nats.

        Its last token may be an end token; or it was cut at the limit, or it holds a stop string, which is seen here.
        """

    def unfinished(self, prefix: Tokens, text: Tokens) -> float:
        """Log psi of the beginning of a text, in nats: a guess of what `finished` will say; never a ban in error."""
        return 0.0

    @property
    def judges_beginnings(self) -> bool:
        """Whether `unfinished` says anything."""
        return type(self).unfinished is not SequenceFactor.unfinished

    @property
    def vocabulary(self) -> Vocabulary:
        """The tokens."""
        return self.tokens

    def start(self, prefix_BT: Tensor) -> State:
        """See Factor."""
        return self._state(prefix_BT, (prefix_BT != PAD).sum(1))

    def extend(self, state: State, token_B: Tensor) -> State:
        """See Factor."""
        read_BT, num_prefix_B = state.memory
        return self._state(torch.cat([read_BT, token_B.to(read_BT)[:, None]], 1), num_prefix_B)

    def trim(self, state: State, num_tokens_B: Tensor) -> State:
        """See Factor."""
        read_BT, num_prefix_B = state.memory
        num_read_B = (read_BT != PAD).sum(1) - num_tokens_B.to(read_BT)
        shorter_BT = end_together(read_BT, num_tokens_B.to(read_BT))
        age_T = torch.arange(shorter_BT.shape[1], 0, -1, device=read_BT.device)
        return self._state(shorter_BT.masked_fill(age_T[None] > num_read_B[:, None], PAD), num_prefix_B)

    def _state(self, read_BT: Tensor, num_prefix_B: Tensor) -> State:
        rows = []
        for row, num_prefix in zip(read_BT.tolist(), num_prefix_B.tolist(), strict=True):
            read = tuple(token for token in row if token != PAD)
            rows.append(self._weights(read[:num_prefix], read[num_prefix:]))
        log_weight_BV = torch.tensor(rows, dtype=torch.float64, device=read_BT.device)
        return State(log_weight_BV.reshape(len(rows), self.tokens.size), (read_BT, num_prefix_B))

    def _weights(self, prefix: Tokens, text: Tokens) -> list[float]:
        if any(token in self.tokens.end_ids for token in text):
            return [0.0] * self.tokens.size  # what follows the end is nobody's business
        before = self.unfinished(prefix, text) if text else 0.0
        if before == -math.inf:
            return [-math.inf] * self.tokens.size
        weights = [-before] * self.tokens.size
        if self.judges_beginnings:
            weights = [self.unfinished(prefix, (*text, token)) - before for token in range(self.tokens.size)]
        for token in self.tokens.end_ids:
            weights[token] = self.finished(prefix, (*text, token)) - before
        return weights


@dataclass(frozen=True, eq=False)
class FunctionFactor(SequenceFactor):
    """Weight exp(function(text)) of a finished text.

    Attributes:
        function: of the text in characters, to nats; False is a ban, True changes nothing.
        beginning: the same for the beginnings of texts; None says nothing about them.
    """

    function: Callable[[str], float | bool]
    beginning: Callable[[str], float | bool] | None = None

    def finished(self, prefix: Tokens, text: Tokens) -> float:
        """See SequenceFactor."""
        return self._nats(self.function(self.tokens.text(text)))

    def unfinished(self, prefix: Tokens, text: Tokens) -> float:
        """See SequenceFactor."""
        if self.beginning is None:
            return 0.0
        whole = self.tokens.text(text, errors="ignore")  # half a character is not judged yet
        return self._nats(self.beginning(whole))

    @property
    def judges_beginnings(self) -> bool:
        """Whether there is a function for beginnings."""
        return self.beginning is not None

    def _nats(self, value: float | bool) -> float:
        if isinstance(value, bool) or str(getattr(value, "dtype", "")).endswith("bool"):
            return 0.0 if value else -math.inf
        try:
            is_number = value < math.inf
        except TypeError:
            is_number = False
        if not is_number:
            raise InputError(f"{self.name} must give nats (a number, -inf to ban) or True or False, got {value!r}")
        return float(value)


@dataclass(frozen=True, eq=False)
class Check(SequenceFactor):
    """Weight one for texts that pass, zero for others, where asking about every next token is too dear.

    With particles, next tokens are tested one by one until one passes; what that says of the others is estimated.

    Attributes:
        may_go_on: whether some text that begins so can pass; True in error costs work, False in error forbids texts.
        is_right: whether a finished text passes; None asks the same as of a beginning.
    """

    may_go_on: Callable[[str], bool]
    is_right: Callable[[str], bool] | None = None

    def finished(self, prefix: Tokens, text: Tokens) -> float:
        """See SequenceFactor."""
        asked = self.is_right or self.may_go_on
        return 0.0 if asked(self.tokens.text(text)) else -math.inf

    def unfinished(self, prefix: Tokens, text: Tokens) -> float:
        """See SequenceFactor."""
        return 0.0 if self.may_go_on(self.tokens.text(text, errors="ignore")) else -math.inf


def pattern_factor(name: str, pattern: str, tokens: Vocabulary) -> FunctionFactor:
    """Texts that match a regular expression of Python as a whole; others are impossible.

    It looks at finished texts alone. Where the sampler should be led there, see grammars.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputError(f"a regular expression is needed, got {pattern!r}: {error}") from None
    return FunctionFactor(name, tokens, lambda text: compiled.fullmatch(text) is not None)


@dataclass(frozen=True, eq=False)
class LengthFactor(SequenceFactor):
    """Weight exp(-((T - mean) / width)^2 / 2) of a text with T tokens, its end not counted.

    Attributes:
        mean: wished number of tokens.
        width: how far from it a text may be at a price of half a nat.
    """

    mean: float
    width: float

    def __post_init__(self) -> None:
        if not (self.mean >= 0 and self.width > 0):
            raise InputError(f"a length of 0 or more and a positive width are needed, got {self.mean}, {self.width}")

    def finished(self, prefix: Tokens, text: Tokens) -> float:
        """See SequenceFactor."""
        num_tokens = sum(token not in self.tokens.end_ids for token in text)
        return -0.5 * ((num_tokens - self.mean) / self.width) ** 2
