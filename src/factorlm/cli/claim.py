"""factorlm eval claim: run claims, and say whether they hold here."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from factorlm.evaluation.claims import ClaimRecord

Names = Annotated[list[str] | None, typer.Argument(help="Of claims; all runs every one, list (or none) shows them.")]
Records = Annotated[Path | None, typer.Option("--records", help="Folder to write NAME.json into.")]
Benchmarks = Annotated[Path, typer.Option("--benchmarks", help="Folder of the records of benchmarks.")]
Data = Annotated[Path | None, typer.Option("--data", help="Folder of data sets (default: $FACTORLM_DATA).")]
Seed = Annotated[int, typer.Option("--seed", help="Of all randomness.")]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Measure everything anew, keep nothing.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object for each claim.")]


def claim(
    names: Names = None,
    records: Records = None,
    benchmarks: Benchmarks = Path("benchmarks/records"),
    data: Data = None,
    seed: Seed = 0,
    no_cache: NoCache = False,
    as_json: Json = False,
) -> None:
    """Run claims of papers and of our own: sentences that can fail, each with the rule that decides it."""
    from factorlm.cli.terminal import notes, print_json, progress
    from factorlm.errors import FactorlmError, InputError
    from factorlm.evaluation.claims import CLAIMS, claim_named, run_claim, write_record
    from factorlm.evaluation.corpora import DataFolder
    from factorlm.evaluation.workbench import Cache

    if not names or names == ["list"]:
        _list(records or benchmarks / "claims", as_json)
        return
    chosen = list(CLAIMS) if names == ["all"] else list(dict.fromkeys(names))
    for name in chosen:
        claim_named(name)
    if records is not None and records.exists() and not records.is_dir():
        raise InputError(f"a folder for records is needed, got the file {records}; choose another name")
    failed: dict[str, FactorlmError] = {}
    for name in chosen:
        try:
            with progress() as report:
                record = run_claim(
                    name, seed=seed, data=DataFolder(data) if data else None, benchmarks=benchmarks,
                    cache=Cache(None) if no_cache else None, report=report,
                )  # fmt: skip
        except FactorlmError as error:
            if len(chosen) == 1:
                raise
            failed[name] = error
            notes.print(f"{name}: {error}", markup=False, soft_wrap=True)
            continue
        if as_json:
            print_json(record.model_dump(mode="json"))
        else:
            _show(record)
        if records is not None:
            notes.print(f"wrote {write_record(record, records)}", markup=False, soft_wrap=True)
    if failed:
        raise InputError(f"{len(failed)} of {len(chosen)} claims could not be run: {', '.join(failed)}; see above")


def _show(record: ClaimRecord) -> None:
    from factorlm.cli.terminal import console

    colour = {"holds": "green", "does not hold here": "red", "not shown": "yellow"}[record.outcome.verdict]
    console.print(f"[bold]{record.name}[/bold]")
    lines = {
        "claim": record.sentence + (f" ({record.source})" if record.source else ""),
        "reported": record.reported or "-",
        "rule": record.rule,
        "measured": record.outcome.measured,
        "how": record.made_by or record.command,
    }
    for title, text in lines.items():
        console.print(f"  {title:<9}{text}", markup=False, soft_wrap=True)
    detail = f": {record.outcome.detail}" if record.outcome.detail else ""
    console.print(f"  verdict  [{colour}]{record.outcome.verdict}[/{colour}]", end="", soft_wrap=True)
    console.print(detail, markup=False, soft_wrap=True)


def _list(records: Path, as_json: bool) -> None:
    from factorlm.cli.terminal import console, print_json
    from factorlm.evaluation.claims import CLAIMS, read_records

    found = read_records(records)
    width = max(map(len, CLAIMS))
    for name, known in CLAIMS.items():
        verdict = found[name].outcome.verdict if name in found else "not yet run"
        if as_json:
            about = {"needs": list(known.needs), "minutes": known.minutes, "verdict": verdict}
            print_json({"name": name, "sentence": known.sentence, "source": known.source, "rule": known.rule, **about})
        else:
            console.print(f"{name:<{width}}  {verdict:<18}  {known.sentence}", markup=False, soft_wrap=True)
