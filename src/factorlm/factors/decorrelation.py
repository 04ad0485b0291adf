"""Refitting exponents, so that what several factors do alike is not counted twice.

Three answers to "these factors are correlated": decoupled faders keep what each factor moves of its own attribute;
a pool chooses the exponents under which given texts are most probable; residuals give each factor only what the ones
before it do not do already (`residual` makes heads of these, too).
"""

# Axes: K factors.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor

from factorlm.algebra import Factor
from factorlm.errors import InputError, UnknownNameError
from factorlm.factors.dependence import FEWEST_TEXTS, NO_VARIANCE, correlation_of
from factorlm.factors.pool import RIDGE, pooled
from factorlm.factors.potentials import Moments, Potentials, Texts
from factorlm.factors.residual import residuals
from factorlm.models import CausalLM
from factorlm.models.progress import Report, quiet

Method = Literal["faders", "matched", "pool", "residual"]
METHODS: tuple[Method, ...] = get_args(Method)
MOST_STEPS, HALVINGS = 20, 8  # of Newton's method
CONVERGED = 1e-4  # nats, in standard deviations of the potential: far below what an attribute shows


@dataclass(frozen=True)
class Refit:
    """Exponents before and after decorrelation, and what both do on neutral states.

    Attributes:
        names: of the factors.
        exponents_before: as asked for.
        exponents_after: to use instead.
        method: how they were found.
        correlation: of the log potentials under the base; nan for a factor that does not vary.
        divergence_before: KL(q || p) of the composition, in nats per token.
        divergence_after: the same with the new exponents.
        divergence_independent: the sum of what each factor costs alone, which independent factors would cost.
        movement_alone: E_q[phi_k] - E_p[phi_k] of each factor alone at its exponent before, in nats.
        movement_before: the same of all factors together.
        movement_after: the same with the new exponents.
    """

    names: tuple[str, ...]
    exponents_before: tuple[float, ...]
    exponents_after: tuple[float, ...]
    method: Method
    correlation: tuple[tuple[float, ...], ...]
    divergence_before: float
    divergence_after: float
    divergence_independent: float
    movement_alone: tuple[float, ...]
    movement_before: tuple[float, ...]
    movement_after: tuple[float, ...]


def decorrelated(
    lm: CausalLM,
    factors: Sequence[tuple[Factor, float]],
    *,
    method: Method = "matched",
    texts: Texts | None = None,
    report: Report = quiet,
) -> Refit:
    """New exponents for bound factors, such that what they do alike is not counted twice.

    Methods:
        faders: each factor moves its own potential as far as it would alone, to first order: C w = Delta with
            Delta_k = C_kk a_k. A factor with exponent zero is asked to stay where it is.
        matched: the same at the strength that is asked for, not only to first order, and no exponent changes its sign.
        pool: the exponents under which the texts are most probable, none negative; the ones before do not matter.
        residual: each factor adds what those before it in the list do not do already.

    Args:
        lm: the base.
        factors: with their exponents.
        method: see above.
        texts: for the pool.
        report: told of progress.

    Raises:
        InputError: for an unknown method, exponents that are not finite, or a pool without enough texts.
    """
    if method not in METHODS:
        raise UnknownNameError.of("way to decorrelate", method, METHODS)
    if not factors:
        raise InputError("at least one factor to decorrelate is needed, got none; name some")
    before = [float(exponent) for _, exponent in factors]
    if not np.isfinite(before).all():
        raise InputError(f"exponents must be finite numbers, got {before}; 0 asks a factor to stay where it is")
    potentials = Potentials(lm, tuple(factor for factor, _ in factors))
    base = potentials.moments()
    movement_alone_K, divergence_alone_K = potentials.alone(before)
    if method == "faders":
        after_K = decoupled(base.covariance_KK, before)
    elif method == "matched":
        after_K = matched(potentials, before, base, movement_alone_K, report=report)
    elif method == "pool":
        if texts is None or len(texts.rows) < FEWEST_TEXTS:
            count = 0 if texts is None else len(texts.rows)
            raise InputError(f"a pool is fitted to at least {FEWEST_TEXTS} texts, got {count}; give a corpus with more")
        after_K = pooled(lm, potentials.factors, texts, report=report)
    else:
        after_K = residuals(base.covariance_KK).T @ torch.tensor(before, dtype=torch.float64)
    together, refitted = potentials.moments(before), potentials.moments(after_K)
    return Refit(
        names=potentials.names,
        exponents_before=tuple(before),
        exponents_after=tuple(after_K.tolist()),
        method=method,
        correlation=tuple(map(tuple, correlation_of(base.covariance_KK).tolist())),
        divergence_before=together.divergence,
        divergence_after=refitted.divergence,
        divergence_independent=base.divergence + float(divergence_alone_K.sum()),  # the base's is what bans cost
        movement_alone=tuple(movement_alone_K.tolist()),
        movement_before=tuple((together.mean_K - base.mean_K).tolist()),
        movement_after=tuple((refitted.mean_K - base.mean_K).tolist()),
    )


