"""Subjects that are the first token of a text: where ROME's denominator shrinks and its change blows up.

Source: Yang et al. (2024), The fall of ROME, arXiv:2406.11263.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from factorlm.evaluation.document import Cell, Column, Section, Table
from factorlm.evaluation.edited.cases import Case
from factorlm.evaluation.edited.ground import Ground, probed
from factorlm.evaluation.edited.singles import Row, column
from factorlm.evaluation.edited.ways import C_ROME, ROME, Doses, relative_norm, written
from factorlm.evaluation.intervals import Estimate, bootstrap, mean_interval
from factorlm.evaluation.part import Part
from factorlm.evaluation.workbench import Workbench
from factorlm.models.editing.guard import COLLAPSE

Reading = Literal["bare", "behind the start token"]
BARE: Reading = "bare"
WITH_START: Reading = "behind the start token"
HARD, ORDINARY = "subject of one token, first", "subject of several tokens, first"
WAYS = (ROME, C_ROME)


def hard_rows(
    bench: Workbench, ground: Ground, cases: Mapping[str, Sequence[Case]], readings: Sequence[str], doses: Doses
) -> dict[tuple[str, str, str], list[Row]]:
    """What was measured by kind of subject, way and reading, case by case.

    Args:
        bench: whose cache is used.
        ground: where.
        cases: of `HARD` and `ORDINARY` subjects.
        readings: `BARE`, prompts without a start token as in the source, or `WITH_START`.
        doses: of the closed forms.
    """
    found: dict[tuple[str, str, str], list[Row]] = {}
    for reading in readings:
        value = doses.edit.value.model_copy(update={"with_start": reading == WITH_START})
        chosen = doses.model_copy(update={"edit": doses.edit.model_copy(update={"value": value})})
        for kind, some in cases.items():
            for way in WAYS:
                rows = found[kind, way, reading] = []
                for n, case in enumerate(some):
                    key = {"what": "first token", **ground.key, "way": way, "reading": reading,
                           "fact": case.fact.model_dump()}  # fmt: skip
                    rows.append(bench.cache.get(key, functools.partial(_row, ground, way, case, chosen)))
                    bench.report(f"first tokens: {way}, {reading}"[:40], n + 1, len(some))
    return found


def _row(ground: Ground, way: str, case: Case, doses: Doses) -> Row:
    lm, change, denominator = written(ground, ground.model.lm, way, [case.fact], doses)
    model, with_start = ground.over(lm), doses.edit.value.with_start
    behind = ground.prefixes[0] if ground.prefixes else ""
    return {
        "norm": relative_norm(ground.model.lm, change), "denominator": denominator,
        "ratio": math.exp(min(50.0, ground.nats(model) - ground.base_nats)),
        "efficacy": probed(model, case, with_start=with_start)["efficacy"],
        "prefixed": probed(model, case, before=behind, with_start=with_start)["efficacy"],
    }  # fmt: skip


def median_ratio(high: Sequence[Row], low: Sequence[Row], name: str, *, seed: int) -> Estimate:
    """Ratio of geometric means of one number of two groups, with its interval over cases of the first against both.

    The groups are resampled together, pair by pair, in the order in which they came.
    """
    number = min(len(high), len(low))
    logs_UC = np.log(np.stack([column(high, name)[:number], column(low, name)[:number]], 1))
    return bootstrap(logs_UC, lambda mean_RC: np.exp(mean_RC[:, 0] - mean_RC[:, 1]), seed=seed)


def hard_part(bench: Workbench, ground: Ground, rows: Mapping[tuple[str, str, str], Sequence[Row]]) -> Part:
    """Table and numbers."""
    columns = (
        Column(title="subject"), Column(title="way"), Column(title="read"),
        Column(title="‖ΔW‖/‖W‖, median", form=".3f"),
        Column(title="largest", form=".3f"), Column(title="|denominator|, median", form=".3g"),
        Column(title="perplexity ratio, median", form=".2f"), Column(title="largest", form=".2f"),
        Column(title=f"over {COLLAPSE:g}", form=".0%"), Column(title="efficacy", form=".0%"),
        Column(title="behind a prefix", form=".0%"),
    )  # fmt: skip
    cells: list[tuple[Cell, ...]] = []
    measures: dict[str, dict[str, Estimate]] = {}
    for (kind, way, reading), found in rows.items():
        norm, ratio = column(found, "norm"), column(found, "ratio")
        cells.append((
            kind, way, reading, float(np.median(norm)), float(norm.max()),
            float(np.median(np.abs(column(found, "denominator")))), float(np.median(ratio)), float(ratio.max()),
            float((ratio > COLLAPSE).mean()),
            *(mean_interval(column(found, name), seed=bench.seed) for name in ("efficacy", "prefixed")),
        ))  # fmt: skip
    readings = dict.fromkeys(reading for _, _, reading in rows)
    for reading in readings:
        for way in WAYS:
            hard, ordinary = rows[HARD, way, reading], rows[ORDINARY, way, reading]
            for name in ("norm", "ratio"):
                measures.setdefault(f"first tokens/{name}, hard over ordinary, {reading}", {})[way] = median_ratio(
                    hard, ordinary, name, seed=bench.seed
                )
            for kind, found in ((HARD, hard), (ORDINARY, ordinary)):
                measures.setdefault(f"first tokens/{kind}, efficacy behind a prefix, {reading}", {})[way] = (
                    mean_interval(column(found, "prefixed"), seed=bench.seed)
                )
    table = Table(
        title="First tokens", columns=columns, rows=tuple(cells),
        note="The denominator of ROME's change is (C⁻¹ k)ᵀ k', with k the mean key behind prefixes and k' that of the "
        "prompt alone; C-ROME takes the mean for both. Read bare, a subject of one token is the first thing a model "
        "sees, and its key is of another kind.",
    )  # fmt: skip
    first = next(iter(readings))
    by = measures[f"first tokens/norm, hard over ordinary, {first}"]
    line = (
        f"Read {first}, the change for a first-token subject is {by[ROME]} times that for another by ROME, "
        f"{by[C_ROME]} by C-ROME."
    )
    return Part((Section(title="Subjects that are the first token", blocks=(table,)),), measures, (line,))
