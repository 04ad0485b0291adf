# Axes: B predictions, L labels.

import math

import numpy as np
import pytest

from factorlm.errors import InputError
from factorlm.evaluation import calibration as c

HAND_PROB, HAND_HIT = [0.1, 0.1, 0.6, 0.6, 0.6, 0.9], [0, 1, 1, 0, 1, 1]


def drawn(seed: int, number: int = 2000) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities, and outcomes that come with them."""
    generator = np.random.default_rng(seed)
    prob_B = generator.random(number)
    return prob_B, (generator.random(number) < prob_B).astype(float)


def test_bins_by_hand() -> None:
    bins = c.reliability_bins(HAND_PROB, HAND_HIT, number=3)
    assert bins.count_M.tolist() == [2, 3, 1]  # those who tie stay together
    assert bins.confidence_M == pytest.approx([0.1, 0.6, 0.9])
    assert bins.hit_M == pytest.approx([1 / 2, 2 / 3, 1])
    gaps = [0.4, 2 / 3 - 0.6, 0.1]
    assert c.calibration_error(HAND_PROB, HAND_HIT, number=3) == pytest.approx(np.dot(gaps, [2, 3, 1]) / 6)
    assert c.largest_calibration_error(HAND_PROB, HAND_HIT, number=3) == pytest.approx(0.4)
    squared = [0.4**2 - 0.25 / 1, gaps[1] ** 2 - 2 / 9 / 2]  # the bin of one prediction is left out
    assert c.squared_calibration_error(HAND_PROB, HAND_HIT, number=3) == pytest.approx(np.dot(squared, [2, 3]) / 5)
    wide = c.reliability_bins([0.0, 0.49, 0.5, 1.0], [0, 0, 1, 1], number=2, by="width")
    assert wide.count_M.tolist() == [2, 2]
    assert wide.confidence_M == pytest.approx([0.245, 0.75])


def test_mass_bins_are_of_equal_number() -> None:
    prob_B, hit_B = drawn(0, 1500)
    assert c.reliability_bins(prob_B, hit_B).count_M.tolist() == [100] * 15
    assert len(c.reliability_bins(prob_B[:499], hit_B[:499]).count_M) == 10


def test_brier_by_hand_and_as_sum_of_its_parts() -> None:
    from sklearn.metrics import brier_score_loss

    assert c.brier([0.8, 0.4], [1, 1]) == pytest.approx((0.04 + 0.36) / 2)
    assert c.brier(np.full(10, 0.3), [1] * 3 + [0] * 7) == pytest.approx(0.3 * 0.7)  # of the base rate
    prob_B, hit_B = drawn(1)
    assert c.brier(prob_B, hit_B) == pytest.approx(brier_score_loss(hit_B, prob_B), abs=1e-12)
    parts = c.brier_parts(prob_B, hit_B)
    assert parts.reliability - parts.resolution + parts.uncertainty + parts.within_bins == pytest.approx(
        c.brier(prob_B, hit_B), abs=1e-12
    )
    coarse = np.round(prob_B * 4) / 4  # one probability to a bin: nothing is left within bins
    assert c.brier_parts(coarse, hit_B, number=5).within_bins == pytest.approx(0, abs=1e-12)


def test_negative_log_likelihood_against_sklearn() -> None:
    from sklearn.metrics import log_loss

    prob_B, hit_B = drawn(2)
    assert c.negative_log_likelihood([0.5, 0.25], [1, 0]) == pytest.approx((math.log(2) - math.log(0.75)) / 2)
    assert c.negative_log_likelihood(prob_B, hit_B) == pytest.approx(log_loss(hit_B, prob_B), abs=1e-9)
    assert math.isfinite(c.negative_log_likelihood([0.0], [1]))


def test_calibration_curve_against_sklearn() -> None:
    from sklearn.calibration import calibration_curve

    prob_B, hit_B = drawn(3)
    hit_M, confidence_M = calibration_curve(hit_B, prob_B, n_bins=15, strategy="uniform")
    bins = c.reliability_bins(prob_B, hit_B, number=15, by="width")
    assert bins.hit_M == pytest.approx(hit_M, abs=1e-12)
    assert bins.confidence_M == pytest.approx(confidence_M, abs=1e-12)


def test_error_of_a_calibrated_predictor_is_all_bias() -> None:
    # Over draws of 2000 predictions in 50 bins the plug-in error scatters by 0.0054 and the debiased square by 0.0009
    # (measured over 300 seeds), so with fresh seeds each line would fail less than once in a hundred times.
    plain = [c.calibration_error(*drawn(seed), number=50) for seed in range(40)]
    squared = [c.squared_calibration_error(*drawn(seed), number=50) for seed in range(40)]
    assert np.mean(plain) == pytest.approx(0.049, abs=0.003)
    assert min(plain) > 0.03
    assert max(map(abs, squared)) < 0.004
    assert np.mean(squared) == pytest.approx(0, abs=0.0005)


def test_over_confidence_is_found_and_repaired_by_temperature_two() -> None:
    prob_B, hit_B = drawn(0, 20000)
    logit_B = 2 * np.log(prob_B / (1 - prob_B))
    sharp_B = 1 / (1 + np.exp(-logit_B))
    assert c.squared_calibration_error(sharp_B, hit_B, number=50) == pytest.approx(0.011, abs=0.003)
    logit_BL = np.stack([np.zeros_like(logit_B), logit_B], 1)
    temperature = c.fit_temperature(logit_BL, hit_B)
    assert temperature == pytest.approx(2, abs=0.1)  # scatters by 0.027
    slope, offset = c.fit_platt(logit_B, hit_B)
    assert (slope, offset) == (pytest.approx(1 / 2, abs=0.03), pytest.approx(0, abs=0.07))
    repaired_B = 1 / (1 + np.exp(-logit_B / temperature))
    assert c.squared_calibration_error(repaired_B, hit_B, number=50) < 0.001
    assert c.auroc(repaired_B, hit_B) == pytest.approx(c.auroc(sharp_B, hit_B), abs=1e-12)


def test_auroc_equals_mann_whitney_with_ties() -> None:
    from scipy.stats import mannwhitneyu
    from sklearn.metrics import average_precision_score, roc_auc_score

    generator = np.random.default_rng(0)
    hit_B = generator.random(500) < 0.3
    score_B = np.round(generator.normal(size=500) + hit_B, 1)  # many ties
    expected = mannwhitneyu(score_B[hit_B], score_B[~hit_B]).statistic / (hit_B.sum() * (~hit_B).sum())
    assert c.auroc(score_B, hit_B) == pytest.approx(expected, abs=1e-12)
    assert c.auroc(score_B, hit_B) == pytest.approx(roc_auc_score(hit_B, score_B), abs=1e-12)
    assert c.auprc(score_B, hit_B) == pytest.approx(average_precision_score(hit_B, score_B), abs=1e-12)
    assert c.auroc([1, 1, 2], [0, 1, 1]) == 0.75
    assert math.isnan(c.auroc([1, 2], [1, 1]))
    assert math.isnan(c.auprc([1, 2], [0, 0]))


def test_risk_and_coverage_by_hand() -> None:
    coverage_B, risk_B = c.risk_coverage([0.9, 0.8, 0.8, 0.1], [0, 1, 0, 1])
    assert coverage_B.tolist() == [0.25, 0.5, 0.75, 1]
    assert risk_B == pytest.approx([0, 0.5 / 2, 1 / 3, 2 / 4])  # of two that tie, one half of the loss each
    assert c.area_under_risk_coverage([0.9, 0.8, 0.8, 0.1], [0, 1, 0, 1]) == pytest.approx(risk_B.mean())
    constant = c.risk_coverage(np.zeros(4), [0, 1, 0, 1])[1]
    assert constant == pytest.approx([0.5] * 4)


def test_rejection_ratio_is_one_for_the_oracle_and_zero_for_chance() -> None:
    generator = np.random.default_rng(0)
    loss_B = generator.random(300)
    assert c.rejection_ratio(-loss_B, loss_B) == pytest.approx(1)
    assert c.rejection_ratio(np.zeros(300), loss_B) == pytest.approx(0, abs=1e-12)
    # The ratio of one random order scatters by about 0.06 (measured), the mean of 400 by 0.003: 5 of those.
    mean = np.mean([c.rejection_ratio(generator.random(300), loss_B) for _ in range(400)])
    assert mean == pytest.approx(0, abs=0.016)
    wrong_B = (loss_B < 0.3).astype(float)
    score_B = np.round(generator.normal(size=300) - wrong_B, 1)
    assert c.rejection_ratio(score_B, wrong_B) == pytest.approx(2 * c.auroc(score_B, 1 - wrong_B) - 1, abs=1e-12)
    assert math.isnan(c.rejection_ratio(score_B, np.ones(300)))


def test_several_labels() -> None:
    prob_BL = np.array([[0.7, 0.2, 0.1], [0.3, 0.4, 0.3], [0.1, 0.1, 0.8]])
    confidence_B, hit_B = c.top_label(prob_BL, [0, 2, 2])
    assert confidence_B.tolist() == [0.7, 0.4, 0.8]
    assert hit_B.tolist() == [1, 0, 1]
    each = [c.calibration_error(prob_BL[:, k], np.array([0, 2, 2]) == k, number=2) for k in range(3)]
    assert c.classwise_calibration_error(prob_BL, [0, 2, 2], number=2) == pytest.approx(np.mean(each))
    generator = np.random.default_rng(0)
    logit_BL = generator.normal(size=(4000, 3)) * 2
    share_BL = np.exp(logit_BL) / np.exp(logit_BL).sum(1, keepdims=True)
    label_B = (share_BL.cumsum(1) < generator.random((4000, 1))).sum(1)
    assert c.fit_temperature(3 * logit_BL, label_B) == pytest.approx(3, abs=0.25)


def test_isotonic_is_cross_fitted() -> None:
    generator = np.random.default_rng(0)
    score_B, hit_B = generator.normal(size=400), (generator.random(400) < 0.5).astype(float)  # nothing to be known
    fitted_on_itself = c.fit_isotonic(score_B, hit_B)(score_B)
    honest = c.cross_fitted(score_B, hit_B)
    assert c.brier(fitted_on_itself, hit_B) < 0.25 < c.brier(honest, hit_B)
    platt = c.cross_fitted(score_B, hit_B, method="platt")
    assert abs(c.brier(platt, hit_B) - 0.25) < 0.01
    for fold_mates in (honest, platt):
        assert ((fold_mates >= 0) & (fold_mates <= 1)).all()
    with pytest.raises(InputError, match="2 folds or more"):
        c.cross_fitted(score_B[:3], hit_B[:3])


def test_cross_fitting_never_uses_the_own_group() -> None:
    score_B, group = np.arange(40.0), [n // 4 for n in range(40)]
    hit_B = (np.arange(40) % 3 == 0).astype(float)
    before = c.cross_fitted(score_B, hit_B, groups=group)
    turned_B = hit_B.copy()
    turned_B[:4] = 1 - turned_B[:4]
    after = c.cross_fitted(score_B, turned_B, groups=group)
    assert after[:4].tolist() == before[:4].tolist()
    assert after[4:].tolist() != before[4:].tolist()


def test_platt_bears_scores_that_part_completely() -> None:
    slope, offset = c.fit_platt([-2.0, -1.0, 1.0, 2.0], [0, 0, 1, 1])
    assert 0 < slope < 10
    assert abs(offset) < 1e-3


def test_intervals_hold_the_value() -> None:
    prob_B, hit_B = drawn(5, 300)
    found = c.with_interval(c.auroc, prob_B, hit_B, resamples=300)
    assert found.n == 300
    assert found.low is not None and found.value is not None and found.high is not None  # noqa: PT018
    assert found.low < found.value < found.high
    # The area scatters by 0.024 over fresh samples of this size, so an interval is about 0.093 wide.
    assert 0.05 < found.high - found.low < 0.12
    assert c.with_interval(c.auroc, [1.0], [1.0]).value is None


@pytest.mark.parametrize(
    ("prob", "hit", "reason"),
    [([], [], "at least one"), ([1.2], [1], "lie in"), ([0.5], [1, 0], "as many"), ([math.nan], [1], "nan")],
)
def test_bad_predictions_are_refused(prob: list[float], hit: list[float], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        c.brier(prob, hit)
