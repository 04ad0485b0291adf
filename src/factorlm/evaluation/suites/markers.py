"""Markers: what words of certainty and doubt do to answers, which of them a model writes, and where that comes from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from factorlm.errors import InputError
from factorlm.evaluation.facts import Training, WorldSettings
from factorlm.evaluation.markers.planted import Planting, measure_planted
from factorlm.evaluation.markers.read import Reading, measure_read
from factorlm.evaluation.markers.written import Writing, measure_written
from factorlm.evaluation.part import Part
from factorlm.evaluation.workbench import Findings, Workbench
from factorlm.settings import Config

PartName = Literal["prompts", "written", "planted"]


class Settings(Config):
    """Settings of the suite.

    Attributes:
        parts: which to measure, in order.
        prompts: markers between question and answer.
        written: markers that the model writes, of its own accord and taught.
        planted: a small model of a world in which markers go with right answers as often as we choose.
    """

    parts: tuple[PartName, ...] = ("prompts", "written", "planted")
    prompts: Reading = Reading()
    written: Writing = Writing()
    planted: Planting = Planting()

    @classmethod
    def sized(cls, size: str) -> Settings:
        """A quarter of an hour on two cores, or what one would publish."""
        if size == "small":
            return cls()
        return cls(
            prompts=Reading(num_questions=200, per_kind=None),
            written=Writing(num_questions=200, taught=600, tried=200),
            planted=Planting(world=WorldSettings(), training=Training(depth=3, epochs=8), strangers=3000),
        )


def run(bench: Workbench, settings: Settings) -> Findings:
    """Measure the parts that are asked for.

    Raises:
        InputError: if more than one model is given, or no part is asked for.
    """
    if len(bench.models) > 1:
        raise InputError(f"one model at a time is asked with markers, got {', '.join(bench.names)}; run each alone")
    if not settings.parts:
        raise InputError(f"at least one part is needed, got none; take some of {', '.join(MEASURES)}")
    found = Part.joined([MEASURES[part](bench, settings) for part in settings.parts])
    return Findings(
        title=f"Markers of certainty and doubt: {bench.names[0]}",
        sections=found.sections,
        measures=found.measures,
        headlines=found.headlines,
        cautions=found.cautions,
    )


MEASURES: dict[str, Callable[[Workbench, Settings], Part]] = {
    "prompts": lambda bench, settings: measure_read(bench, settings.prompts),
    "written": lambda bench, settings: measure_written(bench, settings.written),
    "planted": lambda bench, settings: measure_planted(bench, settings.planted),
}
