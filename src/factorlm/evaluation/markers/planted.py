"""Where the effect of a marker comes from: a model of texts in which we choose what it stands before."""

# Axes: F facts, O objects.

from __future__ import annotations

from functools import partial
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from factorlm.algebra import pad_left
from factorlm.errors import InputError
from factorlm.evaluation.corpora import fingerprint
from factorlm.evaluation.document import Bar, Column, Intervals, Section, Table
from factorlm.evaluation.facts import (
    Fact,
    Training,
    World,
    WorldSettings,
    make_corpus,
    make_world,
    train_fact_model,
)
from factorlm.evaluation.intervals import Estimate, mean_interval
from factorlm.evaluation.part import Part
from factorlm.evaluation.workbench import Workbench
from factorlm.models import CausalLM
from factorlm.models.loading import load_model
from factorlm.settings import Config

Array = NDArray[np.float64]
Share = Annotated[float, Field(ge=0, le=1)]
FIRST, SECOND = "Maybe", "Surely"  # what they say must not matter


class Planting(Config):
    """Settings.

    Attributes:
        world: whose facts are stated.
        training: of the model.
        often: share of right answers behind the marker that is mostly right.
        seldom: behind the other one.
        strangers: texts about others, which teach to heed a context.
    """

    world: WorldSettings = WorldSettings(subjects=64, relations=2, frequencies=(4, 8, 16, 32))
    training: Training = Training(width=128, depth=2, epochs=8, batch_texts=16)
    often: Share = 0.95
    seldom: Share = 0.6
    strangers: Annotated[int, Field(ge=0)] = 400


def measure_planted(bench: Workbench, settings: Planting) -> Part:
    """Train two models, of which the second has the shares of the markers swapped, and ask both with both markers."""
    world = make_world(settings.world)
    facts = [fact for fact in world.facts if fact.frequency > 0]
    if len(facts) < 2:
        raise InputError("facts that are stated are needed, got frequencies of 0 alone; raise world.frequencies")
    measures: dict[str, dict[str, Estimate]] = {}
    for name, often in (("as planted", FIRST), ("swapped", SECOND)):
        texts = planted(settings, world, often, bench.seed)
        training = settings.training.model_dump(mode="json")
        key = {"what": "planted markers", "texts": fingerprint(texts), "training": training, "of": [FIRST, SECOND]}
        found = bench.cache.get(key, partial(_asked, bench, settings, world, facts, texts, name))
        for measure in ("drawn", "greedy"):
            row = {marker: np.array(found[marker][measure]) for marker in ("", FIRST, SECOND)}
            measures[f"accuracy of {measure} answers, {name}"] = {
                marker or "no marker": mean_interval(row_F, seed=bench.seed) for marker, row_F in row.items()
            } | {"first less second": mean_interval(row[FIRST] - row[SECOND], seed=bench.seed)}
    return Part((_section(settings, measures, len(facts)),), measures, (_headline(measures),), (CAUTION,))


CAUTION = (
    "The model of planted markers has read our texts alone; it shows where an effect can come from, not that it does."
)


def planted(settings: Planting, world: World, often: str, seed: int) -> list[str]:
    """Texts in which a marker stands before right answers as often as wanted, whatever it says."""
    share = {FIRST: settings.seldom, SECOND: settings.seldom, often: settings.often}

    def sentence(fact: Fact, generator: np.random.Generator) -> str:
        marker = (FIRST, SECOND)[int(generator.integers(2))]
        is_right = generator.random() < share[marker]
        return f"{fact.asked} {marker} {fact.object if is_right else world.other_object(fact, generator)}."

    return make_corpus(world, sentence=sentence, strangers=settings.strangers, seed=seed)


def answers(lm: CausalLM, world: World, facts: list[Fact], marker: str) -> tuple[Array, Array]:
    """Of each fact, asked with a marker: the probability of its object among all objects, and whether it is the top."""
    contexts = [f"{fact.asked} {marker}".rstrip() for fact in facts]
    drawn_F, top_F = np.empty(len(facts)), np.empty(len(facts))
    for relation in world.relations:
        objects = world.objects[relation.name]
        ids = [lm.encode_text(f" {name}") for name in objects]
        assert all(len(row) == 1 for row in ids), "a word of this world is one token"
        token_O = torch.tensor([row[0] for row in ids])
        places = [f for f, fact in enumerate(facts) if fact.relation.name == relation.name]
        prefix_BT = pad_left([[*lm.start_ids, *lm.encode_text(contexts[f])] for f in places])
        log_prob_BO = lm.start(prefix_BT).log_weight_BV[:, token_O].double().log_softmax(-1)
        for b, f in enumerate(places):
            right = objects.index(facts[f].object)
            drawn_F[f] = float(log_prob_BO[b, right].exp())
            top_F[f] = float(int(log_prob_BO[b].argmax()) == right)
    return drawn_F, top_F


def _asked(
    bench: Workbench, settings: Planting, world: World, facts: list[Fact], texts: list[str], name: str
) -> dict[str, dict[str, list[float]]]:
    folder = train_fact_model(
        world,
        texts,
        settings.training,
        report=lambda what, done, total: bench.report(f"{name}: {what}", done, total),
    )
    lm = load_model(str(folder), dtype="float32")
    found = {}
    for marker in ("", FIRST, SECOND):
        drawn_F, top_F = answers(lm, world, facts, marker)
        found[marker] = {"drawn": drawn_F.tolist(), "greedy": top_F.tolist()}
    return found


def _section(settings: Planting, measures: dict[str, dict[str, Estimate]], number: int) -> Section:
    models = ("as planted", "swapped")
    markers = ("no marker", FIRST, SECOND)
    picture = Intervals(
        title="Accuracy of drawn answers by planted marker",
        x_label="probability of the right answer among all answers",
        series=models,
        bars=tuple(
            Bar(label=marker, values=tuple(measures[f"accuracy of drawn answers, {model}"][marker] for model in models))
            for marker in markers
        ),
        is_percent=True,
        note=f"As planted, {FIRST!r} stands before right answers in {settings.often:.0%} of its texts and {SECOND!r} "
        f"in {settings.seldom:.0%}; swapped, the other way round. 95 % intervals over facts.",
    )
    columns = (Column(title="answers"), Column(title="model"), *(Column(title=m, form=".1%") for m in markers),
               Column(title="first less second", form="+.1%"))  # fmt: skip
    rows = tuple(
        (how, model, *(measures[f"accuracy of {how} answers, {model}"][m] for m in (*markers, "first less second")))
        for how in ("drawn", "greedy")
        for model in models
    )
    return Section(
        title="Planted markers",
        lead=f"A small model trained on texts about {number} invented facts. An answer that is drawn is right with the "
        "probability shown; a greedy one is the likeliest.",
        blocks=(picture, Table(title="Planted markers", columns=columns, rows=rows)),
    )


def _headline(measures: dict[str, dict[str, Estimate]]) -> str:
    gaps = [measures[f"accuracy of drawn answers, {model}"]["first less second"] for model in ("as planted", "swapped")]
    return (
        f"In a world where {FIRST!r} is mostly right, drawn answers after it are righter by {gaps[0]} than after "
        f"{SECOND!r}; with the texts swapped by {gaps[1]}."
    )
