"""Learning decoders: from prefixes, continuations and the latents of the continuations.

Latents are given some noise while a decoder learns, and the decoder is told how much, so that it does not trust what a
diffusion proposes more than it deserves. The language model itself stays as it is.

Source: noise augmentation, Lovelace et al. (2024), arXiv:2408.04220.
"""

# Axes: B rows, D numbers of a latent, E width of the language model, I tokens laid end to end, N examples.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear

from factorlm.algebra import PAD, pad_left, pad_right
from factorlm.diffusion.decoders import BiasDecoder, PlanNetwork, PlanSettings, SoftDecoder, embedded
from factorlm.diffusion.levels import Schedule, noised
from factorlm.diffusion.training import Run, Training
from factorlm.errors import InputError
from factorlm.models import CausalLM
from factorlm.models.progress import Report, quiet

TOGETHER = 32  # examples read at once
RIDGE = 0.3  # of the number of examples: how far the map that plans begin with is shrunk
SIZED_TOKENS = 2000  # of the vocabulary, from which the size of an embedded token is taken


@dataclass(frozen=True, eq=False)
class Examples:
    """What decoders learn from.

    Attributes:
        prefixes: token ids, the start token included.
        continuations: token ids; with the end token where the text ends.
        latent_ND: of the continuations, standardised.
    """

    prefixes: Sequence[list[int]]
    continuations: Sequence[list[int]]
    latent_ND: Tensor

    def __post_init__(self) -> None:
        """Check that all belong together.

        Raises:
            InputError: if there are none, not as many of each, or empty ones.
        """
        counts = (len(self.prefixes), len(self.continuations), len(self.latent_ND))
        if not counts[0] or len(set(counts)) > 1:
            raise InputError(
                f"prefixes, continuations and latents are needed, as many of each, got {counts[0]}, {counts[1]} and "
                f"{counts[2]}"
            )
        if not all(self.prefixes) or not all(self.continuations):
            raise InputError("prefixes and continuations of at least one token are needed, got an empty one")

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """Everything as tensors, from which a run is known again."""
        tokens = [torch.tensor([*p, -1, *c, -2]) for p, c in zip(self.prefixes, self.continuations, strict=True)]
        return (torch.cat(tokens), self.latent_ND)


class SoftLearning(Training):
    """How a soft decoder is learned; see Training for the steps.

    Attributes:
        plan: sizes of its network.
        noise: schedule of what latents are given, at a time drawn evenly.
    """

    steps: PositiveInt = 400
    batch: PositiveInt = 16
    rising: PositiveInt = 40
    checkpoint_every: PositiveInt = 50
    plan: PlanSettings = PlanSettings()
    noise: Schedule = Schedule(scale=3.0)


class BiasLearning(Training):
    """How a bias decoder is learned; see Training for the steps.

    Attributes:
        batch: tokens to a step.
        noise: schedule of what latents are given, at a time drawn evenly.
        least: nats of log-SNR, below which no latent is noised: the map is not told the level.
    """

    steps: PositiveInt = 600
    batch: PositiveInt = 512
    learning_rate: PositiveFloat = 3e-3
    rising: PositiveInt = 40
    noise: Schedule = Schedule(scale=3.0)
    least: float = 0.0


def learn_soft(
    lm: CausalLM, examples: Examples, settings: SoftLearning, *, checkpoint: Path | None = None,
    report: Report = quiet,
) -> PlanNetwork:  # fmt: skip
    """The network that makes a soft decoder's plans.

    It begins with plans that are the embedded token which ridge regression expects of the continuation.
    """
    latent_ND = examples.latent_ND.float()

    def build() -> PlanNetwork:
        network = PlanNetwork(settings.plan, latent_ND.shape[1], lm.width, _embedded_size(lm))
        network.begin(embedding_map(lm, examples))
        return network

    run = Run(build, settings, examples.tensors, checkpoint=checkpoint)

    def loss() -> Tensor:
        row_B = torch.randint(len(latent_ND), (settings.batch,), generator=run.generator)
        noisy_BD, log_snr_B = _noised(latent_ND[row_B], settings.noise, run.generator)
        prefixes, continuations = (
            [rows[i] for i in row_B.tolist()] for rows in (examples.prefixes, examples.continuations)
        )
        plan_BME = run.network(noisy_BD, log_snr_B)
        return soft_nats(lm, plan_BME, prefixes, continuations).mean()

    return run.go(loss, "soft decoder", report)


