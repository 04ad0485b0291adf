"""The network that guesses the latent in a noisy one, given what the prior is conditioned on.

Residual blocks whose scale, shift and gate follow the level of noise (FiLM, Perez et al., 2018, arXiv:1709.07871);
every block begins as the identity. What it is conditioned on can be left out, by a vector that was learned for that
(Ho and Salimans, 2022, arXiv:2207.12598).
"""

# Axes: B rows, C numbers of a condition, D numbers of a latent, H numbers inside.

from __future__ import annotations

import math

import torch
from pydantic import PositiveInt
from torch import Tensor, nn

from factorlm.diffusion.levels import clean_from_velocity
from factorlm.diffusion.sampling import Denoise
from factorlm.settings import Config

LONGEST, SHORTEST = 0.05, 5.0  # radians per nat of log-SNR: a wave longer than the whole range, and a short one


class DenoiserSettings(Config):
    """Sizes.

    Attributes:
        width: numbers inside.
        blocks: how many.
        waves: of each kind, in which the level of noise is told.
    """

    width: PositiveInt = 768
    blocks: PositiveInt = 6
    waves: PositiveInt = 32


class Denoiser(nn.Module):
    """Velocities of noisy latents; see `levels`."""

    def __init__(self, settings: DenoiserSettings, num_latent: int, num_condition: int) -> None:
        super().__init__()
        self.settings = settings
        self.frequency_W = nn.Buffer(
            torch.logspace(math.log10(LONGEST), math.log10(SHORTEST), settings.waves), persistent=False
        )
        self.absent_C = nn.Parameter(torch.zeros(num_condition))
        self.enter = nn.Linear(num_latent + num_condition, settings.width)
        self.level = nn.Sequential(nn.Linear(2 * settings.waves, settings.width), nn.SiLU())
        self.blocks = nn.ModuleList(Block(settings.width) for _ in range(settings.blocks))
        self.norm = nn.LayerNorm(settings.width)
        self.leave = nn.Linear(settings.width, num_latent)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(self, noisy_BD: Tensor, log_snr_B: Tensor, condition_BC: Tensor, is_kept_B: Tensor) -> Tensor:
        """The velocity, [B, D].

        Args:
            noisy_BD: latents.
            log_snr_B: their levels.
            condition_BC: what they are conditioned on.
            is_kept_B: whether a row is; the others are as if nothing were known.
        """
        condition_BC = torch.where(is_kept_B[:, None], condition_BC, self.absent_C)
        angle_BW = log_snr_B[:, None] * self.frequency_W
        level_BH = self.level(torch.cat([angle_BW.sin(), angle_BW.cos()], 1))
        inside_BH = self.enter(torch.cat([noisy_BD, condition_BC], 1))
        for block in self.blocks:
            inside_BH = block(inside_BH, level_BH)
        velocity_BD: Tensor = self.leave(self.norm(inside_BH))
        return velocity_BD

    def given(self, condition_BC: Tensor, scale: float = 1.0) -> Denoise:
        """The denoiser of the prior given a condition for each row.

        Args:
            condition_BC: of the rows, or of one row that all share.
            scale: 1 is the prior given the condition, 0 the prior without it; above 1 leans away from the latter.
        """

        def denoise(noisy_BD: Tensor, log_snr_B: Tensor) -> Tensor:
            given_BC = condition_BC.expand(len(noisy_BD), -1)
            velocity_BD = noisy_BD.new_zeros(noisy_BD.shape)
            for share, is_kept in ((scale, True), (1 - scale, False)):
                if share:
                    is_kept_B = torch.full((len(noisy_BD),), is_kept, device=noisy_BD.device)
                    velocity_BD = velocity_BD + share * self(noisy_BD, log_snr_B, given_BC, is_kept_B)
            return clean_from_velocity(noisy_BD, velocity_BD, log_snr_B)

        return denoise


class Block(nn.Module):
    """A residual step that the level of noise scales, shifts and gates."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.film = nn.Linear(width, 3 * width)
        self.up, self.down = nn.Linear(width, width), nn.Linear(width, width)
        nn.init.zeros_(self.film.weight)
        nn.init.zeros_(self.film.bias)

    def forward(self, inside_BH: Tensor, level_BH: Tensor) -> Tensor:
        """The numbers inside, after it."""
        scale_BH, shift_BH, gate_BH = self.film(level_BH).chunk(3, 1)
        changed_BH = self.norm(inside_BH) * (1 + scale_BH) + shift_BH
        after_BH: Tensor = inside_BH + gate_BH * self.down(nn.functional.silu(self.up(changed_BH)))
        return after_BH
