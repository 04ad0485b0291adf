"""factorlm eval trust: one page of what is measured of trust, from records."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

Records = Annotated[Path, typer.Option("--records", help="Folder with SUITE/report.json and claims/NAME.json.")]
Out = Annotated[Path | None, typer.Option("--out", help="Folder for report.html, report.md and report.json.")]


def trust(records: Records = Path("benchmarks/records"), out: Out = None) -> None:
    """What is measured of trust and what is not, by dimension: figures and verdicts from records, none by hand."""
    from factorlm.cli.terminal import console, notes
    from factorlm.evaluation.report import terminal, write_report
    from factorlm.evaluation.trust.overview import overview

    found = overview(records, shlex.join(["factorlm", *sys.argv[1:]]))
    console.print(terminal(found))
    if out is not None:
        for path in write_report(found, out):
            if path.suffix == ".html" or path.name == "report.json":
                notes.print(f"wrote {path}", soft_wrap=True)
