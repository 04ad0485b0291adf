"""Texts of a guided prior, cached, with what their plans said and whether they were heeded."""

# Axes: P prompts, S samples of a prompt.

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factorlm.diffusion.files import FOLDER
from factorlm.diffusion.meanings import DecoderKind, Meanings, Proposing
from factorlm.diffusion.shipped import SHIPPED, load_meanings
from factorlm.evaluation.responses import Sample, Samples
from factorlm.evaluation.rivals.methods import Writing, bare
from factorlm.evaluation.workbench import Workbench
from factorlm.inference.expression import factor_part
from factorlm.inference.guide_names import all_guides
from factorlm.inference.guided import GuidedPrior, guided
from factorlm.inference.results import Response

ROWS = 32  # texts written together


@dataclass(frozen=True)
class Way:
    """How texts are guided.

    Attributes:
        strengths: of guides.
        factors: of the store, with their strengths in nats per token.
        decoder: of latents; None takes the better one.
        emphasis: power of what a latent changes.
        proposing: how latents are drawn.
    """

    strengths: Mapping[str, float]
    factors: Mapping[str, float] | None = None
    decoder: DecoderKind | None = None
    emphasis: float = 1.0
    proposing: Proposing = Proposing()  # noqa: RUF009


@dataclass(frozen=True, eq=False)
class Planned:
    """Texts and their plans.

    Attributes:
        samples: the texts.
        planned_PSG: probability that each guide gives the latent.
        written_PSG: that it gives the text; nan where nothing was written.
        likeness_PS: cosine of text and latent; nan where nothing was written.
    """

    samples: Samples
    planned_PSG: NDArray[np.float64]
    written_PSG: NDArray[np.float64]
    likeness_PS: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Guiding:
    """Where guided texts come from.

    Attributes:
        bench: cache, seed and progress.
        meanings: folder of a prior over meanings; None takes what is shipped.
        how: samples, tokens and sampling.
    """

    bench: Workbench
    meanings: Path | None
    how: Writing

    def prior(self, way: Way) -> GuidedPrior:
        """The model guided in this way."""
        model = bare(self.bench).model
        model = model.steered(strengths=dict(way.factors)) if way.factors else model
        return guided(
            model, way.strengths, meanings=self.meanings, decoder=way.decoder, emphasis=way.emphasis,
            proposing=way.proposing,
        )  # fmt: skip

    @cached_property
    def loaded(self) -> Meanings:
        """The prior over meanings."""
        return load_meanings(self.bench.models[0].model.lm, self.meanings)[0]

    def write(self, way: Way, prompts: Sequence[str], stage: str) -> Planned:
        """Texts after prompts, as `responses.respond`, with their plans."""
        n, num_guides = self.how.samples, len(way.strengths)
        prior = self.prior(way)

        def work(batch: list[str]) -> list[list[dict[str, Any]]]:
            found = prior.sample(
                batch, n=n, max_tokens=self.how.max_tokens, seed=self.bench.seed, sampling=self.how.sampling
            )
            rows = [_as_dict(response) for response in found]
            return [rows[n * i : n * (i + 1)] for i in range(len(batch))]

        rows = self.bench.in_batches(stage, self.key(way), list(prompts), max(1, ROWS // n), work)
        samples = [
            [Sample(**{**s["sample"], "token_ids": tuple(s["sample"]["token_ids"])}) for s in row] for row in rows
        ]

        def numbers(name: str) -> NDArray[np.float64]:
            empty = [np.nan] * num_guides
            return np.array([[s[name] or empty for s in row] for row in rows], float).reshape(len(rows), n, num_guides)

        likeness_PS = np.array([[np.nan if s["likeness"] is None else s["likeness"] for s in row] for row in rows])
        return Planned(samples, numbers("planned"), numbers("written"), likeness_PS)

    def key(self, way: Way) -> dict[str, Any]:
        """Everything that texts depend on."""
        guides = all_guides()
        known = {name: guides.load(name).card.files for name in way.strengths if name in guides.names()}
        return {
            "what": "guided",
            "model": bare(self.bench).fingerprint,
            "meanings": self.key_of_meanings,
            "guides": [known.get(name, name) for name in way.strengths],
            "way": {**asdict(way), "proposing": way.proposing.model_dump(mode="json")},
            "factors": [factor_part(name) for name in sorted(way.factors or {})],
            "how": {**asdict(self.how), "sampling": self.how.sampling.model_dump(mode="json")},
            "seed": self.bench.seed,
        }

    @property
    def key_of_meanings(self) -> dict[str, str]:
        """Sums of the files of the prior."""
        return FOLDER.read_card(SHIPPED if self.meanings is None else self.meanings).files


def _as_dict(response: Response) -> dict[str, Any]:
    assert response.plan is not None
    sample = Sample(
        response.text, response.token_ids, response.log_prob, response.base_log_prob, response.finish_reason
    )
    return {
        "sample": asdict(sample),
        "planned": list(response.plan.planned),
        "written": list(response.plan.written),
        "likeness": response.plan.likeness,
    }


def best_of(samples: Samples, score: Callable[[list[str]], list[float]], number: int) -> Samples:
    """Of the first few samples of each prompt the one with the best score."""
    texts = [s.text.strip() for row in samples for s in row[:number]]
    scores = iter(score(texts))
    found = []
    for row in samples:
        marks = [next(scores) for _ in row[:number]]
        found.append([row[max(range(len(marks)), key=marks.__getitem__)]])
    return found
