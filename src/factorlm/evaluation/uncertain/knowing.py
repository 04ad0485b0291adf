"""Self-knowledge: does the state behind a question tell whether the model knows the answer, in and out of domain?"""

# Axes: B questions.

from __future__ import annotations

import numpy as np
from pydantic import NonNegativeInt, PositiveInt

from factorlm.evaluation.calibration import auroc, brier, with_interval
from factorlm.evaluation.document import Bar, Cell, Column, Intervals, Section, Table
from factorlm.evaluation.facts import Fact, Training, World, WorldSettings, make_world
from factorlm.evaluation.intervals import Estimate, mean_interval
from factorlm.evaluation.part import Part
from factorlm.evaluation.uncertain.graded import Asked, graded
from factorlm.evaluation.uncertain.maps import calibration_gap
from factorlm.evaluation.uncertain.planted import ROWS, SHORT, STRANGERS, asked_by_query, fact_model
from factorlm.evaluation.uncertain.scoring import Array, Measures
from factorlm.evaluation.workbench import Workbench
from factorlm.inference.expression import Composed
from factorlm.inference.uncertainty import Asking, Known, Query, question_states, train_known
from factorlm.inference.uncertainty.known import folds_of
from factorlm.settings import Config

FOLDS = 5
ALONE, GOLD, OTHER = "question alone", "behind its fact", "behind another fact"


class Knowing(Config):
    """Settings of this part.

    Attributes:
        world: of facts.
        training: of the model that reads them.
        strangers: texts that teach it to heed what stands before.
        asking: how answers are sampled; the share of right ones is what the head learns.
        resamples: of intervals.
    """

    world: WorldSettings = WorldSettings()
    training: Training = Training()
    strangers: NonNegativeInt = STRANGERS
    asking: Asking = SHORT
    resamples: PositiveInt = 1000


def measure_knowing(bench: Workbench, settings: Knowing) -> Part:
    """Train heads within all kinds of facts and within one, and read them where they were not trained."""
    world = make_world(settings.world).by_person()
    composed = fact_model(bench, world, settings.training, strangers=settings.strangers)
    asked = [asked_by_query(fact) for fact in world.facts]
    found = graded(bench, composed, "facts", asked, ("samples", "variants"), settings.asking, rows=ROWS)
    share_B = found.share_B
    # What the head predicts is the chance of a sample, so it is judged by one: the first of each question.
    right_B = np.array([a.is_right(e.texts[0]) for a, e in zip(asked, found.evidence, strict=True)], float)
    kind_B = np.array([fact.relation.name for fact in world.facts])
    alone = [a.query for a in asked]
    state_BD = question_states(composed.model, alone)
    logit_B, fold_B = np.zeros(len(asked)), folds_of(found.groups, FOLDS, bench.seed)
    for fold in range(FOLDS):
        out_B = fold_B == fold
        head = _head(composed, state_BD[~out_B], share_B[~out_B], [g for g, o in zip(found.groups, out_B, strict=True)
                                                                    if not o], bench.seed)  # fmt: skip
        logit_B[out_B] = head.logits(state_BD[out_B])
    within, outside = {"all kinds, other people": (logit_B, right_B)}, {}
    for kind in dict.fromkeys(kind_B.tolist()):
        in_B = kind_B == kind
        groups = [g for g, i in zip(found.groups, in_B, strict=True) if i]
        head = _head(composed, state_BD[in_B], share_B[in_B], groups, bench.seed)
        outside[f"learned on {kind}, asked of the others"] = (head.logits(state_BD[~in_B]), right_B[~in_B])
    table, measures = _judged(within, outside, settings.resamples, bench.seed)
    contexts, more = _in_context(bench, composed, world, asked, state_BD, share_B, fold_B, found.groups)
    auc = measures["AUROC of P(IK)"]["in domain"]
    gains = more["rise of P(IK)"]
    headlines = (
        f"P(IK) tells facts that are known from others with AUROC {auc} for people it never saw; trained on one "
        f"kind of question and asked of others, {measures['AUROC of P(IK)']['out of domain']}.",
        f"The fact itself before the question moves mean P(IK) by {gains[GOLD]}, another fact by {gains[OTHER]}.",
    )
    caution = "P(IK) heads read the state behind the question; ours are linear and the model under them stays as it is."
    return Part((Section(title="Self-knowledge", lead=_lead(world), blocks=(table, contexts)),),
                {**measures, **more}, headlines, (caution,))  # fmt: skip


