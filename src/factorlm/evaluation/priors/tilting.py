"""Texts of a prior, tilted by components or by tokens: written, judged and weighed."""

# Axes: B texts, G groups, J judges, K components.

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from factorlm.algebra import Factor, LocalProduct, Power, Product, pad_left, pad_right
from factorlm.evaluation.diversity import cut, distinct, jackknife_interval, leave_groups_out, self_bleu, words_of
from factorlm.evaluation.intervals import LEVEL, Estimate, mean_interval, ratio_interval, resampled_means
from factorlm.evaluation.judges import Judge
from factorlm.evaluation.priors.reading import Row, digest
from factorlm.evaluation.workbench import Workbench
from factorlm.inference.expression import factor_part
from factorlm.prior import Prior, Separate
from factorlm.prior.batches import score_rows
from factorlm.prior.drawing import write

Array = NDArray[np.float64]
Index = NDArray[np.intp]
COMPONENTS, TOKENS, BLEND, BARE = "components", "tokens", "tokens of the blend", "tokens of the bare model"
TOKEN_WAYS = (TOKENS, BLEND, BARE)
TOGETHER = 32  # texts written or weighed at once
WORDS = 10  # that texts are cut to before their variety is measured


@dataclass(frozen=True, eq=False)
class Written:
    """Texts written at one setting.

    Attributes:
        way: what was tilted.
        dial: temperature of components, or strength of the factor on tokens; None where nothing is tilted.
        texts: as written.
        length_B: tokens of each.
        component_B: the number of that which wrote each text; -1 where all wrote, or none.
        log_lik_BK: log probability of each text under each component, in nats.
        bare_B: the same under the bare model.
        moved_B: log probability as written, less that before tokens were tilted; zero where they were not.
        judged_BJ: probability of the label by each judge; nan for a text without words.
        seed: of the intervals.
    """

    way: str
    dial: float | None
    texts: tuple[str, ...]
    length_B: Array
    component_B: NDArray[np.int_]
    log_lik_BK: Array
    bare_B: Array
    moved_B: Array
    judged_BJ: Array
    seed: int

    @property
    def name(self) -> str:
        """For tables."""
        if self.dial is None:
            return self.way
        return f"{self.way}, {'T=' if self.way == COMPONENTS else ''}{self.dial:g}"

    def mean(self, judge: int) -> Estimate:
        """Mean probability of the label by a judge, over texts with words."""
        return mean_interval(self.judged_BJ[:, judge], seed=self.seed)

    def rate(self, judge: int, least: float) -> Estimate:
        """Share of texts with words to which a judge gives the label with at least this probability."""
        judged_B = self.judged_BJ[:, judge]
        return mean_interval(np.where(np.isnan(judged_B), np.nan, judged_B >= least), seed=self.seed)

    @property
    def own_B2(self) -> Array:
        """Nats under the component that wrote each text, and tokens."""
        own_B = np.take_along_axis(self.log_lik_BK, self.component_B.clip(0)[:, None], 1)[:, 0]
        return np.stack([-own_B, self.length_B], 1)

    @property
    def nearest_B2(self) -> Array:
        """Nats under the component that gives each text most, and tokens."""
        return np.stack([-self.log_lik_BK.max(1), self.length_B], 1)

    @property
    def bare_B2(self) -> Array:
        """Nats under the bare model, and tokens."""
        return np.stack([-self.bare_B, self.length_B], 1)

    def per_token(self, nats_B2: Array) -> Estimate:
        """Nats per token."""
        return ratio_interval(nats_B2[:, 0], nats_B2[:, 1], seed=self.seed)

    @cached_property
    def variety(self) -> tuple[Estimate, Estimate]:
        """Distinct pairs of words over all pairs, and self-BLEU, of the beginnings of texts."""
        words = [found for text in self.texts if (found := words_of(cut(text, WORDS)))]
        if len(words) < 3:
            return Estimate(value=None, n=len(words)), Estimate(value=None, n=len(words))

        def of(index_B: Index) -> Array:
            kept = [words[i] for i in index_B]
            return np.array([distinct(kept, 2), self_bleu(kept) if len(kept) > 1 else math.nan])

        whole_2, deleted_G2 = leave_groups_out(of, range(len(words)), seed=self.seed)
        first, second = (
            jackknife_interval(float(whole), deleted_G, len(words))
            for whole, deleted_G in zip(whole_2, deleted_G2.T, strict=True)
        )
        return first, second


