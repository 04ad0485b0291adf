"""Evidence: two sentences that are true in one world, then some that are not; what is believed of all else by then.

Ways: components are re-weighed (mu); one model reads the evidence before the statement; one model is fine-tuned on the
evidence, with samples of its own mixed in, which holds its divergence from what it was down.
"""

# Axes: S statements.

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, PositiveInt

from factorlm.evaluation.document import Cell, Column, Curve, Section, Series, Table
from factorlm.evaluation.intervals import Estimate, mean_interval
from factorlm.evaluation.part import Part
from factorlm.evaluation.priors.arms import CONSTANT, MU, Arm
from factorlm.evaluation.priors.coherence import beliefs_of
from factorlm.evaluation.priors.in_context import belief_after
from factorlm.evaluation.priors.worlds import Fact, Worlds
from factorlm.evaluation.workbench import Workbench
from factorlm.models.lora import merged
from factorlm.models.progress import quiet
from factorlm.prior import Fitting, Prior, Separate
from factorlm.prior.drawing import write
from factorlm.prior.lora import LoraComponents
from factorlm.settings import Config

Array = NDArray[np.float64]
READ, TUNED = f"{CONSTANT}, reads it first", f"{CONSTANT}, fine-tuned on it"
STAGES = ("before", "after two sentences", "after contrary ones")


class EvidenceSettings(Config):
    """How evidence is tried.

    Attributes:
        trials: pairs of a true world and a contrary one.
        sentences: of evidence for the true world.
        contrary: sentences of the other world that come later.
        epsilon: of the filter.
        tuned_trials: of these, in how many a model is fine-tuned, too.
        steps: of fine-tuning, on all sentences read so far.
        own_texts: samples of the model itself mixed in, of which each counts as much as a sentence.
    """

    trials: PositiveInt = 24
    sentences: PositiveInt = 2
    contrary: PositiveInt = 4
    epsilon: Annotated[float, Field(gt=0, lt=1)] = 1e-3
    tuned_trials: Annotated[int, Field(ge=0)] = 6
    steps: PositiveInt = 8
    own_texts: PositiveInt = 8


class Trial(Config):
    """One course of events.

    Attributes:
        world: that the first sentences are true in.
        other: that the later ones are true in.
        first: sentences.
        later: sentences.
        unmentioned: statements that the two worlds disagree in and no sentence mentions, each as the first world has
            it, with its negation.
    """

    world: int
    other: int
    first: tuple[str, ...]
    later: tuple[str, ...]
    unmentioned: tuple[tuple[str, str], ...]


def make_trials(worlds: Worlds, settings: EvidenceSettings, seed: int) -> list[Trial]:
    """Trials in which the first sentences leave one world only, and something stays unmentioned."""
    rng = random.Random(seed)
    found: list[Trial] = []
    disputed = [fact for fact in worlds.facts if fact.is_disputed]
    for _ in range(100 * settings.trials):
        if len(found) == settings.trials:
            break
        world, other = rng.sample(range(worlds.num_worlds), 2)
        facts = rng.sample(disputed, settings.sentences)
        if any(agree(facts, world, w) for w in range(worlds.num_worlds) if w != world):
            continue
        between = [f for f in disputed if f.answers[world] != f.answers[other] and f not in facts]
        if len(between) < settings.contrary + 1:
            continue
        later = rng.sample(between, settings.contrary)
        rest = [f for f in between if f not in later and len(set(f.answers)) == 2]
        if rest:
            found.append(
                Trial(world=world, other=other, first=tuple(f.answers[world] for f in facts),
                      later=tuple(f.answers[other] for f in later),
                      unmentioned=tuple((f.answers[world], f.answers[other]) for f in rest))
            )  # fmt: skip
    return found


def agree(facts: Sequence[Fact], world: int, other: int) -> bool:
    """Whether two worlds say the same about all of these."""
    return all(fact.answers[world] == fact.answers[other] for fact in facts)


def measure_evidence(
    bench: Workbench, settings: EvidenceSettings, worlds: Worlds, arms: Sequence[Arm], world_of_K: Sequence[int]
) -> Part:
    """Try all courses of events in all ways."""
    mu, one = (next(arm.prior for arm in arms if arm.name == name) for name in (MU, CONSTANT))
    trials = make_trials(worlds, settings, bench.seed)
    right, exact, returned = [], [], []
    belief: dict[str, list[list[float]]] = {MU: [], READ: [], TUNED: []}
    for number, trial in enumerate(trials):
        bench.report("evidence", number, len(trials))
        after = mu.posterior(trial.first)
        later = after.posterior(trial.later)
        at = [k for k, world in enumerate(world_of_K) if world == trial.world]
        right.append(sum(after.manifest.weights[k] for k in at))
        kept = mu.filter(trial.first, epsilon=settings.epsilon).manifest.weights
        exact.append(float({k for k, weight in enumerate(kept) if weight > 0} == set(at) != set()))
        returned.append(sum(later.manifest.weights[k] for k, world in enumerate(world_of_K) if world == trial.other))
        pairs = trial.unmentioned
        belief[MU].append([float(beliefs_of(p, pairs).mean_S.mean()) for p in (mu, after, later)])
        said = ("", " ".join(trial.first), " ".join([*trial.first, *trial.later]))
        belief[READ].append([float(belief_after(one, "response", text, pairs).mean()) for text in said])
        if number < settings.tuned_trials and one.manifest.kind.kind == "lora":
            said_rows = ((), trial.first, (*trial.first, *trial.later))
            belief[TUNED].append([_tuned_belief(one, texts, pairs, settings, bench.seed) for texts in said_rows])
    bench.report("evidence", len(trials), len(trials))
    return _part(settings, trials, {"right": right, "exact": exact, "returned": returned}, belief, bench.seed)


