"""How long drawing a latent takes, once per text, beside writing the text."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from pydantic import PositiveInt

from factorlm.diffusion.meanings import FEW_STEPS, Proposing
from factorlm.evaluation.document import Cell, Column, Section, Table
from factorlm.evaluation.guided.writing import Guiding, Way
from factorlm.evaluation.intervals import Estimate
from factorlm.evaluation.part import Part
from factorlm.evaluation.responses import distinct_prompts
from factorlm.inference.guided import GuidedPrior
from factorlm.settings import Config


class Latency(Config):
    """Settings of this part.

    Attributes:
        prompts: data set; each run has prompts of its own.
        batches: texts written together.
        tokens: of a text.
        steps: of denoising.
        repeats: of every measurement; the least is taken.
        guide: that leans.
    """

    prompts: str = "sentiment_prompts/neutral"
    batches: tuple[PositiveInt, ...] = (1, 16)
    tokens: tuple[PositiveInt, ...] = (20, 200)
    steps: tuple[PositiveInt, ...] = (5, 10, 20, 50)
    repeats: PositiveInt = 3
    guide: str = "positive"


def measure_latency(guiding: Guiding, settings: Latency) -> Part:
    """Times of drawing latents and of writing, by batch."""
    bench = guiding.bench
    number = max(settings.batches) * settings.repeats
    prompts = distinct_prompts(bench, settings.prompts, number)
    prior = guiding.prior(Way({settings.guide: 5.0}))
    rows: list[tuple[Cell, ...]] = []
    measures: dict[str, dict[str, Estimate]] = {"share of time before the first token": {}}
    total, done = len(settings.batches) * (len(settings.steps) + len(settings.tokens)), 0
    for batch in settings.batches:
        groups = [prompts[i * batch : (i + 1) * batch] for i in range(settings.repeats)]
        drawn = {}
        for steps in settings.steps:
            drawn[steps] = _least(groups, _drawing(prior, steps))
            done += 1
            bench.report("timing", done, total)
        for tokens in settings.tokens:
            repeats = groups if tokens < 100 else groups[:1]
            written = _least(repeats, _writing(guiding, prior, tokens, repeats))
            done += 1
            bench.report("timing", done, total)
            for steps, seconds in drawn.items():
                share = seconds / (seconds + written)
                rows.append((batch, tokens, steps, 1000 * seconds, 1000 * written, share))
                measures["share of time before the first token"][
                    f"{tokens} tokens, {batch} together, {steps} steps"
                ] = Estimate(value=share)
    columns = (
        Column(title="texts together", form="d"), Column(title="tokens", form="d"), Column(title="steps", form="d"),
        Column(title="drawing latents, ms", form=".0f", best="low"), Column(title="writing, ms", form=".0f"),
        Column(title="share of drawing", form=".0%", best="low"),
    )  # fmt: skip
    table = Table(
        title="Drawing latents and writing", columns=columns, rows=tuple(rows),
        note="Drawing reads the prompts with the sentence encoder, denoises with the guide, and makes what the decoder "
        f"is told. Writing is of the {prior.decoder} decoder, reading the prompts included. The least of "
        f"{settings.repeats} runs, each with prompts of its own.",
    )  # fmt: skip
    few = [r for r in rows if r[1] == min(settings.tokens) and r[2] == 10]
    line = "Drawing latents in 10 steps takes " + ", ".join(
        f"{r[5]:.0%} of the time of texts of {r[1]} tokens, {r[0]} together" for r in few
    )
    return Part(sections=(Section(title="Time", blocks=(table,)),), measures=measures,
                headlines=(f"{line}.",) if few else ())  # fmt: skip


def _least(groups: list[list[str]], run: Callable[[list[str]], None]) -> float:
    found = []
    for group in groups:
        start = time.perf_counter()
        run(group)
        found.append(time.perf_counter() - start)
    return min(found)


def _drawing(prior: GuidedPrior, steps: int) -> Callable[[list[str]], None]:
    proposing = Proposing(denoising=FEW_STEPS.model_copy(update={"steps": steps}))
    few, seed = replace(prior, proposing=proposing), steps

    def run(prompts: list[str]) -> None:
        few.planned([f"{prompt} {seed}" for prompt in prompts])  # vectors of prompts that were met before are kept

    return run


def _writing(guiding: Guiding, prior: GuidedPrior, tokens: int, groups: list[list[str]]) -> Callable[[list[str]], None]:
    models = {tuple(group): prior.planned(group)[0] for group in groups}  # latents are drawn before the clock starts

    def run(prompts: list[str]) -> None:
        model = models[tuple(prompts)]
        for _ in model.stream(prompts, max_tokens=tokens, seed=tokens, sampling=guiding.how.sampling):
            pass

    return run