@dataclass(frozen=True, eq=False)
class Writer:
    """Writes texts of a prior and has them judged.

    Attributes:
        bench: cache, seed and progress.
        prior: untilted.
        judges: who say how probable the label is; the first gives the rewards.
        label: the attribute.
        max_tokens: of a text.
        factor: that tokens are tilted with, bound; None where there is none.
    """

    bench: Workbench
    prior: Prior
    judges: tuple[Judge, ...]
    label: str
    max_tokens: int
    factor: Factor | None

    def of_components(self, component_B: Sequence[int], way: str, dial: float | None) -> Written:
        """Texts, each of one component as it is."""
        return self._written(way, dial, list(component_B), None)

    def of_tokens(self, way: str, strength: float, exponent: float, component_B: Sequence[int]) -> Written:
        """Texts with tilted tokens, of components, of the blend or of the bare model.

        Args:
            way: one of TOKEN_WAYS.
            strength: for names.
            exponent: of the factor; zero tilts nothing.
            component_B: that write, where components do; else only their number counts.
        """
        return self._written(way, strength or None, list(component_B), exponent)

    def draw(self, prior: Prior, number: int, dial: float | None) -> list[int]:
        """Components of so many texts, drawn independently by the weights of a prior."""
        return prior.draw(number, self._generator("components", dial), repeat=True).tolist()

    def _written(self, way: str, dial: float | None, component_B: list[int], exponent: float | None) -> Written:
        bench, prior, title = self.bench, self.prior, way if dial is None else f"{way}, {dial:g}"
        named = {} if exponent is None else {"exponent": exponent, "factor": self._factor_name}
        key = {
            "what": "texts of a prior", "prior": digest(prior), "way": way, "dial": dial, "max_tokens": self.max_tokens,
            "seed": bench.seed, **named,
        }  # fmt: skip
        items = [[number, k] for number, k in enumerate(component_B)]
        rows: list[Row] = bench.in_batches(
            f"writing: {title}", key, items, TOGETHER, lambda batch: self._write(batch, way, dial, exponent)
        )
        texts = tuple(prior.lm.vocabulary.text(row) for row in rows)
        weighed = {"what": "texts under components and the bare model", "prior": digest(prior)}
        log_lik_BN = np.array(bench.in_batches(f"weighing: {title}", weighed, rows, TOGETHER, self._weigh), float)
        moved_B = np.zeros(len(rows))
        if exponent:
            moved = {**key, "what": "how far texts were moved"}
            pairs = [[k, row] for k, row in zip(component_B, rows, strict=True)]
            found = bench.in_batches(
                f"weighing: {title}", moved, pairs, TOGETHER, lambda batch: self._moved(batch, way, exponent)
            )
            moved_B = np.array(found, float)
        owner_B = np.array(component_B) if way not in (BLEND, BARE) else np.full(len(rows), -1)
        judged_BJ = np.stack([self._judged(judge, texts, title) for judge in self.judges], 1)
        return Written(way, dial, texts, np.array([len(row) for row in rows], float), owner_B, log_lik_BN[:, :-1],
                       log_lik_BN[:, -1], moved_B, judged_BJ, bench.seed)  # fmt: skip

    def _write(self, batch: list[list[int]], way: str, dial: float | None, exponent: float | None) -> list[Row]:
        base = self._base(way, [k for _, k in batch])
        generator = self._generator(way, dial, batch[0][0])
        prefixes = [list(self.prior.lm.start_ids)] * len(batch)
        return write(self._tilted(base, exponent), prefixes, self.max_tokens, generator)

    def _weigh(self, rows: list[Row]) -> list[list[float]]:
        """Log probability of texts under each component and, last, the bare model."""
        lm = self.prior.lm
        log_lik_BK = score_rows(self.prior.ensemble, rows, lm.start_ids)
        bare_B1 = score_rows(Separate((lm,)), rows, lm.start_ids)
        return torch.cat([log_lik_BK, bare_B1], 1).tolist()

    @torch.no_grad()
    def _moved(self, batch: list[list[Any]], way: str, exponent: float) -> list[float]:
        """Log probability of texts with tilted tokens, less that without; ends of texts are not counted."""
        base = self._base(way, [k for k, _ in batch])
        prefix_BT = pad_left([list(self.prior.lm.start_ids)] * len(batch))
        text_BT = pad_right([row for _, row in batch])
        moved_BT = self._tilted(base, exponent).score(prefix_BT, text_BT) - base.score(prefix_BT, text_BT)
        return [float(x) for x in moved_BT.double().sum(1)]

    def _base(self, way: str, component_B: list[int]) -> Factor:
        if way == BARE:
            return self.prior.lm
        return self.prior.blend if way == BLEND else self.prior.per_response(torch.tensor(component_B))

    def _tilted(self, base: Factor, exponent: float | None) -> Factor:
        if not exponent:
            return base
        assert self.factor is not None
        return LocalProduct(Product((base, Power(self.factor, exponent))))

    @property
    def _factor_name(self) -> dict[str, Any]:
        return factor_part(str(getattr(self.factor, "name", "")))

    def _judged(self, judge: Judge, texts: Sequence[str], title: str) -> Array:
        """Probability of the label of each text, nan for one without words."""
        self.bench.judges_used[judge.name] = judge.fingerprint
        label = judge.index(self.label)

        def work(batch: list[str]) -> list[float | None]:
            return [None if math.isnan(p) else p for p in judge.probabilities(batch)[:, label].tolist()]

        key = {"what": "probability of a label", "judge": judge.fingerprint, "label": self.label}
        found = self.bench.in_batches(f"judging: {title}", key, list(texts), 2 * TOGETHER, work)
        return np.array([math.nan if p is None else p for p in found])

    def _generator(self, *content: object) -> torch.Generator:
        """Randomness of its own for everything that is drawn."""
        text = json.dumps([self.bench.seed, digest(self.prior), *content])
        return torch.Generator().manual_seed(int.from_bytes(hashlib.sha256(text.encode()).digest()[:7]))


