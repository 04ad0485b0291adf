"""A prior as a report with pictures: weights, what components assume, how far apart they are, how it learned."""

# Axes: K components.

from __future__ import annotations

import math
from datetime import UTC, datetime

from factorlm.evaluation.document import (
    Bar,
    Block,
    Cell,
    Column,
    Curve,
    Intervals,
    Matrix,
    ModelCard,
    Provenance,
    Report,
    Section,
    Series,
    Table,
)
from factorlm.evaluation.intervals import Estimate
from factorlm.evaluation.provenance import commit, machine, versions
from factorlm.prior.manifest import Manifest


def prior_report(manifest: Manifest, place: str, command: str) -> Report:
    """What is known of a prior, drawn.

    Args:
        manifest: its card.
        place: where it is, for the title.
        command: that makes the report again.
    """
    weights = {
        f"weight of {name}": {place: Estimate(value=weight)}
        for name, weight in zip(manifest.names, manifest.weights, strict=True)
    }
    entropy = -math.fsum(w * math.log(w) for w in manifest.weights if w > 0)
    headlines = [
        f"{len(manifest.components)} components of kind {manifest.kind.kind} on {manifest.base.name}; entropy of their "
        f"weights {entropy:.2f} nats, as of {math.exp(entropy):.1f} equal ones."
    ]
    sections = [_components(manifest)]
    fitted = manifest.fitted
    if fitted is not None:
        headlines.append(
            f"Held-out texts cost {fitted.dev_nats:.3f} nats per token, under the bare model {fitted.base_nats:.3f}; "
            f"{fitted.num_parameters:,} numbers were trained on {fitted.num_texts} texts in {fitted.seconds:.0f} s."
        )
        sections.append(_learning(manifest))
    if manifest.updates:
        sections.append(_updates(manifest))
    return Report(
        suite="prior card",
        title=f"The prior {place}",
        headlines=tuple(headlines),
        models=(ModelCard(name=place, expression=place, parts=(
            {"name": manifest.base.name, "kind": "model", "fingerprint": manifest.base.fingerprint},)),),
        sections=tuple(sections),
        measures=weights,
        provenance=Provenance(
            command=command, settings={} if fitted is None else dict(fitted.settings), seed=0,
            data={} if fitted is None else {fitted.corpus or "corpus": fitted.fingerprint}, versions=versions(),
            machine=machine(), commit=commit(), seconds=0.0,
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
        ),
    )  # fmt: skip


def _components(manifest: Manifest) -> Section:
    is_changed = any(abs(c.weight - c.learned_weight) > 1e-6 for c in manifest.components)
    series = ("now", "as learned") if is_changed else ("weight",)
    bars = tuple(
        Bar(label=card.name, values=tuple(Estimate(value=v) for v in (card.weight, card.learned_weight)[: len(series)]))
        for card in manifest.components
    )
    blocks: list[Block] = [
        Intervals(title="Weights", x_label="probability", series=series, bars=bars, is_percent=True),
        _portraits(manifest),
    ]
    if manifest.divergence and len(manifest.components) > 1:
        blocks.append(
            Matrix(
                title="Divergence of each two components", row_label="component", column_label="component",
                rows=manifest.names, columns=manifest.names,
                values=tuple(
                    tuple(None if j == k else value for j, value in enumerate(row))
                    for k, row in enumerate(manifest.divergence)
                ),
                form=".3f",
                note="Mean Jensen-Shannon divergence of next-token distributions on texts of the corpus, in nats per "
                "token; at most log 2 = 0.693.",
            )
        )  # fmt: skip
    lead = "Each component is one language model; a response is drawn from one of them, by these weights."
    return Section(title="Components", lead=lead, blocks=tuple(blocks))


def _portraits(manifest: Manifest) -> Table:
    assumptions = getattr(manifest.kind, "assumptions", None) or getattr(manifest.kind, "models", None)
    rows: list[tuple[Cell, ...]] = []
    for k, card in enumerate(manifest.components):
        portrait = card.portrait
        shown = [
            ("assumes", (assumptions[k],) if assumptions else ()),
            ("explains", portrait.typical),
            ("writes", portrait.own_words),
            ("makes likelier", (", ".join(t.strip() or repr(t) for t in portrait.tokens),) if portrait.tokens else ()),
            ("nearest words", (", ".join(w.strip() or repr(w) for w in portrait.nearest),) if portrait.nearest else ()),
        ]
        rows += [(card.name, what, " ".join(text.split())) for what, texts in shown for text in texts]
    columns = (Column(title="component"), Column(title="what"), Column(title="in words"))
    note = (
        "Explains: texts it was learned from that it makes likelier than the others do; writes: drawn from it; makes "
        "likelier: tokens that add most to its divergence from the mixture."
    )
    return Table(title="What each assumes", columns=columns, rows=tuple(rows), note=note)


def _learning(manifest: Manifest) -> Section:
    assert manifest.fitted is not None
    rounds = [(number, found) for number, found in enumerate(manifest.fitted.rounds) if found.dev_nats is not None]
    numbers = tuple(float(number) for number, _ in rounds)
    nats = Curve(
        title="Negative log likelihood by round", x_label="round", y_label="nats per token",
        series=(
            Series(name="training texts", x=numbers, y=tuple(found.train_nats for _, found in rounds)),
            Series(name="held-out texts", x=numbers, y=tuple(found.dev_nats for _, found in rounds)),
            Series(name="bare model, held out", x=(numbers[0] if numbers else 0.0,), y=(manifest.fitted.base_nats,),
                   is_reference=True),
        ),
    )  # fmt: skip
    alive = Curve(
        title="Components alive, and certainty, by round", x_label="round", y_label="number, share",
        series=(
            Series(name="exp(H(μ))", x=numbers, y=tuple(found.num_effective for _, found in rounds)),
            Series(name="largest responsibility", x=numbers, y=tuple(found.certainty for _, found in rounds)),
        ),
    )  # fmt: skip
    undone = sum(found.is_undone for _, found in rounds)
    lead = f"{len(rounds)} rounds were measured; {undone} steps were undone, as the bound had fallen."
    return Section(title="Learning", lead=lead, blocks=(nats, alive))


def _updates(manifest: Manifest) -> Section:
    rows = tuple(
        (str(number), u.what, u.why, u.divergence, sum(1 for weight in u.after if weight > 0))
        for number, u in enumerate(manifest.updates, 1)
    )
    columns = (Column(title="#"), Column(title="what"), Column(title="why"),
               Column(title="KL from before, nats", form=".3g"), Column(title="components left", form="d"))  # fmt: skip
    return Section(title="Updates", blocks=(Table(title="Changes of weights since", columns=columns, rows=rows),))
