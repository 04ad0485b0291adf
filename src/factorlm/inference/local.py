"""The local-product sampler: draws token by token from a composition's normalised next-token distributions."""

# Axes: B batch, R rows still being written, T time, V vocabulary.

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from factorlm.algebra import Factor, LocalProduct, device_of, pad_left
from factorlm.errors import DeadEndError
from factorlm.factors.headed import fuse
from factorlm.inference.draw import Sampling, draw, proposal
from factorlm.text import TextStream, Vocabulary


@dataclass
class Row:
    """One text being written.

    Attributes:
        prompt_ids: what was read before it.
        generator: its own randomness.
        token_ids: what was drawn, an end token included.
        log_probs: of each drawn token under the composition (untruncated, temperature one), in nats.
        finish_reason: "end" (an end token), "stop" (a stop string), "length" or "" (not finished).
        stream: the text so far.
    """

    prompt_ids: list[int]
    generator: torch.Generator
    stream: TextStream
    token_ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)
    finish_reason: str = ""

    def take(self, token: int, log_prob: float, vocabulary: Vocabulary, max_tokens: int) -> str:
        """Write a drawn token down; give the text that became certain with it, at the end all that was held back."""
        self.token_ids.append(token)
        self.log_probs.append(log_prob)
        text = self.stream.push(vocabulary.token_bytes[token])
        if token in vocabulary.end_ids:
            self.finish_reason = "end"
        elif self.stream.is_stopped:
            self.finish_reason = "stop"
        elif len(self.token_ids) >= max_tokens:
            self.finish_reason = "length"
        return text + self.stream.finish() if self.finish_reason else text


class Event(NamedTuple):
    """A token was drawn.

    Attributes:
        row: which text it belongs to.
        token: its id.
        text: the characters that became certain with it; for the last token of a row, all that were held back.
    """

    row: int
    token: int
    text: str


@torch.inference_mode()
def sample_local(
    factor: Factor,
    rows: Sequence[Row],
    *,
    max_tokens: int,
    sampling: Sampling,
) -> Iterator[Event]:
    """Write each row to its end, in place, and tell of every token as it is drawn.

    Finished rows leave the batch, so that a long text is not slowed down by others.

    Args:
        factor: any composition; it is normalised at each token and fused where that is possible.
        rows: what to write; they share the batch and nothing else.
        max_tokens: most tokens of each text.
        sampling: how to draw.

    Raises:
        DeadEndError: if every next token of a row is impossible.
    """
    model = fuse(LocalProduct.of(factor))
    vocabulary = model.vocabulary
    active = list(range(len(rows))) if max_tokens > 0 else []
    if not active:
        return
    state = model.start(pad_left([rows[b].prompt_ids for b in active]).to(device_of(model)))
    while active:
        log_prob_RV = state.log_weight_BV
        read_RT = pad_left([rows[b].prompt_ids + rows[b].token_ids for b in active]) if sampling.looks_back else None
        token_R = draw_rows(log_prob_RV, [rows[b] for b in active], sampling, read_RT, vocabulary)
        chosen_R = log_prob_RV.gather(1, token_R[:, None])[:, 0]
        kept = []
        for r, (b, token, log_prob) in enumerate(zip(active, token_R.tolist(), chosen_R.tolist(), strict=True)):
            text = rows[b].take(token, log_prob, vocabulary, max_tokens)
            if not rows[b].finish_reason:
                kept.append(r)
            yield Event(b, token, text)
        if not kept:
            return
        if len(kept) < len(active):
            state = model.reorder(state, torch.tensor(kept, device=token_R.device))
            token_R = token_R[torch.tensor(kept, device=token_R.device)]
            active = [active[r] for r in kept]
        state = model.extend(state, token_R)


def draw_rows(
    log_prob_RV: Tensor, rows: Sequence[Row], sampling: Sampling, read_RT: Tensor | None, vocabulary: Vocabulary
) -> Tensor:
    """A token for each row, [R], from its own randomness.

    Raises:
        DeadEndError: if every next token of a row is impossible.
    """
    if sampling.temperature == 0 and read_RT is None:
        _check_alive(log_prob_RV, rows)
        return log_prob_RV.argmax(-1)
    uniform_R = torch.stack([torch.rand((), generator=row.generator, dtype=torch.float64) for row in rows])
    return draw(proposal_rows(log_prob_RV, rows, sampling, read_RT, vocabulary), uniform_R)


def proposal_rows(
    log_prob_RV: Tensor, rows: Sequence[Row], sampling: Sampling, read_RT: Tensor | None, vocabulary: Vocabulary
) -> Tensor:
    """Log probabilities [R, V] that the token of each row is drawn with.

    Raises:
        DeadEndError: if every next token of a row is impossible.
    """
    _check_alive(log_prob_RV, rows)
    read_RT = None if read_RT is None else read_RT.to(log_prob_RV.device)
    return proposal(log_prob_RV, sampling, read_RT, vocabulary)


def _check_alive(log_prob_RV: Tensor, rows: Sequence[Row]) -> None:
    dead_R = log_prob_RV.amax(-1) == -torch.inf
    if bool(dead_R.any()):
        written = len(rows[int(dead_R.nonzero()[0])].token_ids)
        raise DeadEndError(
            f"every next token is impossible after {written} generated tokens; a factor bans all of them: "
            "allow some words again or take a factor away"
        )
