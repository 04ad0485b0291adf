"""Whether an edit has hurt a model: its perplexity on a fixed set of short sentences, over that before.

Source: Yang et al. (2024), The butterfly effect of model editing, arXiv:2402.09656; the limits are ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from factorlm.algebra import pad_right
from factorlm.errors import InputError
from factorlm.models.causal import CausalLM

WARN, COLLAPSE = 1.5, 10.0  # times the perplexity before
NUM_SENTENCES = 50
BATCH_ROWS = 16
LONGEST = 64  # tokens of a sentence

Harm = Literal["none", "hurt", "collapsed"]


def log_perplexity(lm: CausalLM, sentences: Sequence[str]) -> float:
    """Mean nats a token over all tokens of all sentences, each behind the start token.

    Raises:
        InputError: if there is no token.
    """
    rows = sorted((ids for s in sentences if (ids := lm.encode_text(s)[:LONGEST])), key=len)
    if not rows:
        raise InputError("sentences to guard a model with are needed, got none with a token; name a file of some")
    import torch

    nats = 0.0
    for start in range(0, len(rows), BATCH_ROWS):
        batch = rows[start : start + BATCH_ROWS]
        start_BT = torch.tensor([lm.start_ids], device=lm.device).expand(len(batch), -1)
        nats -= float(lm.score(start_BT, pad_right(batch)).double().sum())
    return nats / sum(map(len, rows))


def harm_of(ratio: float) -> Harm:
    """What a ratio of perplexities means; no number is a collapse."""
    if math.isnan(ratio) or ratio > COLLAPSE:
        return "collapsed"
    return "hurt" if ratio > WARN else "none"


def guard_sentences(sentences: Sequence[str], subjects: Sequence[str], number: int = NUM_SENTENCES) -> list[str]:
    """The first sentences that name none of the edited subjects."""
    lowered = [subject.lower() for subject in subjects]
    kept = (s for s in sentences if not any(subject in s.lower() for subject in lowered))
    return [sentence for _, sentence in zip(range(number), kept, strict=False)]
