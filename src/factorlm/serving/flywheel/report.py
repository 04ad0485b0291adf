"""A round's card as a report with tables and pictures, in the forms of all reports: JSON, Markdown and HTML."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from factorlm.evaluation.document import (
    Cell,
    Column,
    Comparisons,
    Curve,
    ModelCard,
    Provenance,
    Report,
    Samples,
    Section,
    Series,
    Table,
)
from factorlm.evaluation.intervals import Estimate
from factorlm.evaluation.provenance import commit, machine, versions
from factorlm.evaluation.report import write_report
from factorlm.serving.flywheel.gate import ACCURACY, CANDIDATE, DIVERGENCE, IN_USE, LOSS
from factorlm.serving.flywheel.ledger import Card, Evaluation


def write_card(cards: Sequence[Card], folder: Path) -> list[Path]:
    """Write the report of the last of these rounds, with all of them in a table and a picture.

    Args:
        cards: of all rounds so far.
        folder: for report.json, report.md, report.html and pictures.
    """
    return write_report(round_report(cards), folder)


def round_report(cards: Sequence[Card]) -> Report:
    """The report of the last of these rounds."""
    card = cards[-1]
    found = card.evaluation
    sections = [] if found is None else [_measured(found), _guarded(found)]
    sections += [_learned(card), _rounds(cards)]
    if found is not None and found.samples:
        texts = [(f"{who}", prompt, f" {text}") for prompt, *both in found.samples
                 for who, text in zip((IN_USE, CANDIDATE), both, strict=True)]  # fmt: skip
        sections.append(Section(title="Canaries to read", blocks=(Samples(title="Continuations", texts=tuple(texts)),)))
    return Report(
        suite="flywheel",
        title=f"{card.name}, round {card.round}: {card.decision}",
        headlines=tuple(_headlines(card)),
        cautions=tuple(_cautions(cards)),
        models=(
            ModelCard(name=CANDIDATE, expression=f"{card.name} {card.version or '(none)'}", parts=()),
            ModelCard(name=IN_USE, expression=f"{card.name} {card.before}" if card.before else "the base alone",
                      parts=()),
        ),
        sections=tuple(sections),
        measures={} if found is None else {
            measure: {who: estimates[who] for who in (CANDIDATE, IN_USE)}
            for measure, estimates in ((LOSS, found.loss), (ACCURACY, found.accuracy), (DIVERGENCE, found.divergence))
        },
        comparisons=() if found is None else found.comparisons,
        provenance=Provenance(
            command=card.command,
            settings=card.settings.model_dump(mode="json"),
            seed=card.settings.seed,
            data={"feedback learned from": card.events_digest, "feedback held out": card.holdout_digest},
            versions=versions(),
            machine=machine(),
            commit=commit(),
            seconds=card.seconds,
            finished=card.finished or datetime.now(UTC).isoformat(timespec="seconds"),
        ),
    )  # fmt: skip


def _headlines(card: Card) -> list[str]:
    found = card.evaluation
    lines = [f"Decision: {card.decision}. {card.reason[:1].upper()}{card.reason[1:]}."]
    if found is not None:
        lines.append(
            f"{found.accuracy[CANDIDATE].value:.1%} of held-out comparisons are in order, "
            f"{found.accuracy[IN_USE].value:.1%} with the version in use ({found.num_prompts} prompts)."
        )
    if card.quarantined:
        lines.append(
            f"{len(card.quarantined)} new pieces of feedback contradict the version in use and are not learned from."
        )
    return lines


def _cautions(cards: Sequence[Card]) -> list[str]:
    judged = [card for card in cards if card.evaluation is not None]
    if len(judged) < 2:
        return []
    return [
        f"The same holdout has judged {len(judged)} candidates: each look spends some of what it can tell, and after "
        "dozens of rounds a fresh one is due."
    ]


def _measured(found: Evaluation) -> Section:
    return Section(
        title="On held-out prompts",
        lead=(
            "Both versions at equal strength on the same prompts, which none has learned from; differences are "
            f"resampled by prompt. The candidate is better in {found.confidence:.1%} of resamples."
        ),
        blocks=(Comparisons(title="Candidate against the version in use", rows=found.comparisons),),
    )


def _guarded(found: Evaluation) -> Section:
    columns = (Column(title="guard"), Column(title="found"), Column(title="limit"), Column(title="kept"),
               Column(title="what it means"))  # fmt: skip
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (guard.name, guard.value, guard.limit, "yes" if guard.is_kept else "no", guard.note) for guard in found.guards
    )
    return Section(
        title="Guards",
        lead="One that fails blocks the candidate, however much better it is.",
        blocks=(Table(title="Limits", columns=columns, rows=rows),),
    )


def _learned(card: Card) -> Section:
    rows: list[tuple[Cell, ...]] = [
        ("rows of feedback", card.rows),
        ("learned from", len(card.events)),
        ("of these new", len(card.new)),
        *((f"left out: {reason}", count) for reason, count in card.left_out.items()),
        ("quarantined", len(card.quarantined)),
    ]
    return Section(
        title="What it learned from",
        lead="The round's card.json names each piece of feedback by number and hash; texts stay in the database.",
        blocks=(
            Table(title="Feedback", columns=(Column(title="what"), Column(title="number", form="d")), rows=tuple(rows)),
        ),
    )


def _rounds(cards: Sequence[Card]) -> Section:
    columns = (
        Column(title="round"), Column(title="decision"), Column(title="version"),
        Column(title="learned from", form="d"), Column(title=f"{ACCURACY}, candidate", form=".1%"),
        Column(title=f"{ACCURACY}, in use", form=".1%"), Column(title=f"{LOSS}, candidate", form=".3f"),
        Column(title=f"{LOSS}, in use", form=".3f"), Column(title="better in resamples", form=".1%"),
    )  # fmt: skip
    rows: list[tuple[Cell, ...]] = []
    for card in cards:
        found = card.evaluation
        numbers: tuple[Cell, ...] = (None,) * 5
        if found is not None:
            numbers = (found.accuracy[CANDIDATE], found.accuracy[IN_USE], found.loss[CANDIDATE], found.loss[IN_USE],
                       found.confidence)  # fmt: skip
        rows.append((str(card.round), card.decision, card.version, len(card.events), *numbers))
    table = Table(title="Rounds", columns=columns, rows=tuple(rows))
    judged = [(card.round, card.evaluation) for card in cards if card.evaluation is not None]
    if not judged:
        return Section(title="All rounds", blocks=(table,))
    gain = Curve(
        title="Gain by round",
        x_label="round",
        y_label=ACCURACY,
        is_percent=True,
        series=(
            *(
                Series(name=who, x=tuple(float(n) for n, _ in judged), y=tuple(e.accuracy[who] for _, e in judged))
                for who in (CANDIDATE, IN_USE)
            ),
            Series(name="chance", x=(1.0,), y=(Estimate(value=0.5),), is_reference=True),
        ),
        note="On the frozen holdout; bands are 95 % intervals over prompts.",
    )
    return Section(title="All rounds", blocks=(gain, table))
