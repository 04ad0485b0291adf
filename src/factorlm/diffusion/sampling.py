"""From noise to latents, step by step, with a denoiser that guesses the latent in a noisy one.

Sources: ancestral sampling, Ho et al. (2020), arXiv:2006.11239; DDIM, Song et al. (2021), arXiv:2010.02502;
DPM-Solver++(2M), Lu et al. (2022), arXiv:2211.01095.
"""

# Axes: B rows, D numbers of a latent.

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from factorlm.diffusion.levels import Schedule, noise_from_clean, noise_share, noised, signal
from factorlm.models.progress import Report, quiet
from factorlm.settings import Config

Denoise = Callable[[Tensor, Tensor], Tensor]
"""From noisy latents [B, D] and their log-SNR [B] to the mean of the latents given them, [B, D]."""

Randomness = torch.Generator | Sequence[torch.Generator]
"""One for all rows, or one for each group of equally many rows, which then does not depend on the others."""


class Denoising(Config):
    """How latents are drawn.

    Attributes:
        method: ancestral (draws at every step), ddim or dpm (deterministic once the first noise is drawn; dpm looks
            back one step, and needs the fewest).
        steps: of denoising.
        variance: of ancestral steps: 1 takes the variance of a step backwards if the latent could be anything, 0 that
            if it were known, and between them their geometric mean of this share.
        schedule: of noise.
        most: latents are clipped to so many standard deviations at every step; None leaves them.
    """

    method: Literal["ancestral", "ddim", "dpm"] = "ancestral"
    steps: PositiveInt = 50
    variance: Annotated[float, Field(ge=0, le=1)] = 0.2
    schedule: Schedule = Schedule()
    most: PositiveFloat | None = None


LEAST_VARIANCE = 1e-20  # of a step; levels at the ends of a schedule can be equal


@dataclass(frozen=True, eq=False)
class Step:
    """Where denoising stands.

    Attributes:
        index: of the step, from 0.
        log_snr: before it.
        noisy_BD: latents before it.
        clean_BD: the denoiser's guess.
    """

    index: int
    log_snr: float
    noisy_BD: Tensor
    clean_BD: Tensor


def draw(denoise: Denoise, noise_BD: Tensor, settings: Denoising, generator: Randomness,
         report: Report = quiet) -> Tensor:  # fmt: skip
    """Latents [B, D] drawn by a denoiser; see `walk`."""
    clean_BD = noise_BD
    for step in walk(denoise, noise_BD, settings, generator):
        clean_BD = step.clean_BD
        report("denoising", step.index + 1, settings.steps)
    return clean_BD


def walk(denoise: Denoise, noise_BD: Tensor, settings: Denoising, generator: Randomness) -> Iterator[Step]:
    """Every step of drawing latents; the last guess is what was drawn.

    Args:
        denoise: guesses latents.
        noise_BD: standard normal numbers, where it starts.
        settings: how.
        generator: draws the noise of ancestral steps.
    """
    levels = settings.schedule.levels(settings.steps, noise_BD.dtype).to(noise_BD.device)
    noisy_BD, before_BD = noise_BD, None
    for index in range(settings.steps):
        now_B = levels[index].expand(len(noise_BD))
        clean_BD = clipped(denoise(noisy_BD, now_B), settings.most)
        yield Step(index, float(levels[index]), noisy_BD, clean_BD)
        if index + 1 == settings.steps:
            return
        next_B = levels[index + 1].expand(len(noise_BD))
        if settings.method == "ancestral":
            mean_BD, deviation = backward(noisy_BD, clean_BD, now_B, next_B, settings.variance)
            noisy_BD = mean_BD + deviation * normal_like(mean_BD, generator)
        elif settings.method == "ddim" or before_BD is None:
            noisy_BD = noised(clean_BD, noise_from_clean(noisy_BD, clean_BD, now_B), next_B)
        else:
            last, now, then = (0.5 * float(levels[i]) for i in (index - 1, index, index + 1))
            slope_BD = (clean_BD - before_BD) * ((then - now) / (now - last) / 2 if now > last else 0.0)
            ratio = noise_share(levels[index + 1]) / noise_share(levels[index])
            noisy_BD = ratio * noisy_BD - signal(levels[index + 1]) * math.expm1(now - then) * (clean_BD + slope_BD)
        before_BD = clean_BD


def backward(
    noisy_BD: Tensor, clean_BD: Tensor, now_B: Tensor, next_B: Tensor, variance: float
) -> tuple[Tensor, Tensor]:
    """Mean [B, D] and standard deviation [B, 1] of an ancestral step to less noise, for a guess of the latent."""
    signal_now, signal_next = signal(now_B)[:, None], signal(next_B)[:, None]
    noise_now, noise_next = noise_share(now_B)[:, None], noise_share(next_B)[:, None]
    kept = signal_now / signal_next  # of a step forward from the next level to this one, which adds the rest as noise
    added = (noise_now**2 * -torch.expm1((now_B - next_B)[:, None])).clamp(min=LEAST_VARIANCE)
    mean_BD = (kept * noise_next**2 * noisy_BD + signal_next * added * clean_BD) / noise_now**2
    least, most = (added.log() + 2 * (noise_next / noise_now).log()), added.log()
    return mean_BD, (0.5 * (variance * most + (1 - variance) * least)).exp()


def normal_like(other: Tensor, generator: Randomness) -> Tensor:
    """Standard normal numbers of this shape, which do not depend on the device."""
    return normal(len(other), other.shape[1:], generator, other.dtype).to(other.device)


def normal(rows: int, shape: Sequence[int], generator: Randomness, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal numbers [rows, *shape]."""
    if isinstance(generator, torch.Generator):
        return torch.randn(rows, *shape, generator=generator, dtype=dtype)
    each = rows // len(generator)
    return torch.cat([torch.randn(each, *shape, generator=own, dtype=dtype) for own in generator])


def of_group(generator: Randomness, group: int) -> torch.Generator:
    """What a group draws by."""
    return generator if isinstance(generator, torch.Generator) else generator[group]


def clipped(clean_BD: Tensor, most: float | None) -> Tensor:
    """Latents within so many standard deviations; as they are for None."""
    return clean_BD if most is None else clean_BD.clamp(-most, most)
