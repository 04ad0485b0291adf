"""Levels of noise, and what a guess of one thing says of the others.

A latent x is mixed with noise e as z = a x + s e, a^2 + s^2 = 1. A level is named by its log signal-to-noise ratio
log(a^2 / s^2), from which a and s come without loss at both ends. Networks guess the velocity v = a e - s x, whose
errors weigh alike at all levels. Sources: Kingma et al. (2021), arXiv:2107.00630; Salimans and Ho (2022),
arXiv:2202.00512.
"""

# Axes: B rows, D numbers of a latent, L levels.

from __future__ import annotations

import math

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor
from torch.nn.functional import logsigmoid

from factorlm.settings import Config

WIDEST = 15.0  # nats of log-SNR at either end, beyond which a level is as good as pure noise or none


class Schedule(Config):
    """The cosine schedule a(t) = cos(pi t / 2), its log-SNR shifted by 2 log(scale).

    Sources: Nichol and Dhariwal (2021), arXiv:2102.09672; the shift, Hoogeboom et al. (2023), arXiv:2301.11093.

    Attributes:
        scale: above 1 there is less noise at each time.
        widest: nats of log-SNR at either end.
    """

    scale: PositiveFloat = 1.0
    widest: PositiveFloat = WIDEST

    def log_snr(self, time: Tensor) -> Tensor:
        """Of times from 0 (no noise) to 1 (nothing else); falls with time."""
        angle = (time * (math.pi / 2)).clamp(1e-9, math.pi / 2 - 1e-9)
        return (-2 * angle.tan().log() + 2 * math.log(self.scale)).clamp(-self.widest, self.widest)

    def levels(self, num_steps: PositiveInt, dtype: torch.dtype = torch.float32) -> Tensor:
        """Log-SNR at equal times from 1 to 0, [num_steps + 1]."""
        return self.log_snr(torch.linspace(1, 0, num_steps + 1, dtype=torch.float64)).to(dtype)


def signal(log_snr: Tensor) -> Tensor:
    """The share a of the latent."""
    return (0.5 * logsigmoid(log_snr)).exp()


def noise_share(log_snr: Tensor) -> Tensor:
    """The share s of the noise."""
    return (0.5 * logsigmoid(-log_snr)).exp()


def noised(clean_BD: Tensor, noise_BD: Tensor, log_snr_B: Tensor) -> Tensor:
    """The latents z at these levels, [B, D]."""
    return _a(log_snr_B) * clean_BD + _s(log_snr_B) * noise_BD


def velocity_of(clean_BD: Tensor, noise_BD: Tensor, log_snr_B: Tensor) -> Tensor:
    """What a network guesses of latents with this noise, [B, D]."""
    return _a(log_snr_B) * noise_BD - _s(log_snr_B) * clean_BD


def clean_from_velocity(noisy_BD: Tensor, velocity_BD: Tensor, log_snr_B: Tensor) -> Tensor:
    """The latents that velocities speak of, [B, D]."""
    return _a(log_snr_B) * noisy_BD - _s(log_snr_B) * velocity_BD


def noise_from_velocity(noisy_BD: Tensor, velocity_BD: Tensor, log_snr_B: Tensor) -> Tensor:
    """The noise that velocities speak of, [B, D]."""
    return _s(log_snr_B) * noisy_BD + _a(log_snr_B) * velocity_BD


def noise_from_clean(noisy_BD: Tensor, clean_BD: Tensor, log_snr_B: Tensor) -> Tensor:
    """The noise in z if the latent were this, [B, D]."""
    return (noisy_BD - _a(log_snr_B) * clean_BD) / _s(log_snr_B)


def clean_from_noise(noisy_BD: Tensor, noise_BD: Tensor, log_snr_B: Tensor) -> Tensor:
    """The latent in z if the noise were this, [B, D]."""
    return (noisy_BD - _s(log_snr_B) * noise_BD) / _a(log_snr_B)


def _a(log_snr_B: Tensor) -> Tensor:
    return signal(log_snr_B)[:, None]


def _s(log_snr_B: Tensor) -> Tensor:
    return noise_share(log_snr_B)[:, None]
