"""Windows of texts: a prefix, and the continuation whose meaning a diffusion shall propose.

A window begins at a sentence, is parted between two words, anywhere in it, and ends at the end of a sentence where one
is near: prompts of people end in the middle of a sentence as often as not.
"""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, PositiveInt

from factorlm.models import CausalLM
from factorlm.settings import Config

SENTENCE_END = re.compile(r"(?:(?<=[.!?])|(?<=[.!?][\"')\]]))\s+")
BEFORE_CAPITAL = re.compile(SENTENCE_END.pattern + r"(?=[\"'(\[]?[A-Z0-9])")
WORD = re.compile(r"\s*\S+")


class WindowSettings(Config):
    """Sizes of windows.

    Attributes:
        prefix: fewest and most tokens of a prefix.
        continuation: fewest and most tokens of a continuation; fewer say too little to have a meaning.
        sentences: that a window has at most.
        per_window: ways in which each is parted.
        ends: whether continuations that end a whole text have the end token, so that decoders learn to stop there.
        without: windows with any of these texts are left out, such as "<unk>" where files have it.
        seed: of where.
    """

    prefix: tuple[PositiveInt, PositiveInt] = (3, 24)
    continuation: tuple[PositiveInt, PositiveInt] = (8, 24)
    sentences: Annotated[int, Field(ge=1)] = 2
    per_window: PositiveInt = 1
    ends: bool = True
    without: tuple[str, ...] = ()
    seed: int = 0


@dataclass(frozen=True)
class Window:
    """Two texts, the second behind the first.

    Attributes:
        prefix: text.
        continuation: text, with the space before it.
        prefix_ids: its tokens, without a start token.
        continuation_ids: its tokens, with the end token where the whole text ends.
    """

    prefix: str
    continuation: str
    prefix_ids: tuple[int, ...]
    continuation_ids: tuple[int, ...]


def windows_of(lm: CausalLM, texts: Sequence[str], settings: WindowSettings) -> list[Window]:
    """All windows of some texts that are long enough, in order; every sentence begins at most one.

    A continuation that is too long ends at its last sentence end or, without one, at its last whole word.
    """
    rng = random.Random(settings.seed)
    size_of = functools.cache(lambda word: len(lm.encode_text(word)))  # few words make up most of a text
    found: list[Window] = []
    for text in texts:
        sentences = sentences_of(text)
        for first in range(0, len(sentences), settings.sentences):
            some = sentences[first : first + settings.sentences]
            is_end = first + settings.sentences >= len(sentences)
            whole = " ".join(some)
            if not any(text in whole for text in settings.without):
                found += _parted(lm, whole, is_end, settings, rng, size_of)
    return found


def sentences_of(text: str) -> list[str]:
    """Sentences by their punctuation, with spaces set alike; where there are capitals, each begins with one."""
    end = SENTENCE_END if text.islower() else BEFORE_CAPITAL
    return [" ".join(part.split()) for part in end.split(text) if part.strip()]


def _parted(
    lm: CausalLM, text: str, is_end: bool, settings: WindowSettings, rng: random.Random, size_of: Callable[[str], int]
) -> list[Window]:
    words = WORD.findall(text)
    sizes = [size_of(word) for word in words]  # nearly what they are together; checked below
    total = sum(sizes)
    before, places = 0, []
    for number, size in enumerate(sizes[:-1], 1):
        before += size
        if settings.prefix[0] <= before <= settings.prefix[1] and total - before >= settings.continuation[0]:
            places.append(number)
    found = []
    for place in rng.sample(places, min(len(places), settings.per_window)):
        prefix, rest = "".join(words[:place]), words[place:]
        kept = _kept(sizes[place:], rest, settings.continuation[1])
        continuation = "".join(rest[:kept])
        prefix_ids, continuation_ids = lm.encode_text(prefix), lm.encode_text(continuation)
        if len(continuation_ids) < settings.continuation[0]:
            continue
        if settings.ends and is_end and kept == len(rest):
            continuation_ids = [*continuation_ids, lm.vocabulary.end_ids[0]]
        found.append(Window(prefix, continuation, tuple(prefix_ids), tuple(continuation_ids)))
    return found


def _kept(sizes: list[int], words: list[str], most: int) -> int:
    """Words of a continuation of at most so many tokens, up to a sentence end where there is one in its later half."""
    total, kept = 0, 0
    for size in sizes:
        if total + size > most:
            break
        total, kept = total + size, kept + 1
    if kept == len(words):
        return kept
    ends = [n for n in range(kept, kept // 2, -1) if words[n - 1].rstrip("\"')]").endswith((".", "!", "?"))]
    return ends[0] if ends else kept
