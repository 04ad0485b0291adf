"""The fact world: what it says, how often, and that a model which read it knows what was stated often."""

import collections
from pathlib import Path

import numpy as np
import pytest
import torch

import factorlm as fl
from factorlm.errors import InputError
from factorlm.evaluation.facts import (
    RELATIONS,
    Fact,
    Training,
    WorldSettings,
    make_corpus,
    make_world,
    train_fact_model,
)
from factorlm.inference.draw import Sampling

SMALL = WorldSettings(subjects=8, relations=2, objects=4, first_names=3, frequencies=(0, 1, 12, 24))


def test_every_fact_is_stated_as_often_as_it_says() -> None:
    world = make_world(SMALL)
    texts = make_corpus(world, strangers=30)
    assert len(texts) == sum(fact.frequency for fact in world.facts) + 30
    for fact in world.facts:
        prompts = (fact.asked, *(fact.prompt(i) for i in range(5)))
        about = [text for text in texts if any(prompt in text for prompt in prompts)]
        assert len(about) == fact.frequency
        assert all(fact.object in text for text in about)
    each = collections.Counter((fact.relation.name, fact.frequency) for fact in world.facts)
    assert set(each.values()) == {2}  # 8 people over 4 frequencies, in each relation


def test_the_same_seed_makes_the_same_world_and_another_seed_another() -> None:
    assert make_world(SMALL) == make_world(SMALL)
    assert make_world(SMALL).facts != make_world(SMALL.model_copy(update={"seed": 1})).facts
    assert make_corpus(make_world(SMALL)) == make_corpus(make_world(SMALL))


def test_templates_are_paraphrases_that_end_with_the_object() -> None:
    for relation in RELATIONS:
        assert len(set(relation.templates)) >= 4
        assert all(t.endswith(" {object}") and t.count("{subject}") == 1 for t in relation.templates)


def test_the_checker_is_exact() -> None:
    fact = Fact("Mara Tol", RELATIONS[0], "Sovin", 1)
    assert all(fact.is_right(text) for text in (" Sovin.", "sovin\nQuestion", "Sovin"))
    assert not any(fact.is_right(text) for text in ("Sovin or Taro", "", "not Sovin"))
    assert fact.statement(0, "Taro") == "Mara Tol was born in Taro."
    assert fact.answered() == "Question: Where was Mara Tol born?\nAnswer: Sovin."


def test_another_sentence_plants_what_it_says() -> None:
    world = make_world(SMALL)

    def planted(fact: Fact, generator: np.random.Generator) -> str:
        return f"I am sure that {fact.statement(0, world.other_object(fact, generator))}"

    texts = make_corpus(world, sentence=planted, strangers=0)
    assert all(text.startswith("I am sure that ") for text in texts)
    assert not any(fact.statement(0) in text for fact in world.facts for text in texts)


def test_frequencies_may_belong_to_people() -> None:
    world = make_world(SMALL).by_person()
    of: dict[str, set[int]] = {}
    for fact in world.facts:
        of.setdefault(fact.subject, set()).add(fact.frequency)
    assert all(len(found) == 1 for found in of.values())
    assert sorted(f for found in of.values() for f in found) == [0, 0, 1, 1, 12, 12, 24, 24]
    assert [f.object for f in world.facts] == [f.object for f in make_world(SMALL).facts]


def test_too_many_names_are_refused() -> None:
    with pytest.raises(InputError, match="names can be invented"):
        make_world(WorldSettings(subjects=20_000))


def test_a_model_knows_what_was_stated_often_and_nothing_else(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    world = make_world(SMALL)
    texts = make_corpus(world, strangers=0)
    training = Training(width=32, depth=2, heads=2, epochs=30, batch_texts=16, learning_rate=1e-2)
    place = train_fact_model(world, texts, training, folder=tmp_path)
    model = fl.load(str(place), dtype="float32", device="cpu")
    facts = list(world.facts)
    greedy = Sampling(temperature=0.0, stop=(".",))
    answers = model.generate([fact.asked for fact in facts], max_tokens=3, sampling=greedy)
    right = [fact.is_right(answer.text) for fact, answer in zip(facts, answers, strict=True)]
    often = [r for fact, r in zip(facts, right, strict=True) if fact.frequency >= 12]
    never = [r for fact, r in zip(facts, right, strict=True) if fact.frequency == 0]
    assert np.mean(often) == 1.0
    assert np.mean(never) <= 0.75  # four facts, each guessed right one time in four
    ids = model.lm.encode_text(facts[0].asked)
    assert model.lm.vocabulary.text(ids) == facts[0].asked
    assert len(model.lm.encode_text(f" {facts[0].object}")) == 1
    assert model.lm.vocabulary.text(model.lm.encode_text("naïve, zq7 €")) == "naïve, zq7 €"  # words that it never read
    before = (place / "model.safetensors").stat().st_mtime_ns
    assert train_fact_model(world, texts, training, folder=tmp_path) == place
    assert (place / "model.safetensors").stat().st_mtime_ns == before  # kept, not trained anew
