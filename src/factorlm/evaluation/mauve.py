"""How far two sets of texts lie apart as distributions: MAUVE, and the frontier integral.

Both compare histograms over clusters of the two sets' sentence vectors; the vectors come from another model than the
texts. Scores are comparable only at equal numbers of texts, equal lengths and equal clusters. MAUVE is computed by the
package mauve-text (GPL-3.0, hence an extra of its own); the frontier integral is ours and needs nothing.

Their intervals come from random halves of the prompts: the spread over halves drawn without replacement is the
standard error of the whole, while resampling with replacement would put texts in twice and make clusters of them.

Sources: Pillutla et al. (2021), arXiv:2102.01454, and (2023), arXiv:2212.14578.
"""

# Axes: B texts, D width, K clusters.

from __future__ import annotations

import importlib.util
import os
import sys
import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from factorlm.errors import InputError
from factorlm.evaluation.intervals import LEVEL, Comparison, Estimate

Array = NDArray[np.float64]
Measure = Callable[[Array, Array, int], float]  # of vectors of two sets and the seed of the clusters

INSTALL = "pip install 'factorlm[mauve]'"
TEXTS_PER_CLUSTER = 10
SCALING = 5.0  # c of the papers
VARIANCE = 0.9  # kept of the vectors before they are clustered
FEWEST_TEXTS = 20  # for two clusters
FEWEST_TO_RANK = 500  # with 100, sets a third of a standard deviation apart scored like equal ones
SEEDS, HALVES = 5, 20
WIDTH = 1.96  # of a 95 % interval to one side, in standard errors


def is_installed() -> bool:
    """Whether the package that computes MAUVE is there."""
    return importlib.util.find_spec("mauve") is not None and importlib.util.find_spec("faiss") is not None


def require() -> None:
    """Complain unless the package is there.

    Raises:
        InputError: saying how to get it.
    """
    if not is_installed():
        raise InputError(f"MAUVE needs the package mauve-text, which is not installed; run {INSTALL}, or switch it off")


def num_clusters(num_texts: int) -> int:
    """A tenth of the texts of a side, at least two."""
    return max(2, round(num_texts / TEXTS_PER_CLUSTER))


def mauve(human_BD: Array, model_BD: Array, seed: int = 0) -> float:
    """Area under the curve of two divergences to mixtures, in (0, 1]; equal sets come near one, not to it.

    Args:
        human_BD: sentence vectors of human texts.
        model_BD: of as many texts of a model.
        seed: of the clusters.

    Raises:
        InputError: if the package is missing, or the sides are unequal or too small.
    """
    require()
    _check(human_BD, model_BD)
    with _quiet():
        from mauve import compute_mauve

        found = compute_mauve(
            p_features=human_BD,
            q_features=model_BD,
            num_buckets=num_clusters(len(human_BD)),
            kmeans_explained_var=VARIANCE,
            mauve_scaling_factor=SCALING,
            seed=seed,
        )
    return float(found.mauve)


def clustered_frontier_integral(human_BD: Array, model_BD: Array, seed: int = 0) -> float:
    """Frontier integral of two sets of sentence vectors: small where they are close.

    The vectors are reduced to 90 % of their variance and clustered together by k-means; half a text is added to each
    cluster on either side (Krichevsky and Trofimov, 1981).

    Args:
        human_BD: sentence vectors of human texts, of length one.
        model_BD: of as many texts of a model.
        seed: of the clusters.

    Raises:
        InputError: if the sides are unequal or too small.
    """
    _check(human_BD, model_BD)
    human_K, model_K = cluster_counts(human_BD, model_BD, num_clusters(len(human_BD)), seed)
    return frontier_integral(smoothed(human_K), smoothed(model_K))


def cluster_counts(p_BD: Array, q_BD: Array, num_clusters: int, seed: int) -> tuple[Array, Array]:
    """How many vectors of either side fall into each cluster of both together, [K] each."""
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA
    from sklearn.exceptions import ConvergenceWarning

    both_BD = np.concatenate([p_BD, q_BD])
    with warnings.catch_warnings():
        # Looping models write fewer different texts than there are clusters: a finding, not a mistake.
        warnings.simplefilter("ignore", ConvergenceWarning)
        if np.ptp(both_BD, axis=0).any():
            both_BD = PCA(VARIANCE, svd_solver="full").fit_transform(both_BD)
        label_B = KMeans(num_clusters, n_init=1, random_state=seed).fit_predict(both_BD)
    p_K, q_K = (
        np.bincount(x, minlength=num_clusters).astype(float) for x in (label_B[: len(p_BD)], label_B[len(p_BD) :])
    )
    return p_K, q_K


def smoothed(count_K: Array) -> Array:
    """Shares after half an observation more for each kind. Krichevsky and Trofimov (1981)."""
    return (count_K + 0.5) / (count_K + 0.5).sum()


def frontier_integral(p_K: Array, q_K: Array) -> float:
    """Twice the integral over w from 0 to 1 of w KL(p | r) + (1 - w) KL(q | r), with r = w p + (1 - w) q.

    Between 0, for equal shares, and 1, for shares of nothing in common; in closed form.
    """
    p_K, q_K = np.asarray(p_K, float), np.asarray(q_K, float)
    term_K = (p_K + q_K) / 4  # where one share is zero
    both_K = (p_K > 0) & (q_K > 0)
    p, q = p_K[both_K], q_K[both_K]
    difference = (p - q) / q
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = np.where(
            np.abs(difference) < 1e-8, 1.0, np.log1p(difference) / difference
        )  # (log p - log q) q / (p - q)
    term_K[both_K] = (p + q) / 4 - p * slope / 2
    return float(2 * term_K.sum())


