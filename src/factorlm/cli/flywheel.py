"""factorlm flywheel: feedback becomes candidates, candidates are judged, and the better ones are used."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from factorlm.cli.feedback import State, Tenant, opened, state_folder
from factorlm.cli.flywheel_demo import demo
from factorlm.cli.options import Json, Name

if TYPE_CHECKING:
    from factorlm.serving.database import Database
    from factorlm.serving.flywheel.ledger import Card, FlywheelSettings
    from factorlm.serving.flywheel.wheel import Flywheel

app = typer.Typer(no_args_is_help=True)
app.command("demo")(demo)
Model = Annotated[str, typer.Option("--model", help="Name, folder or hub name of the encoder.")]


@app.command("run")
def run(
    name: Name,
    state: State = None,
    tenant: Tenant = None,
    model: Model = "smollm2",
    recipe: Annotated[Path | None, typer.Option("--recipe", help="Settings in TOML.")] = None,
    assignments: Annotated[
        list[str], typer.Option("--set", help="KEY=VALUE of the settings, such as strength=0.4 or confidence=0.9.")
    ] = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """One round: collect feedback, learn a candidate, judge it on held-out prompts, promote it if it is better.

    Everything of the round is in its card; exit status 0 whether or not the candidate was promoted.

    Example: factorlm flywheel run liked
    """
    from factorlm.cli.terminal import console, notes, print_json, progress
    from factorlm.models.loading import load_model
    from factorlm.serving.flywheel.forget import gone
    from factorlm.serving.flywheel.ledger import FlywheelSettings
    from factorlm.serving.flywheel.report import write_card
    from factorlm.settings import changed

    settings = changed(FlywheelSettings(), recipe, assignments)
    with opened(state) as database:
        flywheel = _flywheel(name, database, state, tenant, settings)
        lm = load_model(model)
        with progress() as report:
            card = flywheel.turn(lm, report=report)
        lost = gone(flywheel)
    if card.decision != "waiting":
        paths = write_card(flywheel.ledger.cards(), flywheel.ledger.place(card.round))
        notes.print(f"report: {paths[2]}", markup=False, soft_wrap=True)
    if lost:
        notes.print(
            f"{len(lost)} pieces of feedback that versions learned from are deleted; factorlm flywheel forget {name} "
            "--deleted takes them out of the versions, too",
            soft_wrap=True,
        )
    if as_json:
        print_json(card.model_dump(mode="json", exclude={"events": True, "new": True, "evaluation": {"samples"}}))
        return
    _show([card])
    colour = {"promoted": "green", "blocked": "yellow"}.get(card.decision, "dim")
    console.print(f"[{colour}]{card.decision}[/{colour}]: ", end="")
    console.print(card.reason, markup=False, soft_wrap=True)
    if card.quarantined:
        console.print(
            f"{len(card.quarantined)} new pieces of feedback contradict the version in use and are not learned from",
            soft_wrap=True,
        )


@app.command("show")
def show(name: Name, state: State = None, tenant: Tenant = None, as_json: Json = False) -> None:
    """All rounds of a factor."""
    from factorlm.cli.terminal import notes, print_json
    from factorlm.serving.flywheel.ledger import Ledger

    cards = Ledger.of(state_folder(state), name, tenant).cards()
    if as_json:
        for card in cards:
            print_json(card.model_dump(mode="json", exclude={"evaluation": {"samples"}}))
        return
    if not cards:
        notes.print(f"{name} has had no round yet; factorlm flywheel run {name} makes one")
        return
    _show(cards)


@app.command("rollback")
def rollback(name: Name, state: State = None, tenant: Tenant = None) -> None:
    """Bring back, bit for bit, what was in use before the last promotion.

    Example: factorlm flywheel rollback liked
    """
    from factorlm.cli.terminal import console

    with opened(state) as database:
        card = _flywheel(name, database, state, tenant).roll_back()
    console.print(f"{name} {card.before} is not in use any more; {card.reason}", markup=False, soft_wrap=True)


@app.command("forget")
def forget(
    name: Name,
    ids: Annotated[list[int] | None, typer.Argument(help="Numbers of the pieces of feedback.")] = None,
    state: State = None,
    tenant: Tenant = None,
    model: Model = "smollm2",
    deleted: Annotated[
        bool, typer.Option("--deleted", help="Also what was deleted from the database, but versions still know.")
    ] = False,
    dry: Annotated[bool, typer.Option("--dry", help="Only tell which versions know them.")] = False,
    as_json: Json = False,
) -> None:
    """Delete feedback and everything that was learned from it; a version in use that knew it is learned anew without.

    Example: factorlm flywheel forget liked 12 13
    """
    from factorlm.cli.terminal import console, print_json, progress
    from factorlm.errors import InputError
    from factorlm.models.loading import load_model
    from factorlm.serving.flywheel.forget import forget as delete
    from factorlm.serving.flywheel.forget import gone
    from factorlm.serving.flywheel.report import write_card

    with opened(state) as database:
        flywheel = _flywheel(name, database, state, tenant)
        ids = [*(ids or ()), *(gone(flywheel) if deleted else ())]
        if not ids and not deleted:
            raise InputError("numbers of pieces of feedback, or --deleted, are needed, got none; export names them")
        if not ids:
            console.print("nothing that was deleted is known to any version")
            return
        lm = None if dry else load_model(model)
        with progress() as report:
            found, card = delete(flywheel, database, ids, lm, report=report)
        if card is not None:
            write_card(flywheel.ledger.cards(), flywheel.ledger.place(card.round))
    if as_json:
        print_json(
            {"rounds": list(found.rounds), "versions": list(found.versions), "in_use": found.in_use,
             "held_out": found.num_held, "deleted": not dry, "decision": card.decision if card else None,
             "version": card.version if card else None}
        )  # fmt: skip
        return
    known = f"versions {', '.join(found.versions)}" if found.versions else "no version"
    console.print(f"{known} learned from them; {found.num_held} of them are held out", soft_wrap=True)
    if dry:
        console.print("[dim]nothing is changed[/dim]")
    elif card is None:
        console.print("they are deleted; what is in use did not know them" if not found.in_use else "they are deleted")
    else:
        console.print(f"they are deleted; {card.decision}: {card.reason}", markup=False, soft_wrap=True)


def _flywheel(
    name: str, database: Database, state: Path | None, tenant: str | None, settings: FlywheelSettings | None = None
) -> Flywheel:
    """The flywheel of a factor in a tenant's store, or without one in the user's own."""
    from factorlm.factors.store import Store, default_stores
    from factorlm.serving.flywheel.ledger import FlywheelSettings, Ledger
    from factorlm.serving.flywheel.wheel import Flywheel
    from factorlm.serving.settings import ServerSettings

    folder = state_folder(state)
    store = default_stores()[0]
    if tenant is not None:
        store = Store(ServerSettings(state=folder).store_folder(tenant))
    return Flywheel(
        name, database, store, Ledger.of(folder, name, tenant), tenant, settings or FlywheelSettings(),
        command=" ".join(["factorlm", *sys.argv[1:]]),
    )  # fmt: skip


def _show(cards: list[Card]) -> None:
    from rich.table import Table

    from factorlm.cli.terminal import console
    from factorlm.serving.flywheel.gate import CANDIDATE, IN_USE

    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("round")
    table.add_column("decision")
    for heading in ("before", "version", "learned from", "in order", "in use", "loss", "in use", "better"):
        table.add_column(heading, justify="right")
    for card in cards:
        found = card.evaluation
        numbers = [""] * 5
        if found is not None:
            numbers = [
                f"{found.accuracy[CANDIDATE].value:.1%}", f"{found.accuracy[IN_USE].value:.1%}",
                f"{found.loss[CANDIDATE].value:.3f}", f"{found.loss[IN_USE].value:.3f}", f"{found.confidence:.1%}",
            ]  # fmt: skip
        table.add_row(str(card.round), card.decision, card.before or "-", card.version or "-", f"{len(card.events)}",
                      *numbers)  # fmt: skip
    console.print(table)
