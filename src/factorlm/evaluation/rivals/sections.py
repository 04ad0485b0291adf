"""What is said of ours and its rivals: planes of attribute against cost, tables at equal price, what each takes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from factorlm.evaluation.document import Cell, Column, Scatter, Section, Series, Table
from factorlm.evaluation.intervals import Comparison, Estimate, compare
from factorlm.evaluation.judges import Judge
from factorlm.evaluation.rivals.frontier import Point, at_price, difference_at_price, nearest_pair, undominated
from factorlm.evaluation.rivals.goals import Goal
from factorlm.evaluation.rivals.methods import Method
from factorlm.evaluation.workbench import Workbench
from factorlm.factors.examples import Split

if TYPE_CHECKING:
    from factorlm.evaluation.suites.rivals import Settings


@dataclass(frozen=True, eq=False)
class Work:
    """What was measured, and what is to be said of it; lists are filled on the way.

    Attributes:
        bench: with the seed.
        settings: of the suite.
        goal: what was wanted.
        judges: who measured; the first decides.
        methods: ours first.
        whole: all texts that rivals could learn from.
        parts: those that they learned from.
        points: of each set of prompts and method, in order of the dial.
        bases: the model as it is, by set of prompts.
    """

    bench: Workbench
    settings: Settings
    goal: Goal
    judges: list[Judge]
    methods: list[Method]
    whole: Split
    parts: Split
    points: dict[tuple[str, str], list[Point]] = field(default_factory=dict)
    bases: dict[str, Point] = field(default_factory=dict)
    measures: dict[str, dict[str, Estimate]] = field(default_factory=dict)
    comparisons: list[Comparison] = field(default_factory=list)
    headlines: list[str] = field(default_factory=list)

    @property
    def key(self) -> tuple[str, str]:
        """The measure and the judge that decide."""
        return next(iter(self.goal.scores)), self.judges[0].name

    @property
    def num_prompts(self) -> int:
        """Of each set."""
        return self.settings.num_prompts or self.goal.num_prompts

    @property
    def num_samples(self) -> int:
        """Texts to each prompt."""
        return self.settings.samples or self.goal.samples

    @property
    def lower_is_better(self) -> bool:
        """Whether less of the measure is wanted."""
        return self.goal.sign < 0

    def points_of(self, part: str) -> list[Point]:
        """All points after a set of prompts."""
        return [point for method in self.methods for point in self.points[part, method.name]]

    def note(self, measure: str, name: str, value: Estimate) -> Estimate:
        """Keep a number for scripts."""
        self.measures.setdefault(measure, {})[name] = value
        return value


def group_of(part: str) -> str:
    """The short name of a set of prompts."""
    return part.rpartition("/")[2]


def plane(work: Work, part: str) -> Section:
    """Every point in two planes, with the table of their numbers."""
    base, points, settings = work.bases[part], work.points_of(part), work.settings
    group, (measure, judge) = group_of(part), work.key
    is_share = measure == "positive texts" or measure.startswith("probability")
    prices = {p.name: work.note(f"perplexity ratio/{group}", p.name, p.price(base)) for p in points}
    varied = {
        p.name: work.note(f"Dist-3/{group}", p.name, p.distinct_3(settings.words, work.num_samples))
        for p in [base, *points]
    }
    scores = {
        key: {p.name: work.note(f"{key[0]}/{group}/{key[1]}", p.name, p.score(key)) for p in [base, *points]}
        for key in base.scores
    }
    moved = {p.name: work.note(f"divergence/{group}", p.name, p.moved) for p in points}
    main = scores[work.key]
    values = [(number(prices[p.name]), number(main[p.name])) for p in points]
    known = [(1.0, number(main[base.name])), *values]
    best = undominated(known, lower_is_better=work.lower_is_better)[1:]
    on = [p.name for p, is_on in zip(points, best, strict=True) if is_on]
    work.headlines.append(
        f"After {group} prompts, on the frontier of {measure} against perplexity, by value alone: "
        f"{', '.join(on) or 'nobody but the base'}."
    )

    def series(x: dict[str, Estimate], origin: float | Estimate) -> tuple[Series, ...]:
        lines = [Series(name="base", x=(origin,), y=(main[base.name],), is_reference=True)]
        for method in work.methods:
            mine = work.points[part, method.name]
            lines.append(
                Series(
                    name=method.name,
                    x=tuple(x[p.name] for p in mine),
                    y=tuple(main[p.name] for p in mine),
                    labels=tuple(f"{p.dial:g}" if p.dial else "" for p in mine),
                )
            )
        return tuple(lines)

    corner = "lower" if work.lower_is_better else "upper"
    by_price = Scatter(
        title=f"{measure.capitalize()} against perplexity, {group} prompts",
        x_label="perplexity under the base, over that of its own texts",
        y_label=f"{measure}, by {judge}",
        series=series(prices, 1.0),
        y_is_percent=is_share,
        best=f"{corner} left",  # type: ignore[arg-type]
        note="Lines join the settings of a dial in order; numbers are the settings.",
    )
    by_variety = Scatter(
        title=f"{measure.capitalize()} against variety, {group} prompts",
        x_label=f"Dist-3 of the first {settings.words} words",
        y_label=f"{measure}, by {judge}",
        series=series(varied, varied[base.name]),
        y_is_percent=is_share,
        best=f"{corner} right",  # type: ignore[arg-type]
    )
    columns = (
        Column(title="method and dial"),
        *(Column(title=f"{m} ({j})", form=".0%" if is_share else ".2f") for m, j in scores),
        Column(title="perplexity ratio", form=".2f"),
        Column(title="log ratio to the base (nats/token)", form=".2f"),
        Column(title="Dist-3", form=".3f"),
        Column(title="frontier"),
    )
    rows: list[tuple[Cell, ...]] = [
        (base.name, *(found[base.name] for found in scores.values()), 1.0, 0.0, varied[base.name], "")
    ]
    for p, is_on in zip(points, best, strict=True):
        found = (by_name[p.name] for by_name in scores.values())
        rows.append((p.name, *found, prices[p.name], moved[p.name], varied[p.name], "yes" if is_on else ""))
    note = (
        "The log ratio is that of the drawn tokens under the steered model and the base; as tokens are drawn from "
        "truncated distributions, it is no Kullback-Leibler divergence. What has no number is not on the frontier."
    )
    title = f"Every method at every setting, {group} prompts"
    table = Table(title=title, columns=columns, rows=tuple(rows), note=note)
    lead = (
        f"{work.num_prompts} prompts of {part}, {work.num_samples} texts of "
        f"{settings.max_tokens} tokens to each, the same seeds and sampling for all."
    )
    return Section(title=f"Attribute against cost: {group} prompts", lead=lead, blocks=(by_price, by_variety, table))


def number(estimate: Estimate) -> float:
    """Its value, or nan."""
    return float("nan") if estimate.value is None else estimate.value


def equal_price(work: Work, part: str) -> Section:
    """Scores where curves reach a price, differences there, and tests at the settings of nearest price."""
    base, prices, group = work.bases[part], work.settings.prices, group_of(part)
    measure = work.key[0]
    mine = work.points[part, work.methods[0].name]
    form = ".2f" if work.lower_is_better else ".0%"
    columns = [Column(title="method")]
    for price in prices:
        columns.append(Column(title=f"{measure} at {price:g}x", form=form, best="low" if form == ".2f" else "high"))
        columns.append(Column(title=f"ours minus it at {price:g}x", form="+.2f"))
    rows: list[tuple[Cell, ...]] = []
    reached: dict[float, list[str]] = {price: [] for price in prices}
    for method in work.methods:
        points = work.points[part, method.name]
        row: list[Cell] = [method.name]
        for price in prices:
            found = work.note(f"{measure} at {price:g}x/{group}", method.name, at_price(points, base, work.key, price))
            if found.value is not None:
                reached[price].append(f"{method.name} {format(found.value, form)}")
            row += [found, None if points is mine else difference_at_price(mine, points, base, work.key, price)]
        rows.append(tuple(row))
        if points is not mine:
            pair = nearest_pair(mine, points, base, prices[0])
            if pair is not None:
                work.comparisons.append(_comparison(work, part, *pair))
    for price, found_there in reached.items():
        said = ", ".join(found_there) or "nobody gets there"
        work.headlines.append(f"{measure.capitalize()} at {price:g}x the base's perplexity, {group} prompts: {said}.")
    note = (
        "Curves begin at the base and run through the settings of a dial in order; a method that never reaches a price "
        "has no number there, and one that does not in some resamples of the prompts no interval. Differences are over "
        f"the same resamples. Tests compare the setting of each method whose price is nearest to {prices[0]:g}x, "
        "chosen without a look at the scores."
    )
    table = Table(title=f"At equal price, {group} prompts", columns=tuple(columns), rows=tuple(rows), note=note)
    return Section(title=f"At equal price: {group} prompts", blocks=(table,))


def _ratio(point: Point, base: Point) -> str:
    return f"{number(point.price(base)):.2f}x"


def _comparison(work: Work, part: str, near: Point, other: Point) -> Comparison:
    base, (measure, judge) = work.bases[part], work.key
    prices = f"{_ratio(near, base)} and {_ratio(other, base)} perplexity"
    return compare(
        f"{measure} ({judge}), {group_of(part)}, at {prices}",
        (near.name, near.scores[work.key]),
        (other.name, other.scores[work.key]),
        lower_is_better=work.lower_is_better,
        seed=work.bench.seed,
    )


def cost(work: Work) -> Section:
    """What each method takes to prepare and to run."""
    work.bench.report("timing", 0, len(work.methods))
    unsteered = work.methods[0].milliseconds(0.0)
    rows: list[tuple[Cell, ...]] = [("base", 0, 0.0, unsteered, 1.0, "", "")]
    work.note("milliseconds a token", "base", Estimate(value=unsteered))
    for done, method in enumerate(work.methods, 1):
        found = method.milliseconds(method.doses[-1])
        work.note("milliseconds a token", method.name, Estimate(value=found))
        seconds = "trained before" if method is work.methods[0] else method.seconds
        rows.append((method.name, method.num_parameters, seconds, found, found / unsteered, method.dial, method.about))
        work.bench.report("timing", done, len(work.methods))
    columns = (
        Column(title="method"),
        Column(title="numbers learned", form=",d"),
        Column(title="seconds of preparation", form=".0f"),
        Column(title="ms a token", form=".1f", best="low"),
        Column(title="times the base", form=".2f", best="low"),
        Column(title="dial"),
        Column(title="source and choices"),
    )
    note = (
        "Eight texts written together; prompts of a method are read once. Preparation is timed when it is first done, "
        "and is shared where methods share it: DExperts and GeDi have the same fine-tunes, FUDGE and LM-Steer the same "
        "states; how long the factor of the store once took is not known here. On a processor both are times of all "
        "cores together, waiting threads included: a machine crowded with other work makes them only a little longer."
    )
    table = Table(title="What it takes", columns=columns, rows=tuple(rows), note=note)
    return Section(title="What it takes", blocks=(table,))
