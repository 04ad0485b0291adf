"""How factors depend on each other: what one does, others may do already.

Factors that push the same tokens count that push twice. To second order the divergence of a composition from the base
is a' C a / 2, with C_ij = E_h Cov_{v ~ p(.|h)}(phi_i, phi_j) over states h: the sum of what each factor costs alone,
plus a_i a_j C_ij for each pair. So factors of one sign that are positively correlated overshoot.
"""

# Axes: B texts, K factors, R resamples, S (value, low, high), U units, V vocabulary.

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from factorlm.algebra import Factor, Term, names_of
from factorlm.errors import InputError
from factorlm.factors.candidates import sketched_covariance
from factorlm.factors.head import Head
from factorlm.factors.potentials import Potentials, Texts, log_ratios, own_texts
from factorlm.models import CausalLM
from factorlm.models.progress import Report, quiet

THRESHOLD = 0.5  # a correlation worth a warning
TOP_PUSHED = 50  # tokens of each factor that are compared
LEAST_PUSH = 0.5  # standard deviations over tokens; a lexicon leaves most tokens all but alone
USUAL = 1e-6  # tokens rarer than that under the base, averaged over states, do not count as pushed
NO_VARIANCE = 1e-12  # nats squared: what rounding leaves of a potential that is constant
FEWEST_TEXTS = 8
RESAMPLES, LEVEL = 1000, 0.95


@dataclass(frozen=True)
class Shared:
    """Tokens that two factors both push most, or that one pushes most and the other pulls most.

    Attributes:
        num_together: of the top 50 of each, how many are pushed most by both.
        together: these as words, the strongest first; tokens of one word count as one.
        num_against: how many are pushed most by one and pulled most by the other.
        against: these as words.
    """

    num_together: int
    together: tuple[str, ...]
    num_against: int
    against: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Dependence:
    """What `dependence` measures.

    Attributes:
        names: of the factors, in order of K.
        covariance_KK: of log potentials under the base, E_h Cov_p(phi_i, phi_j), in nats squared per token.
        correlation_KK: the same as correlation; nan for a factor whose potential is constant, such as a ban.
        text_correlation_SKK: correlation of log p_i(x)/p(x) over texts, and its 95 % bootstrap interval over units;
            nan where it could not be measured.
        num_texts: that it rests on.
        shared: what each pair (i, j), i < j, pushes.
    """

    names: tuple[str, ...]
    covariance_KK: Tensor
    correlation_KK: Tensor
    text_correlation_SKK: Tensor
    num_texts: int
    shared: dict[tuple[int, int], Shared]

    @property
    def deviation_K(self) -> Tensor:
        """Scale of each factor: standard deviation of its potential under the base, in nats at exponent one."""
        return self.covariance_KK.diagonal().clamp(min=0).sqrt()

    @property
    def effective_number(self) -> float:
        """How many independent factors these are worth, by local correlation."""
        return effective_number(self.correlation_KK)

    def warnings(self, exponents: Sequence[float] | None = None, threshold: float = THRESHOLD) -> list[str]:
        """One line for each strongly dependent pair; without exponents all are taken as positive."""
        chosen = [1.0] * len(self.names) if exponents is None else exponents
        return warnings_for(self.names, self.correlation_KK, chosen, threshold)


def dependence(
    potentials: Potentials, texts: Texts | None = None, *, seed: int = 0, report: Report = quiet
) -> Dependence:
    """Measure how factors depend on each other.

    Args:
        potentials: the factors.
        texts: to correlate log-ratios over; None takes the model's own continuations of neutral openings.
        seed: of those continuations and of the bootstrap.
        report: told of progress.

    Raises:
        InputError: for fewer than two factors, or too few texts.
    """
    if len(potentials.factors) < 2:
        raise InputError(f"at least two factors to compare are needed, got {len(potentials.factors)}; name another")
    if texts is not None and len(texts.rows) < FEWEST_TEXTS:
        raise InputError(f"at least {FEWEST_TEXTS} texts are needed, got {len(texts.rows)}; add lines to the corpus")
    covariance_KK = potentials.moments().covariance_KK
    texts = texts or own_texts(potentials.lm, seed=seed, report=report)
    ratio_BK = log_ratios(potentials.lm, potentials.factors, texts, report=report)
    return Dependence(
        names=potentials.names,
        covariance_KK=covariance_KK,
        correlation_KK=correlation_of(covariance_KK),
        text_correlation_SKK=text_correlation(ratio_BK, texts.num_tokens_B, texts.units, seed=seed),
        num_texts=int(ratio_BK.isfinite().all(1).sum()),
        shared=shared_pushes(potentials),
    )


