"""factorlm factor: list, show, train, create and verify factors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from factorlm.factors.manifest import Manifest

app = typer.Typer(no_args_is_help=True)
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]
Name = Annotated[str, typer.Argument(help="Name of the factor.")]
Replace = Annotated[bool, typer.Option("--replace", help="Supersede a factor of that name.")]


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


@app.command("train")
def train(
    name: Name,
    positive: Annotated[Path | None, typer.Option("--positive", help="Texts that have it, one a line.")] = None,
    negative: Annotated[Path | None, typer.Option("--negative", help="Texts that do not, one a line.")] = None,
    table: Annotated[Path | None, typer.Option("--table", help="Or a .jsonl or .tsv of text and label.")] = None,
    label: Annotated[str, typer.Option("--label", help="The label in the table that has it.")] = "1",
    description: Annotated[str, typer.Option("--description", help="One line for lists.")] = "",
    licence: Annotated[str, typer.Option("--licence", help="Of the trained factor.")] = "unspecified",
    model: Annotated[str, typer.Option("--model", help="Name, folder or hub name of the encoder.")] = "smollm2",
    rank: Annotated[
        int,
        typer.Option(
            "--rank", min=0, help="Also learn a map of this rank; kept only if it steers better at equal divergence."
        ),
    ] = 0,
    seed: Annotated[int, typer.Option("--seed", help="Of the order of texts.")] = 0,
    replace: Replace = False,
) -> None:
    """Train a head from texts that have an attribute and texts that do not.

    Example: factorlm factor train wry --positive wry.txt --negative plain.txt
    """
    from factorlm.cli.terminal import console, progress
    from factorlm.errors import InputError
    from factorlm.factors.examples import from_files, from_table, split
    from factorlm.factors.store import default_stores
    from factorlm.factors.training import Description, train_head
    from factorlm.models.loading import DEFAULT_MODEL, load_model

    if table is not None and positive is None and negative is None:
        examples, origin = from_table(table, positive=label), f"{table} --label {label}"
    elif table is None and positive is not None and negative is not None:
        examples, origin = from_files(positive, negative), f"{positive} against {negative}"
    else:
        raise InputError(
            "two files (--positive and --negative) or one labelled --table are needed; give one or the other"
        )
    store = default_stores()[0]
    store.check_name(name, replace=replace)
    split(examples)  # complain before the model is loaded
    about = Description(
        name=name, description=description, label=origin, licence=licence, sources=((origin, licence, ""),)
    )
    lm = load_model(model)
    with progress() as report:
        trained = train_head(lm, examples, about, rank=rank, seed=seed, report=report)
    folder = store.save(trained.manifest, trained.tensors, replace=replace)
    calibration = trained.manifest.calibration
    assert calibration is not None
    seconds = sum(trained.seconds.values())
    console.print(
        f"[bold]{name}[/bold] is in {folder} after {seconds:.0f} s; held-out AUC {calibration.dev_auc:.3f}",
        soft_wrap=True,
    )
    if calibration.dev_auc < 0.6:
        console.print("[yellow]it tells the held-out texts apart hardly better than chance: it may not steer[/yellow]")
    other = "" if model == DEFAULT_MODEL else f" --model {model}"
    console.print(f'try: factorlm generate "The food was" --factor {name}=0.3{other} --explain', markup=False)
    if rank:
        console.print(_kept(trained.manifest, rank), soft_wrap=True)


def _kept(manifest: Manifest, rank: int) -> str:
    """Whether training kept the map, and the comparison that decided it."""
    from factorlm.factors.manifest import HeadSettings
    from factorlm.factors.separation import STRENGTH
    from factorlm.factors.training import ERROR, effect_key

    assert isinstance(manifest.settings, HeadSettings)
    by_map, by_bias = (
        f"{manifest.effect[key]:.2f} ± {manifest.effect[key + ERROR]:.2f}"
        for key in (effect_key(f"rank {rank}"), effect_key("bias"))
    )
    verdict = f"the map of rank {rank}" if manifest.settings.rank else "the bias alone"
    return f"kept {verdict}: at strength {STRENGTH} the map separates texts by {by_map}, the bias by {by_bias}"


@app.command("create")
def create(
    name: Name,
    word: Annotated[list[str], typer.Option("--word", help="A word or phrase; may be given several times.")] = [],  # noqa: B006
    words: Annotated[Path | None, typer.Option("--words", help="A file with one word or phrase a line.")] = None,
    boost: Annotated[float, typer.Option("--boost", help="Nats for each word; may be negative.")] = 2.0,
    ban: Annotated[bool, typer.Option("--ban", help="Make the words impossible.")] = False,
    case_sensitive: Annotated[bool, typer.Option("--case-sensitive", help="Match case.")] = False,
    anywhere: Annotated[bool, typer.Option("--anywhere", help="Match inside longer words, too.")] = False,
    instruction: Annotated[str, typer.Option("--prompt", help="Or: an instruction, as a ratio of distributions.")] = "",
    expert: Annotated[str | None, typer.Option("--expert", help="Or: the model to move towards.")] = None,
    anti: Annotated[str | None, typer.Option("--anti", help="And the model to move away from.")] = None,
    description: Annotated[str, typer.Option("--description", help="One line for lists.")] = "",
    replace: Replace = False,
) -> None:
    """Make a factor that needs no training: from words, from an instruction, or from two models.

    Example: factorlm factor create no-swearing --words bad.txt --ban
    """
    import math

    from factorlm.cli.terminal import console
    from factorlm.errors import InputError
    from factorlm.factors.examples import read_lines
    from factorlm.factors.lexicon import Lexicon
    from factorlm.factors.manifest import ContrastSettings, LexiconSettings, Manifest, PromptSettings
    from factorlm.factors.store import default_stores
    from factorlm.models.loading import folder_of_model
    from factorlm.text import letters

    phrases = [*word, *(read_lines(words) if words else [])]
    kinds = [bool(phrases), bool(instruction.strip()), expert is not None or anti is not None]
    if sum(kinds) != 1:
        raise InputError("one of --word/--words, --prompt, or --expert/--anti is needed; give exactly one kind")
    if not math.isfinite(boost):
        raise InputError(f"a boost is a finite number of nats, got {boost}; --ban makes words impossible")
    settings: LexiconSettings | PromptSettings | ContrastSettings
    if phrases:
        settings = LexiconSettings(
            phrases=dict.fromkeys(phrases, None if ban else boost),
            case_sensitive=case_sensitive,
            whole_word=not anywhere,
        )
    elif instruction.strip():
        settings = PromptSettings(instruction=instruction)
    else:
        settings = ContrastSettings(expert=expert, anti_expert=anti)
    store = default_stores()[0]
    store.check_name(name, replace=replace)
    if phrases:
        Lexicon(name, dict.fromkeys(phrases, boost), letters("a"))  # complains of what cannot be a phrase
    for other in (expert, anti):
        if other is not None:
            folder_of_model(other)
    folder = store.save(Manifest(name=name, description=description, settings=settings), replace=replace)
    console.print(f"[bold]{name}[/bold] ({settings.kind}) is in {folder}", soft_wrap=True)
    usage = f"{name}^1" if phrases and ban else f"{name}=0.3"
    console.print(f'try: factorlm generate "The food was" --factor {usage} --explain')


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
