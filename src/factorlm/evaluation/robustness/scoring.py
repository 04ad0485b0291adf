"""Slots found against slots meant: exact, and relaxed for those that only overlap."""

# Axes: U utterances, C columns (hits, found, meant), R resamples.

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from factorlm.evaluation.intervals import Estimate, bootstrap
from factorlm.text.perturbations import Marked, Span

Array = NDArray[np.float64]


def counts(found: Sequence[Span], meant: Sequence[Span], *, is_relaxed: bool = False) -> tuple[int, int, int]:
    """Hits, slots found and slots meant.

    Exact: type and both ends agree. Relaxed: the type agrees and a character is shared; each slot counts once.
    """
    if not is_relaxed:
        return len(set(found) & set(meant)), len(found), len(meant)
    hits = 0
    for kind in {span.kind for span in found}:
        left = sorted(span for span in found if span.kind == kind)
        right = sorted(span for span in meant if span.kind == kind)
        while left and right:  # stretches in order, so taking the first that overlap pairs as many as can be
            if left[0].start < right[0].end and right[0].start < left[0].end:
                hits += 1
                del left[0], right[0]
            elif left[0].end <= right[0].start:
                del left[0]
            else:
                del right[0]
    return hits, len(found), len(meant)


def table(found: Sequence[Sequence[Span]], meant: Sequence[Marked], *, is_relaxed: bool = False) -> Array:
    """Counts of each utterance, [U, C]."""
    rows = [counts(f, m.spans, is_relaxed=is_relaxed) for f, m in zip(found, meant, strict=True)]
    return np.array(rows, float).reshape(-1, 3)


def f1(mean_RC: Array) -> Array:
    """F1 from means of hits, found and meant: 2 hits / (found + meant); 0 where nothing is found or meant."""
    total_R = mean_RC[:, 1] + mean_RC[:, 2]
    return np.divide(2 * mean_RC[:, 0], total_R, out=np.zeros(len(mean_RC)), where=total_R > 0)


def f1_interval(counts_UC: Array, seed: int) -> Estimate:
    """F1 over all slots, with its interval over resampled utterances."""
    return bootstrap(counts_UC, f1, seed=seed)


def difference(first_UC: Array, second_UC: Array, seed: int) -> Estimate:
    """F1 less another F1 on the same utterances."""
    both_UC = np.concatenate([first_UC, second_UC], 1)
    return bootstrap(both_UC, lambda mean_RC: f1(mean_RC[:, :3]) - f1(mean_RC[:, 3:]), seed=seed)


def retention(noisy_UC: Array, clean_UC: Array, seed: int) -> Estimate:
    """Noisy F1 over clean F1."""

    def ratio(mean_RC: Array) -> Array:
        with np.errstate(divide="ignore", invalid="ignore"):
            return f1(mean_RC[:, :3]) / f1(mean_RC[:, 3:])

    return bootstrap(np.concatenate([noisy_UC, clean_UC], 1), ratio, seed=seed)


def mean_f1(tables: Sequence[Array], seed: int) -> Estimate:
    """Mean of the F1 of several conditions on the same utterances."""
    together_UC = np.concatenate(tables, 1)
    return bootstrap(together_UC, lambda mean_RC: _mean(mean_RC, len(tables)), seed=seed)


def mean_gain(tables: Sequence[Array], others: Sequence[Array], seed: int) -> Estimate:
    """Mean F1 of several conditions less that of another model on the same utterances."""
    together_UC, width = np.concatenate([*tables, *others], 1), 3 * len(tables)
    return bootstrap(
        together_UC,
        lambda mean_RC: _mean(mean_RC[:, :width], len(tables)) - _mean(mean_RC[:, width:], len(others)),
        seed=seed,
    )


def _mean(mean_RC: Array, number: int) -> Array:
    return np.mean([f1(mean_RC[:, 3 * n : 3 * n + 3]) for n in range(number)], axis=0)
