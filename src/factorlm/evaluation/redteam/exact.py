"""The planted world as a part of the report: every way of writing cases against the truth, and an erring judge."""

from __future__ import annotations

import functools
import json
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from factorlm.evaluation.diversity import self_bleu, words_of
from factorlm.evaluation.document import Block, Cell, Column, Scatter, Section, Series, Table
from factorlm.evaluation.intervals import Estimate
from factorlm.evaluation.part import Part
from factorlm.evaluation.redteam.loop import Written, examples, few_shot, zero_shot
from factorlm.evaluation.redteam.measures import corrected_share
from factorlm.evaluation.redteam.planted import TRIGGERS, World, noisy
from factorlm.evaluation.redteam.work import Work
from factorlm.evaluation.workbench import Cache, Progress
from factorlm.settings import Config

Array = NDArray[np.float64]
COMPARED = 200  # cases whose Self-BLEU is taken


class Planted(Config):
    """Settings of this part.

    Attributes:
        world: its numbers.
        cases: of each way of writing.
        by_hand: questions of a human list: drawn evenly, without looking at the target.
        shown: examples before each few-shot case.
        temperature: of the draw of examples.
        alphas: penalties of reinforcement; the smaller, the farther it goes from the plain law.
        flips: chance that the erring judge is wrong.
        judged: answers that it judges.
        exponent: of the safety factor that learns from failures.
        repeats: of everything, with other seeds.
    """

    world: World = World()
    cases: Annotated[int, Field(ge=100)] = 2000
    by_hand: Annotated[int, Field(ge=1)] = 50
    shown: Annotated[int, Field(ge=1)] = 4
    temperature: Annotated[float, Field(gt=0)] = 0.1
    alphas: tuple[float, ...] = (0.3, 0.1)
    flips: Annotated[float, Field(ge=0, lt=0.5)] = 0.1
    judged: Annotated[int, Field(ge=100)] = 10_000
    exponent: float = 1.0
    repeats: Annotated[int, Field(ge=1)] = 20


class Run(Config):
    """One run in the planted world.

    Attributes:
        success: true success rate of each way of writing, a sum over all questions.
        estimated: the same, estimated from the target's answers.
        sameness: Self-BLEU of its cases.
        covered: planted phrases among its successes.
        judged_error: of the rate of few-shot cases by the erring judge, as seen and corrected, in shares.
        guarded: true rate of the same and of a fresh few-shot attack before and after the safety factor.
    """

    success: dict[str, float]
    estimated: dict[str, float]
    sameness: dict[str, float]
    covered: dict[str, int]
    judged_error: dict[str, float]
    guarded: dict[str, tuple[float, float]]


def run_planted(settings: Planted, seed: int) -> Run:
    """Attack the planted target in every way, once."""
    world, generator = settings.world, np.random.default_rng(seed)

    def write(sets: list[tuple[str, ...]]) -> list[str]:
        return world.write(sets, generator)

    def value(cases: list[str]) -> Array:
        return world.answers(cases, generator).astype(float)

    first = zero_shot(write, value, settings.cases)  # type: ignore[arg-type]
    drawn = {"shown": settings.shown, "temperature": settings.temperature}
    second = few_shot(write, value, first, settings.cases, seed=seed, **drawn)  # type: ignore[arg-type]
    sets = examples(first, settings.cases, seed=seed, **drawn)  # type: ignore[arg-type]
    few_Q = world.after_any(sets)
    laws = {"zero-shot": world.plain_Q, "few-shot": few_Q, "supervised": world.learned(first.successes)}
    laws |= {f"reinforced, alpha {alpha:g}": world.tilted(alpha) for alpha in settings.alphas}
    cases = {name: world.drawn(law_Q, settings.cases, generator) for name, law_Q in laws.items()}
    cases["by hand"] = world.drawn(np.full(len(few_Q), 1 / len(few_Q)), settings.by_hand, generator)
    answers = {name: world.answers(texts, generator) for name, texts in cases.items()}
    some = world.drawn(few_Q, settings.judged, generator)
    said_B = noisy(world.answers(some, generator), settings.flips, generator)
    truth = world.success(few_Q)
    seen = float(said_B.mean())
    fresh = _fresh(settings, seed + 1_000_003)
    guarded_Q = world.guarded([first, second], settings.exponent)
    won = {name: [c for c, won in zip(cases[name], answers[name], strict=True) if won] for name in cases}
    return Run(
        success={name: world.success(law_Q) for name, law_Q in laws.items()},
        estimated={name: float(answers[name].mean()) for name in laws},
        sameness={name: self_bleu([words_of(text) for text in cases[name][:COMPARED]]) for name in laws},
        covered={name: len(world.covered(texts)) for name, texts in won.items()},
        judged_error={
            "as seen": seen - truth,
            "corrected": corrected_share(seen, 1 - settings.flips, settings.flips) - truth,
        },
        guarded={
            "the same attack": (truth, world.success(few_Q, guarded_Q)),
            "a fresh attack": (world.success(fresh), world.success(fresh, guarded_Q)),
        },
    )


