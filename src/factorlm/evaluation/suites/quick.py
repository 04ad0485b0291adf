"""Quick: a small form of every suite over the same models, in one report."""

from __future__ import annotations

from factorlm.errors import InputError
from factorlm.evaluation.document import Prose, Section
from factorlm.evaluation.intervals import Comparison, Estimate
from factorlm.evaluation.suites import (
    SUITES,
    capability,
    control,
    generation,
    perplexity,
    suite_named,
    toxicity,
)
from factorlm.evaluation.workbench import Findings, Workbench
from factorlm.settings import Config

PARTS = ("perplexity", "generation", "control", "toxicity", "capability")


class Settings(Config):
    """Settings of the suite: those of its parts.

    Attributes:
        parts: suites to run, in order.
        perplexity: settings of that part.
        generation: settings of that part.
        control: settings of that part.
        toxicity: settings of that part.
        capability: settings of that part.
    """

    parts: tuple[str, ...] = PARTS
    perplexity: perplexity.Settings
    generation: generation.Settings
    control: control.Settings
    toxicity: toxicity.Settings
    capability: capability.Settings

    @classmethod
    def sized(cls, size: str) -> Settings:
        """Each part at that size."""
        return cls(**{part: suite_named(part).Settings.sized(size) for part in PARTS})  # type: ignore[arg-type]


def run(bench: Workbench, settings: Settings) -> Findings:
    """Run the parts in turn; measures are named part/measure, and the first finding of each part heads the report."""
    if not settings.parts or any(part not in PARTS for part in settings.parts):
        raise InputError(f"parts are some of {', '.join(PARTS)}, got {', '.join(settings.parts) or 'none'}")
    found = {part: suite_named(part).run(bench, getattr(settings, part)) for part in settings.parts}
    measures: dict[str, dict[str, Estimate]] = {
        f"{part}/{measure}": by_model for part, f in found.items() for measure, by_model in f.measures.items()
    }
    comparisons: list[Comparison] = [c for f in found.values() for c in f.comparisons]
    sections: list[Section] = []
    for part, f in found.items():
        lines = [*f.headlines, *(f"Caution: {line}" for line in f.cautions)]
        blocks = tuple(Prose(text=line) for line in lines)
        sections.append(Section(title=part.capitalize(), lead=SUITES[part], blocks=blocks))
        sections += (s.model_copy(update={"title": f"{part.capitalize()}: {s.title}"}) for s in f.sections)
    return Findings(
        title="At a glance: " + ", ".join(bench.names),
        sections=tuple(sections),
        measures=measures,
        comparisons=tuple(comparisons),
        headlines=tuple(line for f in found.values() for line in f.headlines[:1]),
        cautions=("These are small samples for a first look; each part has its own cautions beside its numbers.",),
    )
