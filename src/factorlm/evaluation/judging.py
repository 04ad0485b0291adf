"""What the suites with judges share: verdicts on samples, what texts cost, and how good the judges are."""

# Axes: B texts, L labels, P prompts, S samples of a prompt.

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from factorlm.evaluation.document import Block, Cell, Column, Matrix, Table
from factorlm.evaluation.intervals import Estimate, ratio_interval
from factorlm.evaluation.judges import Judge
from factorlm.evaluation.rates import AttributeRate, attribute_rate
from factorlm.evaluation.responses import Samples, base_nats
from factorlm.evaluation.workbench import Workbench

TEXTS = 64  # judged together


class Reader(Protocol):
    """What judges samples: a judge of the shelf, or one that is learned where it is used."""

    @property
    def name(self) -> str:
        """Of it."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Between which it decides."""

    @property
    def fingerprint(self) -> str:
        """Of everything that its verdicts depend on."""

    @property
    def confusion(self) -> tuple[tuple[int, ...], ...]:
        """Counts on test texts; rows are true labels."""

    def probabilities(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Of each label, [B, L]; nan for a text without words."""


@dataclass(frozen=True)
class Verdicts:
    """What a judge says of samples.

    Attributes:
        judge: who.
        prob_PSL: probability of each label; nan for a text without words.
    """

    judge: Reader
    prob_PSL: NDArray[np.float64]

    def prob(self, label: str) -> NDArray[np.float64]:
        """Probability of a label, [P, S]."""
        return self.prob_PSL[..., self.judge.labels.index(label)]

    @property
    def said_PS(self) -> NDArray[np.int_]:
        """The label said of each sample, [P, S]; -1 for a text without words."""
        is_blank_PS = np.isnan(self.prob_PSL).any(-1)
        return np.where(is_blank_PS, -1, np.where(np.isnan(self.prob_PSL), 0, self.prob_PSL).argmax(-1))

    def has(self, label: str) -> NDArray[np.float64]:
        """Whether the label is the verdict, [P, S]: 1, 0, or nan for a text without words."""
        return np.where(self.said_PS < 0, np.nan, self.said_PS == self.judge.labels.index(label)).astype(float)

    def share(self, label: str) -> NDArray[np.float64]:
        """Share of each prompt's samples with the label, [P]; nan where no sample has words."""
        has_PS = self.has(label)
        with np.errstate(invalid="ignore"):
            return np.asarray(np.nansum(has_PS, 1) / (~np.isnan(has_PS)).sum(1))

    def rate(self, label: str, seed: int) -> AttributeRate:
        """Share of texts with the label, as judged and corrected for the judge's errors."""
        said = [[None if s < 0 else int(s) for s in row] for row in self.said_PS]
        number = self.judge.labels.index(label)
        return attribute_rate(said, self.judge.confusion, label=number, seed=seed)


def judged(bench: Workbench, judge: Reader, samples: Samples, stage: str) -> Verdicts:
    """A judge's verdicts on the continuations alone, cached."""
    bench.judges_used[judge.name] = judge.fingerprint
    texts = [sample.text for row in samples for sample in row]

    def work(batch: list[str]) -> list[list[float] | None]:
        prob_BL = judge.probabilities(batch)
        return [None if np.isnan(prob_L).any() else prob_L.tolist() for prob_L in prob_BL]

    found = bench.in_batches(stage, {"what": "judged", "judge": judge.fingerprint}, texts, TEXTS, work)
    nothing = [math.nan] * len(judge.labels)
    prob_BL = np.array([nothing if prob_L is None else prob_L for prob_L in found])
    return Verdicts(judge, prob_BL.reshape(len(samples), -1, len(judge.labels)))


def base_perplexity(samples: Samples, seed: int) -> Estimate:
    """Perplexity of samples under the base model: what steering costs in likelihood."""
    nats_P2 = base_nats(samples)
    return ratio_interval(nats_P2[:, 0], nats_P2[:, 1], change=np.exp, seed=seed)


def divergence(samples: Samples, seed: int) -> Estimate:
    """Mean of log p(token) - log base(token) over the samples' own tokens, in nats: how far the model moved.

    With plain sampling its expectation is the Kullback-Leibler divergence a token from the base.
    """
    nats_P = [sum(s.log_prob - s.base_log_prob for s in row) for row in samples]
    return ratio_interval(nats_P, [sum(len(s.token_ids) for s in row) for row in samples], seed=seed)


def judge_blocks(judges: Sequence[Judge]) -> tuple[Block, ...]:
    """How good the judges are on texts that they did not learn from, with their confusion matrices."""
    rows: list[tuple[Cell, ...]] = []
    for judge in judges:
        for test, quality in judge.card.quality.items():
            origin = "yes" if quality.origin == "same" else "no"
            rows.append((judge.name, test, origin, quality.n, quality.accuracy, quality.auc, quality.ece))
    columns = (
        Column(title="judge"),
        Column(title="test texts"),
        Column(title="of the origin it learned from"),
        Column(title="texts", form="d"),
        Column(title="accuracy", form=".1%"),
        Column(title="AUC", form=".3f"),
        Column(title="calibration error", form=".3f"),
    )
    note = (
        "Judges read the continuation alone. None shares features with the model that is steered. Corrected rates use "
        "the confusion below and assume the same errors on a model's texts."
    )
    blocks: list[Block] = [Table(title="The judges", columns=columns, rows=tuple(rows), note=note)]
    for judge in judges:
        shares = tuple(tuple(n / max(1, sum(row)) for n in row) for row in judge.confusion)
        blocks.append(
            Matrix(
                title=f"Confusion of {judge.name} on {judge.card.quality[judge.card.reference].n} texts of "
                f"{judge.card.reference}",
                row_label="truth",
                column_label="verdict",
                rows=judge.labels,
                columns=judge.labels,
                values=shares,
                form=".0%",
            )
        )
    return tuple(blocks)


def agreement(first: Verdicts, second: Verdicts, label: str) -> float | None:
    """Cohen's kappa (1960) of two judges about a label over the same samples; None where it is not defined."""
    a_B, b_B = first.has(label).ravel(), second.has(label).ravel()
    both = ~(np.isnan(a_B) | np.isnan(b_B))
    a_B, b_B = a_B[both], b_B[both]
    if not len(a_B):
        return None
    by_chance = a_B.mean() * b_B.mean() + (1 - a_B.mean()) * (1 - b_B.mean())
    return None if by_chance == 1 else float(((a_B == b_B).mean() - by_chance) / (1 - by_chance))
