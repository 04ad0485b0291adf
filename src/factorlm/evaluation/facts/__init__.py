"""A fact world: invented facts stated a chosen number of times, and a small language model that has read nothing else.

What a model knows is then known: how often each fact was stated to it, in which words, and which answer is right.

    world = make_world(WorldSettings())
    texts = make_corpus(world)  # or make_corpus(world, sentence=mine), to plant phrases or errors
    folder = train_fact_model(world, texts)  # a model folder like any other: fl.load(str(folder))
"""

from factorlm.evaluation.facts.corpus import Sentence, make_corpus, stated
from factorlm.evaluation.facts.training import Training, train_fact_model
from factorlm.evaluation.facts.world import (
    RELATIONS,
    Fact,
    Relation,
    World,
    WorldSettings,
    make_world,
)

__all__ = [
    "RELATIONS",
    "Fact",
    "Relation",
    "Sentence",
    "Training",
    "World",
    "WorldSettings",
    "make_corpus",
    "make_world",
    "stated",
    "train_fact_model",
]
