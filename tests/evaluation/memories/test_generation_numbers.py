"""Numbers of the part `generation` against cases worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from factorlm.evaluation.intervals import Estimate
from factorlm.evaluation.memories.generation_entropy import relative_drift
from factorlm.evaluation.memories.generation_gains import Gains, concentration, is_first_piece
from factorlm.evaluation.memories.generation_nearness import Near
from factorlm.evaluation.memories.generation_observed import divergence
from factorlm.text import Vocabulary


def test_divergence_counts_what_only_the_teacher_says() -> None:
    teacher_BV = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 0.0]]).log()
    other_BV = torch.tensor([[0.25, 0.25, 0.5], [0.2, 0.3, 0.5]]).log()
    assert divergence(teacher_BV, other_BV).tolist() == pytest.approx([np.log(2), 0.0])
    assert divergence(teacher_BV[:1], torch.tensor([[1.0, 0.0, 0.0]]).log()).tolist() == [np.inf]


def test_concentration_by_hand() -> None:
    """Forty gaining things: the twentieth of them are two, with 10 + 9 of 19 + 38 nats."""
    gain_T = [np.array([10.0, -5.0, *[1.0] * 19]), np.array([9.0, 0.0, *[1.0] * 19])]
    assert concentration(gain_T, 0).value == pytest.approx(19 / 57)
    assert concentration([-np.ones(3), np.zeros(0)], 0).value is None
    whole = concentration(gain_T * 10, 0)
    assert whole.low is not None
    assert whole.high is not None
    assert whole.low <= 19 / 57 <= whole.high
    assert whole.n == 20


def test_gains_by_hand() -> None:
    gains = Gains([np.array([1.0, -0.5, 0.0]), np.array([0.25])], [np.array([2.0, 1.0, 3.0]), np.array([2.0])])
    assert gains.mean(0).value == pytest.approx(0.75 / 4)
    assert gains.nats(0).value == pytest.approx(2)
    assert (gains.won(0).value, gains.lost(0).value) == (0.5, 0.25)
    part = gains.where([np.array([True, False, True]), np.array([False])])
    assert part.number_D.tolist() == [2, 0]
    assert part.mean(0).value == pytest.approx(0.5)


def test_pieces_begin_behind_white_space() -> None:
    vocabulary = Vocabulary((b"ab", b" c", b"d", b" ", b"\n", b""), (5,))
    got = is_first_piece([0, 2, 1, 2, 3, 2, 4, 0], vocabulary)
    assert got.tolist() == [True, False, True, False, True, True, True, True]
    assert is_first_piece([], vocabulary).tolist() == []


def test_texts_improve_only_where_the_control_does() -> None:
    better = Estimate(value=0.1, low=0.02, high=0.2)
    assert Near("MAUVE", difference={"kNN": better}, has_power=True).improves("kNN") is True
    assert Near("frontier integral", difference={"kNN": better}, has_power=True).improves("kNN") is False
    assert Near("MAUVE", difference={"kNN": better}, has_power=False).improves("kNN") is None
    worse = Estimate(value=-0.1, low=-0.2, high=-0.02)
    assert Near("MAUVE", difference={"kNN": worse}, has_power=None).improves("kNN") is False
    unclear = Estimate(value=0.1, low=-0.2, high=0.3)
    assert Near("MAUVE", difference={"kNN": unclear}, has_power=True).improves("kNN") is False
    assert Near("MAUVE", difference={"kNN": unclear}, has_power=False).improves("kNN") is None
    assert Near("MAUVE", difference={"kNN": Estimate(value=0.1)}, has_power=True).improves("kNN") is None


def test_relative_drift_by_hand() -> None:
    """Slopes 3 and 1 of the memory, 2 and 1 of the model: (3 - 1) / (2 - 1)."""

    def rising(slope: float) -> list[np.ndarray[tuple[int], np.dtype[np.float64]]]:
        return [n + slope * np.arange(12) / 100 for n in range(9)]

    units = [str(n) for n in range(9)]
    found = relative_drift((rising(3), rising(1)), (rising(2), rising(1)), units, 0)
    assert found.value == pytest.approx(2)
    assert relative_drift((rising(3), rising(1)), (rising(1), rising(1)), units, 0).value is None or found.n == 9
