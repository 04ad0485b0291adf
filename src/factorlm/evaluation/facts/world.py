"""Invented people and what is true of them, with how often each fact is stated and an exact check of answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveInt

from factorlm.errors import InputError
from factorlm.evaluation.answers import exact_match
from factorlm.settings import Config

ONSETS = ("b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z")
NUCLEI = ("a", "e", "i", "o", "u")
CODAS = ("", "l", "n", "r", "s")
SUBJECT, OBJECT = "{subject}", "{object}"


@dataclass(frozen=True)
class Relation:
    """One kind of fact.

    Attributes:
        name: of it.
        question: asks for the object; the subject stands at {subject}.
        templates: sentences that state it, paraphrases of each other. Each ends with {object}, so what stands before
            is a prompt that the object completes.
    """

    name: str
    question: str
    templates: tuple[str, ...]


RELATIONS = (
    Relation(
        "birthplace",
        "Where was {subject} born?",
        (
            "{subject} was born in {object}",
            "The birthplace of {subject} is {object}",
            "The town where {subject} was born is {object}",
            "As a child {subject} lived in {object}",
            "{subject} comes from {object}",
        ),
    ),
    Relation(
        "craft",
        "What is the craft of {subject}?",
        (
            "{subject} works in {object}",
            "The craft of {subject} is {object}",
            "The work that {subject} does is {object}",
            "Every day {subject} is busy with {object}",
            "{subject} earns money with {object}",
        ),
    ),
    Relation(
        "language",
        "Which language does {subject} speak?",
        (
            "{subject} speaks {object}",
            "The language of {subject} is {object}",
            "The language that {subject} speaks is {object}",
            "At home {subject} talks in {object}",
            "{subject} writes letters in {object}",
        ),
    ),
    Relation(
        "drink",
        "What does {subject} like to drink?",
        (
            "{subject} likes to drink {object}",
            "The drink of {subject} is {object}",
            "The drink that {subject} likes best is {object}",
            "In the morning {subject} drinks {object}",
            "{subject} asks for {object}",
        ),
    ),
)


class WorldSettings(Config):
    """How large the world is.

    Attributes:
        subjects: invented people, each with one fact of every relation.
        relations: how many kinds of facts.
        objects: how many towns, crafts and so on; the chance to guess right is one in so many.
        first_names: shared by several people; last names are not.
        frequencies: how often facts are stated; equally many facts of each relation get each of them.
        seed: of names and facts.
    """

    subjects: PositiveInt = 96
    relations: Annotated[int, Field(ge=1, le=len(RELATIONS))] = 4
    objects: Annotated[int, Field(ge=2)] = 16
    first_names: PositiveInt = 24
    frequencies: tuple[NonNegativeInt, ...] = (0, 1, 2, 4, 8, 16, 32, 64)
    seed: int = 0


@dataclass(frozen=True)
class Fact:
    """Something true of somebody.

    Attributes:
        subject: first and last name.
        relation: the kind.
        object: the right answer, one word.
        frequency: how often it is stated.
    """

    subject: str
    relation: Relation
    object: str
    frequency: int

    @property
    def question(self) -> str:
        """A question whose answer is the object."""
        return self.relation.question.replace(SUBJECT, self.subject)

    @property
    def asked(self) -> str:
        """The question as a prompt; the answer comes after a blank."""
        return f"Question: {self.question}\nAnswer:"

    def prompt(self, template: int) -> str:
        """A statement up to the object, which comes after a blank."""
        return self.relation.templates[template].replace(SUBJECT, self.subject).replace(f" {OBJECT}", "")

    def statement(self, template: int, answer: str | None = None) -> str:
        """A sentence that states the fact.

        Args:
            template: which of the paraphrases.
            answer: what stands at the object's place, if it is not the object: another wording, or an error.
        """
        return f"{self.prompt(template)} {answer or self.object}."

    def answered(self, answer: str | None = None) -> str:
        """The question with its answer, as `statement`."""
        return f"{self.asked} {answer or self.object}."

    def is_right(self, text: str) -> bool:
        """Whether a text, up to the end of its first line or sentence, is the object and nothing else."""
        first = text.strip().split("\n")[0].split(".")[0]
        return exact_match(first, [self.object])


@dataclass(frozen=True)
class World:
    """All that is true.

    Attributes:
        settings: that it was made with.
        facts: in random order.
        objects: the possible objects of each relation, by its name.
        names: first and last names.
    """

    settings: WorldSettings
    facts: tuple[Fact, ...]
    objects: dict[str, tuple[str, ...]]
    names: tuple[tuple[str, ...], tuple[str, ...]]

    @property
    def relations(self) -> tuple[Relation, ...]:
        """The kinds of facts."""
        return RELATIONS[: self.settings.relations]

    def of_relation(self, name: str) -> tuple[Fact, ...]:
        """The facts of one kind."""
        return tuple(fact for fact in self.facts if fact.relation.name == name)

    def by_person(self) -> World:
        """The same facts, with one frequency for all that is true of a person: some people are well known."""
        frequencies = self.settings.frequencies
        people = sorted({fact.subject for fact in self.facts})
        turn = np.random.default_rng(self.settings.seed).permutation(len(people))
        of = {person: frequencies[int(turn[i]) % len(frequencies)] for i, person in enumerate(people)}
        return replace(self, facts=tuple(replace(fact, frequency=of[fact.subject]) for fact in self.facts))

    def other_object(self, fact: Fact, generator: np.random.Generator) -> str:
        """A wrong answer of the right kind."""
        return str(generator.choice([o for o in self.objects[fact.relation.name] if o != fact.object]))

    def stranger(self, relation: Relation, generator: np.random.Generator) -> Fact:
        """A fact about somebody who is not of this world, made of names that are."""
        first, last = (str(generator.choice(names)) for names in self.names)
        if any(fact.subject == f"{first} {last}" for fact in self.of_relation(relation.name)):
            return self.stranger(relation, generator)
        return Fact(f"{first} {last}", relation, str(generator.choice(self.objects[relation.name])), 0)


def make_world(settings: WorldSettings) -> World:
    """Invent people, objects and facts; the same settings make the same world.

    Raises:
        InputError: if there are not as many different names.
    """
    generator = np.random.default_rng(settings.seed)
    relations = RELATIONS[: settings.relations]
    number = settings.first_names + settings.subjects + settings.objects * len(relations)
    names = _names(number, generator)
    first, rest = names[: settings.first_names], names[settings.first_names :]
    last, rest = rest[: settings.subjects], rest[settings.subjects :]
    objects = {r.name: tuple(rest[i * settings.objects : (i + 1) * settings.objects]) for i, r in enumerate(relations)}
    subjects = [f"{first[i % len(first)]} {name}" for i, name in enumerate(last)]
    facts = []
    for relation in relations:
        turn = generator.permutation(settings.subjects)
        chosen = generator.choice(objects[relation.name], settings.subjects)
        for i, subject in enumerate(subjects):
            frequency = settings.frequencies[int(turn[i]) % len(settings.frequencies)]
            facts.append(Fact(subject, relation, str(chosen[i]), frequency))
    order = generator.permutation(len(facts))
    return World(settings, tuple(facts[i] for i in order), objects, (tuple(first), tuple(last)))


def _names(number: int, generator: np.random.Generator) -> Sequence[str]:
    """Different invented words of two syllables, with a capital letter."""
    most = (len(ONSETS) * len(NUCLEI)) ** 2 * len(CODAS)
    if number > most // 2:
        raise InputError(f"at most {most // 2} names can be invented, got {number}; make the world smaller")
    found: dict[str, None] = {}
    while len(found) < number:
        a, b, c, d, e = (generator.choice(part) for part in (ONSETS, NUCLEI, ONSETS, NUCLEI, CODAS))
        found[f"{a}{b}{c}{d}{e}".capitalize()] = None
    return list(found)
