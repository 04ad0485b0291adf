"""The frontier integral against integration; MAUVE, where its package is installed, against known sets."""

import os

import numpy as np
import pytest

from factorlm.errors import InputError
from factorlm.evaluation import mauve as of
from factorlm.evaluation.mauve import Closeness

needs_mauve = pytest.mark.skipif(not of.is_installed(), reason=f"needs mauve-text: {of.INSTALL}")


def gaussians(num_texts: int, shift: float, seed: int) -> np.ndarray:
    """In 64 dimensions, moved in the first four of them."""
    vector_BD = np.random.default_rng(seed).normal(size=(num_texts, 64))
    vector_BD[:, :4] += shift
    return vector_BD


def divergence(p_K: np.ndarray, q_K: np.ndarray) -> float:
    seen = p_K > 0
    return float((p_K[seen] * np.log(p_K[seen] / q_K[seen])).sum())


@pytest.mark.parametrize(
    ("p", "q"),
    [
        ([0.5, 0.5], [0.2, 0.8]),
        ([0.1, 0.2, 0.7], [0.3, 0.3, 0.4]),
        ([0.0, 0.4, 0.6], [0.5, 0.0, 0.5]),
        ([0.25, 0.25, 0.5], [0.25 + 1e-9, 0.25 - 1e-9, 0.5]),
        ([1e-12, 1 - 1e-12], [0.5, 0.5]),
    ],
)
def test_frontier_integral_is_the_integral(p: list[float], q: list[float]) -> None:
    from scipy.integrate import quad

    p_K, q_K = np.array(p), np.array(q)

    def height(w: float) -> float:
        r_K = w * p_K + (1 - w) * q_K
        return 2 * (w * divergence(p_K, r_K) + (1 - w) * divergence(q_K, r_K))

    expected, _ = quad(height, 0, 1, epsabs=1e-12, limit=200)
    assert of.frontier_integral(p_K, q_K) == pytest.approx(expected, abs=1e-9)
    assert of.frontier_integral(q_K, p_K) == pytest.approx(expected, abs=1e-9)


def test_ends_of_the_frontier_integral() -> None:
    assert of.frontier_integral(np.array([0.3, 0.7]), np.array([0.3, 0.7])) == pytest.approx(0, abs=1e-15)
    assert of.frontier_integral(np.array([1.0, 0.0]), np.array([0.0, 1.0])) == pytest.approx(1)


def test_smoothing_adds_half_a_text() -> None:
    assert of.smoothed(np.array([0.0, 3.0])).tolist() == [0.125, 0.875]


def test_clusters_are_those_of_both_sides() -> None:
    centres = np.array([[9.0, 0, 0], [0, 9, 0], [0, 0, 9]])
    noise = np.random.default_rng(0).normal(0, 0.01, size=(60, 3))
    p_BD, q_BD = centres[[0] * 20 + [1] * 10] + noise[:30], centres[[1] * 5 + [2] * 25] + noise[30:]
    p_K, q_K = of.cluster_counts(p_BD, q_BD, 3, seed=0)
    assert sorted(zip(p_K.tolist(), q_K.tolist(), strict=True)) == [(0, 25), (10, 5), (20, 0)]


def test_equal_texts_make_no_trouble() -> None:
    same = np.ones((40, 8)) / np.sqrt(8)
    assert of.clustered_frontier_integral(same, same) == pytest.approx(0, abs=1e-12)


def test_frontier_integral_grows_with_the_shift() -> None:
    human = gaussians(500, 0, 0)
    found = [of.clustered_frontier_integral(human, gaussians(500, shift, 1)) for shift in (0.0, 0.6, 1.2, 3.0)]
    assert found == sorted(found)
    assert found[0] < 0.05 < 0.3 < found[-1]


@needs_mauve
def test_mauve_of_equal_and_shifted_sets(capfd: pytest.CaptureFixture[str]) -> None:
    human = gaussians(500, 0, 0)
    equal, near, far = (of.mauve(human, gaussians(500, shift, 1)) for shift in (0.0, 0.3, 1.0))
    assert far < near < equal
    assert 0.96 < equal <= 1
    assert 0.4 < far < 0.65
    assert capfd.readouterr() == ("", "")
    assert os.fstat(2)  # the error stream is there again


