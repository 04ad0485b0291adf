"""Interference: how much the other constraints move when one is changed."""

# Axes: C columns, K constraints, P prompts.

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from factorlm.evaluation.constrained.constraints import Constraint
from factorlm.evaluation.constrained.ways import FACTORISED, MONOLITHIC, PROMPT, Condition, Work
from factorlm.evaluation.diversity import jackknife_interval
from factorlm.evaluation.document import Block, Cell, Column, Matrix, Section, Table
from factorlm.evaluation.intervals import FEWEST_UNITS, Estimate, mean_interval

Array = NDArray[np.float64]
Change = Literal["flip", "remove"]
DONE = {"flip": "flipped", "remove": "removed"}


@dataclass(frozen=True, eq=False)
class Changed:
    """What changing some constraints, one at a time, does to all of them, by one way of meeting them.

    Attributes:
        way: which one.
        changes: of the rates: for each constraint changed, by the title of each constraint, on each prompt, [P].
        seed: of the intervals.
    """

    way: str
    changes: dict[str, dict[str, Array]]
    seed: int

    @property
    def others_PC(self) -> Array:
        """A column for each pair of a changed constraint and another; nan for a prompt without words."""
        columns = [c for changed, row in self.changes.items() for title, c in row.items() if title != changed]
        return np.stack(columns, 1)

    @property
    def on_others(self) -> Estimate:
        """Size of the change of the rates that nobody touched: root of the mean square, less what noise adds to it."""
        square = _jackknifed(mean_square(self.others_PC))
        ends = {name: None if x is None else max(0.0, x) ** 0.5 for name, x in square.model_dump(exclude={"n"}).items()}
        return Estimate(**ends, n=square.n)

    @property
    def on_itself(self) -> Estimate:
        """Mean change of the rate of the constraint that was changed."""
        return mean_interval(np.nanmean([row[changed] for changed, row in self.changes.items()], 0), seed=self.seed)

    def less_than(self, other: Changed) -> Estimate:
        """Mean square of the changes of another way minus this one's, over the same prompts."""
        theirs, mine = mean_square(other.others_PC), mean_square(self.others_PC)
        return _jackknifed(Deleted(theirs.value - mine.value, theirs.without_P - mine.without_P))


class Deleted(NamedTuple):
    """A statistic of all prompts, and of all but each of them."""

    value: float
    without_P: Array


def mean_square(change_PC: Array) -> Deleted:
    """Mean over columns of the squared mean of each, estimated without bias: the square of a mean of noise is not zero.

    Of a column it is mean**2 - variance / P, which is the mean product of two different prompts.
    """
    is_there_PC = ~np.isnan(change_PC)
    known_PC = np.where(is_there_PC, change_PC, 0.0)
    sum_C, square_C, count_C = known_PC.sum(0), (known_PC**2).sum(0), is_there_PC.sum(0)

    def of(sum_: Array, square: Array, count: Array) -> Array:
        with np.errstate(divide="ignore", invalid="ignore"):
            product = (sum_**2 - square) / (count * (count - 1))
        is_known = count > 1
        found = np.where(is_known, product, 0.0).sum(-1) / np.maximum(1, is_known.sum(-1))
        return np.where(is_known.any(-1), found, np.nan)

    without_P = of(sum_C - known_PC, square_C - known_PC**2, count_C - is_there_PC)
    return Deleted(float(of(sum_C, square_C, count_C)), without_P)


def _jackknifed(statistic: Deleted) -> Estimate:
    """With its interval; for means of products of two prompts it errs on the wide side (Efron and Stein, 1981)."""
    num_prompts = len(statistic.without_P)
    if num_prompts < FEWEST_UNITS:
        return Estimate(value=None if math.isnan(statistic.value) else statistic.value, n=num_prompts)
    return jackknife_interval(statistic.value, statistic.without_P, num_prompts)


class Interference(NamedTuple):
    """Of every way, with the seconds that retraining for one change took, and the section that shows it."""

    by_way: dict[str, Changed]
    seconds: list[float]
    section: Section


