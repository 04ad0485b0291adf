"""Control: how often texts are as wanted, against no guide, an instruction, a head, FUDGE and the best of several."""

# Axes: P prompts.

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat, PositiveInt

from factorlm.evaluation.document import Cell, Column, Scatter, Section, Series, Table
from factorlm.evaluation.document import Samples as Shown
from factorlm.evaluation.guided.goals import WANTED, Wanted
from factorlm.evaluation.guided.measured import Group, measured
from factorlm.evaluation.guided.writing import Guiding, Way, best_of
from factorlm.evaluation.intervals import Comparison, Estimate, compare
from factorlm.evaluation.judging import Reader
from factorlm.evaluation.part import Part
from factorlm.evaluation.responses import Samples, distinct_prompts, respond
from factorlm.evaluation.rivals.goals import GOALS
from factorlm.evaluation.rivals.kept import Kept
from factorlm.evaluation.rivals.methods import Dials, bare, rivals_of
from factorlm.evaluation.rivals.rival import bounded
from factorlm.factors.examples import Example, Split, split
from factorlm.inference.guide_names import find_guide
from factorlm.settings import Config

NONE, PLAN, GUIDE, HEAD, BOTH, BEST = "nothing", "plan, no guide", "guide", "head", "head and guide", "best of"
SHOWN = 3  # texts of a method

Doses = tuple[PositiveFloat, ...]


class Control(Config):
    """Settings of this part.

    Attributes:
        wanted: see `goals.WANTED`.
        num_prompts: of each.
        doses: strengths of guides.
        emphasis: powers of what a plan changes, at the strength `emphasised`.
        emphasised: strength of the guide for these, and beside a head.
        heads: strengths of heads, in nats per token; the first also beside a guide.
        best_of: numbers of texts of which the guide's classifier takes the best; 2 takes about the time of a guide.
        prompting: exponents of the instruction.
        fudge: exponents of the candidates' posterior; empty leaves it out.
        fudge_texts: of each class that its classifier learns from.
    """

    wanted: tuple[str, ...] = tuple(WANTED)
    num_prompts: Annotated[int, Field(ge=2)] = 60
    doses: Doses = (3.0, 10.0, 30.0, 100.0)
    emphasis: Doses = (2.0,)
    emphasised: PositiveFloat = 30.0
    heads: Doses = (0.2, 0.4)
    best_of: tuple[PositiveInt, ...] = (2, 4)
    prompting: Doses = (1.0,)
    fudge: Doses = (2.0,)
    fudge_texts: PositiveInt = 400


@dataclass(frozen=True, eq=False)
class Work:
    """What is measured of one wish.

    Attributes:
        guiding: where guided texts come from.
        settings: of this part.
        wanted: the wish.
        reader: who judges.
        prompts: that are continued.
        groups: texts by way of writing, filled on the way.
    """

    guiding: Guiding
    settings: Control
    wanted: Wanted
    reader: Reader
    prompts: list[str]
    groups: list[Group] = field(default_factory=list)

    def add(self, method: str, dial: float | None, samples: Samples, *, planned: float | None = None,
            written: float | None = None, likeness: float | None = None) -> None:  # fmt: skip
        """Judge texts, and keep what is said of them."""
        self.groups.append(
            measured(self.guiding.bench, self.reader, self.wanted.label, method, dial, samples,
                     planned=planned, written=written, likeness=likeness)
        )  # fmt: skip

    def add_guided(self, method: str, dial: float | None, way: Way) -> None:
        """Write in a guided way, and judge."""
        found = self.guiding.write(way, self.prompts, f"writing {self.wanted.name}: {method} {dial or ''}".strip())

        def mean(values: NDArray[np.float64]) -> float | None:
            kept = values[~np.isnan(values)]
            return float(kept.mean()) if kept.size else None

        turned = 1 if self.wanted.sign > 0 else -1  # probability of what is wanted
        planned, written = (
            mean(values[..., 0]) if way.strengths else None for values in (found.planned_PSG, found.written_PSG)
        )
        planned, written = (p if p is None or turned > 0 else 1 - p for p in (planned, written))
        self.add(method, dial, found.samples, planned=planned, written=written, likeness=mean(found.likeness_PS))


