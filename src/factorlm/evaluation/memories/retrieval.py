"""Retrieval: BM25, vectors and both together, for finding passages, for answering and for the likelihood of texts.

Source: From Retrieval to Generation, Abdallah et al. (2025): BM25 is best before texts whose likelihood counts, vectors
or both together are best for questions.
"""

from __future__ import annotations

from typing import Literal

from factorlm.evaluation.memories.retrieval_answering import Answering, measure_answering
from factorlm.evaluation.memories.retrieval_factor import AsFactor, measure_factor
from factorlm.evaluation.memories.retrieval_finding import Finding, measure_finding
from factorlm.evaluation.memories.retrieval_search import Searching
from factorlm.evaluation.memories.retrieval_texts import Likelihood, measure_likelihood
from factorlm.evaluation.part import Part
from factorlm.evaluation.workbench import Workbench
from factorlm.inference.retrieved import Strided
from factorlm.models.vectors import DEFAULT_ENCODER
from factorlm.settings import Config


class Retrieval(Config):
    """Settings of this part.

    Attributes:
        uses: what passages are found for, in order.
        encoder: of dense retrieval: the default one, or a folder of another.
        finding: the passages that answer questions.
        answering: questions, with passages.
        likelihood: of texts, with passages looked for again and again.
        factor: of passages, with exponents.
    """

    uses: tuple[Literal["finding", "answering", "likelihood", "factor"], ...] = (
        "finding", "answering", "likelihood", "factor",
    )  # fmt: skip
    encoder: str = DEFAULT_ENCODER
    finding: Finding = Finding()
    answering: Answering = Answering()
    likelihood: Likelihood = Likelihood()
    factor: AsFactor = AsFactor()

    @classmethod
    def sized(cls, size: str) -> Retrieval:
        """Half an hour on two cores, or what one would publish."""
        if size == "small":
            return cls()
        return cls(
            answering=Answering(num_questions=500),
            likelihood=Likelihood(
                stored=None, documents=40, max_characters=3000,
                reading=Strided(budget=112, context=512, history="filled"),
            ),
            factor=AsFactor(documents=60),
        )  # fmt: skip


def measure_retrieval(bench: Workbench, settings: Retrieval) -> Part:
    """Measure all uses that are asked for."""
    searching = Searching.of(bench, settings.encoder)
    return Part.joined([_measured(searching, settings, use) for use in settings.uses])


def _measured(searching: Searching, settings: Retrieval, use: str) -> Part:
    if use == "finding":
        return measure_finding(searching, settings.finding)
    if use == "answering":
        return measure_answering(searching, settings.answering)
    if use == "likelihood":
        return measure_likelihood(searching, settings.likelihood)
    return measure_factor(searching, settings.factor, settings.likelihood)
