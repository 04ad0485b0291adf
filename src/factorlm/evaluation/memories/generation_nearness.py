"""How near written texts come to human ones, and whether the measure could see it: a control half of human texts."""

# Axes: B texts, D width of a sentence vector.

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factorlm.evaluation import mauve
from factorlm.evaluation.continuations import Variety
from factorlm.evaluation.document import Cell, Column, Table
from factorlm.evaluation.intervals import Estimate
from factorlm.evaluation.memories.generation_mixtures import MODEL
from factorlm.evaluation.workbench import Workbench
from factorlm.models.fetch import MODELS

Array = NDArray[np.float64]
ENCODED_TOGETHER = 128
OTHERS, CONTROL = "other human text", "model, half of it human"


def sentence_vectors(bench: Workbench, texts: list[str]) -> Array:
    """Of length one; the encoder is neither what writes nor what keys are made by."""
    bench.judges_used["minilm"] = MODELS["minilm"].wheels[0].sha256[:16]

    def work(batch: list[str]) -> list[list[float]]:
        from factorlm.models.sentences import load_sentence_encoder

        return [[round(v, 6) for v in row] for row in load_sentence_encoder().encode(batch).tolist()]

    key = {"what": "sentence vectors", "encoder": bench.judges_used["minilm"]}
    vector_BD = np.array(bench.in_batches("sentence vectors", key, texts, ENCODED_TOGETHER, work))
    return np.asarray(vector_BD / np.linalg.norm(vector_BD, axis=1, keepdims=True))


@dataclass(frozen=True, eq=False)
class Near:
    """How near texts come to human ones.

    Attributes:
        measure: by which, "MAUVE" or, without its package, the frontier integral, which is small where texts are near.
        of: each writer, other human text and the control.
        difference: of each mixture, and of the control, from the model.
        has_power: whether the control is seen to be nearer than the model; None where texts are too few to tell.
        n: texts a side.
    """

    measure: str
    of: dict[str, mauve.Closeness] = field(default_factory=dict)
    difference: dict[str, Estimate] = field(default_factory=dict)
    has_power: bool | None = None
    n: int = 0

    @property
    def lower_is_better(self) -> bool:
        """Whether a smaller number is nearer."""
        return self.measure != "MAUVE"

    def improves(self, name: str) -> bool | None:
        """Whether a mixture's texts are nearer than the model's; None where that cannot be told."""
        found = self.difference.get(name)
        if found is None or found.low is None or found.high is None:
            return None
        is_better, is_worse = found.low > 0, found.high < 0
        if self.lower_is_better:
            is_better, is_worse = is_worse, is_better
        return False if is_worse else is_better if self.has_power else None


def nearness(bench: Workbench, writers: Sequence[str], others: Sequence[str], found: Sequence[Variety]) -> Near:
    """Nearness of each writer, of other human text, and of the model's texts where half are replaced by human ones.

    Args:
        bench: cache and seed.
        writers: their names, the model first.
        others: what people wrote after other prompts, cut as all texts are.
        found: measures of each writer, and of human text last, over the same prompts; none where no prompt is kept.
    """
    measure = "MAUVE" if mauve.is_installed() else "frontier integral"
    n = len(found[-1].unit_P) if found else 0
    if n < mauve.FEWEST_TEXTS:
        return Near(measure, n=n)
    human_BD, units = found[-1].vector_SPD[0], found[-1].unit_P
    vectors = {name: variety.vector_SPD[0] for name, variety in zip(writers, found, strict=False)}
    control_BD = vectors[MODEL].copy()
    control_BD[1::2] = human_BD[1::2]
    vectors[CONTROL] = control_BD
    if len(others) >= n:
        vectors[OTHERS] = sentence_vectors(bench, list(others[:n]))
    of = {name: _closeness(bench, measure, human_BD, vector_BD, units) for name, vector_BD in vectors.items()}
    lower = measure != "MAUVE"
    difference = {
        name: mauve.comparison(measure, (name, one), (MODEL, of[MODEL]), lower_is_better=lower).difference
        for name, one in of.items()
        if name != MODEL
    }
    gain = difference[CONTROL]
    has_power = None
    if n >= 2 * mauve.FEWEST_TEXTS:
        has_interval = gain.low is not None and gain.high is not None  # none where nothing changes
        has_power = has_interval and bool((gain.high if lower else -gain.low) < 0)  # type: ignore[operator]
    return Near(measure, of, difference, has_power, n)


def _closeness(bench: Workbench, measure: str, human_BD: Array, vector_BD: Array, units: list[str]) -> mauve.Closeness:
    compute = mauve.mauve if measure == "MAUVE" else mauve.clustered_frontier_integral

    def work() -> dict[str, Any]:
        found = mauve.closeness(compute, human_BD, vector_BD, units, seed=bench.seed)
        return {"value": found.value, "halves": found.halves.tolist(), "n": found.n}

    digests = [hashlib.sha256(np.ascontiguousarray(x).tobytes()).hexdigest() for x in (human_BD, vector_BD)]
    key = {"what": "closeness", "measure": measure, "vectors": digests, "units": units, "seed": bench.seed}
    found = bench.cache.get(key, work)
    return mauve.Closeness(found["value"], np.array(found["halves"], float), found["n"])


def nearness_table(near: Near) -> Table:
    """Each with its difference from the model."""
    rows: list[tuple[Cell, ...]] = [
        (name, of.estimate, near.difference.get(name)) for name, of in near.of.items()
    ]  # fmt: skip
    columns = (Column(title="texts of"), Column(title=near.measure, form=".3f"),
               Column(title="less that of the model", form="+.3f"))  # fmt: skip
    return Table(
        title=f"Nearness to human text: {near.measure}", columns=columns, rows=tuple(rows),
        note=f"{near.n} texts a side in {mauve.num_clusters(near.n)} clusters, mean over {mauve.SEEDS} seeds; "
        f"differences are paired over {mauve.HALVES} random halves of the prompts. In the control every other text of "
        "the model is replaced by what people wrote after the same prompt: if that does not show, nothing can. Other "
        "human text continues other prompts, which alone sets it apart.",
    )  # fmt: skip
