"""Ways of using a reward at their doses, side by side: tables, pictures, and the comparisons that claims rest on."""

# Axes: N doses, P prompts.

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from factorlm.evaluation.diversity import distinct, words_of
from factorlm.evaluation.document import Block, Cell, Column, Scatter, Section, Series, Table
from factorlm.evaluation.intervals import Estimate, mean_interval
from factorlm.evaluation.part import Part
from factorlm.evaluation.priors.tilting import COMPONENTS

Array = NDArray[np.float64]
BASE, BEST, WEIGHED, PARTICLES = "the model", "best of n", "exp(r/β), weighed", "exp(r/β), particles"
SOFT, MEAN, DPO, PRIOR = "soft value", "plain expectation", "DPO, re-weighted", COMPONENTS


@dataclass(frozen=True, eq=False)
class Arm:
    """One way at one dose; arrays are means over the responses of each prompt.

    Attributes:
        way: of using the reward.
        dial: its dose, in words.
        nats_P: divergence from the model, per response.
        reward_P: the proxy.
        judged_P: probability of the wanted label.
        length_P: tokens.
        texts: one response to each prompt.
    """

    way: str
    dial: str
    nats_P: Array
    reward_P: Array
    judged_P: Array
    length_P: Array
    texts: list[str]

    @property
    def distinct(self) -> float:
        """Share of different pairs of neighbouring words among those of one response to each prompt."""
        return distinct([words_of(text) for text in self.texts], 2)


def part_of(arms: Sequence[Arm], judge: str, label: str, seed: int) -> Part:
    """Tables, pictures and measures."""
    estimates = {
        what: [mean_interval(getattr(arm, f"{what}_P"), seed=seed) for arm in arms]
        for what in ("nats", "reward", "judged", "length")
    }
    measures: dict[str, dict[str, Estimate]] = {}
    rows: list[tuple[Cell, ...]] = []
    for a, arm in enumerate(arms):
        found = {what: values[a] for what, values in estimates.items()}
        for what, estimate in found.items():
            measures.setdefault(f"{what}/{arm.way}", {})[arm.dial] = estimate
        for what in ("reward", "judged"):
            gain_P = getattr(arm, f"{what}_P") - getattr(arms[0], f"{what}_P")
            measures.setdefault(f"gain in {what}/{arm.way}", {})[arm.dial] = mean_interval(gain_P, seed=seed)
        measures.setdefault(f"distinct/{arm.way}", {})[arm.dial] = Estimate(value=arm.distinct, n=len(arm.texts))
        rows.append((f"{arm.way}, {arm.dial}", found["nats"], found["reward"], found["judged"], found["length"],
                     arm.distinct))  # fmt: skip
    measures |= _compared(arms, seed)
    columns = (
        Column(title="way"),
        Column(title="nats from the model", form=".2f"),
        Column(title="reward, nats", form=".2f", best="high"),
        Column(title=f"{label} by {judge}", form=".1%", best="high"),
        Column(title="tokens", form=".1f"),
        Column(title="distinct bigrams", form=".2f"),
    )
    note = (
        "Nats are per response. Best of n is given its bound, log n - (n - 1) / n, and its means over every choice of "
        "n from the pool; weights over the pool understate divergence where few responses carry them; particles are "
        "given E[r]/β - log Z with Z from the pool; all others are log ratios of what was written."
    )
    blocks: list[Block] = [Table(title="Reward against divergence", columns=columns, rows=tuple(rows), note=note)]
    for what, title, y_label in (
        ("reward", "Reward against divergence", "reward (the proxy), nats"),
        ("judged", f"{label.capitalize()} in the eyes of {judge}", f"probability of {label}"),
    ):
        blocks.append(
            Scatter(
                title=title,
                x_label="divergence from the model, nats per response",
                y_label=y_label,
                series=tuple(_series(way, arms, estimates["nats"], estimates[what]) for way in _ways(arms)),
                y_is_percent=what == "judged",
                best="upper left",
            )
        )
    cautions = ("Divergences of a few nats rest on few prompts; the judge errs, and its errors do not average out.",)
    return Part((Section(title="Reward against divergence", blocks=tuple(blocks)),), measures,
                tuple(_headlines(arms, estimates, label)), cautions)  # fmt: skip


def _compared(arms: Sequence[Arm], seed: int) -> dict[str, dict[str, Estimate]]:
    """Best of n less DPO at equal divergence; and what the dial's upper half does, of each way, to reward and judge.

    Best of n is interpolated between its doses. The upper half goes from the middle dose to the strongest one.
    """
    found: dict[str, dict[str, Estimate]] = {}
    chosen = [arm for arm in arms if arm.way in (BASE, BEST)]
    bound_N = np.array([arm.nats_P[0] for arm in chosen])
    for arm in arms:
        nats = float(arm.nats_P.mean())
        if arm.way == DPO and 0 < nats <= bound_N[-1]:
            for what in ("reward", "judged"):
                value_NP = np.stack([getattr(one, f"{what}_P") for one in chosen])
                best_P = np.array([np.interp(nats, bound_N, value_NP[:, p]) for p in range(value_NP.shape[1])])
                gap_P = best_P - getattr(arm, f"{what}_P")
                found.setdefault(f"{what}, best of n less DPO", {})[arm.dial] = mean_interval(gap_P, seed=seed)
    for way in _ways(arms):
        mine = sorted((arm for arm in arms if arm.way == way), key=lambda arm: float(arm.nats_P.mean()))
        if len(mine) > 2:
            middle, last = mine[(len(mine) - 1) // 2], mine[-1]
            found[f"upper half/{way}"] = {
                what: mean_interval(getattr(last, f"{what}_P") - getattr(middle, f"{what}_P"), seed=seed)
                for what in ("reward", "judged")
            }
    return found


def _ways(arms: Sequence[Arm]) -> list[str]:
    return list(dict.fromkeys(arm.way for arm in arms))


def _series(way: str, arms: Sequence[Arm], x: Sequence[Estimate], y: Sequence[Estimate]) -> Series:
    mine = [a for a, arm in enumerate(arms) if arm.way == way]
    mine.sort(key=lambda a: x[a].value or 0.0)
    return Series(
        name=way, x=tuple(x[a] for a in mine), y=tuple(y[a] for a in mine), labels=tuple(arms[a].dial for a in mine),
        is_reference=way == BASE,
    )  # fmt: skip


def _headlines(arms: Sequence[Arm], estimates: dict[str, list[Estimate]], label: str) -> Iterator[str]:
    for way in _ways(arms):
        a = max((a for a, arm in enumerate(arms) if arm.way == way), key=lambda a: estimates["judged"][a].value or 0.0)
        nats, reward, judged = (estimates[what][a] for what in ("nats", "reward", "judged"))
        yield (
            f"{way.capitalize()} ({arms[a].dial}): {label} with probability {judged}, reward {reward}, at {nats} nats."
        )
