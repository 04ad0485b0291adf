"""The two places where edits are measured: a world of facts that is known through and through, and a real model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from factorlm.errors import InputError
from factorlm.evaluation.corpora import DataFolder, fingerprint
from factorlm.evaluation.edited.cases import Case, untouched
from factorlm.evaluation.edited.ground import Ground
from factorlm.evaluation.edited.ways import Doses
from factorlm.evaluation.facts import Training, World, make_corpus, train_fact_model
from factorlm.evaluation.questions import QUESTION_SETS, Question
from factorlm.evaluation.workbench import Workbench
from factorlm.inference import Model
from factorlm.models import CausalLM
from factorlm.models.editing.moments import moments
from factorlm.models.editing.sites import site_of
from factorlm.models.editing.values import drawn_prefixes
from factorlm.models.loading import read_model

ME_PPL = "me_ppl/all"
QUESTIONS = ("commonsense_qa", "truthfulqa")
LONGEST = 120  # characters of a guard's sentence
NUM_WRONG = 3  # wrong objects beside the right one


def real_ground(
    bench: Workbench, doses: Doses, cases: Sequence[Case], *, guard: int, large: int, questions: int, tokens: int
) -> Ground:
    """The model under test.

    Args:
        bench: whose first model it is.
        doses: whose layers' moments are read.
        cases: whose subjects no guard's sentence names.
        guard: sentences.
        large: sentences of the large guard.
        questions: of each set.
        tokens: to take keys from.
    """
    composed = bench.models[0]
    check_alone(composed.model)
    rows = [str(row["text"]) for row in bench.data.rows(ME_PPL)]
    order = np.random.default_rng(bench.seed).permutation(len(rows))
    subjects = [case.fact.subject.lower() for case in cases]
    mixed = [rows[i] for i in order]
    short = (text for text in mixed if len(text) <= LONGEST)
    watched = [text for text in short if not any(subject in text.lower() for subject in subjects)][:large]
    kept = set(watched)
    read = [text for text in mixed if text not in kept]
    bench.used[ME_PPL] = fingerprint(mixed)
    key = {"model": composed.fingerprint, "questions": questions, "guard": guard, "tokens": tokens, "seed": bench.seed}
    return _ground(
        bench, composed.expression, {**key, "watched": fingerprint(watched)}, composed.model, doses, read, watched,
        guard, tokens, {name: tuple(_asked(bench.data, name, questions, bench.seed)) for name in QUESTIONS},
    )  # fmt: skip


def world_ground(
    bench: Workbench, doses: Doses, world: World, cases: Sequence[Case], *, strangers: int, training: Training,
    guard: int, large: int, questions: int, least: int, tokens: int,
) -> Ground:  # fmt: skip
    """A small model that has read nothing but a world; trained when first asked for.

    Its guard's sentences are texts of another corpus of the same world, about people whom no case is about.
    """
    texts = make_corpus(world, strangers=strangers, seed=bench.seed)
    folder = train_fact_model(world, texts, training, report=bench.report)
    lm = read_model(str(folder), dtype="float32")
    names = {case.fact.subject for case in cases}
    others = make_corpus(world, strangers=strangers, seed=bench.seed + 1)
    watched = [text for text in others if not any(name in text for name in names)][:large]
    asked = untouched(world, cases, questions, least, bench.seed)
    generator = np.random.default_rng(bench.seed)
    quiz = []
    for fact in asked:
        rest = [one for one in world.objects[fact.relation.name] if one != fact.object]
        wrong = tuple(f" {one}" for one in generator.choice(rest, min(NUM_WRONG, len(rest)), replace=False))
        quiz.append(Question(fact.subject, fact.asked, (f" {fact.object}",), wrong))
    key = {"world": folder.name, "questions": questions, "guard": guard, "tokens": tokens, "seed": bench.seed}
    return _ground(bench, "fact world", {**key, "watched": fingerprint(watched)}, Model(lm, lm), doses, texts, watched,
                   guard, tokens, {"facts that were not edited": tuple(quiz)})  # fmt: skip


def check_alone(model: Model) -> None:
    """Raise InputError unless the language model of a composition is in it as itself, so that it can be replaced."""
    base = model.terms[0].factor
    if not isinstance(base, CausalLM):
        raise InputError(
            f"a composition whose base is one language model is needed for edits, got {model.terms[0].name}; write "
            "facts into each part alone"
        )


def _ground(
    bench: Workbench, name: str, key: dict[str, object], model: Model, doses: Doses, texts: Sequence[str],
    watched: Sequence[str], guard: int, tokens: int, quizzes: dict[str, tuple[Question, ...]],
) -> Ground:  # fmt: skip
    lm = model.lm
    layers = {
        layer for method in ("rome", "memit") for layer in doses.edit.model_copy(update={"method": method}).layers(lm)
    }
    folder = None if bench.cache.folder is None else bench.cache.folder / "editing"
    moment_of = moments(
        lm, [site_of(lm, layer) for layer in sorted(layers)], texts, max_tokens=tokens, folder=folder,
        report=bench.report,
    )  # fmt: skip
    value = doses.edit.value
    prefixes = tuple(drawn_prefixes(lm, value.prefixes, value.seed))
    return Ground(name, {**key, "doses": doses.model_dump(mode="json")}, model, moment_of, prefixes,
                  tuple(watched[:guard]), tuple(watched), quizzes)  # fmt: skip


def _asked(data: DataFolder, name: str, number: int, seed: int) -> list[Question]:
    """Questions with their best right answer."""
    found = QUESTION_SETS[name].ask(data, number, 0, seed)
    return [Question(q.unit, q.prompt, q.right[:1], q.wrong) for q in found]
