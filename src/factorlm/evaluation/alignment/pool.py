"""A pool of responses to each prompt, and what choosing or weighing among them makes of it."""

# Axes: P prompts, S responses to a prompt.

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln, logsumexp

from factorlm.evaluation.alignment.exact import best_of_bound

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Weighed:
    """Weights of the pool's responses, as some way of using the reward has them.

    Attributes:
        weight_PS: summing to one for each prompt.
        nats_P: divergence from the model for each prompt.
    """

    weight_PS: Array
    nats_P: Array

    def mean(self, value_PS: Array) -> Array:
        """Mean of a value of responses under the weights, [P]; responses without one (nan) are left out."""
        weight_PS = np.where(np.isnan(value_PS), 0.0, self.weight_PS)
        with np.errstate(invalid="ignore"):
            found_P: Array = (weight_PS * np.nan_to_num(value_PS)).sum(1) / weight_PS.sum(1)
        return found_P

    @property
    def effective_size(self) -> float:
        """(sum w)^2 / sum w^2, mean over prompts: how many responses the weights rest on."""
        return float((1 / np.square(self.weight_PS).sum(1)).mean())

    def drawn(self, seed: int) -> NDArray[np.intp]:
        """One response to each prompt, drawn by weight, [P]."""
        generator = np.random.default_rng(seed)
        return np.array([generator.choice(len(weight_S), p=weight_S) for weight_S in self.weight_PS])


def best_of_n(reward_PS: Array, n: int) -> Weighed:
    """The best of n responses, averaged over every choice of n of the pool: the mean over subsets is unbiased.

    The divergence is the bound log n - (n - 1) / n, reached where no response is likely.
    """
    num = reward_PS.shape[1]
    if not 1 <= n <= num:
        raise ValueError(f"a pool of {num} has a best of 1 to {num}, got {n}")
    below_S = np.arange(num)  # how many responses are worse
    with np.errstate(invalid="ignore"):
        log_S = _log_choose(below_S, n - 1) - _log_choose(np.array([num]), n)
    weight_S = np.where(below_S >= n - 1, np.exp(log_S), 0.0)
    weight_PS = np.empty_like(reward_PS)
    np.put_along_axis(weight_PS, reward_PS.argsort(1, kind="stable"), np.tile(weight_S, (len(reward_PS), 1)), 1)
    return Weighed(weight_PS, np.full(len(reward_PS), best_of_bound(n)))


def tilted(reward_PS: Array, beta: float) -> Weighed:
    """Weights exp(r / beta): the pool as a sample of the best law at this price, p exp(r / beta) / Z.

    The divergence E[r] / beta - log Z is estimated with the same responses; it cannot exceed log S, so it is too low
    where few responses carry the weight.
    """
    log_weight_PS = reward_PS / beta
    log_z_P = logsumexp(log_weight_PS, axis=1)
    weight_PS = np.exp(log_weight_PS - log_z_P[:, None])
    nats_P = (weight_PS * log_weight_PS).sum(1) - log_z_P + math.log(reward_PS.shape[1])
    return Weighed(weight_PS, nats_P)


def _log_choose(total: NDArray[np.intp], chosen: int) -> Array:
    found: Array = gammaln(total + 1.0) - gammaln(chosen + 1.0) - gammaln(np.maximum(total - chosen, 0) + 1.0)
    return found
