"""The smallest change of a head's bias that gives chosen words a chosen push.

A head pushes token v by e_v . g(h) - E_p[e . g(h)], its log potential relative to the mean under the base model p. The
mean push over neutral states is linear in the bias c, so "this word shall be pushed by t nats" is a linear equation
in the change D of c, (e_v - m) . D = t - push, with m the mean embedding. Of all D that solve the equations, the one
is taken that spreads the other tokens least: it minimises D' S D, with S the covariance of their embeddings under p.
That is twice what the change does to their distribution in nats, to second order. The closed form is
D = S^-1 A' (A S^-1 A')^-1 t: a covariance-weighted least-norm edit, as ROME makes it in a layer's weights.

Source: rank-one model editing, Meng et al. (2022), arXiv:2202.05262; the objective over next tokens is ours.
"""

# Axes: D width, K equations, N neutral states, V vocabulary.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from factorlm.errors import InputError
from factorlm.factors.calibration import neutral_states
from factorlm.factors.head import HeadWeights
from factorlm.models import CausalLM

SMOOTHING = 0.1  # chance that the next token is any token: protects what neutral states never come to
TINY = 1e-9  # of the mean variance, for directions in which no two embeddings differ
STRETCH = 4096  # rows of the unembedding in double precision at once


def wordings(lm: CausalLM, phrase: str) -> tuple[tuple[int, ...], ...]:
    """How a phrase is usually written in tokens: after a blank or not, its first letter small, capital or as given."""
    bare = phrase.strip()
    first_letters = dict.fromkeys((bare, bare[:1].lower() + bare[1:], bare[:1].upper() + bare[1:]))
    written = (tuple(lm.encode_text(blank + text)) for text in first_letters for blank in (" ", ""))
    found = tuple(dict.fromkeys(ids for ids in written if ids))
    if not bare or not found:
        raise InputError(f"a word or phrase with at least one visible character is needed, got {phrase!r}; write one")
    return found


@dataclass(frozen=True, eq=False)
class Surroundings:
    """What an edit must not disturb: the tokens that the model might write at neutral states.

    Attributes:
        mean_ND: mean embedding under the base model at each state.
        covariance_DD: mean over states of the covariance of embeddings of the tokens that are not edited, smoothed.
        hidden_ND: the states.
    """

    mean_ND: Tensor
    covariance_DD: Tensor
    hidden_ND: Tensor

    @classmethod
    def of(cls, lm: CausalLM, edited: Sequence[int]) -> Surroundings:
        """Measure them at the model's neutral states, in double precision.

        Args:
            lm: the encoder.
            edited: tokens that are to move, whatever it does to their distribution.
        """
        states = neutral_states(lm)
        prob_NV = states.log_prob_NV.double().exp().cpu()
        others_NV = (1 - SMOOTHING) * prob_NV + SMOOTHING / prob_NV.shape[1]
        others_NV[:, list(edited)] = 0.0
        others_NV /= others_NV.sum(1, keepdim=True)
        weight_V = others_NV.mean(0)
        mean_ND, others_ND = torch.zeros(2, len(prob_NV), lm.width, dtype=torch.float64)
        second_DD = torch.zeros(lm.width, lm.width, dtype=torch.float64)
        for start in range(0, prob_NV.shape[1], STRETCH):
            part = slice(start, start + STRETCH)
            table = lm.unembedding_VD[part].double().cpu()
            mean_ND += prob_NV[:, part] @ table
            others_ND += others_NV[:, part] @ table
            second_DD += (table * weight_V[part, None]).T @ table
        covariance_DD = second_DD - others_ND.T @ others_ND / len(others_ND)
        return cls(mean_ND, covariance_DD, states.hidden_ND.double().cpu())

    def push(self, lm: CausalLM, weights: HeadWeights, token_ids: Sequence[int]) -> float:
        """Mean log potential of tokens, summed, relative to the base model's mean, in nats at exponent one."""
        bias_D, up_DR, down_RD = (t.double().cpu() for t in (weights.bias_D, weights.up_DR, weights.down_RD))
        output_ND = bias_D + (self.hidden_ND @ down_RD.T) @ up_DR.T
        embedding_D = lm.unembedding_VD[list(token_ids)].double().cpu().sum(0)
        return float(((embedding_D - len(token_ids) * self.mean_ND) * output_ND).sum(1).mean())

    def direction(self, lm: CausalLM, token_ids: Sequence[int]) -> Tensor:
        """What the push of tokens grows along as the bias changes, [D]."""
        embedding_D = lm.unembedding_VD[list(token_ids)].double().cpu().sum(0)
        return embedding_D - len(token_ids) * self.mean_ND.mean(0)


def least_change(covariance_DD: Tensor, direction_KD: Tensor, move_K: Tensor) -> Tensor:
    """The D [D] with direction_KD @ D = move_K and the least D' covariance D; all in double precision.

    Raises:
        InputError: if no change solves all equations.
    """
    width = len(covariance_DD)
    ridge = TINY * float(covariance_DD.trace()) / width
    factor_DD = torch.linalg.cholesky(covariance_DD + ridge * torch.eye(width, dtype=torch.float64))
    # In coordinates where the objective is the plain norm, the answer is the solution of least norm.
    whitened_DK = torch.linalg.solve_triangular(factor_DD, direction_KD.T, upper=False)
    solution_D1 = torch.linalg.lstsq(whitened_DK.T, move_K[:, None], driver="gelsd").solution
    change_D = torch.linalg.solve_triangular(factor_DD.T, solution_D1, upper=True)[:, 0]
    missed = float((direction_KD @ change_D - move_K).abs().max())
    if missed > 1e-6 * max(1.0, float(move_K.abs().max())):
        raise InputError(
            f"one bias cannot give all these words their push at once (it misses one by {missed:.2g} nats); edit fewer"
        )
    return change_D
