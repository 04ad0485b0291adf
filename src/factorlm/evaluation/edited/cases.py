"""Facts to change, with other wordings that must follow and neighbours that must not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from factorlm.errors import InputError
from factorlm.evaluation.corpora import DataFolder
from factorlm.evaluation.facts.world import OBJECT, SUBJECT, Fact, World
from factorlm.models import CausalLM
from factorlm.models.editing.facts import PLACE, EditFact

COUNTERFACT = "counterfact/edit"
MOST_NEIGHBOURS = 4
SHORTEST_SUBJECT = 3  # letters


@dataclass(frozen=True)
class Case:
    """A fact to change.

    Attributes:
        fact: with its new target and the old one.
        paraphrases: other prompts that ask for the same.
        neighbours: prompts about others, of whom the old target is true.
    """

    fact: EditFact
    paraphrases: tuple[str, ...]
    neighbours: tuple[str, ...]


def counterfact_cases(
    data: DataFolder, number: int, seed: int = 0, *, is_wanted: Callable[[Case], bool] = lambda case: True
) -> list[Case]:
    """Cases of CounterFact in random order; a larger number keeps those of a smaller one.

    Args:
        data: where the data set is.
        number: of cases.
        seed: of the order.
        is_wanted: whether a case is taken.

    Raises:
        InputError: if there are not as many, or the data set is missing.
    """
    rows = data.rows(COUNTERFACT)
    found: list[Case] = []
    for i in np.random.default_rng(seed).permutation(len(rows)):
        if len(found) == number:
            break
        case = _case(rows[i])
        if is_wanted(case):
            found.append(case)
    if len(found) < number:
        raise InputError(f"at most {len(found)} facts of {COUNTERFACT} can be taken, got {number}; ask for fewer")
    return found


def first_token_cases(data: DataFolder, lm: CausalLM, number: int, *, hard: bool, seed: int = 0) -> list[Case]:
    """Cases whose prompt begins with the subject: a subject of one token, or of several.

    Args:
        data: with CounterFact.
        lm: whose tokens.
        number: of cases, each of another subject.
        hard: True for one token, which then is the first of the text; False for several.
        seed: of the order.

    Raises:
        InputError: if there are not as many.
    """
    rows = data.rows(COUNTERFACT)
    found: dict[str, Case] = {}
    for i in np.random.default_rng(seed).permutation(len(rows)):
        row = rows[i]
        if not row["prompt"].startswith(row["subject"]) or len(row["subject"]) < SHORTEST_SUBJECT:
            continue
        if (len(lm.encode_text(row["subject"])) == 1) == hard:
            found.setdefault(row["subject"], _case(row))
        if len(found) == number:
            return list(found.values())
    kind = "one token" if hard else "several tokens"
    raise InputError(
        f"{number} facts with a subject of {kind} at the start are needed, got {len(found)}; ask for fewer"
    )


def world_cases(world: World, number: int, least: int, seed: int = 0) -> list[Case]:
    """Facts of a world that the model has read often, each with another object of its kind.

    Args:
        world: whose facts.
        number: of cases.
        least: how often a fact was stated at least.
        seed: of order and new objects.

    Raises:
        InputError: if there are not as many.
    """
    generator = np.random.default_rng(seed)
    known = [fact for fact in world.facts if fact.frequency >= least]
    if number > len(known):
        raise InputError(f"at most {len(known)} facts were stated {least} times, got {number}; ask for fewer")
    return [_world_case(world, known[i], least, generator) for i in generator.permutation(len(known))[:number]]


def untouched(world: World, cases: Sequence[Case], number: int, least: int, seed: int = 0) -> list[Fact]:
    """Known facts about people that no case is about."""
    subjects = {case.fact.subject for case in cases}
    known = [fact for fact in world.facts if fact.frequency >= least and fact.subject not in subjects]
    return [known[i] for i in np.random.default_rng(seed).permutation(len(known))[:number]]


def _case(row: dict[str, str]) -> Case:
    return Case(EditFact.of_row(row), (row["rephrase_prompt"].strip(),), (row["locality_prompt"].strip(),))


def _world_case(world: World, fact: Fact, least: int, generator: np.random.Generator) -> Case:
    first, *others = range(len(fact.relation.templates))
    prompt = fact.relation.templates[first].replace(SUBJECT, PLACE).replace(f" {OBJECT}", "")
    target = world.other_object(fact, generator)
    near = [
        other.prompt(first)
        for other in world.of_relation(fact.relation.name)
        if other.object == fact.object and other.subject != fact.subject and other.frequency >= least
    ]
    return Case(
        EditFact(subject=fact.subject, prompt=prompt, target=target, truth=fact.object),
        (*(fact.prompt(template) for template in others), fact.asked),
        tuple(near[:MOST_NEIGHBOURS]),
    )
