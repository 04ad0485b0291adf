"""Guides that read noisy latents: log p(label | z) at every level of noise, learned instead of averaged over draws.

They lean without a pass back through the denoiser, and know what a label looks like in noise; they must be learned with
the very noise that latents get. After Dhariwal and Nichol (2021), arXiv:2105.05233; for language, Lovelace et al.
(2025), arXiv:2602.20528.
"""

# Axes: B rows, D numbers of a latent, H numbers inside, N examples.

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from factorlm.diffusion.levels import WIDEST, noise_share, noised, signal
from factorlm.errors import InputError
from factorlm.models.progress import Report, quiet
from factorlm.settings import Config


class NoisyGuideLearning(Config):
    """How such a guide is learned.

    Attributes:
        width: numbers inside.
        depth: layers inside.
        steps: of AdamW.
        batch: examples to a step, half of them with the label.
        learning_rate: of AdamW.
        weight_decay: of AdamW.
        widest: levels are drawn evenly from this many nats of log-SNR on either side of 0.
        seed: of everything random.
    """

    width: PositiveInt = 256
    depth: PositiveInt = 2
    steps: PositiveInt = 1000
    batch: PositiveInt = 256
    learning_rate: PositiveFloat = 1e-3
    weight_decay: PositiveFloat = 1e-2
    widest: PositiveFloat = 8.0
    seed: int = 0


class NoisyClassifier(nn.Module):
    """A logit of noisy latents; the level is told by both of its shares and by its log-SNR."""

    def __init__(self, settings: NoisyGuideLearning, num_latent: int) -> None:
        super().__init__()
        sizes = [num_latent + 3, *[settings.width] * settings.depth]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))
        self.leave = nn.Linear(sizes[-1], 1)

    def forward(self, noisy_BD: Tensor, log_snr_B: Tensor) -> Tensor:
        """Of the label, [B], in nats."""
        level_B3 = torch.stack([signal(log_snr_B), noise_share(log_snr_B), log_snr_B / WIDEST], 1)
        inside_BH = torch.cat([noisy_BD, level_B3], 1)
        for layer in self.layers:
            inside_BH = nn.functional.silu(layer(inside_BH))
        logit_B: Tensor = self.leave(inside_BH)[:, 0]
        return logit_B


@dataclass(frozen=True, eq=False)
class NoisyGuide:
    """Log probability of a label given a latent, noisy or not; a `guidance.Guide`.

    Attributes:
        classifier: gives the logit.
        sign: 1, or -1 for the label not being so.
    """

    classifier: NoisyClassifier
    sign: float = 1.0

    def log_prob(self, latent_BD: Tensor) -> Tensor:
        """See Guide."""
        return self.log_prob_at(latent_BD, latent_BD.new_full((len(latent_BD),), WIDEST))

    def log_prob_at(self, noisy_BD: Tensor, log_snr_B: Tensor) -> Tensor:
        """Of latents at these levels of noise, [B], in nats."""
        return logsigmoid(self.sign * self.classifier(noisy_BD, log_snr_B))

    @property
    def opposite(self) -> NoisyGuide:
        """Of the label not being so."""
        return replace(self, sign=-self.sign)


def learn_noisy_guide(
    positive_ND: Tensor, negative_ND: Tensor, settings: NoisyGuideLearning, report: Report = quiet
) -> NoisyGuide:
    """From latents with a label and without; both count alike, however many there are of each.

    Raises:
        InputError: if there are none of one kind.
    """
    if not len(positive_ND) or not len(negative_ND):
        raise InputError(
            f"latents with the label and without are needed, got {len(positive_ND)} and {len(negative_ND)}; give more"
        )
    generator = torch.Generator().manual_seed(settings.seed)
    with torch.random.fork_rng([]):  # networks begin with numbers of torch's own generator
        torch.manual_seed(settings.seed)
        classifier = NoisyClassifier(settings, positive_ND.shape[1])
    optimizer = torch.optim.AdamW(
        classifier.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    half = max(1, settings.batch // 2)
    label_B = torch.tensor([1.0] * half + [0.0] * half)
    for step in range(settings.steps):
        clean_BD = torch.cat(
            [own_ND[torch.randint(len(own_ND), (half,), generator=generator)] for own_ND in (positive_ND, negative_ND)]
        )
        log_snr_B = settings.widest * (2 * torch.rand(2 * half, generator=generator) - 1)
        noise_BD = torch.randn(clean_BD.shape, generator=generator)
        with torch.enable_grad():
            logit_B = classifier(noised(clean_BD, noise_BD, log_snr_B), log_snr_B)
            loss = binary_cross_entropy_with_logits(logit_B, label_B)
            optimizer.zero_grad()
            loss.backward()
        optimizer.step()
        report("guide", step + 1, settings.steps)
    return NoisyGuide(classifier.requires_grad_(False).eval())