def beyond(own_B2: Array, plain_B2: Array, component_B: NDArray[np.int_], weight_K: Array, seed: int) -> Estimate:
    """Ratio of sums of some texts, minus that of plain texts of components that come with these weights.

    Args:
        own_B2: nats and tokens of the texts.
        plain_B2: the same of plain texts, some of every component that has weight.
        component_B: of the plain texts.
        weight_K: of the components.
        seed: of the resampling.
    """
    own_R2 = resampled_means(own_B2, seed=seed)
    plain_R2, plain_2 = np.zeros_like(own_R2), np.zeros(2)
    for k in np.flatnonzero(weight_K):
        group_B2 = plain_B2[component_B == k]
        plain_R2 += weight_K[k] * resampled_means(group_B2, seed=seed + 1 + int(k))
        plain_2 += weight_K[k] * group_B2.mean(0)
    return _difference(own_B2.mean(0), plain_2, own_R2, plain_R2, len(own_B2))


def difference_of(ours_B2: Array, theirs_B2: Array, seed: int) -> Estimate:
    """Ratio of sums of ours minus that of theirs, for texts that are not paired."""
    number = min(len(ours_B2), len(theirs_B2))
    if not number:
        return Estimate(value=None)
    ours_R2, theirs_R2 = resampled_means(ours_B2, seed=seed), resampled_means(theirs_B2, seed=seed + 1)
    return _difference(ours_B2.mean(0), theirs_B2.mean(0), ours_R2, theirs_R2, number)


def _difference(ours_2: Array, theirs_2: Array, ours_R2: Array, theirs_R2: Array, n: int) -> Estimate:
    """Ours minus theirs, ratios of sums; no number where texts have no tokens."""
    if not ours_2[1] or not theirs_2[1]:
        return Estimate(value=None, n=n)
    with np.errstate(divide="ignore", invalid="ignore"):
        found_R = ours_R2[:, 0] / ours_R2[:, 1] - theirs_R2[:, 0] / theirs_R2[:, 1]
    low, high = (float(x) for x in np.nanquantile(found_R, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]))
    return Estimate(value=float(ours_2[0] / ours_2[1] - theirs_2[0] / theirs_2[1]), low=low, high=high, n=n)
