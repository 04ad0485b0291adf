"""The overview as a report: every number and verdict is read from a record, and what has none is said to have none."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from factorlm.errors import InputError
from factorlm.evaluation.claims import CLAIMS, ClaimRecord, is_current, read_records
from factorlm.evaluation.claims.claim import Claim
from factorlm.evaluation.document import Block, Cell, Column, ModelCard, Prose, Provenance, Report, Section, Table
from factorlm.evaluation.provenance import commit, machine, versions
from factorlm.evaluation.suites import SUITES
from factorlm.evaluation.trust.dimensions import ABOUT_TRUST, DIMENSIONS, Aspect, Dimension
from factorlm.settings import explain_validation

MOST_FIGURES = 4  # of one record about one aspect; the record has the others
NOT_MEASURED = "not measured"
Records = dict[str, Report]


def read_reports(folder: Path) -> Records:
    """The reports in a folder of records, by the name of their folder.

    Raises:
        InputError: if the folder is not there, or a report in it is broken.
    """
    if not folder.is_dir():
        raise InputError(f"a folder of records is needed, got {folder}; run factorlm eval SUITE --out {folder}/SUITE")
    found = {}
    for path in sorted(folder.glob("*/report.json")):
        try:
            found[path.parent.name] = Report.model_validate_json(path.read_text(encoding="utf-8"))
        except ValidationError as error:
            raise explain_validation(error, str(path)) from None
    return found


def overview(folder: Path, command: str = "") -> Report:
    """What is known of trust, by dimension.

    Args:
        folder: of records: NAME/report.json of suites, and claims/NAME.json.
        command: that makes the overview again.

    Raises:
        InputError: if there are no records, or one is broken.
    """
    records, verdicts = read_reports(folder), read_records(folder / "claims")
    if not records and not verdicts:
        raise InputError(f"records are needed in {folder}, got none; run factorlm eval SUITE --out {folder}/SUITE")
    sections = [_section(dimension, records, verdicts) for dimension in DIMENSIONS]
    used = {name: records[name] for d in DIMENSIONS for a in d.aspects for name in _records_of(a, records)}
    total = sum(len(d.aspects) for d in DIMENSIONS)
    measured = sum(bool(_figures(aspect, records)) for d in DIMENSIONS for aspect in d.aspects)
    cards = {card.name: card for record in used.values() for card in record.models}
    return Report(
        suite="trust",
        title="Trust: what is measured, and what is not",
        headlines=(f"{measured} of {total} aspects have figures on record; the others are named as {NOT_MEASURED}.",),
        cautions=(
            "Figures come from records made at different times, sizes and with different models: they are to be read "
            "where they stand, and no total is made of them.",
        ),
        models=tuple(ModelCard(name=c.name, expression=c.expression, parts=c.parts) for c in cards.values()),
        sections=(_summary(records, verdicts), *sections, _origins(used)),
        measures={},
        provenance=Provenance(
            command=command,
            settings={"records": folder.name},
            seed=0,
            data={f"{name}/report.json": r.provenance.commit or "unknown" for name, r in used.items()},
            versions=versions(),
            machine=machine(),
            commit=commit(),
            seconds=0.0,
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
        ),
    )  # fmt: skip


def _records_of(aspect: Aspect, records: Records) -> list[str]:
    """Records that say something of an aspect: of one of its suites, in a folder of any name."""
    return [name for name, r in records.items() if r.suite in aspect.evidence or name in aspect.evidence]


def _figures(aspect: Aspect, records: Records) -> list[tuple[str, str, str, Cell]]:
    """Record, measure, what it is of, and the number, of the first measures whose names begin as wanted."""
    rows: list[tuple[str, str, str, Cell]] = []
    for name in _records_of(aspect, records):
        report = records[name]
        starts = aspect.evidence.get(name) or aspect.evidence.get(report.suite, ())
        found = [
            (name, measure, of, estimate)
            for measure, by in report.measures.items()
            if measure.startswith(starts)
            for of, estimate in by.items()
            if estimate.value is not None
        ]
        rows += found[:MOST_FIGURES]
    return rows


def _section(dimension: Dimension, records: Records, verdicts: Mapping[str, ClaimRecord]) -> Section:
    rows: list[tuple[Cell, ...]] = []
    for aspect in dimension.aspects:
        figures = _figures(aspect, records)
        rows += [(aspect.name, *figure) for figure in figures] or [
            (aspect.name, _missing(aspect, records), "", "", None)
        ]
    columns = (Column(title="aspect"), Column(title="record"), Column(title="figure"), Column(title="of"),
               Column(title="value"))  # fmt: skip
    note = f"At most {MOST_FIGURES} figures of a record are shown; its report has all, with pictures."
    blocks: list[Block] = [Table(title="Figures on record", columns=columns, rows=tuple(rows), note=note)]
    if claims := _claims(dimension):
        cells: list[tuple[Cell, ...]] = []
        for name, claim in claims.items():
            record = verdicts.get(name)
            verdict = _verdict(claim, record)
            cells.append((claim.sentence, verdict, record.outcome.measured if record else "", name))
        titles = ("claim", "verdict", "measured", "name")
        heads = tuple(Column(title=title) for title in titles)
        blocks.append(Table(title="Claims and their verdicts", columns=heads, rows=tuple(cells)))
    suites = [suite for suite in _suites(dimension) if suite in SUITES]
    if suites:
        blocks.append(Prose(text="Measured by " + ", ".join(f"`factorlm eval {suite}`" for suite in suites) + "."))
    return Section(title=dimension.name.capitalize(), lead=dimension.question, blocks=tuple(blocks))


def _missing(aspect: Aspect, records: Records) -> str:
    """Why an aspect has no figures."""
    if found := _records_of(aspect, records):
        return f"{NOT_MEASURED} in {', '.join(found)}"
    suites = [suite for suite in aspect.evidence if suite in SUITES]
    return f"{NOT_MEASURED} yet: no record of {', '.join(suites)}" if suites else NOT_MEASURED


def _summary(records: Records, verdicts: Mapping[str, ClaimRecord]) -> Section:
    rows: list[tuple[Cell, ...]] = []
    for dimension in DIMENSIONS:
        measured = [a.name for a in dimension.aspects if _figures(a, records)]
        missing = [a.name for a in dimension.aspects if not _figures(a, records)]
        said = [_verdict(claim, verdicts.get(name)) for name, claim in _claims(dimension).items()]
        counted = ", ".join(f"{said.count(v)} {v}" for v in dict.fromkeys(sorted(said)))
        rows.append((dimension.name, ", ".join(measured) or "-", ", ".join(missing) or "-", counted or "-"))
    columns = tuple(Column(title=t) for t in ("dimension", "measured", NOT_MEASURED, "claims"))
    return Section(
        title="Seven dimensions",
        lead="Dimensions after Liu et al. 2023, Trustworthy LLMs, and Shen et al. 2023, LLM Alignment.",
        blocks=(Table(title="At a glance", columns=columns, rows=tuple(rows)),),
    )


def _origins(used: Records) -> Section:
    rows: list[tuple[Cell, ...]] = [
        (f"{name}/report.html", r.provenance.command, ", ".join(card.expression for card in r.models),
         r.provenance.commit or "unknown", r.provenance.finished, len(r.cautions))
        for name, r in used.items()
    ]  # fmt: skip
    columns = tuple(Column(title=t) for t in ("record", "made by", "models", "commit", "finished"))
    table = Table(title="Records", columns=(*columns, Column(title="cautions in it", form="d")), rows=tuple(rows))
    return Section(title="Where the figures come from", blocks=(table,))


def _suites(dimension: Dimension) -> list[str]:
    return list(dict.fromkeys(suite for aspect in dimension.aspects for suite in aspect.evidence))


def _claims(dimension: Dimension) -> dict[str, Claim]:
    """Claims that rest on a record of one of the dimension's suites, or stand in a file named after it."""
    suites = _suites(dimension)
    others = {suite for suite in suites if suite in ABOUT_TRUST}
    about = {name for suite in others for name in ABOUT_TRUST[suite]}
    suites = [suite for suite in suites if suite not in others]
    return {
        name: claim
        for name, claim in CLAIMS.items()
        if any(need.startswith(f"benchmarks/records/{suite}/") for need in claim.needs for suite in suites)
        or claim.run.__module__.rpartition(".")[2] in suites
        or name in about
    }


def _verdict(claim: Claim, record: ClaimRecord | None) -> str:
    if record is None:
        return "not yet run"
    return record.outcome.verdict if is_current(record, claim) else f"{record.outcome.verdict} (rule changed since)"
