"""Texts written in one way, judged, with what they cost and how varied they are."""

# Axes: B texts, L labels, P prompts.

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from factorlm.evaluation.diversity import cut, distinct, words_of
from factorlm.evaluation.intervals import Estimate, mean_interval
from factorlm.evaluation.judging import base_perplexity
from factorlm.evaluation.responses import Samples
from factorlm.evaluation.workbench import Workbench

TEXTS = 64  # judged together
WORDS = 12  # that texts are cut to before their variety is measured


class Reader(Protocol):
    """A judge."""

    @property
    def name(self) -> str:
        """Of it."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Between which it decides."""

    @property
    def fingerprint(self) -> str:
        """Of everything that its verdicts depend on."""

    def probabilities(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Of each label, [B, L]; nan for a text without words."""


@dataclass(frozen=True, eq=False)
class Group:
    """Texts written in one way.

    Attributes:
        method: of writing.
        dial: its setting; None where there is none.
        samples: the texts.
        has_P: share of each prompt's texts with the label; nan without words.
        planned: mean probability that the guide gives plans what is wanted; None without guide.
        written: the same of texts.
        likeness: mean cosine of texts to their plans; None without plans.
    """

    method: str
    dial: float | None
    samples: Samples
    has_P: NDArray[np.float64]
    planned: float | None = None
    written: float | None = None
    likeness: float | None = None

    @property
    def name(self) -> str:
        """For tables."""
        return self.method if self.dial is None else f"{self.method} {self.dial:g}"

    def rate(self, seed: int) -> Estimate:
        """Share of texts with the label."""
        return mean_interval(self.has_P, seed=seed)

    def price(self, seed: int) -> Estimate:
        """Perplexity under the base."""
        return base_perplexity(self.samples, seed)

    @cached_property
    def distinct(self) -> tuple[float, float, float]:
        """Different runs of 1, 2 and 3 words over all of them, of the first text of each prompt, cut alike."""
        words = [words_of(cut(row[0].text, WORDS)) for row in self.samples]
        one, two, three = (distinct(words, n) for n in (1, 2, 3))
        return one, two, three


def measured(
    bench: Workbench, reader: Reader, label: str, method: str, dial: float | None, samples: Samples, *,
    planned: float | None = None, written: float | None = None, likeness: float | None = None,
) -> Group:  # fmt: skip
    """Judge texts."""
    has_P = shares(bench, reader, label, samples, f"judging {method}")
    return Group(method, dial, samples, has_P, planned, written, likeness)


def shares(bench: Workbench, reader: Reader, label: str, samples: Samples, stage: str) -> NDArray[np.float64]:
    """Share of each prompt's texts with words to which a judge gives the label before all others, [P]."""
    bench.judges_used[reader.name] = reader.fingerprint
    texts = [sample.text for row in samples for sample in row]

    def work(batch: list[str]) -> list[list[float] | None]:
        return [None if np.isnan(prob_L).any() else prob_L.tolist() for prob_L in reader.probabilities(batch)]

    found = bench.in_batches(stage, {"what": "judged", "judge": reader.fingerprint}, texts, TEXTS, work)
    number = reader.labels.index(label)
    has_B = np.array([math.nan if prob_L is None else float(np.argmax(prob_L) == number) for prob_L in found])
    has_PS = has_B.reshape(len(samples), -1)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.nansum(has_PS, 1) / (~np.isnan(has_PS)).sum(1))
