"""What a way of finding slots does under each condition, as numbers, tables and pictures."""

# Axes: U utterances, C columns (hits, found, meant), R resamples.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from factorlm.evaluation.document import Bar, Block, Cell, Column, Intervals, Table
from factorlm.evaluation.intervals import Estimate, bootstrap
from factorlm.evaluation.robustness import scoring
from factorlm.text.perturbations import Marked, Span

Array = NDArray[np.float64]
Measures = dict[str, dict[str, Estimate]]
CLEAN = "clean"
SINGLE = ("typos", "speech", "abbreviations", "simplify", "verbose", "append")
PARTS = ("context_typos", "entity_typos", "append")
MIXED = (
    "context_typos+entity_typos",
    "context_typos+append",
    "entity_typos+append",
    "context_typos+entity_typos+append",
)
CONDITIONS = (CLEAN, *SINGLE, "context_typos", "entity_typos", *MIXED)


@dataclass(eq=False)
class Outcomes:
    """Counts of one way of finding slots on the same utterances under several conditions.

    Attributes:
        name: of the way.
        exact: by condition, counts of each utterance, [U, C]; type and ends agree.
        relaxed: the same, where types agree and stretches overlap.
    """

    name: str
    exact: dict[str, Array] = field(default_factory=dict)
    relaxed: dict[str, Array] = field(default_factory=dict)

    def add(self, condition: str, found: Sequence[Sequence[Span]], meant: Sequence[Marked]) -> None:
        """Count what was found under a condition."""
        self.exact[condition] = scoring.table(found, meant)
        self.relaxed[condition] = scoring.table(found, meant, is_relaxed=True)

    @property
    def noisy(self) -> list[str]:
        """Conditions other than the clean one."""
        return [condition for condition in self.exact if condition != CLEAN]

    def measures(self, start: str, seed: int) -> Measures:
        """F1, relaxed F1 and what is retained of the clean one, by condition; and what mixtures and typos do.

        Args:
            start: of the names of measures, such as "slots/snips".
            seed: of resampling.
        """
        end = f"{start}/{self.name}"
        clean_UC = self.exact[CLEAN]
        found: Measures = {
            f"F1/{end}": {c: scoring.f1_interval(x_UC, seed) for c, x_UC in self.exact.items()},
            f"relaxed F1/{end}": {c: scoring.f1_interval(x_UC, seed) for c, x_UC in self.relaxed.items()},
            f"retention/{end}": {c: scoring.retention(self.exact[c], clean_UC, seed) for c in self.noisy},
        }
        if self.noisy:
            found[f"F1/{end}"]["mean of noisy"] = scoring.mean_f1([self.exact[c] for c in self.noisy], seed)
        others = [c for c in SINGLE if c != "typos" and c in self.exact]
        if "typos" in self.exact and others:
            found[f"next worst less typos/{end}"] = {"F1": self.worst_less("typos", others, seed)}
        mixed = {m: m.split("+") for m in self.noisy if "+" in m and set(m.split("+")) <= set(self.exact)}
        if mixed:
            found[f"worst part less mixture/{end}"] = {
                mixture: self.worst_less(mixture, parts, seed) for mixture, parts in mixed.items()
            }
        return found

    def worst_less(self, condition: str, others: Sequence[str], seed: int) -> Estimate:
        """The lowest F1 of other conditions less that of one; positive where this one is the worst of all."""
        together_UC = np.concatenate([self.exact[c] for c in (condition, *others)], 1)

        def statistic(mean_RC: Array) -> Array:
            each = [scoring.f1(mean_RC[:, 3 * n : 3 * n + 3]) for n in range(1 + len(others))]
            return np.min(each[1:], axis=0) - each[0]

        return bootstrap(together_UC, statistic, seed=seed)

    def worst(self) -> str:
        """The condition of lowest F1."""
        return min(self.exact, key=lambda c: float(scoring.f1(self.exact[c].mean(0, keepdims=True))[0]))


def blocks(title: str, rows: Sequence[Outcomes], start: str, measures: Measures, note: str) -> tuple[Block, ...]:
    """A picture of F1 and a table with relaxed F1 and retention.

    Args:
        title: of the picture.
        rows: ways on the same utterances and conditions.
        start: of the names of measures.
        measures: that hold them.
        note: how to read it.
    """
    conditions = list(rows[0].exact)
    found = {row.name: measures[f"F1/{start}/{row.name}"] for row in rows}
    picture = Intervals(
        title=title,
        x_label="F1 of slots, exact",
        series=tuple(found),
        bars=tuple(Bar(label=c, values=tuple(by[c] for by in found.values())) for c in conditions),
        is_percent=True,
        note=note,
    )
    cells: list[tuple[Cell, ...]] = []
    for row in rows:
        relaxed, kept = measures[f"relaxed F1/{start}/{row.name}"], measures[f"retention/{start}/{row.name}"]
        worst = row.worst()
        for c in conditions:
            cells.append((row.name, f"{c} (worst)" if c == worst else c, found[row.name][c], relaxed[c], kept.get(c)))
    columns = (
        Column(title="way"),
        Column(title="errors"),
        Column(title="F1", form=".1%"),
        Column(title="relaxed F1", form=".1%"),
        Column(title="share of the clean F1 kept", form=".0%"),
    )
    return picture, Table(title=f"{title}: all numbers", columns=columns, rows=tuple(cells))
