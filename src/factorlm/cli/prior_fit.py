"""factorlm prior fit: learn a distribution over models from texts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from factorlm.prior import Fitting

Out = Annotated[Path, typer.Option("--out", help="Folder to write the prior to.")]
ReplacePrior = Annotated[bool, typer.Option("--replace", help="Supersede a prior that is there.")]


def fit(
    corpus: Annotated[
        list[Path], typer.Argument(help="Texts to learn from: .txt with one a line, .jsonl with `text`, maybe gzipped.")
    ],
    out: Out,
    components: Annotated[
        int | None, typer.Option("--components", min=1, max=64, help="How many; 4 by default.")
    ] = None,
    kind: Annotated[
        str | None, typer.Option("--kind", help="soft-prompt (default), prompt, layers, lora or model.")
    ] = None,
    method: Annotated[
        str | None, typer.Option("--method", help="em (default), hard (online hard EM) or variational.")
    ] = None,
    rounds: Annotated[int | None, typer.Option("--rounds", min=1, help="At most; 6 by default.")] = None,
    names: Annotated[str, typer.Option("--names", help="Of the components, with commas; A, B, ... by default.")] = "",
    pool: Annotated[
        Path | None, typer.Option("--pool", help="For --kind prompt: sentences to choose from, one a line.")
    ] = None,
    member: Annotated[
        list[str], typer.Option("--member", help="For --kind model: a component, by name, folder or hub name.")
    ] = [],  # noqa: B006
    most_texts: Annotated[int, typer.Option("--most-texts", min=1, help="Read so many texts, drawn at random.")] = 2000,
    licence: Annotated[str, typer.Option("--licence", help="Of the texts, for the card.")] = "unspecified",
    model: Annotated[str, typer.Option("--model", help="Name, folder or hub name of the base.")] = "smollm2",
    dtype: Annotated[str, typer.Option("--dtype", help="Number format: auto, float32 or bfloat16.")] = "auto",
    seed: Annotated[int | None, typer.Option("--seed", help="Of everything random.")] = None,
    recipe: Annotated[Path | None, typer.Option("--recipe", help="A TOML file with settings.")] = None,
    assignments: Annotated[
        list[str], typer.Option("--set", help="One setting: path.to.key=value, such as soft.places=16.")
    ] = [],  # noqa: B006
    print_settings: Annotated[bool, typer.Option("--print-settings", help="Show all settings and stop.")] = False,
    replace: ReplacePrior = False,
) -> None:
    """Learn weights and components from texts. A run that was stopped goes on where it was, if asked the same again.

    Example: factorlm prior fit stories.txt --components 4 --out world.prior
    """
    from factorlm.cli.prior_show import draw
    from factorlm.cli.terminal import console, notes, progress
    from factorlm.errors import InputError
    from factorlm.models.loading import load_model
    from factorlm.prior import fit as fit_prior
    from factorlm.prior.files import check_place

    settings = _settings(
        recipe,
        assignments,
        {"kind": kind, "components": components, "learning.method": method, "learning.rounds": rounds,
         "learning.seed": seed},
    )  # fmt: skip
    if print_settings:
        console.print_json(settings.model_dump_json())
        return
    check_place(out, replace=replace)
    texts = _texts(corpus, most_texts, settings.learning.seed)
    sentences = _sentences(pool)
    if member and components is not None and components != len(member):
        raise InputError(f"as many --member as --components are needed, got {len(member)} and {components}")
    lm = load_model(model, dtype=dtype)
    members = [load_model(name, dtype=dtype) for name in member]
    about = ", ".join(path.name for path in corpus)
    checkpoint = out.with_name(f"{out.name}.checkpoint")
    if checkpoint.is_file():
        notes.print(f"[dim]{checkpoint} keeps a run that was stopped; it goes on if its settings are the same[/dim]")
    with progress() as report:
        prior = fit_prior(
            lm, texts, settings, corpus=about, licence=licence, pool=sentences, models=members,
            names=[name.strip() for name in names.split(",") if name.strip()], checkpoint=checkpoint, report=report,
        )  # fmt: skip
    prior.save(out, replace=replace)
    draw(prior.manifest)
    console.print(f'try: factorlm prior sample {out} "The" --n {prior.num_components}', markup=False, soft_wrap=True)


def _settings(recipe: Path | None, assignments: list[str], options: dict[str, object]) -> Fitting:
    """What holds after the recipe, then --set, then the options that have a name of their own."""
    from factorlm.prior import Fitting
    from factorlm.settings import changed

    named = [f"{path}={value!r}" if isinstance(value, str) else f"{path}={value}" for path, value in options.items()
             if value is not None]  # fmt: skip
    return changed(Fitting(), recipe, [*assignments, *named])


def _texts(corpus: list[Path], most: int, seed: int) -> list[str]:
    """The texts of all files, at most so many of them, in a random order that the seed fixes."""
    import random

    from factorlm.errors import InputError
    from factorlm.prior.corpus import read_texts

    texts = [text for path in corpus for text in read_texts(path)]
    if not texts:
        raise InputError(f"at least one text is needed, got none in {', '.join(map(str, corpus))}")
    order = random.Random(seed).sample(range(len(texts)), min(most, len(texts)))
    return [texts[i] for i in sorted(order)]


def _sentences(pool: Path | None) -> list[str]:
    from factorlm.prior.corpus import read_texts

    return [] if pool is None else read_texts(pool)
