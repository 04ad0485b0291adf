"""How likely the answer is, and how spread the samples are: what token probabilities alone say."""

from __future__ import annotations

from factorlm.inference.uncertainty.evidence import Evidence


def mean_log_prob(evidence: Evidence) -> float:
    """Nats per token of the greedy answer."""
    return evidence.answer.mean_log_prob


def total_log_prob(evidence: Evidence) -> float:
    """Nats of the whole greedy answer; longer answers have less."""
    return evidence.answer.log_prob


def negative_entropy(evidence: Evidence) -> float:
    """Minus the naive predictive entropy: the mean log probability of the samples, in nats.

    Source: the Monte Carlo estimate of Malinin and Gales (2021), arXiv:2002.07650.
    """
    return sum(answer.log_prob for answer in evidence.samples) / len(evidence.samples)


def negative_mean_entropy(evidence: Evidence) -> float:
    """The same per token of each sample, so that long samples do not count as doubt."""
    return sum(answer.mean_log_prob for answer in evidence.samples) / len(evidence.samples)


def negative_between(evidence: Evidence) -> float:
    """Minus the mean mutual information of next token and component along the answer, in nats; see `doubt`."""
    assert evidence.between is not None
    return -evidence.between