def correlation_of(covariance_KK: Tensor) -> Tensor:
    """Correlations [..., K, K]; nan for what does not vary."""
    variance_K = covariance_KK.diagonal(dim1=-2, dim2=-1)
    deviation_K = torch.where(variance_K > NO_VARIANCE, variance_K, torch.nan).sqrt()
    return (covariance_KK / deviation_K[..., None, :] / deviation_K[..., :, None]).clamp(-1, 1)


def effective_number(correlation_KK: Tensor) -> float:
    """Participation ratio (sum of eigenvalues)^2 / (sum of their squares) of a correlation matrix: 1 to K.

    Factors that do not vary are left out. Source: as a count of dimensions, Gao et al. (2017), "A theory of
    multineuronal dimensionality, dynamics and measurement".
    """
    varies_K = correlation_KK.diagonal().isfinite()
    rest = correlation_KK[varies_K][:, varies_K]
    return float(rest.trace() ** 2 / rest.square().sum()) if len(rest) else 0.0


def predicted_divergence(covariance_KK: Tensor, exponents: Sequence[float]) -> tuple[float, float]:
    """Second-order divergence a' C a / 2 of a composition in nats per token, and what independence would predict."""
    exponent_K = torch.tensor(exponents, dtype=torch.float64)
    together = float(exponent_K @ covariance_KK @ exponent_K) / 2
    return together, float((exponent_K.square() * covariance_KK.diagonal()).sum()) / 2


def text_correlation(ratio_BK: Tensor, num_tokens_B: Tensor, units: Sequence[int], *, seed: int = 0) -> Tensor:
    """Correlation of log-ratios over texts with its bootstrap interval over units, [3, K, K]: value, low, high.

    Under the base every log-ratio falls with the length of the text, which would make any two factors look alike, so
    its linear dependence on length is taken out first. Texts that a factor makes impossible are left out.

    Source: percentile bootstrap, Efron (1979).
    """
    num_factors = ratio_BK.shape[1]
    kept_B = ratio_BK.isfinite().all(1)
    ratio_BK, length_B = ratio_BK[kept_B], num_tokens_B[kept_B].double()
    if len(ratio_BK) < FEWEST_TEXTS:
        return torch.full((3, num_factors, num_factors), torch.nan, dtype=torch.float64)
    design_B2 = torch.stack([torch.ones_like(length_B), length_B - length_B.mean()], 1)
    rest_BK = ratio_BK - design_B2 @ torch.linalg.lstsq(design_B2, ratio_BK, driver="gelsd").solution
    _, unit_B = torch.tensor(units)[kept_B].unique(return_inverse=True)
    num_units = int(unit_B.max()) + 1
    flat_BM = torch.cat(
        [torch.ones(len(rest_BK), 1), rest_BK, torch.einsum("bi,bj->bij", rest_BK, rest_BK).flatten(1)], 1
    )
    sum_UM = torch.zeros(num_units, flat_BM.shape[1], dtype=torch.float64).index_add_(0, unit_B, flat_BM)
    value_KK = _correlations(sum_UM.sum(0)[None], num_factors)[0]
    if num_units < 2:
        return torch.stack([value_KK, *torch.full((2, num_factors, num_factors), torch.nan, dtype=torch.float64)])
    generator = torch.Generator().manual_seed(seed)
    drawn_RU = torch.randint(num_units, (RESAMPLES, num_units), generator=generator)
    count_RU = torch.zeros(RESAMPLES, num_units, dtype=torch.float64)
    count_RU.scatter_add_(1, drawn_RU, torch.ones_like(count_RU))
    found_RKK = _correlations(count_RU @ sum_UM, num_factors)
    ends = torch.tensor([(1 - LEVEL) / 2, (1 + LEVEL) / 2], dtype=torch.float64)
    return torch.stack([value_KK, *found_RKK.nanquantile(ends, dim=0)])


