"""factorlm bench: speed on this machine, as ratios within one run."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from factorlm.evaluation.speed import SpeedRecord

app = typer.Typer(no_args_is_help=True)
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]
ModelName = Annotated[str, typer.Option("--model", help="Name, folder or hub name of the base.")]
Repeats = Annotated[
    int, typer.Option("--repeats", min=3, help="Pairs of runs; the median counts, and six give an interval.")
]
Noise = Annotated[bool, typer.Option("--noise", help="Also time the other way against itself.")]
BATCHES = (1, 8)
LARGE_BATCH = 32


@app.command()
def heads(
    as_json: Json = False,
    model: ModelName = "smollm2",
    num_heads: Annotated[int, typer.Option("--num-heads", min=1, help="Heads on the encoder.")] = 32,
    rank: Annotated[int, typer.Option("--rank", min=0, help="Rank of each head.")] = 16,
    repeats: Repeats = 9,
    noise: Noise = False,
) -> None:
    """Time per token with many heads, another exponent in every row, over the time without any."""
    from factorlm.cli.terminal import progress
    from factorlm.evaluation.speed import heads_against_none
    from factorlm.models.loading import load_model

    lm = load_model(model)
    for batch in BATCHES:
        with progress() as report:
            found = heads_against_none(
                lm, batch, num_heads=num_heads, rank=rank, num_repeats=repeats, with_noise=noise, report=report
            )
        _show(found, as_json)


@app.command()
def decoding(as_json: Json = False, model: ModelName = "smollm2", repeats: Repeats = 9, noise: Noise = False) -> None:
    """Tokens per second of plain greedy decoding over those of transformers' generate on the same model."""
    from factorlm.cli.terminal import progress
    from factorlm.evaluation.speed import decoding_against_transformers
    from factorlm.models.loading import load_model

    lm = load_model(model)
    for batch in (*BATCHES, LARGE_BATCH):
        with progress() as report:
            found = decoding_against_transformers(lm, batch, num_repeats=repeats, with_noise=noise, report=report)
        _show(found, as_json)


@app.command()
def scoring(
    as_json: Json = False,
    model: ModelName = "smollm2",
    num_heads: Annotated[int, typer.Option("--num-heads", min=1, help="Heads of rank zero.")] = 12,
    repeats: Repeats = 9,
    noise: Noise = False,
) -> None:
    """Speed of scoring texts with factors over scoring them plainly."""
    from factorlm.cli.terminal import progress
    from factorlm.evaluation.speed import scoring_with_factors
    from factorlm.models.loading import load_model

    lm = load_model(model)
    for evidence in (False, True):
        with progress() as report:
            found = scoring_with_factors(
                lm, 8, num_heads=num_heads, evidence=evidence, num_repeats=repeats, with_noise=noise, report=report
            )
        _show(found, as_json)


@app.command()
def samplers(as_json: Json = False, model: ModelName = "smollm2", repeats: Repeats = 9, noise: Noise = False) -> None:
    """Instructions in one batch, grammars, particles and guesses against the plain way."""
    from factorlm.cli.terminal import progress
    from factorlm.evaluation import speed_drafts
    from factorlm.evaluation import speed_samplers as speed
    from factorlm.models.loading import load_model

    lm = load_model(model)
    how: dict[str, Any] = {"num_repeats": repeats, "with_noise": noise}
    runs: list[Callable[..., SpeedRecord]] = [
        functools.partial(speed.instructions_together, lm, 1),
        functools.partial(speed.instructions_together, lm, 8),
        functools.partial(speed.grammar_against_none, lm, 1),
        functools.partial(speed.grammar_against_none, lm, 8),
        functools.partial(speed.particles_against_samples, lm),
        functools.partial(speed_drafts.guesses_by_lookup, lm),
        functools.partial(speed_drafts.guesses_by_lookup, lm, 4),
        functools.partial(speed_drafts.guesses_by_the_base, lm),
    ]
    for run in runs:
        with progress() as report:
            found = run(**how, report=report)
        _show(found, as_json)


@app.command()
def priors(as_json: Json = False, model: ModelName = "smollm2", repeats: Repeats = 9, noise: Noise = False) -> None:
    """A component for each response over the bare model, and the posterior over components over one reading."""
    from factorlm.cli.terminal import progress
    from factorlm.evaluation.speed_priors import components_against_none, evidence_against_one_reading
    from factorlm.models.loading import load_model

    lm = load_model(model)
    how: dict[str, Any] = {"num_repeats": repeats, "with_noise": noise}
    runs: list[Callable[..., SpeedRecord]] = [functools.partial(components_against_none, lm, b) for b in BATCHES]
    runs.append(functools.partial(evidence_against_one_reading, lm))
    for run in runs:
        with progress() as report:
            found = run(**how, report=report)
        _show(found, as_json)


@app.command("all")
def run_all(as_json: Json = False, model: ModelName = "smollm2", repeats: Repeats = 9, noise: Noise = False) -> None:
    """All of them, one after the other."""
    commands: tuple[Callable[..., None], ...] = (heads, decoding, scoring, samplers, priors)
    for command in commands:
        command(as_json=as_json, model=model, repeats=repeats, noise=noise)


def _show(found: SpeedRecord, as_json: bool) -> None:
    from factorlm.cli.terminal import console, print_json

    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    what = f"{found.num_heads} heads of rank {found.rank}, " if found.num_heads else ""
    interval = "" if found.low is None else f"{found.low:.3f} to {found.high:.3f}, 95 %: "
    noise = "" if found.noise is None else f"; {found.timing.baseline} against itself {found.noise:.3f}"
    console.print(
        f"[bold]{found.ratio:.3f}[/bold]  {found.benchmark}, {what}batch {found.batch_size} "
        f"({interval}{found.verdict}{noise}) "
        f"[dim](pairs {found.lowest:.3f} to {found.highest:.3f}, n = {found.num_repeats}; "
        f"{found.ms_per_token:.1f} against {found.other_ms_per_token:.1f} ms a token)[/dim]"
    )
    for caution in found.timing.cautions:
        console.print(f"[yellow]{caution}[/yellow]")
