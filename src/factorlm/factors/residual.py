"""What a factor adds to others: the part of its potential that is uncorrelated with theirs, as a head of its own."""

# Axes: K factors, D width, R rank.

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from factorlm.errors import InputError
from factorlm.factors.calibration import head_strengths
from factorlm.factors.dependence import NO_VARIANCE, correlation_of
from factorlm.factors.head import EncoderCard, Head, HeadWeights
from factorlm.factors.manifest import DataCard, HeadSettings, Manifest
from factorlm.factors.potentials import Potentials
from factorlm.models import CausalLM

SMALLEST_EIGENVALUE = 1e-5  # of a correlation matrix; below, factors are copies of each other
LEAST_LEFT = 1e-3  # of the variance of a head; a residual with less would be rounding


def residuals(covariance_KK: Tensor) -> Tensor:
    """The unit lower triangle L, [K, K]: phi'_j = sum_k L_jk phi_k is uncorrelated with every phi_k, k < j.

    phi'_j = phi_j - C_j,k C_kk^-1 phi_k over the factors k before j. A composition of residuals with exponents a is
    one of the factors themselves with exponents L' a.
    """
    num_factors = len(covariance_KK)
    deviation_K = covariance_KK.diagonal().clamp(min=NO_VARIANCE).sqrt()
    correlation_KK = torch.nan_to_num(correlation_of(covariance_KK))  # what does not vary has nothing to take out
    lower_KK = torch.eye(num_factors, dtype=torch.float64)
    for j in range(1, num_factors):
        inverse_KK = torch.linalg.pinv(correlation_KK[:j, :j], rtol=SMALLEST_EIGENVALUE, hermitian=True)
        lower_KK[j, :j] = -(inverse_KK @ correlation_KK[:j, j]) * deviation_K[j] / deviation_K[:j]
    return lower_KK


def combined(heads: Sequence[HeadWeights], coefficients: Sequence[float]) -> HeadWeights:
    """One head that does what these do together at these exponents; its rank is the sum of theirs."""
    scaled = [head.scaled(float(c)) for head, c in zip(heads, coefficients, strict=True)]
    return HeadWeights(
        torch.stack([weights.bias_D for weights in scaled]).sum(0),
        torch.cat([weights.up_DR for weights in scaled], 1),
        torch.cat([weights.down_RD for weights in scaled]),
    )


@torch.no_grad()
def residual_head(lm: CausalLM, head: Head, others: Sequence[Head], name: str) -> tuple[Head, tuple[float, ...]]:
    """A new head that does what these others do not do already, and the exponents of the others that are taken out.

    Raises:
        InputError: if nothing is left of it.
    """
    everything = (*others, head)
    covariance_KK = Potentials(lm, everything).moments().covariance_KK
    coefficient_K = residuals(covariance_KK)[-1]
    left = float(coefficient_K @ covariance_KK @ coefficient_K) / float(covariance_KK[-1, -1])
    if left < LEAST_LEFT:
        named = ", ".join(other.name for other in others)
        raise InputError(f"{head.name} does nothing that {named} {'does' if len(others) == 1 else 'do'} not do already")
    weights = combined([h.weights for h in everything], coefficient_K.tolist())
    return Head(name, weights, lm, head_strengths(lm, weights)), tuple((-coefficient_K[:-1]).tolist())


def residual_manifest(
    residual: Head, taken_out: Sequence[float], head: Manifest, others: Sequence[Manifest], description: str = ""
) -> tuple[Manifest, dict[str, Tensor]]:
    """Card and tensors of a residual head, for a store.

    What was measured of the head it comes from does not hold for it, so calibration and responses are left out; the
    licences and data of all its parents stay.
    """
    parts = ", ".join(f"{other.name}^{amount:.3g}" for other, amount in zip(others, taken_out, strict=True))
    parents = (head, *others)
    sources = tuple(dict.fromkeys(source for parent in parents for source in parent.data.train))
    manifest = Manifest(
        name=residual.name,
        description=description or f"{head.name} without what {', '.join(o.name for o in others)} does already",
        label=head.label,
        licence=" and ".join(dict.fromkeys(parent.licence for parent in parents)),
        settings=HeadSettings(rank=residual.weights.rank),
        encoder=EncoderCard(name=residual.lm.name, fingerprint=residual.lm.fingerprint, width=residual.lm.width),
        strengths=residual.strengths,
        data=DataCard(train=sources),
        origin=f"{head.name} {head.version}, less {parts}",
    )
    weights = residual.weights
    return manifest, {"bias": weights.bias_D, "up": weights.up_DR, "down": weights.down_RD}
