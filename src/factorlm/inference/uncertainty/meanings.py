"""Semantic entropy: the entropy over meanings of answers, so that other wordings of one answer are no doubt.

Source: Kuhn, Gal and Farquhar (2023), arXiv:2302.09664; Farquhar et al. (2024), Nature 630. They decide whether two
answers mean the same by an entailment model; here normalised words, numbers and a table of aliases do, and for long
answers the nearness of sentence vectors.
"""

# Axes: B texts, C clusters, D width, S samples.

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from factorlm.inference.uncertainty.evidence import Answer
from factorlm.text.comparing import last_number, normalized

Array = NDArray[np.float64]
Encode = Callable[[Sequence[str]], Array]  # texts to vectors of length one, [B, D]
SHORT = 5  # words; longer answers are compared by their vectors
NEAR = 0.85  # cosine of two that mean the same
NEGATIONS = frozenset(
    ("no", "not", "never", "none", "nobody", "nothing", "neither", "nor", "cannot", "without", "isn't", "wasn't",
     "aren't", "weren't", "don't", "doesn't", "didn't", "can't", "won't")
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Meanings:
    """Decides whether two answers to a question mean the same.

    Attributes:
        encode: sentences as vectors, for answers of more than SHORT words; None compares those by their words, too.
        near: cosine of question and answer from which on two long answers mean the same.
        aliases: other wordings by their normalised text -> the normalised text that stands for all.
    """

    encode: Encode | None = None
    near: float = NEAR
    aliases: Mapping[str, str] = field(default_factory=dict)

    def same(self, question: str, first: str, second: str) -> bool:
        """Whether two answers mean the same."""
        one, other = (self.aliases.get(normalized(text), normalized(text)) for text in (first, second))
        if one == other:
            return True
        if not one or not other or _negations(first) != _negations(second):
            return False
        numbers = last_number(first), last_number(second)
        if numbers != (None, None):
            return numbers[0] == numbers[1] and _without_digits(one) == _without_digits(other)
        if self.encode is None or max(len(one.split()), len(other.split())) <= SHORT:
            return False
        vector_2D = self.encode([f"{question} {first}", f"{question} {second}"])
        return bool(vector_2D[0] @ vector_2D[1] > self.near)

    def clusters(self, question: str, answers: Sequence[str]) -> list[int]:
        """The number of each answer's cluster: that of the first one whose first member means the same."""
        firsts: list[str] = []
        found = []
        for answer in answers:
            place = next((c for c, first in enumerate(firsts) if self.same(question, first, answer)), len(firsts))
            if place == len(firsts):
                firsts.append(answer)
            found.append(place)
        return found


def cluster_log_probs(clusters: Sequence[int], log_prob_S: Sequence[float] | Array) -> Array:
    """Log of each cluster's share in the probability of all samples, [C]."""
    log_prob_S, cluster_S = np.asarray(log_prob_S, float), np.asarray(clusters)
    log_prob_C = np.array([np.logaddexp.reduce(log_prob_S[cluster_S == c]) for c in range(cluster_S.max() + 1)])
    return np.asarray(log_prob_C - np.logaddexp.reduce(log_prob_S))


def semantic_entropy(clusters: Sequence[int], answers: Sequence[Answer]) -> float:
    """Entropy of clusters weighed by the likelihood per token of their members, in nats."""
    return _entropy(cluster_log_probs(clusters, [answer.mean_log_prob for answer in answers]))


def discrete_semantic_entropy(clusters: Sequence[int]) -> float:
    """Entropy of the shares of samples in clusters, in nats: needs no probabilities."""
    return _entropy(cluster_log_probs(clusters, np.zeros(len(clusters))))


def _entropy(log_prob_C: Array) -> float:
    return max(0.0, -math.fsum(math.exp(p) * p for p in log_prob_C.tolist() if p > -math.inf))


def _negations(text: str) -> int:
    """Whether a text denies: 1 for an odd number of words that do."""
    return sum(word.strip(".,;:!?").lower() in NEGATIONS for word in text.split()) % 2


def _without_digits(text: str) -> str:
    return " ".join(word for word in text.split() if not any(letter.isdigit() for letter in word))
