"""factorlm eval judge: list, show and train judges."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from factorlm.evaluation.judges import JudgeCard, Quality

app = typer.Typer(no_args_is_help=True)
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]


@app.command("list")
def list_judges(as_json: Json = False) -> None:
    """Show the judges that are here, your own and those of the package, and those that can be trained."""
    from rich.table import Table

    from factorlm.cli.terminal import console
    from factorlm.evaluation.judges import JUDGES, SHELF
    from factorlm.evaluation.judges.store import judge_folders, read_card

    folders = judge_folders()
    cards = {name: read_card(folder) for name, folder in sorted(folders.items())}
    if as_json:
        for name, card in cards.items():
            found = card.model_dump(mode="json", exclude={"files"})
            print(json.dumps({**found, "folder": str(folders[name])}, ensure_ascii=False))
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("name", "labels", "sees", "accuracy", "AUC"):
        table.add_column(heading, justify="right" if heading in ("accuracy", "AUC") else "left")
    for name, card in cards.items():
        own = "" if folders[name].parent == SHELF else " [dim](yours)[/dim]"
        quality = card.quality[card.reference]
        table.add_row(
            f"[bold]{name}[/bold]{own}",
            ", ".join(card.labels),
            card.features.kind,
            f"{quality.accuracy:.1%}",
            f"{quality.auc:.2f}",
        )
    console.print(table)
    missing = [name for name in JUDGES if name not in cards]
    if missing:
        console.print(f"[dim]can be trained: {', '.join(missing)} (factorlm eval judge train NAME)[/dim]")


@app.command("show")
def show_judge(
    name: Annotated[str, typer.Argument(help="Name or folder of the judge.")],
    as_json: Json = False,
) -> None:
    """Show a judge's card: what it learned from, how often it is right, and what it takes for what."""
    from rich.markup import escape

    from factorlm.cli.terminal import console
    from factorlm.evaluation.judges import load_judge

    judge = load_judge(name)
    card = judge.card
    if as_json:
        print(json.dumps({**card.model_dump(mode="json"), "fingerprint": judge.fingerprint}, ensure_ascii=False))
        return
    console.print(
        f"[bold]{card.name}[/bold] {card.version}  [dim]{card.features.kind}, {escape(card.licence)}, "
        f"{judge.fingerprint}[/dim]"
    )
    console.print(card.description, markup=False)
    console.print()
    console.print(_quality_table(card))
    console.print()
    console.print(f"on {card.reference}:", style="dim", markup=False)
    console.print(_confusion_table(card, card.quality[card.reference]))
    console.print()
    console.print(_origin_table(card))


def _quality_table(card: JudgeCard) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("test texts", "origin", "texts", "accuracy", "macro F1", "AUC", "calibration error"):
        table.add_column(heading, justify="left" if heading in ("test texts", "origin") else "right")
    for test, quality in card.quality.items():
        numbers = (f"{quality.accuracy:.1%}", f"{quality.macro_f1:.3f}", f"{quality.auc:.3f}", f"{quality.ece:.3f}")
        table.add_row(escape(test), quality.origin, str(quality.n), *numbers)
    return table


def _confusion_table(card: JudgeCard, quality: Quality) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("truth and verdict")
    for label in card.labels:
        table.add_column(label, justify="right")
    for label, row in zip(card.labels, quality.confusion, strict=True):
        table.add_row(label, *(f"{count} ({count / max(1, sum(row)):.0%})" for count in row))
    return table


def _origin_table(card: JudgeCard) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim")
    table.add_column()
    for agreement in card.agreement:
        table.add_row("rank correlation", escape(f"{agreement.spearman} with {agreement.scores} on {agreement.texts}"))
    for source in card.train:
        table.add_row("trained on", escape(f"{source.num_texts} texts of {source.name} ({source.licence})"))
        table.add_row("", escape(source.credit))
    table.add_row("refused", f"under {card.floor:.0%} accuracy on {escape(card.reference)}")
    table.add_row("recipe", escape(card.recipe))
    return table


@app.command("train")
def train(
    name: Annotated[str, typer.Argument(help="Which judge, or all.")],
    data: Annotated[Path | None, typer.Option("--data", help="Folder of data sets (default: $FACTORLM_DATA).")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Store to write to (default: your own).")] = None,
) -> None:
    """Train a judge from its recipe; one of the same name in the store is superseded.

    Example: factorlm eval judge train topic
    """
    from factorlm.cli.terminal import console, progress
    from factorlm.evaluation.corpora import DataFolder
    from factorlm.evaluation.judges import JUDGES, JudgeStore, judge_stores, train_judge

    store = JudgeStore(out) if out else judge_stores()[0]
    folder = DataFolder(data) if data else DataFolder.default()
    for chosen in JUDGES if name == "all" else (name,):
        if chosen in JUDGES:
            store.check(chosen, {part.name: part.licence for part in JUDGES[chosen].sets})
        with progress() as report:
            card, tensors = train_judge(chosen, folder, report)
        place = store.save(card, tensors)
        console.print(
            f"[bold]{chosen}[/bold] is in {place}; right on {card.accuracy:.1%} of {card.reference}", soft_wrap=True
        )
