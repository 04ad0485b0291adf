"""Memories of a domain and what they are mixed with a model by: weights learned on texts that were not stored."""

# Axes: T time.

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field, PositiveInt, TypeAdapter

from factorlm.algebra import pad_left, pad_right
from factorlm.evaluation.corpora import fingerprint
from factorlm.evaluation.memories.domains import Domain
from factorlm.evaluation.memories.generation_observed import Array, Observed
from factorlm.evaluation.memories.stores import infini_of, neighbours_of
from factorlm.evaluation.texts import cut
from factorlm.evaluation.workbench import Workbench
from factorlm.inference import Model
from factorlm.inference.expression import Composed
from factorlm.inference.memories import remember
from factorlm.memory import InfiniGram, Memory
from factorlm.memory.datastore import Looking, NeighbourSettings
from factorlm.memory.gates import ConstantGate, Evidence, Gate, TableGate, fit_constant, fit_table
from factorlm.memory.neighbour_fitting import fit_neighbours
from factorlm.memory.neighbours import NeighbourMemory
from factorlm.memory.weighing import Weighing, fit_gate, held_out_evidence
from factorlm.models import CausalLM
from factorlm.settings import Config

MODEL = "model"
INFINI, NEIGHBOURS = "∞-gram", "kNN"
ONE, SURE = "one weight", "only where sure"
GATE: TypeAdapter[Gate] = TypeAdapter(Gate)


class Mixing(Config):
    """How memories are built and weighed.

    Attributes:
        num_stored: documents of the domain that are stored, at most.
        stored_characters: of all these together, at most.
        weighing: of the ∞-gram, and how much text weights are learned on; neighbours have a logistic gate.
        neighbours: how their datastore is built.
        k: neighbours looked at.
        caps: weights that a mixture never passes, each a mixture more.
        sure: share that the first token of the neighbours' answer must have, to be heard where they are sure.
        least: tokens of the suffix that the ∞-gram must find, with one token behind it, to be heard where it is sure.
    """

    num_stored: PositiveInt = 800
    stored_characters: PositiveInt = 800_000
    weighing: Weighing = Weighing(num_tokens=8000)
    neighbours: NeighbourSettings = NeighbourSettings()
    k: PositiveInt = 64
    caps: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.1, 0.25, 0.5)
    sure: Annotated[float, Field(gt=0, lt=1)] = 0.7
    least: PositiveInt = 4


@dataclass(frozen=True, eq=False)
class Mixture:
    """A memory under some weights.

    Attributes:
        name: of it.
        memory: name of the memory.
        gate: its weights.
        most: a weight that it never passes.
    """

    name: str
    memory: str
    gate: Gate
    most: float = 1.0

    def weight(self, observed: Observed) -> Array:
        """Of the memory at each token of a text, [T]."""
        told = observed.memories[self.memory]
        weight_T = self.gate.weights(torch.from_numpy(told.feature_TF)).clamp(max=self.most).double().numpy()
        return np.where(np.isnan(told.entropy_T), 0.0, weight_T)

    def log_prob(self, observed: Observed) -> Array:
        """Of each token of a text, [T], in nats."""
        return observed.evidence(self.memory).mixed(self.weight(observed))


@dataclass(frozen=True, eq=False)
class Mixed:
    """A model, memories of one domain, and their mixtures.

    Attributes:
        lm: the model.
        memories: by name, without weights.
        marks: everything that the answers of each memory depend on.
        mixtures: by name; those named as a memory have its learned weights.
    """

    lm: CausalLM
    memories: dict[str, Memory]
    marks: dict[str, str]
    mixtures: dict[str, Mixture]

    def composed(self, name: str) -> Composed:
        """The model alone, or a mixture, as what writes texts."""
        bare = Model(self.lm, self.lm)
        told: dict[str, Any] = {"model": self.lm.fingerprint, "dtype": str(self.lm.model.dtype)}
        if name in self.mixtures:
            mixture = self.mixtures[name]
            bare = remember(bare, self.memories[mixture.memory].gated(mixture.gate, mixture.most))
            told |= {"memory": self.marks[mixture.memory], "gate": mixture.gate.model_dump(), "most": mixture.most}
        return Composed(name, bare, (), hashlib.sha256(json.dumps(told).encode()).hexdigest())


