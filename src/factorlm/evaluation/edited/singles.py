"""Each fact changed alone, in every way: whether it comes out, what else changes, and what that costs."""

# Axes: C columns, U cases.

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from factorlm.evaluation.document import Cell, Column, Scatter, Section, Series, Table
from factorlm.evaluation.edited.cases import Case
from factorlm.evaluation.edited.ground import Ground, generation_entropy, probed
from factorlm.evaluation.edited.ways import BESIDE, IN_WEIGHTS, Doses, applied
from factorlm.evaluation.intervals import Estimate, bootstrap, mean_interval
from factorlm.evaluation.part import Part
from factorlm.evaluation.workbench import Workbench
from factorlm.inference import Sampling

Array = NDArray[np.float64]
Row = dict[str, float]
NONE = "as it was"
SHARES = ("efficacy", "paraphrase", "neighbourhood")
MEANS = (*SHARES, "magnitude", "entropy", "accuracy", "seconds", "bytes", "norm")


def single_rows(
    bench: Workbench, ground: Ground, ways: Sequence[str], cases: Sequence[Case], doses: Doses, max_tokens: int
) -> dict[str, list[Row]]:
    """What was measured of each way, case by case; `NONE` is the model before any edit.

    Args:
        bench: whose cache is used.
        ground: where.
        ways: of changing a fact.
        cases: facts.
        doses: how much each way may say.
        max_tokens: of the text whose variety is measured; 0 writes none.
    """
    found: dict[str, list[Row]] = {}
    for way in (NONE, *ways):
        found[way] = []
        for n, case in enumerate(cases):
            key = {"what": "single edit", **ground.key, "way": way, "fact": case.fact.model_dump(),
                   "around": [*case.paraphrases, *case.neighbours], "max_tokens": max_tokens}  # fmt: skip
            compute = functools.partial(_row, bench, ground, way, case, doses, max_tokens)
            found[way].append(bench.cache.get(key, compute))
            bench.report(f"{ground.name}: {way}"[:40], n + 1, len(cases))
    return found


def _row(bench: Workbench, ground: Ground, way: str, case: Case, doses: Doses, max_tokens: int) -> Row:
    if way == NONE:
        model, row = ground.model, dict.fromkeys(("seconds", "bytes", "norm"), 0.0) | {"denominator": math.nan}
    else:
        done = applied(bench, ground, way, [case.fact], doses)
        model = done.model
        row = {"seconds": done.seconds, "bytes": float(done.num_bytes), "norm": done.relative_norm,
               "denominator": done.denominator}  # fmt: skip
    row |= probed(model, case) | {"accuracy": ground.accuracy(model)}
    # Only for ways in the weights is the large guard read, which takes as long as all the rest.
    row["nats"], row["large"] = ground.both_nats(model) if way in IN_WEIGHTS else (ground.nats(model), math.nan)
    row["entropy"] = math.nan
    if max_tokens:
        [response] = model.generate([case.fact.asked], max_tokens=max_tokens, seed=bench.seed,
                                    sampling=Sampling(top_p=0.95))  # fmt: skip
        row["entropy"] = generation_entropy(response.text)
    return row


def column(rows: Sequence[Row], name: str) -> Array:
    """One number of each case."""
    return np.array([row[name] for row in rows], float)


def ratios(rows: Mapping[str, Sequence[Row]], way: str) -> Array:
    """Perplexity of the guard's sentences over that before, case by case."""
    return np.exp(np.minimum(column(rows[way], "nats") - column(rows[NONE], "nats"), 50.0))


def score(rows: Sequence[Row], *, seed: int) -> Estimate:
    """S: the harmonic mean of the means of efficacy, paraphrase and neighbourhood, over cases that have all."""
    values_UC = np.stack([column(rows, name) for name in SHARES], 1)
    values_UC = values_UC[~np.isnan(values_UC).any(1)]

    def statistic(mean_RC: Array) -> Array:
        with np.errstate(divide="ignore"):
            return len(SHARES) / (1 / mean_RC).sum(1)

    return bootstrap(values_UC, statistic, seed=seed)


def lost_near(rows: Mapping[str, Sequence[Row]], way: str, *, seed: int) -> Estimate:
    """Share of neighbours lost: that before less that after, over the same cases."""
    return mean_interval(column(rows[NONE], "neighbourhood") - column(rows[way], "neighbourhood"), seed=seed)


