"""Pictures and tables of the ways of meeting constraints, as constraints are added."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from factorlm.evaluation.constrained.constraints import Constraint
from factorlm.evaluation.constrained.monolithic import Monolith
from factorlm.evaluation.constrained.ways import BASE, WAYS, Composition, Condition, Work
from factorlm.evaluation.document import Cell, Column, Curve, Prose, Samples, Scatter, Section, Series, Table
from factorlm.evaluation.intervals import Estimate

Measure = Callable[[Condition, int], Estimate]  # of the texts of a way with so many constraints


@dataclass(frozen=True, eq=False)
class Found:
    """All texts, by way and number of constraints.

    Attributes:
        work: that wrote them.
        constraints: in the order in which they are added.
        base: texts of the base model.
        conditions: of each way with so many constraints.
        made: what these were made of, by the number of constraints.
    """

    work: Work
    constraints: list[Constraint]
    base: Condition
    conditions: dict[tuple[str, int], Condition]
    made: dict[int, Made]

    def titles(self, count: int) -> list[str]:
        """Of the first constraints."""
        return [c.title for c in self.constraints[:count]]


@dataclass(frozen=True, eq=False)
class Made:
    """What the ways were made of.

    Attributes:
        composition: of factors.
        monolith: the fine-tuned model.
        exponents: by way, of its ratio to the base.
    """

    composition: Composition
    monolith: Monolith
    exponents: dict[str, float]


def curves_section(found: Found, counts: Sequence[int]) -> Section:
    """Rates, perplexity, distance and diversity over the number of constraints."""
    x = tuple(float(count) for count in counts)

    def lines(of: Measure) -> tuple[Series, ...]:
        return tuple(Series(name=way, x=x, y=tuple(of(found.conditions[way, k], k) for k in counts)) for way in WAYS)

    def reference(of: Measure) -> tuple[Series, ...]:
        return (Series(name=BASE, x=x, y=tuple(of(found.base, k) for k in counts), is_reference=True),)

    def mean_rate(c: Condition, k: int) -> Estimate:
        return c.mean_rate(found.titles(k))

    def joint_rate(c: Condition, k: int) -> Estimate:
        return c.joint_rate(found.titles(k))

    pictures: tuple[tuple[str, str, Measure, bool], ...] = (
        ("Constraints met, on average", "texts that meet a constraint", mean_rate, True),
        ("All constraints met at once", "texts that meet all constraints", joint_rate, True),
        ("Perplexity", "perplexity under the base, over that of its own texts",
         lambda c, k: c.perplexity_ratio(found.base), False),
        ("Distance from the base", "nats per token", lambda c, k: c.moved, False),
        ("Diversity", "Dist-3", lambda c, k: c.distinct_3, False),
    )  # fmt: skip
    blocks = [
        Curve(
            title=title,
            x_label="constraints at once",
            y_label=label,
            series=(*lines(of), *(reference(of) if of in (mean_rate, joint_rate) else ())),
            is_percent=is_percent,
        )
        for title, label, of, is_percent in pictures
    ]
    lead = (
        "The constraints are added in this order: " + ", ".join(found.titles(counts[-1])) + ". The fine-tuned model "
        "is moved on its way from the base (or beyond where it was trained to) until it diverges as far as the factors "
        "do at neutral places; “as trained” is where training left it. The prompt is given as it is, or "
        "strengthened in the same way (“matched”). Intervals are over prompts."
    )
    return Section(title="As constraints are added", lead=lead, blocks=tuple(blocks))


def price_section(found: Found, counts: Sequence[int]) -> Section:
    """What every way gives and costs, with all numbers."""
    scatter = Scatter(
        title="What the constraints cost",
        x_label="perplexity under the base, over that of its own texts",
        y_label="texts that meet a constraint, on average",
        series=tuple(
            Series(
                name=way,
                x=tuple(found.conditions[way, k].perplexity_ratio(found.base) for k in counts),
                y=tuple(found.conditions[way, k].mean_rate(found.titles(k)) for k in counts),
                labels=tuple(f"K={k}" for k in counts),
            )
            for way in WAYS
        ),
        y_is_percent=True,
        best="upper left",
    )
    rows: list[tuple[Cell, ...]] = []
    for k in counts:
        titles, made = found.titles(k), found.made[k]
        shown = {BASE: (found.base, None), **{w: (found.conditions[w, k], made.exponents.get(w)) for w in WAYS}}
        for way, (c, exponent) in shown.items():
            ratio = c.perplexity_ratio(found.base) if way != BASE else 1.0
            rows.append((f"K={k}, {way}", c.mean_rate(titles), c.joint_rate(titles), ratio, c.moved, c.distinct_3,
                         exponent))  # fmt: skip
    columns = (
        Column(title="constraints and way"),
        Column(title="mean rate", form=".0%"),
        Column(title="all at once", form=".0%"),
        Column(title="perplexity ratio", form=".2f"),
        Column(title="moved (nats/token)", form=".2f"),
        Column(title="Dist-3", form=".2f"),
        Column(title="exponent", form=".2f"),
    )
    note = "The exponent is that of the ratio to the base: 1 is the tuned model, or the prompt, as it is."
    each: list[tuple[Cell, ...]] = [
        (f"K={k}, {way}", *(found.conditions[way, k].rate(t) for t in found.titles(counts[-1])))
        for k in counts
        for way in WAYS
    ]
    each.insert(0, (BASE, *(found.base.rate(t) for t in found.titles(counts[-1]))))
    all_columns = (Column(title="way"), *(Column(title=t, form=".0%") for t in found.titles(counts[-1])))
    blocks = (
        scatter,
        Table(title="Every way", columns=columns, rows=tuple(rows), note=note),
        Table(title="Every constraint", columns=all_columns, rows=tuple(each),
              note="Also those that were not asked for yet: what a way does to them unasked."),
        _double_counting(found, counts),
    )  # fmt: skip
    return Section(title="Rates against cost", blocks=blocks)


def _double_counting(found: Found, counts: Sequence[int]) -> Table:
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (f"K={k}", c.sum_of_strengths, c.divergence, ", ".join(f"{n}^{e:.2f}" for n, e in c.exponents.items()))
        for k in counts
        for c in (found.made[k].composition,)
    )
    columns = (
        Column(title="constraints"),
        Column(title="strengths, summed", form=".2f"),
        Column(title="moved together (nats/token)", form=".2f"),
        Column(title="exponents"),
    )
    return Table(
        title="Budget of the factors",
        columns=columns,
        rows=rows,
        note=f"Independent factors would move the base by about the sum of their strengths. All together are held to "
        f"{found.work.writing.budget:g} nats per token.",
    )


def examples_section(found: Found, count: int) -> Section:
    """A few texts of every way."""
    texts = []
    for number, prompt in enumerate(found.work.prompts[:2]):
        texts.append((BASE, prompt, found.base.samples[number][0].text))
        texts += [(way, prompt, found.conditions[way, count].samples[number][0].text) for way in WAYS]
    title = f"The first two prompts, {', '.join(found.titles(count))}"
    return Section(title="Texts", blocks=(Samples(title=title, texts=tuple(texts)),))


def judges_section(work: Work) -> Section:
    """Who judges each constraint, and how well."""
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (c.title, e.name, e.accuracy, e.num_tests) for c, e in work.examiners.items()
    )
    columns = (
        Column(title="constraint"),
        Column(title="judged by"),
        Column(title="accuracy", form=".0%"),
        Column(title="test texts", form="d"),
    )
    text = (
        "Judges read the continuation alone. Where the shelf has no judge of an attribute, one was learned from "
        "texts that neither the heads nor the fine-tuning learned from; they are of the same origin, so it may reward "
        "that origin's manner. Accuracy weighs both classes the same."
    )
    return Section(title="Judges", blocks=(Table(title="Who judges", columns=columns, rows=rows), Prose(text=text)))
