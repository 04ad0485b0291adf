"""Latents of the tilted prior itself, in the limit of many particles: what guidance alone only comes near.

The law of ancestral steps is the prior mu. Particles target mu(x) prod_i g_i(x)^strength_i in two ways: "resample"
draws them from mu and weighs them by g at the end; "twisted" takes guided steps, and weighs each by the ratio of the
plain step's density to the guided one's, and by what the guides expect now over what they expected before, so that
every guess of theirs is taken back in the end. Both have weights whose mean is unbiased for E_mu[g].

Sources: sampling importance resampling, Rubin (1988); twisted diffusion sampling, Wu et al. (2023), arXiv:2306.17775.
"""

# Axes: B rows, each one of N particles of a group, D numbers of a latent, G groups.

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from factorlm.algebra import log_normalize
from factorlm.algebra.resampling import stratified
from factorlm.diffusion.guidance import Guided
from factorlm.diffusion.sampling import Denoising, Randomness, backward, clipped, draw, normal_like, of_group
from factorlm.errors import InputError
from factorlm.models.progress import Report, quiet
from factorlm.settings import Config


class LatentParticles(Config):
    """How particles are moved and weighed.

    Attributes:
        method: "twisted" or "resample".
        number: of particles of each group.
        threshold: resample when the effective number falls below this share; 1 at each step, 0 never. For twisted.
    """

    method: Literal["twisted", "resample"] = "twisted"
    number: Annotated[int, Field(ge=2)] = 32
    threshold: Annotated[float, Field(ge=0, le=1)] = 0.5


@dataclass(frozen=True, eq=False)
class Weighted:
    """Latents with weights.

    Attributes:
        latent_GND: of each group.
        log_prob_GN: log weights, which sum to one in each group.
        log_z_G: estimate of log E_mu[g], in nats; its exponential is unbiased.
        effective_G: number of particles that count, by the last weights.
    """

    latent_GND: Tensor
    log_prob_GN: Tensor
    log_z_G: Tensor
    effective_G: Tensor

    def draw(self, generator: Randomness) -> Tensor:
        """One latent of each group by its weight, [G, D]."""
        chosen = [
            torch.multinomial(prob_N, 1, generator=of_group(generator, g))
            for g, prob_N in enumerate(self.log_prob_GN.exp())
        ]
        chosen_G1 = torch.stack(chosen)
        return self.latent_GND.gather(1, chosen_G1[:, :, None].expand(-1, -1, self.latent_GND.shape[2]))[:, 0]


@torch.no_grad()
def sample_latents(
    guided: Guided, noise_BD: Tensor, denoising: Denoising, particles: LatentParticles, generator: Randomness,
    report: Report = quiet,
) -> Weighted:  # fmt: skip
    """Weighted latents of the tilted prior.

    Args:
        guided: the prior's denoiser and the guides; rows of one group have one condition.
        noise_BD: standard normal numbers, where particles start: `number` rows for each group, group by group.
        denoising: of the prior; ancestral, since other methods have no density of a step.
        particles: how.
        generator: draws.
        report: told of progress.

    Raises:
        InputError: for a method without densities, or rows that do not come in groups.
    """
    if denoising.method != "ancestral":
        raise InputError(f"particles are weighed by densities of ancestral steps, got {denoising.method}; take those")
    if len(noise_BD) % particles.number:
        raise InputError(f"{particles.number} rows are needed for each group, got {len(noise_BD)} in all")
    if particles.method == "resample":
        latent_BD = draw(guided.denoise, noise_BD, denoising, generator, report)
        return _weighted(latent_BD, guided.log_weight(latent_BD).unflatten(0, (-1, particles.number)).double(), 0.0)
    return _twisted(guided, noise_BD, denoising, particles, generator, report)


