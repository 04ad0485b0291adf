"""How likely words are, with and without a factor: what an edit did, in probabilities."""

# Axes: B texts, T time.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from factorlm.algebra import PAD, Factor, LocalProduct, Power, Product, pad_left, pad_right
from factorlm.factors.calibration import OPENINGS, neutral_states
from factorlm.factors.editing import STRENGTH, Edited, exponent_at
from factorlm.factors.headed import fuse
from factorlm.models import CausalLM

NEUTRAL_CONTEXTS = 3


@dataclass(frozen=True)
class WordProbability:
    """Probability that a word comes next, all its tokens, after a context.

    Attributes:
        word: the word.
        context: what was read before.
        base: under the base model.
        before: with the factor before the edit.
        after: with the factor after it.
    """

    word: str
    context: str
    base: float
    before: float
    after: float


@dataclass(frozen=True)
class WordEffect:
    """What an edit did to its words.

    Attributes:
        strength: of the factor, in signed nats per token.
        exponent_before: that the factor before the edit has at that strength; one for a lexicon that only bans.
        exponent_after: that the factor after the edit has there.
        rows: each word after each context.
    """

    strength: float
    exponent_before: float
    exponent_after: float
    rows: tuple[WordProbability, ...]


def word_effect(
    lm: CausalLM, edited: Edited, contexts: Sequence[str] = (), *, strength: float = STRENGTH
) -> WordEffect:
    """Probabilities of the edited words under the base, the factor before and the factor after the edit.

    Args:
        lm: the base model.
        edited: the factor.
        contexts: texts that the words may follow; without any, the neutral places where each is likeliest.
        strength: of the factor, in signed nats per token.

    Raises:
        InputError: for a context that is too long.
    """
    places: list[tuple[str, str, list[int], list[int]]] = []
    for word in edited.words:
        after_blank = lm.encode_text(" " + word.strip())
        for context in contexts:
            start = [*lm.start_ids, *lm.encode_text(context)]
            bare = context == "" or context[-1].isspace()
            places.append((word, context, start, lm.encode_text(word.strip()) if bare else after_blank))
        if not contexts:
            for prefix in likely_places(lm, after_blank):
                text = lm.vocabulary.text(prefix)
                places.append((word, text, prefix, after_blank))
    prefix_BT = pad_left([place[2] for place in places]).to(lm.device)
    text_BT = pad_right([place[3] for place in places]).to(lm.device)
    exponents = [exponent_at(lm, factor, strength) for factor in (edited.old, edited.new)]
    steered = [_product(lm, f, a) for f, a in zip((edited.old, edited.new), exponents, strict=True)]
    probs = [_probability(model, prefix_BT, text_BT) for model in (lm, *steered)]
    rows = zip(places, *probs, strict=True)
    return WordEffect(
        strength, exponents[0], exponents[1], tuple(WordProbability(p[0], p[1], *three) for p, *three in rows)
    )


def likely_places(lm: CausalLM, token_ids: Sequence[int], most: int = NEUTRAL_CONTEXTS) -> list[list[int]]:
    """Prefixes of neutral text after which these tokens are likeliest to begin, at most one from each opening."""
    states = neutral_states(lm)
    order = states.log_prob_NV[:, token_ids[0]].argsort(descending=True).tolist()
    openings = [(*lm.start_ids, *lm.encode_text(opening)) for opening in OPENINGS]
    found: dict[int, list[int]] = {}
    for n in order:
        prefix = [token for token in states.prefix_NT[n].tolist() if token != PAD]
        opening = next(i for i, start in enumerate(openings) if tuple(prefix[: len(start)]) == start)
        if len(found) < most:
            found.setdefault(opening, prefix)
    return list(found.values())


def _product(lm: CausalLM, factor: Factor, exponent: float) -> Factor:
    return fuse(LocalProduct(Product((lm, Power(factor, exponent)))))


@torch.inference_mode()
def _probability(model: Factor, prefix_BT: Tensor, text_BT: Tensor) -> list[float]:
    return [float(value) for value in model.score(prefix_BT, text_BT).double().sum(1).exp()]
