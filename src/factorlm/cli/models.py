"""factorlm models: the models that are known by name, and facts written into models."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from factorlm.cli import models_edit

app = typer.Typer(no_args_is_help=True)
app.command("edit")(models_edit.edit)
app.command("edits")(models_edit.list_edits)
app.command("unedit")(models_edit.unedit)


@app.command("list")
def list_models(as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False) -> None:
    """Show the models known by name; any folder or hub name works as well."""
    from rich.table import Table

    from factorlm.cli.terminal import console
    from factorlm.models.fetch import installed

    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("name", "here", "MB", "licence", "what it is"):
        table.add_column(heading, justify="right" if heading == "MB" else "left")
    for name, source, is_fetched, folder in installed():
        if as_json:
            print(
                json.dumps(
                    {
                        "name": name,
                        "is_fetched": is_fetched,
                        "folder": str(folder),
                        "num_bytes": source.num_bytes,
                        "licence": source.licence,
                        "description": source.description,
                    }
                )
            )
        else:
            here = "yes" if is_fetched else "no"
            table.add_row(name, here, f"{source.num_bytes / 1e6:.0f}", source.licence, source.description)
    if not as_json:
        console.print(table)


@app.command("fetch")
def fetch_models(names: Annotated[list[str], typer.Argument(help="Which models.")]) -> None:
    """Fetch and convert models, once; later commands find them in the cache."""
    from factorlm.cli.terminal import notes
    from factorlm.models.fetch import fetch

    for name in names:
        folder = fetch(name)
        notes.print(f"{name} is ready in {folder}", soft_wrap=True)
