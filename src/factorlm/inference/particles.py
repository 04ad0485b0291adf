"""Samplers of the global product p(x) ∝ prod_k w_k(x)^a_k: particles that are drawn locally and weighed globally."""

# Axes: A particles still written, N particles of one population, P populations, V vocabulary.

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from factorlm.algebra import Factor, Power, device_of, flatten, log_normalize, merge, pad_left, rows_of, unflatten
from factorlm.algebra.resampling import SCHEMES
from factorlm.errors import InputError, UnknownNameError
from factorlm.factors.headed import fuse_product
from factorlm.factors.nucleus import quantile
from factorlm.factors.sequence import Check, SequenceFactor
from factorlm.inference.crowd import Crowd, Particle
from factorlm.inference.draw import Sampling, proposal
from factorlm.inference.population import Population
from factorlm.inference.rejection import drawn_order, first_accepted
from factorlm.models.progress import Report, quiet
from factorlm.settings import Config

MOST_ROWS = 128  # written at once; more populations wait


class Particles(Config):
    """How the global product is sampled. A text is the law of the product only in the limit of many particles.

    Attributes:
        method: "smc" (sequential Monte Carlo: unlikely particles give way to copies of likely ones while they are
            written), "importance" (none gives way; one is drawn by weight at the end) or "metropolis" (each text is
            a proposal to a Markov chain, which its last state is drawn from).
        number: of particles.
        scheme: of resampling: stratified, systematic, residual or multinomial.
        threshold: resample when the effective number of particles falls below this share; 1 resamples at each
            token, 0 never.
        limit: what becomes of a text at the last token: "end" forces an end token, so that the product over all
            texts of at most so many tokens is sampled; "cut" lets it be, so that it is the product over texts that
            are cut there.
    """

    method: Literal["smc", "importance", "metropolis"] = "smc"
    number: Annotated[int, Field(ge=2, le=4096)] = 16
    scheme: str = "stratified"
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    limit: Literal["end", "cut"] = "end"


