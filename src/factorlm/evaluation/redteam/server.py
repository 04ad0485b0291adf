"""Red teaming of a server that runs: every probe, whether it still answers afterwards, and a report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from factorlm.errors import InputError, UnknownNameError
from factorlm.evaluation.document import Cell, Column, Provenance, Report, Section, Table
from factorlm.evaluation.intervals import Estimate
from factorlm.evaluation.provenance import commit, machine, versions
from factorlm.evaluation.redteam.client import Client
from factorlm.evaluation.redteam.probes import FINE, GROUPS, TEXT, UPLOADED, Probe, form_of
from factorlm.evaluation.workbench import Progress
from factorlm.factors.manifest import LexiconSettings, Manifest
from factorlm.factors.store import MANIFEST


@dataclass(frozen=True)
class Probed:
    """What came of an attempt.

    Attributes:
        probe: that was made.
        held: whether the server did what it should.
        seen: status, tokens or seconds.
        seconds: that it took.
    """

    probe: Probe
    held: bool
    seen: str
    seconds: float


def probe_server(client: Client, groups: Sequence[str], report: Progress, other: Client | None = None) -> list[Probed]:
    """Make all attempts of these groups, one after the other; after each group the server must still answer.

    Args:
        client: of the server.
        groups: of attempts; none makes all.
        report: told of progress.
        other: the same server with another tenant's key, to see whether tenants are kept apart.

    Raises:
        UnknownNameError: for a group that there is not.
        InputError: if the server does not answer a plain request.
    """
    for group in groups:
        if group not in GROUPS:
            raise UnknownNameError.of("group of attempts", group, GROUPS)
    alive = client.post(TEXT, FINE)
    if alive.status != 200:
        raise InputError(
            f"a server that answers POST {TEXT} is needed at {client.url}, got status {alive.status or 'none'}; "
            "start one with factorlm serve, and give --key where it wants one"
        )
    probes = [probe for group in groups or GROUPS for probe in GROUPS[group]()]
    found = []
    for number, probe in enumerate(probes):
        report("attempts", number, len(probes))
        start = time.monotonic()
        held, seen = probe.holds(client)
        found.append(Probed(probe, held, seen, time.monotonic() - start))
        if number + 1 == len(probes) or probes[number + 1].group != probe.group:
            check = Probe(probe.group, "the server still answers", _answers)
            found.append(Probed(check, *_answers(client), 0.0))
    if other is not None:
        check = Probe("tenants", "another tenant's factor", lambda c: (True, ""))
        found.append(Probed(check, *_keeps_apart(client, other), 0.0))
    report("attempts", len(probes), len(probes))
    return found


def _answers(client: Client) -> tuple[bool, str]:
    reply = client.post(TEXT, FINE)
    return reply.status == 200, f"status {reply.status}"


def _keeps_apart(client: Client, other: Client) -> tuple[bool, str]:
    """Whether a factor of one tenant can be seen, used or deleted by another."""
    card = Manifest(name=UPLOADED, settings=LexiconSettings(phrases={"a": 1.0})).model_dump_json().encode()
    path = f"/v1/factors/{UPLOADED}"
    body, kind = form_of({MANIFEST: (MANIFEST, card)})
    sent = client.send("PUT", path, body, kind)
    if sent.status not in (200, 201):
        return False, f"a sound factor was answered with status {sent.status}; a key that may change factors is needed"
    tries = {
        "read": other.send("GET", path).status,
        "used": other.post(TEXT, {**FINE, "factors": {UPLOADED: {"exponent": 1.0}}}).status,
        "deleted": other.send("DELETE", path).status,
    }
    is_there = client.send("GET", path).status == 200
    client.send("DELETE", path)
    broken = [what for what, status in tries.items() if status == 200]
    told = f"{', '.join(broken)} by another" if broken else f"statuses {', '.join(map(str, tries.values()))}"
    return is_there and not broken, told


def server_report(found: Sequence[Probed], url: str, command: str, seconds: float) -> Report:
    """The report of attempts against a server; it holds no answers."""
    groups = list(dict.fromkeys(p.probe.group for p in found))
    measures: dict[str, dict[str, Estimate]] = {"held": {}, "attempts": {}}
    rows: list[tuple[Cell, ...]] = []
    for group in groups:
        of_group = [p for p in found if p.probe.group == group]
        held = sum(p.held for p in of_group)
        measures["held"][group] = Estimate(value=held, n=len(of_group))
        measures["attempts"][group] = Estimate(value=len(of_group), n=len(of_group))
        rows.append((group, len(of_group), held, max(p.seconds for p in of_group)))
    columns = (
        Column(title="group"),
        Column(title="attempts", form="d"),
        Column(title="held", form="d"),
        Column(title="longest, seconds", form=".1f"),
    )
    broken = [p for p in found if not p.held]
    sections = [Section(title="Attempts", blocks=(Table(title="By group", columns=columns, rows=tuple(rows)),))]
    if broken:
        table = Table(
            title="What did not hold",
            columns=(Column(title="attempt"), Column(title="group"), Column(title="seen")),
            rows=tuple((p.probe.name, p.probe.group, p.seen) for p in broken),
        )
        sections.append(Section(title="Holes", blocks=(table,)))
    return Report(
        suite="redteam-server",
        title=f"Red teaming of the server at {url}",
        headlines=(f"{len(found) - len(broken)} of {len(found)} attempts held.",),
        cautions=("What these attempts do not try is not shown to be safe.",),
        models=(),
        sections=tuple(sections),
        measures=measures,
        provenance=Provenance(
            command=command, settings={"url": url}, seed=0, data={}, versions=versions(), machine=machine(),
            commit=commit(), seconds=round(seconds, 1), finished=datetime.now(UTC).isoformat(timespec="seconds"),
        ),
    )  # fmt: skip
