"""Distributions over masks, q(z) = prod_l Bernoulli(sigmoid(a_l)), and gradients of E_q[f(z)] - KL(q || prior).

REINFORCE asks only for values of f, so nothing is back-propagated through a language model: Williams (1992), with the
mean of the other draws as baseline, Kool, van Hoof and Welling (2019), and a linear control variate, Ranganath et al.
(2014), arXiv:1401.0118, without which the place that matters most drowns the others. The Gumbel-sigmoid with a
straight-through step has less noise and a bias: Jang et al. (2016), arXiv:1611.01144; Maddison et al. (2016),
arXiv:1611.00712.
"""

# Axes: L places of a mask, M all 2^L masks, S drawn masks.

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from factorlm.errors import InputError

RIDGE = 1.0  # on slopes: about what four masks say of a place that two of them have
KEPT = 0.98  # of what slopes have seen, at each step: effects change as other places are left out
MOST_ENUMERATED = 16  # places whose masks are all written down: 65536 of them


def draw_masks(logit_L: Tensor, num_masks: int, generator: torch.Generator) -> Tensor:
    """Independent masks of zeros and ones from q, [S, L]."""
    uniform_SL = torch.rand(num_masks, len(logit_L), generator=generator, dtype=logit_L.dtype)
    return (uniform_SL < logit_L.detach().sigmoid()).to(logit_L.dtype)


