"""Control: how often texts have an attribute, by judges that do not steer, at each strength and each cost."""

# Axes: P prompts.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated

import numpy as np
from pydantic import Field

from factorlm.errors import InputError
from factorlm.evaluation.document import (
    Cell,
    Column,
    Curve,
    Matrix,
    Scatter,
    Section,
    Series,
    Table,
)
from factorlm.evaluation.intervals import Comparison, Estimate, adjusted, compare, mean_interval
from factorlm.evaluation.judges import Judge, judge_names, judges_for, load_judge
from factorlm.evaluation.judging import (
    Verdicts,
    agreement,
    base_perplexity,
    divergence,
    judge_blocks,
    judged,
)
from factorlm.evaluation.rates import AttributeRate
from factorlm.evaluation.responses import Samples, base_nats, distinct_prompts, respond
from factorlm.evaluation.workbench import Findings, Workbench
from factorlm.factors.store import manifests
from factorlm.inference import Sampling
from factorlm.inference.expression import compose, written
from factorlm.settings import Config

LOW_AGREEMENT = 0.3


class Settings(Config):
    """Settings of the suite.

    Attributes:
        prompts: data set with `prompt`, continued by the models; the first distinct ones are taken.
        num_prompts: how many.
        samples: texts for each prompt.
        max_tokens: of a text.
        sampling: how tokens are drawn.
        factors: turned up and down alone, over the bare language model; empty takes those of the model that a judge
            has a label for, else those of the store.
        strengths: signed nats per token at which they are measured; zero is always among them.
        interference: the strength at which effects on other attributes are shown; the nearest one measured is taken.
        judges: names; empty takes all that are there.
    """

    prompts: str = "sentiment_prompts/neutral"
    num_prompts: Annotated[int, Field(ge=2)] = 40
    samples: Annotated[int, Field(ge=1)] = 1
    max_tokens: Annotated[int, Field(ge=1)] = 20
    sampling: Sampling = Sampling(top_p=0.9)
    factors: tuple[str, ...] = ()
    strengths: tuple[float, ...] = (-0.4, 0.0, 0.2, 0.4, 0.6)
    interference: float = 0.4
    judges: tuple[str, ...] = ()

    @classmethod
    def sized(cls, size: str) -> Settings:
        """Minutes, or what one would publish."""
        if size == "small":
            return cls()
        return cls(num_prompts=200, strengths=(-0.8, -0.6, -0.4, -0.2, 0.0, 0.2, 0.4, 0.6, 0.8))


@dataclass(frozen=True, eq=False)
class Condition:
    """Texts written in one way, with everything said of them; each number is found once.

    Attributes:
        name: for tables.
        samples: the texts.
        verdicts: of each judge, by name.
        seed: of the intervals.
    """

    name: str
    samples: Samples
    verdicts: dict[str, Verdicts]
    seed: int
    rates: dict[tuple[str, str], AttributeRate] = field(default_factory=dict, init=False)

    def rate(self, judge: str, label: str) -> AttributeRate:
        """Share of the texts that a judge gives a label."""
        if (judge, label) not in self.rates:
            self.rates[judge, label] = self.verdicts[judge].rate(label, self.seed)
        return self.rates[judge, label]

    @cached_property
    def price(self) -> Estimate:
        """Perplexity of the texts under the base model."""
        return base_perplexity(self.samples, self.seed)

    @cached_property
    def moved(self) -> Estimate:
        """Nats a token that they lie from the base model."""
        return divergence(self.samples, self.seed)


def run(bench: Workbench, settings: Settings) -> Findings:
    """Measure attribute rates of the models as they are, and of each factor over the range of strengths."""
    strengths = sorted({0.0, *settings.strengths})
    if len(strengths) < 2:
        raise InputError("at least one strength other than 0 is needed, got none; try --set strengths=[-0.3,0.3]")
    prompts = distinct_prompts(bench, settings.prompts, settings.num_prompts)
    factors = targets(bench, settings)
    judges = [load_judge(name) for name in settings.judges or judge_names()]
    mine = {f: sorted((j for j in judges if f in j.labels), key=lambda j: -j.card.accuracy) for f in factors}
    for name, found in mine.items():
        if not found:
            raise InputError(f"a judge of {name!r} is needed, got {', '.join(j.name for j in judges)}; add one")

    def condition(name: str, samples: Samples) -> Condition:
        verdicts = {j.name: judged(bench, j, samples, f"judging {name}") for j in judges}
        return Condition(name, samples, verdicts, bench.seed)

    common = {"n": settings.samples, "max_tokens": settings.max_tokens, "sampling": settings.sampling}
    models = [
        condition(name, respond(bench, m, prompts, stage=f"writing {name}", **common))  # type: ignore[arg-type]
        for name, m in zip(bench.names, bench.models, strict=True)
    ]
    lm = bench.models[0].model.lm
    bare = compose(written(lm.name), dtype=str(lm.model.dtype).removeprefix("torch."), device=lm.device.type)
    doses: dict[str, dict[float, Condition]] = {}
    for factor in factors:
        doses[factor] = {}
        for strength in strengths:
            given = {factor: strength} if strength else {}
            samples = respond(
                bench, bare, prompts, stage=f"writing {factor} {strength:+g}", strengths=given, **common  # type: ignore[arg-type]
            )  # fmt: skip
            doses[factor][strength] = condition(f"{factor} {strength:+g}", samples)
    return _findings(bench, settings, models, doses, mine, judges)