@needs_mauve
def test_sides_may_be_swapped() -> None:
    # Histograms are treated alike; the clusters, which start from texts in their order, are averaged over.
    human, other = gaussians(500, 0, 0), gaussians(500, 0, 1)
    one, two = (np.mean([of.mauve(a, b, seed) for seed in range(5)]) for a, b in ((human, other), (other, human)))
    assert one == pytest.approx(two, abs=0.01)


@needs_mauve
def test_a_hundred_texts_cannot_rank() -> None:
    found = [of.mauve(gaussians(100, 0, 2 * i), gaussians(100, 0.3, 2 * i + 1)) for i in range(3)]
    equal = [of.mauve(gaussians(100, 0, 20 + 2 * i), gaussians(100, 0, 21 + 2 * i)) for i in range(3)]
    assert max(found) > min(equal) - 0.02


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of, "is_installed", lambda: False)
    with pytest.raises(InputError, match=r"pip install 'factorlm\[mauve\]'"):
        of.mauve(gaussians(40, 0, 0), gaussians(40, 0, 1))


@pytest.mark.parametrize(("num_human", "num_model"), [(30, 31), (19, 19)])
def test_sides_are_equal_and_large_enough(num_human: int, num_model: int) -> None:
    with pytest.raises(InputError, match="as many texts on both sides"):
        of.clustered_frontier_integral(gaussians(num_human, 0, 0), gaussians(num_model, 0, 1))


def test_halves_share_no_work() -> None:
    units = [f"work {i // 3}" for i in range(60)]
    seen: list[tuple[np.ndarray, np.ndarray]] = []

    def measure(a_BD: np.ndarray, b_BD: np.ndarray, seed: int) -> float:
        seen.append((a_BD[:, 0], b_BD[:, 0]))
        return float(seed)

    numbers = np.arange(60.0)[:, None]
    found = of.between_halves(measure, numbers, numbers, units, seed=3)
    assert (found.value, found.low, found.n) == (5.0, None, 30)
    for a, b in seen:
        assert len(a) == len(b) == 30
        assert not {units[int(i)] for i in a} & {units[int(i)] for i in b}


def test_the_same_halves_for_every_model() -> None:
    units = list(range(50))
    rows: list[list[float]] = []

    def measure(a_BD: np.ndarray, b_BD: np.ndarray, seed: int) -> float:
        rows.append(a_BD[:, 0].tolist())
        return float(a_BD.mean() - b_BD.mean())

    numbers = np.arange(50.0)[:, None]
    first = of.closeness(measure, numbers, numbers, units)
    half = len(rows)
    of.closeness(measure, numbers, numbers + 1, units)
    assert rows[:half] == rows[half:]
    assert first.value == 0
    assert len(first.halves) == of.HALVES
    assert all(len(row) == 25 for row in rows[of.SEEDS : half])


def test_spread_of_halves_is_the_standard_error() -> None:
    difference = np.random.default_rng(0).normal(size=(400, 1))
    found = of.closeness(lambda a, b, seed: float(a.mean()), difference, difference, range(400))
    error = difference.std(ddof=1) / np.sqrt(400)
    assert 0.6 * error < found.halves.std(ddof=1) < 1.4 * error  # 20 halves: outside in 1 of 100 such tests


@pytest.mark.parametrize(
    ("n", "value", "verdict"),
    [(499, 0.5, "cannot rank"), (500, 0.5, "better"), (500, -0.5, "worse"), (500, 0.05, "no difference shown")],
)
def test_few_texts_rank_nothing(n: int, value: float, verdict: str) -> None:
    halves = np.random.default_rng(0).normal(0.5, 0.05, size=20)
    ours, theirs = Closeness(0.5 + value, halves, n), Closeness(0.5, halves - halves[::-1], n)
    found = of.comparison("MAUVE", ("a", ours), ("b", theirs), lower_is_better=False)
    assert found.verdict == verdict
    assert (found.reason != "") == (verdict == "cannot rank")
