"""Estimators against right and wrong answers: ranking, abstaining, calibration, in tables and pictures."""

# Axes: B answers.

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from factorlm.evaluation.calibration import (
    area_under_risk_coverage,
    auroc,
    brier,
    rejection_ratio,
    reliability_bins,
    risk_coverage,
    with_interval,
)
from factorlm.evaluation.document import Block, Cell, Column, Curve, Series, Table
from factorlm.evaluation.intervals import Estimate
from factorlm.evaluation.uncertain.graded import Graded
from factorlm.evaluation.uncertain.maps import METHODS, calibration_gap, cross_mapped
from factorlm.inference.uncertainty import ESTIMATORS, Tools

Array = NDArray[np.float64]
RESAMPLES = 1000
FEWEST = 3  # right ones, and wrong ones, below which nothing is said of ranks
Measures = dict[str, dict[str, Estimate]]


def confidences_of(found: Graded, names: Sequence[str], tools: Tools) -> dict[str, Array]:
    """The confidence of each answer by each estimator, [B]."""
    return {name: np.array([ESTIMATORS[name].confidence(e, tools) for e in found.evidence]) for name in names}


def ranked(label: str, found: Graded, confidences: dict[str, Array], seed: int) -> tuple[Block | None, Measures]:
    """A table of how well confidences rank right answers before wrong ones; None where one kind is too rare.

    Args:
        label: of the set and model, in the names of measures.
        found: graded answers.
        confidences: by estimator.
        seed: of resampling.
    """
    right_B = found.right_B
    if min(right_B.sum(), (1 - right_B).sum()) < FEWEST:
        return None, {}
    rows: list[tuple[Cell, ...]] = []
    measures: Measures = {}
    for name, confidence_B in confidences.items():
        values = {
            "AUROC": with_interval(auroc, confidence_B, right_B, seed=seed, resamples=RESAMPLES),
            "PRR": with_interval(rejection_ratio, confidence_B, 1 - right_B, seed=seed, resamples=RESAMPLES),
            "AURC": with_interval(area_under_risk_coverage, confidence_B, 1 - right_B, seed=seed, resamples=RESAMPLES),
        }
        for measure, value in values.items():
            measures.setdefault(f"{measure}, {label}", {})[name] = value
        rows.append((ESTIMATORS[name].title, *values.values()))
    columns = (
        Column(title="estimator"),
        Column(title="AUROC", form=".3f", best="high"),
        Column(title="PRR", form=".3f", best="high"),
        Column(title="AURC", form=".3f", best="low"),
    )
    note = (
        f"{len(right_B)} questions, {right_B.mean():.0%} answered rightly. AUROC: chance that a right answer has more "
        "confidence than a wrong one, 0.5 for guessing. PRR: 1 rejects wrong answers first, 0 is chance. AURC: mean "
        f"error over all shares of answers kept; chance gives {1 - right_B.mean():.3f}."
    )
    return Table(title=f"Ranking: {label}", columns=columns, rows=tuple(rows), note=note), measures


def calibrated(label: str, found: Graded, confidences: dict[str, Array], seed: int) -> tuple[list[Block], Measures]:
    """Calibration before and after maps, each fitted without the answers that it is judged on."""
    right_B = found.right_B
    if min(right_B.sum(), (1 - right_B).sum()) < FEWEST:
        return [], {}
    rows: list[tuple[Cell, ...]] = []
    measures: Measures = {}
    series: list[Series] = [Series(name="calibrated", x=(0.0, 1.0), y=(0.0, 1.0), is_reference=True)]
    for name, confidence_B in confidences.items():
        raw_B = np.array([ESTIMATORS[name].raw_probability(c) for c in confidence_B])
        probs = {"raw": raw_B} | {
            method: cross_mapped(method, name, confidence_B, right_B, found.groups, seed) for method in METHODS
        }
        gaps = {
            how: with_interval(calibration_gap, p_B, right_B, seed=seed, resamples=200) for how, p_B in probs.items()
        }
        for how, gap in gaps.items():
            measures.setdefault(f"calibration error, {label}, {how}", {})[name] = gap
        rows.append((ESTIMATORS[name].title, *gaps.values(), brier(raw_B, right_B), brier(probs["platt"], right_B)))
        measures.setdefault(f"Brier score, {label}, platt", {})[name] = with_interval(
            brier, probs["platt"], right_B, seed=seed, resamples=200
        )
        if len(series) < 4:
            for how in ("raw", "platt"):
                bins = reliability_bins(probs[how], right_B)
                series.append(
                    Series(name=f"{ESTIMATORS[name].title}, {how}", x=tuple(bins.confidence_M.tolist()),
                           y=tuple(bins.hit_M.tolist()))
                )  # fmt: skip
    columns = (
        Column(title="estimator"),
        *(Column(title=how, form=".3f", best="low") for how in ("raw", *METHODS)),
        Column(title="Brier, raw", form=".3f", best="low"),
        Column(title="Brier, platt", form=".3f", best="low"),
    )
    base = float(right_B.mean())
    note = (
        "Debiased calibration error over bins of equal number; maps are fitted on four fifths of the questions and "
        f"judged on the last. Always saying {base:.2f} has error 0, ranks nothing, and a Brier score of "
        f"{base * (1 - base):.3f}."
    )
    table = Table(title=f"Calibration: {label}", columns=columns, rows=tuple(rows), note=note)
    picture = Curve(title=f"Reliability: {label}", x_label="stated chance", y_label="share right", series=tuple(series))
    return [table, picture], measures


def coverage_picture(label: str, found: Graded, confidences: dict[str, Array]) -> Curve:
    """Share of wrong answers among the most confident ones."""
    right_B = found.right_B
    series = []
    for name, confidence_B in confidences.items():
        coverage_B, risk_B = risk_coverage(confidence_B, 1 - right_B)
        step = max(1, len(coverage_B) // 40)
        first = min(len(coverage_B) - 1, 4)  # of the first few the share is all noise
        series.append(
            Series(name=ESTIMATORS[name].title, x=tuple(coverage_B[first::step].tolist()),
                   y=tuple(risk_B[first::step].tolist()))
        )  # fmt: skip
    level = float(1 - right_B.mean())
    series.append(Series(name="no confidence", x=(0.5,), y=(level,), is_reference=True))
    return Curve(title=f"Risk and coverage: {label}", x_label="share of answers kept", y_label="share of them wrong",
                 series=tuple(series), is_percent=True)  # fmt: skip
