"""factorlm flywheel demo: the flywheel with simulated users."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from factorlm.cli.options import Json

if TYPE_CHECKING:
    from factorlm.serving.flywheel.demo import Turn


def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for everything; run again, it goes on where it was.")],
    size: Annotated[str, typer.Option("--size", help="small (minutes) or full.")] = "small",
    rounds: Annotated[int | None, typer.Option("--rounds", min=1, help="Rounds of the flywheel; 5 by default.")] = None,
    arms: Annotated[
        str, typer.Option("--arms", help="users, random (asked at random) and self (nobody asked), by commas.")
    ] = "users",
    model: Annotated[str, typer.Option("--model", help="Name, folder or hub name of the model.")] = "smollm2",
    recipe: Annotated[Path | None, typer.Option("--recipe", help="Settings in TOML.")] = None,
    assignments: Annotated[
        list[str], typer.Option("--set", help="KEY=VALUE of the settings, such as budget=80 or flywheel.strength=0.4.")
    ] = [],  # noqa: B006
    seed: Annotated[int, typer.Option("--seed", help="Of all randomness.")] = 0,
    as_json: Json = False,
) -> None:
    """Simulated users with a hidden taste rate what the model writes; shows how much better it serves them each round.

    Example: factorlm flywheel demo --out demo/
    """
    from factorlm.cli.terminal import notes, print_json, progress
    from factorlm.errors import UnknownNameError
    from factorlm.models.loading import load_model
    from factorlm.serving.flywheel.demo import SIZES, Demo, sentence_vectors, sentiment_utility, with_rounds
    from factorlm.serving.flywheel.demo_report import write_demo
    from factorlm.settings import changed

    if size not in SIZES:
        raise UnknownNameError.of("size", size, SIZES)
    wanted = [arm.strip() for arm in arms.split(",")]
    for arm in wanted:
        if arm not in ("users", "random", "self"):
            raise UnknownNameError.of("arm", arm, ("users", "random", "self"))
    settings = with_rounds(changed(SIZES[size], recipe, assignments), rounds, seed)
    command = " ".join(["factorlm", *sys.argv[1:]])
    lm = load_model(model)
    utility, vectors = sentiment_utility(), sentence_vectors()
    found: dict[str, tuple[Turn, ...]] = {}
    with progress() as report:
        for arm in wanted:
            run = Demo(out / arm, lm, utility, vectors, settings, arm, command)  # type: ignore[arg-type]
            found[arm] = run.run(report)
    paths = write_demo(found, settings, lm.name, out, command)
    if as_json:
        for arm, turns in found.items():
            for turn in turns:
                print_json({"arm": arm, **turn.model_dump(mode="json")})
        return
    for arm, turns in found.items():
        _show(arm, turns)
    notes.print(f"report: {paths[2]}", markup=False, soft_wrap=True)


def _show(arm: str, turns: tuple[Turn, ...]) -> None:
    from rich.table import Table

    from factorlm.cli.terminal import console

    table = Table(box=None, pad_edge=False, header_style="dim", title=arm, title_justify="left")
    for heading in ("round", "labels", "win rate", "95 % interval", "held out in order", "distinct-2", "base nats"):
        table.add_column(heading, justify="right")
    table.add_column("decision")
    for turn in turns:
        rate, held = turn.win_rate, turn.held_accuracy
        between = "" if rate.low is None or rate.high is None else f"{rate.low:.1%} to {rate.high:.1%}"
        table.add_row(
            f"{turn.round}{' (flipped)' if turn.flipped else ''}", str(turn.labels), f"{rate.value:.1%}", between,
            "" if held is None else f"{held.value:.1%}", f"{turn.distinct:.2f}", f"{turn.base_nats:.2f}",
            f"{turn.decision} {turn.version}".strip(),
        )  # fmt: skip
    console.print(table)
