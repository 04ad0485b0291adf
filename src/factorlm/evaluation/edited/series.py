"""Many facts in one model: one after the other, or all at once; and whether perplexity tells what was lost."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import spearmanr
from torch import Tensor

from factorlm.evaluation.document import Cell, Column, Curve, Scatter, Section, Series, Table
from factorlm.evaluation.edited.cases import Case
from factorlm.evaluation.edited.ground import Ground, probed
from factorlm.evaluation.edited.singles import NONE, SHARES, Row
from factorlm.evaluation.edited.ways import MEMIT, Doses, relative_norm, written
from factorlm.evaluation.intervals import Estimate
from factorlm.evaluation.part import Part
from factorlm.evaluation.workbench import Workbench
from factorlm.models import CausalLM
from factorlm.models.editing.algebra import LowRank
from factorlm.models.editing.guard import WARN


def series_rows(
    bench: Workbench, ground: Ground, ways: Sequence[str], cases: Sequence[Case], stops: Sequence[int], doses: Doses
) -> dict[str, list[Row]]:
    """What was measured of each way after so many facts: MEMIT writes them all at once, others one after the other."""
    found: dict[str, list[Row]] = {}
    for way in ways:
        key = {"what": "series of edits", **ground.key, "way": way, "stops": list(stops),
               "facts": [case.fact.model_dump() for case in cases]}  # fmt: skip
        found[way] = bench.cache.get(key, functools.partial(_series, bench, ground, way, cases, stops, doses))
    return found


def _series(
    bench: Workbench, ground: Ground, way: str, cases: Sequence[Case], stops: Sequence[int], doses: Doses
) -> list[Row]:
    base = lm = ground.model.lm
    rows = [_state(ground, base, [], 0.0)]
    total: dict[str, Tensor] = {}
    for n, case in enumerate(cases[: max(stops)], 1):
        if way != MEMIT:
            lm, change, _ = written(ground, lm, way, [case.fact], doses)
        elif n in stops:
            total = {}  # all of them into the model as it was
            lm, change, _ = written(ground, base, way, [one.fact for one in cases[:n]], doses)
        else:
            continue
        for name, part in change.items():
            dense_OF = part.dense_OF if isinstance(part, LowRank) else part.double()
            total[name] = total[name] + dense_OF if name in total else dense_OF
        if n in stops:
            rows.append(_state(ground, lm, cases[:n], relative_norm(base, total)))
        bench.report(f"{ground.name}: series, {way}"[:40], n, max(stops))
    return rows


def _state(ground: Ground, lm: CausalLM, cases: Sequence[Case], norm: float) -> Row:
    model = ground.over(lm)
    probes = [probed(model, case) for case in cases]
    shares = {name: _mean([probe[name] for probe in probes]) for name in SHARES}
    small, large = ground.both_nats(model)
    return {"facts": float(len(cases)), **shares, "nats": small, "large": large, "accuracy": ground.accuracy(model),
            "norm": norm}  # fmt: skip


def _mean(values: Sequence[float]) -> float:
    """Of those that are numbers."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def series_part(
    bench: Workbench, ground: Ground, rows: Mapping[str, Sequence[Row]], singles: Mapping[str, Sequence[Row]]
) -> Part:  # fmt: skip
    """Tables, pictures and numbers.

    Args:
        bench: whose seed is used.
        ground: where.
        rows: of `series_rows`; the first of each way is the model before any edit.
        singles: of `single_rows`, for ways in the weights; their states count too.
    """
    start = next(iter(rows.values()))[0]
    states = [(row["nats"], row["accuracy"]) for way in rows for row in rows[way][1:]]
    states += [(row["nats"], row["accuracy"]) for way, found in singles.items() if way != NONE for row in found]
    columns = list(zip(*states, strict=True))
    is_told = len(states) > 2 and all(len(set(column)) > 1 for column in columns)
    correlation = float(spearmanr(*columns).statistic) if is_told else math.nan
    small, wide = _flags(rows, singles, start)
    caught = [a for a, b in zip(small, wide, strict=True) if b]
    measures = {
        f"{ground.name}/series {name}": {
            f"{way}, {row['facts']:.0f}": Estimate(value=_finite(value(row))) for way in rows for row in rows[way]
        }
        for name, value in (
            ("perplexity ratio", lambda row: _ratio(row, start)),
            ("accuracy", lambda row: row["accuracy"]),
            ("norm", lambda row: row["norm"]),
            *((share, lambda row, share=share: row[share]) for share in SHARES),
        )
    } | {
        f"{ground.name}/perplexity and accuracy": {
            "rank correlation": Estimate(value=_finite(correlation), n=len(states))
        },
        f"{ground.name}/guard": {
            "flagged by the large one": Estimate(value=float(len(caught)), n=len(wide)),
            "of these by the small one": Estimate(value=float(np.mean(caught)) if caught else None, n=len(caught)),
            "false alarms": Estimate(value=float(sum(a and not b for a, b in zip(small, wide, strict=True)))),
        },
    }
    most = max(row["facts"] for way in rows for row in rows[way])
    last = {way: next(row for row in rows[way] if row["facts"] == most) for way in rows}
    headline = f"{ground.name}: after {most:.0f} facts, " + "; ".join(
        f"{way} says {row['efficacy']:.0%} of them at {_ratio(row, start):.2f} times the perplexity"
        for way, row in last.items()
    )
    said = f"Over {len(states)} edited models the rank correlation of log perplexity and accuracy is {correlation:.2f}."
    blocks = (_table(rows, start), _curve(rows, start), _cloud(rows, singles, start))
    lead = "MEMIT writes all facts at once into the model as it was; the others one after the other."
    return Part((Section(title=f"Many facts ({ground.name})", lead=lead, blocks=blocks),), measures,
                (f"{headline}.", said))  # fmt: skip


