"""A cap on what steering may do to the model: nats per token of divergence from the base."""

# Axes: N neutral states, V vocabulary.

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from factorlm.algebra import Factor, Term, unflatten
from factorlm.errors import InputError
from factorlm.factors.calibration import neutral_states
from factorlm.factors.head import Head
from factorlm.factors.strength import mean_divergence
from factorlm.inference.model import Model
from factorlm.models import CausalLM

TOLERANCE = 1e-3  # of the budget


@dataclass(frozen=True, eq=False)
class Budgeted:
    """A composition that keeps to a budget.

    Attributes:
        model: the composition.
        divergence: mean KL from the base over neutral states, nats per token.
        asked: the same for the composition as it was given.
        scale: what all exponents were multiplied by; 1 where the budget was kept already.
    """

    model: Model
    divergence: float
    asked: float
    scale: float


@torch.no_grad()
def divergence_of(model: Model) -> float:
    """Mean KL of the composition's next-token distribution from the base's over neutral states, in nats per token."""
    return mean_divergence(neutral_states(model.lm).log_prob_NV, _potential(model.lm, model.terms[1:]), 1.0)


@torch.no_grad()
def within_budget(model: Model, budget: float) -> Budgeted:
    """The composition with all exponents scaled down together until it keeps to the budget.

    Args:
        model: a product of a base and factors with one exponent for all rows.
        budget: most nats per token of divergence from the base, on average over neutral states.

    Raises:
        InputError: for a budget that is not positive, or one that bans alone exceed.
    """
    if not (math.isfinite(budget) and budget > 0):
        raise InputError(f"a budget is a positive number of nats per token, got {budget}; 0.2 is clear")
    base, *terms = model.terms
    log_prob_NV = neutral_states(model.lm).log_prob_NV
    potential_NV = _potential(model.lm, terms)
    asked = mean_divergence(log_prob_NV, potential_NV, 1.0)
    if asked <= budget:
        return Budgeted(model, asked, asked, 1.0)
    low, high = 0.0, 1.0
    if (least := mean_divergence(log_prob_NV, potential_NV, 1e-9)) > budget:
        raise InputError(
            f"bans alone move the model by {least:.2f} nats a token, got a budget of {budget:g}; raise it, or lift bans"
        )
    while high - low > TOLERANCE * high:
        middle = (low + high) / 2
        low, high = (middle, high) if mean_divergence(log_prob_NV, potential_NV, middle) <= budget else (low, middle)
    scaled = [base, *(Term(term.factor, term.exponent * low) for term in terms)]
    found = mean_divergence(log_prob_NV, potential_NV, low)
    return Budgeted(Model(unflatten(scaled), model.lm), found, asked, low)


def _potential(lm: CausalLM, terms: list[Term]) -> Tensor:
    """Sum of the factors' log weights with their exponents at the neutral states, [N, V]; impossible stays so."""
    total_NV = torch.zeros_like(neutral_states(lm).log_prob_NV)
    for term in terms:
        weight_NV = _log_weight(lm, term.factor)
        safe_NV = torch.where(weight_NV == -torch.inf, 0.0, float(term.exponent) * weight_NV)
        total_NV = torch.where(weight_NV == -torch.inf, -torch.inf, total_NV + safe_NV)
    return total_NV


def _log_weight(lm: CausalLM, factor: Factor) -> Tensor:
    states = neutral_states(lm)
    if isinstance(factor, Head):
        return factor.potential(states.hidden_ND)
    return factor.start(states.prefix_NT.to(lm.device)).log_weight_BV
