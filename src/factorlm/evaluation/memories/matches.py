"""One kind of text with a memory of it: what was lost by each arm, how far contexts match, how right the ∞-gram is."""

# Axes: D documents, N tokens.

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from factorlm.evaluation.document import Cell, Column, Curve, Series, Table
from factorlm.evaluation.intervals import Estimate, ratio_interval
from factorlm.evaluation.memories.domains import Domain
from factorlm.evaluation.memories.mixed import Documents
from factorlm.evaluation.units import LN2, rate
from factorlm.memory.gates import Evidence

Array = NDArray[np.float64]
ALONE = "model alone"
LENGTHS = (0, 1, 2, 3, 4, 5, 6, 8, 12, 16, 24, 32)  # suffixes are grouped at these
FEWEST_TOKENS = 20  # of a group, for a number


@dataclass(frozen=True, eq=False)
class Measured:
    """One kind of text.

    Attributes:
        domain: which.
        documents: that were measured.
        nats: by arm, minus the log probability of each token, document by document.
        infini: what the ∞-gram knew, document by document.
        stored_tokens: of its memory.
        num_copied: documents left out because they are in the store.
        share_D: of each document's tokens in long matches with the store.
    """

    domain: Domain
    documents: Documents
    nats: dict[str, list[Array]]
    infini: list[Evidence]
    stored_tokens: int
    num_copied: int
    share_D: Array

    def bits_per_byte(self, arm: str, seed: int) -> Estimate:
        """Of all documents."""
        lost_D = np.array([lost.sum() for lost in self.nats[arm]]) / LN2
        return rate(lost_D, self.documents.bytes_D, seed=seed)

    def perplexity(self, arm: str, seed: int) -> Estimate:
        """Per token."""
        return rate(np.array([lost.sum() for lost in self.nats[arm]]), self.documents.tokens_D, np.exp, seed=seed)

    def saved(self, arm: str, seed: int) -> Estimate:
        """Nats a token that an arm loses less than the model."""
        gain_D = np.array([(a - b).sum() for a, b in zip(self.nats[ALONE], self.nats[arm], strict=True)])
        return ratio_interval(gain_D, self.documents.tokens_D, seed=seed)

    def wins(self, arm: str, seed: int) -> Estimate:
        """Share of tokens that an arm makes more probable."""
        wins_D = np.array([(b < a).sum() for a, b in zip(self.nats[ALONE], self.nats[arm], strict=True)], float)
        return ratio_interval(wins_D, self.documents.tokens_D, seed=seed)


def matches(found: list[Measured], measures: dict[str, dict[str, Estimate]], seed: int) -> tuple[Curve, Curve, Table]:
    """How long suffixes are, and how right the ∞-gram is by their length."""
    lengths, right = [], []
    for m in found:
        whole = Evidence.joined(m.infini)
        length_N, hit_N = whole.feature_NF[:, 0], whole.memory_N > np.log(0.5)
        shares = tuple(float((length_N >= n).mean()) for n in LENGTHS)
        lengths.append(Series(name=m.domain.name, x=tuple(map(float, LENGTHS)), y=shares))
        by_length = {
            low: _agreement(m, low, high, seed) for low, high in zip(LENGTHS, (*LENGTHS[1:], 1 << 30), strict=True)
        }
        right.append(Series(name=m.domain.name, x=tuple(map(float, LENGTHS)), y=tuple(by_length.values())))
        sparse_N = whole.feature_NF[:, 2] > 0.5
        measures[f"agreement/{m.domain.name}"] = {
            "all": _share(hit_N),
            "one continuation": _share(hit_N[sparse_N]),
            "several": _share(hit_N[~sparse_N]),
        }
        measures[f"agreement by suffix length/{m.domain.name}"] = {str(n): e for n, e in by_length.items()}
    curve = Curve(
        title="Tokens whose context matches at least so far", x_label="tokens of the longest suffix that is stored",
        y_label="share of tokens", series=tuple(lengths), is_percent=True,
        note="Test texts with more than four fifths of their tokens in matches of 20 and more were left out.",
    )  # fmt: skip
    agreement = Curve(
        title="How often the ∞-gram gives the next token more than a half", x_label="tokens of the longest suffix",
        y_label="share of tokens", series=tuple(right), is_percent=True,
    )  # fmt: skip
    columns = (
        Column(title="texts"), *(Column(title=t, form=".0%") for t in ("all", "one continuation", "several")),
        Column(title="texts left out", form="d"), Column(title="tokens in matches of 20 and more", form=".1%"),
    )  # fmt: skip
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (m.domain.name, *measures[f"agreement/{m.domain.name}"].values(), m.num_copied, float(m.share_D.mean()))
        for m in found
    )
    return curve, agreement, Table(title="Agreement with what people wrote", columns=columns, rows=rows)


def _agreement(m: Measured, low: int, high: int, seed: int) -> Estimate:
    """How often the next token has more than a half, where the suffix has from `low` to below `high` tokens."""
    hits, numbers = [], []
    for e in m.infini:
        inside = (e.feature_NF[:, 0] >= low) & (e.feature_NF[:, 0] < high)
        hits.append(float((e.memory_N[inside] > np.log(0.5)).sum()))
        numbers.append(float(inside.sum()))
    return ratio_interval(hits, numbers, seed=seed) if sum(numbers) >= FEWEST_TOKENS else Estimate(value=None)


def _share(hit_N: NDArray[np.bool_]) -> Estimate:
    return Estimate(value=float(hit_N.mean()) if len(hit_N) else None, n=len(hit_N))
