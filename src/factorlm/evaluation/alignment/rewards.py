"""How good rewards are: pairs in order, and what of it is length."""

# Axes: B texts, D width, R pairs.

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveInt
from torch import Tensor

from factorlm.evaluation.alignment.learned import learned_reward
from factorlm.evaluation.alignment.sources import Source
from factorlm.evaluation.document import Cell, Column, Section, Table
from factorlm.evaluation.intervals import Estimate, mean_interval
from factorlm.evaluation.part import Part
from factorlm.evaluation.workbench import Workbench
from factorlm.factors.features import tokenized
from factorlm.factors.feedback import Pair
from factorlm.factors.preferences import LONGEST_ANSWER
from factorlm.factors.reward import mean_states
from factorlm.models import CausalLM
from factorlm.settings import Config

Array = NDArray[np.float64]
CONTROLLED, FREE, SHORTER = "length taken out", "length left in", "the shorter text"
ALL, AGAINST = "all pairs", "pairs whose chosen text is not the shorter one"


class RewardQuality(Config):
    """Settings of the part.

    Attributes:
        preference: whose pairs; nearly all chosen texts of civil are the shorter ones, so length can be learned.
        few: pairs that small rewards learn from, to see what is learned first.
        unseen: most pairs that rewards are tested on.
    """

    preference: str = "civil"
    few: tuple[PositiveInt, ...] = (40,)
    unseen: PositiveInt = 400


def measure_rewards(
    bench: Workbench, lm: CausalLM, source: Source, pairs: Sequence[Pair], unseen: Sequence[Pair],
    settings: RewardQuality,
) -> Part:  # fmt: skip
    """Accuracy on unseen pairs, with length taken out of the reward and with length left in."""
    unseen = unseen[: settings.unseen]
    length_2R = _lengths(lm, unseen)
    gained_R = length_2R[0] - length_2R[1]
    better_RD, worse_RD = _read(bench, lm, unseen)
    arms: list[tuple[str, Array]] = [(f"{SHORTER}, no reward", -gained_R)]
    for number in (*settings.few, len(pairs)):
        for name, is_controlled in ((CONTROLLED, True), (FREE, False)):
            found = learned_reward(bench, lm, source, pairs[:number], is_length_controlled=is_controlled)
            gap_R = (found.reward.weights(better_RD) - found.reward.weights(worse_RD)).numpy()
            arms.append((f"{name}, {number} pairs", gap_R))
    rows: list[tuple[Cell, ...]] = []
    measures: dict[str, dict[str, Estimate]] = {}
    for name, gap_R in arms:
        right_R = (gap_R > 0) + (gap_R == 0) / 2
        everywhere = mean_interval(right_R, seed=bench.seed)
        against = mean_interval(np.where(gained_R >= 0, right_R, np.nan), seed=bench.seed)
        tied = _correlation(gap_R, gained_R, bench.seed)
        rows.append((name, everywhere, against, tied))
        measures[f"pair accuracy/{name}"] = {ALL: everywhere, AGAINST: against}
        measures[f"correlation with length/{name}"] = {ALL: tied}
    table = Table(
        title="Unseen pairs in order",
        columns=(Column(title="reward"), Column(title=ALL, form=".1%", best="high"),
                 Column(title=AGAINST, form=".1%", best="high"), Column(title="correlation with length", form=".2f")),
        rows=tuple(rows),
        note=f"{len(unseen)} pairs; {float((gained_R >= 0).mean()):.0%} have a chosen text that is not shorter. The "
        "correlation is of differences in reward and in tokens.",
    )  # fmt: skip
    full, free = rows[-2], rows[-1]
    headline = (
        f"The {source.name} reward orders {full[1]} of unseen pairs rightly, and {full[2]} of those whose chosen text "
        f"is not the shorter one; with length left in, {free[1]} and {free[2]}."
    )
    return Part((Section(title="Rewards and length", blocks=(table,)),), measures, (headline,))


def _read(bench: Workbench, lm: CausalLM, pairs: Sequence[Pair]) -> tuple[Tensor, Tensor]:
    """Mean states of the chosen and of the rejected texts, [R, D] each."""
    prefixes = [(*lm.start_ids, *lm.encode_text(pair.prompt)) for pair in pairs]
    better, worse = (
        [tuple(row) for row in tokenized(lm, texts, longest=LONGEST_ANSWER)]
        for texts in ([p.chosen for p in pairs], [p.rejected for p in pairs])
    )
    mean_BD = mean_states(lm, prefixes * 2, better + worse, bench.report)
    return mean_BD[: len(pairs)], mean_BD[len(pairs) :]


def _lengths(lm: CausalLM, pairs: Sequence[Pair]) -> Array:
    texts = ([p.chosen for p in pairs], [p.rejected for p in pairs])
    return np.array([[len(row) for row in tokenized(lm, side, longest=LONGEST_ANSWER)] for side in texts], dtype=float)


def _correlation(first_R: Array, second_R: Array, seed: int) -> Estimate:
    """Spearman's, with Fisher's interval."""
    from scipy.stats import spearmanr

    if len(first_R) < 5 or first_R.std() == 0 or second_R.std() == 0:
        return Estimate(value=None, n=len(first_R))
    value = float(spearmanr(first_R, second_R).statistic)
    width = 1.96 * 1.03 / math.sqrt(len(first_R) - 3)
    low, high = (math.tanh(math.atanh(max(-0.999999, min(0.999999, value))) + side * width) for side in (-1, 1))
    return Estimate(value=value, low=low, high=high, n=len(first_R))
