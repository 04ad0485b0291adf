"""factorlm factor correlate: how factors depend on each other, and exponents that count nothing twice."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from factorlm.cli import faders
from factorlm.cli.options import Json

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from factorlm.algebra import Factor
    from factorlm.factors.decorrelation import Refit
    from factorlm.factors.dependence import Dependence
    from factorlm.models import CausalLM

SHOWN_WORDS = 8
DEAR = 1.5  # times what the factors cost before, or one by one


def correlate(
    names: Annotated[list[str], typer.Argument(help="Two factors or more.")],
    corpus: Annotated[
        str | None, typer.Option("--corpus", help="Texts, one a line; - for standard input; default: the model's own.")
    ] = None,
    target: Annotated[
        list[str], typer.Option("--target", help="NAME=STRENGTH or NAME^EXPONENT; default: all at 0.2.")
    ] = [],  # noqa: B006
    decorrelate: Annotated[bool, typer.Option("--decorrelate", help="Refit the exponents.")] = False,
    method: Annotated[
        str,
        typer.Option(
            "--method", help="How: matched, faders (to first order), residual (in the order named), pool (to --corpus)."
        ),
    ] = "matched",
    residual: Annotated[
        str | None, typer.Option("--residual", help="Save what the last factor adds to the others under this name.")
    ] = None,
    threshold: Annotated[float, typer.Option("--threshold", help="Correlation that is worth a warning.")] = 0.5,
    model: Annotated[str, typer.Option("--model", help="Name, folder or hub name of the base.")] = "smollm2",
    dtype: Annotated[str, typer.Option("--dtype", help="Number format: auto, float32 or bfloat16.")] = "auto",
    seed: Annotated[int, typer.Option("--seed", help="Of the texts and of resampling.")] = 0,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for report.html, report.md and report.json.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show how factors depend on each other: at the next token, over texts, and in the words they push.

    Example: factorlm factor correlate positive toxic --target positive=0.4 --target toxic=-0.3 --decorrelate
    """
    import shlex
    import sys
    import time

    from factorlm.cli.terminal import notes, print_json, progress
    from factorlm.errors import InputError, UnknownNameError
    from factorlm.factors import bind, factor
    from factorlm.factors.decorrelation import METHODS, decorrelated
    from factorlm.factors.dependence import dependence, predicted_divergence
    from factorlm.factors.examples import decode_lines, read_lines
    from factorlm.factors.potentials import Potentials, texts_of
    from factorlm.factors.store import default_stores
    from factorlm.models.loading import load_model

    start = time.monotonic()
    if len(names) < 2:
        raise InputError(f"at least two factors to compare are needed, got {len(names)}; name another")
    if len(set(names)) < len(names):
        raise InputError(f"each factor is named once, got {' '.join(names)}; a factor is one with itself")
    if method not in METHODS:
        raise UnknownNameError.of("way to decorrelate", method, METHODS)
    if method == "pool" and corpus is None:
        raise InputError("a pool is fitted to texts, got no --corpus; give a file of what shall be written")
    if out is not None and out.exists() and not out.is_dir():
        raise InputError(f"a folder for the report is needed, got the file {out}; choose another name")
    if residual is not None:
        default_stores()[0].check_name(residual)
    wanted = _wanted(names, target)
    lines = None
    if corpus is not None:
        lines = decode_lines(sys.stdin.buffer.read(), "standard input") if corpus == "-" else read_lines(corpus)
        if not lines:
            raise InputError(f"at least one text is needed, got none in {corpus}; write one text a line")
    unbound = [factor(name) for name in names]
    lm = load_model(model, dtype=dtype)
    bound = [bind(one, lm) for one in unbound]
    if residual is not None:
        _check_heads(names, bound)
    exponents = [_exponent(lm, one, fader) for one, fader in zip(bound, wanted, strict=True)]
    texts = texts_of(lm, lines) if lines is not None else None
    with progress() as report:
        found = dependence(Potentials(lm, tuple(bound)), texts, seed=seed, report=report)
        refit = (
            decorrelated(lm, list(zip(bound, exponents, strict=True)), method=method, texts=texts, report=report)
            if decorrelate
            else None
        )
    if residual is not None:  # only once nothing can fail any more
        _save_residual(lm, names, bound, residual)
    if as_json:
        for line in _objects(found, exponents, refit, threshold):
            print_json(line)
    else:
        _show(found, exponents, predicted_divergence(found.covariance_KK, exponents), refit, threshold)
    if out is not None:
        from factorlm.evaluation.dependence import dependence_report
        from factorlm.evaluation.report import write_report

        written = dependence_report(
            found,
            exponents,
            refit,
            model=model,
            corpus=corpus or "the model's own continuations of neutral openings",
            command=shlex.join(["factorlm", *sys.argv[1:]]),
            seed=seed,
            seconds=time.monotonic() - start,
        )
        for path in write_report(written, out):
            if path.suffix == ".html" or path.name == "report.json":
                notes.print(f"wrote {path}", markup=False, soft_wrap=True)


