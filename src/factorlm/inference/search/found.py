"""What searches give back."""

from __future__ import annotations

from dataclasses import dataclass

from factorlm.inference.search.counting import Spent


@dataclass(frozen=True)
class Found:
    """A text that a search found.

    Attributes:
        token_ids: of the text, an end token included.
        text: in characters.
        value: by what the search compared texts: a log weight in nats, or a reward.
        log_weight: of the text under what was searched, in nats.
        finish_reason: "end", "stop" or "length".
        spent: by the whole search.
    """

    token_ids: tuple[int, ...]
    text: str
    value: float
    log_weight: float
    finish_reason: str
    spent: Spent


@dataclass(frozen=True)
class Vote:
    """The answer that most texts gave.

    Attributes:
        answer: None if no text gave one.
        shares: of each answer among all texts; they sum to less than one where some gave none.
        spent: by all texts.
    """

    answer: str | None
    shares: dict[str, float]
    spent: Spent
