"""factorlm guide fit-model: learn to propose meanings and to say them, from texts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from factorlm.diffusion.files import Origin
    from factorlm.diffusion.fitting import MeaningsFitting


def fit_model(
    corpus: Annotated[
        list[Path], typer.Argument(help="Texts to learn from: .txt with one a line, .jsonl with `text`, maybe gzipped.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder to write to.")],
    encoder: Annotated[str, typer.Option("--encoder", help="minilm, or a folder in the transformers format.")] = (
        "minilm"
    ),
    model: Annotated[str, typer.Option("--model", help="Name, folder or hub name of the base.")] = "smollm2",
    dtype: Annotated[str, typer.Option("--dtype", help="Number format: auto, float32 or bfloat16.")] = "auto",
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Of the denoiser; 8000 by default.")] = None,
    most: Annotated[
        int | None, typer.Option("--most", min=1, help="Windows to learn from, at most; 40000 by default.")
    ] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Take texts as they are, and do not set spaces alike.")] = False,
    licence: Annotated[str, typer.Option("--licence", help="Of the texts, for the card.")] = "unspecified",
    credit: Annotated[str, typer.Option("--credit", help="To whom texts are owed, for the card.")] = "",
    seed: Annotated[int | None, typer.Option("--seed", help="Of everything random.")] = None,
    recipe: Annotated[Path | None, typer.Option("--recipe", help="A TOML file with settings.")] = None,
    assignments: Annotated[
        list[str], typer.Option("--set", help="One setting: path.to.key=value, such as soft.steps=800.")
    ] = [],  # noqa: B006
    print_settings: Annotated[bool, typer.Option("--print-settings", help="Show all settings and stop.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Supersede what is there.")] = False,
) -> None:
    """Learn a diffusion over meanings and decoders of them. A run that was stopped goes on, if asked the same again.

    Example: factorlm guide fit-model reviews.txt --out reviews.meanings
    """
    import shutil

    from factorlm.cli.terminal import console, notes, progress
    from factorlm.diffusion.files import FOLDER, save
    from factorlm.diffusion.fitting import fit_meanings
    from factorlm.models.loading import load_model
    from factorlm.models.vectors import load_encoder

    settings = _settings(recipe, assignments, {"denoiser.steps": steps, "most": most}, seed)
    if print_settings:
        console.print_json(settings.model_dump_json())
        return
    FOLDER.check_place(out, replace=replace)
    texts = _texts(corpus, raw)
    lm, vectors = load_model(model, dtype=dtype), load_encoder(encoder)
    kept = out.with_name(f"{out.name}.checkpoint")
    if kept.is_dir():
        notes.print(f"[dim]{kept} keeps a run that was stopped; it goes on if its settings are the same[/dim]")
    about = ", ".join(path.name for path in corpus)
    with progress() as report:
        meanings, origin = fit_meanings(
            lm, lambda some: vectors.encode(some, lambda done, total: report("reading texts", done, total)), texts,
            settings, origin=_origin(about, licence, credit), folder=kept, report=report,
        )  # fmt: skip
    save(meanings, out, encoder=encoder, origin=origin, replace=replace)
    shutil.rmtree(kept, ignore_errors=True)
    show_worth(origin)
    console.print(
        f'try: factorlm generate "The food was" --guide NAME=10 --meanings {out}', markup=False, soft_wrap=True
    )


def show_worth(origin: Origin) -> None:
    """What was measured on texts that were held out."""
    from rich.table import Table

    from factorlm.cli.terminal import console

    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("on texts held out")
    table.add_column("", justify="right")
    for name, value in origin.measured.items():
        table.add_row(name, f"{value:,.0f}" if value == int(value) and value > 1 else f"{value:.3f}")
    console.print(table)


def _origin(corpus: str, licence: str, credit: str) -> Origin:
    from factorlm.diffusion.files import Origin

    return Origin(corpus=corpus, licence=licence, credit=credit)


def _settings(
    recipe: Path | None, assignments: list[str], options: dict[str, int | None], seed: int | None
) -> MeaningsFitting:
    """What holds after the recipe, then --set, then the options that have a name of their own."""
    from factorlm.diffusion.fitting import MeaningsFitting
    from factorlm.settings import changed

    if seed is not None:
        options |= dict.fromkeys(("seed", "windows.seed", "denoiser.seed", "bias.seed", "soft.seed"), seed)
    named = [f"{path}={value}" for path, value in options.items() if value is not None]
    return changed(MeaningsFitting(), recipe, [*assignments, *named])


def _texts(corpus: list[Path], raw: bool) -> list[str]:
    from factorlm.errors import InputError
    from factorlm.prior.corpus import read_texts
    from factorlm.text.cleaning import cleaned

    texts = [text for path in corpus for text in read_texts(path)]
    texts = texts if raw else [clean for text in texts if (clean := cleaned(text))]
    if not texts:
        raise InputError(f"at least one text is needed, got none in {', '.join(map(str, corpus))}")
    return texts


def build(
    names: Annotated[list[str] | None, typer.Argument(help="Guides with a recipe; all of them by default.")] = None,
    data: Annotated[Path | None, typer.Option("--data", help="Folder of data sets (default: $FACTORLM_DATA).")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder of guides (default: your store's).")] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Supersede guides that are there.")] = False,
) -> None:
    """Make the guides of the package anew from their data sets.

    Example: factorlm guide build positive --data DATA_FOLDER --out guides
    """
    from factorlm.cli.terminal import console, progress
    from factorlm.diffusion.guide_files import Guides
    from factorlm.evaluation.corpora import DataFolder
    from factorlm.evaluation.guided.recipes import RECIPES, make_guide, recipe_named
    from factorlm.inference.guide_names import all_guides
    from factorlm.models.vectors import load_encoder

    guides = Guides(out) if out else all_guides()
    recipes = [recipe_named(name) for name in names] if names else list(RECIPES)
    for recipe in recipes:
        guides.check_name(recipe.name, replace=replace)
    encoder, folder = load_encoder(), DataFolder(data) if data else DataFolder.default()
    for recipe in recipes:
        with progress() as report:
            guide = make_guide(
                recipe, folder, lambda some: encoder.encode(some, lambda n, total: report("reading texts", n, total))
            )
        guides.save(guide, replace=replace)
        quality = guide.card.quality
        console.print(f"[bold]{recipe.name}[/bold]: accuracy {quality.accuracy:.3f}, AUC {quality.auc:.3f}")
