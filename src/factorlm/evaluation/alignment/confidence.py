"""Confidence before and after tuning to preferences: calibration of next tokens, and one temperature against it."""

# Axes: G temperatures, N tokens, V vocabulary.

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat, PositiveInt, field_validator

from factorlm.algebra import LocalProduct, Power, pad_left, pad_right
from factorlm.evaluation.alignment.learned import digest, tuned_adapter
from factorlm.evaluation.alignment.sources import Divided
from factorlm.evaluation.calibration import calibration_error, with_interval
from factorlm.evaluation.document import Cell, Column, Section, Table
from factorlm.evaluation.intervals import Estimate
from factorlm.evaluation.part import Part
from factorlm.evaluation.workbench import Workbench
from factorlm.factors.adapter import ratio
from factorlm.factors.dpo import DpoSettings
from factorlm.factors.feedback import Pair
from factorlm.inference import Model
from factorlm.settings import Config

Array = NDArray[np.float64]
BATCH = 16
MODEL = "the model"
PLAIN, REPAIRED = "as it is", "at its own temperature"


class Confidence(Config):
    """Settings of the part.

    Attributes:
        texts: preferred wordings whose tokens are foretold, none of them learned from.
        exponents: of the tuned ratio.
        temperatures: that are tried on one half of the texts; the best is used on the other.
    """

    texts: Annotated[int, Field(ge=8)] = 80
    exponents: tuple[PositiveFloat, ...] = (1.0, 2.0, 4.0)
    temperatures: tuple[PositiveFloat, ...] = (0.7, 0.85, 1.0, 1.15, 1.3, 1.5, 2.0, 3.0)
    bins: PositiveInt = 15

    @field_validator("temperatures")
    @classmethod
    def _has_one(cls, temperatures: tuple[float, ...]) -> tuple[float, ...]:
        if 1.0 not in temperatures:
            raise ValueError("temperatures need 1.0 among them, where nothing is changed")
        return temperatures


def measure_confidence(
    bench: Workbench, model: Model, fingerprint: str, dpo: DpoSettings, divided: Divided, settings: Confidence
) -> Part:
    """Expected calibration error of the likeliest next token, by exponent of the tuned ratio."""
    lm = model.lm
    tuned = ratio("dpo", lm, tuned_adapter(bench, lm, divided.tuning, dpo))
    pairs = divided.unseen[: settings.texts]
    rows: list[tuple[Cell, ...]] = []
    measures: dict[str, dict[str, Estimate]] = {}
    for exponent in (0.0, *settings.exponents):
        key = {"what": "confidence", "model": fingerprint, "dpo": dpo.model_dump(mode="json"), "seed": bench.seed,
               "tuning": digest(divided.tuning), "pairs": digest(pairs), "exponent": exponent,
               "temperatures": list(settings.temperatures)}  # fmt: skip
        composed = model * Power(tuned, exponent) if exponent else model

        def foretell(composed: Model = composed) -> list[list[list[float]]]:
            return _foretold(bench, composed, pairs, settings.temperatures)

        hit_N, half_N, confidence_NG, nats_NG = _unpacked(bench.cache.get(key, foretell))
        test_N = half_N == 1
        best = int(nats_NG[~test_N].mean(0).argmin())
        at_one = settings.temperatures.index(1.0)
        found = [
            with_interval(
                lambda prob, hit: calibration_error(prob, hit, number=settings.bins),
                confidence_NG[test_N, g], hit_N[test_N], seed=bench.seed,
            )
            for g in (at_one, best)
        ]  # fmt: skip
        gap = float((confidence_NG[test_N, at_one] - hit_N[test_N]).mean())
        name = MODEL if not exponent else f"DPO, w={exponent:g}"
        measures[f"calibration error/{name}"] = {PLAIN: found[0], REPAIRED: found[1]}
        measures[f"overconfidence/{name}"] = {PLAIN: Estimate(value=gap, n=int(test_N.sum()))}
        rows.append((name, *found, settings.temperatures[best], gap, float(hit_N[test_N].mean())))
    table = Table(
        title="Confidence in the likeliest next token",
        columns=(Column(title="model"), Column(title="calibration error", form=".3f", best="low"),
                 Column(title="at one temperature", form=".3f", best="low"), Column(title="temperature", form=".2f"),
                 Column(title="confidence less share right", form="+.3f"), Column(title="share right", form=".1%")),
        rows=tuple(rows),
        note=f"Tokens of {len(pairs)} preferred wordings that nothing learned from; the temperature is the best of "
        "a grid for the likelihood of one half, the errors are of the other.",
    )  # fmt: skip
    first, last = rows[0], rows[-1]
    headline = (
        f"Calibration error of the next token: {first[1]} of the model, {last[1]} after {last[0]}, {last[2]} of that "
        f"at temperature {last[3]:g}."
    )
    return Part((Section(title="Confidence", blocks=(table,)),), measures, (headline,))


@torch.inference_mode()
def _foretold(
    bench: Workbench, model: Model, pairs: Sequence[Pair], temperatures: Sequence[float]
) -> list[list[list[float]]]:
    """Of each text, for each of its tokens: whether it was the likeliest, then confidences and nats by temperature."""
    lm, factor = model.lm, LocalProduct.of(model.factor)
    found: list[list[list[float]]] = []
    for start in range(0, len(pairs), BATCH):
        batch = pairs[start : start + BATCH]
        prefix_BT = pad_left([[*lm.start_ids, *lm.encode_text(pair.prompt)] for pair in batch])
        rows = [lm.encode_text(" " + pair.chosen) for pair in batch]
        texts: list[list[list[float]]] = [[] for _ in batch]
        for t, log_prob_BV in enumerate(factor.steps(prefix_BT, pad_right(rows))):
            for b, row in enumerate(rows):
                if t < len(row):
                    log_prob_V = log_prob_BV[b].double()
                    cooled_GV = torch.stack([(log_prob_V / heat).log_softmax(0) for heat in temperatures])
                    texts[b].append([float(int(log_prob_V.argmax()) == row[t]), *cooled_GV.amax(1).exp().tolist(),
                                     *(-cooled_GV[:, row[t]]).tolist()])  # fmt: skip
        found += texts
        bench.report("confidence", len(found), len(pairs))
    return found


def _unpacked(found: list[list[list[float]]]) -> tuple[Array, NDArray[np.intp], Array, Array]:
    table = np.array([token for text in found for token in text])
    half_N = np.array([i % 2 for i, text in enumerate(found) for _ in text])
    number = (table.shape[1] - 1) // 2
    return table[:, 0], half_N, table[:, 1 : number + 1], table[:, number + 1 :]
