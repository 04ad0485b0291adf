"""Drafts: what guesses the next tokens of texts, for the composition to check several at once."""

# Axes: R rows still being written, T time, V vocabulary.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple, Protocol

import torch
from pydantic import Field
from torch import Tensor

from factorlm.algebra import Factor, LocalProduct, State, device_of, flatten, leaves, merge, pad_left, unflatten
from factorlm.errors import InputError
from factorlm.factors.head import Head
from factorlm.factors.headed import fuse
from factorlm.inference.draw import Sampling, draw, proposal
from factorlm.inference.local import Row
from factorlm.models import CausalLM
from factorlm.models.causal import common_start
from factorlm.settings import Config


class Draft(Protocol):
    """Guesses how texts go on, from what was read alone."""

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


@dataclass(frozen=True, eq=False)
class ModelDraft:
    """Guesses drawn from a cheaper composition. Leviathan et al. (2023), arXiv:2211.17192; Chen et al. (2023).

    Attributes:
        factor: what guesses; it must have the vocabulary of what checks.
        num_tokens: most tokens to guess. Each text starts with half of them; one more after all were right, one fewer
            after a wrong one.
    """

    factor: Factor
    num_tokens: int = 6

    def __post_init__(self) -> None:
        if self.num_tokens < 1:
            raise InputError(f"a draft guesses at least 1 token, got {self.num_tokens}")


class Guess(NamedTuple):
    """Tokens that may come next, and the distribution [T, V] that each was drawn from; None if nothing was drawn."""

    tokens: list[int]
    log_prob_TV: Tensor | None = None


def cheap_part(factor: Factor) -> Factor:
    """A composition without its expensive terms: the base with its heads and whatever reads no further model.

    Raises:
        InputError: if nothing is left out, or no base would be left.
    """
    terms = merge(flatten(factor.base if isinstance(factor, LocalProduct) else factor))
    base = next((term for term in terms if isinstance(term.factor, CausalLM) and term.is_plain), None)
    if base is None:
        raise InputError("a draft needs a base that stands in the product as it is, got none; guess by lookup instead")
    kept = [term for term in terms if term is base or not _reads_a_model(term.factor, base.factor)]
    if len(kept) == len(terms):
        raise InputError(
            "a draft leaves out further models and instructions, got none in this composition; guess by lookup instead"
        )
    return unflatten(kept)


def _reads_a_model(factor: Factor, base: Factor) -> bool:
    """Whether a term needs more than the one pass of the base."""
    return any(
        leaf.lm is not base if isinstance(leaf, Head) else isinstance(getattr(leaf, "lm", leaf), CausalLM)
        for leaf in leaves(factor)
    )


class Drafter(Protocol):
    """Guesses for texts that are being written."""

    def guess(self, numbers: Sequence[int], rows: Sequence[Row], room: int) -> list[Guess]:
        """A guess for each of these rows, of at most `room` tokens; later calls name the same rows or fewer."""

    def checked(self, number: int, num_right: int, num_wrong: int) -> None:
        """How the guess for a row went."""


def drafter_of(draft: Draft | ModelDraft, sampling: Sampling) -> Drafter:
    """What guesses in one run."""
    return _Drawing(draft, sampling) if isinstance(draft, ModelDraft) else _Reading(draft)


@dataclass
class _Reading:
    """Guesses from what was read."""

    draft: Draft

    def guess(self, numbers: Sequence[int], rows: Sequence[Row], room: int) -> list[Guess]:
        return [Guess(self.draft.guess(row.prompt_ids + row.token_ids)[:room]) for row in rows]

    def checked(self, number: int, num_right: int, num_wrong: int) -> None:
        pass


class _Drawing:
    """Guesses from a model, whose state follows the texts: cut back to what both have, then read further."""

    def __init__(self, draft: ModelDraft, sampling: Sampling) -> None:
        self.model = fuse(LocalProduct.of(draft.factor))
        self.sampling = sampling
        self.most = draft.num_tokens
        self.daring: dict[int, int] = {}
        self.numbers: list[int] = []
        self.read: list[list[int]] = []
        self.state = State(torch.empty(0))

    def guess(self, numbers: Sequence[int], rows: Sequence[Row], room: int) -> list[Guess]:
        sizes = [min(room, self.daring.setdefault(number, max(1, self.most // 2))) for number in numbers]
        if not any(sizes):
            return [Guess([]) for _ in rows]
        self._follow(list(numbers), [row.prompt_ids + row.token_ids for row in rows])
        tokens: list[Tensor] = []
        log_probs: list[Tensor] = []
        for place in range(max(sizes)):
            if place:
                self.state = self.model.extend(self.state, tokens[-1])
                for read, token in zip(self.read, tokens[-1].tolist(), strict=True):
                    read.append(token)
            read_RT = pad_left(self.read).to(self.state.log_weight_BV.device) if self.sampling.looks_back else None
            log_probs.append(proposal(self.state.log_weight_BV, self.sampling, read_RT, self.model.vocabulary))
            uniforms = [
                torch.rand((), generator=row.generator, dtype=torch.float64) if place < size else torch.tensor(0.5)
                for row, size in zip(rows, sizes, strict=True)
            ]
            tokens.append(draw(log_probs[-1], torch.stack([uniform.double() for uniform in uniforms])))
        token_RT, log_prob_RTV = torch.stack(tokens, 1).tolist(), torch.stack(log_probs, 1)
        return [Guess(token_RT[r][:size], log_prob_RTV[r, :size]) for r, size in enumerate(sizes)]

    def checked(self, number: int, num_right: int, num_wrong: int) -> None:
        if num_wrong:
            self.daring[number] = max(1, self.daring[number] - 1)
        elif num_right:
            self.daring[number] = min(self.most, self.daring[number] + 1)

    def _follow(self, numbers: list[int], texts: list[list[int]]) -> None:
        """Bring the state to these texts; all rows read as many tokens as the one that lacks most."""
        if not self.numbers:
            self.state = self.model.start(pad_left(texts).to(device_of(self.model)))
        else:
            if numbers != self.numbers:
                place_R = torch.tensor([self.numbers.index(number) for number in numbers])
                self.state = self.model.reorder(self.state, place_R.to(self.state.log_weight_BV.device))
                self.read = [self.read[place] for place in place_R.tolist()]
            lacking = max(
                len(text) - len(common_start([tuple(text), tuple(read)]))
                for text, read in zip(texts, self.read, strict=True)
            )
            surplus = [len(read) - (len(text) - lacking) for text, read in zip(texts, self.read, strict=True)]
            device = device_of(self.model)
            if any(surplus):
                self.state = self.model.trim(self.state, torch.tensor(surplus, device=device))
            if lacking:
                token_RT = torch.tensor([text[len(text) - lacking :] for text in texts], device=device)
                _, self.state = self.model.extend_through(self.state, token_RT)
        self.numbers, self.read = numbers, [list(text) for text in texts]
