"""factorlm bench: speed on this machine, as ratios within one run."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from factorlm.evaluation import Ratio

app = typer.Typer(no_args_is_help=True)
Json = Annotated[bool, typer.Option("--json", help="One JSON object a line.")]
ModelName = Annotated[str, typer.Option("--model", help="Name, folder or hub name of the base.")]
Repeats = Annotated[int, typer.Option("--repeats", min=1, help="Pairs of runs; the median counts.")]
BATCHES = (1, 8)


@app.command()
def heads(
    as_json: Json = False,
    model: ModelName = "smollm2",
    num_heads: Annotated[int, typer.Option("--num-heads", min=1, help="Heads on the encoder.")] = 32,
    rank: Annotated[int, typer.Option("--rank", min=0, help="Rank of each head.")] = 16,
    repeats: Repeats = 9,
) -> None:
    """Time per token with many heads, another exponent in every row, over the time without any."""
    from factorlm.cli.terminal import progress
    from factorlm.evaluation import heads_against_none
    from factorlm.models.loading import load_model

    lm = load_model(model)
    with progress() as report:
        for batch in BATCHES:
            ratio = heads_against_none(lm, batch, num_heads=num_heads, rank=rank, num_repeats=repeats, report=report)
            _show(ratio, as_json)


@app.command()
def decoding(as_json: Json = False, model: ModelName = "smollm2", repeats: Repeats = 9) -> None:
    """Tokens per second of plain greedy decoding over those of transformers' generate on the same model."""
    from factorlm.cli.terminal import progress
    from factorlm.evaluation import decoding_against_transformers
    from factorlm.models.loading import load_model

    lm = load_model(model)
    with progress() as report:
        for batch in BATCHES:
            _show(decoding_against_transformers(lm, batch, num_repeats=repeats, report=report), as_json)


@app.command()
def scoring(
    as_json: Json = False,
    model: ModelName = "smollm2",
    num_heads: Annotated[int, typer.Option("--num-heads", min=1, help="Heads of rank zero.")] = 12,
    repeats: Repeats = 5,
) -> None:
    """Speed of scoring texts with factors over scoring them plainly."""
    from factorlm.cli.terminal import progress
    from factorlm.evaluation import scoring_with_factors
    from factorlm.models.loading import load_model

    lm = load_model(model)
    with progress() as report:
        for evidence in (False, True):
            ratio = scoring_with_factors(
                lm, 8, num_heads=num_heads, evidence=evidence, num_repeats=repeats, report=report
            )
            _show(ratio, as_json)


@app.command("all")
def run_all(as_json: Json = False, model: ModelName = "smollm2") -> None:
    """All of them, one after the other."""
    commands: tuple[Callable[..., None], ...] = (heads, decoding, scoring)
    for command in commands:
        command(as_json=as_json, model=model)


def _show(ratio: Ratio, as_json: bool) -> None:
    from factorlm.cli.terminal import console

    if as_json:
        print(json.dumps(dataclasses.asdict(ratio)), flush=True)
        return
    what = f"{ratio.num_heads} heads of rank {ratio.rank}, " if ratio.num_heads else ""
    console.print(
        f"[bold]{ratio.ratio:.3f}[/bold]  {ratio.benchmark}, {what}batch {ratio.batch_size} "
        f"[dim](pairs {ratio.lowest:.3f} to {ratio.highest:.3f}, n = {ratio.num_repeats}; "
        f"{ratio.ms_per_token:.1f} against {ratio.other_ms_per_token:.1f} ms a token)[/dim]"
    )
