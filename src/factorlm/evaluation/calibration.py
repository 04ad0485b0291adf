"""Whether stated probabilities are right (calibration), whether they rank (discrimination), and what abstaining buys.

A prediction is a probability or a score, and its outcome is 1 or 0: whether the event came, or whether the answer was
right. Numbers that were fitted on outcomes are never judged on the same ones: see `cross_fitted`.
"""

# Axes: A arrays, B predictions, F folds, G groups of tied scores, L labels, M bins, R resamples.

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from factorlm.errors import InputError
from factorlm.evaluation.intervals import LEVEL, RESAMPLES, Estimate

Array = NDArray[np.float64]
NUM_BINS, FEWER_BINS, FEW = 15, 10, 500  # bins, and bins where there are fewer predictions than this
TINY = 1e-12  # a probability is kept this far from 0 and 1 where its logarithm is taken


@dataclass(frozen=True, eq=False)
class Bins:
    """Predictions put together by their probability: the points of a reliability diagram.

    Attributes:
        count_M: predictions in each bin; empty bins are left out.
        confidence_M: mean probability.
        hit_M: share of outcomes that came.
    """

    count_M: Array
    confidence_M: Array
    hit_M: Array

    @property
    def share_M(self) -> Array:
        """Of all predictions."""
        return self.count_M / self.count_M.sum()

    @property
    def gap_M(self) -> Array:
        """Mean probability minus share of outcomes: positive where the predictions are over-confident."""
        return self.confidence_M - self.hit_M


class BrierParts(NamedTuple):
    """The Brier score as reliability - resolution + uncertainty + within_bins.

    Attributes:
        reliability: squared distance of mean probability and share of outcomes; 0 is calibrated.
        resolution: how far the shares of outcomes of the bins differ from that of all; more is better.
        uncertainty: y (1 - y) for the share y of outcomes: the Brier score of always saying that share.
        within_bins: what differences of probability inside bins contribute; 0 if each bin has one probability.
    """

    reliability: float
    resolution: float
    uncertainty: float
    within_bins: float


def num_bins(num_predictions: int) -> int:
    """The usual number of bins for so many predictions."""
    return NUM_BINS if num_predictions >= FEW else FEWER_BINS


def reliability_bins(
    prob_B: ArrayLike, hit_B: ArrayLike, *, number: int | None = None, by: Literal["mass", "width"] = "mass"
) -> Bins:
    """Put predictions into bins of equal number ("mass") or of equal width.

    Bins of equal number never part predictions of one probability, so there may be fewer of them.

    Args:
        prob_B: probabilities.
        hit_B: outcomes, 1 or 0.
        number: of bins; None takes `num_bins`.
        by: what is equal.
    """
    prob_B, hit_B = _checked(prob_B, hit_B)
    wanted = number or num_bins(len(prob_B))
    if by == "width":
        bin_B = np.minimum((prob_B * wanted).astype(int), wanted - 1)
    else:
        _, group_B, count_G = np.unique(prob_B, return_inverse=True, return_counts=True)
        middle_G = np.cumsum(count_G) - (count_G + 1) / 2  # rank of the middle of those who tie, from 0
        bin_B = np.floor(middle_G * wanted / len(prob_B)).astype(int)[group_B]
    count_M = np.bincount(bin_B, minlength=wanted).astype(float)
    kept_M = count_M > 0
    sum_prob_M, sum_hit_M = (np.bincount(bin_B, weights=x_B, minlength=wanted) for x_B in (prob_B, hit_B))
    return Bins(count_M[kept_M], sum_prob_M[kept_M] / count_M[kept_M], sum_hit_M[kept_M] / count_M[kept_M])


def brier(prob_B: ArrayLike, hit_B: ArrayLike) -> float:
    """Mean squared distance of probability and outcome (Brier, 1950)."""
    prob_B, hit_B = _checked(prob_B, hit_B)
    return float(((prob_B - hit_B) ** 2).mean())


def brier_parts(
    prob_B: ArrayLike, hit_B: ArrayLike, *, number: int | None = None, by: Literal["mass", "width"] = "mass"
) -> BrierParts:
    """The parts of the Brier score over bins (Murphy, 1973), with the rest within bins (Stephenson et al., 2008)."""
    prob_B, hit_B = _checked(prob_B, hit_B)
    bins = reliability_bins(prob_B, hit_B, number=number, by=by)
    base = float(hit_B.mean())
    reliability = float(bins.share_M @ bins.gap_M**2)
    resolution = float(bins.share_M @ (bins.hit_M - base) ** 2)
    uncertainty = base * (1 - base)
    rest = brier(prob_B, hit_B) - (reliability - resolution + uncertainty)
    return BrierParts(reliability, resolution, uncertainty, rest)


