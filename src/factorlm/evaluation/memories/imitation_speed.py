"""What answers cost: seconds of reading and writing with neighbours and with networks, side by side, and bytes."""

# Axes: B batch, T time.

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from factorlm.algebra import Backoff, Factor
from factorlm.evaluation.document import Cell, Column, Section, Table
from factorlm.evaluation.harness import FEWEST_FOR_INTERVAL, FEWEST_REPEATS, Timing, compare_speed
from factorlm.evaluation.intervals import Estimate
from factorlm.evaluation.memories.generation_mixtures import MODEL
from factorlm.evaluation.part import Part
from factorlm.evaluation.provenance import machine
from factorlm.evaluation.speed import greedy, prompts_of
from factorlm.evaluation.workbench import Workbench
from factorlm.memory import Memory
from factorlm.memory.state_memory import TOGETHER, StateMemory
from factorlm.models import CausalLM
from factorlm.settings import Config

UNIT = 1000  # tokens that seconds are about


class ImitationSpeed(Config):
    """How times are taken.

    Attributes:
        texts: read together.
        read_tokens: of each.
        new_tokens: written in a run, one text at a time.
        repeats: runs of each way, each on tokens of its own.
    """

    texts: PositiveInt = 4
    read_tokens: Annotated[int, Field(ge=2)] = 64
    new_tokens: Annotated[int, Field(ge=2)] = 8
    repeats: Annotated[int, Field(ge=FEWEST_REPEATS)] = 7


def speed_part(
    bench: Workbench, lm: CausalLM, memories: Mapping[str, Memory], marks: Mapping[str, str],
    folders: Mapping[str, Path], settings: ImitationSpeed,
) -> Part:  # fmt: skip
    """Time the model alone and mixed with each memory, all in one run, and weigh the folders.

    Args:
        bench: cache, for this machine, and progress.
        lm: the model.
        memories: with weights.
        marks: everything that the answers of each depend on.
        folders: of the memories.
        settings: how.
    """
    found = {name: _kept(bench, lm, memories, marks, settings, name) for name in ("reading", "writing", "looking up")}
    measures: dict[str, dict[str, Estimate]] = {}
    for name, timing in found.items():
        ratios = {ratio.way: ratio for ratio in timing.ratios}
        seconds = {timing.baseline: timing.baseline_seconds} | {way: ratio.seconds for way, ratio in ratios.items()}
        measures[f"imitation, seconds of {name} for 1,000 tokens"] = {
            way: Estimate(value=value, n=timing.repeats) for way, value in seconds.items()
        }
        measures[f"imitation, time of {name} over that of the {_whose(timing)}"] = {
            way: Estimate(value=r.ratio, low=r.low, high=r.high, n=timing.repeats) for way, r in ratios.items()
        }
    size = {name: _bytes_of(folders[name]) for name in memories}
    columns, series = [Column(title="way")], []
    for (title, values), form in zip(measures.items(), (".2f", ".2f", ".1f", ".2f", ".3f", ".3f"), strict=True):
        columns.append(Column(title=title.removeprefix("imitation, "), form=form, best="low"))
        series.append(values)
    columns.append(Column(title="MiB on disk", form=".1f", best="low"))
    rows: list[tuple[Cell, ...]] = [
        (way, *(values.get(way) for values in series), size[way] / 2**20 if way in size else None)
        for way in (MODEL, *memories)
    ]
    measures["imitation, bytes on disk"] = {name: Estimate(value=float(number)) for name, number in size.items()}
    table = Table(
        title="Time and space", columns=tuple(columns), rows=tuple(rows),
        note=f"Medians of {settings.repeats} runs, ways taken in turn; ratios are medians of pairs. Reading is of "
        f"{settings.texts} texts of {settings.read_tokens} tokens together, where model and memory each run the "
        f"encoder; writing is of {settings.new_tokens} tokens of one text, where they share it. Looking up is the "
        "memory's answer to states that are there, as many as are read.",
    )  # fmt: skip
    cautions = []
    if settings.repeats < FEWEST_FOR_INTERVAL:
        cautions.append(f"{settings.repeats} runs are too few for intervals of times; {FEWEST_FOR_INTERVAL} give one.")
    return Part((Section(title="Time and space", blocks=(table,)),), measures, cautions=tuple(cautions))


def _whose(timing: Timing) -> str:
    return "model" if timing.baseline == MODEL else "teacher"


def _kept(
    bench: Workbench, lm: CausalLM, memories: Mapping[str, Memory], marks: Mapping[str, str],
    settings: ImitationSpeed, name: str,
) -> Timing:  # fmt: skip
    key = {"what": "speed of memories", "name": name, "model": lm.fingerprint, "dtype": str(lm.model.dtype),
           "memories": dict(marks), "settings": settings.model_dump(mode="json"), "machine": machine(),
           "threads": torch.get_num_threads()}  # fmt: skip

    def work() -> dict[str, Any]:
        return _timed(bench, lm, memories, settings, name).model_dump(mode="json")

    return Timing.model_validate_json(json.dumps(bench.cache.get(key, work)))


def _timed(
    bench: Workbench, lm: CausalLM, memories: Mapping[str, Memory], settings: ImitationSpeed, name: str
) -> Timing:
    factors: dict[str, Factor] = {MODEL: lm} | {way: Backoff((memory, lm)) for way, memory in memories.items()}
    start_BT = torch.tensor([lm.start_ids] * settings.texts)
    read_BT = prompts_of(lm, settings.texts, settings.read_tokens)
    tokens = settings.texts * settings.read_tokens
    ways: dict[str, Callable[[Tensor], Tensor]]
    inputs: Callable[[int], Tensor]
    if name == "reading":
        ways = {way: partial(factor.score, start_BT) for way, factor in factors.items()}
        inputs = read_BT
    elif name == "writing":
        ways = {way: partial(_written, factor, settings.new_tokens) for way, factor in factors.items()}
        inputs, tokens = prompts_of(lm, 1), settings.new_tokens
    else:
        ways = {way: partial(_answers, memory) for way, memory in memories.items()}

        def inputs(repeat: int) -> Tensor:
            return lm.hidden_before(start_BT, read_BT(repeat)).flatten(0, 1)

    return compare_speed(
        f"memories, {name}",
        ways,
        inputs,
        agree=_of_one_shape,  # mixtures say other things by design
        baseline=next(iter(ways)),
        repeats=settings.repeats,
        work_per_run=tokens / UNIT,
        unit=f"{UNIT} tokens",
        before_each=lm.forget,
        report=bench.report,
    )


def _written(factor: Factor, new_tokens: int, prompt_BT: Tensor) -> Tensor:
    return greedy(factor, prompt_BT, new_tokens).token_BT


def _answers(memory: Memory, hidden_ND: Tensor) -> Tensor:
    assert isinstance(memory, StateMemory)
    parts = [memory.weighed(memory.answers(hidden_SD)).amax(-1) for hidden_SD in hidden_ND.split(TOGETHER)]
    return torch.cat(parts)


def _of_one_shape(want: Tensor, got: Tensor) -> str | None:
    return None if want.shape == got.shape else f"{list(want.shape)} numbers against {list(got.shape)}"


def _bytes_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
