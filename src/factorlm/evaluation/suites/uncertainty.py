"""Uncertainty: how sure a composition is of its answers, whether that is worth anything, and how to repair it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from factorlm.errors import InputError
from factorlm.evaluation.part import Part
from factorlm.evaluation.uncertain.knowing import Knowing, measure_knowing
from factorlm.evaluation.uncertain.perturbed import Perturbed, measure_perturbed
from factorlm.evaluation.uncertain.planted import Planted, measure_planted
from factorlm.evaluation.uncertain.questions import Questions, measure_questions
from factorlm.evaluation.uncertain.temperature import TemperatureSensitivity, measure_temperature
from factorlm.evaluation.workbench import Findings, Workbench
from factorlm.settings import Config

PartName = Literal["questions", "planted", "known", "temperature", "perturbed"]


class Settings(Config):
    """Settings of the suite.

    Attributes:
        parts: which to measure, in order.
        questions: real questions: ranking, abstaining, calibration, recalibration.
        planted: facts that were stated a known number of times.
        known: heads that say whether an answer is known, in and out of domain.
        temperature: whether measures rise with the temperature.
        perturbed: variants of a question for Inv-Entropy.
    """

    parts: tuple[PartName, ...] = ("questions", "planted", "known", "temperature", "perturbed")
    questions: Questions = Questions()
    planted: Planted = Planted()
    known: Knowing = Knowing()
    temperature: TemperatureSensitivity = TemperatureSensitivity()
    perturbed: Perturbed = Perturbed()

    @classmethod
    def sized(cls, size: str) -> Settings:
        """A quarter of an hour on two cores, or what one would publish."""
        return cls(questions=Questions.sized(size), perturbed=Perturbed.sized(size))


def run(bench: Workbench, settings: Settings) -> Findings:
    """Measure the parts that are asked for.

    Raises:
        InputError: if no part is asked for.
    """
    if not settings.parts:
        raise InputError(f"at least one part is needed, got none; take some of {', '.join(MEASURES)}")
    found = Part.joined([MEASURES[part](bench, settings) for part in settings.parts])
    return Findings(
        title=f"Uncertainty of {', '.join(bench.names)}",
        sections=found.sections,
        measures=found.measures,
        headlines=found.headlines,
        cautions=found.cautions,
    )


MEASURES: dict[str, Callable[[Workbench, Settings], Part]] = {
    "questions": lambda bench, settings: measure_questions(bench, settings.questions),
    "planted": lambda bench, settings: measure_planted(bench, settings.planted),
    "known": lambda bench, settings: measure_knowing(bench, settings.known),
    "temperature": lambda bench, settings: measure_temperature(bench, settings.temperature),
    "perturbed": lambda bench, settings: measure_perturbed(bench, settings.perturbed),
}
