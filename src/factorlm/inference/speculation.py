"""Speculation: tokens are guessed cheaply and checked together, several for one pass of the composition.

The law of the texts is that of plain sampling, whatever guesses. A guess that was read off somewhere is checked by
drawing the token as plain sampling would, with the same random numbers: it counts if it is that token, and the text is
the very one of plain sampling with the same seed (to the rounding of reading several tokens at once). A guess that a
model drew, from q, is kept with probability min(1, p/q), else a token of (p - q)+ takes its place: it is kept more
often, 1 - TV(p, q), but the text is another one with the same law, and depends on the texts beside it. Sources:
Leviathan, Kalman and Matias (2023), arXiv:2211.17192; Chen et al. (2023), arXiv:2302.01318; drafts that need not be
known to the verifier, Daliri et al. (2024), arXiv:2408.07978.
"""

# Axes: R rows still being written, T time, V vocabulary.

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from factorlm.algebra import Factor, LocalProduct, device_of, pad_left
from factorlm.factors.headed import fuse
from factorlm.factors.nucleus import quantile
from factorlm.inference.drafts import Draft, Guess, ModelDraft, drafter_of
from factorlm.inference.draw import Sampling
from factorlm.inference.local import Event, Row, draw_rows, proposal_rows


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
    guess: Guess = field(default_factory=lambda: Guess([]))


@torch.inference_mode()
def sample_speculative(
    factor: Factor,
    rows: Sequence[Row],
    draft: Draft | ModelDraft,
    *,
    max_tokens: int,
    sampling: Sampling,
    tally: Tally | None = None,
) -> Iterator[Event]:
    """As `sample_local`, in law, and text by text where guesses are read off; in fewer passes where they are good.

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
    drafter = drafter_of(draft, sampling)
    if max_tokens < 1 or not rows:
        return

    def take(number: int, log_prob_V: Tensor, guess: Guess | None = None, place: int = 0) -> tuple[int, Event]:
        """Draw one token of a row, or keep the one that was guessed for this place, and write it down."""
        row = rows[number]
        read_RT = pad_left([row.prompt_ids + row.token_ids]) if sampling.looks_back else None
        if guess is None or guess.log_prob_TV is None or place == len(guess.tokens):
            token = int(draw_rows(log_prob_V[None], [row], sampling, read_RT, vocabulary)[0])
        else:
            target_V = proposal_rows(log_prob_V[None], [row], sampling, read_RT, vocabulary)[0]
            token = corrected(guess.tokens[place], target_V, guess.log_prob_TV[place], row.generator)
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
        numbers = [progress.number for progress in active]
        for progress, guess in zip(active, drafter.guess(numbers, [rows[n] for n in numbers], room), strict=True):
            progress.guess = guess
        width = 1 + max(len(progress.guess.tokens) for progress in active)
        filled = [[p.pending, *p.guess.tokens] + [p.pending] * (width - 1 - len(p.guess.tokens)) for p in active]
        token_RT = torch.tensor(filled, device=state.log_weight_BV.device)
        log_prob_RTV, state = model.extend_through(state, token_RT)
        tally.num_passes += 1
        unread = []
        for r, progress in enumerate(active):
            guessed, num_right, num_wrong = progress.guess.tokens, 0, 0
            for place in range(len(guessed) + 1):
                progress.pending, event = take(progress.number, log_prob_RTV[r, place], progress.guess, place)
                yield event
                if place == len(guessed):
                    break
                num_wrong = int(progress.pending != guessed[place])
                num_right += 1 - num_wrong
                if num_wrong or rows[progress.number].finish_reason:
                    break
            tally.num_guessed += num_right + num_wrong
            tally.num_right += num_right
            drafter.checked(progress.number, num_right, num_wrong)
            unread.append(width - 1 - num_right)
        if any(unread):
            state = model.trim(state, torch.tensor(unread, device=state.log_weight_BV.device))


def corrected(token: int, target_V: Tensor, draft_V: Tensor, generator: torch.Generator) -> int:
    """The token if it may stay, else another, so that its law is the target's if it was drawn from the draft's.

    Args:
        token: that the draft drew.
        target_V: log probabilities that the result shall have.
        draft_V: log probabilities that the token was drawn with.
        generator: of two numbers, used or not.
    """
    keep, place = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
    if keep * math.exp(float(draft_V[token])) < math.exp(float(target_V[token])):
        return token
    missing_V = (target_V.double().exp() - draft_V.double().exp()).clamp(min=0)
    if float(missing_V.sum()) == 0:  # equal to rounding
        missing_V = target_V.double().exp()
    return int(quantile(missing_V[None], torch.tensor([place], device=missing_V.device))[0])