def targets(bench: Workbench, settings: Settings) -> list[str]:
    """The factors to turn: those asked for, else those of the model, else those of the store, if a judge knows them.

    Raises:
        InputError: if there are none.
    """
    if settings.factors:
        return list(dict.fromkeys(settings.factors))
    in_model = [p["name"] for m in bench.models for p in m.parts if p["kind"] != "model"]
    in_store = [manifest.name for _, manifest in manifests()]
    for names in (in_model, in_store):
        if known := [name for name in dict.fromkeys(names) if judges_for(name)]:
            return known
    raise InputError(
        "control needs a factor whose name is a label of a judge, such as positive; factorlm factor list shows "
        "factors, and factorlm eval judge list shows judges"
    )


def _findings(
    bench: Workbench,
    settings: Settings,
    models: list[Condition],
    doses: dict[str, dict[float, Condition]],
    mine: dict[str, list[Judge]],
    judges: list[Judge],
) -> Findings:
    seed = bench.seed
    measures: dict[str, dict[str, Estimate]] = {}
    comparisons: list[Comparison] = []
    for factor, found in mine.items():
        for judge in found:
            rates = {c.name: c.rate(judge.name, factor) for c in models}
            measures[f"{factor} by {judge.name}"] = {name: rate.raw for name, rate in rates.items()}
            measures[f"{factor} by {judge.name}, corrected"] = {name: rate.corrected for name, rate in rates.items()}
            comparisons += [
                compare(
                    f"{factor} by {judge.name}",
                    (models[0].name, models[0].verdicts[judge.name].share(factor)),
                    (rival.name, rival.verdicts[judge.name].share(factor)),
                    lower_is_better=factor == "toxic",
                    seed=seed,
                )
                for rival in models[1:]
            ]
    measures["base perplexity"] = {c.name: c.price for c in models}
    comparisons += [
        compare(
            "base perplexity",
            (models[0].name, base_nats(models[0].samples)),
            (rival.name, base_nats(rival.samples)),
            statistic=lambda mean_RC: np.exp(mean_RC[:, 0] / mean_RC[:, 1]),
            lower_is_better=True,
            seed=seed,
        )
        for rival in models[1:]
    ]
    sections = [_as_given(models, judges)]
    headlines, cautions = [], []
    for factor, by_strength in doses.items():
        sections.append(_dose_section(factor, by_strength, models, mine[factor]))
        first = mine[factor][0].name
        steps = [f"{_percent(c.rate(first, factor).raw)} at {_signed(s)}" for s, c in by_strength.items()]
        headlines.append(f"{factor}: judged so by {first} {', '.join(steps)} nats a token.")
        everything = [*by_strength.values(), *models]
        for judge in mine[factor][1:]:
            kappa = _pooled_agreement(everything, first, judge.name, factor)
            if kappa is not None and kappa < LOW_AGREEMENT:
                cautions.append(
                    f"{first} and {judge.name} agree little about {factor} on these texts (kappa {kappa:.2f}): "
                    "trust what both say."
                )
        for s, c in by_strength.items():
            seen = {j.name: c.rate(j.name, factor).raw for j in mine[factor]}
            measures[f"{factor} {s:+g}"] = {**seen, "base perplexity": c.price}
    sections.append(_interference(settings, doses, judges))
    sections.append(Section(title="Judges", blocks=judge_blocks(judges)))
    if settings.num_prompts < 100:
        cautions.append(
            f"With {settings.num_prompts} prompts a rate near one half is known to about "
            f"±{1 / settings.num_prompts**0.5:.0%}."
        )
    empty = sum(not s.text.strip() for c in models for row in c.samples for s in row)
    if empty:
        cautions.append(f"{empty} texts are empty and were left out of the rates.")
    return Findings(
        title="Control: " + ", ".join(doses),
        sections=tuple(sections),
        measures=measures,
        comparisons=tuple(adjusted(comparisons)),
        headlines=tuple(headlines),
        cautions=tuple(cautions),
    )


def _signed(strength: float) -> str:
    return f"{strength:+g}" if strength else "0"


def _percent(share: Estimate) -> str:
    return "not measured" if share.value is None else f"{share.value:.0%}"


def _pooled_agreement(conditions: Sequence[Condition], first: str, second: str, label: str) -> float | None:
    def pooled(judge: str) -> Verdicts:
        parts = [c.verdicts[judge] for c in conditions]
        return Verdicts(parts[0].judge, np.concatenate([v.prob_PSL for v in parts]))

    return agreement(pooled(first), pooled(second), label)


