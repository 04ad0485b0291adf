"""Guided: what steering by meaning is worth. Signals, control, two guides at once, latents, time."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from factorlm.errors import InputError, UnknownNameError
from factorlm.evaluation.document import Section
from factorlm.evaluation.guided.control import Control, measure_control
from factorlm.evaluation.guided.goals import WANTED
from factorlm.evaluation.guided.grid import Grid, measure_grid
from factorlm.evaluation.guided.latency import Latency, measure_latency
from factorlm.evaluation.guided.latents import Latents, measure_latents
from factorlm.evaluation.guided.noise import Noise, measure_noise
from factorlm.evaluation.guided.signals import Signals, measure_signals
from factorlm.evaluation.guided.topics import TopicJudge, learn_topic_judge
from factorlm.evaluation.guided.writing import Guiding
from factorlm.evaluation.judges import Judge, load_judge
from factorlm.evaluation.judging import Reader, judge_blocks
from factorlm.evaluation.part import Part
from factorlm.evaluation.rivals.methods import Writing
from factorlm.evaluation.workbench import Findings, Workbench
from factorlm.inference import Sampling
from factorlm.settings import Config

PartName = Literal["signals", "noise", "control", "grid", "latents", "latency"]
TOPIC, SENTIMENT = "topic-words", "sentiment-words"


class Settings(Config):
    """Settings of the suite.

    Attributes:
        parts: which to measure, in order.
        meanings: folder of a prior over meanings; empty takes what is shipped.
        samples: texts for each prompt.
        max_tokens: of a text.
        sampling: how tokens are drawn.
        signals: decoders and proposals on held-out texts.
        noise: a decoder learned with and without noise.
        control: attribute rates against other ways.
        grid: two guides at once.
        latents: how they are drawn.
        latency: of drawing latents.
    """

    parts: tuple[PartName, ...] = ("signals", "noise", "control", "grid", "latents", "latency")
    meanings: str = ""
    samples: Annotated[int, Field(ge=1)] = 1
    max_tokens: Annotated[int, Field(ge=1)] = 20
    sampling: Sampling = Sampling(top_p=0.9, repetition_penalty=1.2)  # as published
    signals: Signals = Signals()
    noise: Noise = Noise()
    control: Control = Control()
    grid: Grid = Grid()
    latents: Latents = Latents()
    latency: Latency = Latency()

    @classmethod
    def sized(cls, size: str) -> Settings:
        """An hour on two cores, or what one would publish."""
        if size == "small":
            return cls()
        return cls(signals=Signals(num_windows=300, shares=(0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)),
                   control=Control(num_prompts=200, fudge=(1.0, 3.0), heads=(0.1, 0.2, 0.4, 0.6), best_of=(2, 4, 8)),
                   latents=Latents(num_prompts=200))  # fmt: skip


def run(bench: Workbench, settings: Settings) -> Findings:
    """Measure the parts that are asked for.

    Raises:
        InputError: if more than one model is given, or no part is asked for.
        UnknownNameError: for a wish that is not known.
    """
    if len(bench.models) > 1:
        raise InputError(f"one language model is needed to be guided, got {', '.join(bench.names)}")
    if not settings.parts:
        raise InputError(
            "at least one part is needed, got none; take signals, noise, control, grid, latents or latency"
        )
    for name in settings.control.wanted:
        if name not in WANTED:
            raise UnknownNameError.of("wish", name, WANTED)
    how = Writing(settings.samples, settings.max_tokens, settings.sampling)
    guiding = Guiding(bench, Path(settings.meanings) if settings.meanings else None, how)
    readers = _readers(bench, settings)
    found = Part.joined([_measured(guiding, settings, readers, part) for part in settings.parts])
    judges = [reader for reader in readers.values() if isinstance(reader, Judge)]
    last = (Section(title="Judges", blocks=judge_blocks(judges)),) if judges else ()
    return Findings(
        title=f"Guiding {bench.names[0]} by meaning",
        sections=(*found.sections, *last),
        measures=found.measures,
        headlines=found.headlines,
        cautions=(*found.cautions, *_cautions(readers)),
    )


def _readers(bench: Workbench, settings: Settings) -> dict[str, Reader]:
    names = {WANTED[name].judge for name in settings.control.wanted} if "control" in settings.parts else set()
    names |= {TOPIC, SENTIMENT} if "grid" in settings.parts else set()
    return {name: learn_topic_judge(bench) if name == TOPIC else load_judge(name) for name in sorted(names)}


def _cautions(readers: dict[str, Reader]) -> tuple[str, ...]:
    topic = readers.get(TOPIC)
    if not isinstance(topic, TopicJudge):
        return ()
    return (
        f"The judge of topics is right on {topic.accuracy:.0%} of {topic.num_test:,} test texts of news; what it says "
        "of continuations of 20 tokens that are no news is less sure.",
    )


def _measured(guiding: Guiding, settings: Settings, readers: dict[str, Reader], part: PartName) -> Part:
    if part == "signals":
        return measure_signals(guiding, settings.signals)
    if part == "noise":
        return measure_noise(guiding, settings.noise)
    if part == "control":
        return measure_control(guiding, settings.control, readers)
    if part == "grid":
        return measure_grid(guiding, settings.grid, readers[SENTIMENT], readers[TOPIC])
    if part == "latents":
        return measure_latents(guiding, settings.latents)
    return measure_latency(guiding, settings.latency)