def negative_log_likelihood(prob_B: ArrayLike, hit_B: ArrayLike) -> float:
    """Mean of -log of the probability given to what came, in nats."""
    prob_B, hit_B = _checked(prob_B, hit_B)
    prob_B = prob_B.clip(TINY, 1 - TINY)
    return float(-(hit_B * np.log(prob_B) + (1 - hit_B) * np.log1p(-prob_B)).mean())


def calibration_error(
    prob_B: ArrayLike, hit_B: ArrayLike, *, number: int | None = None, by: Literal["mass", "width"] = "mass"
) -> float:
    """Expected calibration error: the mean gap of probability and share of outcomes over bins.

    It is above zero even for perfect predictions, since shares of finite bins scatter; see `squared_calibration_error`.

    Source: Guo et al. (2017), arXiv:1706.04599; bins of equal mass: Nixon et al. (2019), arXiv:1904.01685.
    """
    bins = reliability_bins(prob_B, hit_B, number=number, by=by)
    return float(bins.share_M @ np.abs(bins.gap_M))


def squared_calibration_error(
    prob_B: ArrayLike, hit_B: ArrayLike, *, number: int | None = None, by: Literal["mass", "width"] = "mass"
) -> float:
    """Mean squared gap over bins, less what the scatter of the shares adds to it; about 0 if calibrated.

    Bins of one prediction say nothing of their scatter and are left out; nan if there are no others.

    Source: Kumar, Liang and Ma, Verified Uncertainty Calibration (2019), arXiv:1909.10155.
    """
    bins = reliability_bins(prob_B, hit_B, number=number, by=by)
    kept_M = bins.count_M > 1
    if not kept_M.any():
        return math.nan
    count_M, hit_M = bins.count_M[kept_M], bins.hit_M[kept_M]
    squared_M = bins.gap_M[kept_M] ** 2 - hit_M * (1 - hit_M) / (count_M - 1)
    return float(count_M @ squared_M / count_M.sum())


def largest_calibration_error(
    prob_B: ArrayLike, hit_B: ArrayLike, *, number: int | None = None, by: Literal["mass", "width"] = "mass"
) -> float:
    """Gap of the worst bin (MCE)."""
    return float(np.abs(reliability_bins(prob_B, hit_B, number=number, by=by).gap_M).max())


def classwise_calibration_error(
    prob_BL: ArrayLike, label_B: ArrayLike, *, number: int | None = None, by: Literal["mass", "width"] = "mass"
) -> float:
    """Mean over labels of the calibration error of each label's probability (Nixon et al., 2019)."""
    prob_BL, label_B = np.asarray(prob_BL, float), np.asarray(label_B)
    each = [
        calibration_error(prob_BL[:, label], label_B == label, number=number, by=by)
        for label in range(prob_BL.shape[1])
    ]
    return float(np.mean(each))


def top_label(prob_BL: ArrayLike, label_B: ArrayLike) -> tuple[Array, Array]:
    """Probability of the likeliest label of each prediction, and whether it was right (1 or 0)."""
    prob_BL, label_B = np.asarray(prob_BL, float), np.asarray(label_B)
    return prob_BL.max(-1), (prob_BL.argmax(-1) == label_B).astype(float)


def auroc(score_B: ArrayLike, hit_B: ArrayLike) -> float:
    """Probability that a hit has a higher score than a miss, ties counted half; nan if there is only one kind.

    Source: Mann and Whitney (1947); the area under the ROC curve.
    """
    score_B, hit_B = _pair(score_B, hit_B)
    num_hits = hit_B.sum()
    num_misses = len(hit_B) - num_hits
    if not num_hits or not num_misses:
        return math.nan
    _, group_B, count_G = np.unique(score_B, return_inverse=True, return_counts=True)
    rank_G = np.cumsum(count_G) - (count_G - 1) / 2  # mean rank of those who tie, from 1
    return float((rank_G[group_B] @ hit_B - num_hits * (num_hits + 1) / 2) / (num_hits * num_misses))


def auprc(score_B: ArrayLike, hit_B: ArrayLike) -> float:
    """Average precision: the area under the steps of precision over recall; nan without a hit."""
    score_B, hit_B = _pair(score_B, hit_B)
    if not hit_B.sum():
        return math.nan
    count_G, hits_G = _by_score(score_B, hit_B)
    precision_G = np.cumsum(hits_G) / np.cumsum(count_G)
    return float(precision_G @ hits_G / hits_G.sum())


