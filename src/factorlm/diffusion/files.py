"""Priors over meanings on disk: a folder of `meanings.json` and `weights.safetensors`; see `models/card_folder.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from factorlm.diffusion.collection import Collection
from factorlm.diffusion.decoders import PlanNetwork, PlanSettings
from factorlm.diffusion.denoiser import Denoiser, DenoiserSettings
from factorlm.diffusion.guides import Standard
from factorlm.diffusion.meanings import Encode, Meanings
from factorlm.errors import IncompatibleError, IntegrityError
from factorlm.models import CausalLM
from factorlm.models.card_folder import Card, CardFolder
from factorlm.settings import Config

NAME = "meanings.json"


class Origin(Config):
    """What was learned from, and what it is worth.

    Attributes:
        corpus: a line on the texts.
        licence: of the texts, and so of the numbers.
        credit: to whom texts are owed, where the licence asks for it.
        num_windows: prefixes and continuations learned from.
        seconds: that learning took.
        measured: names and numbers.
    """

    corpus: str = ""
    licence: str = "unspecified"
    credit: str = ""
    num_windows: int = 0
    seconds: float = 0.0
    measured: dict[str, float] = Field(default_factory=dict)


class MeaningsCard(Card):
    """The content of meanings.json, with the sums of other files.

    Attributes:
        format: of this file.
        base: name of the language model.
        fingerprint: of the language model; those learned for another one are refused.
        encoder: name of what makes vectors of texts.
        num_condition: numbers of the vector of a prefix.
        num_latent: numbers of that of a continuation.
        denoiser: sizes.
        plan: sizes of the network that makes plans; None where there is none.
        has_bias: whether there is a map from latents to biases.
        trust: see Meanings.
        heed: see Meanings.
        origin: of the numbers.
    """

    format: Literal[1] = 1
    base: str
    fingerprint: str
    encoder: str
    num_condition: PositiveInt
    num_latent: PositiveInt
    denoiser: DenoiserSettings
    plan: PlanSettings | None = None
    has_bias: bool = False
    trust: float
    heed: dict[Literal["soft", "bias"], Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    origin: Origin = Origin()


FOLDER = CardFolder("prior over meanings", NAME, MeaningsCard, "factorlm guide fit-model", "learn it anew")


def save(
    meanings: Meanings, path: Path | str, *, encoder: str, origin: Origin = Origin(), half: bool = True,  # noqa: B008
    replace: bool = False,
) -> None:  # fmt: skip
    """Write it down.

    Args:
        meanings: the prior and its decoders.
        path: of the folder.
        encoder: name of what makes its vectors.
        origin: of the numbers.
        half: numbers of networks in 16 bits, bfloat16, which takes half the place.
        replace: what is there already.
    """
    networks = {"denoiser": meanings.denoiser, "soft": meanings.soft, "bias": meanings.bias}
    tensors = {
        f"{name}/{key}": tensor.to(torch.bfloat16) if half else tensor
        for name, network in networks.items() if network is not None
        for key, tensor in network.state_dict().items()
    }  # fmt: skip
    for name, standard in (("before", meanings.before), ("after", meanings.after)):
        tensors |= {f"{name}/mean": standard.mean_D, f"{name}/deviation": standard.deviation_D}
    if meanings.collection is not None:
        tensors |= {f"collection/{key}": tensor for key, tensor in meanings.collection.tensors().items()}
    card = MeaningsCard(
        base=meanings.lm.name, fingerprint=meanings.lm.fingerprint, encoder=encoder,
        num_condition=len(meanings.before.mean_D), num_latent=len(meanings.after.mean_D),
        denoiser=meanings.denoiser.settings, plan=None if meanings.soft is None else meanings.soft.settings,
        has_bias=meanings.bias is not None, trust=meanings.trust, heed=dict(meanings.heed),
        origin=origin,
    )  # fmt: skip
    FOLDER.write(path, card, tensors, replace=replace)


def load(path: Path | str, lm: CausalLM, encode: Encode) -> Meanings:
    """Read one.

    Args:
        path: of the folder.
        lm: the language model that it was learned for.
        encode: makes vectors, as the encoder named on its card does.

    Raises:
        InputError: if there is none.
        IncompatibleError: for another language model.
        IntegrityError: if a file is not what the card says.
    """
    card, tensors = FOLDER.read(path)
    if card.fingerprint != lm.fingerprint:
        raise IncompatibleError(
            f"these meanings are decoded by {card.base} ({card.fingerprint}), got {lm.name} ({lm.fingerprint}); take "
            "that one, or learn them for this one"
        )

    def of(name: str) -> dict[str, Tensor]:
        return {key.removeprefix(f"{name}/"): t.float() for key, t in tensors.items() if key.startswith(f"{name}/")}

    def fill(network: nn.Module, name: str) -> None:
        try:
            network.load_state_dict(of(name))
        except RuntimeError:
            raise IntegrityError(f"the numbers of {name} in {path} are not those of its card; copy it again") from None
        network.requires_grad_(False).eval()

    with torch.random.fork_rng([]):  # networks begin with random numbers, which are overwritten
        denoiser = Denoiser(card.denoiser, card.num_latent, card.num_condition)
        soft = None if card.plan is None else PlanNetwork(card.plan, card.num_latent, lm.width, 1.0)
    bias = nn.Linear(card.num_latent, lm.width) if card.has_bias else None
    standards = []
    for name, size in (("before", card.num_condition), ("after", card.num_latent)):
        found = of(name)
        if {key: tuple(t.shape) for key, t in found.items()} != {"mean": (size,), "deviation": (size,)}:
            raise IntegrityError(f"means and deviations of {size} numbers are needed in {path}; copy it again")
        standards.append(Standard(found["mean"], found["deviation"]))
    for network, name in ((denoiser, "denoiser"), (soft, "soft"), (bias, "bias")):
        if network is not None:
            fill(network, name)
    shown = {key: tensors[f"collection/{key}"] for key in ("vectors", "texts") if f"collection/{key}" in tensors}
    collection = Collection.read(shown) if len(shown) == 2 else None
    return Meanings(lm, encode, standards[0], standards[1], denoiser, soft, bias, card.trust, collection, card.heed)
