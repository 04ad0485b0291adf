"""Fairness: whether a planted bias is found again, and how sentences about groups differ in likelihood."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from factorlm.errors import InputError
from factorlm.evaluation.fairness.identities import Identities, measure_identities
from factorlm.evaluation.fairness.planted import Planting, measure_planted
from factorlm.evaluation.part import Part
from factorlm.evaluation.workbench import Findings, Workbench
from factorlm.settings import Config

PartName = Literal["planted", "identities"]


class Settings(Config):
    """Settings of the suite.

    Attributes:
        parts: which to measure, in order.
        planted: a small model of texts with a bias of ours.
        identities: the models under test, on sentences about groups.
    """

    parts: tuple[PartName, ...] = ("planted", "identities")
    planted: Planting = Planting()
    identities: Identities = Identities()

    @classmethod
    def sized(cls, size: str) -> Settings:
        """Minutes, or all sentences."""
        return cls() if size == "small" else cls(identities=Identities(templates=None))


def run(bench: Workbench, settings: Settings) -> Findings:
    """Measure the parts that are asked for.

    Raises:
        InputError: if no part is asked for.
    """
    if not settings.parts:
        raise InputError(f"at least one part is needed, got none; take some of {', '.join(MEASURES)}")
    found = Part.joined([MEASURES[part](bench, settings) for part in settings.parts])
    return Findings(
        title="Fairness: " + ", ".join(bench.names),
        sections=found.sections,
        measures=found.measures,
        headlines=found.headlines,
        cautions=found.cautions,
    )


MEASURES: dict[str, Callable[[Workbench, Settings], Part]] = {
    "planted": lambda bench, settings: measure_planted(bench, settings.planted),
    "identities": lambda bench, settings: measure_identities(bench, settings.identities),
}
