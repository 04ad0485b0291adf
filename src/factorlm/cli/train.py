"""factorlm factor train: learn a factor from examples."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from factorlm.cli.options import Name, Replace

if TYPE_CHECKING:
    from factorlm.factors.manifest import Manifest


def train(
    name: Name,
    positive: Annotated[Path | None, typer.Option("--positive", help="Texts that have it, one a line.")] = None,
    negative: Annotated[Path | None, typer.Option("--negative", help="Texts that do not, one a line.")] = None,
    table: Annotated[Path | None, typer.Option("--table", help="Or a .jsonl or .tsv of text and label.")] = None,
    label: Annotated[str, typer.Option("--label", help="The label in the table that has it.")] = "1",
    description: Annotated[str, typer.Option("--description", help="One line for lists.")] = "",
    licence: Annotated[str, typer.Option("--licence", help="Of the trained factor.")] = "unspecified",
    model: Annotated[str, typer.Option("--model", help="Name, folder or hub name of the encoder.")] = "smollm2",
    rank: Annotated[
        int,
        typer.Option(
            "--rank", min=0, help="Also learn a map of this rank; kept only if it steers better at equal divergence."
        ),
    ] = 0,
    seed: Annotated[int, typer.Option("--seed", help="Of the order of texts.")] = 0,
    replace: Replace = False,
) -> None:
    """Train a head from texts that have an attribute and texts that do not.

    Example: factorlm factor train wry --positive wry.txt --negative plain.txt
    """
    from factorlm.cli.terminal import console, progress
    from factorlm.errors import InputError
    from factorlm.factors.examples import from_files, from_table, split
    from factorlm.factors.store import default_stores
    from factorlm.factors.training import Description, train_head
    from factorlm.models.loading import DEFAULT_MODEL, load_model

    if table is not None and positive is None and negative is None:
        examples, origin = from_table(table, positive=label), f"{table} --label {label}"
    elif table is None and positive is not None and negative is not None:
        examples, origin = from_files(positive, negative), f"{positive} against {negative}"
    else:
        raise InputError(
            "two files (--positive and --negative) or one labelled --table are needed; give one or the other"
        )
    store = default_stores()[0]
    store.check_name(name, replace=replace)
    split(examples)  # complain before the model is loaded
    about = Description(
        name=name, description=description, label=origin, licence=licence, sources=((origin, licence, ""),)
    )
    lm = load_model(model)
    with progress() as report:
        trained = train_head(lm, examples, about, rank=rank, seed=seed, report=report)
    folder = store.save(trained.manifest, trained.tensors, replace=replace)
    calibration = trained.manifest.calibration
    assert calibration is not None
    seconds = sum(trained.seconds.values())
    console.print(
        f"[bold]{name}[/bold] is in {folder} after {seconds:.0f} s; held-out AUC {calibration.dev_auc:.3f}",
        soft_wrap=True,
    )
    if calibration.dev_auc < 0.6:
        console.print("[yellow]it tells the held-out texts apart hardly better than chance: it may not steer[/yellow]")
    other = "" if model == DEFAULT_MODEL else f" --model {model}"
    console.print(f'try: factorlm generate "The food was" --factor {name}=0.3{other} --explain', markup=False)
    if rank:
        console.print(_kept(trained.manifest, rank), soft_wrap=True)


def _kept(manifest: Manifest, rank: int) -> str:
    """Whether training kept the map, and the comparison that decided it."""
    from factorlm.factors.manifest import HeadSettings
    from factorlm.factors.separation import STRENGTH
    from factorlm.factors.training import ERROR, effect_key

    assert isinstance(manifest.settings, HeadSettings)
    by_map, by_bias = (
        f"{manifest.effect[key]:.2f} ± {manifest.effect[key + ERROR]:.2f}"
        for key in (effect_key(f"rank {rank}"), effect_key("bias"))
    )
    verdict = f"the map of rank {rank}" if manifest.settings.rank else "the bias alone"
    return f"kept {verdict}: at strength {STRENGTH} the map separates texts by {by_map}, the bias by {by_bias}"
