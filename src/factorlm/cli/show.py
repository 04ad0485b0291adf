"""factorlm factor show: a factor's card, in the terminal or as a page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from factorlm.cli.options import Json, Name

if TYPE_CHECKING:
    from factorlm.factors.manifest import LexiconSettings, Manifest, Response

BAR = 24  # characters of a bar for a rate of one
PARTS = " ▏▎▍▌▋▊▉█"

SHOWN_PHRASES = 12  # of a lexicon, for each boost

Pushes = list[tuple[str, float]]


def show(
    name: Name,
    tokens: Annotated[int, typer.Option("--tokens", min=0, help="Tokens pushed and pulled most.")] = 16,
    html: Annotated[Path | None, typer.Option("--html", help="Write the card as a page with pictures.")] = None,
    as_json: Json = False,
) -> None:
    """Show a factor's card: meaning, dose and response, evidence, data, and the tokens it pushes most.

    Nothing is fetched for that: tokens and costs are left out where the factor's encoder is not here.
    """
    from factorlm.cli.terminal import console, write_file
    from factorlm.evaluation.cards import card
    from factorlm.evaluation.report.page import page
    from factorlm.factors.store import folder_of, read_manifest, verify

    folder = folder_of(name)
    manifest = read_manifest(folder)
    verify(folder, manifest)
    if as_json:
        print(manifest.model_dump_json())
        return
    if html is None:
        _print(manifest)  # at once; a model takes its time
    pushed, pulled, cost = _read(name, manifest, tokens) if tokens else ([], [], "")
    if html is not None:
        write_file(html, page(card(manifest, pushed, pulled)))
    for title, chosen, colour in (("pushes", pushed, "green"), ("pulls", pulled, "red")):
        if chosen and html is None:
            _print_tokens(title, chosen, colour)
    if cost and html is None:
        console.print(f"\n{cost}", style="dim", markup=False, soft_wrap=True)


def _print(manifest: Manifest) -> None:
    from rich.markup import escape

    from factorlm.cli.terminal import console
    from factorlm.evaluation.cards import cautions

    console.print(
        f"[bold]{manifest.name}[/bold] {manifest.version}  [dim]{manifest.kind}, {escape(manifest.licence)}[/dim]"
    )
    for line in (manifest.description, manifest.label):
        if line:
            console.print(line, markup=False)
    if manifest.response:
        console.print()
        _print_doses(manifest.name, manifest.response)
    console.print()
    _print_numbers(manifest)
    if manifest.settings.kind == "lexicon":
        _print_phrases(manifest.settings)
    for line in cautions(manifest):
        console.print(f"[yellow]{escape(line)}[/yellow]")


def _print_doses(name: str, response: Response) -> None:
    from rich.table import Table

    from factorlm.cli.terminal import console

    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("strength", justify="right")
    table.add_column(f"texts judged {name}", min_width=BAR + 6)
    table.add_column("perplexity", justify="right")
    table.add_column("different trigrams", justify="right")
    for dose in response.doses:
        style = "dim" if dose.strength == 0 else ""
        table.add_row(
            f"{dose.strength:+.1f}" if dose.strength else "base",
            f"[cyan]{_bar(dose.rate):<{BAR}}[/cyan] {dose.rate:4.0%}",
            f"×{dose.perplexity_ratio:.2f}",
            f"{dose.distinct:.2f}",
            style=style,
        )
    console.print(table)
    accuracy = f"judge: {response.judge}; right on {response.accuracy:.0%} of texts held out from it"
    console.print(f"{accuracy}; {response.num_texts} texts a row", style="dim", markup=False, soft_wrap=True)


def _bar(share: float) -> str:
    eighths = round(share * BAR * 8)
    return PARTS[8] * (eighths // 8) + (PARTS[eighths % 8] if eighths % 8 else "")


def _print_numbers(manifest: Manifest) -> None:
    from rich.markup import escape
    from rich.table import Table

    from factorlm.cli.terminal import console

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim")
    table.add_column()
    if manifest.encoder:
        table.add_row("encoder", escape(f"{manifest.encoder.name} ({manifest.encoder.fingerprint})"))
    if calibration := manifest.calibration:
        table.add_row("held-out AUC", f"{calibration.dev_auc:.3f}, cross-entropy {calibration.dev_loss:.3f} nats")
        if calibration.pair_accuracy is not None:
            table.add_row("held-out pairs", f"{calibration.pair_accuracy:.0%} ordered rightly")
        for test, auc in calibration.test_auc.items():
            table.add_row(escape(f"AUC on {test}"), f"{auc:.3f}")
    if strengths := manifest.strengths:
        reach = [s for s in (-0.6, -0.2, 0.2, 0.6) if strengths.points[0][0] <= s <= strengths.points[-1][0]]
        table.add_row("strength to exponent", ", ".join(f"{s:+} is ^{strengths.exponent(s):.2f}" for s in reach))
    for what, value in manifest.effect.items():
        table.add_row(escape(what), f"{value:.2f}")
    for source in manifest.data.train:
        table.add_row("trained on", escape(f"{source.name} ({source.licence})"))
        if source.credit:
            table.add_row("", escape(source.credit))
    if manifest.data.own_texts:
        table.add_row("", f"and {manifest.data.own_texts} texts of the encoder itself")
    for change in manifest.changes:
        table.add_row(escape(f"after {change.version}"), escape(change.what))
    if manifest.origin:
        table.add_row("origin", escape(manifest.origin))
    if manifest.data.recipe:
        table.add_row("recipe", escape(manifest.data.recipe))
    console.print(table)


def _print_phrases(settings: LexiconSettings) -> None:
    """The phrases of each boost in a line, the strongest boosts first, then bans; long lines are cut with a count."""
    from factorlm.cli.terminal import console

    boosts = sorted({boost for boost in settings.phrases.values() if boost is not None}, reverse=True)
    for boost in (*boosts, None):
        phrases = [phrase for phrase, value in settings.phrases.items() if value == boost]
        if not phrases:
            continue
        more = f", and {len(phrases) - SHOWN_PHRASES} more" if len(phrases) > SHOWN_PHRASES else ""
        what = "bans" if boost is None else f"{boost:+g} nats"
        shown = ", ".join(phrases[:SHOWN_PHRASES])
        console.print(f"{what} ({len(phrases)}): {shown}{more}", markup=False, soft_wrap=True)


def _read(name: str, manifest: Manifest, count: int) -> tuple[Pushes, Pushes, str]:
    """Tokens pushed and pulled most, and a line on what the head costs; no model is fetched for that."""
    if manifest.encoder is None or manifest.kind != "head":
        return [], [], ""
    from factorlm.cli.terminal import notes
    from factorlm.factors import Head, bind, factor
    from factorlm.factors.cost import cost_of
    from factorlm.factors.tokens import usual_pushes, written
    from factorlm.models.loading import is_present, load_present

    if not is_present(manifest.encoder.name):
        said = f"the tokens that it pushes are left out: its encoder {manifest.encoder.name} is not here"
        notes.print(said, style="dim", markup=False, soft_wrap=True)
        return [], [], ""
    lm = load_present(manifest.encoder.name)
    head = bind(factor(name), lm)
    assert isinstance(head, Head)
    order, push = usual_pushes(head)
    token_bytes = lm.vocabulary.token_bytes
    found = [(written(token_bytes[t]), value) for t, value in zip(order.tolist(), push.tolist(), strict=True)]
    cost = cost_of(lm, [head.weights])
    line = (
        f"costs: {100 * cost.macs_share:.2g} % of the encoder's multiply-adds for each token ({cost.macs:,}), and "
        f"{100 * cost.memory_share:.2g} % of its memory ({cost.num_bytes:,} bytes)"
    )
    return found[:count], found[-count:][::-1], line


def _print_tokens(title: str, chosen: Pushes, colour: str) -> None:
    from factorlm.cli.terminal import console

    console.print(f"\n[{colour}]{title}[/{colour}] [dim](nats at exponent 1)[/dim]")
    console.print("  ".join(f"{token} {nats:+.2f}" for token, nats in chosen), markup=False)
