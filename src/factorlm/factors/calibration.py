"""What an exponent means: the learned likelihood ratio at one, and nats per token at every other."""

# Axes: B texts, D width, N tokens laid end to end, S scales tried, V vocabulary.

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from factorlm.algebra import Factor, pad_left
from factorlm.factors.features import Features
from factorlm.factors.head import HeadWeights
from factorlm.factors.strength import StrengthMap, mean_divergence, measure
from factorlm.models import CausalLM

SCALES = tuple(0.1 * 1.15**n for n in range(36))  # 0.1 to 13
STATES_MEASURED = 160

# Neutral openings of ours; the model's own continuations of them are where a factor's divergence is measured.
OPENINGS = (
    "The weather this morning", "When I opened the door,", "The meeting was about", "In the middle of the town",
    "She looked at the book and", "The report says that", "My neighbour told me", "After the film we",
    "The new phone", "At the end of the year", "The children were", "This recipe", "He said that the team",
    "The food was", "On the way home", "The company announced",
)  # fmt: skip
OPENING_TOKENS = 12


@dataclass(frozen=True)
class Calibrated:
    """A head scaled so that exponent one means its learned likelihood ratio, and how well that predicts.

    Attributes:
        weights: the scaled head.
        scale: what it was multiplied by.
        prior: log odds to add to the evidence of a text.
        loss: cross-entropy of the calibrated label probability, in nats; ln 2 knows nothing.
        auc: area under the curve of the evidence log p_+(x) / p_-(x).
    """

    weights: HeadWeights
    scale: float
    prior: float
    loss: float
    auc: float


def calibrate(lm: CausalLM, weights: HeadWeights, features: Features, label_B: Tensor) -> Calibrated:
    """Choose the scale at which the evidence of whole texts best predicts their labels."""
    evidence_SB = evidence(lm, weights, features, SCALES)
    fits = [_fit_prior(evidence_B, label_B) for evidence_B in evidence_SB]
    best = min(range(len(SCALES)), key=lambda s: fits[s][1])
    prior, loss = fits[best]
    return Calibrated(weights.scaled(SCALES[best]), SCALES[best], prior, loss, auc(evidence_SB[best], label_B))


def evidence(lm: CausalLM, weights: HeadWeights, features: Features, scales: tuple[float, ...]) -> Tensor:
    """Evidence log p_+(x) - log p_-(x) of each text, [S, B], for the head raised to each scale and its negative."""
    num_scales = len(scales)
    scale_S = torch.tensor([*scales, *(-s for s in scales)])
    total_SB = torch.zeros(num_scales, features.num_texts)
    fixed_V = lm.unembed(weights.bias_D.to(lm.device)) if weights.rank == 0 else None
    if fixed_V is not None:
        power_VS = fixed_V[:, None] * scale_S.to(lm.device)
        largest_S = power_VS.amax(0)  # taken out, so that no exponential overflows
        tilt_VS = (power_VS - largest_S).exp()
    device_weights = weights.to(lm.device)
    for part, log_prob_NV in lm.chunks(features.hidden_ND.to(lm.device)):
        token_N, owner_N = features.token_N[part].to(lm.device), features.owner_N[part]
        if fixed_V is not None:
            potential_N = fixed_V[token_N]
            normalizer_NS = (log_prob_NV.exp() @ tilt_VS).log() + largest_S
        else:
            potential_NV = lm.unembed(device_weights(features.hidden_ND[part].to(lm.device).float()))
            potential_N = potential_NV.gather(1, token_N[:, None])[:, 0]
            normalizer_NS = torch.stack([(log_prob_NV + s * potential_NV).logsumexp(-1) for s in scale_S.tolist()], 1)
        step_NS = (scale_S.to(lm.device) * potential_N[:, None] - normalizer_NS).cpu()
        step_NS = step_NS[:, :num_scales] - step_NS[:, num_scales:]
        total_SB.index_add_(1, owner_N, step_NS.T)
    return total_SB


