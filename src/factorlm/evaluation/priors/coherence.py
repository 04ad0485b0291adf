"""Whether a distribution over models holds beliefs, rather than averages of beliefs.

For a statement s and its negation s', a component believes s with p_k = p_k(s) / (p_k(s) + p_k(s')). Two answers of one
component contradict each other with probability E_k[2 p_k (1 - p_k)], two of components drawn anew with 2 p (1 - p),
p = E_k[p_k]; the difference is twice the variance of p_k. So R = Var_k(p_k) / (p (1 - p)) is the share of all
disagreement that lies between components: 0 for any one model, 1 where each component is certain and they differ.
"""

# Axes: K components, S statements.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from factorlm.prior import Prior, beliefs

Array = NDArray[np.float64]
LEAST = 1e-12  # of p (1 - p): below, everybody believes the same, and there is nothing to share out


@dataclass(frozen=True)
class Beliefs:
    """What components think of statements.

    Attributes:
        weight_K: of the components.
        prob_SK: that each gives the statement against its negation.
    """

    weight_K: Array
    prob_SK: Array

    @property
    def mean_S(self) -> Array:
        """What the mixture believes."""
        return np.asarray(self.prob_SK @ self.weight_K)

    @property
    def variance_S(self) -> Array:
        """Of belief between components."""
        return np.asarray((self.prob_SK - self.mean_S[:, None]) ** 2 @ self.weight_K)

    @property
    def disagreement_S(self) -> Array:
        """P (1 - p): half the probability that two independent answers contradict each other."""
        return np.asarray(self.mean_S * (1 - self.mean_S))

    @property
    def within_S(self) -> Array:
        """Probability that two answers of one component contradict each other."""
        return np.asarray(2 * (self.prob_SK * (1 - self.prob_SK)) @ self.weight_K)

    @property
    def across_S(self) -> Array:
        """Probability that two answers of components drawn anew contradict each other."""
        return 2 * self.disagreement_S

    @property
    def ratio_S(self) -> Array:
        """R of each statement; nan where everybody is certain of the same."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(self.disagreement_S > LEAST, self.variance_S / self.disagreement_S, np.nan)


def beliefs_of(prior: Prior, pairs: Sequence[tuple[str, str]]) -> Beliefs:
    """Of a prior in statements and their negations."""
    both = [text for pair in pairs for text in pair]
    log_prob_NK = prior.log_likelihood(both)
    log_prob_SK, log_other_SK = log_prob_NK[0::2], log_prob_NK[1::2]
    prob_SK = torch.where(prior.log_prob_K == -torch.inf, 0.5, torch.sigmoid(log_prob_SK - log_other_SK))
    return Beliefs(prior.log_prob_K.exp().numpy(), prob_SK.numpy())


def updates(prior: Prior, pairs: Sequence[tuple[str, str]]) -> Array:
    """Delta = log P(s' | s observed) - log P(s') for each pair, [S], in nats; observing re-weighs components.

    Negative where evidence for a statement makes its negation less likely, as it should.
    """
    both = [text for pair in pairs for text in pair]
    log_prob_NK = prior.log_likelihood(both)
    found = []
    for log_prob_K, log_other_K in zip(log_prob_NK[0::2], log_prob_NK[1::2], strict=True):
        after_K = beliefs.posterior(prior.log_prob_K, log_prob_K)
        found.append(
            float(torch.logsumexp(after_K + log_other_K, 0) - torch.logsumexp(prior.log_prob_K + log_other_K, 0))
        )
    return np.array(found)
