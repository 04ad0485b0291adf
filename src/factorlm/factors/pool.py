"""The logarithmic opinion pool: exponents under which given texts are most probable.

Sources: Heskes (1997), "Selecting weighting factors in logarithmic opinion pools"; Smith, Cohn and Osborne (2005),
"Logarithmic opinion pools for conditional random fields".
"""

# Axes: C candidates, K factors, N places; n is a stretch of N.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from factorlm.algebra import Factor
from factorlm.errors import InputError
from factorlm.factors.candidates import choose
from factorlm.factors.potentials import Texts, along
from factorlm.models import CausalLM
from factorlm.models.progress import Report, quiet

Floats = npt.NDArray[np.float64]
RIDGE = 1e-3  # in units of each factor's variance: enough that copies share, too little to matter otherwise
TOP, TAIL = 128, 64  # candidates at each place


def pooled(
    lm: CausalLM,
    factors: Sequence[Factor],
    texts: Texts,
    *,
    allow_negative: bool = False,
    ridge: float = RIDGE,
    top: int = TOP,
    tail: int = TAIL,
    seed: int = 0,
    report: Report = quiet,
) -> Tensor:
    """Logarithmic opinion pool: the exponents, [K], whose composition makes the texts most probable.

    The composition p prod_k w_k ** a_k is normalised at each token, so the log likelihood is concave. A small ridge
    makes copies share. Texts are read once; then each place is a few candidates. L-BFGS-B (Byrd et al., 1995) does
    the rest.

    Args:
        lm: the base.
        factors: bound to it.
        texts: to be made probable.
        allow_negative: whether exponents may be negative.
        ridge: on exponents, in units of each factor's variance.
        top: most probable tokens of each place among its candidates.
        tail: candidates drawn from the others.
        seed: of the draws.
        report: told of progress.

    Raises:
        InputError: if a factor makes a text impossible.
    """
    from scipy.optimize import minimize

    places = pool_places(lm, factors, texts, top=top, tail=tail, seed=seed, report=report)
    if not np.isfinite(places.chosen_KN).all():
        raise InputError("every text of a pool must be possible under every factor; leave the ban out, or such texts")
    bounds = [(None, None) if allow_negative else (0.0, None)] * len(factors)
    options = {"ftol": 1e-12, "gtol": 1e-8}
    start_K = np.zeros(len(factors))
    found = minimize(places.loss, start_K, args=(ridge,), jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    return torch.from_numpy(found.x)


@dataclass(frozen=True, eq=False)
class PoolPlaces:
    """All that the likelihood of a pool needs of its texts.

    Attributes:
        potential_KNC: of the candidates at each place.
        log_share_NC: log of the probability that each candidate stands for.
        chosen_KN: potentials of the tokens that come.
    """

    potential_KNC: Floats
    log_share_NC: Floats
    chosen_KN: Floats

    @cached_property
    def variance_K(self) -> Floats:
        """Mean variance of each potential under the base."""
        share_NC = np.exp(self.log_share_NC)
        mean_KN1 = (self.potential_KNC * share_NC).sum(-1, keepdims=True)
        variance_K: Floats = ((self.potential_KNC - mean_KN1) ** 2 * share_NC).sum(-1).mean(-1)
        return variance_K

    def loss(self, exponent_K: Floats, ridge: float) -> tuple[float, Floats]:
        """What the base gains over the pool for a token, plus the ridge, in nats; and the gradient [K]."""
        log_weight_NC = self.log_share_NC + np.tensordot(exponent_K, self.potential_KNC, 1)
        largest_N1 = log_weight_NC.max(-1, keepdims=True)
        weight_NC = np.exp(log_weight_NC - largest_N1)
        total_N1 = weight_NC.sum(-1, keepdims=True)
        expected_KN = (self.potential_KNC * (weight_NC / total_N1)).sum(-1)
        log_ratio_N = exponent_K @ self.chosen_KN - np.log(total_N1[:, 0]) - largest_N1[:, 0]
        penalty = ridge * (self.variance_K * exponent_K**2).sum() / 2
        slope_K = (expected_KN - self.chosen_KN).mean(-1) + ridge * self.variance_K * exponent_K
        return float(penalty - log_ratio_N.mean()), slope_K


def pool_places(
    lm: CausalLM,
    factors: Sequence[Factor],
    texts: Texts,
    *,
    top: int = TOP,
    tail: int = TAIL,
    seed: int = 0,
    report: Report = quiet,
) -> PoolPlaces:
    """Read the texts; the arguments are those of `pooled`."""
    generator = torch.Generator().manual_seed(seed)
    potential, log_share, chosen = [], [], []
    for place in along(lm, factors, texts, report=report):
        possible_nV = (place.potential_KnV > -torch.inf).all(0)
        log_prob_nV = torch.where(possible_nV, place.log_prob_nV, -torch.inf)  # a ban holds whatever the exponent
        token_nC, log_share_nC = choose(log_prob_nV, generator, top=top, tail=tail)
        found_KnC = place.potential_KnV.gather(2, token_nC.expand(len(factors), *token_nC.shape))
        potential.append(torch.where(found_KnC > -torch.inf, found_KnC, 0.0).cpu())
        log_share.append(log_share_nC.cpu())
        chosen.append(place.chosen_Kn.cpu())
    return PoolPlaces(
        torch.cat(potential, 1).double().numpy(),
        torch.cat(log_share).double().numpy(),
        torch.cat(chosen, 1).double().numpy(),
    )