def measure_interference(
    work: Work, constraints: Sequence[Constraint], whole: Mapping[str, Condition], change: Change, num_changed: int
) -> Interference:
    """Change the first constraints, one at a time: an exponent, the texts of a fine-tuning, the words of a prompt.

    Args:
        work: writes and examines.
        constraints: at least two.
        whole: the texts of every way with all constraints as they are.
        change: turn a constraint into its opposite, or leave it out.
        num_changed: how many.
    """
    composition = work.composition(constraints)
    changes: dict[str, dict[str, dict[str, Array]]] = {FACTORISED: {}, MONOLITHIC: {}, PROMPT: {}}
    seconds = []
    for i, changed in enumerate(constraints[:num_changed]):
        middle = [changed.flipped] if change == "flip" else []
        rest = [*constraints[:i], *middle, *constraints[i + 1 :]]
        factor_sign = -1.0 if change == "flip" else 0.0
        exponents = composition.exponents | {changed.factor: factor_sign * composition.exponents[changed.factor]}
        what = f"{changed.title} {DONE[change]}"
        monolith, name = work.monolith(rest), f"{MONOLITHIC}, {what}"
        seconds.append(monolith.seconds)
        after = {
            FACTORISED: work.factorised(exponents, what),
            MONOLITHIC: work.monolithic(monolith, {name: work.divergence(exponents)})[name][0],
            PROMPT: work.prompted(rest, f"{PROMPT}, {what}", target=None)[0],
        }
        for way, condition in after.items():
            changes[way][changed.title] = {
                c.title: condition.share(c.title) - whole[way].share(c.title) for c in constraints
            }
    by_way = {way: Changed(way, found, work.bench.seed) for way, found in changes.items()}
    return Interference(by_way, seconds, _section(by_way, constraints, change, len(work.prompts)))


def _section(
    by_way: Mapping[str, Changed], constraints: Sequence[Constraint], change: Change, num_prompts: int
) -> Section:
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (way, points(c.on_itself), points(c.on_others)) for way, c in by_way.items()
    )
    columns = (
        Column(title="way"),
        Column(title="change of the constraint itself (points)", form="+.1f"),
        Column(title="size of the change of the others (points)", form=".1f", best="low"),
    )
    note = (
        "The size is the root of the mean square over the constraints that nobody touched. Sampling noise adds to "
        "squares whatever moves, and more in a way that varies more, so its share is taken out; zero is no "
        "interference, and an interval that begins there does not show any. The fine-tuned model is moved as far from "
        "the base as the factors are after the change."
    )
    blocks: list[Block] = [Table(title="Changing one constraint", columns=columns, rows=rows, note=note)]
    titles = [c.title for c in constraints]
    for way, found in by_way.items():
        blocks.append(
            Matrix(
                title=f"Interference, {way}: change of every rate, in points",
                row_label="changed",
                column_label="constraint",
                rows=tuple(f"{title} {DONE[change]}" for title in found.changes),
                columns=tuple(titles),
                values=tuple(tuple(_mean_points(row[title]) for title in titles) for row in found.changes.values()),
                form="+.0f",
                is_signed=True,
                note=f"Against all constraints as they were, on the same {num_prompts} prompts.",
            )
        )
    lead = (
        f"With all {len(constraints)} constraints on, one is {DONE[change]}: of the factors one exponent changes and "
        "nothing else; the fine-tuned model is trained again; the instruction is written anew."
    )
    return Section(title="Interference", lead=lead, blocks=tuple(blocks))


def points(estimate: Estimate) -> Estimate:
    """A share in points of a hundred."""
    scaled = {k: None if v is None else 100 * v for k, v in (("value", estimate.value), ("low", estimate.low),
                                                            ("high", estimate.high))}  # fmt: skip
    return Estimate(**scaled, n=estimate.n)


def _mean_points(change_P: Array) -> float | None:
    return value_points(mean_interval(change_P))


def value_points(estimate: Estimate | None) -> float | None:
    """Its value in points, where there is one."""
    return None if estimate is None or estimate.value is None else 100 * estimate.value
