"""Robustness: slots found under typing errors, misheard words, chatter and mixtures, by taggers and by prompts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from factorlm.errors import InputError
from factorlm.evaluation.part import Part
from factorlm.evaluation.robustness.outcomes import CONDITIONS
from factorlm.evaluation.robustness.prompted import Prompting, measure_prompted
from factorlm.evaluation.robustness.tagged import Tagging, measure_tagged
from factorlm.evaluation.robustness.tagger import Learning
from factorlm.evaluation.workbench import Findings, Workbench
from factorlm.settings import Config

PartName = Literal["taggers", "prompts"]


class Settings(Config):
    """Settings of the suite.

    Attributes:
        parts: which to measure, in order.
        taggers: trained on utterances, without and with errors.
        prompts: the composition itself, asked for slots.
    """

    parts: tuple[PartName, ...] = ("taggers", "prompts")
    taggers: Tagging = Tagging()
    prompts: Prompting = Prompting()

    @classmethod
    def sized(cls, size: str) -> Settings:
        """A quarter of an hour on two cores, or what one would publish."""
        if size == "small":
            return cls()
        return cls(
            taggers=Tagging(num_train=4000, num_test=700, learning=Learning(width=96, steps=3000)),
            prompts=Prompting(
                sets=("snips", "atis"),
                strategies=("none", "utterances", "noisy utterances", "values"),
                num_test=200,
                num_pool=4000,
                conditions=CONDITIONS[1:],
            ),
        )


def run(bench: Workbench, settings: Settings) -> Findings:
    """Measure the parts that are asked for.

    Raises:
        InputError: if more than one model is given, or no part is asked for.
    """
    if len(bench.models) > 1:
        raise InputError(f"one model at a time is measured under errors, got {', '.join(bench.names)}; run each alone")
    if not settings.parts:
        raise InputError(f"at least one part is needed, got none; take some of {', '.join(MEASURES)}")
    found = Part.joined([MEASURES[part](bench, settings) for part in settings.parts])
    return Findings(
        title=f"Robustness of {bench.names[0]}",
        sections=found.sections,
        measures=found.measures,
        headlines=found.headlines,
        cautions=(*found.cautions, MADE),
    )


MADE = (
    "Most errors are made by our own rules, and augmentation by the same rules with other seeds: gains on errors that "
    "other people recorded say more than gains on ours."
)

MEASURES: dict[str, Callable[[Workbench, Settings], Part]] = {
    "taggers": lambda bench, settings: measure_tagged(bench, settings.taggers),
    "prompts": lambda bench, settings: measure_prompted(bench, settings.prompts),
}
