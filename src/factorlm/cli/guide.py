"""factorlm guide: classifiers of meanings, learned in seconds, that lean on what is said next."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from factorlm.cli.guide_fit import build, fit_model
from factorlm.cli.options import Json

if TYPE_CHECKING:
    from torch import Tensor

    from factorlm.diffusion.guide_files import Guides

app = typer.Typer(no_args_is_help=True)
app.command("fit-model")(fit_model)
app.command("build")(build)
Name = Annotated[str, typer.Argument(help="Name of the guide.")]
ENCODER = "minilm"


@app.command("train")
def train(
    name: Name,
    positive: Annotated[Path, typer.Option("--positive", help="Texts that have it, one a line.")],
    negative: Annotated[Path, typer.Option("--negative", help="Texts that do not, one a line.")],
    description: Annotated[str, typer.Option("--description", help="One line for lists.")] = "",
    licence: Annotated[str, typer.Option("--licence", help="Of the texts.")] = "unspecified",
    encoder: Annotated[
        str, typer.Option("--encoder", help="minilm, or a folder; that of the meanings to be guided.")
    ] = ENCODER,
    kind: Annotated[
        str, typer.Option("--kind", help="linear (logistic regression) or mlp (with a small hidden layer).")
    ] = "linear",
    seed: Annotated[int, typer.Option("--seed", help="Of what is left out to measure on.")] = 0,
    replace: Annotated[bool, typer.Option("--replace", help="Supersede a guide of that name.")] = False,
) -> None:
    """Learn a guide from texts with and without an attribute: calibrated logistic regression of sentence vectors.

    Example: factorlm guide train wry --positive wry.txt --negative plain.txt
    """
    from rich.markup import escape

    from factorlm.cli.terminal import console
    from factorlm.diffusion.guide_files import GuideCard, KeptGuide
    from factorlm.diffusion.guides import GuideLearning, check_enough, learn_guide
    from factorlm.errors import InputError, UnknownNameError
    from factorlm.factors.examples import read_lines

    guides = _guides()
    guides.check_name(name, replace=replace)
    texts = [list(dict.fromkeys(read_lines(path))) for path in (positive, negative)]
    if both := set(texts[0]) & set(texts[1]):
        raise InputError(f"{len(both)} texts stand in both files, such as {min(both)[:60]!r}; take them out of one")
    if kind not in ("linear", "mlp"):
        raise UnknownNameError.of("kind of guide", kind, ("linear", "mlp"))
    settings = GuideLearning(seed=seed, kind=kind)  # type: ignore[arg-type]
    check_enough(len(texts[0]), len(texts[1]), settings)
    vectors = _encoded([*texts[0], *texts[1]], encoder)
    found = learn_guide(vectors[: len(texts[0])], vectors[len(texts[0]) :], settings)
    quality = found.quality
    card = GuideCard(
        name=name, description=description, label=f"{positive} against {negative}", encoder=encoder,
        width=vectors.shape[1], units=0 if found.hidden is None else len(found.weight_D), num_positive=len(texts[0]),
        num_negative=len(texts[1]), quality=quality, sources=(str(positive), str(negative)), licence=licence,
    )  # fmt: skip
    folder = guides.save(KeptGuide(card, found.weight_D, found.bias, found.hidden), replace=replace)
    console.print(
        f"[bold]{name}[/bold]: held-out accuracy {quality.accuracy:.3f}, AUC {quality.auc:.3f}, {quality.log_loss:.3f} "
        f"nats a label ({quality.num_texts} texts); in {escape(str(folder))}",
        soft_wrap=True,
    )


@app.command("list")
def list_(as_json: Json = False) -> None:
    """All guides of the store, with what each is worth on texts left out."""
    from rich.table import Table

    from factorlm.cli.terminal import console, notes, print_json

    guides = _guides()
    cards = [guides.load(name).card for name in guides.names()]
    if as_json:
        for card in cards:
            print_json(card.model_dump(mode="json", exclude={"files"}))
        return
    if not cards:
        notes.print("there are no guides yet; factorlm guide train makes one")
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("guide")
    for heading in ("texts", "accuracy", "AUC"):
        table.add_column(heading, justify="right")
    table.add_column("description")
    for card in cards:
        count = f"{card.num_positive + card.num_negative:,}"
        table.add_row(card.name, count, f"{card.quality.accuracy:.2f}", f"{card.quality.auc:.2f}", card.description)
    console.print(table)


@app.command("score")
def score(
    name: Name,
    file: Annotated[str, typer.Argument(help="Texts, one a line; - reads standard input.")],
    as_json: Json = False,
) -> None:
    """Probability that each line of a file has what the guide is for."""
    from rich.markup import escape
    from rich.table import Table

    from factorlm.cli.terminal import console, print_json
    from factorlm.errors import InputError
    from factorlm.factors.examples import decode_lines, read_lines

    guide = _guides().load(name)
    lines = decode_lines(sys.stdin.buffer.read(), "standard input") if file == "-" else read_lines(file)
    if not lines:
        raise InputError(f"at least one text is needed, got none in {file}; write one text a line")
    prob_B = guide.prob(_encoded(lines, guide.card.encoder)).tolist()
    if as_json:
        for text, prob in zip(lines, prob_B, strict=True):
            print_json({"text": text, "guide": name, "prob": prob})
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column(name, justify="right")
    table.add_column("text", overflow="ellipsis", no_wrap=True)
    for text, prob in zip(lines, prob_B, strict=True):
        table.add_row(f"{prob:.2f}", escape(text))
    console.print(table)


def _guides() -> Guides:
    from factorlm.inference.guide_names import all_guides

    return all_guides()


def _encoded(texts: list[str], name: str) -> Tensor:
    from factorlm.cli.terminal import progress
    from factorlm.models.vectors import load_encoder

    encoder = load_encoder(name)
    with progress() as report:
        return encoder.encode(texts, lambda done, total: report("reading texts", done, total))