def soft_nats(
    lm: CausalLM, plan_BME: Tensor, prefixes: Sequence[list[int]], continuations: Sequence[list[int]]
) -> Tensor:
    """Nats of each token of continuations read behind a plan, laid end to end, [I]; gradients flow to the plan."""
    read_BTE, row_I, place_I = embedded(lm, plan_BME, list(prefixes), list(continuations))
    hidden_BTE = lm.model.base_model(inputs_embeds=read_BTE, use_cache=False).last_hidden_state
    logit_IV = linear(hidden_BTE[row_I, place_I], lm.unembedding_VD).float()
    token_I = torch.tensor([token for row in continuations for token in row], device=logit_IV.device)
    return cross_entropy(logit_IV, token_I, reduction="none")


def learn_bias(
    lm: CausalLM, examples: Examples, settings: BiasLearning, *, checkpoint: Path | None = None,
    report: Report = quiet,
) -> nn.Linear:  # fmt: skip
    """The map from latents to what a bias decoder adds to hidden states: no pass back through the language model."""
    latent_ND = examples.latent_ND.float()

    def build() -> nn.Linear:
        layer = nn.Linear(latent_ND.shape[1], lm.width)
        nn.init.zeros_(layer.weight)  # at first the language model itself
        nn.init.zeros_(layer.bias)
        return layer

    run = Run(build, settings, examples.tensors, checkpoint=checkpoint)
    if run.is_done:
        return run.mean
    hidden_IE, token_I, row_I = _states(lm, examples, report)

    def loss() -> Tensor:
        chosen_B = torch.randint(len(token_I), (settings.batch,), generator=run.generator)
        noisy_BD, _ = _noised(latent_ND[row_I[chosen_B]], settings.noise, run.generator, settings.least)
        moved_BE = hidden_IE[chosen_B] + run.network(noisy_BD).to(hidden_IE)
        return cross_entropy(linear(moved_BE, lm.unembedding_VD).float(), token_I[chosen_B])

    return run.go(loss, "bias decoder", report)


def soft_decoder(lm: CausalLM, network: PlanNetwork, latent_BD: Tensor, log_snr: float) -> SoftDecoder:
    """The language model with latents in mind that have this little noise."""
    with torch.no_grad():
        plan_BME = network(latent_BD.float(), torch.full((len(latent_BD),), log_snr))
    return SoftDecoder(lm, plan_BME.to(lm.device))


def bias_decoder(lm: CausalLM, layer: nn.Linear, latent_BD: Tensor) -> BiasDecoder:
    """The language model with latents in mind."""
    with torch.no_grad():
        return BiasDecoder(lm, layer(latent_BD.float()).to(lm.device))


def _noised(
    clean_BD: Tensor, schedule: Schedule, generator: torch.Generator, least: float = -torch.inf
) -> tuple[Tensor, Tensor]:
    log_snr_B = schedule.log_snr(torch.rand(len(clean_BD), generator=generator)).clamp(min=least)
    return noised(clean_BD, torch.randn(clean_BD.shape, generator=generator), log_snr_B), log_snr_B


@torch.no_grad()
def _states(lm: CausalLM, examples: Examples, report: Report) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states before each token of the continuations, laid end to end; these tokens; and their examples."""
    states, tokens, rows = [], [], []
    for start in range(0, len(examples.prefixes), TOGETHER):
        continuation_BT = pad_right(list(examples.continuations[start : start + TOGETHER]))
        hidden_BTE = lm.hidden_before(pad_left(list(examples.prefixes[start : start + TOGETHER])), continuation_BT)
        real_BT = continuation_BT != PAD
        states.append(hidden_BTE[real_BT.to(hidden_BTE.device)])
        tokens.append(continuation_BT[real_BT])
        rows.append(start + real_BT.nonzero()[:, 0])
        report("states", start + len(continuation_BT), len(examples.prefixes))
    return torch.cat(states), torch.cat(tokens).to(lm.device), torch.cat(rows)


@torch.no_grad()
def embedding_map(lm: CausalLM, examples: Examples) -> Tensor:
    """Ridge regression [E, D] from latents to the mean embedded token of continuations, less that of all of them.

    It is scaled so that what it gives has variance 1.
    """
    mean_NE = torch.stack([lm.embed(torch.tensor(row)).float().mean(0).cpu() for row in examples.continuations])
    latent_ND = examples.latent_ND.float()
    square_DD = latent_ND.T @ latent_ND + RIDGE * len(latent_ND) * torch.eye(latent_ND.shape[1])
    map_DE = torch.linalg.solve(square_DD, latent_ND.T @ (mean_NE - mean_NE.mean(0)))
    return (map_DE / (latent_ND @ map_DE).square().mean().sqrt().clamp(min=1e-12)).T


def _embedded_size(lm: CausalLM) -> float:
    """Root mean square of the numbers of an embedded token."""
    step = max(1, lm.vocabulary.size // SIZED_TOKENS)
    return float(lm.embed(torch.arange(0, lm.vocabulary.size, step)).float().square().mean().sqrt())
