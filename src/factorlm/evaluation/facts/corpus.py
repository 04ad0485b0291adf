"""Texts that state the facts of a world as often as it says, in paraphrases, and texts that teach to read a context."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from factorlm.evaluation.facts.world import Fact, World

Sentence = Callable[[Fact, np.random.Generator], str]
ASKED_SHARE = 0.5  # of statements that are a question with its answer


def stated(fact: Fact, generator: np.random.Generator) -> str:
    """A sentence that states a fact: half of the time a question with its answer, else one of the paraphrases."""
    if generator.random() < ASKED_SHARE:
        return fact.answered()
    return fact.statement(int(generator.integers(len(fact.relation.templates))))


def make_corpus(world: World, *, sentence: Sentence = stated, strangers: int = 3000, seed: int = 0) -> list[str]:
    """Texts in random order: each fact in as many as its frequency, and pairs of sentences about strangers.

    Args:
        world: whose facts are stated.
        sentence: makes a text from a fact; another one plants phrases, wordings or errors.
        strangers: texts of two sentences, a statement and a question, about somebody who comes up once only. They say
            nothing of the world, and teach that what a text states before is worth heeding.
        seed: of sentences and order.
    """
    generator = np.random.default_rng(seed)
    texts = [sentence(fact, generator) for fact in world.facts for _ in range(fact.frequency)]
    for _ in range(strangers):
        relation = world.relations[int(generator.integers(len(world.relations)))]
        fact = world.stranger(relation, generator)
        template = int(generator.integers(len(relation.templates)))
        texts.append(f"{fact.statement(template)}\n{sentence(fact, generator)}")
    return [texts[i] for i in generator.permutation(len(texts))]
