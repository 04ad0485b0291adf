"""factorlm prior show: components, weights, what each assumes, and how far they are from one another."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from factorlm.cli.options import Json

if TYPE_CHECKING:
    from rich.text import Text

    from factorlm.prior.manifest import ComponentCard, Manifest, Update

BAR = 24  # characters of the weight one
EIGHTHS = " ▏▎▍▌▋▊▉█"


def show(
    prior: Annotated[Path, typer.Argument(help="Folder of a prior.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for report.html, report.md and report.json with pictures.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show a prior. Nothing is computed: what is shown was found when it was learned.

    Example: factorlm prior show world.prior --out shown
    """
    from factorlm.cli.terminal import notes
    from factorlm.errors import InputError
    from factorlm.prior.files import read_manifest

    manifest = read_manifest(prior)
    if out is not None and out.exists() and not out.is_dir():
        raise InputError(f"a folder for the report is needed, got the file {out}; choose another name")
    if as_json:
        print(manifest.model_dump_json())
    else:
        draw(manifest)
    if out is not None:
        import shlex
        import sys

        from factorlm.evaluation.priors.card import prior_report
        from factorlm.evaluation.report import write_report

        command = shlex.join(["factorlm", *sys.argv[1:]])
        for path in write_report(prior_report(manifest, str(prior), command), out):
            if path.suffix == ".html" or path.name == "report.json":
                notes.print(f"wrote {path}", markup=False, soft_wrap=True)


def draw(manifest: Manifest) -> None:
    """The whole picture, for a terminal."""
    from rich.table import Table
    from rich.text import Text

    from factorlm.cli.terminal import console

    console.print(_headline(manifest), soft_wrap=True)
    strongest = sorted(range(len(manifest.components)), key=lambda k: -manifest.components[k].weight)
    for k in strongest:
        card = manifest.components[k]
        console.print(_title(card, k))
        for line in _portrait(manifest, card, k):
            console.print(line, soft_wrap=True)
    if manifest.divergence and len(manifest.components) > 1:
        console.print("[dim]divergence of each two, in nats per token[/dim]")
        table = Table(box=None, pad_edge=False, header_style="dim")
        table.add_column("")
        for name in manifest.names:
            table.add_column(Text(name), justify="right")
        for k, name in enumerate(manifest.names):
            cells = ["·" if j == k else f"{value:.3f}" for j, value in enumerate(manifest.divergence[k])]
            table.add_row(Text(name), *cells)
        console.print(table)
    for update in manifest.updates:
        console.print(
            Text(f"{update.what}: {update.why} — {update.divergence:.3g} nats from before", style="dim"), soft_wrap=True
        )


def draw_update(manifest: Manifest, update: Update) -> None:
    """Weights before and after."""
    from rich.table import Table
    from rich.text import Text

    from factorlm.cli.terminal import console

    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("component", "before", "after", ""):
        table.add_column(heading, justify="left" if heading in ("component", "") else "right")
    rows = zip(manifest.components, update.before, update.after, strict=True)
    for k, (card, before, after) in enumerate(rows):
        dropped = before > 0 and after == 0
        table.add_row(
            Text(card.name, style="strike dim" if dropped else "bold"), _share(before), _share(after),
            Text("dropped", style="dim") if dropped else _bar(after, k),
        )  # fmt: skip
    console.print(table)
    alive = sum(1 for weight in update.after if weight > 0)
    console.print(
        f"[dim]{update.what}: KL from before {update.divergence:.3g} nats; {alive} of {len(update.after)} components "
        "have weight[/dim]",
        soft_wrap=True,
    )


def _headline(manifest: Manifest) -> str:
    import math

    from rich.markup import escape

    entropy = -sum(w * math.log(w) for w in manifest.weights if w > 0)
    about = f"[bold]{len(manifest.components)} components[/bold] ({manifest.kind.kind}) on {escape(manifest.base.name)}"
    about += f"; entropy {entropy:.2f} nats, as many as {math.exp(entropy):.1f} equal ones"
    if manifest.fitted is not None:
        fitted = manifest.fitted
        about += (
            f"\n[dim]learned from {fitted.num_texts} texts of {escape(fitted.corpus or 'a corpus')} in "
            f"{fitted.seconds:.0f} s; held-out {fitted.dev_nats:.3f} nats per token (bare model "
            f"{fitted.base_nats:.3f}); {fitted.num_parameters:,} numbers trained[/dim]"
        )
    return about


def _title(card: ComponentCard, k: int) -> Text:
    from rich.text import Text

    style = "bold" if card.weight > 0 else "dim strike"
    title = Text.assemble((f"{card.name:<8} ", style), (f"{_share(card.weight):>7} ", style))
    title.append_text(_bar(card.weight, k))
    if abs(card.weight - card.learned_weight) > 5e-4:
        title.append(f"  learned {_share(card.learned_weight)}", style="dim")
    return title


def _portrait(manifest: Manifest, card: ComponentCard, k: int) -> list[Text]:
    from rich.text import Text

    portrait = card.portrait
    lines = []

    def line(what: str, content: str) -> None:
        lines.append(Text.assemble((f"  {what:<8} ", "dim"), " ".join(content.split())))

    assumptions = getattr(manifest.kind, "assumptions", None) or getattr(manifest.kind, "models", None)
    if assumptions:
        line("assumes", assumptions[k])
    for text in portrait.typical:
        line("explains", text)
    for text in portrait.own_words:
        line("writes", text)
    if portrait.tokens:
        line("likes", "  ".join(token.strip() or repr(token) for token in portrait.tokens))
    if portrait.nearest:
        line("near", "  ".join(word.strip() or repr(word) for word in portrait.nearest))
    return lines


def _bar(weight: float, k: int) -> Text:
    from rich.text import Text

    from factorlm.inference.explanation import COLOURS

    whole, rest = divmod(round(weight * BAR * 8), 8)
    return Text("█" * whole + (EIGHTHS[rest] if rest else ""), style=COLOURS[k % len(COLOURS)])


def _share(weight: float) -> str:
    return "0" if weight == 0 else f"{weight:.1%}" if weight >= 5e-4 else f"{weight:.0e}"