def risk_coverage(confidence_B: ArrayLike, loss_B: ArrayLike) -> tuple[Array, Array]:
    """Mean loss of the most confident share of predictions, for every share: coverage [B] and risk [B].

    Among predictions of one confidence the order is left to chance, and the expectation over it is taken.

    Source: Geifman and El-Yaniv (2017), arXiv:1705.08500.

    Args:
        confidence_B: higher is surer.
        loss_B: of each prediction, such as 1 for wrong and 0 for right.
    """
    confidence_B, loss_B = _pair(confidence_B, loss_B)
    count_G, sum_G = _by_score(confidence_B, loss_B)
    loss_B = np.repeat(sum_G / count_G, count_G.astype(int))
    number_B = np.arange(1, len(loss_B) + 1)
    return number_B / len(loss_B), np.cumsum(loss_B) / number_B


def area_under_risk_coverage(confidence_B: ArrayLike, loss_B: ArrayLike) -> float:
    """Mean of the risk over all coverages (AURC); lower is better, and the mean loss is what chance gives."""
    return float(risk_coverage(confidence_B, loss_B)[1].mean())


def rejection_ratio(confidence_B: ArrayLike, loss_B: ArrayLike) -> float:
    """Prediction rejection ratio (PRR): 1 rejects the worst predictions first, 0 is chance, below 0 is worse.

    The loss left over is summed while the least confident predictions are handed to an oracle one by one; the ratio is
    how much of the way from chance to the ideal order this comes. For losses 0 and 1 it is 2 AUROC - 1. nan if
    all losses are equal, since then no order is better than another. It is not average precision.

    Source: Malinin and Gales (2021), arXiv:2002.07650.

    Args:
        confidence_B: higher is surer.
        loss_B: of each prediction, zero or more.
    """
    confidence_B, loss_B = _pair(confidence_B, loss_B)
    if len(loss_B) == 0 or loss_B.max() == loss_B.min():
        return math.nan

    def left(by_B: Array) -> float:
        coverage_B, risk_B = risk_coverage(by_B, loss_B)
        sum_B = np.concatenate([[0.0], coverage_B * risk_B])
        return float((sum_B[1:] + sum_B[:-1]).sum() / 2 / len(loss_B))

    by_chance = float(loss_B.mean()) / 2
    return (by_chance - left(confidence_B)) / (by_chance - left(-loss_B))


def with_interval(
    statistic: Callable[..., float], *arrays_A: ArrayLike, seed: int = 0, resamples: int = RESAMPLES
) -> Estimate:
    """A statistic of predictions and outcomes with its percentile interval over resampled predictions.

    Args:
        statistic: of arrays in the order given, such as `auroc`.
        arrays_A: of one length; their rows are drawn together.
        seed: of the resampling.
        resamples: how many.
    """
    found_A = [np.asarray(array) for array in arrays_A]
    num_predictions = len(found_A[0])
    value = statistic(*found_A) if num_predictions else math.nan
    if math.isnan(value):
        return Estimate(value=None, n=num_predictions)
    generator = np.random.default_rng(seed)
    drawn_R = []
    for _ in range(resamples):
        row_B = generator.integers(num_predictions, size=num_predictions)
        drawn_R.append(statistic(*(array[row_B] for array in found_A)))
    low, high = (float(x) for x in np.nanquantile(drawn_R, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]))
    return Estimate(value=float(value), low=low, high=high, n=num_predictions)


