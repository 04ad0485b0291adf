"""Whether a prior knows when a text is of none of its sources: what components disagree in, inside and outside."""

# Axes: N texts, T time.

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from factorlm.evaluation.calibration import auroc, with_interval
from factorlm.evaluation.document import Bar, Block, Cell, Column, Curve, Intervals, Section, Series, Table
from factorlm.evaluation.intervals import Estimate, mean_interval
from factorlm.evaluation.part import Part
from factorlm.evaluation.priors.reading import MixtureTokens, Tokens

Array = NDArray[np.float64]
Pair = tuple[MixtureTokens, Tokens]  # the mixture's and the bare model's reading of one text
BETWEEN, FIXED, WITHIN = "between components", "between, weights fixed", "within components"
NATS, RATIO = "nats per token", "nats above the bare model"
# What each text is ranked by: the mean over its first tokens.
SCORES: dict[str, Callable[[Pair], Array]] = {
    BETWEEN: lambda pair: pair[0].between_T,
    FIXED: lambda pair: pair[0].fixed_T,
    WITHIN: lambda pair: pair[0].within_T,
    NATS: lambda pair: -pair[0].log_prob_T,
    RATIO: lambda pair: pair[1].log_prob_T - pair[0].log_prob_T,
}
RESAMPLES = 1000


def measure_outside(
    inside: dict[str, list[Pair]], outside: dict[str, list[Pair]], first_tokens: int, seed: int
) -> Part:
    """How well what components disagree in tells texts of no source from texts of the sources.

    Args:
        inside: readings of held-out texts, by source.
        outside: readings of texts of other sources.
        first_tokens: of each text, for the comparison at equal length; shorter texts are left out of it.
        seed: of the resampling.
    """
    own = [pair for pairs in inside.values() for pair in pairs]
    wholes = _aurocs(own, outside, None, seed)
    firsts = _aurocs(own, outside, first_tokens, seed)
    measures: dict[str, dict[str, Estimate]] = {
        **{f"AUROC of {score}": found for score, found in wholes.items()},
        **{f"AUROC of {score}, first tokens": found for score, found in firsts.items()},
    }
    groups = {**inside, **outside}
    for score in (BETWEEN, FIXED, WITHIN):
        measures[f"nats {score}"] = {
            name: mean_interval([SCORES[score](pair).mean() for pair in pairs], seed=seed)
            for name, pairs in groups.items()
        }
    pictures: list[Block] = [
        Intervals(
            title=title,
            x_label="nats per token",
            series=(score,),
            bars=tuple(
                Bar(label=f"{name} (outside)" if name in outside else name, values=(found,))
                for name, found in measures[f"nats {score}"].items()
            ),
            note=note,
        )
        for score, title, note in (
            (
                BETWEEN,
                "What components disagree in",
                "Mutual information of next token and component, mean over texts.",
            ),
            (WITHIN, "What no component knows", "Mean entropy of the components' next tokens."),
        )
    ]
    num_kept = sum(pair[0].num_tokens >= first_tokens for pair in own)
    pictures += [
        Curve(
            title=f"Along the text: {score}",
            x_label="token",
            y_label="nats",
            series=tuple(
                Series(name=name, x=tuple(map(float, range(1, first_tokens + 1))),
                       y=_along(pairs, score, first_tokens, seed))
                for name, pairs in {"inside": own, **outside}.items()
            ),
            note=f"Texts of at least {first_tokens} tokens ({num_kept} inside).",
        )
        for score in (BETWEEN, FIXED)
    ]  # fmt: skip
    lead = (
        "Before each token, the entropy of the mixture is split in what every component is unsure of (within) and what "
        "the components disagree in (between). Texts of sources that were not learned are ranked against held-out "
        "texts of those that were, by the mean over the text; AUROC is the probability that an outside text ranks "
        "higher."
    )
    blocks = (*pictures, _table(wholes, firsts, outside, first_tokens))
    return Part(
        sections=(Section(title="Outside the sources", lead=lead, blocks=blocks),),
        measures=measures,
        headlines=(_headline(wholes, firsts, first_tokens),),
        cautions=(
            "The part between components falls along a text, as the posterior settles on one of them, even where none "
            "fits; with fixed weights it does not. Compare at equal length.",
        ),
    )


def _aurocs(
    own: Sequence[Pair], outside: dict[str, list[Pair]], first_tokens: int | None, seed: int
) -> dict[str, dict[str, Estimate]]:
    """By score: of all outside texts, and of each outside source, against the texts inside."""
    everything = [pair for pairs in outside.values() for pair in pairs]
    groups = {"all": everything, **outside} if len(outside) > 1 else {"all": everything}
    return {
        score: {name: _auroc(own, pairs, score, first_tokens, seed) for name, pairs in groups.items()}
        for score in SCORES
    }


def _auroc(own: Sequence[Pair], others: Sequence[Pair], score: str, first_tokens: int | None, seed: int) -> Estimate:
    inside_N, outside_N = (
        [SCORES[score](pair)[:first_tokens].mean() for pair in pairs if pair[0].num_tokens >= (first_tokens or 1)]
        for pairs in (own, others)
    )
    hit_N = np.repeat([0.0, 1.0], [len(inside_N), len(outside_N)])
    return with_interval(auroc, np.array([*inside_N, *outside_N]), hit_N, seed=seed, resamples=RESAMPLES)


def _along(pairs: Sequence[Pair], score: str, first_tokens: int, seed: int) -> tuple[Estimate, ...]:
    kept = [SCORES[score](pair)[:first_tokens] for pair in pairs if pair[0].num_tokens >= first_tokens]
    if not kept:
        return (Estimate(value=None),) * first_tokens
    return tuple(mean_interval(column_N, seed=seed) for column_N in np.stack(kept, 1))


def _table(
    wholes: dict[str, dict[str, Estimate]],
    firsts: dict[str, dict[str, Estimate]],
    outside: dict[str, list[Pair]],
    first_tokens: int,
) -> Table:
    names = list(next(iter(wholes.values())))
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (score, *(wholes[score][name] for name in names), firsts[score]["all"]) for score in SCORES
    )
    columns = (
        Column(title="texts ranked by"),
        *(Column(title=name, form=".2f") for name in names),
        Column(title=f"all, first {first_tokens} tokens", form=".2f"),
    )
    count = sum(map(len, outside.values()))
    note = (
        f"AUROC of {count} outside texts; 0.5 is chance, below it outside texts rank lower. “{RATIO}” is the mixture's "
        "nats less the bare model's: what learning the sources did not bring, or cost, on this text."
    )
    return Table(title="Telling outside texts apart", columns=columns, rows=rows, note=note)


def _headline(wholes: dict[str, dict[str, Estimate]], firsts: dict[str, dict[str, Estimate]], first_tokens: int) -> str:
    between, first = wholes[BETWEEN]["all"], firsts[BETWEEN]["all"]
    best = max(SCORES, key=lambda score: wholes[score]["all"].value or 0.0)
    return (
        f"What components disagree in {_verdict(between)} outside texts from inside ones (AUROC {between}; over the "
        f"first {first_tokens} tokens {first}); of the measures tried, {best} tells them apart best "
        f"({wholes[best]['all']})."
    )


def _verdict(found: Estimate) -> str:
    if found.low is None or found.high is None or found.low <= 0.5 <= found.high:
        return "does not visibly tell"
    return "tells" if found.low > 0.5 else "is lower on outside texts, so it does not tell"
