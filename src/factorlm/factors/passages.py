"""Texts of data sets as recipes want them: in passages, without what tokenisers did to them."""

from __future__ import annotations

import re

SENTENCE_END = re.compile(r"(?<=[.!?])[\"'”’]*\s+")


def untokenised(text: str) -> str:
    """A text without the blanks that tokenisers put around punctuation, and without their marks."""
    text = text.replace(" @-@ ", "-").replace(" @,@ ", ",").replace(" @.@ ", ".").replace("``", '"').replace("''", '"')
    text = re.sub(r" ?(n't|'(?:s|re|ve|ll|d|m))\b", r"\1", text)
    text = re.sub(r"\s+([.,;:!?%)\]])", r"\1", text)
    return re.sub(r"([(\[$])\s+", r"\1", text)


def plain(text: str) -> str:
    """A text with one blank between words."""
    return " ".join(text.split())


def passages(text: str, size: int) -> list[str]:
    """A text in pieces of this many sentences."""
    sentences = [s for s in SENTENCE_END.split(plain(text)) if s]
    return [" ".join(sentences[i : i + size]) for i in range(0, len(sentences), size)]
