"""Utterances with slots: from word tags to stretches of characters and back, and copies with errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from factorlm.errors import InputError
from factorlm.evaluation.corpora import fingerprint
from factorlm.evaluation.workbench import Workbench
from factorlm.text.perturbations import Marked, Noise, Span, words_of

OUTSIDE = "O"


def from_tags(words: Sequence[str], tags: Sequence[str]) -> Marked:
    """An utterance from words and their tags: B- begins a slot, I- goes on with one of its type, O is none.

    Raises:
        InputError: if there are not as many tags as words.
    """
    if len(words) != len(tags):
        raise InputError(f"a tag for each word is needed, got {len(words)} words and {len(tags)} tags")
    spans: list[Span] = []
    at, open_kind = 0, ""
    for word, tag in zip(words, tags, strict=True):
        mark, _, kind = tag.partition("-")
        if mark == "I" and kind == open_kind:
            spans[-1] = spans[-1]._replace(end=at + len(word))
        elif mark != OUTSIDE:  # an I- with nothing before it begins a slot too
            spans.append(Span(at, at + len(word), kind))
        open_kind = "" if mark == OUTSIDE else kind
        at += len(word) + 1
    return Marked(" ".join(words), tuple(spans))


def to_tags(utterance: Marked) -> tuple[list[str], list[str]]:
    """Words between white space and their tags, recomputed from characters.

    A word belongs to the slot that has most of its characters; a slot that has no word so goes.
    """
    words, tags, before = [], [], None
    for start, end in words_of(utterance.text):
        shares = [(min(end, span.end) - max(start, span.start), span) for span in utterance.spans]
        most, best = max(shares, key=lambda share: share[0], default=(0, None))
        words.append(utterance.text[start:end])
        if best is None or most <= 0:
            tags.append(OUTSIDE)
            before = None
        else:
            tags.append(f"{'I' if best == before else 'B'}-{best.kind}")
            before = best
    return words, tags


def snapped(utterance: Marked) -> Marked:
    """The utterance with single blanks and slots that end where words end, as all predictions do."""
    return from_tags(*to_tags(utterance))


def load(bench: Workbench, part: str, number: int | None, seed: int) -> list[Marked]:
    """Utterances of a part with `tokens` and `slots`, drawn by the seed; None takes all.

    Raises:
        InputError: if there are fewer.
    """
    rows = bench.data.rows(part)
    if number is not None and number > len(rows):
        raise InputError(f"at most {len(rows)} utterances are in {part}, got {number}; ask for fewer")
    order = np.random.default_rng(seed).permutation(len(rows))[:number]
    found = [of_row(rows[i]) for i in order]
    bench.used[part] = fingerprint([u.text for u in found])
    return found


def load_parts(bench: Workbench, name: str, num_train: int, num_test: int) -> tuple[list[Marked], list[Marked]]:
    """Utterances of a set to learn from and to be tested on; those of the test are left out of the training."""
    train, test = (
        load(bench, f"{name}/{part}", n, bench.seed) for part, n in (("train", num_train), ("test", num_test))
    )
    tested = {u.text for u in test}
    return [u for u in train if u.text not in tested], test


def of_row(row: dict[str, Any]) -> Marked:
    """The utterance of a row of data."""
    return from_tags(row["tokens"], row["slots"])


def with_errors(utterances: Sequence[Marked], condition: str, seed: int) -> list[Marked]:
    """Copies with errors; "clean" has none."""
    if condition == "clean":
        return [snapped(u) for u in utterances]
    noise = Noise.of(condition)
    return [snapped(noise.mark(u, seed)) for u in utterances]
