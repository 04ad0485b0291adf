"""factorlm factor: everything about factors; the longer commands have files of their own."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from factorlm.cli.build import build, build_all
from factorlm.cli.correlate import correlate
from factorlm.cli.create import create
from factorlm.cli.edit import edit
from factorlm.cli.measure import measure
from factorlm.cli.options import Json, Name
from factorlm.cli.port import port
from factorlm.cli.pull import list_shared, pull
from factorlm.cli.push import push
from factorlm.cli.show import show
from factorlm.cli.train import train
from factorlm.cli.verify import verify

if TYPE_CHECKING:
    from pathlib import Path

    from factorlm.factors.manifest import Manifest

app = typer.Typer(no_args_is_help=True)

SHOWN_DOSES = (0.0, 0.2, 0.6)
WIDE = 120  # columns of a terminal that holds all
# Heading, and whether it is left out where there is no room.
COLUMNS = (
    ("name", False), ("kind", True), ("version", True), ("AUC", False), ("texts that have it", False),
    ("perplexity", False), ("kB", True), ("licence", True), ("what it is", False),
)  # fmt: skip


@app.command("list")
def list_factors(
    kind: Annotated[str | None, typer.Option("--kind", help="Only factors of this kind, such as head.")] = None,
    source: Annotated[str | None, typer.Option("--from", help="What a shared store has, instead.")] = None,
    as_json: Json = False,
) -> None:
    """Show the factors that can be named: your own, then those of the package."""
    from rich.cells import cell_len
    from rich.markup import escape
    from rich.table import Table
    from rich.text import Text

    from factorlm.cli.terminal import console
    from factorlm.errors import UnknownNameError
    from factorlm.factors.manifest import Manifest
    from factorlm.factors.store import KINDS, entries

    if source is not None:
        list_shared(source, as_json=as_json)
        return
    if kind is not None and kind not in KINDS:
        raise UnknownNameError.of("kind of factor", kind, KINDS)
    known = list(entries())
    found = [(folder, m) for folder, m in known if isinstance(m, Manifest) and kind in (None, m.kind)]
    damaged = [(folder, str(e)) for folder, e in known if not isinstance(e, Manifest)] if kind is None else []
    if as_json:
        for folder, problem in damaged:
            print(json.dumps({"name": folder.name, "folder": str(folder), "problem": problem}, ensure_ascii=False))
        for folder, manifest in found:
            tree = manifest.model_dump(mode="json", exclude={"files", "data", "settings"})
            row = {**tree, "kind": manifest.kind, "num_bytes": _num_bytes(folder), "folder": str(folder)}
            print(json.dumps(row, ensure_ascii=False))
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    shown = [n for n, (_, is_extra) in enumerate(COLUMNS) if console.width >= WIDE or not is_extra]
    rows = [_row(folder, manifest) for folder, manifest in sorted(found, key=lambda row: (row[1].kind, row[1].name))]
    for n in shown:
        heading = COLUMNS[n][0]
        width = max(cell_len(text) for text in (heading, *(Text.from_markup(cells[n]).plain for cells in rows)))
        is_last = n == len(COLUMNS) - 1  # it alone gives way
        table.add_column(
            heading, justify="right" if heading in ("AUC", "kB") else "left", no_wrap=not is_last,
            min_width=None if is_last else width,
        )  # fmt: skip
    for cells in rows:
        table.add_row(*(cells[n] for n in shown))
    console.print(table)
    for folder, _ in damaged:
        name = escape(folder.name)
        console.print(
            f"[red]{name}[/red] is damaged: factorlm factor verify {name} tells what is wrong", soft_wrap=True
        )
    doses = ", ".join(f"{dose:+g}" if dose else "0" for dose in SHOWN_DOSES)
    console.print(
        f"[dim]texts that have it, in the eyes of a judge, at strengths {doses}; perplexity under the base at the last "
        "two, times its own[/dim]",
        soft_wrap=True,
    )
    if len(shown) < len(COLUMNS):
        console.print("[dim]a wider terminal, and --json, have version, size and licence[/dim]")


def _row(folder: Path, manifest: Manifest) -> list[str]:
    from rich.markup import escape

    from factorlm.factors.store import SHELF

    own = "" if folder.parent == SHELF else " [dim](yours)[/dim]"
    rates, costs = "", ""
    if manifest.response:
        by_strength = {d.strength: d for d in manifest.response.doses}
        doses = [by_strength[s] for s in SHOWN_DOSES if s in by_strength]
        rates = " → ".join(f"{d.rate:.0%}" for d in doses)
        costs = " ".join(f"×{d.perplexity_ratio:.2f}" for d in doses if d.strength)
    return [
        f"[bold]{manifest.name}[/bold]{own}",
        manifest.kind,
        manifest.version,
        f"{manifest.calibration.dev_auc:.2f}" if manifest.calibration else "",
        rates,
        costs,
        f"{_num_bytes(folder) / 1024:.0f}",
        escape(manifest.licence),
        escape(manifest.description),
    ]


def _num_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())


app.command("show")(show)
app.command("train")(train)
app.command("create")(create)
app.command("edit")(edit)
app.command("measure")(measure)
app.command("correlate")(correlate)
app.command("port")(port)
app.command("build")(build)
app.command("build-all")(build_all)
app.command("push")(push)
app.command("pull")(pull)
app.command("verify")(verify)


@app.command("remove")
def remove(name: Name) -> None:
    """Remove a factor of your own, with every version of it that edits have kept."""
    from factorlm.cli.terminal import console
    from factorlm.factors.store import default_stores

    default_stores()[0].remove(name)
    console.print(f"removed {name}")
