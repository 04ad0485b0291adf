"""Texts as people write them, from files that write them otherwise: spaces, quotes and marks set alike."""

from __future__ import annotations

import re

REPLACED = (
    (re.compile(r" @(\W)@ "), r"\1"),  # marks of WikiText inside words and numbers
    (re.compile(r"``|''|[\"“”]"), " "),  # quotes, which files write in many ways
    (re.compile(r"[‘’`]"), "'"),
    (re.compile(r"\\|\b[lr]rb\b"), " "),  # line breaks and brackets, as some files write them
    (re.compile(r"\s+(?=[,.;:!?%)\]}])"), ""),
    (re.compile(r"(?<=[(\[{])\s+"), ""),
    (re.compile(r"\s+(?=(?:n't|'s|'re|'ve|'ll|'d|'m)\b)", re.I), ""),
    (re.compile(r"\s+"), " "),
)


def cleaned(text: str) -> str:
    """Without quotes and double spaces, marks close to their words."""
    for pattern, by in REPLACED:
        text = pattern.sub(by, text)
    return text.strip()
