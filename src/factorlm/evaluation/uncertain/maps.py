"""Maps from confidence to the chance of being right: fitted, cross-fitted, and kept for `factorlm ask`."""

# Axes: B answers.

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from factorlm.evaluation.calibration import auroc, fit_isotonic, fit_platt, fit_temperature, squared_calibration_error
from factorlm.evaluation.uncertain.graded import Graded
from factorlm.evaluation.workbench import Workbench
from factorlm.inference.expression import Composed
from factorlm.inference.uncertainty import ESTIMATORS, Asking, Map, Recalibration
from factorlm.inference.uncertainty.known import folds_of
from factorlm.inference.uncertainty.recalibration import SHARPEST, identity_of, own_folder

Array = NDArray[np.float64]
METHODS = ("temperature", "platt", "isotonic")
KEPT = "platt"  # what `factorlm ask` uses: two numbers, which a few hundred answers can bear
FOLDS = 5


def fit_map(method: str, estimator: str, confidence_B: Array, right_B: Array) -> Map:
    """The map of a method that fits outcomes best.

    Args:
        method: of METHODS.
        estimator: whose confidences these are.
        confidence_B: of each answer.
        right_B: 1 or 0.
    """
    if method == "platt":
        slope, offset = fit_platt(confidence_B, right_B)
        return Map(method="platt", slope=max(0.0, slope), offset=offset)
    if method == "isotonic":
        x = np.unique(confidence_B)
        y = fit_isotonic(confidence_B, right_B)(x)
        return Map(method="isotonic", x=tuple(x.tolist()), y=tuple(np.maximum.accumulate(y).tolist()))
    raw_B = np.array([ESTIMATORS[estimator].raw_probability(c) for c in confidence_B]).clip(SHARPEST, 1 - SHARPEST)
    logit_B2 = np.stack([np.log(raw_B / (1 - raw_B)), np.zeros(len(raw_B))], 1)
    return Map(method="temperature", temperature=fit_temperature(logit_B2, 1 - right_B))


def cross_mapped(
    method: str, estimator: str, confidence_B: Array, right_B: Array, groups: Sequence[object], seed: int
) -> Array:
    """Chances [B], each from a map that was fitted without the answers of its group."""
    fold_B = folds_of(groups, FOLDS, seed)
    prob_B = np.zeros(len(right_B))
    for fold in range(FOLDS):
        out_B = fold_B == fold
        fitted = fit_map(method, estimator, confidence_B[~out_B], right_B[~out_B])
        prob_B[out_B] = fitted.probabilities(estimator, confidence_B[out_B])
    return prob_B


def calibration_gap(prob_B: Array, right_B: Array) -> float:
    """Debiased calibration error: the root of the squared one less its scatter, 0 where that is below 0."""
    found = squared_calibration_error(prob_B, right_B)
    return math.nan if math.isnan(found) else math.sqrt(max(0.0, found))


def keep(
    bench: Workbench, composed: Composed, found: Graded, confidences: dict[str, Array], asking: Asking, folder: str
) -> Path | None:
    """Write the recalibration file of a composition; None where nothing is kept.

    Args:
        bench: a cache that keeps nothing keeps no file either.
        composed: that answered.
        found: its graded answers.
        confidences: by estimator.
        asking: how it was asked.
        folder: where; empty for the user's own.
    """
    right_B = found.right_B
    if bench.cache.folder is None or right_B.min() == right_B.max():
        return None
    maps = {}
    for name, confidence_B in confidences.items():
        prob_B = cross_mapped(KEPT, name, confidence_B, right_B, found.groups, bench.seed)
        fitted = fit_map(KEPT, name, confidence_B, right_B)
        measured = {"error": calibration_gap(prob_B, right_B), "auroc": auroc(confidence_B, right_B)}
        maps[name] = fitted.model_copy(update={k: None if math.isnan(v) else v for k, v in measured.items()})
    file = Recalibration(
        expression=composed.expression,
        identity=identity_of(composed),
        questions=found.name,
        number=len(right_B),
        accuracy=float(right_B.mean()),
        asking=asking.model_dump(mode="json"),
        maps=maps,
    )
    path = (Path(folder) if folder else own_folder()) / f"{file.identity}.json"
    file.save(path)
    return path
