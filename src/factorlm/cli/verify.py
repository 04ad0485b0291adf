"""factorlm factor verify: check every byte of factors, installed or shared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from factorlm.cli.options import Json

if TYPE_CHECKING:
    from factorlm.factors.remotes.transfer import Checked


def verify(
    names: Annotated[list[str] | None, typer.Argument(help="Which factors; all of them if none is named.")] = None,
    source: Annotated[
        str | None, typer.Option("--from", help="Check every version in a shared store: folder, URL or hf://….")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check every byte of factors: manifests, weights, and that nothing was added; installed ones, or a shared store.

    Example: factorlm factor verify --from /srv/factors
    """
    from factorlm.cli.pull import open_place
    from factorlm.cli.terminal import console, print_json
    from factorlm.errors import IntegrityError
    from factorlm.factors.remotes.transfer import verify_place

    checks = _installed(names or ()) if source is None else verify_place(open_place(source), names or ())
    problems: list[str] = []
    for checked in checks:
        if as_json:
            print_json({"name": checked.name, "version": checked.version, "problem": checked.problem or None})
        elif not checked.problem:
            console.print(f"[green]sound[/green] {checked.name} {checked.version}")
        if checked.problem:
            problems.append(f"{checked.name} {checked.version}".strip() + f": {checked.problem}")
    if problems:
        raise IntegrityError(
            problems[0] if len(problems) == 1 else f"{len(problems)} are broken: {'; '.join(problems)}"
        )


def _installed(names: Sequence[str]) -> Iterator[Checked]:
    """Check factors by name or folder; if none is named, all that can be named, and the versions that edits kept."""
    from factorlm.errors import FactorlmError
    from factorlm.factors.remotes.inspection import inspect
    from factorlm.factors.remotes.transfer import Checked
    from factorlm.factors.store import default_stores, folder_of
    from factorlm.factors.versions import kept_versions

    if names:
        folders = [folder_of(name) for name in names]
    else:
        stores = default_stores()
        folders = [store.folder / name for store in stores for name in store.names()]
        folders += [path for name in stores[0].names() for path in kept_versions(stores[0], name).values()]
    homes = [store.folder.absolute() for store in default_stores()]
    for folder in folders:
        name = folder.absolute().name
        try:
            manifest = inspect(folder)
        except (FactorlmError, OSError) as error:
            yield Checked(name, "", str(error))
            continue
        problem = ""
        if folder.absolute().parent in homes and name != manifest.name:
            problem = f"{folder} holds {manifest.name}, so its name says nothing; give the folder that name"
        yield Checked(manifest.name, manifest.version, problem)
