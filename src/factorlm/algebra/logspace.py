"""The few numerics on log weights. Impossible is -inf; no operation here turns it into nan."""

# Axes: B batch, T time, V vocabulary; a leading ... stands for any axes.

import math

import torch
from torch import Tensor


def log_normalize(log_weight: Tensor) -> Tensor:
    """Log probabilities [..., V] in nats; a row in which all is impossible stays impossible."""
    total = torch.logsumexp(log_weight, dim=-1, keepdim=True)
    return torch.where(total == -torch.inf, -torch.inf, log_weight - total)


def scale(log_weight: Tensor, exponent: Tensor | float) -> Tensor:
    """Exponent * log_weight, where -inf stays -inf under every exponent, zero and negative ones included.

    Plain arithmetic would make 0 * -inf nan, and a negative power of an impossible token infinitely likely.
    """
    if not isinstance(exponent, Tensor) and 0 < exponent < math.inf:  # arithmetic agrees, in one pass
        return exponent * log_weight
    return torch.where(log_weight == -torch.inf, -torch.inf, exponent * log_weight)


def entropy(log_prob: Tensor) -> Tensor:
    """Of distributions [..., V], in nats; impossible tokens add nothing."""
    prob = log_prob.exp()
    return -torch.where(prob > 0, prob * log_prob, 0.0).sum(-1)


def log_mean(log_weight: Tensor, log_prob: Tensor) -> Tensor:
    """Log E_p[w], [...], in nats; impossible where p and w have no token in common."""
    return torch.logsumexp(log_weight + log_prob, dim=-1)


def mean_where_possible(log_weight: Tensor, log_prob: Tensor) -> Tensor:
    """E_p[log w | w > 0], [...], in nats; zero where nothing is possible."""
    possible = (log_weight > -torch.inf) & (log_prob > -torch.inf)
    prob = torch.where(possible, log_prob, -torch.inf).exp()
    total = prob.sum(-1)
    mean = (prob * torch.where(possible, log_weight, 0.0)).sum(-1) / total
    return torch.where(total > 0, mean, 0.0)
