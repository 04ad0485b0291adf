"""Learning a denoiser from latents and what they come with.

The loss is the squared error of the velocity, averaged over log-SNR with a weight that falls away at both ends. Levels
are drawn where the loss is large and counted for less there, which changes its noise and not its mean. What is kept is
a mean of the weights over the last steps.

Sources: Kingma and Gao (2023), arXiv:2303.00848 (weights, drawn levels); Lovelace et al. (2024), arXiv:2408.04220.
"""

# Axes: B rows of a batch, C numbers of a condition, D numbers of a latent, L bins of levels, N examples.

from __future__ import annotations

import copy
import hashlib
import json
import math
from pathlib import Path
from typing import Annotated

import safetensors
import safetensors.torch
import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from factorlm.diffusion.denoiser import Denoiser, DenoiserSettings
from factorlm.diffusion.levels import noised, velocity_of
from factorlm.errors import InputError
from factorlm.files import write_whole
from factorlm.models.progress import Report, quiet
from factorlm.settings import Config

LARGEST_GRADIENT = 1.0  # norm to which gradients are clipped
EVEN = 0.1  # share of levels that are drawn evenly, so that no bin is forgotten


class DenoiserLearning(Config):
    """How a denoiser is learned.

    Attributes:
        network: its sizes.
        steps: of the optimiser.
        batch: examples to a step.
        learning_rate: of AdamW; it rises over the first steps, then falls like a cosine.
        rising: steps in which it rises.
        weight_decay: of AdamW.
        kept: of the mean of weights, at each step; less at first.
        absent: share of rows whose condition is left out.
        widest: levels are drawn from this many nats of log-SNR on either side of 0.
        deviation: of the weight of levels: normal where there is more signal, Cauchy where there is more noise.
        bins: of levels, whose losses are remembered.
        remembered: of the loss of a bin, at each step that sees it.
        checkpoint_every: steps.
        seed: of everything random.
    """

    network: DenoiserSettings = DenoiserSettings()
    steps: PositiveInt = 8000
    batch: PositiveInt = 256
    learning_rate: PositiveFloat = 1e-3
    rising: PositiveInt = 200
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    kept: Annotated[float, Field(ge=0, lt=1)] = 0.999
    absent: Annotated[float, Field(ge=0, lt=1)] = 0.1
    widest: PositiveFloat = 10.0
    deviation: PositiveFloat = 2.4
    bins: PositiveInt = 100
    remembered: Annotated[float, Field(ge=0, lt=1)] = 0.9
    checkpoint_every: PositiveInt = 500
    seed: int = 0


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
        self.loss_L = torch.where(count_L > 0, kept * self.loss_L + (1 - kept) * mean_L, self.loss_L)


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
    run = _Run(latent_ND.float(), condition_NC.float(), settings, checkpoint)
    while run.done < settings.steps:
        with torch.enable_grad():
            run.step()
        report("denoiser", run.done, settings.steps)
        if checkpoint is not None and run.done % settings.checkpoint_every == 0:
            run.save(checkpoint)
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    return run.mean


class _Run:
    def __init__(
        self, latent_ND: Tensor, condition_NC: Tensor, settings: DenoiserLearning, checkpoint: Path | None
    ) -> None:
        self.latent_ND, self.condition_NC, self.settings = latent_ND, condition_NC, settings
        self.generator = torch.Generator().manual_seed(settings.seed)
        with torch.random.fork_rng([]):  # networks begin with numbers of torch's own generator
            torch.manual_seed(settings.seed)
            self.network = Denoiser(settings.network, latent_ND.shape[1], condition_NC.shape[1])
        self.mean = copy.deepcopy(self.network).requires_grad_(False).eval()
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        for weight in self.network.parameters():  # there from the start, so that they can be restored
            self.optimizer.state[weight] = {
                "step": torch.tensor(0.0), "exp_avg": torch.zeros_like(weight), "exp_avg_sq": torch.zeros_like(weight),
            }  # fmt: skip
        self.levels, self.done = Levels(settings), 0
        if checkpoint is not None:
            self._load(checkpoint)

    def step(self) -> None:
        """One step of the optimiser."""
        settings, generator = self.settings, self.generator
        row_B = torch.randint(len(self.latent_ND), (settings.batch,), generator=generator)
        clean_BD, condition_BC = self.latent_ND[row_B], self.condition_NC[row_B]
        log_snr_B, correction_B = self.levels.draw(settings.batch, generator)
        noise_BD = torch.randn(clean_BD.shape, generator=generator)
        is_kept_B = torch.rand(settings.batch, generator=generator) >= settings.absent
        noisy_BD = noised(clean_BD, noise_BD, log_snr_B)
        error_BD = self.network(noisy_BD, log_snr_B, condition_BC, is_kept_B) - velocity_of(
            clean_BD, noise_BD, log_snr_B
        )
        loss_B = level_weight(log_snr_B, settings.deviation) * error_BD.square().mean(1)
        for group in self.optimizer.param_groups:
            group["lr"] = settings.learning_rate * self._rate()
        self.optimizer.zero_grad()
        (correction_B * loss_B).mean().backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), LARGEST_GRADIENT)
        self.optimizer.step()
        self.levels.see(log_snr_B, loss_B.detach())
        self.done += 1
        kept = min(settings.kept, (1 + self.done) / (10 + self.done))
        with torch.no_grad():
            for mean, weight in zip(self.mean.parameters(), self.network.parameters(), strict=True):
                mean.lerp_(weight, 1 - kept)

    def _rate(self) -> float:
        rising = min(1.0, (self.done + 1) / self.settings.rising)
        return rising * 0.5 * (1 + math.cos(math.pi * self.done / self.settings.steps))

    def save(self, path: Path) -> None:
        """Keep where learning stands."""
        facts = {"key": self._key(), "done": self.done}
        content = safetensors.torch.save({n: t.clone() for n, t in self._state().items()}, {"facts": json.dumps(facts)})
        try:
            write_whole(path, content)
        except OSError as error:
            raise InputError(f"{path} cannot be written: {error.strerror or error}; name another place") from None

    def _load(self, path: Path) -> None:
        """Go on where the same run stood, if it did."""
        try:
            with safetensors.safe_open(path, "pt") as file:
                facts = json.loads((file.metadata() or {})["facts"])
                if facts["key"] != self._key():
                    return
                found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, KeyError, ValueError, safetensors.SafetensorError):
            return
        with torch.no_grad():
            for name, tensor in self._state().items():
                tensor.copy_(found[name])
        self.generator.set_state(found["generator"])
        self.done = int(facts["done"])

    def _state(self) -> dict[str, Tensor]:
        found = {f"network/{n}": t for n, t in self.network.state_dict().items()}
        found |= {f"mean/{n}": t for n, t in self.mean.state_dict().items()}
        for name, weight in self.network.named_parameters():
            found |= {f"{key}/{name}": moment for key, moment in self.optimizer.state[weight].items()}
        return {**found, "levels": self.levels.loss_L, "generator": self.generator.get_state()}

    def _key(self) -> str:
        """Of everything that the run depends on."""
        digest = hashlib.sha256(self.settings.model_dump_json().encode())
        for tensor in (self.latent_ND, self.condition_NC):
            digest.update(str(tuple(tensor.shape)).encode() + tensor.contiguous().numpy().tobytes())
        return digest.hexdigest()
