"""factorlm factor: list, show, train, create and verify factors."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from factorlm.cli.create import create
from factorlm.cli.options import Json, Name
from factorlm.cli.train import train

if TYPE_CHECKING:
    from factorlm.factors.manifest import Manifest

app = typer.Typer(no_args_is_help=True)
app.command("create")(create)
app.command("train")(train)


@app.command("list")
def list_factors(as_json: Json = False) -> None:
    """Show the factors that can be named: your own, then those of the package."""
    from rich.markup import escape
    from rich.table import Table

    from factorlm.cli.terminal import console
    from factorlm.factors.store import SHELF, manifests

    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("name", "kind", "version", "AUC", "exponent at 0.2", "licence", "what it is"):
        table.add_column(heading, justify="right" if heading in ("AUC", "exponent at 0.2") else "left")
    for folder, manifest in manifests():
        if as_json:
            found = manifest.model_dump(mode="json", exclude={"files", "data", "settings"})
            print(json.dumps({**found, "kind": manifest.kind, "folder": str(folder)}, ensure_ascii=False))
            continue
        own = "" if folder.parent == SHELF else " [dim](yours)[/dim]"
        auc = f"{manifest.calibration.dev_auc:.2f}" if manifest.calibration else ""
        exponent = f"{manifest.strengths.exponent(0.2):.2f}" if manifest.strengths else ""
        table.add_row(
            f"[bold]{manifest.name}[/bold]{own}",
            manifest.kind,
            manifest.version,
            auc,
            exponent,
            escape(manifest.licence),
            escape(manifest.description),
        )
    if not as_json:
        console.print(table)


@app.command("show")
def show_factor(
    name: Name,
    tokens: Annotated[int, typer.Option("--tokens", min=0, help="Tokens pushed and pulled most.")] = 16,
    as_json: Json = False,
) -> None:
    """Show a factor's card: meaning, evidence, strengths, data, and the tokens it pushes most."""
    from rich.markup import escape

    from factorlm.cli.terminal import console
    from factorlm.factors.store import folder_of, read_manifest, verify

    folder = folder_of(name)
    manifest = read_manifest(folder)
    verify(folder, manifest)
    if as_json:
        print(manifest.model_dump_json())
        return
    console.print(
        f"[bold]{manifest.name}[/bold] {manifest.version}  [dim]{manifest.kind}, {escape(manifest.licence)}[/dim]"
    )
    for line in (manifest.description, manifest.label):
        if line:
            console.print(line, markup=False)
    console.print()
    _show_numbers(manifest)
    if manifest.encoder is not None and manifest.kind == "head" and tokens:
        _show_tokens(name, manifest.encoder.name, tokens)


def _show_numbers(manifest: Manifest) -> None:
    from rich.markup import escape
    from rich.table import Table

    from factorlm.cli.terminal import console

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim")
    table.add_column()
    if manifest.encoder:
        table.add_row("encoder", f"{manifest.encoder.name} ({manifest.encoder.fingerprint})")
    if manifest.calibration:
        calibration = manifest.calibration
        table.add_row("held-out AUC", f"{calibration.dev_auc:.3f}, cross-entropy {calibration.dev_loss:.3f} nats")
        for test, auc in calibration.test_auc.items():
            table.add_row(f"AUC on {test}", f"{auc:.3f}")
    if manifest.strengths:
        strengths = (-0.6, -0.2, 0.2, 0.6)
        pairs = [f"{s:+} is ^{manifest.strengths.exponent(s):.2f}" for s in strengths]
        table.add_row("strength to exponent", ", ".join(pairs))
    for what, value in manifest.effect.items():
        table.add_row(what, f"{value:.2f}")
    for source in manifest.data.train:
        table.add_row("trained on", escape(f"{source.num_texts} texts of {source.name} ({source.licence})"))
        if source.credit:
            table.add_row("", escape(source.credit))
    if manifest.data.recipe:
        table.add_row("recipe", escape(manifest.data.recipe))
    console.print(table)


def _show_tokens(name: str, encoder: str, count: int) -> None:
    from factorlm.cli.terminal import console
    from factorlm.factors import Head, bind, factor
    from factorlm.factors.calibration import neutral_states
    from factorlm.models.loading import load_model

    lm = load_model(encoder)
    head = bind(factor(name), lm)
    assert isinstance(head, Head)
    states = neutral_states(lm)
    usual_V = states.log_prob_NV.exp().mean(0)  # tokens that the model would write somewhere
    push_V = head.potential(states.hidden_ND).mean(0)
    push_V = push_V - (push_V * usual_V).sum()
    seen = (usual_V > 1e-6).nonzero()[:, 0]
    order = seen[push_V[seen].argsort(descending=True)].tolist()
    for title, chosen, colour in (("pushes", order[:count], "green"), ("pulls", order[-count:][::-1], "red")):
        shown = "  ".join(f"{_token(lm.vocabulary.token_bytes[t])} {push_V[t]:+.2f}" for t in chosen)
        console.print(f"\n[{colour}]{title}[/{colour}] [dim](nats at exponent 1)[/dim]")
        console.print(shown, markup=False)


def _token(token_bytes: bytes) -> str:
    return token_bytes.decode("utf-8", "replace").replace(" ", "␣").replace("\n", "↵")


@app.command("verify")
def verify_factors(
    names: Annotated[list[str] | None, typer.Argument(help="Which factors; all of them if none is named.")] = None,
) -> None:
    """Check the files of factors against their manifests."""
    from factorlm.cli.terminal import console
    from factorlm.factors.store import folder_of, manifests, read_manifest, verify

    folders = [folder_of(name) for name in names] if names else [folder for folder, _ in manifests()]
    for folder in folders:
        manifest = read_manifest(folder)
        verify(folder, manifest)
        console.print(f"[green]sound[/green] {manifest.name} {manifest.version}")


@app.command("remove")
def remove(name: Name) -> None:
    """Remove a factor of your own."""
    import shutil

    from factorlm.cli.terminal import console
    from factorlm.errors import UnknownNameError
    from factorlm.factors.store import default_stores

    store = default_stores()[0]
    if name not in store.names():
        raise UnknownNameError.of("factor of your own", name, store.names())
    shutil.rmtree(store.folder / name)
    console.print(f"removed {name}")
