"""Speculation: tokens are guessed cheaply and checked together, several for one pass of the composition.

A text is drawn with the same random numbers as without guesses: each checked place draws its token as plain sampling
would, and a guess counts only if it is that token. So the texts are those of plain sampling with the same seed (to the
rounding of reading several tokens at once), whatever guesses, and a guess of probability p is right with probability
p, as in speculative sampling of a draft that is sure of itself. Sources: Leviathan, Kalman and Matias (2023),
arXiv:2211.17192; drafts that need not be known to the verifier, Daliri et al. (2024), arXiv:2408.07978.
"""

# Axes: R rows still being written, T time, V vocabulary.

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Protocol

import torch
from pydantic import Field
from torch import Tensor

from factorlm.algebra import Factor, LocalProduct, device_of, pad_left
from factorlm.factors.headed import fuse
from factorlm.inference.draw import Sampling
from factorlm.inference.local import Event, Row, draw_rows
from factorlm.settings import Config


class Draft(Protocol):
    """Guesses how texts go on."""

    def guess(self, read: Sequence[int]) -> list[int]:
        """The next tokens of a text, as far as the draft dares; none is a good answer."""


class PromptLookup(Config):
    """What followed the last words where they stood before, in the prompt or in the text. Saxena (2023).

    Attributes:
        longest: tokens at the end of the text that are looked for first; then fewer.
        num_tokens: most tokens to guess.
    """

    longest: Annotated[int, Field(ge=1)] = 3
    num_tokens: Annotated[int, Field(ge=1)] = 6

    def guess(self, read: Sequence[int]) -> list[int]:
        """See Draft."""
        read = list(read)
        for length in range(min(self.longest, len(read) - 1), 0, -1):
            end = read[-length:]
            for place in range(len(read) - length - 1, -1, -1):
                if read[place : place + length] == end:
                    return read[place + length : place + length + self.num_tokens]
        return []


@dataclass
class Tally:
    """How guessing went.

    Attributes:
        num_passes: of the composition, after the prompt.
        num_guessed: tokens that were guessed and checked.
        num_right: of these, how many were kept.
        num_drawn: tokens of all texts.
    """

    num_passes: int = 0
    num_guessed: int = 0
    num_right: int = 0
    num_drawn: int = 0

    @property
    def acceptance(self) -> float:
        """Share of guesses that were right; 0 without any."""
        return self.num_right / self.num_guessed if self.num_guessed else 0.0


@dataclass
class _Progress:
    """A row, and its token that was drawn but not read yet."""

    number: int
    pending: int
    guesses: list[int] = field(default_factory=list)


@torch.inference_mode()
def sample_speculative(
    factor: Factor,
    rows: Sequence[Row],
    draft: Draft,
    *,
    max_tokens: int,
    sampling: Sampling,
    tally: Tally | None = None,
) -> Iterator[Event]:
    """As `sample_local`, with the same texts, in fewer passes where the draft guesses well.

    Args:
        factor: any composition; it is normalised at each token and fused where that is possible.
        rows: what to write.
        draft: what guesses.
        max_tokens: most tokens of each text.
        sampling: how to draw.
        tally: counts how guessing went.

    Raises:
        DeadEndError: if every next token of a row is impossible.
    """
    model = fuse(LocalProduct.of(factor))
    vocabulary = model.vocabulary
    tally = tally or Tally()
    if max_tokens < 1 or not rows:
        return

    def take(number: int, log_prob_V: Tensor) -> tuple[int, Event]:
        """Draw one token of a row, and write it down."""
        row = rows[number]
        read_RT = pad_left([row.prompt_ids + row.token_ids]) if sampling.looks_back else None
        token = int(draw_rows(log_prob_V[None], [row], sampling, read_RT, vocabulary)[0])
        tally.num_drawn += 1
        return token, Event(number, token, row.take(token, float(log_prob_V[token]), vocabulary, max_tokens))

    state = model.start(pad_left([row.prompt_ids for row in rows]).to(device_of(model)))
    active = []
    for number in range(len(rows)):
        token, event = take(number, state.log_weight_BV[number])
        active.append(_Progress(number, token))
        yield event
    while active:
        kept = [r for r, progress in enumerate(active) if not rows[progress.number].finish_reason]
        if not kept:
            return
        if len(kept) < len(active):
            state = model.reorder(state, torch.tensor(kept, device=state.log_weight_BV.device))
            active = [active[r] for r in kept]
        # No row reads further than its last token but one, not even in the place of a neighbour's guesses.
        room = max_tokens - 1 - max(len(rows[progress.number].token_ids) for progress in active)
        for progress in active:
            row = rows[progress.number]
            progress.guesses = draft.guess(row.prompt_ids + row.token_ids)[:room]
        width = 1 + max(len(progress.guesses) for progress in active)
        filled = [[p.pending, *p.guesses] + [p.pending] * (width - 1 - len(p.guesses)) for p in active]
        token_RT = torch.tensor(filled, device=state.log_weight_BV.device)
        log_prob_RTV, state = model.extend_through(state, token_RT)
        tally.num_passes += 1
        unread = []
        for r, progress in enumerate(active):
            num_right = 0
            for place in range(len(progress.guesses) + 1):
                progress.pending, event = take(progress.number, log_prob_RTV[r, place])
                yield event
                if place == len(progress.guesses):
                    break
                tally.num_guessed += 1
                if progress.pending != progress.guesses[place]:
                    break
                num_right += 1
                if rows[progress.number].finish_reason:
                    break
            tally.num_right += num_right
            unread.append(width - 1 - num_right)
        if any(unread):
            state = model.trim(state, torch.tensor(unread, device=state.log_weight_BV.device))
