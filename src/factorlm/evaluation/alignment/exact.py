"""Alignment where every text can be counted: optima, soft values, best of n and DPO without sampling.

Sources: optimum and value, Korbak et al. (2022), arXiv:2205.11275; controlled decoding, Mudgal et al. (2024),
arXiv:2310.17022; best of n, Beirami et al. (2024), arXiv:2401.01879; DPO, Rafailov et al. (2023), arXiv:2305.18290.
"""

# Axes: X texts.

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

Text = tuple[int, ...]


def optimum(log_prob_X: Tensor, reward_X: Tensor, beta: float) -> Tensor:
    """Log probabilities [X] of p(x) exp(r(x) / beta) / Z, which maximises E[r] - beta KL to p."""
    return (log_prob_X + reward_X / beta).log_softmax(0)


def best_value(log_prob_X: Tensor, reward_X: Tensor, beta: float) -> float:
    """What the objective is at its maximum: beta log Z."""
    return beta * float((log_prob_X + reward_X / beta).logsumexp(0) - log_prob_X.logsumexp(0))


def objective(policy_X: Tensor, log_prob_X: Tensor, reward_X: Tensor, beta: float) -> Tensor:
    """E[r] - beta KL to p of policies given as log probabilities [..., X]."""
    prob_X = policy_X.exp()
    return (prob_X * reward_X).sum(-1) - beta * divergence(policy_X, log_prob_X)


def divergence(log_prob_X: Tensor, other_X: Tensor) -> Tensor:
    """KL of the first distribution to the second, in nats, [...]."""
    gap_X = torch.where(log_prob_X == -torch.inf, 0.0, log_prob_X - other_X)
    return (log_prob_X.exp() * gap_X).sum(-1)


def total_variation(log_prob_X: Tensor, other_X: Tensor) -> float:
    """Half the sum of absolute differences of two distributions."""
    return float((log_prob_X.exp() - other_X.exp()).abs().sum() / 2)


def best_of(log_prob_X: Tensor, reward_X: Tensor, n: int) -> Tensor:
    """Log probabilities [X] of the best of n independent texts; of equally good ones each may be taken."""
    prob_X = log_prob_X.exp()
    as_good_X = (prob_X * (reward_X == reward_X[:, None])).sum(1)
    worse_X = (prob_X * (reward_X < reward_X[:, None])).sum(1)
    return (prob_X * ((worse_X + as_good_X) ** n - worse_X**n) / as_good_X).log()


def best_of_bound(n: int) -> float:
    """The most nats that the best of n texts can differ from the model; reached where no two rewards are equal."""
    return math.log(n) - (n - 1) / n


def soft_values(language: Mapping[Text, float], reward: Mapping[Text, float], beta: float) -> dict[Text, float]:
    """V(prefix) = beta log E[exp(r / beta) | prefix] by recursion from the ends; beta = inf gives E[r | prefix].

    Args:
        language: log probability of each finished text.
        reward: of each.
        beta: in units of the reward.
    """
    mass = _prefix_mass(language)
    total = dict.fromkeys(mass, 0.0)
    children: dict[Text, set[Text]] = {}
    for text in language:
        for t in range(len(text)):
            children.setdefault(text[:t], set()).add(text[: t + 1])
    for prefix in sorted(mass, key=len, reverse=True):
        if prefix in language:
            total[prefix] = reward[prefix]
            continue
        share = torch.tensor([mass[child] / mass[prefix] for child in children[prefix]], dtype=torch.float64)
        value = torch.tensor([total[child] for child in children[prefix]], dtype=torch.float64)
        if beta == math.inf:
            total[prefix] = float(share @ value)
        else:
            total[prefix] = beta * float((share.log() + value / beta).logsumexp(0))
    return total


def led_by(language: Mapping[Text, float], value: Mapping[Text, float], beta: float) -> dict[Text, float]:
    """Log probability of each text when every token is drawn from p(token) exp(V(prefix token) / beta)."""
    mass = _prefix_mass(language)
    total: dict[Text, float] = {}
    for prefix, share in mass.items():
        if prefix:
            weight = share * math.exp(value[prefix] / beta)
            total[prefix[:-1]] = total.get(prefix[:-1], 0.0) + weight
    return {
        text: sum(
            math.log(mass[text[: t + 1]]) + value[text[: t + 1]] / beta - math.log(total[text[:t]])
            for t in range(len(text))
        )
        for text in language
    }


def dpo_optimum(log_prob_X: Tensor, reward_X: Tensor, beta: float, *, steps: int = 200) -> Tensor:
    """Log probabilities [X] at the least DPO loss over all pairs of texts, chosen as Bradley and Terry have it."""
    chosen_XX = (reward_X[:, None] - reward_X).sigmoid()
    ref_X = log_prob_X.log_softmax(0)
    logit_X = ref_X.clone().requires_grad_(True)
    search = torch.optim.LBFGS([logit_X], max_iter=steps, tolerance_grad=1e-12, tolerance_change=1e-14,
                               line_search_fn="strong_wolfe")  # fmt: skip

    def loss() -> Tensor:
        search.zero_grad()
        ratio_X = beta * (logit_X.log_softmax(0) - ref_X)
        found = -(chosen_XX * torch.nn.functional.logsigmoid(ratio_X[:, None] - ratio_X)).mean()
        found.backward()
        return found

    search.step(loss)
    return logit_X.detach().log_softmax(0)


def _prefix_mass(language: Mapping[Text, float]) -> dict[Text, float]:
    mass: dict[Text, float] = {}
    for text, log_prob in language.items():
        for t in range(len(text) + 1):
            mass[text[:t]] = mass.get(text[:t], 0.0) + math.exp(log_prob)
    return mass