def _correlations(sum_RM: Tensor, num_factors: int) -> Tensor:
    """Correlations [R, K, K] from sums of one, of values and of their products."""
    count_R11 = sum_RM[:, :1, None]
    mean_RK = sum_RM[:, 1 : num_factors + 1] / count_R11[..., 0]
    square_RKK = sum_RM[:, num_factors + 1 :].reshape(-1, num_factors, num_factors) / count_R11
    return correlation_of(square_RKK - mean_RK[:, :, None] * mean_RK[:, None])


def shared_pushes(potentials: Potentials, count: int = TOP_PUSHED) -> dict[tuple[int, int], Shared]:
    """For each pair of factors, the tokens that both push most, and those that they push in opposite directions."""
    push_KV, usual_V = potentials.pushes()
    seen = (usual_V > USUAL).nonzero()[:, 0]
    push_KV = push_KV[:, seen].cpu()
    scale_K1 = torch.where(push_KV.isfinite(), push_KV, 0.0).std(1, keepdim=True).clamp(min=1e-30)
    push_KV = push_KV / scale_K1
    count = min(count, len(seen) // 2)
    pushed, pulled = ([_most(sign * row_V, count) for row_V in push_KV] for sign in (1, -1))

    def words(tokens: set[int], i: int, j: int) -> tuple[str, ...]:
        size = torch.minimum(push_KV[i].abs(), push_KV[j].abs())
        order = sorted(tokens, key=lambda token: -float(size[token]))
        token_bytes = potentials.lm.vocabulary.token_bytes
        shown = [token_bytes[int(seen[token])].decode("utf-8", "replace").strip().lower() for token in order]
        return tuple(dict.fromkeys(word for word in shown if any(map(str.isalnum, word))))

    found = {}
    for i in range(len(push_KV)):
        for j in range(i + 1, len(push_KV)):
            together = pushed[i] & pushed[j]
            against = (pushed[i] & pulled[j]) | (pulled[i] & pushed[j])
            found[i, j] = Shared(len(together), words(together, i, j), len(against), words(against, i, j))
    return found


def _most(push_V: Tensor, count: int) -> set[int]:
    found = push_V.topk(count)
    return set(found.indices[found.values > LEAST_PUSH].tolist())


def warnings_of(
    lm: CausalLM, factors: Sequence[tuple[Factor, float | Tensor]], threshold: float = THRESHOLD
) -> list[str]:
    """One line for each strongly dependent pair of heads with exponents that are not zero; cheap enough to always ask.

    Correlations are estimated from a few candidates at the neutral states (see `candidates`), and remembered.

    Args:
        lm: the base.
        factors: with their exponents, one number or one for each row; those that are no heads are passed over.
        threshold: the least correlation, either sign, that is worth a line.
    """
    live = [(factor, exponent) for factor, exponent in factors if bool(torch.as_tensor(exponent).any())]
    heads = [(factor, exponent) for factor, exponent in live if isinstance(factor, Head)]
    if len(heads) < 2:
        return []
    names = names_of([Term(factor) for factor, _ in heads])
    correlation_KK = correlation_of(sketched_covariance(lm, [factor for factor, _ in heads]))
    return warnings_for(names, correlation_KK, [exponent for _, exponent in heads], threshold)


def warnings_for(
    names: Sequence[str],
    correlation_KK: Tensor,
    exponents: Sequence[float | Tensor],
    threshold: float = THRESHOLD,
) -> list[str]:
    """The lines of `warnings_of` for known correlations."""
    found = []
    for i in range(len(names)):
        for j in range(i + 1, len(names)):
            correlation = float(correlation_KK[i, j])
            # Of rows with exponents of their own, one in which both are at work is enough.
            product = (torch.as_tensor(exponents[i]) * torch.as_tensor(exponents[j])).reshape(-1)
            if math.isnan(correlation) or abs(correlation) <= threshold or not bool(product.any()):
                continue
            sign = float(product[product.abs().argmax()])
            how = f"correlation {correlation:.2f} under the base"
            if correlation * sign > 0:
                signs = "" if sign > 0 else ", with exponents of opposite signs"
                found.append(
                    f"{names[i]} and {names[j]} push the same tokens ({how}{signs}): their strengths add up to more "
                    "than they say; --decorrelate refits the exponents"
                )
            else:
                found.append(
                    f"{names[i]} and {names[j]} pull against each other ({how}): each undoes a part of the other; "
                    "--decorrelate refits the exponents"
                )
    return found
