"""factorlm factor port: move a head to another model."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from factorlm.cli.options import Json, Name, Replace

if TYPE_CHECKING:
    from factorlm.factors.examples import Example
    from factorlm.factors.manifest import Manifest
    from factorlm.factors.training import Trained

POOR = 0.5  # correlation below which the ported head is another one


def port(
    name: Name,
    to: Annotated[str, typer.Option("--to", help="Name, folder or hub name of the model that it is to steer.")],
    new_name: Annotated[str, typer.Option("--as", help="Name of the ported factor (default: NAME-MODEL).")] = "",
    texts: Annotated[
        Path | None,
        typer.Option("--texts", help="Any texts, one a line, to pair states in; the models write some otherwise."),
    ] = None,
    positive: Annotated[Path | None, typer.Option("--positive", help="To compare: texts that have it.")] = None,
    negative: Annotated[Path | None, typer.Option("--negative", help="To compare: texts that do not.")] = None,
    table: Annotated[Path | None, typer.Option("--table", help="Or a .jsonl or .tsv of text and label.")] = None,
    label: Annotated[str, typer.Option("--label", help="The label in the table that has it.")] = "1",
    retrain: Annotated[bool, typer.Option("--retrain", help="Train it anew from its recipe and data instead.")] = False,
    data: Annotated[
        Path | None, typer.Option("--data", help="To retrain: folder of data sets (default: $FACTORLM_DATA).")
    ] = None,
    encoder: Annotated[
        str, typer.Option("--from", help="Where its own encoder is, if not under the name on its card.")
    ] = "",
    dtype: Annotated[str, typer.Option("--dtype", help="Number format: auto, float32 or bfloat16.")] = "auto",
    seed: Annotated[int, typer.Option("--seed", help="Of what is held out and drawn.")] = 0,
    replace: Replace = False,
    as_json: Json = False,
) -> None:
    """Move a head to another model without labels, and say what was lost; with labelled texts, in AUC and steering.

    Example: factorlm factor port positive --to gemma3-270m --table reviews.jsonl
    """
    from factorlm.cli.terminal import console, print_json
    from factorlm.errors import InputError
    from factorlm.factors.store import default_stores, folder_of, read_manifest, verify
    from factorlm.factors.versions import supersede

    folder = folder_of(name)
    manifest = read_manifest(folder)
    verify(folder, manifest)
    if manifest.encoder is None or manifest.kind != "head":
        said = _needs_no_porting(manifest)
        if as_json:
            print_json({"name": manifest.name, "kind": manifest.kind, "note": said})
        else:
            console.print(said, markup=False)
        return
    if to == manifest.encoder.name:
        raise InputError(f"{manifest.name} is made for {to} already, so there is nothing to port; name another model")
    if retrain and any((texts, positive, negative, table)):
        raise InputError(
            "--retrain takes its texts from the recipe; leave --texts, --table, --positive, --negative out"
        )
    new_name = new_name or _usual_name(manifest.name, to)
    store = default_stores()[0]
    store.check_name(new_name, replace=replace)
    examples = _examples(table, label, positive, negative)
    if retrain:
        trained = _retrained(manifest, to, new_name, data, dtype, seed)
    else:
        trained = _ported(name, manifest, encoder, to, new_name, texts, examples, dtype, seed)
    kept = (
        supersede(store, trained.manifest, trained.tensors)
        if replace
        else store.save(trained.manifest, trained.tensors)
    )
    if as_json:
        found = trained.manifest.model_dump(mode="json", include={"name", "version", "origin", "calibration", "effect"})
        print_json({**found, "model": to, "folder": str(kept), "seconds": trained.seconds})
        return
    _show(trained, kept, to)


def _ported(
    name: str,
    manifest: Manifest,
    encoder: str,
    to: str,
    new_name: str,
    texts: Path | None,
    examples: list[Example],
    dtype: str,
    seed: int,
) -> Trained:
    from factorlm.cli.terminal import progress
    from factorlm.errors import InputError
    from factorlm.factors.examples import read_lines
    from factorlm.factors.head import UnboundHead
    from factorlm.factors.porting import port_head
    from factorlm.factors.store import load
    from factorlm.models.loading import DEFAULT_MODEL, folder_of_model, is_present, load_model, load_present

    assert manifest.encoder is not None
    lines = read_lines(texts) if texts else []
    head = load(name)
    assert isinstance(head, UnboundHead)
    folder_of_model(to)  # complain of it before anything is read
    if not encoder and manifest.encoder.name != DEFAULT_MODEL and not is_present(manifest.encoder.name):
        raise InputError(
            f"{manifest.name} was made for the encoder {manifest.encoder.name}, which is not here; say with --from "
            "where it is"
        )
    old = load_model(encoder, dtype=dtype) if encoder else load_present(manifest.encoder.name, dtype=dtype)
    head.bind(old)  # complains if it is another one
    new = load_model(to, dtype=dtype)
    with progress() as report:
        return port_head(
            old, new, manifest, head.weights, name=new_name, texts=lines, examples=examples, seed=seed, report=report
        )


def _retrained(manifest: Manifest, to: str, new_name: str, data: Path | None, dtype: str, seed: int) -> Trained:
    from factorlm.cli.terminal import progress
    from factorlm.errors import InputError, UnknownNameError
    from factorlm.evaluation.corpora import DataFolder
    from factorlm.factors.porting import retrain
    from factorlm.factors.recipe import load_recipe
    from factorlm.models.loading import load_model

    recipe = load_recipe(manifest.name)
    if manifest.data.recipe_digest != recipe.digest:
        raise InputError(
            f"{manifest.name} {manifest.version} was not made by the recipe of that name as it is now, so this would "
            f"train another factor; port it without --retrain, or first factorlm factor build {recipe.name}"
        )
    folder = DataFolder(data) if data else DataFolder.default()
    for part in sorted(recipe.parts):
        if not folder.has(part):
            raise UnknownNameError.of(f"data set in {folder.folder}", part, folder.parts())
    lm = load_model(to, dtype=dtype)
    with progress() as report:
        return retrain(lm, manifest, recipe, folder.either, name=new_name, seed=seed, report=report)


def _examples(table: Path | None, label: str, positive: Path | None, negative: Path | None) -> list[Example]:
    from factorlm.errors import InputError
    from factorlm.factors.examples import from_files, from_table, split

    if table is None and positive is None and negative is None:
        return []
    if table is not None and positive is None and negative is None:
        examples = from_table(table, positive=label)
    elif table is None and positive is not None and negative is not None:
        examples = from_files(positive, negative)
    else:
        raise InputError(
            "two files (--positive and --negative) or one labelled --table are needed to compare; give one or the other"
        )
    split(examples)  # complain before a model is loaded
    return examples


def _usual_name(name: str, model: str) -> str:
    tail = re.sub(r"[^a-z0-9_-]+", "-", Path(model).name.lower()).strip("-")
    return f"{name}-{tail}"[:64]


def _needs_no_porting(manifest: Manifest) -> str:
    reason = {
        "lexicon": "words, which mean the same to every model",
        "prompt": "an instruction, which every model can read",
        "contrast": "a ratio of two models, which steers any model of their vocabulary",
    }
    what = reason.get(manifest.kind, "not made for one encoder")
    return f"{manifest.name} is {what}: nothing to port; use it as it is, with --model"


def _show(trained: Trained, folder: Path, to: str) -> None:
    from rich.markup import escape

    from factorlm.cli.terminal import console
    from factorlm.factors.porting import AUC_AFTER, AUC_BEFORE, CORRELATION, COVERAGE, EXPLAINED
    from factorlm.factors.training import ERROR, effect_key

    manifest, effect = trained.manifest, trained.manifest.effect
    seconds = sum(trained.seconds.values())
    console.print(f"[bold]{manifest.name}[/bold] is in {escape(str(folder))} after {seconds:.0f} s", soft_wrap=True)
    console.print(manifest.origin, style="dim", markup=False, soft_wrap=True)
    if CORRELATION in effect:
        console.print(
            f"correlation of potentials {effect[CORRELATION]:.3f} on tokens held out; both vocabularies hold "
            f"{effect[COVERAGE]:.1%} of what {to} writes",
            markup=False,
            soft_wrap=True,
        )
    if EXPLAINED in effect:
        console.print(f"its states foretell {effect[EXPLAINED]:.1%} of what the head reads")
    if AUC_BEFORE in effect:
        before, after = (effect_key(what) for what in ("before porting", "ported"))
        console.print(f"AUC on held-out texts {effect[AUC_BEFORE]:.3f} before, {effect[AUC_AFTER]:.3f} after")
        console.print(
            f"{before.split(',')[0]}: {effect[before]:.2f} ± {effect[before + ERROR]:.2f} before, "
            f"{effect[after]:.2f} ± {effect[after + ERROR]:.2f} after"
        )
    elif manifest.calibration is None:
        console.print(
            "not calibrated: give labelled texts (--table) to measure what its evidence is worth", soft_wrap=True
        )
    if effect.get(CORRELATION, 1.0) < POOR:
        console.print("[yellow]little of it arrived: train it for this model instead[/yellow]")
    console.print(
        f'try: factorlm generate "The food was" --model {to} --factor {manifest.name}=0.3', markup=False, soft_wrap=True
    )
