"""Temperature sensitivity (TSU): how often a measure of uncertainty rises when answers are drawn hotter.

It needs no right answers. It is a check of measures, not a goal: what rises with any noise does well at it.

Source: Song et al. (2025), arXiv:2506.09684.
"""

# Axes: B questions, Q temperatures.

from __future__ import annotations

import itertools
import math

import numpy as np
from pydantic import NonNegativeInt, PositiveInt

from factorlm.algebra import LocalProduct, device_of, entropy, log_normalize, pad_left
from factorlm.evaluation.document import Bar, Cell, Column, Intervals, Section, Table
from factorlm.evaluation.facts import Training, WorldSettings, make_world
from factorlm.evaluation.intervals import Estimate, mean_interval
from factorlm.evaluation.part import Part
from factorlm.evaluation.uncertain.graded import graded
from factorlm.evaluation.uncertain.planted import ROWS, SHORT, STRANGERS, asked_by_query, fact_model
from factorlm.evaluation.uncertain.scoring import Array, Measures, confidences_of
from factorlm.evaluation.workbench import Workbench
from factorlm.inference.model import Model
from factorlm.inference.uncertainty import Asking, Meanings, Query, Tools
from factorlm.inference.uncertainty.estimators import encode_sentences
from factorlm.inference.uncertainty.evidence import prompt_ids_of
from factorlm.settings import Config

NAMES = ("naive-entropy", "semantic-entropy", "discrete-semantic-entropy", "agreement", "inv-entropy")
ORACLE, SHUFFLED = "exact entropy of the first token", "shuffled"


class TemperatureSensitivity(Config):
    """Settings of this part.

    Attributes:
        world: of facts.
        training: of the model that reads them.
        strangers: texts that teach it to heed what stands before.
        questions: asked at each temperature.
        temperatures: rising.
        asking: how answers are had, but for their temperature.
        replications: answers to each variant.
    """

    world: WorldSettings = WorldSettings()
    training: Training = Training()
    strangers: NonNegativeInt = STRANGERS
    questions: PositiveInt = 120
    temperatures: tuple[float, ...] = (0.3, 0.7, 1.0, 1.4)
    asking: Asking = SHORT
    replications: PositiveInt = 3


def rises(uncertainty_BQ: Array) -> Array:
    """Whether the uncertainty of each question rises at every step, [B]; a tie is no rise."""
    return np.asarray((np.diff(uncertainty_BQ, axis=1) > 0).all(1), float)


def ties(uncertainty_BQ: Array) -> float:
    """Share of steps at which nothing changes: what is coarse ties often."""
    return float((np.diff(uncertainty_BQ, axis=1) == 0).mean())


def exact_entropies(model: Model, queries: list[Query], temperatures: tuple[float, ...]) -> Array:
    """Entropy of the first token's distribution at each temperature, computed, not sampled, [B, Q], in nats."""
    factor = LocalProduct.of(model.factor)
    rows = []
    for query in queries:
        prefix_BT = pad_left([prompt_ids_of(model, query)]).to(device_of(factor))
        log_prob_BV = factor.start(prefix_BT).log_weight_BV.double()
        rows.append([float(entropy(log_normalize(log_prob_BV / t))[0]) for t in temperatures])
    return np.array(rows)


def measure_temperature(bench: Workbench, settings: TemperatureSensitivity) -> Part:
    """Ask at each temperature, with randomness of its own, and count rises."""
    world = make_world(settings.world)
    composed = fact_model(bench, world, settings.training, strangers=settings.strangers)
    asked = [asked_by_query(fact) for fact in world.facts[: settings.questions]]
    tools = Tools(encode_sentences, Meanings())
    uncertainty: dict[str, list[Array]] = {}
    for place, temperature in enumerate(settings.temperatures):
        asking = settings.asking.model_copy(update={"temperature": temperature, "seed": 1000 + bench.seed + place})
        found = graded(bench, composed, f"facts at {temperature:g}", asked, ("samples", "variants"), asking,
                       replications=settings.replications, rows=ROWS)  # fmt: skip
        for name, confidence_B in confidences_of(found, NAMES, tools).items():
            uncertainty.setdefault(name, []).append(-confidence_B)
    measured = {name: np.stack(values, 1) for name, values in uncertainty.items()}
    measured[ORACLE] = exact_entropies(composed.model, [a.query for a in asked], settings.temperatures)
    generator = np.random.default_rng(bench.seed)
    measured[SHUFFLED] = generator.permuted(measured[ORACLE], axis=1)
    table, picture, measures = _shown(measured, settings.temperatures, bench.seed)
    hot = f"TSU {settings.temperatures[1]:g} < {settings.temperatures[-1]:g}"
    headline = f"Temperature: from {hot[4:]} Inv-Entropy rises for {measures[hot]['inv-entropy']} of the questions, " \
        f"discrete semantic entropy for {measures[hot]['discrete-semantic-entropy']}."  # fmt: skip
    lead = (
        f"{len(asked)} questions about planted facts, answered at each temperature with randomness of its own. The "
        "measure is the share of questions whose uncertainty rises at every step; chance is one over the "
        "number of orders."
    )
    caution = "Temperature sensitivity rewards whatever follows sampling noise; it says nothing of being right."
    return Part((Section(title="Temperature", lead=lead, blocks=(table, picture)),), measures, (headline,), (caution,))


def _shown(measured: dict[str, Array], temperatures: tuple[float, ...], seed: int) -> tuple[Table, Intervals, Measures]:
    places = range(len(temperatures))
    choices = [*itertools.combinations(places, 2), tuple(places)[1:], tuple(places)]
    choices = [choice for choice in dict.fromkeys(choices) if len(choice) > 1]
    names = {choice: " < ".join(f"{temperatures[i]:g}" for i in choice) for choice in choices}
    rows: list[tuple[Cell, ...]] = []
    measures: Measures = {}
    for measure, uncertainty_BQ in measured.items():
        found: dict[str, Estimate] = {}
        for choice, name in names.items():
            found[name] = mean_interval(rises(uncertainty_BQ[:, list(choice)]), seed=seed)
            measures.setdefault(f"TSU {name}", {})[measure] = found[name]
        tied = ties(uncertainty_BQ)
        measures.setdefault("share of ties", {})[measure] = Estimate(value=tied, n=len(uncertainty_BQ))
        rows.append((measure, *found.values(), tied))
    columns = (Column(title="measure"), *(Column(title=n, form=".0%", best="high") for n in names.values()),
               Column(title="ties", form=".0%"))  # fmt: skip
    chances = ", ".join(f"{1 / math.factorial(len(c)):.1%} for {len(c)}" for c in {len(c): c for c in choices}.values())
    note = f"By chance: {chances} temperatures. Strict rises only, so a measure with few values ties and loses."
    table = Table(title="Share of questions whose uncertainty rises", columns=columns, rows=tuple(rows), note=note)
    last = names[choices[-1]]
    picture = Intervals(title=f"Uncertainty rises over {last}", x_label="share of questions", series=("share",),
                        bars=tuple(Bar(label=m, values=(measures[f"TSU {last}"][m],)) for m in measured),
                        is_percent=True)  # fmt: skip
    return table, picture, measures
