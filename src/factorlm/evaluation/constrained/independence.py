"""Where factors are not independent: pairs of them together, and the correlation of their potentials."""

# Axes: K constraints, P prompts.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from factorlm.evaluation.constrained.constraints import Constraint
from factorlm.evaluation.constrained.interference import points, value_points
from factorlm.evaluation.constrained.matching import correlation
from factorlm.evaluation.constrained.ways import Condition, Work
from factorlm.evaluation.document import Block, Matrix, Section
from factorlm.evaluation.intervals import LEVEL, Estimate, holm, mean_interval, sign_flip_p_value
from factorlm.factors import bind, factor

Array = NDArray[np.float64]
CORRELATED = 0.5  # from here on, two factors largely say the same


class Independence(NamedTuple):
    """Where the assumption that factors are independent does not hold, in sentences, with the section that shows it.

    Attributes:
        findings: sentences for the head of the report.
        interactions: change of a rate that is not the sum of the separate changes, by the two titles, in shares.
        section: all numbers.
    """

    findings: tuple[str, ...]
    interactions: dict[tuple[str, str], Estimate]
    section: Section


def measure_independence(work: Work, constraints: Sequence[Constraint], base: Condition) -> Independence:
    """Each factor alone, each pair together, and the correlation of the potentials.

    Args:
        work: writes and examines.
        constraints: whose pairs are measured; at least two.
        base: texts of the base model.
    """
    titles = [c.title for c in constraints]
    exponents = work.composition(constraints, within_budget=False).exponents
    alone = {c.title: work.factorised({c.factor: exponents[c.factor]}, f"{c.title} alone") for c in constraints}
    surplus_P: dict[tuple[str, str], Array] = {}
    for i, a in enumerate(constraints):
        for b in constraints[i + 1 :]:
            pair = {c.factor: exponents[c.factor] for c in (a, b)}
            both = work.factorised(pair, f"{a.title} and {b.title}")
            for c in (a, b):
                other = b if c is a else a
                surplus_P[c.title, other.title] = (
                    both.share(c.title)
                    - alone[a.title].share(c.title)
                    - alone[b.title].share(c.title)
                    + base.share(c.title)
                )
    interactions = {pair: mean_interval(found_P, seed=work.bench.seed) for pair, found_P in surplus_P.items()}
    key = {"what": "correlation of potentials", "model": work.base.fingerprint, "exponents": exponents}
    bound = [bind(factor(c.factor), work.lm) for c in constraints]
    found = np.array(work.bench.cache.get(key, lambda: correlation(work.lm, bound).tolist()))
    sign_K = np.array([c.sign for c in constraints])
    correlation_KK = found * np.outer(sign_K, sign_K)  # of the factors as they are used: an unwanted one turned round
    blocks: list[Block] = [
        Matrix(
            title="Change of a rate that is not the sum of the separate effects, in points",
            row_label="rate of",
            column_label="together with",
            rows=tuple(titles),
            columns=tuple(titles),
            values=tuple(tuple(value_points(interactions.get((row, column))) for column in titles) for row in titles),
            form="+.0f",
            is_signed=True,
            note="Rate with both, minus the rate with each alone, plus the rate of the base. Zero is independence; "
            f"under about {100 * 2 / len(work.prompts) ** 0.5:.0f} points is within chance. A rate near its ceiling "
            "cannot rise twice, so a negative number may be the ceiling and no conflict.",
        ),
        Matrix(
            title="Correlation of potentials",
            row_label="factor",
            column_label="factor",
            rows=tuple(titles),
            columns=tuple(titles),
            values=tuple(map(tuple, correlation_KK.tolist())),
            is_signed=True,
            note="Over next tokens drawn from the base at neutral states. Factors that are correlated count the same "
            "evidence twice; opposed ones undo each other.",
        ),
    ]
    lead = (
        "Multiplying factors is right if attributes are independent given the text. Here is where they are not: pairs "
        "at the strength that each has alone, without the budget."
    )
    section = Section(title="Where independence bites", lead=lead, blocks=tuple(blocks))
    return Independence(_sentences(titles, surplus_P, interactions, correlation_KK), interactions, section)


def _sentences(
    titles: Sequence[str],
    surplus_P: Mapping[tuple[str, str], Array],
    interactions: Mapping[tuple[str, str], Estimate],
    correlation_KK: Array,
) -> tuple[str, ...]:
    lines = []
    tested = {pair: found_P[~np.isnan(found_P)] for pair, found_P in surplus_P.items()}
    tested = {pair: found_P for pair, found_P in tested.items() if len(found_P)}
    if tested:
        # The largest of many is large by chance, so each is held to a level that all of them can stand.
        p_values = holm([sign_flip_p_value(found_P) for found_P in tested.values()])
        row, column = max(tested, key=lambda pair: abs(interactions[pair].value or 0.0))
        is_shown = p_values[list(tested).index((row, column))] < 1 - LEVEL
        lines.append(
            f"Independence bites most for {row} together with {column}: its rate is "
            f"{_points_text(interactions[row, column])} points off the sum of the separate effects"
            f"{'' if is_shown else ', which may be chance'}; {sum(p < 1 - LEVEL for p in p_values)} of {len(p_values)} "
            "such interactions are beyond chance."
        )
    off_KK = np.abs(correlation_KK - np.eye(len(titles)))
    i, j = divmod(int(off_KK.argmax()), len(titles))
    value = correlation_KK[i, j]
    strength = "strongly" if abs(value) >= CORRELATED else "not strongly"
    lines.append(
        f"The potentials of {titles[min(i, j)]} and {titles[max(i, j)]} are correlated most ({value:+.2f}), {strength}."
    )
    return tuple(lines)


def _points_text(estimate: Estimate) -> str:
    found = points(estimate)
    text = f"{found.value:+.0f}"
    return text if found.low is None else f"{text} ({found.low:+.0f} to {found.high:+.0f})"
