"""Maps from confidence to chance, and temperature sensitivity, against what is known exactly."""

import itertools
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from factorlm.errors import IncompatibleError, InputError
from factorlm.evaluation.calibration import auroc, rejection_ratio
from factorlm.evaluation.uncertain.graded import Asked, Graded
from factorlm.evaluation.uncertain.maps import METHODS, calibration_gap, cross_mapped, fit_map, keep
from factorlm.evaluation.uncertain.temperature import rises, ties
from factorlm.evaluation.workbench import Cache, Workbench
from factorlm.inference.expression import Composed
from factorlm.inference.model import Model
from factorlm.inference.uncertainty import Answer, Asking, Evidence, Map, Query, found_for, read_recalibration
from factorlm.models import CausalLM


def answers(number: int, sharpness: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Log odds that are `sharpness` times too large, and outcomes."""
    generator = np.random.default_rng(seed)
    logit_B = generator.normal(0, 1.2, number)
    right_B = (generator.random(number) < 1 / (1 + np.exp(-logit_B))).astype(float)
    return sharpness * logit_B, right_B


def test_one_temperature_repairs_log_odds_that_are_twice_too_large() -> None:
    confidence_B, right_B = answers(8000, 2.0)
    assert fit_map("temperature", "p-true", confidence_B, right_B).temperature == pytest.approx(2.0, abs=0.1)
    raw_B = 1 / (1 + np.exp(-confidence_B))
    assert calibration_gap(raw_B, right_B) > 0.05
    for method in METHODS:
        prob_B = cross_mapped(method, "p-true", confidence_B, right_B, range(len(right_B)), 0)  # type: ignore[arg-type]
        assert calibration_gap(prob_B, right_B) < 0.03, method
    # A map with a rising slope ranks as before.
    slope = fit_map("platt", "p-true", confidence_B, right_B)
    assert slope.slope == pytest.approx(0.5, abs=0.05)
    mapped_B = [slope.probability("p-true", c) for c in confidence_B]
    assert auroc(mapped_B, right_B) == pytest.approx(auroc(confidence_B, right_B), abs=1e-12)


def test_cross_fitting_never_sees_an_answer_of_the_same_group() -> None:
    confidence_B, groups = np.arange(40.0), [i // 2 for i in range(40)]
    right_B = np.tile([0.0, 1.0], 20)
    changed_B = right_B.copy()
    changed_B[:2] = 1 - changed_B[:2]
    before, after = (cross_mapped("platt", "p-true", confidence_B, r, groups, 0) for r in (right_B, changed_B))
    assert before[:2].tolist() == after[:2].tolist()
    assert (before[2:] != after[2:]).any()


def test_oracle_and_chance_of_the_rejection_ratio() -> None:
    right_B = np.array([1.0, 0, 1, 1, 0, 0, 1, 0] * 50)
    assert rejection_ratio(right_B, 1 - right_B) == pytest.approx(1.0)
    chance = [rejection_ratio(np.random.default_rng(s).random(400), 1 - right_B) for s in range(40)]
    assert abs(np.mean(chance)) < 0.05


def test_an_isotonic_map_must_rise() -> None:
    assert Map(method="isotonic", x=(0.0, 1.0), y=(0.2, 0.8)).probability("p-true", 0.5) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="rise"):
        Map(method="isotonic", x=(0.0, 1.0), y=(0.8, 0.2))
    with pytest.raises(ValueError, match="as many"):
        Map(method="isotonic", x=(0.0, 1.0), y=(0.8,))


def test_temperature_sensitivity_of_an_oracle_is_whole_and_of_shuffles_is_chance() -> None:
    generator = np.random.default_rng(0)
    logit_BV = generator.normal(0, 2, (400, 20))
    temperatures = (0.3, 0.7, 1.0, 1.4)

    def entropy(t: float) -> np.ndarray:
        p_BV = np.exp(logit_BV / t - np.logaddexp.reduce(logit_BV / t, axis=1, keepdims=True))
        return -(p_BV * np.log(p_BV)).sum(1)

    oracle_BQ = np.stack([entropy(t) for t in temperatures], 1)
    assert rises(oracle_BQ).mean() == 1.0
    for q in (2, 3, 4):
        shuffled_BQ = generator.permuted(oracle_BQ[:, :q], axis=1)
        chance = 1 / math.factorial(q)
        assert abs(rises(shuffled_BQ).mean() - chance) < 3 * math.sqrt(chance * (1 - chance) / 400)
    orders = np.array(list(itertools.permutations(range(4))), float)
    assert rises(orders).sum() == 1  # one of all 24
    tied = np.zeros((5, 3))
    assert rises(tied).sum() == 0
    assert ties(tied) == 1.0


@pytest.fixture
def kept(tiny_lm: CausalLM, tmp_path: Path) -> tuple[Composed, Path]:
    """A recalibration file of the tiny model."""
    parts = ({"name": "tiny", "kind": "model", "version": "float32", "fingerprint": tiny_lm.fingerprint},)
    composed = Composed("tiny", Model(tiny_lm, tiny_lm), parts, "0")
    confidence_B, right_B = answers(60, 2.0)
    asked = tuple(Asked(Query(f"q{i}"), lambda text: text == "right", f"q{i}") for i in range(60))
    evidence = tuple(Evidence(f"q{i}", Answer("right" if r else "wrong", -1.0, 1)) for i, r in enumerate(right_B))
    bench = Workbench((composed,), None, Cache(tmp_path), lambda *_: None)  # type: ignore[arg-type]
    path = keep(bench, composed, Graded("sixty", asked, evidence), {"p-true": confidence_B}, Asking(), str(tmp_path))
    assert path is not None
    return composed, path


def test_a_recalibration_is_found_again_and_refused_for_another_model(kept: tuple[Composed, Path]) -> None:
    composed, path = kept
    found = found_for(composed, [path.parent])
    assert found == read_recalibration(path)
    assert found is not None
    assert found.number == 60
    assert found.maps["p-true"].method == "platt"
    found.check(composed)
    other = replace(composed, parts=({**composed.parts[0], "fingerprint": "f" * 16},))
    assert found_for(other, [path.parent]) is None
    with pytest.raises(IncompatibleError, match="was fitted to tiny"):
        found.check(other)


def test_a_file_that_is_no_recalibration_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "maps.json"
    with pytest.raises(InputError, match="recalibration file is needed"):
        read_recalibration(path)
    path.write_text('{"format": 1}')
    with pytest.raises(InputError, match="cannot be used"):
        read_recalibration(path)


def test_nothing_is_kept_where_all_answers_are_wrong(kept: tuple[Composed, Path], tmp_path: Path) -> None:
    composed, _ = kept
    asked = (Asked(Query("q"), lambda text: False, "q"),)
    found = Graded("one", asked, (Evidence("q", Answer("wrong", -1.0, 1)),))
    bench = Workbench((composed,), None, Cache(tmp_path), lambda *_: None)  # type: ignore[arg-type]
    assert keep(bench, composed, found, {"p-true": np.zeros(1)}, Asking(), str(tmp_path / "none")) is None
    assert not (tmp_path / "none").exists()
