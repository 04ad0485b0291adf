"""Editing: facts written into weights, what that does to the rest, and what factors do instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from factorlm.errors import InputError
from factorlm.evaluation.edited.cases import Case, counterfact_cases, first_token_cases, world_cases
from factorlm.evaluation.edited.ground import Ground, probed
from factorlm.evaluation.edited.grounds import real_ground, world_ground
from factorlm.evaluation.edited.hard import BARE, HARD, ORDINARY, WITH_START, Reading, hard_part, hard_rows
from factorlm.evaluation.edited.layers import layers_part
from factorlm.evaluation.edited.removal import measure_removal
from factorlm.evaluation.edited.series import series_part, series_rows
from factorlm.evaluation.edited.singles import NONE, single_rows, singles_part
from factorlm.evaluation.edited.ways import BESIDE, IN_WEIGHTS, Doses
from factorlm.evaluation.facts import Training, WorldSettings, make_world
from factorlm.evaluation.part import Part
from factorlm.evaluation.workbench import Findings, Workbench
from factorlm.models.editing.methods import EditSettings
from factorlm.models.editing.values import ValueSettings
from factorlm.settings import Config

PartName = Literal["world", "model", "hard"]
CAUTIONS = (
    "Facts of CounterFact are those whose old target the model under test prefers to the new one behind the prompt, "
    "which is not to know them: behind other wordings it may not, and of neighbours it is often wrong before any edit.",
    "The fact world is a small network that has read templates only; what it shows of methods is exact there, and no "
    "proof for large models.",
)


class FactWorld(Config):
    """The fact world.

    Attributes:
        world: how large it is; every fact is stated equally often, so that all are known.
        strangers: texts about people who come up once.
        training: of the network.
        doses: how facts are written. Changed at the subject, a network of six layers hardly gives up a fact; it brings
            subject and relation together at the end of the prompt, and there, in the last layer, facts are written.
        singles: facts changed one by one.
        stops: numbers of facts in one model that are measured.
        removed: facts that are written and taken back.
        guard: sentences of the small guard.
        large: of the large one.
        questions: about people whom no fact is about.
        tokens: to take keys from.
        max_tokens: of a text written behind each changed fact.
    """

    world: WorldSettings = WorldSettings(subjects=96, objects=16, first_names=24, frequencies=(24,))
    strangers: PositiveInt = 2000
    training: Training = Training(width=128, depth=6, epochs=4, batch_texts=32, learning_rate=2e-3)
    doses: Doses = Doses(edit=EditSettings(layer=5, value=ValueSettings(place="prompt")))
    singles: PositiveInt = 30
    stops: tuple[PositiveInt, ...] = (1, 3, 10, 30, 100)
    removed: PositiveInt = 4
    guard: PositiveInt = 50
    large: PositiveInt = 400
    questions: PositiveInt = 60
    tokens: PositiveInt = 20_000
    max_tokens: Annotated[int, Field(ge=0)] = 0


class RealModel(Config):
    """The model under test, on CounterFact.

    Attributes:
        doses: how facts are written.
        is_known: take only facts whose old target the model prefers to the new one, behind the prompt.
        singles: facts changed one by one.
        stops: numbers of facts in one model that are measured; empty measures none.
        guard, large, questions, tokens, max_tokens: as in `FactWorld`; questions are of each of two sets.
    """

    doses: Doses = Doses(edit=EditSettings(value=ValueSettings(prefixes=(5, 10), steps=20)))
    is_known: bool = True
    singles: PositiveInt = 3
    stops: tuple[PositiveInt, ...] = ()
    guard: PositiveInt = 50
    large: PositiveInt = 50
    questions: PositiveInt = 6
    tokens: PositiveInt = 5000
    max_tokens: Annotated[int, Field(ge=0)] = 16


class FirstTokens(Config):
    """Subjects that are the first token.

    Attributes:
        cases: of each kind.
        readings: with or without a start token.
    """

    cases: PositiveInt = 3
    readings: tuple[Reading, ...] = (BARE,)


class Settings(Config):
    """Settings of the suite.

    Attributes:
        parts: which to measure, in order.
        ways: of changing a fact.
        world: the fact world.
        model: the model under test.
        hard: first-token subjects, in the model under test.
    """

    parts: tuple[PartName, ...] = ("world", "model", "hard")
    ways: tuple[str, ...] = (*IN_WEIGHTS, *BESIDE)
    world: FactWorld = FactWorld()
    model: RealModel = RealModel()
    hard: FirstTokens = FirstTokens()

    @classmethod
    def sized(cls, size: str) -> Settings:
        """A quarter of an hour on two idle cores, or what one would publish."""
        if size == "small":
            return cls()
        return cls(
            world=FactWorld(singles=100, large=1000, removed=10),
            model=RealModel(
                doses=Doses(), singles=30, stops=(1, 3, 10, 30), large=300, questions=25, tokens=50_000, max_tokens=40
            ),
            hard=FirstTokens(cases=20, readings=(BARE, WITH_START)),
        )


def run(bench: Workbench, settings: Settings) -> Findings:
    """Measure the parts that are asked for.

    Raises:
        InputError: if more than one model is given, or no part or no known way is asked for.
    """
    if len(bench.models) > 1:
        raise InputError(f"one model to edit is needed, got {', '.join(bench.names)}")
    if not settings.parts:
        raise InputError(f"at least one part is needed, got none; take some of {', '.join(MEASURES)}")
    unknown = set(settings.ways) - {*IN_WEIGHTS, *BESIDE}
    if unknown or not settings.ways:
        raise InputError(f"some of the ways {', '.join((*IN_WEIGHTS, *BESIDE))} are needed, got {sorted(unknown)}")
    found = Part.joined([MEASURES[part](bench, settings) for part in settings.parts])
    return Findings(
        title=f"Editing {bench.names[0]}",
        sections=found.sections,
        measures=found.measures,
        headlines=found.headlines,
        cautions=CAUTIONS,
    )


def _world(bench: Workbench, settings: Settings) -> Part:
    chosen = settings.world
    world = make_world(chosen.world)
    least = max(chosen.world.frequencies)
    cases = world_cases(world, max(chosen.singles, *chosen.stops), least, bench.seed)
    ground = world_ground(
        bench, chosen.doses, world, cases, strangers=chosen.strangers, training=chosen.training, guard=chosen.guard,
        large=chosen.large,        questions=chosen.questions, least=least, tokens=chosen.tokens,
    )  # fmt: skip
    singles = single_rows(bench, ground, settings.ways, cases[: chosen.singles], chosen.doses, chosen.max_tokens)
    weights = [way for way in settings.ways if way in IN_WEIGHTS]
    series = series_rows(bench, ground, weights, cases, chosen.stops, chosen.doses)
    removal = measure_removal(bench, ground, cases[: chosen.removed], chosen.doses)
    return Part.joined([
        singles_part(bench, ground, singles, "One fact at a time (fact world)"),
        series_part(bench, ground, series, {way: singles[way] for way in (NONE, *weights)}),
        removal,
    ])  # fmt: skip


def _model(bench: Workbench, settings: Settings) -> Part:
    chosen = settings.model
    cases = _cases(bench, chosen)
    ground = _real(bench, settings, chosen.doses)
    rows = single_rows(bench, ground, settings.ways, cases[: chosen.singles], chosen.doses, chosen.max_tokens)
    parts = [
        layers_part(bench, ground, [case.fact for case in cases[: chosen.singles]]),
        singles_part(bench, ground, rows, f"One fact at a time ({ground.name})"),
    ]
    if chosen.stops:
        weights = [way for way in settings.ways if way in IN_WEIGHTS]
        series = series_rows(bench, ground, weights, cases, chosen.stops, chosen.doses)
        parts.append(series_part(bench, ground, series, {way: rows[way] for way in (NONE, *weights)}))
    return Part.joined(parts)


def _hard(bench: Workbench, settings: Settings) -> Part:
    ground = _real(bench, settings, settings.model.doses)
    cases = {
        kind: first_token_cases(bench.data, ground.model.lm, settings.hard.cases, hard=kind == HARD, seed=bench.seed)
        for kind in (HARD, ORDINARY)
    }
    rows = hard_rows(bench, ground, cases, settings.hard.readings, settings.model.doses)
    return hard_part(bench, ground, rows)


def _real(bench: Workbench, settings: Settings, doses: Doses) -> Ground:
    chosen = settings.model
    return real_ground(bench, doses, _cases(bench, chosen), guard=chosen.guard, large=chosen.large,
                       questions=chosen.questions, tokens=chosen.tokens)  # fmt: skip


def _cases(bench: Workbench, chosen: RealModel) -> list[Case]:
    composed = bench.models[0]

    def is_known(case: Case) -> bool:
        key = {"what": "known", "model": composed.fingerprint, "fact": case.fact.model_dump()}
        alone = Case(case.fact, (), ())
        return bool(bench.cache.get(key, lambda: probed(composed.model, alone)["efficacy"] == 0))

    number = max(chosen.singles, *chosen.stops, 1)
    wanted = is_known if chosen.is_known else lambda case: True
    return counterfact_cases(bench.data, number, bench.seed, is_wanted=wanted)


MEASURES: dict[str, Callable[[Workbench, Settings], Part]] = {"world": _world, "model": _model, "hard": _hard}
