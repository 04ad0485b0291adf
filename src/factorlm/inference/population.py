"""Weighted texts of one run of a sampler that works with many texts at once, and what the run says of itself."""

from __future__ import annotations

import math
from dataclasses import dataclass

from factorlm.errors import DeadEndError

Text = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Population:
    """Particles: texts with weights. They are no independent samples: draw one by its weight, or use the weights.

    Attributes:
        method: "smc", "importance" or "metropolis".
        token_ids: of each text, an end token included.
        texts: the same in characters.
        weights: of each text, summing to one.
        log_weights: of each text under the composition (at temperature T raised to 1 / T), not normalised, in nats.
        log_z_variance: estimate of the variance of exp(log_z), relative to its square; see `relative_variance`.
        log_z: estimate of the log of the total weight of all texts that the run allows, in nats; its exponential is
            unbiased, so it is itself a little low on average.
        effective_sizes: (sum w)^2 / sum w^2 before each token, and at the end, in [1, N]; 0 where all are impossible.
        resampled: numbers of the tokens before which particles were resampled.
        roots: for each text the number of the first particle that it comes from.
        chosen: number of the text that was drawn; None where all came to a dead end: then log_z is -inf.
        acceptance: share of accepted moves; only of "metropolis".
        num_tests: tokens that were put to checks.
        finish_reasons: of each text: "end", "stop" or "length".
    """

    method: str
    token_ids: tuple[Text, ...]
    texts: tuple[str, ...]
    weights: tuple[float, ...]
    log_weights: tuple[float, ...]
    log_z_variance: float
    log_z: float
    effective_sizes: tuple[float, ...]
    resampled: tuple[int, ...]
    roots: tuple[int, ...]
    chosen: int | None
    acceptance: float | None
    num_tests: int
    finish_reasons: tuple[str, ...]

    @property
    def distribution(self) -> dict[str, float]:
        """Weight of each distinct text."""
        found: dict[str, float] = {}
        for text, weight in zip(self.texts, self.weights, strict=True):
            found[text] = found.get(text, 0.0) + weight
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    @property
    def num_ancestors(self) -> int:
        """How many of the first particles have offspring of positive weight among the last ones."""
        return len({root for root, weight in zip(self.roots, self.weights, strict=True) if weight > 0})

    @property
    def log_z_error(self) -> float:
        """Standard error of log_z; 1 or near it where most texts have one ancestor, so that nothing is known of it."""
        return math.sqrt(max(0.0, self.log_z_variance))

    def drawn(self) -> int:
        """The number of the text that was drawn.

        Raises:
            DeadEndError: if there is none.
        """
        if self.chosen is None:
            longest = max(map(len, self.token_ids))
            raise DeadEndError(
                f"all {len(self.texts)} particles came to a dead end after {longest} tokens; take more particles or "
                "tokens, forbid less, judge unfinished texts, or let texts be cut at the limit"
            )
        return self.chosen

    def as_json(self) -> dict[str, object]:
        """What `generate --json` shows of it."""
        return {
            "sampler": self.method,
            "number": len(self.texts),
            "log_weight": self.log_weights[self.drawn()],
            "log_z": self.log_z,
            "log_z_error": self.log_z_error,
            "effective_size": self.effective_sizes[-1] if self.effective_sizes else float(len(self.texts)),
            "num_resampled": len(self.resampled),
            "num_ancestors": self.num_ancestors,
            "acceptance": self.acceptance,
            "num_tests": self.num_tests,
        }


def relative_variance(weights: list[float], roots: list[int], num_resampled: int) -> float:
    """Estimate of Var[Z] / Z^2 of one run from its family tree. Lee and Whiteley (2018), arXiv:1509.00394.

    Its product with Z^2 is unbiased under multinomial resampling, so it may be negative, and it is careful for schemes
    with less noise. It is 1 where all particles have one ancestor: then the run says nothing about its own error.

    Args:
        weights: of the particles, summing to one.
        roots: for each of them its first ancestor.
        num_resampled: how often they were resampled.
    """
    num = len(weights)
    if not any(weights):
        return 1.0
    by_root: dict[int, float] = {}
    for weight, root in zip(weights, roots, strict=True):
        by_root[root] = by_root.get(root, 0.0) + weight
    same = math.fsum(share * share for share in by_root.values())
    return 1 - (num / (num - 1)) ** (num_resampled + 1) * (1 - same)
