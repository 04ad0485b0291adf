"""Intervals against closed forms, enumeration and SciPy; comparisons that know when to keep silent."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from factorlm.errors import InputError
from factorlm.evaluation.intervals import (
    FEWEST_UNITS,
    Comparison,
    Estimate,
    adjusted,
    bootstrap,
    compare,
    holm,
    mean_interval,
    ratio_interval,
    resampled_means,
    sign_flip_p_value,
)


def test_resampling_is_that_of_units_with_their_mean_and_spread() -> None:
    values_UC = np.array([[1.0, 10.0], [2.0, 20.0], [4.0, 40.0], [9.0, 90.0]])
    mean_RC = resampled_means(values_UC, seed=1, resamples=20_000)
    np.testing.assert_allclose(mean_RC[:, 1], 10 * mean_RC[:, 0])  # units are kept whole
    assert mean_RC[:, 0].mean() == pytest.approx(4.0, abs=5 * 3.08 / math.sqrt(4 * 20_000))  # five standard errors
    assert mean_RC[:, 0].std() == pytest.approx(values_UC[:, 0].std() / 2, rel=0.03)
    every = {sum(c) / 4 for c in itertools.product([1.0, 2.0, 4.0, 9.0], repeat=4)}
    assert {round(m, 9) for m in mean_RC[:, 0]} <= {round(m, 9) for m in every}


def test_interval_of_a_mean_is_near_that_of_the_normal_law() -> None:
    values_U = np.random.default_rng(0).normal(3.0, 2.0, 400)
    found = mean_interval(values_U, resamples=8000)
    half = 1.96 * values_U.std() / 20
    assert found.value == pytest.approx(values_U.mean())
    assert found.low == pytest.approx(values_U.mean() - half, abs=0.02)
    assert found.high == pytest.approx(values_U.mean() + half, abs=0.02)
    assert found.n == 400


def test_interval_agrees_with_scipy() -> None:
    values_U = np.random.default_rng(1).exponential(size=60)
    theirs = stats.bootstrap((values_U,), np.mean, n_resamples=8000, method="percentile", rng=3).confidence_interval
    ours = mean_interval(values_U, resamples=8000)
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.02)


def test_intervals_cover_what_they_should() -> None:
    """Of 300 intervals at 95 %, fewer than 88 % covering has a probability under 1e-6 if they cover 93 % or more."""
    generator = np.random.default_rng(2)
    covers = 0
    for seed in range(300):
        found = mean_interval(generator.normal(size=50), seed=seed, resamples=400)
        assert found.low is not None
        assert found.high is not None
        covers += found.low <= 0 <= found.high
    assert covers >= 264


def test_ratio_is_of_sums_not_a_mean_of_ratios() -> None:
    found = ratio_interval([10.0, 1.0], [10.0, 100.0], change=np.exp)
    assert found.value == pytest.approx(math.exp(11 / 110))


def test_nothing_to_measure_is_none_and_one_unit_has_no_interval() -> None:
    assert mean_interval([]) == Estimate(value=None)
    assert mean_interval([math.nan]) == Estimate(value=None)
    assert mean_interval([2.0, math.nan]) == Estimate(value=2.0, n=1)
    assert ratio_interval([1.0], [0.0]).value == math.inf
    assert ratio_interval([0.0, 0.0], [0.0, 0.0]).value is None
    assert str(mean_interval([])) == "not measured"


@given(st.lists(st.integers(-20, 20).map(lambda n: n / 4), min_size=2, max_size=9))
def test_sign_flips_are_exact_for_few_units(values: list[float]) -> None:
    sums = [abs(sum(s * v for s, v in zip(signs, values, strict=True)))
            for signs in itertools.product((1, -1), repeat=len(values))]  # fmt: skip
    seen = abs(sum(values))
    exact = sum(s >= seen - 1e-9 for s in sums) / len(sums)
    assert sign_flip_p_value(values) == pytest.approx(exact, abs=1e-9)


def test_p_values_of_equal_models_are_uniform() -> None:
    """Kolmogorov-Smirnov over 200 comparisons of noise; fails by chance once in a million."""
    generator = np.random.default_rng(0)
    p_values = [sign_flip_p_value(generator.normal(size=20), seed=s, resamples=999) for s in range(200)]
    assert stats.kstest(p_values, "uniform").pvalue > 1e-6


def test_a_clear_difference_is_told_and_its_direction_named() -> None:
    theirs_U = np.random.default_rng(0).normal(size=40)
    noise_U = 0.1 * np.random.default_rng(1).normal(size=40)
    found = compare("nats", ("a", theirs_U - 0.5 + noise_U), ("b", theirs_U), lower_is_better=True)
    assert found.verdict == "better"
    assert found.p_value is not None
    assert found.p_value < 0.01
    assert found.difference.value == pytest.approx(-0.5, abs=0.1)
    back = compare("nats", ("b", theirs_U), ("a", theirs_U - 0.5 + noise_U), lower_is_better=True)
    assert back.verdict == "worse"
    assert compare("x", ("b", theirs_U + 0.5), ("a", theirs_U), lower_is_better=False).verdict == "better"


def test_pairing_finds_what_lies_under_the_spread_of_units() -> None:
    generator = np.random.default_rng(4)
    level_U = generator.normal(0, 10, 30)
    found = compare("x", ("a", level_U + 0.3 + 0.1 * generator.normal(size=30)), ("b", level_U), lower_is_better=False)
    assert found.verdict == "better"


def test_noise_is_not_ranked() -> None:
    generator = np.random.default_rng(5)
    found = compare("x", ("a", generator.normal(size=30)), ("b", generator.normal(size=30)), lower_is_better=True)
    assert found.verdict == "no difference shown"


def test_too_few_units_are_not_ranked() -> None:
    few = FEWEST_UNITS - 1
    found = compare("x", ("a", np.zeros(few)), ("b", np.ones(few)), lower_is_better=True)
    assert found.verdict == "cannot rank"
    assert f"{few} units" in found.reason
    holes = np.ones(10)
    holes[:4] = np.nan
    assert compare("x", ("a", np.zeros(10)), ("b", holes), lower_is_better=True).verdict == "cannot rank"


def test_equal_models_are_equal() -> None:
    found = compare("x", ("a", np.ones(20)), ("b", np.ones(20)), lower_is_better=True)
    assert (found.verdict, found.p_value, found.difference.value) == ("no difference shown", 1.0, 0.0)


def test_a_ratio_is_compared_as_a_ratio() -> None:
    generator = np.random.default_rng(0)
    tokens_U = generator.integers(5, 50, 40).astype(float)
    ours_UC = np.stack([2.0 * tokens_U, tokens_U], 1)
    theirs_UC = np.stack([2.1 * tokens_U + generator.normal(size=40), tokens_U], 1)
    found = compare("nats a token", ("a", ours_UC), ("b", theirs_UC), lower_is_better=True,
                    statistic=lambda mean_RC: mean_RC[:, 0] / mean_RC[:, 1])  # fmt: skip
    assert found.difference.value == pytest.approx(2.0 - theirs_UC[:, 0].sum() / tokens_U.sum())
    assert found.verdict == "better"


def test_units_must_be_the_same() -> None:
    with pytest.raises(InputError, match="same units, got 3 of a and 4 of b"):
        compare("x", ("a", np.zeros(3)), ("b", np.zeros(4)), lower_is_better=True)


def test_holm_by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []


def test_bootstrap_takes_any_statistic_of_means() -> None:
    values_UC = np.random.default_rng(0).normal(size=(50, 2))
    found = bootstrap(values_UC, lambda mean_RC: mean_RC[:, 0] - mean_RC[:, 1])
    assert found.value == pytest.approx(values_UC[:, 0].mean() - values_UC[:, 1].mean())
    assert found == bootstrap(values_UC, lambda mean_RC: mean_RC[:, 0] - mean_RC[:, 1])
    assert found != bootstrap(values_UC, lambda mean_RC: mean_RC[:, 0] - mean_RC[:, 1], seed=1)


def test_verdicts_must_stand_the_number_of_comparisons() -> None:
    def made(p_value: float | None, verdict: str) -> Comparison:
        return Comparison(measure="m", model="a", rival="b", difference=Estimate(value=1.0), p_value=p_value,
                          verdict=verdict)  # type: ignore[arg-type]  # fmt: skip

    found = adjusted([made(0.001, "better"), made(0.03, "worse"), made(None, "cannot rank"), made(0.04, "better")])
    assert [c.p_value for c in found] == [0.003, 0.06, None, 0.06]
    assert [c.verdict for c in found] == ["better", "no difference shown", "cannot rank", "no difference shown"]
    assert found[1].reason == "p = 0.03 alone, but 3 were tested"
    assert adjusted([]) == []