def reinforce(
    logit_L: Tensor,
    log_lik: Callable[[Tensor], Tensor],
    num_masks: int,
    generator: torch.Generator,
    slope_L: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """An estimate of the gradient of E_q[f(z)] by the logits, [L], with the masks drawn and their values.

    Args:
        logit_L: of the places.
        log_lik: f: the values [S] of masks [S, L].
        num_masks: S, at least two.
        generator: draws the masks.
        slope_L: of a linear guess at f, such as that of `Slopes`; the better it is, the less noise there is.

    Raises:
        InputError: for fewer than two masks, as each is compared with the others.
    """
    mask_SL = draw_masks(logit_L, num_masks, generator)
    value_S = log_lik(mask_SL)
    gradient_L = leave_one_out(mask_SL, value_S) if slope_L is None else controlled(logit_L, mask_SL, value_S, slope_L)
    return gradient_L, mask_SL, value_S


def leave_one_out(mask_SL: Tensor, value_S: Tensor) -> Tensor:
    """The estimate of `reinforce` from these masks and their values, [L].

    (1/S) sum_s (f_s - mean of the others) grad log q(z_s), with grad log q(z) = z - sigmoid(a). A baseline that does
    not depend on z_s adds nothing to the mean. As f_s - mean of the others = S/(S-1) (f_s - mean of all), which sums to
    zero, sigmoid(a) falls out, and what is left is the sample covariance of value and mask.
    """
    num_masks = len(mask_SL)
    if num_masks < 2:
        raise InputError(f"at least two masks are needed, each to be compared with the others, got {num_masks}")
    return (value_S - value_S.mean()).to(mask_SL.dtype) @ mask_SL / (num_masks - 1)


def controlled(logit_L: Tensor, mask_SL: Tensor, value_S: Tensor, slope_L: Tensor) -> Tensor:
    """As `leave_one_out`, of what slope . z leaves of the values; and the exact gradient of E_q[slope . z], [L].

    The mean is exact for any slope that was there before these masks were drawn.
    """
    prob_L, slope_L = logit_L.detach().sigmoid(), slope_L.to(mask_SL.dtype)
    return leave_one_out(mask_SL, value_S - mask_SL @ slope_L) + slope_L * prob_L * (1 - prob_L)


@dataclass(frozen=True, eq=False)
class Slopes:
    """What each place adds to a value, by least squares over all masks so far, of which old ones count less.

    Attributes:
        outer_LL: sum of outer products of masks, less their mean within a draw.
        cross_L: sum of products of these and the values.
    """

    outer_LL: Tensor
    cross_L: Tensor

    @staticmethod
    def none(num_places: int) -> Slopes:
        """Nothing seen, slopes of zero."""
        return Slopes(torch.zeros(num_places, num_places, dtype=torch.float64), torch.zeros(num_places).double())

    @property
    def slope_L(self) -> Tensor:
        """Of each place; near zero where it hardly ever changed."""
        return torch.linalg.solve(self.outer_LL + RIDGE * torch.eye(len(self.cross_L)).double(), self.cross_L)

    def after(self, mask_SL: Tensor, value_S: Tensor) -> Slopes:
        """With these masks and their values."""
        mask_SL, value_S = mask_SL.double() - mask_SL.double().mean(0), value_S.double() - value_S.double().mean()
        return Slopes(KEPT * self.outer_LL + mask_SL.T @ mask_SL, KEPT * self.cross_L + value_S @ mask_SL)


def gumbel_sigmoid(logit: Tensor, temperature: float, generator: torch.Generator, hard: bool = True) -> Tensor:
    """A relaxed draw sigmoid((a + noise) / temperature), with a gradient; its side of 0.5 is a draw from q.

    Args:
        logit: a, of any shape.
        temperature: nearer zero the draw is nearer 0 or 1, and its gradient noisier.
        generator: draws the noise, a difference of two Gumbel variables, which is logistic.
        hard: give 0 or 1, with the gradient of the relaxed draw (straight through).
    """
    noise = torch.rand(logit.shape, generator=generator, dtype=logit.dtype).logit()
    soft = ((logit + noise) / temperature).sigmoid()
    return (soft > 0.5).to(logit.dtype) + (soft - soft.detach()) if hard else soft


def log_q(logit_L: Tensor, mask_SL: Tensor) -> Tensor:
    """Log probability of masks, [S], in nats."""
    return -softplus(torch.where(mask_SL > 0.5, -logit_L, logit_L)).sum(-1)


def bernoulli_kl(logit_L: Tensor, rho: float) -> Tensor:
    """KL(q || prod_l Bernoulli(rho)), in nats.

    Raises:
        InputError: if rho is not between 0 and 1.
    """
    if not 0 < rho < 1:
        raise InputError(f"a probability between 0 and 1 is needed, got {rho}; an impossible mask has no finite KL")
    entropy_L = softplus(logit_L) - logit_L.sigmoid() * logit_L
    cross_L = -math.log1p(-rho) - logit_L.sigmoid() * (math.log(rho) - math.log1p(-rho))
    return (cross_L - entropy_L).sum(-1)


def enumerate_masks(num_places: int) -> Tensor:
    """All masks of so many places, [M, L], of zeros and ones in float64.

    Raises:
        InputError: if there are too many.
    """
    if not 0 <= num_places <= MOST_ENUMERATED:
        raise InputError(
            f"masks of at most {MOST_ENUMERATED} places are enumerated, got {num_places}; draw some instead"
        )
    return (torch.arange(2**num_places)[:, None] >> torch.arange(num_places) & 1).double()


def exact_bound(
    logit_L: Tensor, log_lik: Callable[[Tensor], Tensor], rho: float = 0.5, kl_weight: float = 1.0
) -> Tensor:
    """E_q[f(z)] - kl_weight KL(q || prod_l Bernoulli(rho)) over all masks, in nats, with a gradient for the logits.

    Args:
        logit_L: of a few places.
        log_lik: f: the values [M] of masks [M, L].
        rho: of the prior.
        kl_weight: 1 for the evidence lower bound.
    """
    mask_ML = enumerate_masks(len(logit_L)).to(logit_L.dtype)
    return log_q(logit_L, mask_ML).exp() @ log_lik(mask_ML) - kl_weight * bernoulli_kl(logit_L, rho)


def most_probable_mask(logit_L: Tensor) -> Tensor:
    """Where q is more likely to say one than zero; booleans [L]."""
    return logit_L > 0