def singles_part(bench: Workbench, ground: Ground, rows: Mapping[str, Sequence[Row]], title: str) -> Part:
    """Table, picture and numbers."""
    seed = bench.seed
    mean = {way: {m: mean_interval(column(found, m), seed=seed) for m in MEANS} for way, found in rows.items()}
    scores = {way: score(found, seed=seed) for way, found in rows.items()}
    ways = [way for way in rows if way != NONE]
    lost = {way: lost_near(rows, way, seed=seed) for way in ways}
    worst = {way: Estimate(value=float(ratios(rows, way).max()), n=len(rows[way])) for way in ways}
    ratio = {way: mean_interval(ratios(rows, way), seed=seed) for way in ways}
    less = {
        way: mean_interval(column(rows[NONE], "accuracy") - column(rows[way], "accuracy"), seed=seed) for way in ways
    }
    measures = {
        f"{ground.name}/{name}": values
        for name, values in (
            *((m, {way: mean[way][m] for way in rows}) for m in MEANS),
            ("score", scores), ("neighbourhood lost", lost), ("accuracy lost", less),
            ("perplexity ratio", ratio), ("worst perplexity ratio", worst),
        )
    }  # fmt: skip
    blocks = (_table(mean, scores, ratio, worst, len(rows[NONE])), _picture(ways, mean, lost))
    best = max(ways, key=lambda way: scores[way].value or 0.0)
    headline = (
        f"{ground.name}: of {len(rows[NONE])} facts changed one by one, {best} has the best S, "
        f"{scores[best].value or 0:.2f}; efficacy {mean[best]['efficacy'].value or 0:.0%}, paraphrases "
        f"{mean[best]['paraphrase'].value or 0:.0%}, {lost[best].value or 0:.0%} of neighbours lost."
    )
    return Part((Section(title=title, lead=LEAD, blocks=blocks),), measures, (headline,))


LEAD = (
    "A fact comes out if its new target is more probable than the old one: behind its prompt (efficacy), behind other "
    "wordings (paraphrase), and not behind prompts about others of whom the old target is true (neighbourhood)."
)
UNDONE = dict.fromkeys(IN_WEIGHTS, "the change left out, to the bit") | dict.fromkeys(BESIDE, "left out")


def _table(
    mean: Mapping[str, Mapping[str, Estimate]], scores: Mapping[str, Estimate], ratio: Mapping[str, Estimate],
    worst: Mapping[str, Estimate], number: int,
) -> Table:  # fmt: skip
    columns = (
        Column(title="way"), Column(title="efficacy", form=".0%", best="high"),
        Column(title="paraphrase", form=".0%", best="high"), Column(title="neighbourhood", form=".0%", best="high"),
        Column(title="S", form=".2f", best="high"), Column(title="p(new) - p(old)", form=".2f"),
        Column(title="entropy", form=".2f"), Column(title="perplexity ratio", form=".2f", best="low"),
        Column(title="worst", form=".2f"), Column(title="accuracy", form=".0%"),
        Column(title="‖ΔW‖/‖W‖", form=".3f"), Column(title="seconds", form=".1f"), Column(title="bytes", form=".0f"),
        Column(title="undone by"),
    )  # fmt: skip
    rows: list[tuple[Cell, ...]] = []
    for way, found in mean.items():
        rest: tuple[Cell, ...] = (ratio.get(way), worst[way].value if way in worst else None, found["accuracy"])
        cost: tuple[Cell, ...] = (found["norm"].value, found["seconds"].value, found["bytes"].value)
        rows.append((way, *(found[m] for m in SHARES), scores[way], found["magnitude"], found["entropy"], *rest,
                     *cost, UNDONE.get(way, "")))  # fmt: skip
    return Table(
        title=f"{number} facts, each changed alone", columns=columns, rows=tuple(rows),
        note="S is the harmonic mean of the three shares. Entropy is that of pairs and triples of words in a text "
        "written behind the prompt, in nats. Perplexity is that of the guard's sentences, over that before; accuracy "
        "that of questions that no edit is about.",
    )  # fmt: skip


def _picture(ways: Sequence[str], mean: Mapping[str, Mapping[str, Estimate]], lost: Mapping[str, Estimate]) -> Scatter:
    kinds = (("in the weights", IN_WEIGHTS), ("beside the weights", BESIDE))
    series = tuple(
        Series(
            name=name, x=tuple(lost[way] for way in some), y=tuple(mean[way]["efficacy"] for way in some), labels=some
        )
        for name, kind in kinds
        if (some := tuple(way for way in ways if way in kind))
    )
    return Scatter(
        title="Efficacy against damage to neighbours", x_label="share of neighbours lost", y_label="efficacy",
        series=series, x_is_percent=True, y_is_percent=True, best="upper left",
    )  # fmt: skip