def _lead(world: World) -> str:
    return (
        f"A logistic head on the last hidden state of {len(world.facts)} questions about planted facts, learned from "
        "the share of right samples. Some people are talked of more than others; those that a head is judged on are "
        "never those that it learned from."
    )


def _head(composed: Composed, state_BD: Array, share_B: Array, groups: list[str], seed: int) -> Known:
    return train_known(state_BD, share_B, lm=composed.model.lm, expression="fact model", questions="planted facts",
                       groups=groups, seed=seed)  # fmt: skip


def _chance(logit_B: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-logit_B)))


def _judged(
    within: dict[str, tuple[Array, Array]], outside: dict[str, tuple[Array, Array]], resamples: int, seed: int
) -> tuple[Table, Measures]:
    rows: list[tuple[Cell, ...]] = []
    measures: Measures = {}
    together = {"in domain": within, "out of domain": outside}
    for place, heads in together.items():
        logit_B = np.concatenate([logit for logit, _ in heads.values()])
        right_B = np.concatenate([right for _, right in heads.values()])
        for label, (x_B, y_B) in {**heads, place: (logit_B, right_B)}.items():
            if label == place and len(heads) == 1:
                continue
            values = _values(x_B, y_B, resamples, seed)
            rows.append((label, len(y_B), *values.values()))
        for measure, value in _values(logit_B, right_B, resamples, seed).items():
            measures.setdefault(f"{measure} of P(IK)", {})[place] = value
    columns = (
        Column(title="head"), Column(title="questions", form="d"), Column(title="AUROC", form=".3f", best="high"),
        Column(title="calibration error", form=".3f", best="low"), Column(title="Brier", form=".3f", best="low"),
    )  # fmt: skip
    return Table(title="P(IK) in and out of domain", columns=columns, rows=tuple(rows)), measures


def _values(logit_B: Array, right_B: Array, resamples: int, seed: int) -> dict[str, Estimate]:
    prob_B = _chance(logit_B)
    return {
        "AUROC": with_interval(auroc, logit_B, right_B, seed=seed, resamples=resamples),
        "calibration error": with_interval(calibration_gap, prob_B, right_B, seed=seed, resamples=200),
        "Brier score": with_interval(brier, prob_B, right_B, seed=seed, resamples=200),
    }


def _in_context(
    bench: Workbench, composed: Composed, world: World, asked: list[Asked], state_BD: Array, share_B: Array,
    fold_B: Array, groups: list[str],
) -> tuple[Intervals, Measures]:  # fmt: skip
    """P(IK) of the same questions alone, behind the sentence that answers them, and behind that of somebody else."""
    generator = np.random.default_rng(bench.seed)
    facts = list(world.facts)

    def behind(fact: Fact, told: Fact) -> Query:
        template = int(generator.integers(len(told.relation.templates)))
        return Query(fact.question, f"{told.statement(template)}\nQuestion: ", "\nAnswer:")

    others = [_another(fact, facts, generator) for fact in facts]
    queries = {
        GOLD: [behind(fact, fact) for fact in facts],
        OTHER: [behind(fact, other) for fact, other in zip(facts, others, strict=True)],
    }
    states = {ALONE: state_BD, **{how: question_states(composed.model, found) for how, found in queries.items()}}
    prob = {how: np.zeros(len(asked)) for how in states}
    for fold in range(FOLDS):
        out_B = fold_B == fold
        kept = [g for g, out in zip(groups, out_B, strict=True) if not out]
        head = _head(composed, state_BD[~out_B], share_B[~out_B], kept, bench.seed)
        for how, state in states.items():
            prob[how][out_B] = _chance(head.logits(state[out_B]))
    means = {how: mean_interval(prob_B, seed=bench.seed) for how, prob_B in prob.items()}
    rises = {how: mean_interval(prob[how] - prob[ALONE], seed=bench.seed) for how in (GOLD, OTHER)}
    picture = Intervals(
        title="P(IK) with and without help", x_label="mean P(IK)", series=("P(IK)",), is_percent=True,
        bars=tuple(Bar(label=how, values=(mean,)) for how, mean in means.items()),
        note="The head learned from questions alone. The model answers every question rightly behind its fact.",
    )  # fmt: skip
    return picture, {"mean P(IK)": means, "rise of P(IK)": rises}


def _another(fact: Fact, facts: list[Fact], generator: np.random.Generator) -> Fact:
    """A fact of another person and of another kind."""
    while True:
        other = facts[int(generator.integers(len(facts)))]
        if other.subject != fact.subject and other.relation.name != fact.relation.name:
            return other
