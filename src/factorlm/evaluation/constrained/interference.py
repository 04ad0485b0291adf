"""Interference: how much the other constraints move when one is changed; and where factors are not independent."""

# Axes: C columns, K constraints, P prompts, R resamples.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from factorlm.evaluation.constrained.constraints import Constraint
from factorlm.evaluation.constrained.matching import correlation
from factorlm.evaluation.constrained.ways import FACTORISED, MONOLITHIC, PROMPT, Condition, Work
from factorlm.evaluation.document import Block, Cell, Column, Matrix, Section, Table
from factorlm.evaluation.intervals import LEVEL, RESAMPLES, Estimate, bootstrap, holm, mean_interval, sign_flip_p_value
from factorlm.factors import bind, factor

Array = NDArray[np.float64]
Change = Literal["flip", "remove"]
DONE = {"flip": "flipped", "remove": "removed"}
CORRELATED = 0.5  # from here on, two factors largely say the same


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
        """A column for each pair of a changed constraint and another; prompts without words count as unmoved."""
        columns = [c for changed, row in self.changes.items() for title, c in row.items() if title != changed]
        return np.nan_to_num(np.stack(columns, 1))

    @property
    def on_others(self) -> Estimate:
        """Mean size of the change of the rates of the constraints that nobody touched."""
        return bootstrap(self.others_PC, lambda mean_RC: np.abs(mean_RC).mean(1), seed=self.seed)

    @property
    def on_itself(self) -> Estimate:
        """Mean change of the rate of the constraint that was changed."""
        return mean_interval(np.nanmean([row[changed] for changed, row in self.changes.items()], 0), seed=self.seed)

    @property
    def by_chance(self) -> float:
        """What `on_others` would be if nothing had moved: the mean over random signs of every prompt's change."""
        sign_RP = np.random.default_rng(self.seed).choice([-1.0, 1.0], size=(RESAMPLES, len(self.others_PC)))
        return float(np.abs(sign_RP @ self.others_PC / len(self.others_PC)).mean())

    def less_than(self, other: Changed) -> Estimate:
        """`on_others` of another way minus this one's, over the same prompts."""
        width = self.others_PC.shape[1]
        both_PC = np.concatenate([self.others_PC, other.others_PC], 1)
        return bootstrap(
            both_PC, lambda mean_RC: np.abs(mean_RC[:, width:]).mean(1) - np.abs(mean_RC[:, :width]).mean(1),
            seed=self.seed,
        )  # fmt: skip


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
            MONOLITHIC: work.monolithic(monolith, {name: composition.divergence})[name][0],
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
        (way, _points(c.on_itself), _points(c.on_others), 100 * c.by_chance) for way, c in by_way.items()
    )
    columns = (
        Column(title="way"),
        Column(title="change of the constraint itself (points)", form="+.1f"),
        Column(title="mean change of the others (points)", form=".1f", best="low"),
        Column(title="the same by chance alone (points)", form=".1f"),
    )
    note = (
        "Sizes of changes, so chance alone makes them positive: the last column is what they would be if nothing had "
        "moved. Interference is what lies above it."
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


class Independence(NamedTuple):
    """Where the assumption that factors are independent does not hold, in sentences, with the section that shows it.

    Attributes:
        findings: sentences for the head of the report.
        interactions: change of a rate that is not the sum of the separate changes, by the two titles, in shares.
        section: all numbers.
    """

    findings: tuple[str, ...]
    interactions: dict[tuple[str, str], Estimate]
    section: Section


def measure_independence(work: Work, constraints: Sequence[Constraint], base: Condition) -> Independence:
    """Each factor alone, each pair together, and the correlation of the potentials.

    Args:
        work: writes and examines.
        constraints: whose pairs are measured; at least two.
        base: texts of the base model.
    """
    titles = [c.title for c in constraints]
    exponents = work.composition(constraints, within_budget=False).exponents
    alone = {c.title: work.factorised({c.factor: exponents[c.factor]}, f"{c.title} alone") for c in constraints}
    surplus_P: dict[tuple[str, str], Array] = {}
    for i, a in enumerate(constraints):
        for b in constraints[i + 1 :]:
            pair = {c.factor: exponents[c.factor] for c in (a, b)}
            both = work.factorised(pair, f"{a.title} and {b.title}")
            for c in (a, b):
                other = b if c is a else a
                surplus_P[c.title, other.title] = (
                    both.share(c.title)
                    - alone[a.title].share(c.title)
                    - alone[b.title].share(c.title)
                    + base.share(c.title)
                )
    interactions = {pair: mean_interval(found_P, seed=work.bench.seed) for pair, found_P in surplus_P.items()}
    key = {"what": "correlation of potentials", "model": work.base.fingerprint, "exponents": exponents}
    bound = [bind(factor(c.factor), work.lm) for c in constraints]
    found = np.array(work.bench.cache.get(key, lambda: correlation(work.lm, bound).tolist()))
    sign_K = np.array([c.sign for c in constraints])
    correlation_KK = found * np.outer(sign_K, sign_K)  # of the factors as they are used: an unwanted one turned round
    blocks: list[Block] = [
        Matrix(
            title="Change of a rate that is not the sum of the separate effects, in points",
            row_label="rate of",
            column_label="together with",
            rows=tuple(titles),
            columns=tuple(titles),
            values=tuple(tuple(_value_points(interactions.get((row, column))) for column in titles) for row in titles),
            form="+.0f",
            is_signed=True,
            note="Rate with both, minus the rate with each alone, plus the rate of the base. Zero is independence; "
            f"under about {100 * 2 / len(work.prompts) ** 0.5:.0f} points is within chance. A rate near its ceiling "
            "cannot rise twice, so a negative number may be the ceiling and no conflict.",
        ),
        Matrix(
            title="Correlation of potentials",
            row_label="factor",
            column_label="factor",
            rows=tuple(titles),
            columns=tuple(titles),
            values=tuple(map(tuple, correlation_KK.tolist())),
            is_signed=True,
            note="Over next tokens drawn from the base at neutral states. Factors that are correlated count the same "
            "evidence twice; opposed ones undo each other.",
        ),
    ]
    lead = (
        "Multiplying factors is right if attributes are independent given the text. Here is where they are not: pairs "
        "at the strength that each has alone, without the budget."
    )
    section = Section(title="Where independence bites", lead=lead, blocks=tuple(blocks))
    return Independence(_sentences(titles, surplus_P, interactions, correlation_KK), interactions, section)


def _sentences(
    titles: Sequence[str],
    surplus_P: Mapping[tuple[str, str], Array],
    interactions: Mapping[tuple[str, str], Estimate],
    correlation_KK: Array,
) -> tuple[str, ...]:
    lines = []
    tested = {pair: found_P[~np.isnan(found_P)] for pair, found_P in surplus_P.items()}
    tested = {pair: found_P for pair, found_P in tested.items() if len(found_P)}
    if tested:
        # The largest of many is large by chance, so each is held to a level that all of them can stand.
        p_values = holm([sign_flip_p_value(found_P) for found_P in tested.values()])
        row, column = max(tested, key=lambda pair: abs(interactions[pair].value or 0.0))
        is_shown = p_values[list(tested).index((row, column))] < 1 - LEVEL
        lines.append(
            f"Independence bites most for {row} together with {column}: its rate is "
            f"{_points_text(interactions[row, column])} points off the sum of the separate effects"
            f"{'' if is_shown else ', which may be chance'}; {sum(p < 1 - LEVEL for p in p_values)} of {len(p_values)} "
            "such interactions are beyond chance."
        )
    off_KK = np.abs(correlation_KK - np.eye(len(titles)))
    i, j = divmod(int(off_KK.argmax()), len(titles))
    value = correlation_KK[i, j]
    strength = "strongly" if abs(value) >= CORRELATED else "not strongly"
    lines.append(
        f"The potentials of {titles[min(i, j)]} and {titles[max(i, j)]} are correlated most ({value:+.2f}), {strength}."
    )
    return tuple(lines)


def _points(estimate: Estimate) -> Estimate:
    scaled = {k: None if v is None else 100 * v for k, v in (("value", estimate.value), ("low", estimate.low),
                                                            ("high", estimate.high))}  # fmt: skip
    return Estimate(**scaled, n=estimate.n)


def _points_text(estimate: Estimate) -> str:
    points = _points(estimate)
    text = f"{points.value:+.0f}"
    return text if points.low is None else f"{text} ({points.low:+.0f} to {points.high:+.0f})"


def _mean_points(change_P: Array) -> float | None:
    return _value_points(mean_interval(change_P))


def _value_points(estimate: Estimate | None) -> float | None:
    return None if estimate is None or estimate.value is None else 100 * estimate.value
