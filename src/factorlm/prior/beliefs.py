"""Arithmetic on the weights of components: evidence, filters, tilts, draws. Everything in nats and float64."""

# Axes: E pieces of evidence, K components.

from __future__ import annotations

import math

import torch
from torch import Tensor

from factorlm.algebra import entropy, log_normalize
from factorlm.errors import InputError


def posterior(log_prob_K: Tensor, log_lik_K: Tensor, beta: float = 1.0) -> Tensor:
    """Log of mu_k p_k(D)^beta, normalised: weights after evidence D of log probability log_lik_K.

    Args:
        log_prob_K: before.
        log_lik_K: of the evidence under each component.
        beta: how much the evidence counts: 1 is Bayes' rule, 1 / number of tokens is one token's worth of it.

    Raises:
        InputError: if beta is no positive number, or all components with weight make the evidence impossible.
    """
    if not 0 < beta < math.inf:
        raise InputError(f"beta is a positive number, got {beta:g}; 1 is Bayes' rule")
    impossible_K = (log_prob_K == -torch.inf) | (log_lik_K == -torch.inf)
    found_K = torch.where(impossible_K, -torch.inf, log_prob_K + beta * torch.where(impossible_K, 0.0, log_lik_K))
    return _normalized(found_K, "no component that is left can explain the evidence; begin again from the prior")


def occam_window(log_prob_K: Tensor, log_lik_K: Tensor, epsilon: float = 1e-3) -> Tensor:
    """Drop the components under which the evidence is less than epsilon times as probable as under the best one.

    The others keep their proportions: the support changes, not the preferences. Source: Occam's window, Madigan and
    Raftery (1994).

    Raises:
        InputError: if epsilon is not within (0, 1), or the evidence is impossible for all.
    """
    if not 0 < epsilon < 1:
        raise InputError(
            f"epsilon lies between 0 and 1, got {epsilon:g}; 0.001 drops what is a thousand times less likely"
        )
    alive_K = log_prob_K > -torch.inf
    best = torch.where(alive_K, log_lik_K, -torch.inf).max()
    kept_K = alive_K & (log_lik_K >= best - math.log(1 / epsilon)) & (log_lik_K > -torch.inf)
    return _normalized(
        torch.where(kept_K, log_prob_K, -torch.inf),
        "no component that is left can explain the evidence; begin again from the prior",
    )


def tilted(log_prob_K: Tensor, reward_K: Tensor, temperature: float = 1.0) -> Tensor:
    """Log of mu_k exp(R_k / temperature), normalised: the nu that maximises E_nu[R] - temperature KL(nu || mu).

    The support stays. Source: the closed form of KL-regularised rewards (Korbak et al., 2022, arXiv:2205.11275), on
    components in the place of texts.

    Raises:
        InputError: for a temperature that is not positive, or rewards that are not finite.
    """
    if not 0 < temperature < math.inf:
        raise InputError(f"a temperature is a positive number, got {temperature:g}; small ones tilt strongly")
    if not bool(reward_K[log_prob_K > -torch.inf].isfinite().all()):
        raise InputError(f"a finite reward for each component is needed, got {reward_K.tolist()}")
    return log_normalize(torch.where(log_prob_K == -torch.inf, -torch.inf, log_prob_K + reward_K / temperature))


def divergence(log_nu_K: Tensor, log_mu_K: Tensor) -> float:
    """KL(nu || mu) in nats; infinite where nu has weight and mu has none."""
    has_K = log_nu_K > -torch.inf
    return float((log_nu_K[has_K].exp() * (log_nu_K[has_K] - log_mu_K[has_K])).sum())


def num_effective(log_prob_K: Tensor) -> float:
    """exp(H(mu)): how many components are alive, so to speak."""
    return float(entropy(log_prob_K).exp())


def draw_components(log_prob_K: Tensor, n: int, generator: torch.Generator, *, repeat: bool = False) -> Tensor:
    """Components for n responses, [n].

    Without `repeat` each component comes once, in an order drawn without replacement in proportion to its weight,
    before any comes again; so that a few responses show different hypotheses. With `repeat` draws are independent.
    """
    if n < 0:
        raise InputError(f"a number of responses is at least 0, got {n}")
    prob_K = log_prob_K.double().exp()
    if repeat:
        return torch.multinomial(prob_K, n, replacement=True, generator=generator) if n else torch.empty(0).long()
    num_alive = int((prob_K > 0).sum())
    rounds = [
        torch.multinomial(prob_K, num_alive, replacement=False, generator=generator)
        for _ in range(math.ceil(n / num_alive))
    ]
    return torch.cat(rounds)[:n] if rounds else torch.empty(0).long()


def _normalized(log_weight_K: Tensor, complaint: str) -> Tensor:
    found_K = log_normalize(log_weight_K)
    if not bool((found_K > -torch.inf).any()):
        raise InputError(complaint)
    return found_K