def _wanted(names: list[str], target: list[str]) -> list[faders.Fader | None]:
    """The fader of each factor; with some targets given, the others get none and are to stay where they are."""
    from factorlm.errors import UnknownNameError

    given = {fader.name: fader for fader in faders.parse(target)}
    for name in given:
        if name not in names:
            raise UnknownNameError.of("factor among those compared", name, names)
    return [given.get(name) if given else faders.Fader(name, None, None) for name in names]


def _exponent(lm: CausalLM, factor: Factor, fader: faders.Fader | None) -> float:
    from factorlm.errors import InputError
    from factorlm.inference.strengths import exponent_of

    if fader is None:
        return 0.0
    if fader.exponent is not None:
        return fader.exponent
    if fader.strength is not None:
        return exponent_of(lm, factor, fader.strength)
    try:
        return exponent_of(lm, factor, faders.CLEAR)
    except InputError:
        return 1.0  # a ban, whose exponent changes nothing


def _check_heads(names: list[str], bound: list[Factor]) -> None:
    from factorlm.errors import InputError
    from factorlm.factors import Head

    other = next((name for name, one in zip(names, bound, strict=True) if not isinstance(one, Head)), None)
    if other is not None:
        raise InputError(f"a residual is made of heads, got {other!r}, which is none; leave it out")


def _save_residual(lm: CausalLM, names: list[str], bound: list[Factor], new: str) -> None:
    from factorlm.cli.terminal import notes
    from factorlm.factors import Head
    from factorlm.factors.residual import residual_head, residual_manifest
    from factorlm.factors.store import default_stores, folder_of, read_manifest

    heads = [one for one in bound if isinstance(one, Head)]
    head, taken_out = residual_head(lm, heads[-1], heads[:-1], new)
    *others, last = (read_manifest(folder_of(name)) for name in names)
    manifest, tensors = residual_manifest(head, taken_out, last, others)
    folder = default_stores()[0].save(manifest, tensors)
    notes.print(f"{new} is in {folder}: {manifest.origin}", markup=False, soft_wrap=True)


def _objects(found: Dependence, exponents: list[float], refit: Refit | None, threshold: float) -> list[dict[str, Any]]:
    """What --json prints: an object for each pair, one for all factors, one for the refit."""
    from dataclasses import asdict

    from factorlm.factors.dependence import predicted_divergence

    lines: list[dict[str, Any]] = []
    for (i, j), shared in found.shared.items():
        value, low, high = found.text_correlation_SKK[:, i, j].tolist()
        lines.append(
            {
                "kind": "pair",
                "first": found.names[i],
                "second": found.names[j],
                "correlation": float(found.correlation_KK[i, j]),
                "text_correlation": value,
                "text_correlation_low": low,
                "text_correlation_high": high,
                "num_texts": found.num_texts,
                "num_pushed_by_both": shared.num_together,
                "pushed_by_both": list(shared.together),
                "num_opposed": shared.num_against,
                "opposed": list(shared.against),
            }
        )
    together, independent = predicted_divergence(found.covariance_KK, exponents)
    lines.append(
        {
            "kind": "factors",
            "names": list(found.names),
            "exponents": exponents,
            "deviations": found.deviation_K.tolist(),
            "effective_number": found.effective_number,
            "predicted_divergence": together,
            "predicted_divergence_if_independent": independent,
            "warnings": found.warnings(exponents, threshold),
        }
    )
    if refit is not None:
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(refit).items()}
        plain["correlation"] = [list(row) for row in refit.correlation]
        lines.append({"kind": "refit", **plain})
    return lines


