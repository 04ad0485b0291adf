"""Guides from words alone: texts that would have an attribute against texts that would not, both made of its name.

The direction between the two is the guide. How steep it is cannot be known without labels: it is set so that it varies
by a fixed number of nats over ordinary sentences, of which few have the attribute. Such probabilities are no
calibrated ones. After zero-shot classification by sentence pairs, Yin et al. (2019), arXiv:1909.00161.
"""

# Axes: C sentences, D numbers of a vector.

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import normalize

from factorlm.diffusion.collection import Collection
from factorlm.errors import InputError, UnknownNameError

DEVIATION = 2.5  # nats of the logit over ordinary sentences
RARE = 1.0  # deviations above their mean, from which a sentence has the attribute rather than not
PAIRS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "topic": (
        ("{}", "This text is about {}.", "News and stories about {}.", "We talked about {} all day."),
        ("This text is about something.", "News and stories about many things.", "We talked all day."),
    ),
    "tone": (
        ("{}", "This sounds {}.", "What a {} thing to say.", "The writer is {}."),
        ("This sounds ordinary.", "What a plain thing to say.", "The writer is like others."),
    ),
}


def sides(name: str) -> tuple[list[str], list[str]] | None:
    """Texts for and against a name such as "topic:sports"; None for a name that is not of this form.

    Raises:
        UnknownNameError: for a kind that there are no texts for.
        InputError: if nothing stands behind the colon.
    """
    kind, colon, word = name.partition(":")
    if not colon:
        return None
    if kind not in PAIRS:
        raise UnknownNameError.of("kind of guide from words", kind, PAIRS)
    word = word.replace("_", " ").strip()
    if not word:
        raise InputError(f"a word is needed behind {kind}:, got none; such as {kind}:sports")
    return [text.format(word) for text in PAIRS[kind][0]], list(PAIRS[kind][1])


def guide_of_words(like_ND: Tensor, unlike_ND: Tensor, ordinary: Collection) -> tuple[Tensor, float]:
    """Weights [D] and bias of the guide from the first texts against the second.

    Args:
        like_ND: vectors of texts that would have the attribute.
        unlike_ND: of texts that would not.
        ordinary: sentences, to set how steep it is.

    Raises:
        InputError: if both sides mean the same.
    """
    side_D = normalize(like_ND.mean(0), dim=0) - normalize(unlike_ND.mean(0), dim=0)
    value_C = ordinary.vector_CD @ side_D
    spread = float(value_C.std())
    if spread < 1e-6:
        raise InputError("texts for and against that differ are needed; choose other words")
    weight_D = side_D * (DEVIATION / spread)
    return weight_D, -float((value_C.mean() + RARE * spread) * (DEVIATION / spread))
