"""factorlm factor edit: change one factor, see what that does, undo it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from factorlm.cli.options import Json, Name

if TYPE_CHECKING:
    from factorlm.factors.editing import Edited
    from factorlm.factors.word_effect import WordEffect

Words = Annotated[list[str], typer.Option("--allow", help="A word that the factor shall leave alone.")]
Phrases = Annotated[list[str], typer.Option("--forbid", help="A phrase to ban; a head can only pull it far down.")]
Boosts = Annotated[list[str], typer.Option("--boost", help='"PHRASE=NATS": a push at exponent 1; may be negative.')]
Contexts = Annotated[list[str], typer.Option("--context", help="Show the effect after this text.")]
ALONE = "allow, forbid and boost edit a factor, --undo takes the last edit back; give one or the other"


def edit(
    name: Name,
    allow: Words = [],  # noqa: B006
    forbid: Phrases = [],  # noqa: B006
    boost: Boosts = [],  # noqa: B006
    context: Contexts = [],  # noqa: B006
    strength: Annotated[
        float | None, typer.Option("--strength", help="At which to show the effect, in nats per token; 0.2 if not set.")
    ] = None,
    undo: Annotated[bool, typer.Option("--undo", help="Bring back the version before the last edit.")] = False,
    model: Annotated[
        str | None, typer.Option("--model", help="Name, folder or hub name; the factor's own if not given.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Change what a factor does to a word, and nothing else; the version before is kept.

    Example: factorlm factor edit toxic --allow kill --context "How do I"
    """
    if undo:
        _undo(name, is_alone=not (allow or forbid or boost or context), as_json=as_json)
        return
    import math

    from factorlm.cli.terminal import print_json
    from factorlm.errors import InputError
    from factorlm.factors.editing import STRENGTH, check_kind, check_words, edit
    from factorlm.factors.store import folder_of
    from factorlm.factors.word_effect import word_effect
    from factorlm.models.loading import DEFAULT_MODEL, load_model, load_present

    if strength is not None and not (math.isfinite(strength) and strength):
        raise InputError(f"a strength is a finite number of nats per token but zero, got {strength}; 0.2 is clear")
    boosts = dict(_boost(option) for option in boost)
    if len(boosts) < len(boost):
        raise InputError("each phrase is boosted once, got one twice; decide on its nats")
    check_words(allow, forbid, boosts)
    manifest = check_kind(folder_of(name))  # complain before the model is loaded
    if model is None and manifest.encoder is not None:
        lm = load_present(manifest.encoder.name)
    else:
        lm = load_model(model or DEFAULT_MODEL)
    at = STRENGTH if strength is None else strength
    edited = edit(lm, name, allow=allow, forbid=forbid, boost=boosts, strength=at)
    effect = word_effect(lm, edited, context, strength=at)
    folder = edited.save()
    if as_json:
        print_json({"folder": str(folder), **_as_object(edited, effect)})
    else:
        _show(edited, effect, folder)


def _undo(name: str, *, is_alone: bool, as_json: bool) -> None:
    from factorlm.cli.terminal import console, print_json
    from factorlm.errors import InputError
    from factorlm.factors.store import SHELF
    from factorlm.factors.versions import undo

    if not is_alone:
        raise InputError(ALONE)
    done = undo(name)
    if as_json:
        found = {"name": done.name, "version": done.manifest.version, "version_before": done.before}
        print_json({**found, "undone": done.change.what, "folder": str(done.folder)})
        return
    where = "the package's own again" if done.folder.parent == SHELF else f"in {done.folder}"
    console.print(
        f"{done.name} is back at {done.manifest.version}, {where}; undone: {done.change.what}",
        markup=False,
        soft_wrap=True,
    )


def _boost(option: str) -> tuple[str, float]:
    from factorlm.errors import InputError

    phrase, found, number = option.rpartition("=")
    try:
        nats = float(number) if found else None
    except ValueError:
        nats = None
    if nats is None or not phrase.strip():
        raise InputError(f'a boost is given as "PHRASE=NATS", got {option!r}; try "good=1.5"')
    return phrase, nats


def _as_object(edited: Edited, effect: WordEffect) -> dict[str, object]:
    """What happened, for programs."""
    from dataclasses import asdict

    return {
        "name": edited.manifest.name,
        "kind": edited.manifest.kind,
        "version": edited.manifest.version,
        "version_before": edited.before.version,
        "change": edited.manifest.changes[-1].what,
        "strength": effect.strength,
        "exponent_before": effect.exponent_before,
        "exponent_after": effect.exponent_after,
        "effect": [asdict(row) for row in effect.rows],
        "pushes": {
            word: [{**asdict(push), "tokens": list(push.tokens)} for push in pushes]
            for word, pushes in edited.pushes.items()
        },
        "collateral": asdict(edited.collateral) if edited.collateral else None,
        "notes": list(edited.notes),
    }


def _show(edited: Edited, effect: WordEffect, folder: Path) -> None:
    """What happened, for people."""
    from rich.markup import escape
    from rich.table import Table

    from factorlm.cli.terminal import console

    manifest = edited.manifest
    console.print(
        f"[bold]{manifest.name}[/bold] {edited.before.version} is now {manifest.version}, in {escape(str(folder))}",
        soft_wrap=True,
    )
    for word, pushes in edited.pushes.items():
        shown = ", ".join(f"{'|'.join(p.tokens)} {_signed(p.before)} to {_signed(p.after)}" for p in pushes)
        console.print(f"push of {word!r} at exponent 1, in nats: {shown}", markup=False, soft_wrap=True)
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("p(word | context)")
    table.add_column("context")
    steered = (f"{part} ^{exponent:.2f}" for part, exponent in (
        ("before", effect.exponent_before), ("after", effect.exponent_after)))  # fmt: skip
    for heading in ("base", *steered):
        table.add_column(heading, justify="right")
    for row in effect.rows:
        context = " ".join(row.context.split())
        shortened = context if len(context) <= 48 else f"…{context[-47:]}"
        numbers = (f"{value:.2g}" for value in (row.base, row.before, row.after))
        table.add_row(escape(row.word), escape(shortened), *numbers)
    console.print(table)
    if edited.collateral is not None:
        other = edited.collateral
        moved = ", ".join(f"{token} {_signed(nats)}" for token, nats in other.moved.items())
        console.print(
            f"other tokens: {other.divergence:.4f} nats per token from before at strength {effect.strength:g}, "
            f"potentials correlate {other.correlation:.4f}; moved most: {moved}",
            markup=False,
            soft_wrap=True,
        )
    for note in edited.notes:
        console.print(f"[yellow]{escape(note)}[/yellow]", soft_wrap=True)
    console.print(f"to undo: factorlm factor edit {manifest.name} --undo", markup=False, soft_wrap=True)


def _signed(nats: float) -> str:
    """Two digits, without a minus before zero."""
    return f"{round(nats, 2) + 0.0:+.2f}"
