"""Drawing the next token: truncation, temperature, and randomness that belongs to one row alone."""

# Axes: B batch, T time, V vocabulary.

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from factorlm.algebra import PAD, entropy, log_normalize
from factorlm.factors.nucleus import MOST_SORTED, quantile
from factorlm.inference.repetition import losses
from factorlm.settings import Config
from factorlm.text import Vocabulary

COLD = 1e-6  # temperatures below that make quotients overflow


class Sampling(Config):
    """How tokens are drawn from next-token distributions. The default draws from the distribution as it is.

    Attributes:
        temperature: divides log probabilities; 0 takes the most probable token (greedy).
        top_k: keep the k most probable tokens; 0 keeps all.
        top_p: keep the smallest set of tokens with at least this probability. Holtzman et al. (2020).
        min_p: keep tokens with at least this share of the largest probability. Nguyen et al. (2024).
        typical_p: keep the tokens whose surprise is nearest to the entropy, up to this probability.
            Meister et al. (2023).
        epsilon_cutoff: keep tokens of at least this probability. Hewitt et al. (2022).
        eta_cutoff: keep tokens of at least min(eta, sqrt(eta) exp(-entropy)): fewer where the model is sure. Hewitt
            et al. (2022).
        repetition_penalty: divides positive and multiplies negative log weights of tokens that were read already;
            1 leaves them alone. Keskar et al. (2019); applied to log probabilities, so it multiplies them.
        dry_multiplier: nats that a token loses if it makes a run of dry_allowed_length + 1 tokens repeat what was
            read; 0 switches it off. "Don't repeat yourself", by p-e-w (text-generation-webui, pull request 5677, 2024).
        dry_base: each further token of the run multiplies the loss by this.
        dry_allowed_length: tokens of a run that may repeat at no cost.
        dry_breakers: strings that end runs: they do not reach over a token with one of these.
        stop: strings at whose first appearance a text ends; they are not part of it.
    """

    temperature: Annotated[float, Field(ge=0, le=100)] = 1.0
    top_k: Annotated[int, Field(ge=0)] = 0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    typical_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    epsilon_cutoff: Annotated[float, Field(ge=0, lt=1)] = 0.0
    eta_cutoff: Annotated[float, Field(ge=0, lt=1)] = 0.0
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] = 1.0
    dry_multiplier: Annotated[float, Field(ge=0, le=100)] = 0.0
    dry_base: Annotated[float, Field(ge=1, le=100)] = 1.75
    dry_allowed_length: Annotated[int, Field(ge=1)] = 2
    dry_breakers: tuple[Annotated[str, Field(min_length=1)], ...] = ("\n", ":", '"', "*")
    stop: tuple[Annotated[str, Field(min_length=1)], ...] = ()

    @property
    def looks_back(self) -> bool:
        """Whether what was read changes how tokens are drawn: no product of factors does that."""
        return self.repetition_penalty != 1 or self.dry_multiplier > 0

    @property
    def truncates(self) -> bool:
        """Whether possible tokens are left out."""
        keeps_all = (self.top_k, self.top_p, self.min_p, self.typical_p) == (0, 1.0, 0.0, 1.0)
        return not keeps_all or self.epsilon_cutoff > 0 or self.eta_cutoff > 0


def proposal(
    log_prob_BV: Tensor, sampling: Sampling, read_BT: Tensor | None = None, vocabulary: Vocabulary | None = None
) -> Tensor:
    """Log probabilities [B, V] of the tokens that are drawn from, in nats; impossible is -inf.

    The order is that of common practice: repetition penalty, repeated runs, temperature, then each truncation on what
    is left.

    Args:
        log_prob_BV: of the model.
        sampling: what to do with it.
        read_BT: tokens read so far, for what looks back; PAD is skipped.
        vocabulary: whose tokens hold strings that end runs; without one no string does.
    """
    if sampling.repetition_penalty != 1 and read_BT is not None:
        log_prob_BV = _penalized(log_prob_BV, sampling.repetition_penalty, read_BT)
    if sampling.dry_multiplier > 0 and read_BT is not None:
        loss_BV = losses(read_BT, sampling, vocabulary, log_prob_BV.shape[-1]).to(log_prob_BV)
        log_prob_BV = log_normalize(log_prob_BV - loss_BV)
    if sampling.temperature == 0:
        best_B1 = log_prob_BV.argmax(-1, keepdim=True)
        greedy_BV = torch.full_like(log_prob_BV, -torch.inf).scatter(1, best_B1, 0.0)
        return torch.where(log_prob_BV.amax(-1, keepdim=True) == -torch.inf, -torch.inf, greedy_BV)
    if sampling.temperature != 1:
        log_prob_BV = log_normalize(_cooled(log_prob_BV, sampling.temperature))
    if 0 < sampling.top_k < log_prob_BV.shape[-1]:
        least_B1 = log_prob_BV.topk(sampling.top_k).values[:, -1:]
        log_prob_BV = _keep(log_prob_BV, log_prob_BV >= least_B1)
    if sampling.top_p < 1:
        log_prob_BV = _keep_most_probable(log_prob_BV, sampling.top_p)
    if sampling.typical_p < 1:
        entropy_B1 = entropy(log_prob_BV)[:, None]
        log_prob_BV = _keep_until(log_prob_BV, (-log_prob_BV - entropy_B1).abs(), sampling.typical_p)
    if sampling.min_p > 0:
        largest_B1 = log_prob_BV.amax(-1, keepdim=True).exp()
        log_prob_BV = _keep(log_prob_BV, log_prob_BV.exp() >= sampling.min_p * largest_B1)
    if sampling.epsilon_cutoff > 0 or sampling.eta_cutoff > 0:
        log_prob_BV = _keep_probable(log_prob_BV, sampling.epsilon_cutoff, sampling.eta_cutoff)
    return log_normalize(log_prob_BV)


