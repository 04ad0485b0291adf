"""Mixtures of round Gaussians: priors over latents whose denoiser and whose tilt are known exactly.

What a learned denoiser, a sampler and a guide do to them can be compared with the truth, so outside authors check their
own against these; they are also the smallest priors that there are.
"""

# Axes: B rows, D numbers of a latent, K Gaussians.

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from factorlm.diffusion.levels import noise_share, signal


@dataclass(frozen=True, eq=False)
class Gaussians:
    """A mixture of Gaussians with one variance in all directions each.

    Attributes:
        log_prob_K: log weights, which sum to one.
        mean_KD: of each.
        deviation_K: standard deviation of each.
    """

    log_prob_K: Tensor
    mean_KD: Tensor
    deviation_K: Tensor

    def log_density(self, latent_BD: Tensor) -> Tensor:
        """In nats, [B]."""
        return torch.logsumexp(self.log_prob_K + self._log_normal(latent_BD), 1)

    def denoise(self, noisy_BD: Tensor, log_snr_B: Tensor) -> Tensor:
        """The exact mean of the latent given a noisy one, [B, D]; a `sampling.Denoise`."""
        a_B1, s_B1 = signal(log_snr_B)[:, None], noise_share(log_snr_B)[:, None]
        total_BK = a_B1**2 * self.deviation_K**2 + s_B1**2
        distance_BKD = noisy_BD[:, None] - a_B1[:, :, None] * self.mean_KD
        log_lik_BK = -0.5 * (distance_BKD.square().sum(2) / total_BK + self.mean_KD.shape[1] * total_BK.log())
        resp_BK = (self.log_prob_K + log_lik_BK).softmax(1)
        gain_BK = a_B1 * self.deviation_K**2 / total_BK
        return (resp_BK[:, :, None] * (self.mean_KD + gain_BK[:, :, None] * distance_BKD)).sum(1)

    def tilted(self, slope_D: Tensor) -> tuple[Gaussians, float]:
        """The mixture ∝ p(x) exp(slope . x), and log E[exp(slope . x)] in nats."""
        shift_K = self.mean_KD @ slope_D + 0.5 * self.deviation_K**2 * slope_D.square().sum()
        log_weight_K = self.log_prob_K + shift_K
        log_total = torch.logsumexp(log_weight_K, 0)
        moved_KD = self.mean_KD + self.deviation_K[:, None] ** 2 * slope_D
        return Gaussians(log_weight_K - log_total, moved_KD, self.deviation_K), float(log_total)

    def draw(self, number: int, generator: torch.Generator) -> Tensor:
        """Latents, [number, D]."""
        chosen_B = torch.multinomial(self.log_prob_K.exp(), number, replacement=True, generator=generator)
        shape = (number, self.mean_KD.shape[1])
        noise_BD = torch.randn(shape, generator=generator, dtype=self.mean_KD.dtype)
        return self.mean_KD[chosen_B] + self.deviation_K[chosen_B, None] * noise_BD

    def nearest(self, latent_BD: Tensor) -> Tensor:
        """The Gaussian that most probably made each latent, [B]."""
        return (self.log_prob_K + self._log_normal(latent_BD)).argmax(1)

    def _log_normal(self, latent_BD: Tensor) -> Tensor:
        distance_BK = (latent_BD[:, None] - self.mean_KD).square().sum(2)
        size = self.mean_KD.shape[1]
        log_scale_K = size * (self.deviation_K.log() + 0.5 * torch.log(torch.tensor(2 * torch.pi)))
        return -0.5 * distance_BK / self.deviation_K**2 - log_scale_K