def _flags(
    rows: Mapping[str, Sequence[Row]], singles: Mapping[str, Sequence[Row]], start: Row
) -> tuple[list[bool], list[bool]]:  # fmt: skip
    """Which states the small guard flags, and the large one."""
    pairs = [(row["nats"], row["large"]) for way in rows for row in rows[way][1:]]
    pairs += [(row["nats"], row["large"]) for way, some in singles.items() if way != NONE for row in some]
    line = math.log(WARN)
    return [a - start["nats"] > line for a, _ in pairs], [b - start["large"] > line for _, b in pairs]


def _ratio(row: Row, start: Row) -> float:
    return math.exp(min(50.0, row["nats"] - start["nats"]))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _table(rows: Mapping[str, Sequence[Row]], start: Row) -> Table:
    columns = (
        Column(title="way"), Column(title="facts", form=".0f"), *(Column(title=name, form=".0%") for name in SHARES),
        Column(title="perplexity ratio", form=".2f"), Column(title="accuracy", form=".0%"),
        Column(title="‖ΔW‖/‖W‖", form=".3f"),
    )  # fmt: skip
    cells: list[tuple[Cell, ...]] = [
        (way, row["facts"], *(_finite(row[name]) for name in SHARES), _ratio(row, start), row["accuracy"], row["norm"])
        for way in rows
        for row in rows[way]
    ]
    note = "Shares are means over all facts written so far; perplexity is that of the guard's sentences."
    return Table(title="Facts in one model", columns=columns, rows=tuple(cells), note=note)


def _curve(rows: Mapping[str, Sequence[Row]], start: Row) -> Curve:
    series = tuple(
        Series(name=way, x=tuple(r["facts"] for r in found),
               y=tuple(math.log10(_ratio(r, start)) for r in found))
        for way, found in rows.items()
    )  # fmt: skip
    return Curve(title="Harm by the number of facts", x_label="facts", y_label="log10 of the perplexity ratio",
                 series=series)  # fmt: skip


def _cloud(rows: Mapping[str, Sequence[Row]], singles: Mapping[str, Sequence[Row]], start: Row) -> Scatter:
    def points(found: Sequence[Row]) -> tuple[tuple[float, ...], tuple[float, ...]]:
        return tuple(math.log10(_ratio(r, start)) for r in found), tuple(r["accuracy"] for r in found)

    series = [
        Series(name=name, x=x, y=y)
        for name, found in (
            ("one fact", [row for way, some in singles.items() if way != NONE for row in some]),
            ("many facts", [row for way in rows for row in rows[way][1:]]),
        )
        for x, y in [points(found)]
        if found
    ]
    return Scatter(title="Perplexity as an alarm", x_label="log10 of the perplexity ratio", y_label="accuracy",
                   series=tuple(series), y_is_percent=True, best="upper left")  # fmt: skip
