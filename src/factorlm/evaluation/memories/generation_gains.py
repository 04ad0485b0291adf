"""How much a mixture with a memory gains on tokens and words of human text, and how few of them have the gain."""

# Axes: C classes, D documents, N things of all documents, R resamples, T things of a document: tokens, or words.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from factorlm.evaluation.intervals import LEVEL, Estimate, ratio_interval
from factorlm.evaluation.memories.generation_mixtures import Mixture
from factorlm.evaluation.memories.generation_observed import Array, Observed
from factorlm.evaluation.units import rate
from factorlm.evaluation.word_classes import classify, nats_per_word
from factorlm.text import Vocabulary

Flags = NDArray[np.bool_]
TOP = 0.05  # of what gains
TENTHS = 10
LEAST = 1e-9  # nats; less is neither gain nor loss
RESAMPLES = 500  # of concentrations, which are summed anew each time


@dataclass(frozen=True, eq=False)
class Human:
    """Human texts as they were read.

    Attributes:
        texts: as they came.
        ids: their tokens.
        observed: what model and memories say of them.
    """

    texts: list[str]
    ids: list[list[int]]
    observed: list[Observed]


@dataclass(frozen=True, eq=False)
class Gains:
    """How much a mixture gains on each thing of a kind, document by document.

    Attributes:
        gain_T: nats that it needs less than the model.
        nats_T: that the model needs.
    """

    gain_T: list[Array]
    nats_T: list[Array]

    def where(self, chosen_T: Sequence[Flags]) -> Gains:
        """Only these."""
        return Gains(*([v[c] for v, c in zip(values, chosen_T, strict=True)] for values in (self.gain_T, self.nats_T)))

    @property
    def number_D(self) -> Array:
        """Of things in each document."""
        return np.array([len(gain) for gain in self.gain_T], float)

    def mean(self, seed: int) -> Estimate:
        """Nats that are gained for each."""
        return rate(np.array([gain.sum() for gain in self.gain_T]), self.number_D, seed=seed)

    def nats(self, seed: int) -> Estimate:
        """Nats that the model needs for each."""
        return rate(np.array([nats.sum() for nats in self.nats_T]), self.number_D, seed=seed)

    def won(self, seed: int) -> Estimate:
        """Share that gains."""
        return ratio_interval([(gain > LEAST).sum() for gain in self.gain_T], self.number_D, seed=seed)

    def lost(self, seed: int) -> Estimate:
        """Share that loses."""
        return ratio_interval([(gain < -LEAST).sum() for gain in self.gain_T], self.number_D, seed=seed)

    def concentration(self, seed: int) -> Estimate:
        """Share of all that is gained that the top of what gains has."""
        return concentration(self.gain_T, seed)


def concentration(gain_T: Sequence[Array], seed: int) -> Estimate:
    """The share that the twentieth of the gaining things with the largest gains has of all gain.

    Its interval resamples documents whole. A sum over a few large gains has a long tail: read it as a rough one.
    """
    num_documents = len(gain_T)
    gain_N = np.concatenate([*gain_T, np.zeros(0)])
    document_N = np.repeat(np.arange(num_documents), [len(gain) for gain in gain_T])
    document_N, gain_N = document_N[gain_N > LEAST], gain_N[gain_N > LEAST]
    if not len(gain_N):
        return Estimate(value=None, n=num_documents)
    order = np.argsort(-gain_N, kind="stable")
    gain_N, document_N = gain_N[order], document_N[order]

    def share(count_D: Array) -> float:
        count_N = count_D[document_N]
        # Of copies of one thing, those inside the top count.
        inside_N = np.clip(np.ceil(TOP * count_N.sum()) - (np.cumsum(count_N) - count_N), 0, count_N)
        total = float((count_N * gain_N).sum())
        return float((inside_N * gain_N).sum()) / total if total > 0 else np.nan

    value = share(np.ones(num_documents))
    if num_documents < 2:
        return Estimate(value=value, n=num_documents)
    drawn_RD = np.random.default_rng(seed).multinomial(num_documents, np.full(num_documents, 1 / num_documents),
                                                       size=RESAMPLES)  # fmt: skip
    low, high = np.nanquantile([share(count_D) for count_D in drawn_RD], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(value=value, low=float(low), high=float(high), n=num_documents)


def gains_of(human: Human, mixture: Mixture) -> Gains:
    """Token by token."""
    model = [observed.model.log_prob_T for observed in human.observed]
    ours = [mixture.log_prob(observed) for observed in human.observed]
    return Gains([a - b for a, b in zip(ours, model, strict=True)], [-b for b in model])


def word_gains(human: Human, mixture: Mixture, vocabulary: Vocabulary) -> tuple[Gains, list[Flags]]:
    """Word by word, with the classes of each word; documents whose tokens spell other words are left out."""
    gain_T, nats_T, flags = [], [], []
    everything = zip(human.texts, human.ids, human.observed, classify(human.texts), strict=True)
    for text, ids, observed, flags_TC in everything:
        theirs = nats_per_word(ids, observed.model.log_prob_T, vocabulary, text)
        ours = nats_per_word(ids, mixture.log_prob(observed), vocabulary, text)
        if theirs is not None and ours is not None:
            gain_T.append(theirs - ours)
            nats_T.append(theirs)
            flags.append(flags_TC)
    return Gains(gain_T, nats_T), flags


def is_first_piece(ids: Sequence[int], vocabulary: Vocabulary) -> Flags:
    """Whether each token begins a run of characters that are not white space, or stands before one."""
    spelt = [vocabulary.token_bytes[i] for i in ids]
    return np.array(
        [t == 0 or s[:1].isspace() or spelt[t - 1][-1:].isspace() for t, s in enumerate(spelt)], bool
    ).reshape(-1)


def tenth_of(human: Human) -> list[NDArray[np.intp]]:
    """In which tenth of all tokens, by the model's own probability, each token is; 0 has the least probable ones."""
    model = [observed.model.log_prob_T for observed in human.observed]
    edges = np.quantile(np.concatenate(model), np.arange(1, TENTHS) / TENTHS)
    return [np.searchsorted(edges, log_prob_T, side="right") for log_prob_T in model]