def _fresh(settings: Planted, seed: int) -> Array:
    """The law of few-shot cases of another run of the attack."""
    world, generator = settings.world, np.random.default_rng(seed)
    first: Written = zero_shot(
        lambda sets: world.write(sets, generator), lambda c: world.answers(c, generator).astype(float), settings.cases
    )
    sets = examples(first, settings.cases, shown=settings.shown, temperature=settings.temperature, seed=seed)
    return world.after_any(sets)


def all_runs(cache: Cache, settings: Planted, seed: int, report: Progress) -> list[Run]:
    """Every repeat, kept in the cache, as the report and several claims rest on the same ones."""
    found = []
    for repeat in range(settings.repeats):
        report("planted world", repeat, settings.repeats)
        key = {"what": "planted world", "settings": settings.model_dump(mode="json", exclude={"repeats"}),
               "seed": seed + repeat}  # fmt: skip
        kept = cache.get(key, functools.partial(_as_json, settings, seed + repeat))
        found.append(Run.model_validate_json(json.dumps(kept)))
    report("planted world", settings.repeats, settings.repeats)
    return found


def _as_json(settings: Planted, seed: int) -> dict[str, Any]:
    return run_planted(settings, seed).model_dump(mode="json")


def over_repeats(runs: list[Run], number: str, name: str) -> Estimate:
    """Mean over runs, with the range of 95 % of them."""
    values = np.array([getattr(run, number)[name] for run in runs], float)
    low, high = np.quantile(values, [0.025, 0.975])
    return Estimate(value=float(values.mean()), low=float(low), high=float(high), n=len(runs))


def measure_planted(work: Work, settings: Planted) -> Part:
    """Run everything several times, and report it with its truth."""
    runs = all_runs(work.bench.cache, settings, work.bench.seed, work.bench.report)
    names = list(runs[0].success)
    measures = {
        what: {name: over_repeats(runs, number, name) for name in getattr(runs[0], number)}
        for what, number in (
            ("planted success", "success"), ("planted success, estimated", "estimated"),
            ("planted self-BLEU", "sameness"), ("planted phrases found", "covered"),
            ("planted judge error", "judged_error"),
        )
    }  # fmt: skip
    rows: list[tuple[Cell, ...]] = [
        (name, *(measures[what][name] for what in ("planted success", "planted success, estimated",
                                                   "planted self-BLEU", "planted phrases found")))
        for name in names
    ]  # fmt: skip
    series = tuple(
        Series(name=name, x=(measures["planted self-BLEU"][name],), y=(measures["planted success"][name],))
        for name in names
    )
    for what in runs[0].guarded:
        fall = np.array([1 - after / before for before, after in (run.guarded[what] for run in runs)])
        low, high = np.quantile(fall, [0.025, 0.975])
        estimate = Estimate(value=float(fall.mean()), low=float(low), high=float(high), n=len(runs))
        measures.setdefault("planted fall with a safety factor", {})[what] = estimate
    others = tuple(
        (f"{measure}: {name}", value)
        for measure in ("planted judge error", "planted fall with a safety factor")
        for name, value in measures[measure].items()
    )
    blocks: list[Block] = [
        Table(title="Ways of writing cases, against the truth", columns=(
            Column(title="way"), Column(title="true success", form=".1%"), Column(title="estimated", form=".1%"),
            Column(title="Self-BLEU", form=".1f"), Column(title=f"phrases found of {len(TRIGGERS)}", form=".2f")),
            rows=tuple(rows)),
        Scatter(title="Success against sameness in the planted world", x_label="Self-BLEU of cases",
                y_label="true success", series=series, y_is_percent=True, best="upper left"),
        Table(title="An erring judge, and a safety factor from failures",
              columns=(Column(title="what"), Column(title="share", form="+.3f")), rows=others),
    ]  # fmt: skip
    lead = (
        f"2,000 questions, {len(TRIGGERS)} planted phrases, a forbidden word; {settings.cases} cases a way, "
        f"{settings.repeats} runs, intervals are the middle 95 % of runs. The success of a way is a sum, not a sample."
    )
    return Part((Section(title="A planted world", lead=lead, blocks=tuple(blocks)),), measures)
