"""What commands share: the console, progress, settings from options, reading and writing."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from factorlm.errors import InputError
from factorlm.files import write_whole
from factorlm.settings import explain_validation

if TYPE_CHECKING:
    from factorlm.inference import Model, Sampling
    from factorlm.inference.stream import Stream

console = Console(highlight=False)
notes = Console(stderr=True, highlight=False)
SHOWN_STAGES = 8  # bars at once


def sampling_of(**options: Any) -> Sampling:
    """Sampling settings from command-line options; a bad one ends in one line."""
    from factorlm.inference import Sampling

    try:
        return Sampling(**options)
    except ValidationError as error:
        raise explain_validation(error, "sampling") from None


def read_prompt(prompt: str) -> str:
    """The prompt itself, or standard input for "-"."""
    if prompt != "-":
        return prompt
    raw = sys.stdin.buffer.read()
    try:
        return raw.decode("utf-8").rstrip("\n")
    except UnicodeDecodeError as error:
        raise InputError(
            f"UTF-8 text is needed on standard input, got byte 0x{raw[error.start]:02x} at {error.start}; convert it"
        ) from None


def write_file(path: Path, content: str) -> None:
    """Write a whole file or none, and say where it is."""
    if path.is_dir():
        raise InputError(f"a file to write is needed, got the folder {path}; add a name")
    try:
        write_whole(path, content)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}; choose another place") from None
    notes.print(f"wrote {path}", markup=False, soft_wrap=True)


def print_json(found: dict[str, Any]) -> None:
    """One object on one line; JSON has no infinity, so an impossible text's log probability is null."""

    def plain(value: Any) -> Any:
        if isinstance(value, float) and not math.isfinite(value):
            return None
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, list) else value

    print(json.dumps(plain(found), ensure_ascii=False, allow_nan=False), flush=True)


@contextmanager
def progress() -> Iterator[Callable[[str, int, int], None]]:
    """A function to report (stage, done, total) to; shows a bar for each stage, with an estimate."""
    columns = (
        TextColumn("{task.description:<22}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    bars = Progress(*columns, console=notes)
    tasks: dict[str, TaskID] = {}

    def report(stage: str, done: int, total: int) -> None:
        if not tasks:  # not before: a complaint that comes first stands alone
            bars.start()
        if stage not in tasks:
            tasks[stage] = bars.add_task(stage, total=total)
            for old in list(tasks.values())[:-SHOWN_STAGES]:  # a long run has more stages than a screen has lines
                bars.update(old, visible=False)
        elif bars.tasks[tasks[stage]].finished and done < total:
            bars.reset(tasks[stage], total=total)
        bars.update(tasks[stage], completed=done, total=total)

    try:
        yield report
    finally:
        if tasks:
            bars.stop()


def factor_numbers(model: Model) -> dict[str, dict[str, float | None]]:
    """Exponent and strength of every factor; the strength is None where it is not known without measuring."""
    from factorlm.algebra import names_of
    from factorlm.inference.strengths import known_map

    found: dict[str, dict[str, float | None]] = {}
    terms = model.terms[1:]
    for name, term in zip(names_of(terms), terms, strict=True):
        strengths = known_map(term.factor)
        exponent = float(term.exponent)
        found[name] = {"exponent": exponent, "strength": strengths.strength(exponent) if strengths else None}
    return found


def stream_coloured(model: Model, run: Stream) -> None:
    """Write a response as it comes, each token in the colour of the factor that pushed it most."""
    import torch

    from factorlm.algebra import pad_left, pad_right
    from factorlm.inference import Explanation, read

    row = run.rows[0]
    for piece in run:
        before = row.prompt_ids + row.token_ids[:-1]
        with torch.inference_mode():
            reading = read(model.factor, pad_left([before]), pad_right([row.token_ids[-1:]]), with_contributions=True)
        seen = Explanation.of(reading, 0, row.token_ids[-1:], model.lm.vocabulary, "")
        console.print(piece.text, style=seen.style(0), end="", markup=False, highlight=False, soft_wrap=True)
