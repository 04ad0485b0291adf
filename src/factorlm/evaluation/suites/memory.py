"""Memory: what ∞-grams, neighbours, an MLP that imitates them, and retrieval are worth."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from factorlm.errors import InputError
from factorlm.evaluation.memories.drafted import Drafts, measure_drafts
from factorlm.evaluation.memories.generation import Generation, measure_generation
from factorlm.evaluation.memories.imitation import Imitation, measure_imitation
from factorlm.evaluation.memories.likelihood import Likelihood, measure_likelihood
from factorlm.evaluation.memories.retrieval import Retrieval, measure_retrieval
from factorlm.evaluation.memories.unlike import Unlike, measure_unlike
from factorlm.evaluation.part import Part
from factorlm.evaluation.workbench import Findings, Workbench
from factorlm.memory.mlp import MlpSettings
from factorlm.settings import Config

PartName = Literal["likelihood", "unlike", "generation", "imitation", "drafts", "retrieval"]


class Settings(Config):
    """Settings of the suite.

    Attributes:
        parts: which to measure, in order.
        likelihood: bits per byte of texts with memories of others of their kind.
        unlike: a memory as a factor, with negative exponents too.
        generation: who gains, and whether written texts are better.
        imitation: an MLP against the neighbours that it imitates.
        drafts: guesses for speculation.
        retrieval: passages found and read in context.
    """

    parts: tuple[PartName, ...] = ("likelihood", "unlike", "generation", "imitation", "drafts", "retrieval")
    likelihood: Likelihood = Likelihood()
    unlike: Unlike = Unlike()
    generation: Generation = Generation()
    imitation: Imitation = Imitation()
    drafts: Drafts = Drafts()
    retrieval: Retrieval = Retrieval()

    @classmethod
    def sized(cls, size: str) -> Settings:
        """An hour on two cores, or what one would publish."""
        if size == "small":
            return cls()
        return cls(
            likelihood=Likelihood(test_tokens=40_000, valid_tokens=20_000, neighbour_characters=4_000_000),
            unlike=Unlike(test_tokens=10_000, prompts=100),
            generation=Generation(num_prompts=300, num_read=132),
            imitation=Imitation(num_stored=1500, stored_characters=1_500_000, mlp=MlpSettings(blocks=3)),
            drafts=Drafts(num_prompts=40),
            retrieval=Retrieval.sized("full"),
        )


def run(bench: Workbench, settings: Settings) -> Findings:
    """Measure the parts that are asked for.

    Raises:
        InputError: if more than one model is given, or no part is asked for.
    """
    if len(bench.models) > 1:
        raise InputError(f"one language model is needed beside its memories, got {', '.join(bench.names)}")
    if not settings.parts:
        raise InputError(f"at least one part is needed, got none; take some of {', '.join(MEASURES)}")
    found = Part.joined([MEASURES[part](bench, settings) for part in settings.parts])
    return Findings(
        title=f"Memories of {bench.names[0]}",
        sections=found.sections,
        measures=found.measures,
        headlines=found.headlines,
        cautions=found.cautions,
    )


MEASURES: dict[str, Callable[[Workbench, Settings], Part]] = {
    "likelihood": lambda bench, settings: measure_likelihood(bench, settings.likelihood),
    "unlike": lambda bench, settings: measure_unlike(bench, settings.unlike),
    "generation": lambda bench, settings: measure_generation(bench, settings.generation),
    "imitation": lambda bench, settings: measure_imitation(bench, settings.imitation),
    "drafts": lambda bench, settings: measure_drafts(bench, settings.drafts),
    "retrieval": lambda bench, settings: measure_retrieval(bench, settings.retrieval),
}