def draw(log_prob_BV: Tensor, uniform_B: Tensor) -> Tensor:
    """The token at each quantile, [B]: inverse of the cumulative distribution in order of token number.

    Args:
        log_prob_BV: normalised; every row has a possible token.
        uniform_B: numbers in [0, 1), float64.
    """
    return quantile(log_prob_BV.double().exp(), uniform_B.to(log_prob_BV.device))


def generator_of(seed: int, prompt_ids: Sequence[int], sample: int) -> torch.Generator:
    """Randomness of one text: it depends on the seed, the prompt and the number of the sample, on nothing around it."""
    digest = hashlib.sha256(f"{seed}/{sample}/{list(prompt_ids)}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def _penalized(log_prob_BV: Tensor, penalty: float, read_BT: Tensor) -> Tensor:
    safe_BT = torch.where(read_BT == PAD, read_BT[:, -1:], read_BT)
    seen_BT = log_prob_BV.gather(1, safe_BT)
    return log_normalize(log_prob_BV.scatter(1, safe_BT, seen_BT * penalty))


def _cooled(log_prob_BV: Tensor, temperature: float) -> Tensor:
    if temperature > COLD:
        return log_prob_BV / temperature
    below_BV = torch.where(log_prob_BV == -torch.inf, -torch.inf, log_prob_BV - log_prob_BV.amax(-1, keepdim=True))
    return below_BV / max(temperature, torch.finfo(log_prob_BV.dtype).tiny)


def _keep(log_prob_BV: Tensor, kept_BV: Tensor) -> Tensor:
    return log_normalize(torch.where(kept_BV, log_prob_BV, -torch.inf))


def _keep_probable(log_prob_BV: Tensor, epsilon: float, eta: float) -> Tensor:
    """Keep tokens above two floors, and in any case the most probable one."""
    prob_BV = log_prob_BV.exp()
    if epsilon > 0:
        log_prob_BV = _keep(log_prob_BV, (prob_BV >= epsilon) | (prob_BV == prob_BV.amax(-1, keepdim=True)))
        prob_BV = log_prob_BV.exp()
    if eta > 0:
        entropy_B1 = entropy(log_prob_BV)[:, None]
        floor_B1 = (eta**0.5 * (-entropy_B1).exp()).clamp(max=eta)
        log_prob_BV = _keep(log_prob_BV, (prob_BV >= floor_B1) | (prob_BV == prob_BV.amax(-1, keepdim=True)))
    return log_prob_BV


def _keep_until(log_prob_BV: Tensor, cost_BV: Tensor, mass: float) -> Tensor:
    """Keep tokens of least cost until they have the probability `mass`; at least one stays."""
    order_BV = torch.where(log_prob_BV == -torch.inf, torch.inf, cost_BV).argsort(dim=-1, stable=True)
    sorted_BV = log_prob_BV.gather(1, order_BV).exp()
    before_BV = sorted_BV.cumsum(-1) - sorted_BV
    is_kept_BV = before_BV < max(mass, torch.finfo(before_BV.dtype).tiny)  # a smaller one would be rounded to nothing
    kept_BV = torch.zeros_like(before_BV, dtype=torch.bool).scatter(1, order_BV, is_kept_BV)
    return _keep(log_prob_BV, kept_BV)


def _keep_most_probable(log_prob_BV: Tensor, mass: float) -> Tensor:
    """The same as `_keep_until` by falling probability, without sorting the vocabulary where few tokens hold the mass.

    Of tokens with the probability at which the set ends, those of lowest number stay, as a stable sort has it.
    """
    top_BK = log_prob_BV.topk(min(MOST_SORTED, log_prob_BV.shape[-1])).values
    prob_BK = top_BK.exp()
    before_BK = prob_BK.cumsum(-1) - prob_BK
    is_kept_BK = before_BK < max(mass, torch.finfo(before_BK.dtype).tiny)
    least_B1 = top_BK.gather(1, is_kept_BK.sum(-1, keepdim=True) - 1)
    ties_B1 = (is_kept_BK & (top_BK == least_B1)).sum(-1, keepdim=True)
    is_tied_BV = log_prob_BV == least_B1
    kept_BV = (log_prob_BV > least_B1) | (is_tied_BV & (is_tied_BV.cumsum(-1) <= ties_B1))
    found_BV = _keep(log_prob_BV, kept_BV)
    is_short_B = is_kept_BK[:, -1]  # the set may go on
    if top_BK.shape[1] < log_prob_BV.shape[1] and bool(is_short_B.any()):
        found_BV[is_short_B] = _keep_until(log_prob_BV[is_short_B], -log_prob_BV[is_short_B], mass)
    return found_BV
