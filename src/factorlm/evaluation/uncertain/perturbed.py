"""Inv-Entropy with graded variants of a question, bred by a genetic algorithm, against trivial variants."""

# Axes: B questions.

from __future__ import annotations

from dataclasses import replace

import numpy as np
from pydantic import PositiveInt
from scipy.stats import spearmanr

from factorlm.evaluation.calibration import auroc, with_interval
from factorlm.evaluation.document import Cell, Column, Section, Table
from factorlm.evaluation.intervals import Estimate, mean_interval
from factorlm.evaluation.part import Part
from factorlm.evaluation.uncertain.graded import Asked, asked_of, graded
from factorlm.evaluation.uncertain.scoring import FEWEST, Array, Measures, confidences_of
from factorlm.evaluation.workbench import Workbench
from factorlm.inference.uncertainty import Asking, Tools
from factorlm.inference.uncertainty.variants import Gaap, gaap, trivial
from factorlm.settings import Config

GRADED, TRIVIAL = "graded", "trivial"
NAME = "inv-entropy"


class Perturbed(Config):
    """Settings of this part.

    Attributes:
        questions: about passages.
        gaap: how variants are bred.
        replications: answers to each variant.
        asking: how answers are had.
    """

    questions: PositiveInt = 20
    gaap: Gaap = Gaap()
    replications: PositiveInt = 3
    asking: Asking = Asking(max_tokens=8)

    @classmethod
    def sized(cls, size: str) -> Perturbed:
        """Minutes, or what one would publish."""
        return cls() if size == "small" else cls(questions=300)


def measure_perturbed(bench: Workbench, settings: Perturbed) -> Part:
    """Breed variants, answer them, and rank errors by both kinds."""
    tools = Tools.default()
    composed = bench.models[0]
    asked, bred = asked_of(bench, "xquad_en", settings.questions), []
    for done, one in enumerate(asked, 1):
        bred.append(gaap(one.query.question, tools.encode, settings.gaap))
        bench.report("breeding variants", done, len(asked))
    kept = [i for i, variants in enumerate(bred) if len(variants) == settings.gaap.number]
    texts = {
        GRADED: [[variant.text for variant in bred[i]] for i in kept],
        TRIVIAL: [trivial(asked[i].query.question, settings.gaap.number) for i in kept],
    }
    confidence: dict[str, Array] = {}
    right_B = np.zeros(0)
    for kind, variants in texts.items():
        rows = [_with(asked[i], found) for i, found in zip(kept, variants, strict=True)]
        found = graded(bench, composed, f"{kind} variants", rows, ["variants"], settings.asking,
                       replications=settings.replications)  # fmt: skip
        confidence[kind], right_B = confidences_of(found, (NAME,), tools)[NAME], found.right_B
    similarity = [variant.similarity for i in kept for variant in bred[i]]
    generation = [variant.generation for i in kept for variant in bred[i]]
    levels = sorted(set(generation))
    means = [float(np.mean([s for s, g in zip(similarity, generation, strict=True) if g == level])) for level in levels]
    measures: Measures = {
        "similarity of variants by generation": {str(k): Estimate(value=v) for k, v in zip(levels, means, strict=True)},
        "rank correlation of similarity and generation": {
            GRADED: Estimate(value=float(spearmanr(levels, means).statistic) if len(levels) > 2 else None)
        },
    }
    rows_: list[tuple[Cell, ...]] = []
    enough = min(right_B.sum(), (1 - right_B).sum()) >= FEWEST
    for kind, confidence_B in confidence.items():
        rank = (
            with_interval(auroc, confidence_B, right_B, seed=bench.seed, resamples=1000)
            if enough
            else Estimate(value=None)
        )
        measures.setdefault("AUROC of Inv-Entropy by variants", {})[kind] = rank
        rows_.append((kind, rank, mean_interval(-confidence_B, seed=bench.seed)))
    if enough:
        both = confidence[GRADED], confidence[TRIVIAL]
        measures["AUROC of graded less that of trivial variants"] = {
            NAME: with_interval(_gain, *both, right_B, seed=bench.seed, resamples=1000)
        }
    columns = (
        Column(title="variants"),
        Column(title="AUROC", form=".3f", best="high"),
        Column(title="mean Inv-Entropy"),
    )
    fall = ", ".join(f"{mean:.2f} at generation {level}" for level, mean in zip(levels, means, strict=True))
    note = f"{len(kept)} of {len(asked)} questions have words enough to vary. Mean similarity to the question: {fall}."
    table = Table(title="Inv-Entropy by kind of variants", columns=columns, rows=tuple(rows_), note=note)
    lead = (
        f"{settings.gaap.number} variants of each question, answered {settings.replications} times. Graded ones "
        "replace words by neighbours or leave them out; trivial ones change letters and blanks."
    )
    headline = f"Variants: Inv-Entropy ranks with AUROC {measures['AUROC of Inv-Entropy by variants'][GRADED]} over " \
        f"graded variants, {measures['AUROC of Inv-Entropy by variants'][TRIVIAL]} over trivial ones."  # fmt: skip
    return Part((Section(title="Variants of a question", lead=lead, blocks=(table,)),), measures, (headline,))


def _gain(first_B: Array, second_B: Array, right_B: Array) -> float:
    return auroc(first_B, right_B) - auroc(second_B, right_B)


def _with(asked: Asked, texts: list[str]) -> Asked:
    return replace(asked, variants=tuple(asked.query.asked(text) for text in texts))
