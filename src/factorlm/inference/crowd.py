"""Particles of one prompt: their texts, weights, resampling, and what is drawn from them."""

# Axes: N particles.

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from factorlm.algebra.resampling import Scheme, effective_size
from factorlm.factors.nucleus import quantile
from factorlm.inference.population import Population, relative_variance
from factorlm.text import TextStream, Vocabulary


@dataclass
class Particle:
    """A text being written.

    Attributes:
        root: number of the first particle that it comes from.
        token_ids: what was drawn.
        log_weight: of the text so far under the composition.
        lead: of the text so far under what leads the way; taken back when the text is finished.
        judged: what each judge said last.
        finish_reason: why it goes on no more; empty while it does.
    """

    root: int
    token_ids: tuple[int, ...] = ()
    log_weight: float = 0.0
    lead: float = 0.0
    judged: tuple[float, ...] = ()
    finish_reason: str = ""


@dataclass
class Crowd:
    """The particles of one prompt, with randomness of their own.

    Attributes:
        log_weight_N: of each particle since they were last resampled, float64.
    """

    prompt_ids: tuple[int, ...]
    generator: torch.Generator
    particles: list[Particle]
    log_weight_N: Tensor
    log_z: float = 0.0
    num_tests: int = 0
    effective_sizes: list[float] = field(default_factory=list)
    resampled: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, prompt_ids: Sequence[int], generator: torch.Generator, number: int) -> Crowd:
        """As many empty texts as `number`."""
        start = [Particle(n) for n in range(number)]
        return cls(tuple(prompt_ids), generator, start, torch.zeros(number, dtype=torch.float64))

    def uniform(self) -> Tensor:
        """A number in [0, 1) for each particle."""
        return torch.rand(len(self.particles), generator=self.generator, dtype=torch.float64)

    def resample(self, scheme: Scheme, threshold: float, step: int) -> list[int]:
        """The ancestor of each particle, which takes its place if too few particles carry the weight.

        Args:
            scheme: how ancestors are drawn.
            threshold: the share of effective particles that is enough; 0 is always enough, 1 never.
            step: number of the token that comes next.
        """
        size = effective_size(self.log_weight_N)
        self.effective_sizes.append(size)
        everyone = list(range(len(self.particles)))
        enough = threshold * len(everyone) if threshold < 1 else math.inf
        if size == 0 or size >= enough:
            return everyone
        ancestors = scheme(self.log_weight_N.softmax(0), self.uniform()).tolist()
        self.log_z += _log_mean(self.log_weight_N)
        self.log_weight_N = torch.zeros_like(self.log_weight_N)
        self.particles = [replace(self.particles[a]) for a in ancestors]
        self.resampled.append(step)
        return ancestors

    def result(self, method: str, vocabulary: Vocabulary, stops: tuple[str, ...]) -> Population:
        """The population, and the text that is drawn from it."""
        size = effective_size(self.log_weight_N)
        is_dead = size == 0
        weight_N = torch.zeros_like(self.log_weight_N) if is_dead else self.log_weight_N.softmax(0)
        roots = [p.root for p in self.particles]
        variance = relative_variance(weight_N.tolist(), roots, len(self.resampled))
        log_z = self.log_z + _log_mean(self.log_weight_N)
        parts = ([vocabulary.token_bytes[token] for token in p.token_ids] for p in self.particles)
        chosen, acceptance = None, None
        if method == "metropolis" and not is_dead:
            visited, accepted = chain(self.log_weight_N.tolist(), self.uniform().tolist())
            chosen = visited[-1]
            weight_N = torch.bincount(torch.tensor(visited), minlength=len(roots)).double() / len(visited)
            acceptance = accepted / max(1, len(visited) - 1)
        elif not is_dead:
            chosen = int(quantile(weight_N[None], self.uniform()[:1])[0])
        return Population(
            method=method,
            token_ids=tuple(p.token_ids for p in self.particles),
            texts=tuple(TextStream(stops).push_all(part) for part in parts),
            weights=tuple(weight_N.tolist()),
            log_weights=tuple(p.log_weight for p in self.particles),
            log_z=log_z,
            log_z_variance=variance,
            effective_sizes=(*self.effective_sizes, size),
            resampled=tuple(self.resampled),
            roots=tuple(roots),
            chosen=chosen,
            acceptance=acceptance,
            num_tests=self.num_tests,
            finish_reasons=tuple(p.finish_reason or "length" for p in self.particles),
        )


def _log_mean(log_weight_N: Tensor) -> float:
    return float(log_weight_N.logsumexp(0)) - math.log(len(log_weight_N))


def chain(log_weights: list[float], uniforms: list[float]) -> tuple[list[int], int]:
    """States of a Markov chain whose proposals are the texts in turn, and how many moves it made.

    Independence Metropolis-Hastings: Tierney (1994).
    """
    here = next((n for n, log_weight in enumerate(log_weights) if log_weight > -math.inf), 0)  # the first possible one
    visited, accepted = [here], 0
    for there in range(here + 1, len(log_weights)):
        if math.log(max(uniforms[there], 1e-300)) < log_weights[there] - log_weights[here]:
            accepted, here = accepted + 1, there
        visited.append(here)
    return visited, accepted
