"""Real questions: which estimators rank right answers first, whether their numbers are true, what maps repair."""

# Axes: B questions.

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import PositiveInt

from factorlm.evaluation.answers import choice_share, top_is_right
from factorlm.evaluation.calibration import auroc, with_interval
from factorlm.evaluation.corpora import fingerprint
from factorlm.evaluation.document import Block, Cell, Column, Section, Table
from factorlm.evaluation.part import Part
from factorlm.evaluation.questions import QUESTION_SETS
from factorlm.evaluation.requests import loglikelihood
from factorlm.evaluation.uncertain.graded import ENOUGH, Graded, asked_of, graded
from factorlm.evaluation.uncertain.maps import KEPT, calibration_gap, keep
from factorlm.evaluation.uncertain.scoring import (
    Array,
    Measures,
    calibrated,
    confidences_of,
    coverage_picture,
    ranked,
)
from factorlm.evaluation.workbench import Workbench
from factorlm.inference.expression import Composed
from factorlm.inference.uncertainty import Asking, Tools, question_states, train_known
from factorlm.inference.uncertainty.known import folds_of
from factorlm.inference.uncertainty.recalibration import identity_of, own_folder
from factorlm.settings import Config

NAMES = ("mean-log-prob", "log-prob", "naive-entropy", "mean-entropy", "semantic-entropy", "discrete-semantic-entropy",
         "agreement", "p-true")  # fmt: skip
LEARNED = "xquad_en"  # P(IK) learns from it, and is tried on the others
MAPPED = ("xquad_en", "nq_open")  # what maps are fitted to
CHOICE_BATCH = 8


class Questions(Config):
    """Settings of this part.

    Attributes:
        xquad_en: questions about a passage.
        nq_open: questions without one.
        fairytale_qa: questions about a fairy tale, for P(IK) out of domain.
        choices: questions of each set that offers answers.
        asking: how answers are had.
        folder: where recalibration files are written; empty for the user's own folder.
    """

    xquad_en: PositiveInt = 40
    nq_open: PositiveInt = 30
    fairytale_qa: PositiveInt = 20
    choices: PositiveInt = 80
    asking: Asking = Asking()
    folder: str = ""

    @classmethod
    def sized(cls, size: str) -> Questions:
        """Minutes, or what one would publish."""
        return cls() if size == "small" else cls(xquad_en=400, nq_open=400, fairytale_qa=200, choices=600)


def measure_questions(bench: Workbench, settings: Questions) -> Part:
    """Ask all sets of every model on the bench."""
    tools = Tools.default()
    parts = []
    for composed, name in zip(bench.models, bench.names, strict=True):
        parts.append(_measured(bench, settings, tools, composed, name))
    cautions = (
        "A model of 135 million parameters answers few of these questions; with so few right answers, intervals are "
        "wide, and what separates estimators on large models may not show.",
        f"An answer counts as right from a word overlap (F1) of {ENOUGH} with a right answer on.",
    )
    joined = Part.joined(parts)
    return Part(joined.sections, _merged([part.measures for part in parts]), joined.headlines, cautions)


def _measured(bench: Workbench, settings: Questions, tools: Tools, composed: Composed, name: str) -> Part:
    sets = {
        which: graded(bench, composed, which, asked_of(bench, which, getattr(settings, which)), ("samples", "true"),
                      settings.asking)
        for which in ("xquad_en", "nq_open", "fairytale_qa")
    }  # fmt: skip
    sets = _with_known(bench, composed, sets)
    names = NAMES if sets[LEARNED].evidence[0].known_logit is None else (*NAMES, "p-ik")
    sections, measures, headlines = [], [], []
    for which, found in sets.items():
        label = f"{which}, {name}"
        confidences = confidences_of(found, names, tools)
        table, ranks = ranked(label, found, confidences, bench.seed)
        measures.append({f"accuracy, {label}": {name: with_interval(_mean, found.right_B, seed=bench.seed)}})
        if table is None:
            right = int(found.right_B.sum())
            lead = f"{right} of {len(found.asked)} answers were right: too few, or too many, to rank estimators."
            sections.append(Section(title=label, lead=lead))
            continue
        blocks: list[Block] = [table]
        pictured: dict[str, Array] = {
            k: confidences[k] for k in ("mean-log-prob", "semantic-entropy", "p-true", "p-ik") if k in confidences
        }
        blocks.append(coverage_picture(label, found, pictured))
        if which != "fairytale_qa":
            more, gaps = calibrated(label, found, confidences, bench.seed)
            blocks += more
            measures.append(gaps)
        measures.append(ranks)
        sections.append(
            Section(title=label, lead=f"{len(found.asked)} questions of {which} to {name}.", blocks=tuple(blocks))
        )
        auc = ranks[f"AUROC, {label}"]
        best = max(auc, key=lambda k: auc[k].value or 0.0)
        headlines.append(f"{label}: {best} ranks right answers best, AUROC {auc[best]}; P(True) {auc['p-true']}.")
    both = _together([sets[which] for which in MAPPED])
    path = keep(bench, composed, both, confidences_of(both, names, tools), settings.asking, settings.folder)
    if path is not None:
        headlines.append(f"Recalibration ({KEPT}) of {name} written for factorlm ask, from {both.name}.")
    chosen, gaps = _choices(bench, settings, composed, name)
    return Part((*sections, chosen), _merged([*measures, gaps]), tuple(headlines))