def _show(
    found: Dependence, exponents: list[float], predicted: tuple[float, float], refit: Refit | None, threshold: float
) -> None:
    from rich.markup import escape
    from rich.table import Table

    from factorlm.cli.terminal import console

    console.print("[bold]correlation of potentials[/bold] [dim]at the next token, under the base[/dim]")
    console.print(_heat_map(found.names, found.correlation_KK.tolist()))
    console.print(f"\n[bold]correlation of log-ratios[/bold] [dim]over {found.num_texts} texts, length taken out[/dim]")
    console.print(_heat_map(found.names, found.text_correlation_SKK[0].tolist()))
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("pair", "over texts", "pushed by both", "opposed"):
        table.add_column(heading, overflow="fold")
    for (i, j), shared in found.shared.items():
        value, low, high = found.text_correlation_SKK[:, i, j].tolist()
        table.add_row(
            escape(f"{found.names[i]}, {found.names[j]}"),
            f"{value:+.2f} [dim]({low:+.2f} to {high:+.2f})[/dim]",
            escape(f"{shared.num_together}  {' '.join(shared.together[:SHOWN_WORDS])}"),
            escape(f"{shared.num_against}  {' '.join(shared.against[:SHOWN_WORDS])}"),
        )
    console.print()
    console.print(table)
    scales = zip(found.names, exponents, found.deviation_K.tolist(), strict=True)
    console.print()
    for name, exponent, deviation in scales:
        console.print(f"{escape(name)}^{exponent:.2f} [dim]varies by {deviation:.3f} nats at exponent 1[/dim]")
    together, independent = predicted
    console.print(
        f"{len(found.names)} factors, worth {found.effective_number:.2f} independent ones; divergence to second order "
        f"{together:.3f} nats per token, {independent:.3f} if they were independent"
    )
    for line in found.warnings(exponents, threshold):
        console.print(f"[yellow]{escape(line)}[/yellow]")
    if refit is not None:
        console.print()
        console.print(_refit_table(refit))
        if refit.divergence_after > DEAR * max(refit.divergence_before, refit.divergence_independent):
            console.print("[yellow]these factors are too alike to be moved apart at this price: ask for less[/yellow]")
        console.print(
            f"[dim]divergence {refit.divergence_before:.3f} before, {refit.divergence_after:.3f} after; one by one "
            f"the factors cost {refit.divergence_independent:.3f} nats per token together[/dim]"
        )


def _refit_table(refit: Refit) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column(f"decorrelated ({refit.method})")
    for heading in ("exponent", "new exponent", "moves alone", "together", "after"):
        table.add_column(heading, justify="right")
    for k, name in enumerate(refit.names):
        table.add_row(
            escape(name),
            f"{refit.exponents_before[k]:.3f}",
            f"[bold]{refit.exponents_after[k]:.3f}[/bold]",
            f"{refit.movement_alone[k]:+.4f}",
            f"{refit.movement_before[k]:+.4f}",
            f"{refit.movement_after[k]:+.4f}",
        )
    return table


def _heat_map(names: tuple[str, ...], values: list[list[float]]) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
    table.add_column("")
    for name in names:
        table.add_column(escape(name), justify="right")
    for name, row in zip(names, values, strict=True):
        table.add_row(escape(name), *map(_cell, row))
    return table


def _cell(value: float) -> Text:
    """A number on a ground that is red for like, blue for unlike, and the fuller the stronger."""
    import math

    from rich.text import Text

    if math.isnan(value):
        return Text("—", style="dim")
    fade = round(255 * (1 - 0.65 * abs(value)))
    ground = f"rgb(255,{fade},{fade})" if value > 0 else f"rgb({fade},{fade},255)"
    return Text(f" {value:+.2f} ", style=f"black on {ground}")
