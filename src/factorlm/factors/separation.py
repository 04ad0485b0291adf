"""What a head does to texts: how far its two directions part, at equal divergence, in the eyes of a judge."""

# Axes: O openings, S samples of an opening and sign.

from __future__ import annotations

from typing import NamedTuple

import torch

from factorlm.factors.calibration import OPENINGS
from factorlm.factors.head import Head
from factorlm.factors.response import Judge, continuations, decoded
from factorlm.models import CausalLM
from factorlm.models.progress import Report, quiet

STRENGTH = 0.2  # nats per token: clear, and fluent still
NUM_SAMPLES, NUM_TOKENS = 4, 16
RESAMPLES = 1000


class Separation(NamedTuple):
    """P(judged positive | +strength) - P(judged positive | -strength), and its standard error over openings."""

    value: float
    standard_error: float

    def exceeds(self, other: Separation) -> bool:
        """Whether this is larger by more than one standard error of the difference (by chance: one time in six)."""
        return self.value - other.value > (self.standard_error**2 + other.standard_error**2) ** 0.5


def separation(
    lm: CausalLM, head: Head, judge: Judge, *, strength: float = STRENGTH, seed: int = 0, report: Report = quiet
) -> Separation:
    """Continue the neutral openings in both directions, ask the judge, and resample the openings for the error.

    Args:
        lm: the encoder of the head.
        head: with its strength map; without one it moves nothing, so it separates nothing.
        judge: reads the continuations alone.
        strength: of both directions, in nats per token.
        seed: of the draws; two heads are compared under the same one.
        report: told of progress.
    """
    if head.strengths is None:
        return Separation(0.0, 0.0)
    exponents = [head.strengths.exponent(sign * strength) for sign in (1, -1)]
    written = continuations(
        lm, head, exponents, OPENINGS, num_samples=NUM_SAMPLES, num_tokens=NUM_TOKENS, seed=seed, report=report,
        stage="comparing at equal divergence",
    )  # fmt: skip
    texts = [decoded(lm, row) for side in written for row in side.token_ids]
    verdict_2OS = torch.tensor([float(verdict) for verdict in judge(texts)]).reshape(2, len(OPENINGS), NUM_SAMPLES)
    gap_O = (verdict_2OS[0] - verdict_2OS[1]).mean(1)
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(len(OPENINGS), (RESAMPLES, len(OPENINGS)), generator=generator)
    return Separation(float(gap_O.mean()), float(gap_O[drawn].mean(1).std()))
