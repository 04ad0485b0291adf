"""Texts that are being written for somebody, and the tokens that come of it."""

# Axes: R rows chosen, V vocabulary.

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from factorlm.algebra import Factor, pad_left
from factorlm.inference.draw import Sampling
from factorlm.inference.local import Row, draw_rows
from factorlm.inference.pushes import Pushes, alternatives
from factorlm.models import CausalLM


@dataclass(eq=False)
class Writing:
    """Texts that belong together: one composition, one way of drawing.

    Attributes:
        factor: the composition; it is normalised at each token.
        rows: the texts, empty so far.
        max_tokens: most tokens of each.
        sampling: how they are drawn.
        top: alternatives to tell of at each token.
        explain: whether to tell what each factor did to each token, where the composition is one that shares a batch.
        error: what ended it before its texts were written.
    """

    factor: Factor
    rows: list[Row]
    max_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    top: int = 0
    explain: bool = False
    error: Exception | None = None

    @property
    def num_places(self) -> int:
        """Tokens of its longest text, prompt included."""
        return max(len(row.prompt_ids) for row in self.rows) + self.max_tokens

    @property
    def is_done(self) -> bool:
        """Whether all its texts are written, or it failed."""
        return self.error is not None or all(row.finish_reason for row in self.rows)

    def write(
        self, number: int, token: int, log_prob: float, log_prob_V: Tensor, lm: CausalLM, pushes: Pushes | None = None
    ) -> Drawn:
        """Add a drawn token to a text."""
        text = self.rows[number].take(token, log_prob, lm.vocabulary, self.max_tokens)
        top = alternatives(log_prob_V, self.top) if self.top else ()
        return Drawn(self, number, token, text, log_prob, top, pushes)

    def fail(self, error: Exception) -> Drawn:
        """End it without its texts."""
        self.error = error
        return Drawn(self, -1)


class Drawn(NamedTuple):
    """A token was drawn, or a writing failed.

    Attributes:
        writing: whose.
        row: number of the text in it; -1 if it failed.
        token: its id.
        text: characters that became certain with it; with the last token of a text, all that were held back.
        log_prob: under the composition (untruncated, temperature one), in nats.
        top: id and log probability of the most probable tokens in its place.
        pushes: what each factor did, if asked for.
    """

    writing: Writing
    row: int
    token: int = -1
    text: str = ""
    log_prob: float = 0.0
    top: tuple[tuple[int, float], ...] = ()
    pushes: Pushes | None = None


def draw_texts(log_prob_RV: Tensor, rows: list[Row], sampling: Sampling, lm: CausalLM) -> Tensor:
    """A token for each text, [R], from its own randomness.

    Raises:
        DeadEndError: if every next token of a text is impossible.
    """
    read_RT = pad_left([row.prompt_ids + row.token_ids for row in rows]) if sampling.looks_back else None
    return draw_rows(log_prob_RV, rows, sampling, read_RT, lm.vocabulary)
