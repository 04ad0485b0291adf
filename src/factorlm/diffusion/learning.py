"""Learning a denoiser from latents and what they come with.

The loss is the squared error of the velocity, averaged over log-SNR with a weight that falls away at both ends. Levels
are drawn where the loss is large and counted for less there, which changes its noise and not its mean. What is kept is
a mean of the weights over the last steps.

Sources: Kingma and Gao (2023), arXiv:2303.00848 (weights, drawn levels); Lovelace et al. (2024), arXiv:2408.04220.
"""

# Axes: B rows of a batch, C numbers of a condition, D numbers of a latent, L bins of levels, N examples.

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from factorlm.diffusion.denoiser import Denoiser, DenoiserSettings
from factorlm.diffusion.levels import noised, velocity_of
from factorlm.diffusion.training import Run, Training
from factorlm.errors import InputError
from factorlm.models.progress import Report, quiet

EVEN = 0.1  # share of levels that are drawn evenly, so that no bin is forgotten


class DenoiserLearning(Training):
    """How a denoiser is learned; see Training for the steps.

    Attributes:
        network: its sizes.
        absent: share of rows whose condition is left out.
        widest: levels are drawn from this many nats of log-SNR on either side of 0.
        deviation: of the weight of levels: normal where there is more signal, Cauchy where there is more noise.
        bins: of levels, whose losses are remembered.
        remembered: of the loss of a bin, at each step that sees it.
    """

    network: DenoiserSettings = DenoiserSettings()
    absent: Annotated[float, Field(ge=0, lt=1)] = 0.1
    widest: PositiveFloat = 10.0
    deviation: PositiveFloat = 2.4
    bins: PositiveInt = 100
    remembered: Annotated[float, Field(ge=0, lt=1)] = 0.9


def level_weight(log_snr: Tensor, deviation: float) -> Tensor:
    """How much the loss of a level counts; 1 at log-SNR 0."""
    ratio = log_snr / deviation
    return torch.where(log_snr >= 0, (-0.5 * ratio**2).exp(), 1 / (1 + ratio**2))


class Levels:
    """Draws levels where the loss is large."""

    def __init__(self, settings: DenoiserLearning) -> None:
        self.settings = settings
        self.loss_L = torch.ones(settings.bins)

    @property
    def prob_L(self) -> Tensor:
        """Of each bin."""
        share_L = self.loss_L / self.loss_L.sum()
        return (1 - EVEN) * share_L + EVEN / len(share_L)

    def draw(self, number: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Log-SNR, and the weight that makes up for how it was drawn, [number] each.

        The mean of weight * f(log-SNR) is the mean of f over the whole range, whatever the bins remember.
        """
        bin_B = torch.multinomial(self.prob_L, number, replacement=True, generator=generator)
        place_B = (bin_B + torch.rand(number, generator=generator)) / self.settings.bins
        return self.settings.widest * (2 * place_B - 1), 1 / (self.settings.bins * self.prob_L[bin_B])

    def see(self, log_snr_B: Tensor, loss_B: Tensor) -> None:
        """Remember losses, each weighed by its level."""
        place_B = (log_snr_B / self.settings.widest + 1) / 2 * self.settings.bins
        bin_B = place_B.long().clamp(0, self.settings.bins - 1)
        count_L = torch.bincount(bin_B, minlength=self.settings.bins)
        mean_L = torch.zeros(self.settings.bins).index_add_(0, bin_B, loss_B) / count_L.clamp(min=1)
        kept = self.settings.remembered
        self.loss_L.copy_(torch.where(count_L > 0, kept * self.loss_L + (1 - kept) * mean_L, self.loss_L))


def learn_denoiser(
    latent_ND: Tensor, condition_NC: Tensor, settings: DenoiserLearning, *, checkpoint: Path | None = None,
    report: Report = quiet,
) -> Denoiser:  # fmt: skip
    """A denoiser of latents given conditions, both of about unit variance.

    Args:
        latent_ND: of the examples.
        condition_NC: of the examples.
        settings: how.
        checkpoint: a file that keeps the run while it goes on; one that was stopped goes on from it.
        report: told of progress.

    Raises:
        InputError: if there are no examples, or not as many conditions.
    """
    if not len(latent_ND) or len(latent_ND) != len(condition_NC):
        raise InputError(
            f"latents and as many conditions are needed, got {len(latent_ND)} and {len(condition_NC)}; give more texts"
        )
    latent_ND, condition_NC, levels = latent_ND.float(), condition_NC.float(), Levels(settings)
    run = Run(
        lambda: Denoiser(settings.network, latent_ND.shape[1], condition_NC.shape[1]), settings,
        (latent_ND, condition_NC), checkpoint=checkpoint, remembered={"levels": levels.loss_L},
    )  # fmt: skip

    def loss() -> Tensor:
        generator = run.generator
        row_B = torch.randint(len(latent_ND), (settings.batch,), generator=generator)
        log_snr_B, correction_B = levels.draw(settings.batch, generator)
        clean_BD = latent_ND[row_B]
        noise_BD = torch.randn(clean_BD.shape, generator=generator)
        is_kept_B = torch.rand(settings.batch, generator=generator) >= settings.absent
        noisy_BD = noised(clean_BD, noise_BD, log_snr_B)
        guessed_BD = run.network(noisy_BD, log_snr_B, condition_NC[row_B], is_kept_B)
        error_BD = guessed_BD - velocity_of(clean_BD, noise_BD, log_snr_B)
        loss_B = level_weight(log_snr_B, settings.deviation) * error_BD.square().mean(1)
        levels.see(log_snr_B, loss_B.detach())
        return (correction_B * loss_B).mean()

    return run.go(loss, "denoiser", report)
