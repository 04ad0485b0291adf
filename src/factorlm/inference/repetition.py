"""Runs of tokens that repeat what was read: how long a run each next token would make."""

# Axes: B batch, T time, V vocabulary.

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from factorlm.algebra import PAD
from factorlm.text import Vocabulary

LONGEST = 50  # tokens of a run that are looked at; the loss is beyond all measure by then


class Settings(Protocol):
    """What `losses` reads of the settings of sampling."""

    @property
    def dry_multiplier(self) -> float:
        """Nats lost by a token that makes a run of the allowed length repeat."""

    @property
    def dry_base(self) -> float:
        """Factor for each token more."""

    @property
    def dry_allowed_length(self) -> int:
        """Length of a run from which on tokens lose."""

    @property
    def dry_breakers(self) -> tuple[str, ...]:
        """Strings that end runs."""


def losses(read_BT: Tensor, settings: Settings, vocabulary: Vocabulary | None, num_tokens: int) -> Tensor:
    """Nats that each next token loses, [B, V]: multiplier * base ** (length of its run - allowed length).

    The run of a token v is the longest end of the text that was followed by v before. Source: see Sampling.

    Args:
        read_BT: the texts so far, with their prompts; PAD is skipped.
        settings: how much is lost.
        vocabulary: whose tokens hold strings that end runs.
        num_tokens: size of the vocabulary.
    """
    breakers = _breaker_ids(vocabulary, settings.dry_breakers) if vocabulary is not None else frozenset()
    loss_BV = torch.zeros(read_BT.shape[0], num_tokens, dtype=torch.float64)
    for b, row in enumerate(read_BT.tolist()):
        for token, length in runs([t for t in row if t != PAD], breakers).items():
            if length >= settings.dry_allowed_length:
                exponent = min(length, LONGEST) - settings.dry_allowed_length
                loss_BV[b, token] = settings.dry_multiplier * settings.dry_base**exponent
    return loss_BV.to(read_BT.device)


def runs(read: Sequence[int], breakers: Collection[int] = ()) -> dict[int, int]:
    """For each token that followed the last one before, how many tokens before it stand at the end of the text, too."""
    found: dict[int, int] = {}
    if not read or read[-1] in breakers:
        return found
    for place in range(len(read) - 1):
        if read[place] != read[-1] or read[place + 1] in breakers:
            continue
        length = 1
        while (
            length < min(place + 1, LONGEST)
            and read[place - length] == read[-1 - length]
            and read[place - length] not in breakers
        ):
            length += 1
        found[read[place + 1]] = max(found.get(read[place + 1], 0), length)
    return found


@lru_cache(maxsize=8)
def _breaker_ids(vocabulary: Vocabulary, breakers: tuple[str, ...]) -> frozenset[int]:
    strings = [breaker.encode() for breaker in breakers]
    return frozenset(
        token for token, part in enumerate(vocabulary.token_bytes) if not part or any(s in part for s in strings)
    )
