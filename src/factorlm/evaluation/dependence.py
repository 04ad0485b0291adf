"""The dependence between factors, and what a refit of their exponents does, as a report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from factorlm.evaluation.document import (
    Bar,
    Block,
    Column,
    Intervals,
    Matrix,
    ModelCard,
    Prose,
    Provenance,
    Report,
    Section,
    Table,
)
from factorlm.evaluation.intervals import Estimate
from factorlm.evaluation.provenance import commit, machine, versions

if TYPE_CHECKING:
    from factorlm.factors.decorrelation import Refit
    from factorlm.factors.dependence import Dependence

SHOWN_WORDS = 12


def dependence_report(
    found: Dependence,
    exponents: Sequence[float],
    refit: Refit | None,
    *,
    model: str,
    corpus: str,
    command: str,
    seed: int,
    seconds: float,
) -> Report:
    """What `factors.dependence` measured as a report with heat maps.

    Args:
        found: the dependence.
        exponents: of the factors, as asked for.
        refit: the exponents after decorrelation, if they were asked for.
        model: name of the base.
        corpus: what the texts are.
        command: that measures it again.
        seed: of all randomness.
        seconds: that it took.
    """
    from factorlm.factors.dependence import predicted_divergence

    pairs = pair_estimates(found)
    together, independent = predicted_divergence(found.covariance_KK, exponents)
    headlines = [
        f"{len(found.names)} factors are worth {found.effective_number:.1f} independent ones.",
        f"At these exponents the composition would diverge by {together:.3f} nats per token to second order, and by "
        f"{independent:.3f} if the factors were independent.",
        *(line[0].upper() + line[1:] + "." for line in found.warnings(exponents)),
    ]
    sections = [_local(found), _texts(found, pairs, corpus), _words(found)]
    if refit is not None:
        sections.append(_refit(refit))
        headlines.append(
            f"New exponents ({refit.method}) take the divergence from {refit.divergence_before:.3f} to "
            f"{refit.divergence_after:.3f} nats per token."
        )
    local = {
        f"correlation of {found.names[i]} and {found.names[j]}": Estimate(
            value=_finite(float(found.correlation_KK[i, j]))
        )
        for i, j in pairs
    }
    over_texts = {
        f"correlation over texts of {found.names[i]} and {found.names[j]}": estimate
        for (i, j), estimate in pairs.items()
    }
    measures = {**local, **over_texts, "effective number of factors": Estimate(value=found.effective_number)}
    return Report(
        suite="dependence",
        title="Dependence between factors",
        headlines=tuple(headlines),
        cautions=(
            "Correlations are those of potentials under the base, over its own continuations of neutral openings; in "
            "texts of another kind factors may depend on each other more or less.",
        ),
        models=(ModelCard(name=model, expression=model, parts=()),),
        sections=tuple(sections),
        measures={name: {model: estimate} for name, estimate in measures.items()},
        provenance=Provenance(
            command=command,
            settings={"factors": dict(zip(found.names, exponents, strict=True)), "corpus": corpus},
            seed=seed,
            data={},
            versions=versions(),
            machine=machine(),
            commit=commit(),
            seconds=round(seconds, 1),
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
        ),
    )


def pair_estimates(found: Dependence) -> dict[tuple[int, int], Estimate]:
    """The correlation of log-ratios over texts of each pair (i, j), i < j."""
    estimates = {}
    for i, j in found.shared:
        value, low, high = (_finite(x) for x in found.text_correlation_SKK[:, i, j].tolist())
        estimates[i, j] = Estimate(value=value, low=low, high=high, n=found.num_texts)
    return estimates


def _local(found: Dependence) -> Section:
    scales = Table(
        title="Scale",
        columns=(Column(title="factor"), Column(title="standard deviation of the potential, nats", form=".3f")),
        rows=tuple(zip(found.names, found.deviation_K.tolist(), strict=True)),
        note="At exponent one. A small exponent alone costs half the square of exponent times scale.",
    )
    return Section(
        title="At the next token",
        lead="Correlation of the log potentials of the next token under the base model, averaged over neutral states: "
        "how much of one factor's push the other one repeats.",
        blocks=(_matrix("Local correlation", found.names, found.correlation_KK.tolist()), scales),
    )


def _texts(found: Dependence, pairs: dict[tuple[int, int], Estimate], corpus: str) -> Section:
    blocks: list[Block] = [_matrix("Correlation over texts", found.names, found.text_correlation_SKK[0].tolist())]
    bars = tuple(
        Bar(label=f"{found.names[i]}, {found.names[j]}", values=(estimate,)) for (i, j), estimate in pairs.items()
    )
    blocks.append(Intervals(title="With intervals", x_label="correlation", series=("over texts",), bars=bars, zero=0.0))
    return Section(
        title="Over texts",
        lead=f"Correlation of log p_i(x)/p(x) over {found.num_texts} texts ({corpus}), their length taken out, with "
        "95 % intervals from resampled texts.",
        blocks=tuple(blocks),
    )


def _words(found: Dependence) -> Section:
    rows = tuple(
        (
            f"{found.names[i]}, {found.names[j]}",
            shared.num_together,
            ", ".join(shared.together[:SHOWN_WORDS]),
            shared.num_against,
            ", ".join(shared.against[:SHOWN_WORDS]),
        )
        for (i, j), shared in found.shared.items()
    )
    columns = ("factors", "pushed by both", "such as", "pushed by one, pulled by the other", "such as")
    table = Table(title="Shared pushes", columns=tuple(Column(title=title) for title in columns), rows=rows)
    return Section(
        title="Words",
        lead="Of the 50 tokens that each factor pushes most, those that the other one pushes, or pulls, most too.",
        blocks=(table,),
    )


def _refit(refit: Refit) -> Section:
    columns = (
        Column(title="factor"),
        Column(title="exponent before", form=".3f"),
        Column(title="after", form=".3f"),
        Column(title="movement alone", form=".4f"),
        Column(title="together, before", form=".4f"),
        Column(title="together, after", form=".4f"),
    )
    rows = tuple(
        zip(
            refit.names,
            refit.exponents_before,
            refit.exponents_after,
            refit.movement_alone,
            refit.movement_before,
            refit.movement_after,
            strict=True,
        )
    )
    table = Table(
        title="Exponents and what they move",
        columns=columns,
        rows=rows,
        note="Movement is the expected log potential under the composition, less that under the base, in nats.",
    )
    prose = Prose(
        text=f"Divergence from the base in nats per token: {refit.divergence_before:.3f} before, "
        f"{refit.divergence_after:.3f} after; the factors one by one cost {refit.divergence_independent:.3f} together."
    )
    return Section(
        title="Decorrelated exponents",
        lead=f"Exponents refitted by the method `{refit.method}`, so that no push is counted twice.",
        blocks=(table, prose),
    )


def _matrix(title: str, names: tuple[str, ...], values: list[list[float]]) -> Matrix:
    return Matrix(
        title=title,
        row_label="factor",
        column_label="factor",
        rows=names,
        columns=names,
        values=tuple(tuple(_finite(x) for x in row) for row in values),
        is_signed=True,
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