@dataclass(frozen=True, eq=False)
class Closeness:
    """A measure of a model's texts against human ones.

    Attributes:
        value: mean over five seeds of the clusters.
        halves: on random halves of the prompts, both sides cut alike; none where the texts are too few.
        n: texts a side.
    """

    value: float
    halves: Array
    n: int

    @property
    def estimate(self) -> Estimate:
        """With the interval that the spread over halves gives."""
        if len(self.halves) < 2:
            return Estimate(value=self.value, n=self.n)
        half_width = WIDTH * float(self.halves.std(ddof=1))
        return Estimate(
            value=self.value, low=max(0.0, self.value - half_width), high=min(1.0, self.value + half_width), n=self.n
        )


def closeness(
    measure: Measure, human_BD: Array, model_BD: Array, unit_B: Sequence[Hashable], *, seed: int = 0
) -> Closeness:
    """Measure two paired sets; the same units and seed take the same halves, so that differences are paired.

    Args:
        measure: `mauve` or `clustered_frontier_integral`.
        human_BD: sentence vectors of human continuations.
        model_BD: of a model's continuations of the same prompts.
        unit_B: prompts of equal value hang together.
        seed: of clusters and halves.
    """
    value = float(np.mean([measure(human_BD, model_BD, seed + i) for i in range(SEEDS)]))
    halves = []
    if len(human_BD) >= 2 * FEWEST_TEXTS:
        splits = _split(unit_B, HALVES, seed)
        halves = [measure(human_BD[half], model_BD[half], seed + i) for i, (half, _) in enumerate(splits)]
    return Closeness(value, np.array(halves), len(human_BD))


def comparison(
    measure: str, model: tuple[str, Closeness], rival: tuple[str, Closeness], *, lower_is_better: bool
) -> Comparison:
    """The verdict on a paired difference of two models' closeness to the same human texts.

    Args:
        measure: its name.
        model: name and closeness.
        rival: the same of the rival, over the same halves.
        lower_is_better: whether a smaller measure is the better one.
    """
    from scipy.stats import norm

    names, n, value = (model[0], rival[0]), model[1].n, model[1].value - rival[1].value
    halves = model[1].halves - rival[1].halves
    error = float(halves.std(ddof=1)) if len(halves) > 1 else 0.0
    difference = Estimate(value=value, n=n)
    if error > 0:
        difference = Estimate(value=value, low=value - WIDTH * error, high=value + WIDTH * error, n=n)
    if n < FEWEST_TO_RANK or error == 0:
        reason = f"{n} texts; at least {FEWEST_TO_RANK} are needed" if n < FEWEST_TO_RANK else "no spread to judge by"
        return Comparison(measure=measure, model=names[0], rival=names[1], difference=difference, p_value=None,
                          verdict="cannot rank", reason=reason)  # fmt: skip
    p_value = float(2 * norm.sf(abs(value) / error))
    better = (value < 0) == lower_is_better
    verdict = ("better" if better else "worse") if p_value < 1 - LEVEL else "no difference shown"
    return Comparison(measure=measure, model=names[0], rival=names[1], difference=difference, p_value=p_value,
                      verdict=verdict)  # type: ignore[arg-type]  # fmt: skip


def between_halves(
    measure: Measure, human_BD: Array, other_BD: Array, unit_B: Sequence[Hashable], *, seed: int = 0
) -> Estimate:
    """Human texts of one half of the prompts against the others of the other half, mean over five ways of halving.

    With the human texts on both sides this is the best that a model can reach with as many texts; no prompt is on both
    sides, which would raise the measure. The ends are the smallest and the largest of the five.
    """
    if len(human_BD) < 2 * FEWEST_TEXTS:
        return Estimate(value=None)
    splits = _split(unit_B, SEEDS, seed)
    found = [measure(human_BD[a], other_BD[b], seed + i) for i, (a, b) in enumerate(splits)]
    return Estimate(value=float(np.mean(found)), n=len(human_BD) // 2)


def _split(unit_B: Sequence[Hashable], repeats: int, seed: int) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    """Texts in two parts of equal size, whole units as far as that goes, drawn anew each time."""
    number = {unit: i for i, unit in enumerate(dict.fromkeys(unit_B))}
    unit_of_text = np.array([number[unit] for unit in unit_B])
    generator = np.random.default_rng(seed)
    size = len(unit_of_text) // 2
    found = []
    for _ in range(repeats):
        order = np.argsort(generator.permutation(len(number))[unit_of_text], kind="stable")
        found.append((order[:size], order[size : 2 * size]))
    return found


def _check(p_BD: Array, q_BD: Array) -> None:
    if len(p_BD) != len(q_BD) or len(p_BD) < FEWEST_TEXTS:
        raise InputError(
            f"as many texts on both sides, at least {FEWEST_TEXTS}, are needed, got {len(p_BD)} and {len(q_BD)}"
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Neither warnings nor what faiss writes past Python to the error stream: advice on numbers of texts."""
    sys.stderr.flush()
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)
