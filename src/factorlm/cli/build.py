"""factorlm factor build and build-all: make factors from their recipes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from factorlm.factors.recipe import Recipe

Data = Annotated[Path | None, typer.Option("--data", help="Folder of data sets (default: $FACTORLM_DATA).")]
Out = Annotated[Path | None, typer.Option("--out", help="Store to put them into (default: your own).")]
Model = Annotated[str, typer.Option("--model", help="Name, folder or hub name of the encoder.")]
Seed = Annotated[int, typer.Option("--seed", help="Of training and of what is drawn.")]
Force = Annotated[
    bool, typer.Option("--force", help="Also where it is there already, or is another factor, which is kept.")
]


def build(
    recipes: Annotated[list[str], typer.Argument(metavar="RECIPE...", help="Names, or .toml files of your own.")],
    data: Data = None,
    out: Out = None,
    model: Model = "smollm2",
    seed: Seed = 0,
    force: Force = False,
) -> None:
    """Make factors from their recipes.

    Example: factorlm factor build polite my-recipe.toml --data DATA_FOLDER
    """
    from factorlm.factors.recipe import load_recipe

    _build([load_recipe(name) for name in recipes], data, out, model, seed, force)


def build_all(
    data: Data = None,
    out: Out = None,
    model: Model = "smollm2",
    seed: Seed = 0,
    force: Force = False,
) -> None:
    """Make every factor of the shelf anew; those whose recipe has not changed are left, so a broken run goes on."""
    from factorlm.factors.recipe import load_recipe, names

    _build([load_recipe(name) for name in names()], data, out, model, seed, force)


def _build(recipes: list[Recipe], data: Path | None, out: Path | None, model: str, seed: int, force: bool) -> None:
    from factorlm.cli.terminal import console, progress
    from factorlm.errors import UnknownNameError
    from factorlm.evaluation.corpora import DataFolder
    from factorlm.factors.build import build as build_factor
    from factorlm.factors.build import check_replaceable, is_made
    from factorlm.factors.store import Store, default_stores
    from factorlm.models.loading import load_model

    store = Store(out) if out else default_stores()[0]
    folder = DataFolder(data) if data else DataFolder.default()
    heads = [recipe for recipe in recipes if recipe.kind == "head"]
    for part in sorted({part for recipe in heads for part in recipe.parts}):
        if not folder.has(part):
            raise UnknownNameError.of(f"data set in {folder.folder}", part, folder.parts())
    for recipe in recipes:
        if not force:
            check_replaceable(store, recipe)  # before hours of training
    lm = load_model(model) if heads else None
    with progress() as report:
        for number, recipe in enumerate(recipes):
            report("factors", number, len(recipes))
            if not force and is_made(store, recipe, lm):
                continue
            start = time.perf_counter()
            built = build_factor(lm, recipe, folder.either, store, replace=force, seed=seed, report=report)
            calibration = built.manifest.calibration
            evidence = f"held-out AUC {calibration.dev_auc:.3f}, " if calibration else ""
            seconds = f"{time.perf_counter() - start:.0f} s"
            console.print(f"[bold]{recipe.name}[/bold] {evidence}{seconds}", soft_wrap=True)
        report("factors", len(recipes), len(recipes))
    console.print(f"{len(recipes)} factors are in {store.folder}", markup=False, soft_wrap=True)