def fit_temperature(logit_BL: ArrayLike, label_B: ArrayLike) -> float:
    """The T for which softmax(logit / T) gives the labels the highest likelihood; it never changes the likeliest label.

    Source: temperature scaling, Guo et al. (2017), arXiv:1706.04599.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    logit_BL, label_B = np.asarray(logit_BL, float), np.asarray(label_B, int)
    row_B = np.arange(len(label_B))

    def loss(log_temperature: float) -> float:
        return float(-log_softmax(logit_BL / math.exp(log_temperature), -1)[row_B, label_B].mean())

    return math.exp(minimize_scalar(loss, bounds=(-5, 5), method="bounded", options={"xatol": 1e-6}).x)


def fit_platt(score_B: ArrayLike, hit_B: ArrayLike) -> tuple[float, float]:
    """Slope a and offset b for which sigmoid(a score + b) predicts the outcomes best.

    The targets lie a little inside 0 and 1, as Platt (1999) has them, so that scores which part the outcomes
    completely do not make the slope infinite.
    """
    from scipy.optimize import minimize
    from scipy.special import expit

    score_B, hit_B = _pair(score_B, hit_B)
    num_hits = hit_B.sum()
    target_B = np.where(hit_B > 0, (num_hits + 1) / (num_hits + 2), 1 / (len(hit_B) - num_hits + 2))
    spread = float(score_B.std()) or 1.0  # the fit is made in units of the scores' own spread

    def loss(x: Array) -> tuple[float, Array]:
        logit_B = x[0] * score_B / spread + x[1]
        error_B = expit(logit_B) - target_B
        value = (np.logaddexp(0, logit_B) - target_B * logit_B).mean()
        return float(value), np.array([(error_B * score_B / spread).mean(), error_B.mean()])

    slope, offset = minimize(loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B").x
    return float(slope / spread), float(offset)


def fit_isotonic(score_B: ArrayLike, hit_B: ArrayLike) -> Callable[[Array], Array]:
    """The rising step function from scores to probabilities that is nearest to the outcomes."""
    from sklearn.isotonic import IsotonicRegression

    score_B, hit_B = _pair(score_B, hit_B)
    fit = IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip").fit(score_B, hit_B)
    return lambda score_B: np.asarray(fit.predict(np.asarray(score_B, float)), float)


def cross_fitted(
    score_B: ArrayLike,
    hit_B: ArrayLike,
    *,
    method: Literal["platt", "isotonic"] = "isotonic",
    folds: int = 5,
    groups: Sequence[object] | None = None,
    seed: int = 0,
) -> Array:
    """Probabilities [B], each from a map from score to probability that was fitted without its own outcome.

    Args:
        score_B: raw scores.
        hit_B: outcomes, 1 or 0.
        method: the map.
        folds: parts that take turns in being predicted.
        groups: predictions of one group, such as of one question, stay in one fold; None takes each by itself.
        seed: of the folds.

    Raises:
        InputError: if there are fewer predictions or groups than folds.
    """
    from scipy.special import expit

    score_B, hit_B = _pair(score_B, hit_B)
    _, group_B = np.unique([str(g) for g in groups] if groups else np.arange(len(score_B)), return_inverse=True)
    num_groups = int(group_B.max(initial=-1)) + 1
    if not 2 <= folds <= num_groups:
        raise InputError(f"2 folds or more, and no more than the {num_groups} groups of predictions, got {folds}")
    fold_G = np.random.default_rng(seed).permutation(np.arange(num_groups) % folds)
    fold_B = fold_G[group_B]
    prob_B = np.empty(len(score_B))
    for fold in range(folds):
        out_B = fold_B == fold
        if method == "platt":
            slope, offset = fit_platt(score_B[~out_B], hit_B[~out_B])
            prob_B[out_B] = expit(slope * score_B[out_B] + offset)
        else:
            prob_B[out_B] = fit_isotonic(score_B[~out_B], hit_B[~out_B])(score_B[out_B])
    return prob_B


def _by_score(score_B: Array, value_B: Array) -> tuple[Array, Array]:
    """Number and sum of values of each group of tied scores, from the highest score."""
    _, group_B, count_G = np.unique(-score_B, return_inverse=True, return_counts=True)
    sum_G = np.bincount(group_B, weights=value_B, minlength=len(count_G))
    return count_G.astype(float), sum_G.astype(float)


def _pair(score_B: ArrayLike, value_B: ArrayLike) -> tuple[Array, Array]:
    score_B, value_B = np.asarray(score_B, float), np.asarray(value_B, float)
    if score_B.ndim != 1 or score_B.shape != value_B.shape:
        raise InputError(f"as many predictions as outcomes are needed, got {score_B.shape} and {value_B.shape}")
    if np.isnan(score_B).any() or np.isnan(value_B).any():
        raise InputError("predictions and outcomes must be numbers, got nan; leave those out")
    return score_B, value_B


def _checked(prob_B: ArrayLike, hit_B: ArrayLike) -> tuple[Array, Array]:
    prob_B, hit_B = _pair(prob_B, hit_B)
    if len(prob_B) == 0:
        raise InputError("at least one prediction is needed, got none")
    if prob_B.min() < 0 or prob_B.max() > 1:
        raise InputError(f"probabilities lie in [0, 1], got {prob_B.min():.3g} to {prob_B.max():.3g}")
    return prob_B, hit_B
