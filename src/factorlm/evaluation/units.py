"""What nats are divided by: tokens, words, bytes, characters, whole documents; and nats against position.

Every figure of a corpus is a ratio of sums, such as exp(sum of nats / sum of tokens), never a mean of documents'
figures. Words are runs of characters that are not white space (`str.split`, the convention of WikiText; a line break
is no word), bytes those of the text in UTF-8 as it came, characters Unicode code points.

Sources: units across tokenizers, Mielke (2019); parity of tokens, Petrov et al. (2023), arXiv:2305.15425; information
parity, Tsvetkov and Kipnis (2024).
"""

# Axes: C columns, D documents, R resamples, T time (tokens of a document).

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from factorlm.evaluation.intervals import LEVEL, Comparison, Estimate, compare, ratio_interval, resampled_means
from factorlm.text import Vocabulary

Array = NDArray[np.float64]
LN2 = math.log(2)
MOST_NATS_PER_WORD = 100.0  # more only where white space does not separate words


@dataclass(frozen=True, eq=False)
class Counts:
    """The nats of documents under one model, and what they are divided by.

    Attributes:
        nats_D: minus the log probability of each document, summed over the tokens counted.
        tokens_D: tokens counted.
        words_D: words.
        bytes_D: UTF-8 bytes.
        characters_D: code points.
    """

    nats_D: Array
    tokens_D: Array
    words_D: Array
    bytes_D: Array
    characters_D: Array

    @staticmethod
    def of(
        texts: Sequence[str], ids: Sequence[Sequence[int]], log_prob_T: Sequence[Array], vocabulary: Vocabulary
    ) -> Counts:
        """Count documents; what a token that is not counted (nan) at the start of one spells is not counted either.

        Args:
            texts: as they came.
            ids: their tokens.
            log_prob_T: of each token, in nats; nan was not counted.
            vocabulary: the bytes of the tokens.
        """
        rows = []
        for text, row, found_T in zip(texts, ids, log_prob_T, strict=True):
            counted_T = ~np.isnan(found_T)
            num_skipped = int(np.argmax(counted_T)) if counted_T.any() else len(row)
            before, rest = _cut(text, vocabulary.decode(row), len(vocabulary.decode(row[:num_skipped])))
            is_inside = before and rest and not before[-1].isspace() and not rest[0].isspace()
            nats = -float(found_T[counted_T].sum(dtype=np.float64)) if counted_T.any() else 0.0
            num_words = len(rest.split()) - bool(is_inside)
            rows.append((nats, int(counted_T.sum()), num_words, len(rest.encode()), len(rest)))
        return Counts(*np.array(rows, np.float64).reshape(-1, 5).T)

    @property
    def num_impossible(self) -> int:
        """Documents of which some token has probability zero."""
        return int(np.isinf(self.nats_D).sum())

    def perplexity(self, seed: int = 0) -> Estimate:
        """Exp of nats per token: comparable only between models of one tokenizer."""
        return rate(self.nats_D, self.tokens_D, np.exp, seed=seed)

    def word_perplexity(self, seed: int = 0) -> Estimate:
        """Exp of nats per word; not measured where a text has hardly any white space."""
        if self.nats_D.sum() > MOST_NATS_PER_WORD * self.words_D.sum() and not self.num_impossible:
            return Estimate(value=None, n=len(self.nats_D))
        return rate(self.nats_D, self.words_D, np.exp, seed=seed)

    def bits_per_byte(self, seed: int = 0) -> Estimate:
        """Comparable across tokenizers, but not across scripts."""
        return rate(self.nats_D, self.bytes_D, _bits, seed=seed)

    def bits_per_character(self, seed: int = 0) -> Estimate:
        """Comparable across tokenizers and across encodings of one script."""
        return rate(self.nats_D, self.characters_D, _bits, seed=seed)

    def bits_per_document(self, seed: int = 0) -> Estimate:
        """Comparable across languages, if the documents are translations."""
        return rate(self.nats_D, np.ones_like(self.nats_D), _bits, seed=seed)

    def fertility(self, seed: int = 0) -> Estimate:
        """Tokens per word."""
        return rate(self.tokens_D, self.words_D, seed=seed)

    def bytes_per_token(self, seed: int = 0) -> Estimate:
        """How far a token goes."""
        return rate(self.bytes_D, self.tokens_D, seed=seed)


def rate(
    numerator_D: Array, denominator_D: Array, change: Callable[[Array], Array] = lambda x: x, *, seed: int = 0
) -> Estimate:
    """Like `ratio_interval`; infinite, and without an interval, where a document has a token of probability zero."""
    if np.isinf(denominator_D).any():
        return Estimate(value=None, n=len(numerator_D))
    if np.isinf(numerator_D).any():
        return Estimate(value=math.inf, n=len(numerator_D))
    return ratio_interval(numerator_D, denominator_D, change=change, seed=seed)


def drawable(estimate: Estimate) -> Estimate:
    """The estimate as pictures can show it: an infinite one is missing."""
    return estimate if estimate.value is None or math.isfinite(estimate.value) else Estimate(value=None, n=estimate.n)


