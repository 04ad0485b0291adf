"""Texts written in one way, judged, with what they cost and how varied they are."""

# Axes: B texts, L labels, P prompts.

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from factorlm.evaluation.diversity import cut, distinct, words_of
from factorlm.evaluation.intervals import Estimate, mean_interval
from factorlm.evaluation.judging import Reader, base_perplexity, judged
from factorlm.evaluation.responses import Samples
from factorlm.evaluation.workbench import Workbench

WORDS = 12  # that texts are cut to before their variety is measured


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
    has_P = judged(bench, reader, samples, f"judging {method}").share(label)
    return Group(method, dial, samples, has_P, planned, written, likeness)
