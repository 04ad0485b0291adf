"""How much faster a model is that runs some of its layers: side by side in one run, in pairs; see `harness`."""

# Axes: B batch, T time.

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any

import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from factorlm.evaluation.harness import FEWEST_REPEATS, Timing, compare_speed
from factorlm.evaluation.provenance import machine
from factorlm.evaluation.speed import (
    PROMPT_TOKENS,
    SCORED_TOKENS,
    Written,
    greedy,
    prompts_of,
    same_tokens,
    tolerance_of,
)
from factorlm.evaluation.workbench import Workbench
from factorlm.models import CausalLM
from factorlm.models.body import TransformersBody
from factorlm.models.layers import shortened, skipping
from factorlm.settings import Config


class LayerSpeed(Config):
    """How speed is measured.

    Attributes:
        shares: of the layers that are run.
        batches: texts written together, each measured by itself.
        read: texts read together.
        new_tokens: written in a run.
        repeats: runs of each way.
    """

    shares: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.9, 0.75, 0.5)
    batches: tuple[PositiveInt, ...] = (1, 8)
    read: PositiveInt = 4
    new_tokens: Annotated[int, Field(ge=2)] = 8
    repeats: Annotated[int, Field(ge=FEWEST_REPEATS)] = 7


def time_layers(
    bench: Workbench, lm: CausalLM, kept: Mapping[str, tuple[int, ...]], settings: LayerSpeed
) -> dict[str, Timing]:
    """Speed of writing and reading by name of the work; ratios are to the first way.

    Args:
        bench: whose cache is used, for this machine, and whose progress bar.
        lm: the whole.
        kept: the layers of each way; the first runs all.
        settings: how.
    """
    found = {}
    for batch_size in settings.batches:
        name = f"writing, {batch_size} at once"
        found[name] = _kept(bench, lm, kept, settings, name, partial(_writing, lm, kept, settings, batch_size))
    name = f"reading, {settings.read} at once"
    found[name] = _kept(bench, lm, kept, settings, name, partial(_reading, lm, kept, settings))
    return found


def tokens_per_second(timing: Timing, way: str) -> float:
    """Of all rows together."""
    seconds = timing.baseline_seconds if way == timing.baseline else timing.ratio(way).seconds
    return float(timing.settings["batch_size"]) / seconds


def _kept(
    bench: Workbench, lm: CausalLM, kept: Mapping[str, tuple[int, ...]], settings: LayerSpeed, name: str,
    measure: Callable[..., Timing],
) -> Timing:  # fmt: skip
    key = {"what": "speed with layers left out", "name": name, "model": lm.fingerprint, "dtype": str(lm.model.dtype),
           "layers": {way: list(layers) for way, layers in kept.items()}, "settings": settings.model_dump(mode="json"),
           "machine": machine(), "threads": torch.get_num_threads()}  # fmt: skip
    found = bench.cache.get(key, lambda: measure(name, bench.report).model_dump(mode="json"))
    return Timing.model_validate_json(json.dumps(found))


def _writing(
    lm: CausalLM, kept: Mapping[str, tuple[int, ...]], settings: LayerSpeed, batch_size: int, name: str, report: Any
) -> Timing:
    def write(model: CausalLM, prompt_BT: Tensor) -> Written:
        return greedy(model, prompt_BT, settings.new_tokens)

    return _compared(
        lm, kept, settings, name, report, write, prompts_of(lm, batch_size), same_tokens(tolerance_of(lm)),
        settings.new_tokens, {"batch_size": batch_size, "prompt_tokens": PROMPT_TOKENS},
    )  # fmt: skip


def _reading(lm: CausalLM, kept: Mapping[str, tuple[int, ...]], settings: LayerSpeed, name: str, report: Any) -> Timing:
    def read(model: CausalLM, text_BT: Tensor) -> Tensor:
        return model.score(torch.tensor([lm.start_ids] * len(text_BT)), text_BT)

    return _compared(
        lm, kept, settings, name, report, read, prompts_of(lm, settings.read, SCORED_TOKENS),
        _same_on_average(tolerance_of(lm)), SCORED_TOKENS, {"batch_size": settings.read},
    )  # fmt: skip


def _compared(
    lm: CausalLM,
    kept: Mapping[str, tuple[int, ...]],
    settings: LayerSpeed,
    name: str,
    report: Any,
    work: Callable[[CausalLM, Tensor], Any],
    inputs: Callable[[int], Tensor],
    agree: Callable[[Any, Any], str | None],
    work_per_run: int,
    facts: dict[str, Any],
) -> Timing:
    """Each way must do what transformers' own code does with a network that has only these layers."""
    models = {way: skipping(lm, layers) for way, layers in kept.items()}
    twins = {way: _twin(lm, layers) for way, layers in kept.items()}

    def forget() -> None:
        for model in models.values():
            model.forget()

    return compare_speed(
        name,
        {way: partial(work, model) for way, model in models.items()},
        inputs,
        agree=agree,
        baseline=next(iter(kept)),
        twins={way: partial(work, model) for way, model in twins.items()},
        repeats=settings.repeats,
        work_per_run=work_per_run,
        unit="token of the batch",
        ratio_of="speed",
        before_each=forget,
        settings=facts,
        report=report,
    )


def _same_on_average(tolerance: float) -> Callable[[Tensor, Tensor], str | None]:
    """Whether nats of tokens are equal within a tolerance, in the mean.

    In formats of 8 bits a network in which layers are missing turns other roundings into whole nats at a few tokens;
    one other layer changes nearly all of them.
    """

    def agree(want: Tensor, got: Tensor) -> str | None:
        apart = float((want - got).abs().mean())
        return None if apart <= tolerance else f"they are {apart:.2g} nats apart on average"

    return agree


def _twin(lm: CausalLM, layers: tuple[int, ...]) -> CausalLM:
    network = shortened(lm.model, layers)
    return lm.with_body(TransformersBody(network), network, f"{lm.name} in transformers")
