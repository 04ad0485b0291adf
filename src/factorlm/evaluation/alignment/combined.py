"""Two rewards at once: their factors multiply, so the sum of both is had without learning anything again."""

# Axes: P prompts, S responses to a prompt.

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveFloat

from factorlm.evaluation.alignment.pool import Weighed, tilted
from factorlm.evaluation.alignment.ways import Read, Writer
from factorlm.evaluation.document import Cell, Column, Section, Table
from factorlm.evaluation.intervals import Estimate, mean_interval
from factorlm.evaluation.part import Part
from factorlm.settings import Config

Array = NDArray[np.float64]
BOTH = "both"


class Combined(Config):
    """Settings of the part.

    Attributes:
        beta: of each reward, alone and together.
    """

    beta: PositiveFloat = 0.5


def measure_combined(writers: Sequence[Writer], pool_size: int, settings: Combined) -> Part:
    """The pool weighed by each reward alone and by their sum."""
    first, other = writers
    seed = first.bench.seed
    samples = first.write(pool_size, "the pool")
    reads: list[Read] = [writer.read(samples, f"the pool, {writer.label}") for writer in writers]
    ways: list[tuple[str, Weighed]] = [
        ("neither", Weighed(np.full_like(reads[0].reward_PS, 1 / pool_size), np.zeros(len(samples)))),
        (first.label, tilted(reads[0].reward_PS, settings.beta)),
        (other.label, tilted(reads[1].reward_PS, settings.beta)),
        (BOTH, tilted(reads[0].reward_PS + reads[1].reward_PS, settings.beta)),
    ]
    plain = ways[0][1]
    rows: list[tuple[Cell, ...]] = []
    measures: dict[str, dict[str, Estimate]] = {}
    for name, by in ways:
        cells: list[Cell] = []
        for writer, read in zip(writers, reads, strict=True):
            judged_P = by.mean(read.judged_PS)
            cells += [mean_interval(by.mean(read.reward_PS), seed=seed), mean_interval(judged_P, seed=seed)]
            gain = mean_interval(judged_P - plain.mean(read.judged_PS), seed=seed)
            measures[f"gain in {writer.label}/{name}"] = {writer.judge.name: gain}
        rows.append((name, mean_interval(by.nats_P, seed=seed), *cells))
    columns = [Column(title="rewards"), Column(title="nats from the model", form=".2f")]
    for writer in writers:
        columns += [Column(title=f"reward: {writer.label}", form=".2f"),
                    Column(title=f"{writer.label} by {writer.judge.name}", form=".1%")]  # fmt: skip
    table = Table(
        title="Two rewards, alone and together", columns=tuple(columns), rows=tuple(rows),
        note=f"The pool of {pool_size} responses to a prompt, weighed by exp of the sum of rewards over "
        f"{settings.beta:g}.",
    )  # fmt: skip
    gains = [measures[f"gain in {writer.label}/{BOTH}"][writer.judge.name] for writer in writers]
    headline = f"Both rewards at once: in their judges' eyes {first.label} +{gains[0]}, {other.label} +{gains[1]}."
    return Part((Section(title="Two rewards", blocks=(table,)),), measures, (headline,))