def measure_control(guiding: Guiding, settings: Control, readers: dict[str, Reader]) -> Part:
    """Write with each method at each setting of its dial, and judge."""
    parts = [_of(guiding, settings, WANTED[name], readers[WANTED[name].judge]) for name in settings.wanted]
    cautions = ["A guide's setting at the head of this page is the best of several: some of that is luck."]
    if settings.num_prompts < 100:
        cautions.append(
            f"With {settings.num_prompts} prompts a rate near one half is known to about "
            f"±{1 / settings.num_prompts**0.5:.0%}."
        )
    return Part.joined([*parts, Part(sections=(), cautions=tuple(cautions))])


def _of(guiding: Guiding, settings: Control, wanted: Wanted, reader: Reader) -> Part:
    bench = guiding.bench
    prompts = _prompts(guiding, settings, wanted)
    work = Work(guiding, settings, wanted, reader, prompts)
    several = max((1, *settings.best_of))
    plain = _plain(work, several)
    work.add(NONE, None, [row[: guiding.how.samples] for row in plain])
    work.add_guided(PLAN, None, Way({}))
    for dose in settings.doses:
        work.add_guided(GUIDE, dose, Way(wanted.strengths(dose)))
    for emphasis in settings.emphasis:
        way = Way(wanted.strengths(settings.emphasised), emphasis=emphasis)
        work.add_guided(f"{GUIDE}, emphasis {emphasis:g}", settings.emphasised, way)
    _add_best(work, plain)
    _add_rivals(work)
    if wanted.head and settings.heads:
        for strength in settings.heads:
            work.add(HEAD, strength, _headed(work, strength))
        way = Way(wanted.strengths(settings.emphasised), factors={wanted.head: wanted.sign * settings.heads[0]})
        work.add_guided(BOTH, settings.heads[0], way)
    bench.report(f"{wanted.name} measured", 1, 1)
    return _part(work)


def _prompts(guiding: Guiding, settings: Control, wanted: Wanted) -> list[str]:
    """Distinct prompts; a set with fewer is used whole."""
    known = {str(row["prompt"]) for row in guiding.bench.data.rows(wanted.prompts) if row.get("prompt")}
    return distinct_prompts(guiding.bench, wanted.prompts, min(settings.num_prompts, len(known)))


def _plain(work: Work, several: int) -> Samples:
    how = work.guiding.how
    return respond(
        work.guiding.bench, bare(work.guiding.bench), work.prompts, n=how.samples * several, max_tokens=how.max_tokens,
        sampling=how.sampling, stage=f"writing {work.wanted.name}: nothing",
    )  # fmt: skip


def _headed(work: Work, strength: float) -> Samples:
    how = work.guiding.how
    return respond(
        work.guiding.bench, bare(work.guiding.bench), work.prompts, n=how.samples, max_tokens=how.max_tokens,
        sampling=how.sampling, stage=f"writing {work.wanted.name}: head {strength:g}",
        strengths={work.wanted.head: work.wanted.sign * strength},
    )  # fmt: skip


def _add_best(work: Work, plain: Samples) -> None:
    """The best of several by the very classifier that guides."""
    guiding, wanted = work.guiding, work.wanted
    meanings = guiding.loaded
    guide = find_guide(wanted.guide, meanings)

    def score(texts: list[str]) -> list[float]:
        latent_BD = meanings.after.latent(meanings.encode(texts))
        return [wanted.sign * value for value in guide.log_prob(latent_BD).tolist()]

    samples = guiding.how.samples
    for number in work.settings.best_of:
        picked = [best_of([row[number * s : number * (s + 1)] for row in plain], score, number) for s in range(samples)]
        work.add(BEST, float(number), [[picked[s][p][0] for s in range(samples)] for p in range(len(plain))])


def _add_rivals(work: Work) -> None:
    """An instruction before the text, and FUDGE where there are texts to learn from."""
    wanted, settings, guiding = work.wanted, work.settings, work.guiding
    bench, folder = guiding.bench, guiding.bench.cache.folder
    fudge = settings.fudge if wanted.rivals is not None else ()
    none: Split = Split((), ())
    if wanted.rivals is None:
        goal = replace(GOALS["positive"], wordings=wanted.wordings, sign=1)
        parts = none
    else:
        goal = replace(wanted.rivals, wordings=wanted.wordings, sign=wanted.sign)
        examples: list[Example] = wanted.rivals.examples(bench.data) if fudge else []
        parts = bounded(split(examples), settings.fudge_texts) if fudge else none
    dials = Dials(prompting=settings.prompting, dexperts=(), gedi=(), fudge=fudge, lm_steer=(), activation=(),
                  arithmetic=())  # fmt: skip
    kept = Kept(None if folder is None else folder.parent / "rivals")
    for method in rivals_of(bench, goal, dials, parts, kept, guiding.how):
        for dose in method.doses:
            stage = f"writing {wanted.name}: {method.name} {dose:g}"
            work.add(method.name, dose, method.write(dose, work.prompts, stage))


