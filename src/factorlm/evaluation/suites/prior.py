"""Prior: what a distribution over models is good for. Rival worlds, evidence, real text, steering, layer selection."""

from __future__ import annotations

from typing import Literal

from factorlm.errors import InputError
from factorlm.evaluation.part import Part
from factorlm.evaluation.priors.layer_selection import LayerSelection, measure_layers
from factorlm.evaluation.priors.real_text import RealText, measure_real_text
from factorlm.evaluation.priors.rival_worlds import RivalWorlds, measure_worlds
from factorlm.evaluation.priors.steering import Steering, measure_steering
from factorlm.evaluation.workbench import Findings, Workbench
from factorlm.settings import Config

PartName = Literal["worlds", "text", "steering", "layers"]


class Settings(Config):
    """Settings of the suite.

    Attributes:
        parts: which to measure, in order.
        worlds: documents of worlds that contradict one another, and evidence for one of them.
        text: components learned from texts of several sources.
        steering: preferring components, against preferring tokens.
        layers: components that run some of the layers.
    """

    parts: tuple[PartName, ...] = ("worlds", "text", "steering", "layers")
    worlds: RivalWorlds = RivalWorlds()
    text: RealText = RealText()
    steering: Steering = Steering()
    layers: LayerSelection = LayerSelection()

    @classmethod
    def sized(cls, size: str) -> Settings:
        """An hour or two on two cores, or what one would publish."""
        return cls(text=RealText.sized(size), steering=Steering.sized(size),
                   layers=LayerSelection.sized(size))  # fmt: skip


def run(bench: Workbench, settings: Settings) -> Findings:
    """Measure the parts that are asked for.

    Raises:
        InputError: if more than one model is given, or no part is asked for.
    """
    if len(bench.models) > 1:
        raise InputError(f"one language model is needed as the base of priors, got {', '.join(bench.names)}")
    if not settings.parts:
        raise InputError("at least one part is needed, got none; take worlds, text, steering or layers")
    found = Part.joined([_measured(bench, settings, part) for part in settings.parts])
    return Findings(
        title=f"A distribution over models on {bench.names[0]}",
        sections=found.sections,
        measures=found.measures,
        headlines=found.headlines,
        cautions=found.cautions,
    )


def _measured(bench: Workbench, settings: Settings, part: PartName) -> Part:
    if part == "worlds":
        return measure_worlds(bench, settings.worlds)
    if part == "text":
        return measure_real_text(bench, settings.text)
    if part == "steering":
        return measure_steering(bench, settings.steering)
    return measure_layers(bench, settings.layers)
