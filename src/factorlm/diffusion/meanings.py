"""A prior over what is said next: latents proposed for a prefix, leant on by guides, told to a decoder.

In the words of the design: mu is the law of latents given the prefix, which a diffusion draws; g are guides; the
component of a latent is the language model that has it in mind. A latent is drawn once for each response.

Source: Lovelace et al. (2024), arXiv:2408.04220.
"""

# Axes: B rows, C numbers of a condition, D numbers of a latent, G guides, S steps.

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from factorlm.diffusion.collection import Collection
from factorlm.diffusion.decoders import BiasDecoder, PlanNetwork, SoftDecoder
from factorlm.diffusion.decoding import bias_decoder, soft_decoder
from factorlm.diffusion.denoiser import Denoiser
from factorlm.diffusion.guidance import Guidance, Guide, Guided
from factorlm.diffusion.guides import Standard
from factorlm.diffusion.levels import Schedule, noised
from factorlm.diffusion.particles import LatentParticles, sample_latents
from factorlm.diffusion.sampling import Denoising, Randomness, normal, normal_like, walk
from factorlm.errors import InputError
from factorlm.models import CausalLM
from factorlm.models.progress import Report, quiet
from factorlm.settings import Config

Encode = Callable[[Sequence[str]], Tensor]
"""From texts to vectors of length one, [B, D]."""

DecoderKind = Literal["soft", "bias"]

FEW_STEPS = Denoising(method="dpm", steps=20, schedule=Schedule(widest=8.0), most=4.0)
"""Begins where a latent first shows: in more noise a lean is a slope of the network, errors and all, times e^7."""


class Proposing(Config):
    """How latents are proposed.

    Attributes:
        denoising: how they are drawn.
        guidance: how guides lean.
        scale: of the prefix: 1 is the prior given it, 0 without; see `Denoiser.given`.
        particles: to draw from the tilted prior itself, in the limit; None takes what guidance gives. The denoising
            must be ancestral.
    """

    denoising: Denoising = FEW_STEPS
    guidance: Guidance = Guidance()
    scale: float = 1.0
    particles: LatentParticles | None = None


@dataclass(frozen=True, eq=False)
class Proposal:
    """Latents for some prefixes.

    Attributes:
        latent_BD: standardised.
        vector_BD: of length one, which they stand for.
        guide_prob_SGB: probability that each guide gave the guess at each step; empty with particles.
        effective_B: number of particles that counted; empty without them.
    """

    latent_BD: Tensor
    vector_BD: Tensor
    guide_prob_SGB: Tensor
    effective_B: Tensor


@dataclass(frozen=True, eq=False)
class Meanings:
    """A diffusion over latents of continuations, given those of prefixes, and decoders of latents.

    Attributes:
        lm: the language model.
        encode: texts into vectors.
        before: of the vectors of prefixes.
        after: of the vectors of continuations.
        denoiser: of the latter given the former.
        soft: makes plans of latents; None if it was not learned.
        bias: makes biases of latents; None if it was not learned.
        trust: log-SNR to which a proposal is noised for the decoder of plans, which was learned with noise, in nats.
        collection: real sentences, by which latents are shown and guides made of words.
        heed: of each kind of decoder, how far what is written moves with a latent; see `checks.measure_heed`.
    """

    lm: CausalLM
    encode: Encode
    before: Standard
    after: Standard
    denoiser: Denoiser
    soft: PlanNetwork | None = None
    bias: nn.Linear | None = None
    trust: float = 2.944  # a share of 0.95 of the variance is signal, as published
    collection: Collection | None = None
    heed: Mapping[DecoderKind, float] = field(default_factory=dict)

    def propose(
        self, prefixes: Sequence[str], generator: Randomness, settings: Proposing, *,
        guides: Sequence[Guide] = (), strengths: Sequence[float] = (), report: Report = quiet,
    ) -> Proposal:  # fmt: skip
        """A latent for each prefix, drawn from the prior tilted by guides.

        Args:
            prefixes: what is continued.
            generator: of everything random, maybe one for each prefix, whose latent then does not depend on the others;
                without guides, or with strengths of zero, the same latents are drawn.
            settings: how.
            guides: what is wanted.
            strengths: of each guide.
            report: told of progress.

        Raises:
            InputError: if there are no prefixes, or not as many strengths as guides.
        """
        if not prefixes:
            raise InputError("at least one prefix is needed, got none")
        if len(guides) != len(strengths):
            raise InputError(f"a strength for each guide is needed, got {len(strengths)} for {len(guides)}")
        condition_BC = self.before.latent(self.encode(prefixes))
        each = 1 if settings.particles is None else settings.particles.number
        condition_BC = condition_BC.repeat_interleave(each, 0)
        width = len(self.after.mean_D)
        noise_BD = normal(len(condition_BC), (width,), generator)
        denoise = self.denoiser.given(condition_BC, settings.scale)
        guided = Guided.of(denoise, guides, strengths, settings.guidance, width)
        if settings.particles is not None:
            found = sample_latents(guided, noise_BD, settings.denoising, settings.particles, generator, report)
            latent_BD = found.draw(generator)
            return Proposal(latent_BD, self.after.vector(latent_BD), torch.empty(0), found.effective_G)
        latent_BD, probs = noise_BD, []
        for step in walk(guided, noise_BD, settings.denoising, generator):
            latent_BD = step.clean_BD
            with torch.no_grad():
                probs += [torch.stack([guide.log_prob(latent_BD).exp() for guide in guides])] if guides else []
            report("meanings", step.index + 1, settings.denoising.steps)
        probs_SGB = torch.stack(probs) if probs else torch.empty(0)
        return Proposal(latent_BD, self.after.vector(latent_BD), probs_SGB, torch.empty(0))

    def decoder(
        self, latent_BD: Tensor, generator: Randomness, kind: DecoderKind = "soft"
    ) -> SoftDecoder | BiasDecoder:
        """The language model with a latent in mind for each row.

        Raises:
            InputError: if this kind of decoder was not learned.
        """
        if kind == "soft" and self.soft is not None:
            log_snr_B = torch.full((len(latent_BD),), self.trust)
            noise_BD = normal_like(latent_BD, generator)
            return soft_decoder(self.lm, self.soft, noised(latent_BD, noise_BD, log_snr_B), self.trust)
        if kind == "bias" and self.bias is not None:
            return bias_decoder(self.lm, self.bias, latent_BD)
        raise InputError(f"a decoder of the kind {kind} was not learned; there are: {', '.join(self.kinds) or 'none'}")

    @property
    def kinds(self) -> tuple[DecoderKind, ...]:
        """Of decoders that were learned."""
        known: tuple[tuple[DecoderKind, object], ...] = (("soft", self.soft), ("bias", self.bias))
        return tuple(kind for kind, network in known if network is not None)
