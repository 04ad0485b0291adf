"""factorlm corpus: corpora of any size scored and filtered, here or on a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from factorlm.cli import faders

if TYPE_CHECKING:
    from factorlm.engines.corpus import Engine, Manifest
    from factorlm.engines.corpus_job import CorpusOrder

app = typer.Typer(no_args_is_help=True)

ENGINES = ("local", "ray")
FORMATS = ("jsonl", "jsonl.gz", "parquet")


@app.callback()
def _corpus() -> None:
    """Corpora of any size scored and filtered."""


@app.command("score")
def score(
    source: Annotated[
        Path, typer.Argument(metavar="IN", help="A file or folder: .txt, .md, .jsonl, gzipped or not, .parquet.")
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write to, or to go on in.")],
    engine: Annotated[str, typer.Option("--engine", help="local: in this process; ray: on a cluster.")] = "local",
    model: Annotated[
        str,
        typer.Option("--model", help="Base: a name, folder or hub name, or an expression such as 'smollm2 / toxic'."),
    ] = "smollm2",
    factor: Annotated[
        list[str],
        typer.Option("--factor", help="NAME only measures its evidence; NAME=STRENGTH or NAME^EXPONENT also steers."),
    ] = [],  # noqa: B006
    keep: Annotated[
        list[str],
        typer.Option(
            "--keep",
            help="Write only documents that pass: 'bits_per_byte < 1.2 and factor:positive > 3' (nats). Several are "
            "joined by and.",
        ),
    ] = [],  # noqa: B006
    documents: Annotated[
        str, typer.Option("--documents", help="What a document of plain text is: whole, lines, paragraphs or headings.")
    ] = "whole",
    field: Annotated[str, typer.Option("--field", help="Of objects in .jsonl, or of parquet, that holds the text.")] = (
        "text"
    ),
    kind: Annotated[str, typer.Option("--format", help="Of what is written: jsonl, jsonl.gz or parquet.")] = "jsonl",
    text: Annotated[bool, typer.Option("--text/--no-text", help="Write documents with or without their text.")] = True,
    shard_mb: Annotated[
        float, typer.Option("--shard-mb", min=0.001, help="Text of a shard, which is done or redone as a whole.")
    ] = 1.0,
    window: Annotated[
        int | None,
        typer.Option("--window", min=1, help="Most tokens read at once; all that the models can, if unsaid."),
    ] = None,
    stride: Annotated[
        int | None, typer.Option("--stride", min=1, help="By which windows move in a longer document; half, if unsaid.")
    ] = None,
    dtype: Annotated[str, typer.Option("--dtype", help="Number format: auto, float32 or bfloat16.")] = "auto",
    address: Annotated[
        str | None, typer.Option("--address", help="Of a Ray cluster; $RAY_ADDRESS, else one is made here.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=1, help="Of Ray; as many as there are cores or GPUs for, if unsaid.")
    ] = None,
    cores: Annotated[
        int | None, typer.Option("--cores", min=1, help="Of each worker: 1 on Ray, all locally, if unsaid.")
    ] = None,
    gpus: Annotated[
        float, typer.Option("--gpus", min=0.0, help="Of each worker of Ray; 0.25 lets four share one.")
    ] = 0,
    as_json: Annotated[
        bool, typer.Option("--json", help="The manifest without its parts, as one JSON object.")
    ] = False,
) -> None:
    """Score the documents of a corpus, and write those that are kept. A run that was stopped goes on if asked again.

    Example: factorlm corpus score reviews/ scored --factor positive --keep 'factor:positive > 3'
    """
    from factorlm.cli.terminal import progress
    from factorlm.engines.corpus import score_corpus

    order = _order(model, factor, keep, documents, field, kind, text, shard_mb, window, stride, dtype)
    if gpus and dtype == "auto":
        order = order.model_copy(update={"dtype": "bfloat16"})  # as GPUs have it; this machine need not have one
    chosen = _engine(engine, address, workers, cores, gpus)
    with progress() as report:
        manifest = score_corpus(source, out, order, chosen, report=report)
    _tell(out, manifest, as_json)


def _order(
    model: str,
    factor: list[str],
    keep: list[str],
    documents: str,
    field: str,
    kind: str,
    with_text: bool,
    shard_mb: float,
    window: int | None,
    stride: int | None,
    dtype: str,
) -> CorpusOrder:
    from factorlm.cli.index_build import corpus_settings
    from factorlm.engines.corpus_job import CorpusOrder, Dose
    from factorlm.errors import UnknownNameError

    if kind not in FORMATS:
        raise UnknownNameError.of("format", kind, FORMATS)
    return CorpusOrder(
        expression=model,
        factors=tuple(Dose(name=f.name, exponent=f.exponent, strength=f.strength) for f in faders.parse(factor)),
        dtype=dtype,
        texts=corpus_settings(documents, field),
        keep=tuple(keep),
        format=kind,  # type: ignore[arg-type]
        with_text=with_text,
        shard_bytes=int(shard_mb * 1e6),
        window=window,
        stride=stride,
    )


def _engine(name: str, address: str | None, workers: int | None, cores: int | None, gpus: float) -> Engine:
    from factorlm.engines.corpus import LocalEngine
    from factorlm.engines.corpus_ray import RayEngine
    from factorlm.errors import InputError, UnknownNameError

    if name not in ENGINES:
        raise UnknownNameError.of("engine", name, ENGINES)
    if name == "ray":
        return RayEngine(address, workers, cores or 1, gpus)
    for option, value in (("--address", address), ("--workers", workers), ("--gpus", gpus)):
        if value:
            raise InputError(f"only Ray takes {option}, got {value}; add --engine ray")
    return LocalEngine(cores=cores)


def _tell(out: Path, manifest: Manifest, as_json: bool) -> None:
    from factorlm.cli.terminal import console, notes, print_json

    if as_json:
        print_json(manifest.model_dump(mode="json", exclude={"parts"}))
        return
    console.print(
        f"{out}: {manifest.num_kept:,} of {manifest.num_documents:,} documents in {len(manifest.parts):,} parts, "
        f"{manifest.num_tokens:,} tokens"
        + (f", {manifest.bits_per_byte:.3f} bits per byte" if manifest.bits_per_byte is not None else ""),
        markup=False,
        soft_wrap=True,
    )
    for what, number in sorted(manifest.troubles.items()):
        first = manifest.first_troubles[what]
        notes.print(f"{what}: {number:,} (first: {first})", style="yellow", markup=False, soft_wrap=True)
