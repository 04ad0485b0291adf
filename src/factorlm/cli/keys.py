"""factorlm serve keys: make, list and revoke the keys of clients."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from factorlm.cli.options import Json

if TYPE_CHECKING:
    from factorlm.serving.database import Database

app = typer.Typer(no_args_is_help=True)

State = Annotated[Path | None, typer.Option("--state", help="Folder of the server's keys, feedback and factors.")]


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="What you call it, such as whose it is.")],
    scope: Annotated[
        str, typer.Option("--scope", help="What it allows: read, generate or admin; each implies those before it.")
    ] = "generate",
    tenant: Annotated[
        str, typer.Option("--tenant", help="Whose factors and feedback it reaches: small letters, digits, - and _.")
    ] = "local",
    state: State = None,
    as_json: Json = False,
) -> None:
    """Make a key and print it; it cannot be seen again.

    Example: factorlm serve keys create laptop --scope generate
    """
    from factorlm.cli.terminal import notes, print_json

    with _database(state) as database:
        was_open = not database.has_keys()
        secret = database.create_key(name, tenant, [scope])
        key = database.find_key(secret)
    if as_json and key is not None:
        print_json({"id": key.id, "name": key.name, "tenant": tenant, "scopes": list(key.scopes), "key": secret})
    else:
        print(secret)
    if was_open:
        notes.print("this is the first key: from now on every request needs one", soft_wrap=True)


@app.command("list")
def list_keys(state: State = None, as_json: Json = False) -> None:
    """Show every key that was made, but not the secrets, which are not kept."""
    from rich.markup import escape
    from rich.table import Table

    from factorlm.cli.terminal import console, print_json

    with _database(state) as database:
        found = database.list_keys()
    if as_json:
        for key in found:
            known = {"id": key.id, "name": key.name, "tenant": key.tenant, "scopes": list(key.scopes)}
            print_json({**known, "created": key.created, "revoked": key.revoked or None})
        return
    if not found:
        console.print("there are no keys: on this machine nobody needs one, and no other machine may ask")
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("id", "name", "tenant", "scopes", "created", "revoked"):
        table.add_column(heading, justify="right" if heading == "id" else "left")
    for key in found:
        cells = (str(key.id), escape(key.name), key.tenant, " ".join(key.scopes), key.created, key.revoked)
        table.add_row(*cells, style="dim" if key.revoked else "")
    console.print(table)


@app.command("revoke")
def revoke(
    number: Annotated[int, typer.Argument(metavar="ID", help="As factorlm serve keys list has it.")],
    state: State = None,
) -> None:
    """Take a key back for good; a server that runs refuses it from its next request on."""
    from factorlm.cli.terminal import console
    from factorlm.errors import InputError

    with _database(state) as database:
        if not database.revoke(number):
            raise InputError(f"there is no good key number {number}; factorlm serve keys list shows all")
    console.print(f"revoked key {number}")


def _database(state: Path | None) -> Database:
    from importlib.util import find_spec

    from factorlm.errors import InputError

    for module in ("fastapi", "sqlalchemy"):
        if find_spec(module) is None:
            raise InputError(
                f"keys need the extra \"serve\", of which {module} is missing; pip install 'factorlm[serve]'"
            )
    from factorlm.serving.database import Database
    from factorlm.serving.settings import ServerSettings

    settings = ServerSettings() if state is None else ServerSettings(state=state.absolute())
    return Database(settings.database_path)
