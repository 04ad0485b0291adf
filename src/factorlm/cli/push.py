"""factorlm factor push: publish factors in a shared store."""

from __future__ import annotations

from typing import Annotated

import typer

from factorlm.cli.options import Json


def push(
    names: Annotated[list[str], typer.Argument(help="Names or folders of factors.")],
    to: Annotated[str, typer.Option("--to", help="A folder, an http(s) URL, or hf://owner/repository[@revision].")],
    replace: Annotated[bool, typer.Option("--replace", help="Supersede the same version there.")] = False,
    as_json: Json = False,
) -> None:
    """Publish factors in a shared store, which keeps every version.

    A web server must take PUT, as WebDAV does; the folder of another can be filled by pushing to a folder and copying
    that. A hub repository that does not exist is made, and is public unless your account says otherwise.

    Example: factorlm factor push positive toxic --to /srv/factors
    """
    from rich.markup import escape

    from factorlm.cli.pull import open_place
    from factorlm.cli.terminal import console, print_json
    from factorlm.factors.remotes.transfer import push as push_factors

    place = open_place(to)
    for moved in push_factors(names, place, replace=replace):
        if as_json:
            print_json(
                {"name": moved.name, "version": moved.version, "to": place.address, "was_there": moved.was_there}
            )
            continue
        what = "is already in" if moved.was_there else f"({moved.num_bytes:,} bytes) is now in"
        console.print(f"[bold]{moved.name}[/bold] {moved.version} {what} {escape(place.address)}", soft_wrap=True)
