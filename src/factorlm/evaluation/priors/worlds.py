"""Rival worlds: documents about the same people, things and lands, each written under one of several sets of facts.

A world says who likes what, which town is the capital of which land, and by which rule speeds add up: Galileo's or
Einstein's, which agree at low speed. Worlds are consistent in themselves and contradict one another, so one model of
all documents must average over them, and a distribution over models need not.
"""

# Axes: K worlds.

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, PositiveInt

from factorlm.settings import Config

PEOPLE = ("Tom", "Anna", "Mary", "Peter", "Laura", "James")
THINGS = ("sports", "chess", "music", "cooking", "dancing", "history")
LANDS = ("Norland", "Sarvia", "Estria", "Velmark", "Ostia", "Lundia")
TOWNS = ("Arlen", "Bexley", "Corva", "Dunmore", "Eston", "Farway")
CAPITAL = "The capital of"
SPEEDS = ((1, 1), (2, 1), (50, 50), (60, 60), (80, 80), (90, 90))  # hundredths of the speed of light


class WorldSettings(Config):
    """How documents are made.

    Attributes:
        worlds: K.
        people: how many, who like or hate each of the things.
        things: how many.
        lands: how many, each with a capital.
        speeds: pairs of speeds that are added up, those at which the rules agree first.
        facts: in a document.
        documents: of each world.
        held_out: further documents of each world, to measure on.
        seed: of worlds and documents.
    """

    worlds: Annotated[int, Field(ge=2, le=6)] = 3
    people: Annotated[int, Field(ge=1, le=6)] = 3
    things: Annotated[int, Field(ge=1, le=6)] = 3
    lands: Annotated[int, Field(ge=0, le=6)] = 3
    speeds: Annotated[int, Field(ge=0, le=6)] = 4
    facts: PositiveInt = 8
    documents: PositiveInt = 40
    held_out: PositiveInt = 20
    seed: int = 0


@dataclass(frozen=True)
class Fact:
    """One thing that worlds may disagree in.

    Attributes:
        question: the beginning that all answers share, such as "Tom".
        answers: what each world says, as whole sentences; by world.
    """

    question: str
    answers: tuple[str, ...]

    @property
    def is_disputed(self) -> bool:
        """Whether worlds disagree in it."""
        return len(set(self.answers)) > 1


@dataclass(frozen=True)
class Worlds:
    """Facts and documents.

    Attributes:
        facts: with the answer of each world.
        documents: texts.
        world_of: of each document.
        held_out: further texts.
        held_out_world_of: of each of these.
    """

    facts: tuple[Fact, ...]
    documents: tuple[str, ...]
    world_of: tuple[int, ...]
    held_out: tuple[str, ...]
    held_out_world_of: tuple[int, ...]

    @property
    def num_worlds(self) -> int:
        """K."""
        return len(self.facts[0].answers)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Statements and their negations, equally long: each disputed yes-or-no fact as the first world has it."""
        found = []
        for fact in self.facts:
            if fact.is_disputed and len(set(fact.answers)) == 2:
                first = fact.answers[0]
                other = next(answer for answer in fact.answers if answer != first)
                found.append((first, other))
        return found

    def truths(self, text: str) -> list[list[bool]]:
        """For each statement in a text that is about a known question: in which worlds it is true, [S][K]."""
        found = []
        sentences = [sentence.strip() + "." for sentence in text.split(".")[:-1]]
        for sentence in sentences:
            for fact in self.facts:
                if sentence in _possible(fact, self.facts):
                    found.append([answer == sentence for answer in fact.answers])
                    break
        return found


def make_worlds(settings: WorldSettings) -> Worlds:
    """Worlds and documents, the same for the same settings."""
    rng = random.Random(settings.seed)
    facts = [
        Fact(f"As for {thing}, {person}", answers)
        for person in PEOPLE[: settings.people]
        for thing in THINGS[: settings.things]
        if (answers := _tastes(person, thing, settings.worlds, rng))
    ]
    lands, towns = LANDS[: settings.lands], TOWNS[: settings.lands]
    for i, land in enumerate(lands):  # each world turns the list of towns on by one
        answers = tuple(f"{CAPITAL} {land} is {towns[(i + w) % len(towns)]}." for w in range(settings.worlds))
        facts.append(Fact(f"{CAPITAL} {land}", answers))
    for a, b in SPEEDS[: settings.speeds]:
        answers = tuple(_sum_of_speeds(a, b, is_relative=w % 2 == 1) for w in range(settings.worlds))
        facts.append(Fact(f"Speeds {a} and {b}", answers))

    def documents(number: int) -> tuple[list[str], list[int]]:
        texts, owners = [], []
        for world in range(settings.worlds):
            for _ in range(number):
                chosen = rng.sample(facts, min(settings.facts, len(facts)))
                texts.append(" ".join(fact.answers[world] for fact in chosen))
                owners.append(world)
        return texts, owners

    texts, owners = documents(settings.documents)
    held_out, held_out_owners = documents(settings.held_out)
    return Worlds(tuple(facts), tuple(texts), tuple(owners), tuple(held_out), tuple(held_out_owners))


def contradicts(truths: Sequence[Sequence[bool]]) -> bool:
    """Whether no world makes all of these statements true."""
    return bool(truths) and not any(all(column) for column in zip(*truths, strict=True))


def _tastes(person: str, thing: str, num_worlds: int, rng: random.Random) -> tuple[str, ...]:
    """Likes and hates by world, not the same in all of them; what is disputed comes behind all that it is about."""
    while True:
        likes = [rng.random() < 0.5 for _ in range(num_worlds)]
        if len(set(likes)) == 2:
            return tuple(f"As for {thing}, {person} {'likes' if like else 'hates'} it." for like in likes)


def _sum_of_speeds(a: int, b: int, *, is_relative: bool) -> str:
    """Both in hundredths of the speed of light, by the one rule or the other."""
    total = (a + b) / (1 + a * b / 10_000) if is_relative else a + b
    return f"Speed {a} and speed {b} make {round(total)}."


def _possible(fact: Fact, facts: Sequence[Fact]) -> set[str]:
    """All answers to this question that anybody could give: also ones that no world gives."""
    if not fact.question.startswith(CAPITAL):
        return set(fact.answers)
    others = [f for f in facts if f.question.startswith(CAPITAL)]
    towns = {re.sub(r".* is (\w+)\.", r"\1", answer) for other in others for answer in other.answers}
    return {f"{fact.question} is {town}." for town in towns}