def _together(sets: Sequence[Graded]) -> Graded:
    """Several sets as one, for maps that hold with a passage and without."""
    asked = tuple(a for found in sets for a in found.asked)
    return Graded(" and ".join(found.name for found in sets), asked, tuple(e for found in sets for e in found.evidence))


def _mean(values_B: Array) -> float:
    return float(np.mean(values_B))


def _with_known(bench: Workbench, composed: Composed, sets: dict[str, Graded]) -> dict[str, Graded]:
    """P(IK) of every question: cross-fitted where it learns, by the whole head elsewhere; none if all is wrong."""
    learned = sets[LEARNED]
    share_B, groups = learned.share_B, learned.groups
    if share_B.max() == 0 or share_B.min() == 1 or len(set(groups)) < 5:
        return sets
    states = {which: question_states(composed.model, [a.query for a in found.asked]) for which, found in sets.items()}

    whole = train_known(states[LEARNED], share_B, lm=composed.model.lm, expression=composed.expression,
                        questions=LEARNED, groups=groups, seed=bench.seed)  # fmt: skip
    if bench.cache.folder is not None:
        whole.save(own_folder() / f"{identity_of(composed)}.known")
    logit_B = np.zeros(len(share_B))
    fold_B = folds_of(groups, 5, bench.seed)
    for fold in range(5):
        out_B = fold_B == fold
        part = train_known(
            states[LEARNED][~out_B], share_B[~out_B], lm=composed.model.lm, expression=composed.expression,
            questions=LEARNED, groups=[g for g, out in zip(groups, out_B, strict=True) if not out], seed=bench.seed,
        )  # fmt: skip
        logit_B[out_B] = part.logits(states[LEARNED][out_B])
    return {
        which: found.with_known(logit_B if which == LEARNED else whole.logits(states[which]))
        for which, found in sets.items()
    }


def _choices(bench: Workbench, settings: Questions, composed: Composed, name: str) -> tuple[Section, Measures]:
    """Questions that offer answers: the share of the likeliest one in the probability of all is the confidence."""
    rows: list[tuple[Cell, ...]] = []
    measures: Measures = {}
    for which in ("commonsense_qa", "truthfulqa"):
        questions = QUESTION_SETS[which].ask(bench.data, settings.choices, 0, bench.seed)
        bench.used[QUESTION_SETS[which].part] = fingerprint([q.prompt for q in questions])
        items = [[q.prompt, list(q.right[:1]), list(q.wrong)] for q in questions]

        def work(batch: list[list[object]]) -> list[list[float]]:
            requests = [(str(p), str(text)) for p, right, wrong in batch for text in (*right, *wrong)]  # type: ignore[misc]
            found = iter(loglikelihood(composed.model, requests))
            return [[next(found).log_prob for _ in (*right, *wrong)] for _, right, wrong in batch]  # type: ignore[misc]

        key = {"what": "choices", "model": composed.fingerprint}
        found = bench.in_batches(f"{which}, {name}", key, items, CHOICE_BATCH, work)
        for how, per_byte in (("total", False), ("per byte", True)):
            share_B, right_B = [], []
            for (_, right, wrong), log_probs in zip(items, found, strict=True):
                texts = [*right, *wrong]
                values = [p / len(t.encode()) if per_byte else p for p, t in zip(log_probs, texts, strict=True)]
                best = int(np.argmax(values))
                share_B.append(choice_share(values, [i == best for i in range(len(values))]))
                right_B.append(top_is_right(values, [i == 0 for i in range(len(values))]))
            share, hit = np.array(share_B), (np.array(right_B) > 0.5).astype(float)
            gap = with_interval(calibration_gap, share, hit, seed=bench.seed, resamples=200)
            ranks = with_interval(auroc, share, hit, seed=bench.seed, resamples=1000)
            label = f"{which}, {how}"
            measures[f"calibration error, {label}"] = {name: gap}
            measures[f"AUROC, {label}"] = {name: ranks}
            rows.append((label, float(hit.mean()), float(share.mean()), gap, ranks))
    columns = (
        Column(title="questions"), Column(title="right", form=".0%"), Column(title="mean confidence", form=".0%"),
        Column(title="calibration error", form=".3f", best="low"), Column(title="AUROC", form=".3f", best="high"),
    )  # fmt: skip
    note = (
        "Confidence is the share of the chosen answer in the probability of all answers offered, by log probability in "
        "total or per byte."
    )
    table = Table(title=f"Questions with answers to choose from: {name}", columns=columns, rows=tuple(rows), note=note)
    return Section(title=f"Choices, {name}", blocks=(table,)), measures


def _merged(found: list[Measures]) -> Measures:
    """Measures of several models under one name."""
    merged: Measures = {}
    for measures in found:
        for measure, values in measures.items():
            merged.setdefault(measure, {}).update(values)
    return merged
