"""Guidance: a prior over latents tilted by guides, as a denoiser that leans towards what they like.

For the prior tilted by g, the mean of the latent x given a noisy one z is, by Tweedie's formula,

    E[x | z, tilted] = E[x | z] + (s^2 / a) grad_z log E[g(x) | z],

so a guided denoiser is a denoiser, and every sampler takes it. What is not known is the law of x given z; it is taken
for a Gaussian around the guess, from which g is averaged over some draws. That is right near the end and rough at high
noise, which is why `particles` exists: it uses guidance to propose, and corrects it by weights.

Sources: loss-guided diffusion, Song et al. (2023, ICML); for language, Lovelace et al. (2024), arXiv:2408.04220.
"""

# Axes: B rows, D numbers of a latent, G guides, S draws.

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from pydantic import PositiveInt
from torch import Tensor

from factorlm.diffusion.levels import noise_share, signal
from factorlm.diffusion.sampling import Denoise
from factorlm.errors import InputError
from factorlm.settings import Config


class Guide(Protocol):
    """What is wanted of a latent."""

    def log_prob(self, latent_BD: Tensor) -> Tensor:
        """Log probability that a latent has it, [B], in nats; gradients flow through it."""


@runtime_checkable
class ReadsNoise(Protocol):
    """A guide that was learned at every level of noise."""

    def log_prob_at(self, noisy_BD: Tensor, log_snr_B: Tensor) -> Tensor:
        """Log probability that what a noisy latent will be has it, [B], in nats; gradients flow through it."""


class Guidance(Config):
    """How guides lean on a denoiser.

    Attributes:
        form: where strengths stand. "tilt" takes log E[prod_i g_i^strength_i], so that the tilted prior is
            prior * prod_i g_i^strength_i; "scaled" takes sum_i strength_i log E[g_i], as published; "released" takes
            -sum_i strength_i log E[1 / g_i], as the published program does, which minds the worst draws most;
            "noisy" takes sum_i strength_i log g_i(z) of guides that read noisy latents, without draws.
        draws: of the latent given a noisy one.
        spread: variance of these, "posterior" s^2 (right for latents of unit variance) or "likelihood" s^2 / a^2 (as
            published: much wider at high noise).
        seed: of the draws, which are the same for every latent: a lean depends on the latent alone.
    """

    form: Literal["tilt", "scaled", "released", "noisy"] = "tilt"
    draws: PositiveInt = 32
    spread: Literal["posterior", "likelihood"] = "posterior"
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Guided:
    """A denoiser of a tilted prior; a `sampling.Denoise`.

    Attributes:
        denoise: of the prior itself.
        guides: what is wanted.
        strengths: of each guide, at least one of both.
        guidance: how they lean.
        noise_SD: standard normal numbers, the same at every step: the lean is then a function of the latent alone, as
            particles need it.
    """

    denoise: Denoise
    guides: Sequence[Guide]
    strengths: Sequence[float]
    guidance: Guidance
    noise_SD: Tensor

    @staticmethod
    def of(
        denoise: Denoise, guides: Sequence[Guide], strengths: Sequence[float], guidance: Guidance, width: int
    ) -> Guided:
        """For latents of so many numbers.

        Raises:
            InputError: if noisy latents are to be read, and a guide cannot.
        """
        if guidance.form == "noisy" and not all(isinstance(guide, ReadsNoise) for guide in guides):
            raise InputError("guides that read noisy latents are needed for the form noisy; take another form")
        noise_SD = torch.randn(guidance.draws, width, generator=torch.Generator().manual_seed(guidance.seed))
        return Guided(denoise, guides, strengths, guidance, noise_SD)

    def __call__(self, noisy_BD: Tensor, log_snr_B: Tensor) -> Tensor:
        """The guided guess, [B, D]."""
        return self.lean(noisy_BD, log_snr_B)[1]

    def lean(self, noisy_BD: Tensor, log_snr_B: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The plain guess [B, D], the guided one [B, D], and log E[g | z], [B], in nats."""
        if not any(self.strengths):
            clean_BD = self.denoise(noisy_BD, log_snr_B)
            return clean_BD, clean_BD, clean_BD.new_zeros(len(clean_BD))
        with torch.enable_grad():
            leaf_BD = noisy_BD.detach().requires_grad_(True)
            if self.guidance.form == "noisy":
                with torch.no_grad():
                    clean_BD = self.denoise(noisy_BD, log_snr_B)
                value_B = self._log_noisy(leaf_BD, log_snr_B)
            else:
                clean_BD = self.denoise(leaf_BD, log_snr_B)
                value_B = self._log_mean(clean_BD, log_snr_B)
            [slope_BD] = torch.autograd.grad(value_B.sum(), leaf_BD)
        gain_B = noise_share(log_snr_B) ** 2 / signal(log_snr_B)
        clean_BD = clean_BD.detach()
        return clean_BD, clean_BD + gain_B[:, None] * slope_BD, value_B.detach()

    def log_weight(self, clean_BD: Tensor) -> Tensor:
        """Log g of finished latents, sum_i strength_i log g_i, [B], in nats."""
        return self._sum(clean_BD, lambda guide: guide.log_prob(clean_BD))

    def _sum(self, latent_BD: Tensor, term: Callable[[Guide], Tensor]) -> Tensor:
        """Sum of a term of each guide, times its strength, [B]."""
        total_B = latent_BD.new_zeros(len(latent_BD))
        for guide, strength in zip(self.guides, self.strengths, strict=True):
            total_B = total_B + strength * term(guide)
        return total_B

    def _log_noisy(self, noisy_BD: Tensor, log_snr_B: Tensor) -> Tensor:
        def term(guide: Guide) -> Tensor:
            assert isinstance(guide, ReadsNoise)
            return guide.log_prob_at(noisy_BD, log_snr_B)

        return self._sum(noisy_BD, term)

    def _log_mean(self, clean_BD: Tensor, log_snr_B: Tensor) -> Tensor:
        scale_B = noise_share(log_snr_B)
        if self.guidance.spread == "likelihood":
            scale_B = scale_B / signal(log_snr_B)
        draws_BSD = clean_BD[:, None] + scale_B[:, None, None] * self.noise_SD.to(clean_BD)
        shape, num_draws = draws_BSD.shape[:2], len(self.noise_SD)
        if self.guidance.form == "tilt":
            return torch.logsumexp(self.log_weight(draws_BSD.flatten(0, 1)).unflatten(0, shape), 1) - math.log(
                num_draws
            )
        sign = 1.0 if self.guidance.form == "scaled" else -1.0

        def term(guide: Guide) -> Tensor:
            log_prob_BS = guide.log_prob(draws_BSD.flatten(0, 1)).unflatten(0, shape)
            return sign * (torch.logsumexp(sign * log_prob_BS, 1) - math.log(num_draws))

        return self._sum(clean_BD, term)