def auc(evidence_B: Tensor, label_B: Tensor) -> float:
    """Probability that a text with the attribute has more evidence than one without."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(label_B.numpy(), evidence_B.numpy()))


def _fit_prior(evidence_B: Tensor, label_B: Tensor) -> tuple[float, float]:
    """The constant that best predicts labels beside the evidence, and its cross-entropy; Newton's method."""
    prior = torch.zeros((), dtype=torch.float64)
    evidence_B, label_B = evidence_B.double(), label_B.double()
    for _ in range(50):
        prob_B = (evidence_B + prior).sigmoid()
        step = (label_B - prob_B).sum() / (prob_B * (1 - prob_B)).sum().clamp(min=1e-3)
        prior = prior + step.clamp(-2, 2)
        if abs(float(step)) < 1e-6:
            break
    loss = torch.nn.functional.binary_cross_entropy_with_logits(evidence_B + prior, label_B)
    return float(prior), float(loss)


@dataclass(frozen=True, eq=False)
class NeutralStates:
    """Places in the model's own continuations of neutral openings, where divergence is measured.

    Attributes:
        prefix_NT: what was read, filled on the left with PAD.
        hidden_ND: the encoder's state after it.
        log_prob_NV: the model's next-token log probabilities, in nats.
    """

    prefix_NT: Tensor
    hidden_ND: Tensor
    log_prob_NV: Tensor


@functools.lru_cache(maxsize=2)
def neutral_states(lm: CausalLM) -> NeutralStates:
    """Draw the places, the same for every factor of a model."""
    generator = torch.Generator().manual_seed(0)
    rows = [[*lm.start_ids, *lm.encode_text(opening)] for opening in OPENINGS]
    state = lm.start(pad_left(rows))
    prefixes: list[list[int]] = []
    hidden: list[Tensor] = []
    log_prob: list[Tensor] = []
    for _ in range(OPENING_TOKENS):
        prefixes += rows
        hidden.append(state.memory.hidden_BD.float())
        log_prob.append(state.log_weight_BV)
        free_BV = state.log_weight_BV.clone()
        free_BV[:, list(lm.vocabulary.end_ids)] = -torch.inf
        token_B = torch.multinomial(free_BV.softmax(-1).cpu(), 1, generator=generator)[:, 0]
        rows = [[*row, token] for row, token in zip(rows, token_B.tolist(), strict=True)]
        state = lm.extend(state, token_B.to(lm.device))
    choice = torch.randperm(len(prefixes), generator=generator)[:STATES_MEASURED]
    return NeutralStates(
        pad_left([prefixes[i] for i in choice]), torch.cat(hidden)[choice], torch.cat(log_prob)[choice]
    )


def head_strengths(lm: CausalLM, weights: HeadWeights) -> StrengthMap | None:
    """A head's map from strength to exponent."""
    states = neutral_states(lm)
    return strengths_of(lm, lm.unembed(weights.to(lm.device)(states.hidden_ND)))


def factor_strengths(lm: CausalLM, factor: Factor) -> StrengthMap | None:
    """Any bound factor's map from strength to exponent, or None if its exponent changes nothing (a ban)."""
    return strengths_of(lm, factor.start(neutral_states(lm).prefix_NT.to(lm.device)).log_weight_BV)


def strengths_of(lm: CausalLM, potential_NV: Tensor) -> StrengthMap | None:
    """The map for these log weights [N, V] of the next token over the neutral states."""
    log_prob_NV, potential_NV = without_unmoved(neutral_states(lm).log_prob_NV, potential_NV)
    return measure(lambda exponent: mean_divergence(log_prob_NV, potential_NV, exponent))


def without_unmoved(log_prob_NV: Tensor, potential_NV: Tensor) -> tuple[Tensor, Tensor]:
    """The same divergences over fewer tokens: all that a factor moves nowhere, as most of a lexicon's, are one."""
    is_moved_V = (potential_NV != 0).any(0)
    if bool(is_moved_V.all()):
        return log_prob_NV, potential_NV
    rest_N1 = log_prob_NV[:, ~is_moved_V].logsumexp(-1, keepdim=True)
    return (
        torch.cat([log_prob_NV[:, is_moved_V], rest_N1], 1),
        torch.cat([potential_NV[:, is_moved_V], torch.zeros_like(rest_N1)], 1),
    )
