"""An MLP memory beside the neighbours that it imitates: loss, what is kept of the gain, divergence, time, space."""

from __future__ import annotations

from typing import Any

from pydantic import PositiveInt

from factorlm.errors import InputError
from factorlm.evaluation.corpora import fingerprint
from factorlm.evaluation.memories.domains import Domain
from factorlm.evaluation.memories.generation import STORIES
from factorlm.evaluation.memories.generation_mixtures import (
    NEIGHBOURS,
    ONE,
    Mixing,
    Mixture,
    fitted_looking,
    learned_weights,
    stored_texts,
)
from factorlm.evaluation.memories.generation_observed import observe
from factorlm.evaluation.memories.imitation_losses import CONTROL, IMITATOR, LEARNED, Arms, losses_part
from factorlm.evaluation.memories.imitation_speed import ImitationSpeed, speed_part
from factorlm.evaluation.memories.stores import mlp_of, neighbours_of
from factorlm.evaluation.part import Part
from factorlm.evaluation.texts import cut
from factorlm.evaluation.workbench import Workbench
from factorlm.memory import Memory
from factorlm.memory.card import read_card
from factorlm.memory.datastore import NeighbourSettings
from factorlm.memory.mlp import MlpCard, MlpSettings
from factorlm.memory.weighing import Weighing
from factorlm.settings import Config


class Imitation(Config):
    """Settings of this part.

    Attributes:
        domain: whose stored texts the teacher holds.
        num_stored: documents of it, at most: about 60,000 entries of the stories.
        stored_characters: of all these together, at most.
        neighbours: how the datastore is built; its keys are whole states.
        k: neighbours of the teacher.
        weighing: how much text weights are learned on.
        mlp: the network and how it learns; its neighbours are the teacher's. The control has alpha 0.
        num_read: test documents.
        read_characters: of each, from its beginning.
        speed: how times are taken.
    """

    domain: Domain = STORIES
    num_stored: PositiveInt = 300
    stored_characters: PositiveInt = 300_000
    neighbours: NeighbourSettings = NeighbourSettings()
    k: PositiveInt = 32
    weighing: Weighing = Weighing(kind="logistic", num_tokens=8000)
    mlp: MlpSettings = MlpSettings(blocks=1, epochs=2, most_held=2000)
    num_read: PositiveInt = 40
    read_characters: PositiveInt = 1000
    speed: ImitationSpeed = ImitationSpeed()


def measure_imitation(bench: Workbench, settings: Imitation) -> Part:
    """Build the teacher, let the network and its control learn, and compare all on test texts.

    Raises:
        InputError: if the datastore would keep projections, from which no network can learn.
    """
    if settings.neighbours.width:
        raise InputError(f"a network learns from whole states, got keys of {settings.neighbours.width}; set width to 0")
    arms = _arms(bench, settings)
    valid = arms.lm.encode_texts(settings.domain.valid.load(bench.data))
    mixing = Mixing(weighing=settings.weighing)
    gates = {name: learned_weights(bench, arms.lm, memory, arms.marks[name], valid, mixing)
             for name, memory in arms.memories.items()}  # fmt: skip
    mixtures = [Mixture(f"{name}, {title}", name, gates[name][key])
                for name in arms.memories for title, key in ((ONE, ONE), (LEARNED, ""))]  # fmt: skip
    texts = [cut(t, settings.read_characters) for t in settings.domain.test.load(bench.data)[: settings.num_read]]
    bench.used[f"{settings.domain.name}, test"] = fingerprint(texts)
    rows = [(list(arms.lm.start_ids), ids) for ids in arms.lm.encode_texts(texts) if ids]
    observed = observe(bench, arms.lm, arms.memories, arms.marks, rows, "reading test texts", teacher=NEIGHBOURS)
    weighed = {name: memory.gated(gates[name][ONE]) for name, memory in arms.memories.items()}
    return Part.joined(
        [
            losses_part(arms, mixtures, observed, bench.seed),
            speed_part(bench, arms.lm, weighed, arms.marks, arms.folders, settings.speed),
        ]
    )


def _arms(bench: Workbench, settings: Imitation) -> Arms:
    lm, domain = bench.models[0].model.lm, settings.domain
    stored = stored_texts(bench, domain, settings.num_stored, settings.stored_characters)
    valid = domain.valid.load(bench.data)
    bench.used[f"{domain.name}, for weights"] = fingerprint(valid)
    teacher = neighbours_of(bench, lm, domain.name, stored, settings.neighbours)
    place = teacher.store.path
    mixing = Mixing(weighing=settings.weighing, neighbours=settings.neighbours, k=settings.k)
    built = {"texts": fingerprint(stored), "vocabulary": lm.vocabulary.fingerprint}
    teacher = fitted_looking(bench, teacher, built, lm.encode_texts(valid), mixing)
    looking = {"k": teacher.k, "temperature": teacher.temperature}
    memories: dict[str, Memory] = {NEIGHBOURS: teacher}
    marks, folders = {NEIGHBOURS: f"{built} {place.name} {looking}"}, {NEIGHBOURS: place}
    cards = {}
    for name, alpha in ((IMITATOR, settings.mlp.alpha), (CONTROL, 0.0)):
        changes: dict[str, Any] = {"alpha": alpha, "looking": settings.mlp.looking.model_copy(update=looking)}
        learning = settings.mlp.model_copy(update=changes)
        memories[name] = mlp_of(bench, lm, f"{domain.name}, {name}", place, learning)
        folders[name] = place.parent / memories[name].name
        marks[name] = f"{built} {memories[name].name}"
        cards[name] = read_card(folders[name], MlpCard)
    return Arms(lm, memories, marks, folders, cards)