def decoupled(covariance_KK: Tensor, exponents: Sequence[float], *, ridge: float = RIDGE) -> Tensor:
    """Decoupled faders: w with C w = Delta, Delta_k = C_kk a_k, so that each factor moves itself as it would alone.

    It is solved in units in which each potential has variance one, so that no factor's scale matters, and drawn
    towards the exponents before: (R + ridge) y = (1 + ridge) b. So copies share what one of them would do, and
    independent factors stay exactly as they are, as does a factor that does not vary.
    """
    exponent_K = torch.tensor(exponents, dtype=torch.float64)
    varies_K = covariance_KK.diagonal() > NO_VARIANCE
    deviation_K = covariance_KK.diagonal()[varies_K].sqrt()
    correlation_KK = correlation_of(covariance_KK)[varies_K][:, varies_K]
    identity_KK = torch.eye(len(deviation_K), dtype=torch.float64)
    wanted_K = (1 + ridge) * deviation_K * exponent_K[varies_K]
    solved_K = torch.linalg.solve(correlation_KK + ridge * identity_KK, wanted_K)
    return exponent_K.masked_scatter(varies_K, solved_K / deviation_K)


def matched(
    potentials: Potentials,
    exponents: Sequence[float],
    base: Moments,
    movement_alone_K: Tensor,
    *,
    ridge: float = RIDGE,
    report: Report = quiet,
) -> Tensor:
    """Exponents w under which E_q[phi_k] - E_p[phi_k] is what factor k alone would do, at any strength.

    They minimise the convex E_h log Z_h(w) - w . (E_p[phi] + movement), plus the ridge of `decoupled`; its gradient
    and Hessian are the means and covariances of the composition. No exponent changes its sign: a factor that others
    move farther than it was asked to go is switched off, not turned round. One with exponent zero is asked to stay
    where it is, and free to do so with either sign.

    Projected Newton steps (Bertsekas, 1982), halved where they go too far.

    Args:
        potentials: of the factors.
        exponents: before, a.
        base: moments of the base.
        movement_alone_K: what each factor does alone at its exponent.
        ridge: in units of each factor's variance.
        report: told of progress.
    """
    before_K = torch.tensor(exponents, dtype=torch.float64)
    variance_K = base.covariance_KK.diagonal()
    varies_K = variance_K > NO_VARIANCE
    target_K = base.mean_K + movement_alone_K
    pull_KK = torch.diag(ridge * variance_K.clamp(min=NO_VARIANCE))

    def value(exponent_K: Tensor, moments: Moments) -> float:
        log_total = exponent_K @ moments.mean_K - moments.divergence
        away_K = exponent_K - before_K
        return float(log_total - exponent_K @ target_K + away_K @ pull_KK @ away_K / 2)

    def projected(exponent_K: Tensor) -> Tensor:
        is_kept_K = (exponent_K * before_K > 0) | (before_K == 0)
        return torch.where(varies_K, torch.where(is_kept_K, exponent_K, 0.0), before_K)

    exponent_K = projected(decoupled(base.covariance_KK, exponents, ridge=ridge))
    moments = potentials.moments(exponent_K)
    for step in range(MOST_STEPS):
        gradient_K = moments.mean_K - target_K + pull_KK @ (exponent_K - before_K)
        is_held_K = (exponent_K == 0) & (gradient_K * before_K > 0)
        free = (varies_K & ~is_held_K).nonzero()[:, 0]
        if not len(free) or float((gradient_K[free].abs() / variance_K[free].sqrt()).max()) < CONVERGED:
            break
        direction_K = torch.zeros_like(exponent_K)
        hessian_KK = moments.covariance_KK + pull_KK
        direction_K[free] = -torch.linalg.solve(hessian_KK[free][:, free], gradient_K[free])
        size, now = 1.0, value(exponent_K, moments)
        for _ in range(HALVINGS):
            tried_K = projected(exponent_K + size * direction_K)
            found = potentials.moments(tried_K)
            if value(tried_K, found) < now:
                break
            size /= 2
        else:
            break  # rounding is all that is left
        exponent_K, moments = tried_K, found
        report("matching movements", step + 1, MOST_STEPS)
    report("matching movements", MOST_STEPS, MOST_STEPS)
    return exponent_K
