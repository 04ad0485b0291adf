"""factorlm factor build and build-all: make factors from their recipes."""

from __future__ import annotations

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

Jobs = Annotated[
    int, typer.Option("--jobs", min=0, help="Processes side by side, about 3 GB each; 0 takes one a core, at most 4.")
]


def build(
    recipes: Annotated[list[str], typer.Argument(metavar="RECIPE...", help="Names, or .toml files of your own.")],
    data: Data = None,
    out: Out = None,
    model: Model = "smollm2",
    seed: Seed = 0,
    force: Force = False,
    jobs: Jobs = 0,
) -> None:
    """Make factors from their recipes.

    Example: factorlm factor build polite my-recipe.toml --data DATA_FOLDER
    """
    from factorlm.factors.recipe import load_recipe

    _build([load_recipe(name) for name in recipes], data, out, model, seed, force, jobs)


def build_all(
    data: Data = None,
    out: Out = None,
    model: Model = "smollm2",
    seed: Seed = 0,
    force: Force = False,
    jobs: Jobs = 0,
) -> None:
    """Make every factor of the shelf anew; those whose recipe has not changed are left, so a broken run goes on."""
    from factorlm.factors.recipe import load_recipe, names

    _build([load_recipe(name) for name in names()], data, out, model, seed, force, jobs)


def _build(
    recipes: list[Recipe], data: Path | None, out: Path | None, model: str, seed: int, force: bool, jobs: int
) -> None:
    from factorlm.cli.terminal import console, progress
    from factorlm.cli.workers import Order, one_by_one, side_by_side, usual_jobs
    from factorlm.errors import UnknownNameError
    from factorlm.evaluation.corpora import DataFolder
    from factorlm.factors.build import check_replaceable, is_made
    from factorlm.factors.rollouts import rollouts
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
    wanted = [recipe for recipe in recipes if force or not is_made(store, recipe, lm)]
    jobs = jobs or usual_jobs(sum(recipe.kind == "head" for recipe in wanted))
    order = Order(model, folder.folder, store.folder, seed, force)
    num_made = len(recipes) - len(wanted)
    with progress() as report:
        report("factors", num_made, len(recipes))
        if lm is not None and jobs > 1:
            for own_texts in {recipe.own_texts for recipe in wanted if recipe.kind == "head"} - {0}:
                rollouts(lm, own_texts, report=report)  # once, by all cores, before the others ask for them
        made = side_by_side(wanted, order, jobs) if jobs > 1 else one_by_one(wanted, order, report)
        for number, (name, built, seconds) in enumerate(made, num_made + 1):
            report("factors", number, len(recipes))
            calibration = built.manifest.calibration
            evidence = f"held-out AUC {calibration.dev_auc:.3f}, " if calibration else ""
            console.print(f"[bold]{name}[/bold] {evidence}{seconds:.0f} s", soft_wrap=True)
    console.print(f"{len(recipes)} factors are in {store.folder}", markup=False, soft_wrap=True)
