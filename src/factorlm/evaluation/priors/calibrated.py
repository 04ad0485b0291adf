"""Whether next-token probabilities of a prior's mixture are right, beside those of single models."""

# Axes: C columns, M bins, N tokens, R resamples, U units (texts).

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from factorlm.evaluation.calibration import reliability_bins
from factorlm.evaluation.document import Cell, Column, Comparisons, Curve, Section, Series, Table
from factorlm.evaluation.intervals import Comparison, Estimate, adjusted, bootstrap, compare
from factorlm.evaluation.part import Part
from factorlm.evaluation.priors.likelihoods import BARE, MIXTURE, SINGLE
from factorlm.evaluation.priors.reading import Tokens

Array = NDArray[np.float64]
NUM_BINS = 10
ERROR, BRIER, NATS = "calibration error", "Brier score", "nats per token"


def gaps_of(texts: Sequence[Tokens], num_bins: int = NUM_BINS) -> Array:
    """Of each text, the sum of probability minus hit of its likeliest tokens in each bin, and its tokens, [U, M + 1].

    Bins hold equal numbers of all texts' tokens.
    """
    top_N = np.concatenate([text.top_T for text in texts])
    bin_N = top_N.argsort(kind="stable").argsort() * num_bins // len(top_N)
    gap_N = top_N - np.concatenate([text.hit_T for text in texts])
    length_U = [text.num_tokens for text in texts]
    found_UC = np.zeros((len(texts), num_bins + 1))
    np.add.at(found_UC, (np.arange(len(texts)).repeat(length_U), bin_N), gap_N)
    found_UC[:, -1] = length_U
    return found_UC


def error_of(mean_RC: Array) -> Array:
    """Expected calibration error from means of `gaps_of`, [R]."""
    return np.asarray(np.abs(mean_RC[:, :-1]).sum(1) / mean_RC[:, -1])


def measure_calibration(readings: dict[str, Sequence[Tokens]], seed: int) -> Part:
    """Calibration error, Brier score and likelihood of next tokens.

    Args:
        readings: of the same texts, by model; the mixture, one model and the bare model.
        seed: of the resampling.
    """
    gaps = {way: gaps_of(texts) for way, texts in readings.items()}
    sums = {
        title: {way: _sums(texts, title) for way, texts in readings.items()} for title in (BRIER, NATS)
    }  # fmt: skip
    measures: dict[str, dict[str, Estimate]] = {
        ERROR: {way: _with_value(bootstrap(gaps_UC, error_of, seed=seed)) for way, gaps_UC in gaps.items()},
        BRIER: {way: bootstrap(sums_UC, _ratio, seed=seed) for way, sums_UC in sums[BRIER].items()},
    }
    rivals = [way for way in readings if way != MIXTURE]
    width = NUM_BINS + 1
    differences = {
        rival: _with_value(
            bootstrap(
                np.concatenate([gaps[MIXTURE], gaps[rival]], 1),
                lambda mean_RC: error_of(mean_RC[:, :width]) - error_of(mean_RC[:, width:]),
                seed=seed,
            )
        )
        for rival in rivals
    }
    measures["calibration error, mixture minus"] = differences
    comparisons = adjusted(
        [
            compare(BRIER, (MIXTURE, sums[BRIER][MIXTURE]), (rival, sums[BRIER][rival]), statistic=_ratio,
                    lower_is_better=True, seed=seed)
            for rival in rivals
        ]
    )  # fmt: skip
    return Part(
        sections=(_section(readings, measures, sums, differences, comparisons, seed),),
        measures=measures,
        headlines=(_headline(measures, differences),),
        cautions=(
            "Calibration is that of the likeliest next token, in bins of equal number, and is above zero by chance "
            "even where nothing is wrong; intervals are over texts.",
        ),
    )


def _section(
    readings: dict[str, Sequence[Tokens]],
    measures: dict[str, dict[str, Estimate]],
    sums: dict[str, dict[str, Array]],
    differences: dict[str, Estimate],
    comparisons: Sequence[Comparison],
    seed: int,
) -> Section:
    series = []
    for way, texts in readings.items():
        bins = reliability_bins(
            np.concatenate([text.top_T for text in texts]), np.concatenate([text.hit_T for text in texts]),
            number=NUM_BINS,
        )  # fmt: skip
        series.append(Series(name=way, x=tuple(bins.confidence_M.tolist()), y=tuple(bins.hit_M.tolist())))
    right = Series(name="right", x=(0.0, 1.0), y=(0.0, 1.0), is_reference=True)
    picture = Curve(
        title="Reliability of the likeliest next token",
        x_label="probability given to it",
        y_label="share of tokens that were it",
        series=(*series, right),
        is_percent=True,
        note="Below the diagonal, the model is too sure.",
    )
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (
            way,
            measures[ERROR][way],
            differences.get(way),
            measures[BRIER][way],
            bootstrap(sums[NATS][way], _ratio, seed=seed),
        )
        for way in readings
    )
    columns = (
        Column(title="model"),
        Column(title=ERROR, form=".3f", best="low"),
        Column(title="the mixture's minus this", form="+.3f"),
        Column(title=BRIER, form=".3f", best="low"),
        Column(title=NATS, form=".3f", best="low"),
    )
    lead = (
        "At each token of the held-out texts, the probability of the likeliest next token is compared with how often "
        "it came, in ten bins; the mixture's next token weighs components by their posterior given the text so far. "
        "The Brier score is of all tokens of the vocabulary."
    )
    blocks = (
        picture,
        Table(title="Next tokens", columns=columns, rows=rows),
        Comparisons(title="The mixture against the others", rows=tuple(comparisons)),
    )
    return Section(title="Calibration of next tokens", lead=lead, blocks=blocks)


def _sums(texts: Sequence[Tokens], title: str) -> Array:
    """Sum over tokens and number of tokens of each text, [U, 2]."""
    of = {BRIER: lambda text: text.brier_T.sum(), NATS: lambda text: text.nats}[title]
    return np.array([[of(text), text.num_tokens] for text in texts], float)


def _with_value(found: Estimate) -> Estimate:
    """The interval stretched to its value: resampling adds scatter, and a mean gap grows with it."""
    if found.value is None or found.low is None or found.high is None:
        return found
    return found.model_copy(update={"low": min(found.low, found.value), "high": max(found.high, found.value)})


def _ratio(mean_RC: Array) -> Array:
    return np.asarray(mean_RC[:, 0] / mean_RC[:, 1])


def _headline(measures: dict[str, dict[str, Estimate]], differences: dict[str, Estimate]) -> str:
    found, difference = measures[ERROR], differences[SINGLE]
    if difference.low is None or difference.high is None or difference.low <= 0 <= difference.high:
        verdict = "no difference shown from"
    else:
        verdict = "better calibrated than" if difference.high < 0 else "worse calibrated than"
    return (
        f"The mixture's next tokens have a calibration error of {found[MIXTURE]}, {verdict} one model of as many "
        f"trained numbers ({found[SINGLE]}); the bare model has {found[BARE]}."
    )