def mixed(bench: Workbench, lm: CausalLM, domain: Domain, settings: Mixing) -> Mixed:
    """Build the memories of a domain, and learn their weights on its valid texts."""
    stored = stored_texts(bench, domain, settings.num_stored, settings.stored_characters)
    valid = domain.valid.load(bench.data)
    bench.used[f"{domain.name}, for weights"] = fingerprint(valid)
    infini = infini_of(bench, lm, domain.name, stored)
    neighbours = neighbours_of(bench, lm, domain.name, stored, settings.neighbours)
    rows = lm.encode_texts(valid)
    built = {"texts": fingerprint(stored), "vocabulary": lm.vocabulary.fingerprint}
    neighbours = fitted_looking(bench, neighbours, built, rows, settings)
    memories: dict[str, Memory] = {INFINI: infini, NEIGHBOURS: neighbours}
    looking = [neighbours.k, neighbours.temperature, settings.neighbours.model_dump(mode="json")]
    told = {INFINI: built, NEIGHBOURS: {**built, "model": lm.fingerprint, "looking": looking}}
    marks = {name: json.dumps(of) for name, of in told.items()}
    mixtures: dict[str, Mixture] = {}
    for name, memory in memories.items():
        gates = learned_weights(bench, lm, memory, marks[name], rows, settings)
        mixtures[name] = Mixture(name, name, gates[""])
        for gate in (ONE, SURE):
            mixtures[f"{name}, {gate}"] = Mixture(f"{name}, {gate}", name, gates[gate])
        for most in settings.caps:
            mixtures[f"{name}, at most {most:g}"] = Mixture(f"{name}, at most {most:g}", name, gates[""], most)
    return Mixed(lm, memories, marks, mixtures)


def stored_texts(bench: Workbench, domain: Domain, number: int, characters: int) -> list[str]:
    """The first documents of a domain that a memory is built from, the last one cut where all are long enough."""
    stored: list[str] = []
    for text in domain.stored.load(bench.data)[:number]:
        if characters <= 0:
            break
        stored.append(cut(text, characters))
        characters -= len(stored[-1]) if len(stored[-1]) == len(text) else characters
    bench.used[f"{domain.name}, stored"] = fingerprint(stored)
    return stored


def windows_of(rows: Sequence[Sequence[int]], settings: Weighing) -> list[list[int]]:
    """Texts in the stretches that are read to learn weights."""
    found: list[list[int]] = []
    for row in rows:
        for start in range(0, len(row), settings.window):
            window = list(row[start : start + settings.window])
            if sum(map(len, found)) + len(window) > settings.num_tokens:
                return found
            found.append(window)
    return found


def fitted_looking(
    bench: Workbench, memory: NeighbourMemory, built: Mapping[str, str], rows: Sequence[Sequence[int]], settings: Mixing
) -> NeighbourMemory:
    """The neighbours at the temperature that suits valid texts best."""
    key = {**_key(memory.lm, rows, settings.weighing), "what": "temperature of neighbours", **built, "k": settings.k,
           "store": settings.neighbours.model_dump(mode="json")}  # fmt: skip
    memory = memory.looking(Looking(k=settings.k, temperature=memory.temperature))

    def fit() -> float:
        windows = windows_of(rows, settings.weighing)
        prefix_BT = pad_left([list(memory.lm.start_ids)] * len(windows))
        return fit_neighbours(memory, memory.lm, prefix_BT, pad_right(windows), gate="constant").looking.temperature

    return memory.looking(Looking(k=settings.k, temperature=float(bench.cache.get(key, fit))))


def learned_weights(
    bench: Workbench, lm: CausalLM, memory: Memory, mark: str, rows: Sequence[Sequence[int]], settings: Mixing
) -> dict[str, Gate]:
    """Learned weights, the best single one, and weights that are zero but where the memory is sure."""
    key = {**_key(lm, rows, settings.weighing), "what": "weights of a memory", "memory": mark, "sure": settings.sure,
           "least": settings.least}  # fmt: skip

    def fit() -> dict[str, Any]:
        evidence = held_out_evidence(memory, lm, rows, lm.start_ids, settings.weighing, bench.report)
        gates = {
            "": fit_gate(memory, evidence, kind_of(memory, settings.weighing)),
            ONE: fit_constant(evidence),
            SURE: sure_gate(memory, evidence, settings),
        }
        return {name: gate.model_dump(mode="json") for name, gate in gates.items()}

    return {name: GATE.validate_json(json.dumps(gate)) for name, gate in bench.cache.get(key, fit).items()}


def kind_of(memory: Memory, weighing: Weighing) -> Weighing:
    """How weights are learned: a table of all features of an ∞-gram, a logistic function of those of states."""
    return weighing if isinstance(memory, InfiniGram) else weighing.model_copy(update={"kind": "logistic"})


def sure_gate(memory: Memory, evidence: Evidence, settings: Mixing) -> Gate:
    """One weight where the memory is sure of its answer, zero elsewhere."""
    edges = {"suffix length": [float(settings.least)], "sparse": [0.5], "top": [settings.sure]}
    table = fit_table(evidence, [edges.get(name, []) for name in memory.FEATURES])
    if len(table.cells) == 1:  # a memory that does not know how sure it is
        return ConstantGate(weight=table.cells[0])
    return TableGate(edges=table.edges, cells=(0.0,) * (len(table.cells) - 1) + table.cells[-1:])


def _key(lm: CausalLM, rows: Sequence[Sequence[int]], weighing: Weighing) -> dict[str, Any]:
    digest = hashlib.sha256(json.dumps([list(row) for row in rows]).encode()).hexdigest()[:24]
    return {"model": lm.fingerprint, "dtype": str(lm.model.dtype), "rows": digest,
            "weighing": weighing.model_dump(mode="json")}  # fmt: skip
