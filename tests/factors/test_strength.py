"""The unit people turn: nats per token, its map to exponents, and how divergence is measured."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from factorlm.algebra import log_normalize, scale
from factorlm.errors import InputError
from factorlm.factors.calibration import without_unmoved
from factorlm.factors.strength import MEASURED_STRENGTHS, StrengthMap, mean_divergence, measure

SOLVED = 2e-3  # the solver stops at 1e-3 of the square root of the strength; exponents are kept to four decimals


def gaussian(exponent: float) -> float:
    """KL of a unit Gaussian moved by the exponent: what a potential linear in x does."""
    return exponent**2 / 2


def test_a_gaussian_is_solved() -> None:
    found = measure(gaussian)
    assert found is not None
    assert len(found.points) == 2 * len(MEASURED_STRENGTHS) + 1
    for strength, exponent in found.points:
        assert exponent == pytest.approx(math.copysign(math.sqrt(2 * abs(strength)), strength), rel=SOLVED)
    assert (0.0, 0.0) in found.points


@pytest.mark.parametrize("strength", [-1.4, -0.33, -0.05, -0.01, 0.003, 0.05, 0.3, 0.77, 1.5, 3.0])
def test_between_and_beyond_the_points_a_gaussian_is_exact(strength: float) -> None:
    """The square root of a Gaussian's divergence is linear in the exponent, as the map assumes."""
    found = measure(gaussian)
    assert found is not None
    want = math.copysign(math.sqrt(2 * abs(strength)), strength)
    assert found.exponent(strength) == pytest.approx(want, rel=5e-3)
    assert found.strength(want) == pytest.approx(strength, rel=1e-2)


@pytest.mark.parametrize(("most", "num_points"), [(0.5, 4), (0.03, 0), (10.0, 8)])
def test_a_saturating_divergence_ends_where_it_saturates(most: float, num_points: int) -> None:
    found = measure(lambda a: most * (1 - math.exp(-(a**2))) if a > 0 else a**2 / 2)
    assert found is not None
    positive = [point for point in found.points if point[0] > 0]
    assert [strength for strength, _ in positive] == list(MEASURED_STRENGTHS[:num_points])
    for strength, exponent in positive:
        assert most * (1 - math.exp(-(exponent**2))) == pytest.approx(strength, rel=3 * SOLVED)


def test_an_exponent_that_does_nothing_has_no_map() -> None:
    assert measure(lambda a: 0.0) is None
    assert measure(lambda a: 2.0) is None  # a ban, which holds at exponent zero too
    assert measure(lambda a: 0.02) is None


def test_a_steep_factor_is_measured() -> None:
    found = measure(lambda a: 1e10 * a**2)
    assert found is not None
    assert 1e10 * found.exponent(0.2) ** 2 == pytest.approx(0.2, rel=3 * SOLVED)


def test_a_ban_beside_boosts_is_measured_where_the_ban_allows() -> None:
    found = measure(lambda a: 0.06 + a**2 / 2)
    assert found is not None
    assert found.exponent(0.6) == pytest.approx(math.sqrt(2 * 0.54), rel=SOLVED)


