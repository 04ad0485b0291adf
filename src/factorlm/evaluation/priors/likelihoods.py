"""How likely held-out texts are under a prior, its parts, and one model of as many trained numbers."""

# Axes: C columns, K components, R resamples, U units (texts).

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from factorlm.evaluation.document import Bar, Cell, Column, Comparisons, Intervals, Section, Table
from factorlm.evaluation.intervals import Comparison, Estimate, adjusted, compare, ratio_interval
from factorlm.evaluation.part import Part
from factorlm.evaluation.priors.reading import MixtureTokens, Tokens

Array = NDArray[np.float64]
MIXTURE, SINGLE, COMPONENT, BLEND, BARE = "mixture", "one model", "best component", "fixed blend", "bare model"
RIVALS = (SINGLE, COMPONENT, BLEND, BARE)


@dataclass(frozen=True)
class Cost:
    """What a way took to learn.

    Attributes:
        num_parameters: trained.
        passes: over the texts to learn from, at most.
    """

    num_parameters: int
    passes: int


def nats_of(mixture: Sequence[MixtureTokens], single: Sequence[Tokens], bare: Sequence[Tokens]) -> dict[str, Array]:
    """Nats of each text under each way, [U].

    The best component is the one under which all of these texts together are likeliest.
    """
    log_lik_UK = np.stack([text.log_lik_K for text in mixture])
    best = int(log_lik_UK.sum(0).argmax())
    return {
        MIXTURE: np.array([text.nats for text in mixture]),
        SINGLE: np.array([text.nats for text in single]),
        COMPONENT: -log_lik_UK[:, best],
        BLEND: np.array([-text.blend_T.sum() for text in mixture]),
        BARE: np.array([text.nats for text in bare]),
    }


def measure_likelihoods(
    sources: Sequence[str],
    source_U: NDArray[np.int_],
    nats: dict[str, Array],
    tokens_U: Array,
    costs: dict[str, Cost],
    seed: int,
) -> Part:
    """Nats per token of held-out texts.

    Args:
        sources: their names.
        source_U: the number of each text's source.
        nats: of each text, by way; see `nats_of`.
        tokens_U: of each text.
        costs: of each way that was learned.
        seed: of the resampling.
    """
    whole = {way: ratio_interval(nats_U, tokens_U, seed=seed) for way, nats_U in nats.items()}
    by_source = {
        name: {way: ratio_interval(nats_U[source_U == s], tokens_U[source_U == s], seed=seed)
               for way, nats_U in nats.items()}
        for s, name in enumerate(sources)
    }  # fmt: skip
    comparisons = adjusted(
        [
            compare(
                "held-out nats per token",
                (MIXTURE, np.stack([nats[MIXTURE], tokens_U], 1)), (rival, np.stack([nats[rival], tokens_U], 1)),
                statistic=lambda mean_RC: mean_RC[:, 0] / mean_RC[:, 1], lower_is_better=True, seed=seed,
            )
            for rival in RIVALS
        ]
    )  # fmt: skip
    rows: list[tuple[Cell, ...]] = []
    for way in nats:
        cost = costs.get(way)
        learned = (None, None) if cost is None else (cost.num_parameters, cost.passes)
        rows.append((way, whole[way], *(found[way] for found in by_source.values()), *learned))
    table = Table(
        title="Nats per token of held-out texts",
        columns=(
            Column(title="model"),
            *(Column(title=title, form=".3f", best="low") for title in ("all", *sources)),
            Column(title="trained numbers", form="d"),
            Column(title="passes over the texts", form="d"),
        ),
        rows=tuple(rows),
        note="The best component is chosen in hindsight, on these very texts, which favours it.",
    )
    picture = Intervals(
        title="Held-out texts of each source",
        x_label="nats per token",
        series=tuple(nats),
        bars=tuple(Bar(label=name, values=tuple(found[way] for way in nats)) for name, found in by_source.items()),
        note="Lower is better.",
    )
    lead = (
        "The probability of a held-out text under the mixture is the weighted mean of that under each component. One "
        "model has as many trained numbers, of the same kind, and passed over the same texts as often; the fixed blend "
        "averages the components' next tokens with weights that do not learn from the text."
    )
    blocks = (picture, table, Comparisons(title="The mixture against the others", rows=tuple(comparisons)))
    return Part(
        sections=(Section(title="Held-out likelihood", lead=lead, blocks=blocks),),
        measures={
            "nats per token": whole,
            **{f"nats per token of {name}": found for name, found in by_source.items()},
            "nats per token, mixture minus": {c.rival: c.difference for c in comparisons},
        },
        headlines=(_headline(whole, comparisons),),
    )


def _headline(whole: dict[str, Estimate], comparisons: Sequence[Comparison]) -> str:
    one = next(c for c in comparisons if c.rival == SINGLE)
    verdict = {
        "better": "less than one model of as many trained numbers",
        "worse": "more than one model of as many trained numbers",
    }.get(one.verdict, "no difference shown from one model of as many trained numbers")
    others = ", ".join(f"{way} {_three(whole[way])}" for way in (COMPONENT, BLEND, BARE))
    return (
        f"Held-out texts cost the mixture {_three(whole[MIXTURE])} nats a token, {verdict} ({_three(whole[SINGLE])}; "
        f"difference {one.difference}); {others}."
    )


def _three(found: Estimate) -> str:
    return "not measured" if found.value is None else f"{found.value:.3f}"