@torch.inference_mode()
def sample_particles(
    factor: Factor,
    prompts: Sequence[Sequence[int]],
    generators: Sequence[torch.Generator],
    *,
    max_tokens: int,
    particles: Particles,
    sampling: Sampling,
    twist: Factor | None = None,
    report: Report = quiet,
) -> list[Population]:
    """A population of weighted texts for each prompt, from which one is drawn unless all are impossible.

    The proposal is the local product, and particles are resampled before a token is drawn (fully adapted), so that
    copies go different ways; what judges whole texts weighs in when a token was drawn, and a Check tests tokens until
    one passes. A temperature T raises the weight of whole texts to 1 / T. Where tokens are truncated, the law is that
    of the texts that are left.

    Source: Lew et al. (2023), arXiv:2306.03081; fully adapted filters, Pitt and Shephard (1999).

    Args:
        factor: any composition.
        prompts: what each population continues, in tokens.
        generators: the randomness of each population.
        max_tokens: most tokens of a text, its end included.
        particles: how many, and what is done with them.
        sampling: temperature, truncation and stop strings.
        twist: a factor that leads the way and is taken back at the end, so that the law is that of `factor`: a guess
            of what is to come, such as a head that knows what a judge of whole texts will say. It may make nothing
            impossible that the factor allows. Zhao et al. (2024), arXiv:2404.17546.
        report: told of progress.

    Raises:
        InputError: for settings that have no meaning for whole texts.
    """
    if particles.scheme not in SCHEMES:
        raise UnknownNameError.of("scheme of resampling", particles.scheme, SCHEMES)
    if sampling.temperature == 0 or sampling.looks_back:
        got = "a penalty" if sampling.looks_back else "temperature 0"
        raise InputError(
            f"particles are drawn from a distribution over whole texts: a temperature above 0 and no penalty for what "
            f"was read are needed, got {got}; leave it out, or take the local sampler"
        )
    if sampling.temperature != 1:
        factor = Power(factor, 1 / sampling.temperature)
    found: list[Population] = []
    size = max(1, MOST_ROWS // particles.number)
    for start in range(0, len(prompts), size):
        some = list(range(start, min(start + size, len(prompts))))
        crowds = [Crowd.of(prompts[p], generators[p], particles.number) for p in some]
        if max_tokens > 0:
            leading = None if twist is None else rows_of(twist, some)
            run = _Run(rows_of(factor, some), leading, crowds, max_tokens, particles, sampling)
            for step in range(max_tokens):
                report("writing", start * max_tokens + step * len(some), len(prompts) * max_tokens)
                if not run.step():
                    break
        report("writing", (some[-1] + 1) * max_tokens, len(prompts) * max_tokens)
        found += [crowd.result(particles.method, factor.vocabulary, sampling.stop) for crowd in crowds]
    return found


@dataclass(frozen=True)
class _Judge:
    """A factor that looks at whole texts, and its exponent."""

    factor: SequenceFactor
    exponent: Tensor | float

    def __call__(self, crowd: Crowd, particle: Particle, p: int) -> float:
        judge = self.factor.finished if particle.finish_reason else self.factor.unfinished
        nats = judge(crowd.prompt_ids, particle.token_ids)
        exponent_1P = torch.as_tensor(self.exponent, dtype=torch.float64).reshape(-1)  # one, or one for each population
        return -math.inf if nats == -math.inf else float(exponent_1P[p % len(exponent_1P)]) * nats


class _Run:
    """Some crowds that are written together, one token after the other."""

    def __init__(
        self,
        factor: Factor,
        twist: Factor | None,
        crowds: list[Crowd],
        max_tokens: int,
        particles: Particles,
        sampling: Sampling,
    ) -> None:
        terms = merge(flatten(factor))
        whole = [t for t in terms if isinstance(t.factor, SequenceFactor)]
        self.checks = [t.factor for t in whole if isinstance(t.factor, Check)]
        self.judges = [
            _Judge(t.factor, t.exponent)
            for t in whole
            if isinstance(t.factor, SequenceFactor) and not isinstance(t.factor, Check)
        ]
        steps = [t for t in terms if not isinstance(t.factor, SequenceFactor)]
        if not steps:
            raise InputError("factors that judge whole texts need a language model to write them; multiply one")
        self.model = fuse_product(unflatten(steps if twist is None else [*steps, *flatten(twist)]))
        self.twist = twist
        self.crowds, self.max_tokens, self.particles, self.sampling = crowds, max_tokens, particles, sampling
        self.scheme = SCHEMES[particles.scheme]
        self.threshold = particles.threshold if particles.method == "smc" else 0.0
        self.end_ids = list(factor.vocabulary.end_ids)
        self.vocabulary = factor.vocabulary
        prefix_BT = pad_left([list(crowd.prompt_ids) for crowd in crowds]).to(device_of(factor))
        place_A = torch.arange(len(crowds), device=prefix_BT.device).repeat_interleave(particles.number)
        self.state = self.model.reorder(self.model.start(prefix_BT), place_A)
        self.twist_state = None if twist is None else twist.reorder(twist.start(prefix_BT), place_A)
        self.alive = [(p, n) for p in range(len(crowds)) for n in range(particles.number)]  # rows of the state
        self.num_steps = 0
        for crowd in crowds:
            for particle in crowd.particles:
                particle.judged = (0.0,) * len(self.judges)

    def step(self) -> bool:
        """Write one more token of every particle; whether any goes on."""
        last = self.num_steps == self.max_tokens - 1
        log_weight_AV = self._allowed(self.state.log_weight_BV, force_end=last and self.particles.limit == "end")
        total_A = log_weight_AV.logsumexp(-1).double()
        for (p, n), total in zip(self.alive, total_A.tolist(), strict=True):
            self.crowds[p].log_weight_N[n] += total
            if total == -math.inf:
                self.crowds[p].particles[n].log_weight = -math.inf
        row_A = self._resampled()
        if not row_A:
            return False
        if row_A != list(range(len(log_weight_AV))):
            index_A = torch.tensor(row_A, device=log_weight_AV.device)
            log_weight_AV = log_weight_AV[index_A]
            self._reorder(index_A)
        token_A = self._drawn(log_weight_AV, last)
        step_A = log_weight_AV.gather(1, token_A[:, None])[:, 0].double()
        lead_A = torch.zeros_like(step_A)
        if self.twist_state is not None:
            lead_A = self.twist_state.log_weight_BV.gather(1, token_A[:, None])[:, 0].double()
        going = []
        drawn = zip(self.alive, token_A.tolist(), step_A.tolist(), lead_A.tolist(), strict=True)
        for a, ((p, n), token, nats, lead) in enumerate(drawn):
            particle = self.crowds[p].particles[n]
            particle.token_ids += (token,)
            particle.log_weight += nats - lead
            particle.lead += lead
            particle.finish_reason = self._reason(particle.token_ids, last)
            self._judge(p, n)
            if particle.finish_reason:
                self.crowds[p].log_weight_N[n] -= particle.lead
            if self.crowds[p].log_weight_N[n] == -math.inf:
                particle.log_weight = -math.inf
            elif not particle.finish_reason:
                going.append(a)
        self.num_steps += 1
        if not going:
            return False
        if len(going) < len(self.alive):
            index_A = torch.tensor(going, device=token_A.device)
            token_A = token_A[index_A]
            self.alive = [self.alive[a] for a in going]
            self._reorder(index_A)
        self.state = self.model.extend(self.state, token_A)
        if self.twist is not None and self.twist_state is not None:
            self.twist_state = self.twist.extend(self.twist_state, token_A)
        return True

    def _reorder(self, row_A: Tensor) -> None:
        self.state = self.model.reorder(self.state, row_A)
        if self.twist is not None and self.twist_state is not None:
            self.twist_state = self.twist.reorder(self.twist_state, row_A)

    def _drawn(self, log_weight_AV: Tensor, last: bool) -> Tensor:
        """A token for each particle, [A]; where tokens are tested, weights take in how much passes."""
        prob_AV = log_weight_AV.double().softmax(-1)
        if not self.checks:
            uniforms = {p: self.crowds[p].uniform() for p in sorted({p for p, _ in self.alive})}
            uniform_A = torch.stack([uniforms[p][n] for p, n in self.alive]).to(log_weight_AV.device)
            return quantile(prob_AV, uniform_A)
        tokens = []
        for prob_V, (p, n) in zip(prob_AV.cpu(), self.alive, strict=True):
            crowd = self.crowds[p]
            found = first_accepted(prob_V, drawn_order(prob_V, crowd.generator), self._test(crowd, n, last))
            crowd.num_tests += found.num_tests
            crowd.log_weight_N[n] += math.log(found.mass) if found.mass > 0 else -math.inf
            tokens.append(int(prob_V.argmax()) if found.token is None else found.token)  # the former is dead
        return torch.tensor(tokens, device=log_weight_AV.device)

    def _test(self, crowd: Crowd, n: int, last: bool) -> Callable[[int], bool]:
        """Whether a next token passes all checks."""
        text = crowd.particles[n].token_ids

        def passes(token: int) -> bool:
            longer = (*text, token)
            is_whole = bool(self._reason(longer, last))
            nats = (c.finished if is_whole else c.unfinished for c in self.checks)
            return all(judge(crowd.prompt_ids, longer) > -math.inf for judge in nats)

        return passes

    def _allowed(self, log_weight_AV: Tensor, *, force_end: bool) -> Tensor:
        """Log weights of the tokens that may be drawn; -inf for the others.

        Truncation looks at the composition without its twist. A forced end is drawn even where it would be truncated.
        """
        if self.sampling.truncates:
            plain = self.sampling.model_copy(update={"temperature": 1.0})
            untwisted_AV = log_weight_AV
            if self.twist_state is not None:
                lead_AV = self.twist_state.log_weight_BV
                untwisted_AV = torch.where(lead_AV == -torch.inf, -torch.inf, log_weight_AV - lead_AV)
            is_kept_AV = proposal(log_normalize(untwisted_AV), plain) > -torch.inf
            log_weight_AV = torch.where(is_kept_AV, log_weight_AV, -torch.inf)
        if force_end and self.end_ids:
            ended_AV = torch.full_like(log_weight_AV, -torch.inf)
            ended_AV[:, self.end_ids] = self.state.log_weight_BV[:, self.end_ids]
            return ended_AV
        return log_weight_AV

    def _resampled(self) -> list[int]:
        """The row of the state that each particle goes on from; dead and finished ones have none."""
        row_of = {place: a for a, place in enumerate(self.alive)}
        rows, alive = [], []
        for p, crowd in enumerate(self.crowds):
            if not any((p, n) in row_of for n in range(len(crowd.particles))):
                continue  # all its texts are finished
            for n, ancestor in enumerate(crowd.resample(self.scheme, self.threshold, self.num_steps)):
                if (p, ancestor) in row_of and crowd.log_weight_N[n] > -math.inf:
                    rows.append(row_of[p, ancestor])
                    alive.append((p, n))
        self.alive = alive
        return rows

    def _judge(self, p: int, n: int) -> None:
        """Weigh what was drawn; psi of the text so far takes the place of psi before."""
        crowd, particle = self.crowds[p], self.crowds[p].particles[n]
        now = tuple(judge(crowd, particle, p) for judge in self.judges)
        gained = sum(new - old for new, old in zip(now, particle.judged, strict=True))
        particle.judged = now
        particle.log_weight += gained
        crowd.log_weight_N[n] += gained

    def _reason(self, text: tuple[int, ...], last: bool) -> str:
        """Why a text goes on no more; empty if it does."""
        if text[-1] in self.end_ids:
            return "end"
        if self.sampling.stop:
            characters = self.vocabulary.text(text)
            if any(stop in characters for stop in self.sampling.stop):
                return "stop"
        return "length" if last else ""