def _tuned_belief(
    one: Prior, texts: Sequence[str], pairs: Sequence[tuple[str, str]], settings: EvidenceSettings, seed: int
) -> float:
    """What one model believes after steps on some sentences, with texts of its own mixed in."""
    if not texts:
        return float(belief_after(one, "response", "", pairs).mean())
    lm = one.lm
    learner = _as_learner(one, seed)
    generator = torch.Generator().manual_seed(seed)
    own = write(one.ensemble.component(0), [lm.start_ids] * settings.own_texts, 24, generator)
    rows = [lm.encode_text(text) for text in texts] + [row for row in own if row]
    for _ in range(settings.steps):
        learner.improve(rows, torch.ones(len(rows), 1, dtype=torch.float64), rate=1.0, report=quiet)
    tuned = Prior(one.manifest, learner.tensors(), lm)
    tuned.__dict__["ensemble"] = Separate((merged(lm, learner.adapter(0)),))
    return float(belief_after(tuned, "response", "", pairs).mean())


def _as_learner(one: Prior, seed: int) -> LoraComponents:
    """The model of a prior with one component, to be trained on."""
    assert one.manifest.fitted is not None
    settings = Fitting.model_validate_json(json.dumps(one.manifest.fitted.settings)).lora
    learner = LoraComponents(one.lm, settings.model_copy(update={"batch_tokens": 4096}), 1, seed)
    state = learner.state()
    state.update(one.tensors)
    learner.restore(state)
    return learner


def _part(
    settings: EvidenceSettings, trials: Sequence[Trial], found: dict[str, list[float]],
    belief: dict[str, list[list[float]]], seed: int,
) -> Part:  # fmt: skip
    right, exact, returned = (mean_interval(found[name], seed=seed) for name in ("right", "exact", "returned"))
    stages = {
        way: [mean_interval([row[i] for row in rows], seed=seed) for i in range(len(STAGES))]
        for way, rows in belief.items() if rows
    }  # fmt: skip
    rows: list[tuple[Cell, ...]] = [
        ("weight of the right world's component after the first sentences", right),
        (f"filter at {settings.epsilon:g} keeps exactly that component", exact),
        ("weight of the other world's component after the contrary sentences", returned),
    ]
    table = Table(title="Re-weighing components", columns=(Column(title=f"of {len(trials)} trials"),
                  Column(title="mean", form=".2f")), rows=tuple(rows))  # fmt: skip
    picture = Curve(
        title="Belief in what the first sentences imply and no sentence mentions",
        x_label="0: before; 1: after the first sentences; 2: after contrary ones",
        y_label="probability of the first world's statement against the other's",
        series=tuple(Series(name=way, x=(0.0, 1.0, 2.0), y=tuple(values)) for way, values in stages.items()),
        is_percent=True,
        note="A distribution over models carries evidence over to what it implies, and turns round when it is refuted; "
        "0 % after contrary sentences means the other world is believed.",
    )  # fmt: skip
    lead = (
        f"{settings.sentences} sentences true in one world only, then {settings.contrary} of another world, "
        f"{len(trials)} times; fine-tuning takes {settings.steps} passes over all sentences so far and "
        f"{settings.own_texts} texts of the model's own."
    )
    swings = {
        way: mean_interval([row[1] - row[2] for row in rows_], seed=seed) for way, rows_ in belief.items() if rows_
    }
    headline = (
        f"Two sentences move μ to the right world with weight {right}; the filter keeps exactly it in {exact} of the "
        f"trials; contrary sentences then change belief in what nobody mentioned by {swings[MU]} under μ, by "
        f"{swings[READ]} in one model that reads them"
        + (f", by {swings[TUNED]} in one that is fine-tuned on them." if TUNED in swings else ".")
    )
    measures: dict[str, dict[str, Estimate]] = {
        "weight of the right world after evidence": {MU: right},
        "filter keeps exactly the right component": {MU: exact},
        "weight of the other world after contrary evidence": {MU: returned},
        "change of belief by contrary evidence": swings,
    }
    return Part((Section(title="Evidence", lead=lead, blocks=(table, picture)),), measures, (headline,))