def _twisted(
    guided: Guided, noise_BD: Tensor, denoising: Denoising, particles: LatentParticles, generator: Randomness,
    report: Report,
) -> Weighted:  # fmt: skip
    levels = denoising.schedule.levels(denoising.steps, noise_BD.dtype)
    noisy_BD, now_B = noise_BD, levels[0].expand(len(noise_BD))
    plain_BD, leant_BD, value_B = guided.lean(noisy_BD, now_B)
    groups = (-1, particles.number)
    log_weight_GN, log_z_G = value_B.double().unflatten(0, groups), torch.zeros(len(noise_BD) // particles.number)
    for index in range(1, denoising.steps):
        log_weight_GN, gained_G, row_B = _resampled(log_weight_GN, particles.threshold, generator)
        log_z_G = log_z_G + gained_G
        noisy_BD, plain_BD, leant_BD, value_B = (x[row_B] for x in (noisy_BD, plain_BD, leant_BD, value_B))
        next_B = levels[index].expand(len(noise_BD))
        plain_mean_BD, deviation_B1 = backward(
            noisy_BD, clipped(plain_BD, denoising.most), now_B, next_B, denoising.variance
        )
        mean_BD, _ = backward(noisy_BD, clipped(leant_BD, denoising.most), now_B, next_B, denoising.variance)
        drawn_BD = normal_like(mean_BD, generator)
        noisy_BD, now_B = mean_BD + deviation_B1 * drawn_BD, next_B
        ratio_B = 0.5 * (drawn_BD.square() - ((noisy_BD - plain_mean_BD) / deviation_B1).square()).double().sum(1)
        before_B = value_B
        plain_BD, leant_BD, value_B = guided.lean(noisy_BD, now_B)
        log_weight_GN = log_weight_GN + (ratio_B + value_B.double() - before_B.double()).unflatten(0, groups)
        report("particles", index, denoising.steps)
    latent_BD = clipped(plain_BD, denoising.most)  # as the last plain step, which draws nothing
    last_B = guided.log_weight(latent_BD).double() - value_B.double()
    report("particles", denoising.steps, denoising.steps)
    return _weighted(latent_BD, log_weight_GN + last_B.unflatten(0, groups), log_z_G)


def _resampled(log_weight_GN: Tensor, threshold: float, generator: Randomness) -> tuple[Tensor, Tensor, Tensor]:
    """Weights after resampling where it was due, what that adds to log Z by group, and the row of each ancestor."""
    num_groups, number = log_weight_GN.shape
    row_GN = torch.arange(num_groups * number).view(num_groups, number).clone()
    gained_G, log_weight_GN = torch.zeros(num_groups, dtype=torch.float64), log_weight_GN.clone()
    is_due_G = (_effective(log_weight_GN) < threshold * number) | (threshold == 1)
    for g in is_due_G.nonzero()[:, 0].tolist():
        uniform_N = torch.rand(number, generator=of_group(generator, g), dtype=torch.float64)
        row_GN[g] = g * number + stratified(log_weight_GN[g].softmax(0), uniform_N)
    gained_G[is_due_G] = torch.logsumexp(log_weight_GN[is_due_G], 1) - math.log(number)
    log_weight_GN[is_due_G] = 0.0
    return log_weight_GN, gained_G, row_GN.flatten()


def _weighted(latent_BD: Tensor, log_weight_GN: Tensor, log_z_G: Tensor | float) -> Weighted:
    number = log_weight_GN.shape[1]
    return Weighted(
        latent_GND=latent_BD.unflatten(0, (-1, number)),
        log_prob_GN=log_normalize(log_weight_GN),
        log_z_G=torch.logsumexp(log_weight_GN, 1) - math.log(number) + log_z_G,
        effective_G=_effective(log_weight_GN),
    )


def _effective(log_weight_GN: Tensor) -> Tensor:
    """(sum w)^2 / sum w^2 of each group, [G]; guides are positive, so some weight always is."""
    return 1 / log_weight_GN.softmax(1).square().sum(1)