def _part(work: Work) -> Part:
    wanted, seed = work.wanted, work.guiding.bench.seed
    base = work.groups[0]
    columns = (
        Column(title="way"),
        Column(title="dial", form=".3g"),
        Column(title=f"{wanted.label} ({work.reader.name})", form=".0%",
               best="low" if wanted.is_absence else "high"),
        Column(title="base perplexity", form=".1f", best="low"),
        *(Column(title=f"Dist-{n}", form=".2f") for n in (1, 2, 3)),
        Column(title="plan as wanted, by the guide", form=".2f"),
        Column(title="text as wanted, by the guide", form=".2f"),
        Column(title="cosine of text and plan", form=".2f"),
    )  # fmt: skip
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (g.method, g.dial, g.rate(seed), g.price(seed), *g.distinct, g.planned, g.written, g.likeness)
        for g in work.groups
    )
    note = (
        f"{len(work.prompts)} prompts of {wanted.prompts}. Guides are classifiers of sentence vectors; the judge reads "
        "words or characters, and learned from other texts. The best of several is taken by the guide's own classifier "
        "and costs so many times the time."
    )
    methods = list(dict.fromkeys(g.method for g in work.groups))
    scatter = Scatter(
        title=f"{wanted.name}: rate against perplexity", x_label="perplexity under the base model",
        y_label=f"texts judged {wanted.label}", y_is_percent=True,
        series=tuple(
            Series(name=m, x=tuple(g.price(seed) for g in mine), y=tuple(g.rate(seed) for g in mine),
                   labels=tuple("" if g.dial is None else f"{g.dial:g}" for g in mine))
            for m in methods for mine in [[g for g in work.groups if g.method == m]]
        ),
        best="lower left" if wanted.is_absence else "upper left",
    )  # fmt: skip
    shown = Shown(
        title=f"Texts: {wanted.name}",
        texts=tuple(
            (g.name, work.prompts[p], g.samples[p][0].text) for g in work.groups for p in range(SHOWN)
            if g.method in (NONE, GUIDE, BOTH)
        ),
    )  # fmt: skip
    table = Table(title=wanted.name, columns=columns, rows=rows, note=note)
    section = Section(title=f"Control: {wanted.name}", blocks=(table, scatter, shown))
    best = _best(work)
    measures = {
        f"{wanted.name}, rate": {g.name: g.rate(seed) for g in work.groups},
        f"{wanted.name}, base perplexity": {g.name: g.price(seed) for g in work.groups},
        f"{wanted.name}, rate less that of nothing": {
            g.name: _difference(wanted, g, base, seed).difference for g in work.groups[1:]
        },
    }
    line = (
        f"{wanted.name}: {_percent(base.rate(seed))} of texts without a guide are judged {wanted.label}, "
        f"{_percent(best.rate(seed))} with the guide at {best.dial:g}, at {_times(best, base, seed)} the perplexity."
    )
    return Part(sections=(section,), measures=measures, headlines=(line,))


def _best(work: Work) -> Group:
    """The guided group with the best rate among those of plain guides."""
    sign = -1 if work.wanted.is_absence else 1
    guided = [g for g in work.groups if g.method == GUIDE]
    return max(guided, key=lambda g: sign * (g.rate(0).value or 0.0))


def _difference(wanted: Wanted, group: Group, base: Group, seed: int) -> Comparison:
    return compare(
        wanted.name, (group.name, group.has_P), (base.name, base.has_P), lower_is_better=wanted.is_absence, seed=seed
    )


def _percent(estimate: Estimate) -> str:
    return "no share" if estimate.value is None else f"{estimate.value:.0%}"


def _times(group: Group, base: Group, seed: int) -> str:
    ours, theirs = group.price(seed).value, base.price(seed).value
    return "an unknown multiple of" if not ours or not theirs else f"{ours / theirs:.2f} times"