@settings(max_examples=100, deadline=None)
@given(st.floats(-3, 3), st.floats(-3, 3), st.integers(0, 9))
def test_the_map_rises_and_can_be_inverted(first: float, second: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rises = torch.rand(6, 2, generator=generator, dtype=torch.float64) + 0.1
    ups = rises.cumsum(0).tolist()
    downs = [[-s, -e] for s, e in torch.flip((rises * 0.7).cumsum(0), (0,)).tolist()]
    found = StrengthMap(points=tuple((s, e) for s, e in [*downs, [0.0, 0.0], *ups]))
    (low, least), (high, most) = found.points[0], found.points[-1]
    first, second = min(max(first, low), high), min(max(second, least), most)
    assert found.exponent(0.0) == found.strength(0.0) == 0.0
    assert found.strength(found.exponent(first)) == pytest.approx(first, abs=1e-9)
    assert found.exponent(found.strength(second)) == pytest.approx(second, abs=1e-9)
    if low <= second <= high and first < second:
        assert found.exponent(first) <= found.exponent(second)
    for strength, exponent in found.points:
        assert found.exponent(strength) == pytest.approx(exponent, abs=1e-12)


def test_a_saturated_side_is_not_extrapolated() -> None:
    found = measure(lambda a: a * a / 2 if a > 0 else min(a * a / 2, 0.3))
    assert found is not None
    assert found.exponent(2.0) > found.exponent(1.5)  # the measured range ends there, the factor does not
    assert found.exponent(-0.2) < 0
    with pytest.raises(InputError, match=r"at most about 0\.2 nats"):
        found.exponent(-0.3)


@pytest.mark.parametrize("strength", [math.nan, math.inf, -math.inf])
def test_a_strength_is_finite(strength: float) -> None:
    with pytest.raises(InputError, match="finite number of nats"):
        StrengthMap(points=((0.0, 0.0), (1.0, 1.0))).exponent(strength)


@pytest.mark.parametrize(
    "points",
    [(), ((0.0, 0.0),), ((0.0, 0.0), (1.0, 0.0)), ((1.0, 1.0), (0.0, 0.0)), ((0.0, 0.0), (math.nan, 1.0))],
)
def test_a_map_that_does_not_rise_is_refused(points: tuple[tuple[float, float], ...]) -> None:
    with pytest.raises(ValidationError, match=r"must both rise|finite number"):
        StrengthMap(points=points)


@pytest.mark.parametrize("exponent", [-2.0, -0.3, 0.0, 0.5, 1.0, 4.0])
@pytest.mark.parametrize("share_impossible", [0.0, 0.3])
def test_divergence_equals_its_definition(exponent: float, share_impossible: float) -> None:
    generator = torch.Generator().manual_seed(0)
    log_prob_NV = torch.randn(20, 7, generator=generator, dtype=torch.float64).log_softmax(-1)
    potential_NV = torch.randn(20, 7, generator=generator, dtype=torch.float64)
    impossible_NV = torch.rand(20, 7, generator=generator) < share_impossible
    impossible_NV[:, 0] = False
    potential_NV[impossible_NV] = -torch.inf
    log_steered_NV = log_normalize(log_prob_NV + scale(potential_NV, exponent))
    term_NV = torch.where(impossible_NV, 0.0, log_steered_NV.exp() * (log_steered_NV - log_prob_NV))
    want = float(term_NV.sum(-1).mean())
    assert mean_divergence(log_prob_NV, potential_NV, exponent) == pytest.approx(want, abs=1e-12)


@pytest.mark.parametrize("exponent", [-2.0, 0.3, 1.0, 5.0])
def test_tokens_that_are_moved_nowhere_count_as_one(exponent: float) -> None:
    generator = torch.Generator().manual_seed(3)
    log_prob_NV = torch.randn(6, 40, generator=generator, dtype=torch.float64).log_softmax(-1)
    potential_NV = torch.zeros_like(log_prob_NV)
    potential_NV[:, :5] = torch.randn(6, 5, generator=generator, dtype=torch.float64)
    potential_NV[2, 7], potential_NV[:, 8] = 1.5, -torch.inf
    fewer = without_unmoved(log_prob_NV, potential_NV)
    assert fewer[0].shape == (6, 8)
    assert mean_divergence(*fewer, exponent) == pytest.approx(mean_divergence(log_prob_NV, potential_NV, exponent))
    assert without_unmoved(log_prob_NV[:, :5], potential_NV[:, :5])[0].shape == (6, 5)


def test_divergence_where_the_base_has_impossible_tokens() -> None:
    log_prob_NV = torch.tensor([[0.5, 0.5, 0.0]], dtype=torch.float64).log()
    potential_NV = torch.tensor([[1.0, 0.0, 5.0]], dtype=torch.float64)
    prob = math.e / (1 + math.e)
    want = math.log(2) + prob * math.log(prob) + (1 - prob) * math.log(1 - prob)
    assert mean_divergence(log_prob_NV, potential_NV, 1.0) == pytest.approx(want, abs=1e-12)


@pytest.mark.parametrize(("constant", "exponent"), [(0.0, 200.0), (-5.0, 30.0), (5.0, 30.0)])
def test_divergence_of_a_large_exponent(constant: float, exponent: float) -> None:
    """At float32 exp(89) is infinite and exp(-104) zero; a constant in the potential must not matter."""
    log_prob_NV = torch.tensor([[0.5, 0.5]]).log()
    got = mean_divergence(log_prob_NV, torch.tensor([[1.0, 0.0]]) + constant, exponent)
    assert got == pytest.approx(math.log(2), abs=1e-5)


def test_a_factor_that_saturates_is_measured() -> None:
    """Two even tokens can diverge by ln 2 at most, so the search goes to exponents where exp overflows."""
    log_prob_NV, potential_NV = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[1.0, 0.0]])
    found = measure(lambda a: mean_divergence(log_prob_NV, potential_NV, a))
    assert found is not None
    assert [s for s, _ in found.points if s > 0] == [s for s in MEASURED_STRENGTHS if s < math.log(2)]


def test_divergence_rises_with_the_size_of_the_exponent() -> None:
    generator = torch.Generator().manual_seed(1)
    log_prob_NV = torch.randn(5, 9, generator=generator).log_softmax(-1)
    potential_NV = torch.randn(5, 9, generator=generator)
    for sign in (-1, 1):
        found = [mean_divergence(log_prob_NV, potential_NV, sign * a / 4) for a in range(12)]
        assert found[0] == pytest.approx(0, abs=1e-6)
        assert all(a < b for a, b in itertools.pairwise(found))