def compare_rates(
    measure: str,
    names: tuple[str, str],
    nats_D: tuple[Array, Array],
    units_D: tuple[Array, Array],
    seed: int = 0,
) -> Comparison:
    """Compare sums of nats / sums of units of two models, paired over the documents that have any units.

    Args:
        measure: its name.
        names: of the model and of its rival.
        nats_D: of each document, or other numbers to be divided, of both.
        units_D: of each document, of both.
        seed: of resampling and sign flips.
    """
    has_D = (units_D[0] > 0) & (units_D[1] > 0)
    if any(np.isinf(nats[has_D]).any() for nats in nats_D):
        nothing = Estimate(value=None, n=int(has_D.sum()))
        return Comparison(measure=measure, model=names[0], rival=names[1], difference=nothing, p_value=None,
                          verdict="cannot rank", reason="a token has probability zero")  # fmt: skip
    ours, theirs = (np.stack([n[has_D], u[has_D]], 1) for n, u in zip(nats_D, units_D, strict=True))
    return compare(measure, (names[0], ours), (names[1], theirs), statistic=_ratio, lower_is_better=True, seed=seed)


def macro_mean(groups: Sequence[tuple[Array, Array]], seed: int = 0) -> Estimate:
    """The mean over groups of bits per unit, every group with the same weight.

    Args:
        groups: nats [D] and units [D] of the documents of each group, which are resampled within it.
        seed: of the resampling.
    """
    n = sum(len(nats_D) for nats_D, _ in groups)
    if not groups or any(units_D.sum() == 0 for _, units_D in groups):
        return Estimate(value=None, n=n)
    value = float(np.mean([nats_D.sum() / units_D.sum() for nats_D, units_D in groups])) / LN2
    if math.isinf(value) or min(len(nats_D) for nats_D, _ in groups) < 2:
        return Estimate(value=value, n=n)
    drawn = []
    for index, (nats_D, units_D) in enumerate(groups):
        mean_R2 = resampled_means(np.stack([nats_D, units_D], 1), seed=seed + index)
        drawn.append(mean_R2[:, 0] / mean_R2[:, 1] / LN2)
    low, high = np.quantile(np.mean(drawn, 0), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value=value, low=float(low), high=float(high), n=n)


@dataclass(frozen=True)
class Parity:
    """A group against the first one, over the documents that both hold.

    Attributes:
        tokens: tokens of the group / tokens of the first: above one, the tokenizer serves it worse.
        information: nats of the first / nats of the group: below one, the model knows it less well.
    """

    tokens: Estimate
    information: Estimate


def parity(
    first: Mapping[str, tuple[float, float]], other: Mapping[str, tuple[float, float]], seed: int = 0
) -> Parity | None:
    """Parity over parallel documents: id -> (nats, tokens) of each; None if no document is in both groups."""
    shared = [key for key in first if key in other]
    if not shared:
        return None
    first_D2, other_D2 = (np.array([group[key] for key in shared], np.float64) for group in (first, other))
    if np.isinf([first_D2, other_D2]).any():
        information = Estimate(value=None, n=len(shared))
    else:
        information = ratio_interval(first_D2[:, 0], other_D2[:, 0], seed=seed)
    return Parity(ratio_interval(other_D2[:, 1], first_D2[:, 1], seed=seed), information)


@dataclass(frozen=True)
class Stretch:
    """Documents between two positions, counted from 1, and the nats per unit of what stands there."""

    first: int
    last: int
    nats: Estimate


def by_position(
    log_prob_T: Sequence[Array], sizes_T: Sequence[Array] | None = None, seed: int = 0
) -> tuple[list[Stretch], int]:
    """Nats per unit against position, in stretches that double; and the number of documents they rest on.

    All stretches rest on the same documents, those that reach the end of the last one, so that what changes along
    the curve is the position and not the company. The last stretch is the last that half of the documents fill.

    Args:
        log_prob_T: of each token of each document, in nats; nan was not counted.
        sizes_T: units of each token, such as its bytes; None counts tokens.
        seed: of the resampling.
    """
    sizes = [np.ones(len(row)) for row in log_prob_T] if sizes_T is None else [np.asarray(s, float) for s in sizes_T]
    ends = [np.cumsum(size_T) for size_T in sizes]
    reach = sorted((int(end_T[-1]) if len(end_T) else 0 for end_T in ends), reverse=True)
    num_stretches = int(math.log2(reach[(len(reach) - 1) // 2] + 1)) if reach else 0
    kept = [d for d, end_T in enumerate(ends) if len(end_T) and end_T[-1] >= 2**num_stretches - 1]
    found = []
    for first in (2**k for k in range(num_stretches)):
        nats, units = [], []
        for d in kept:
            begin_T = ends[d] - sizes[d] + 1
            in_T = (begin_T >= first) & (begin_T < 2 * first) & ~np.isnan(log_prob_T[d])
            nats.append(-float(log_prob_T[d][in_T].sum()))
            units.append(float(sizes[d][in_T].sum()))
        estimate = rate(np.array(nats), np.array(units), seed=seed)
        if estimate.value is not None:
            found.append(Stretch(first, 2 * first - 1, estimate))
    return found, len(kept)


def _cut(text: str, spelt: bytes, num_bytes: int) -> tuple[str, str]:
    """A text before and behind the first bytes of what its tokens spell; a character that is cut goes to the front."""
    if num_bytes == 0:
        return "", text
    data = text.encode()
    if spelt == b" " + data:  # some tokenizers put a blank in front
        num_bytes -= 1
    while num_bytes < len(data) and data[num_bytes] & 0xC0 == 0x80:
        num_bytes += 1
    return data[:num_bytes].decode(errors="ignore"), data[num_bytes:].decode(errors="ignore")


def _bits(nats: Array) -> Array:
    return nats / LN2


def _ratio(mean_RC: Array) -> Array:
    with np.errstate(divide="ignore", invalid="ignore"):
        return mean_RC[:, 0] / mean_RC[:, 1]
