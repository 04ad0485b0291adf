"""factorlm score: log probabilities of texts, and each factor's evidence."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from factorlm.cli import faders, remembering
from factorlm.cli.generate_options import Memory, MemoryMode


def score(
    file: Annotated[str, typer.Argument(help="One text a line; - for standard input.")],
    factor: Annotated[
        list[str],
        typer.Option("--factor", help="NAME only measures its evidence; NAME=STRENGTH or NAME^EXPONENT also steers."),
    ] = [],  # noqa: B006
    memory: Memory = [],  # noqa: B006
    memory_mode: MemoryMode = "interpolate",
    model: Annotated[
        str,
        typer.Option("--model", help="Base: a name, folder or hub name, or an expression such as 'smollm2 / toxic'."),
    ] = "smollm2",
    dtype: Annotated[str, typer.Option("--dtype", help="Number format: auto, float32 or bfloat16.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
) -> None:
    """Log probability of each line of a file under the composed model, and each factor's evidence in nats.

    A bare name measures and does not steer, but a ban stays a ban. A factor's evidence is log p_k(x)/p(x): how much
    more probable the text is under the factor at exponent one.
    """
    from factorlm.algebra import names_of
    from factorlm.cli.terminal import console, print_json, progress
    from factorlm.errors import InputError
    from factorlm.factors.examples import decode_lines, read_lines
    from factorlm.inference.expression import compose
    from factorlm.inference.model import SCORED_TOKENS

    wanted = faders.parse(factor)
    memories, passages = remembering.split(remembering.parse(memory, memory_mode), memory_mode) if memory else ([], [])
    if passages:
        raise InputError(f"passages are read before a prompt, got {passages[0].name}; factorlm generate reads them")
    if memory_mode == "draft":
        raise InputError(
            "a memory that only guesses ahead changes no score; take --memory-mode interpolate or multiply"
        )
    lines = decode_lines(sys.stdin.buffer.read(), "standard input") if file == "-" else read_lines(file)
    if not lines:
        raise InputError(f"at least one text is needed, got none in {file}; write one text a line")
    composed = faders.compose(compose(model, dtype=dtype).model, wanted, bare_exponent=0.0)
    composed = remembering.mixed(composed, memories if memory_mode == "interpolate" else [])
    composed = remembering.multiplied(composed, memories if memory_mode == "multiply" else [])
    for number, line in enumerate(lines, 1):
        try:
            composed.encode_prompt(line, 0)
        except InputError as error:
            raise InputError(f"text {number} of {file}: {error}") from None
    size = max(1, SCORED_TOKENS // 64)
    scores = []
    with progress() as report:
        for start in range(0, len(lines), size):
            scores += composed.score(lines[start : start + size])
            report("scoring texts", len(scores), len(lines))
    names = names_of(composed.terms[1:])
    if as_json:
        for s in scores:
            found = {
                "text": s.text,
                "log_prob": s.log_prob,
                "base_log_prob": s.base_log_prob,
                "num_tokens": s.num_tokens,
                "num_bytes": s.num_bytes,
                "bits_per_byte": s.bits_per_byte,
                "factors": s.log_ratios,
            }
            print_json(found)
        return
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("log prob", "bits/byte", *names):
        table.add_column(heading, justify="right")
    table.add_column("text", overflow="ellipsis", no_wrap=True)
    for s in scores:
        evidence = [_coloured(s.log_ratios[name]) for name in names]
        table.add_row(f"{s.log_prob:.1f}", f"{s.bits_per_byte:.2f}", *evidence, escape(s.text))
    console.print(table)


def _coloured(nats: float) -> str:
    colour = "green" if nats > 0.5 else "red" if nats < -0.5 else "default"
    return f"[{colour}]{nats:+.2f}[/{colour}]"
