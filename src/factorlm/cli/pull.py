"""factorlm factor pull, and the list of a shared store: get factors that somebody published."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from factorlm.cli.options import Json, Replace

if TYPE_CHECKING:
    from factorlm.factors.remotes.place import Place


def pull(
    names: Annotated[list[str], typer.Argument(help="Names of factors there.")],
    source: Annotated[
        str, typer.Option("--from", help="A folder, an http(s) URL, or hf://owner/repository[@revision].")
    ],
    version: Annotated[str | None, typer.Option("--version", help="Which one, else the newest.")] = None,
    replace: Replace = False,
    as_json: Json = False,
) -> None:
    """Install factors from a shared store, checked to the last byte.

    Example: factorlm factor pull positive --from /srv/factors --version 0.1.0
    """
    from rich.markup import escape

    from factorlm.cli.terminal import console, notes, print_json, progress
    from factorlm.factors.remotes.transfer import pull as pull_factors
    from factorlm.factors.store import default_stores

    place, store = open_place(source), default_stores()[0]
    with progress() as report:
        pulled = pull_factors(names, place, store, version=version, replace=replace, report=report)
    for moved in pulled:
        folder = store.folder / moved.name
        if as_json:
            found = {"name": moved.name, "version": moved.version, "folder": str(folder), "was_there": moved.was_there}
            print_json({**found, "notes": list(moved.notes)})
            continue
        what = "is already in" if moved.was_there else f"({moved.num_bytes:,} bytes) is now in"
        console.print(f"[bold]{moved.name}[/bold] {moved.version} {what} {escape(str(folder))}", soft_wrap=True)
        for note in moved.notes:
            notes.print(note, style="yellow", markup=False, soft_wrap=True)


def list_shared(address: str, *, as_json: bool) -> None:
    """Show what a shared store has; `factorlm factor list --from` calls it."""
    from rich.markup import escape
    from rich.table import Table

    from factorlm.cli.terminal import console, print_json
    from factorlm.factors.remotes.transfer import listing

    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("name", "kind", "versions", "bytes", "licence", "what it is"):
        table.add_column(heading, justify="right" if heading == "bytes" else "left")
    for found in listing(open_place(address)):
        if as_json:
            version = {"version": found.versions[0], "versions": list(found.versions)}
            print_json({"name": found.name, **version, **found.entry.model_dump(mode="json")})
            continue
        table.add_row(
            f"[bold]{found.name}[/bold]",
            escape(found.entry.kind),
            ", ".join(found.versions),
            f"{found.entry.num_bytes:,}",
            escape(found.entry.licence),
            escape(found.entry.description),
        )
    if not as_json:
        console.print(table)


def open_place(address: str) -> Place:
    """The shared store at an address, with a warning if it cannot be trusted fully."""
    from factorlm.cli.terminal import notes
    from factorlm.factors.remotes.place import place_of

    place = place_of(address)
    if place.warning:
        notes.print(place.warning, style="yellow", markup=False, soft_wrap=True)
    return place