def _as_given(models: list[Condition], judges: list[Judge]) -> Section:
    labels = [(j, label) for j in judges for label in shown_labels(j)]
    columns = (
        Column(title="model"),
        *(Column(title=f"{label} ({j.name})", form=".0%") for j, label in labels),
        Column(title="base perplexity", form=".1f", best="low"),
        Column(title="moved (nats/token)", form=".2f"),
    )
    rows: list[tuple[Cell, ...]] = []
    for c in models:
        rows.append((c.name, *(c.rate(j.name, label).raw for j, label in labels), c.price, c.moved))
    table = Table(
        title="Every attribute of every model",
        columns=columns,
        rows=tuple(rows),
        note="Shares as judged. Where models are compared, better means a higher rate, for toxic a lower one.",
    )
    return Section(
        title="The models as given",
        lead="All attributes at once: what the composition as a whole does to every attribute that a judge knows.",
        blocks=(table,),
    )


def shown_labels(judge: Judge) -> list[str]:
    """The labels whose rates are shown: the second of two, or all of more."""
    return list(judge.labels[1:]) if len(judge.labels) == 2 else list(judge.labels)


def _dose_section(
    factor: str, by_strength: dict[float, Condition], models: list[Condition], judges: list[Judge]
) -> Section:
    strengths = tuple(by_strength)
    conditions = list(by_strength.values())
    rates = {j.name: [c.rate(j.name, factor) for c in conditions] for j in judges}
    first = judges[0].name
    series = [Series(name=f"by {n}", x=strengths, y=tuple(r.raw for r in found)) for n, found in rates.items()]
    if all(r.corrected.value is not None for r in rates[first]):
        corrected = tuple(r.corrected for r in rates[first])
        series.append(Series(name=f"by {first}, corrected", x=strengths, y=corrected, is_reference=True))
    dose = Curve(
        title=f"Texts judged {factor} against the strength of {factor}",
        x_label="strength (nats per token)",
        y_label=f"texts judged {factor}",
        series=tuple(series),
        is_percent=True,
        note="Bands are 95 % intervals over prompts; the dashed line undoes the judge's errors.",
    )
    points = [
        Series(
            name=factor,
            x=tuple(c.price for c in conditions),
            y=tuple(r.raw for r in rates[first]),
            labels=tuple(map(_signed, strengths)),
        )
    ]
    for c in models:
        rate = c.rate(first, factor).raw
        if rate.value is not None:
            points.append(Series(name=c.name, x=(c.price,), y=(rate,)))
    pareto = Scatter(
        title=f"What {factor} texts cost",
        x_label="perplexity under the base model",
        y_label=f"texts judged {factor}",
        series=tuple(points),
        y_is_percent=True,
        best="lower left" if factor == "toxic" else "upper left",
        note=f"Judged by {first}; the line joins strengths in order.",
    )
    columns = (
        Column(title="strength", form="+.2f"),
        *(Column(title=f"by {n}", form=".0%") for n in rates),
        Column(title=f"corrected ({first})", form=".0%"),
        Column(title="base perplexity", form=".1f"),
        Column(title="moved (nats/token)", form=".2f"),
    )
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (
            s,
            *(found[i].raw for found in rates.values()),
            rates[first][i].corrected,
            c.price,
            c.moved,
        )
        for i, (s, c) in enumerate(by_strength.items())
    )
    return Section(
        title=f"Dose and response: {factor}",
        lead="The factor alone over the bare language model, at each strength, with the same prompts and seeds.",
        blocks=(dose, pareto, Table(title=f"{factor} by strength", columns=columns, rows=rows)),
    )


def _interference(settings: Settings, doses: dict[str, dict[float, Condition]], judges: list[Judge]) -> Section:
    labels = [(j, label) for j in judges for label in shown_labels(j)]
    values, names = [], []
    for factor, by_strength in doses.items():
        strength = min((s for s in by_strength if s), key=lambda s: abs(s - settings.interference))
        row = []
        for j, label in labels:
            change_P = by_strength[strength].verdicts[j.name].share(label) - by_strength[0.0].verdicts[j.name].share(
                label
            )
            row.append(mean_interval(change_P).value)
        names.append(f"{factor} {strength:+g}")
        values.append(tuple(row))
    matrix = Matrix(
        title="Change of every attribute's rate, in points",
        row_label="factor",
        column_label="attribute (judge)",
        rows=tuple(names),
        columns=tuple(f"{label} ({j.name})" for j, label in labels),
        values=tuple(tuple(None if v is None else 100 * v for v in row) for row in values),
        form="+.0f",
        is_signed=True,
        note=f"Against the bare model on the same prompts. A change under about {100 / settings.num_prompts**0.5:.0f} "
        "points is within chance.",
    )
    return Section(title="Interference", lead="What a factor does to attributes it is not meant for.", blocks=(matrix,))
