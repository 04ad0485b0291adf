"""Whether memories grow unsure along texts that were written with them: entropies against position, and their drift."""

# Axes: B texts, R resamples, T time, U units.

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from factorlm.evaluation import likelihood
from factorlm.evaluation.continuations import by_unit
from factorlm.evaluation.document import Cell, Column, Curve, Section, Series, Table
from factorlm.evaluation.generated import HUMAN
from factorlm.evaluation.intervals import Estimate, bootstrap
from factorlm.evaluation.memories.generation_mixtures import MODEL, Mixed
from factorlm.evaluation.memories.generation_observed import Array, Observed
from factorlm.evaluation.memories.generation_texts import Texts
from factorlm.evaluation.part import Part

BINS = 8  # of positions in the picture
PER_TOKENS = 100  # that slopes are about


def relative_drift(
    memory: tuple[Sequence[Array], Sequence[Array]], model: tuple[Sequence[Array], Sequence[Array]],
    units: Sequence[str], seed: int,
) -> Estimate:  # fmt: skip
    """Slope of a memory's entropy on written text less that on human text, over the same of the model's.

    A quotient whose divisor may be near zero: its interval may be of any width.

    Args:
        memory: entropies before each token of written and of human texts.
        model: the same of the model's distribution.
        units: of the texts, in the same order on both sides.
        seed: of the interval.
    """
    columns = np.concatenate([_moments(entropy, units) for pair in (memory, model) for entropy in pair], 1)

    def statistic(mean_RC: Array) -> Array:
        own, human, model_own, model_human = (_slope(part) for part in np.split(mean_RC, 4, axis=1))
        with np.errstate(divide="ignore", invalid="ignore"):
            quotient_R = (own - human) / (model_own - model_human)
        return np.where(np.isfinite(quotient_R), quotient_R, np.nan)

    return bootstrap(columns, statistic, seed=seed)


def _moments(entropy: Sequence[Array], units: Sequence[str]) -> Array:
    rows = []
    for entropy_T in entropy:
        time_T = np.arange(1, len(entropy_T) + 1) / PER_TOKENS
        rows.append([len(time_T), time_T.sum(), entropy_T.sum(), (time_T**2).sum(), (time_T * entropy_T).sum()])
    return by_unit(np.array(rows, float).reshape(-1, 5), units)


def _slope(mean_R5: Array) -> Array:
    number, time, entropy, square, product = mean_R5.T
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((number * product - time * entropy) / (number * square - time**2))


def along_texts(texts: Texts, mixed: Mixed, num_tokens: int, seed: int) -> Part:
    """Slopes and drifts of each memory's entropy and of the model's, on human text and on what was written.

    Args:
        texts: of all writers.
        mixed: whose memories were asked.
        num_tokens: most tokens of a text.
        seed: of the intervals.
    """
    units = texts.units
    rows: list[tuple[Cell, ...]] = []
    keys = ("mean entropy", "slope of entropy", "drift of entropy", "drift over that of the model")
    measures: dict[str, dict[str, Estimate]] = {f"generation, {key}": {} for key in keys}
    series, lines = [], []
    human = texts.observed[HUMAN]
    for memory in ("", *mixed.memories):
        who = memory or MODEL
        for writer in (HUMAN, *(w for w in texts.samples if _concerns(mixed, memory, w))):
            own = texts.observed[writer]
            found = _entropies(own, memory)
            label = f"{who} on {HUMAN}" if writer == HUMAN else f"{who} on texts of {writer}"
            told: list[Estimate | None] = [
                likelihood.mean_entropy(found, units, seed), likelihood.entropy_slope(found, units, seed), None, None
            ]  # fmt: skip
            if writer != HUMAN:
                told[2] = likelihood.entropy_drift(found, _entropies(human, memory), units, seed)
                if memory:
                    pairs = [(_entropies(own, m), _entropies(human, m)) for m in (memory, "")]
                    told[3] = relative_drift(pairs[0], pairs[1], units, seed)
            rows.append((label, *told))
            for key, estimate in zip(keys, told, strict=True):
                if estimate is not None:
                    measures[f"generation, {key}"][label] = estimate
            x, y = likelihood.entropy_by_position(found, units, num_tokens, BINS, seed)
            series.append(Series(name=label, x=x, y=y, is_reference=writer == HUMAN))
            if memory and writer == memory:
                lines.append(_line(memory, told[2], measures["generation, drift of entropy"].get(
                    f"{MODEL} on texts of {writer}")))  # fmt: skip
    columns = (
        Column(title="distribution and text"), Column(title="mean entropy, nats", form=".2f"),
        Column(title=f"slope, nats per {PER_TOKENS} tokens", form="+.2f"), Column(title="drift", form="+.2f"),
        Column(title="drift over that of the model", form=".2f"),
    )  # fmt: skip
    table = Table(
        title="Entropy along texts", columns=columns, rows=tuple(rows),
        note="Slopes by least squares over all tokens; drift is the slope on written texts less that on human text, "
        "paired by document; intervals resample documents. The last column divides by a number that may be near zero.",
    )  # fmt: skip
    curve = Curve(title="Entropy by position", x_label="tokens into the continuation", y_label="entropy, nats",
                  series=tuple(series), note="Of each distribution alone, before temperature and nucleus.")  # fmt: skip
    lead = "Whether what is looked up grows vaguer on a mixture's own texts than on human ones, more than the model."
    return Part((Section(title="Entropy along texts", lead=lead, blocks=(table, curve)),), measures, tuple(lines))


def _concerns(mixed: Mixed, memory: str, writer: str) -> bool:
    """Whether a writer is the model alone, or a mixture with this memory; every writer concerns the model."""
    return not memory or writer == MODEL or mixed.mixtures[writer].memory == memory


def _entropies(observed: Sequence[Observed], memory: str) -> list[Array]:
    return [(o.memories[memory] if memory else o.model).entropy_T for o in observed]


def _line(memory: str, drift: Estimate | None, of_model: Estimate | None) -> str:
    assert drift is not None
    if drift.low is None or drift.high is None or drift.low <= 0 <= drift.high:
        way = "does not measurably drift"
    else:
        way = "rises" if drift.low > 0 else "falls"
    than = f", that of the model by {of_model}" if of_model is not None else ""
    return (
        f"The entropy of {memory} {way} along texts that it helped to write, compared with human text (by {drift} nats "
        f"per {PER_TOKENS} tokens{than})."
    )
