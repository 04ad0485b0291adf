"""Low-rank changes of a language model (LoRA): thin matrices beside its linear layers.

The model is never touched: an adapted one shares its weights and holds the thin matrices beside them.

Source: Hu et al. (2021), arXiv:2106.09685.
"""

# Axes: I width of a layer's input, O width of its output, R rank.

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from factorlm.errors import InputError, IntegrityError
from factorlm.files import write_whole
from factorlm.models.causal import CausalLM
from factorlm.models.twins import as_language_model, twin
from factorlm.settings import Config


class LoraSettings(Config):
    """How an adapter is made and trained.

    Attributes:
        rank: of the thin matrices.
        scale: what their product is multiplied by (alpha / rank in other programs).
        layers: linear layers that get one, by the end of their name.
        learning_rate: of AdamW, at its highest.
        epochs: passes over the texts.
        batch_texts: texts to a step.
    """

    rank: Annotated[int, Field(ge=1)] = 8
    scale: Annotated[float, Field(gt=0)] = 2.0
    layers: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3
    epochs: Annotated[int, Field(ge=1)] = 2
    batch_texts: Annotated[int, Field(ge=1)] = 8


@dataclass(frozen=True, eq=False)
class Adapter:
    """Thin matrices for some linear layers: their weight W [O, I] becomes W + scale * up down.

    Attributes:
        scale: of the product.
        down_RI: by the name of the layer.
        up_OR: the same.
    """

    scale: float
    down_RI: dict[str, Tensor]
    up_OR: dict[str, Tensor]

    @staticmethod
    def fresh(lm: CausalLM, settings: LoraSettings, seed: int = 0) -> Adapter:
        """One that changes nothing yet: down is random, up is zero.

        Raises:
            InputError: if the model has no layers of these names.
        """
        generator = torch.Generator().manual_seed(seed)
        down_RI, up_OR = {}, {}
        for name, layer in lm.model.named_modules():
            if isinstance(layer, nn.Linear) and name.rpartition(".")[2] in settings.layers:
                width = layer.in_features
                down = torch.randn(settings.rank, width, generator=generator) / math.sqrt(width)
                down_RI[name] = down.to(lm.device)
                up_OR[name] = torch.zeros(layer.out_features, settings.rank, device=lm.device)
        if not down_RI:
            raise InputError(
                f"linear layers of {lm.name} named {', '.join(settings.layers)} are needed, got none; name others"
            )
        return Adapter(settings.scale, down_RI, up_OR)

    @property
    def num_parameters(self) -> int:
        """Numbers that were trained."""
        return sum(weight.numel() for weight in chain(self.down_RI.values(), self.up_OR.values()))

    @property
    def fingerprint(self) -> str:
        """Hash of every number."""
        return hashlib.sha256(self._to_bytes()).hexdigest()[:16]

    def save(self, path: Path, **notes: str) -> None:
        """Write it as safetensors, whole or not at all.

        Args:
            path: of the file.
            notes: kept with it; see `notes_of`.

        Raises:
            OSError: if the place cannot be written.
        """
        write_whole(path, self._to_bytes(notes))

    @staticmethod
    def load(path: Path) -> Adapter:
        """Read one that was saved.

        Raises:
            IntegrityError: if the file is no adapter.
        """
        import safetensors
        import safetensors.torch

        try:
            found = safetensors.torch.load_file(path)
            scale = float(notes_of(path)["scale"])
        except (OSError, KeyError, ValueError, safetensors.SafetensorError) as error:
            raise IntegrityError(f"{path} cannot be read as an adapter ({error}); delete it and train again") from None
        return Adapter.of(found, scale)

    @staticmethod
    def of(tensors: dict[str, Tensor], scale: float) -> Adapter:
        """That of these `tensors`; others among them are left out."""
        down_RI, up_OR = (
            {name.removeprefix(side): weight for name, weight in tensors.items() if name.startswith(side)}
            for side in ("down.", "up.")
        )
        return Adapter(scale, down_RI, up_OR)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Its numbers, named "down" or "up", a dot and the layer."""
        tensors = {f"down.{name}": weight.contiguous() for name, weight in self.down_RI.items()}
        return tensors | {f"up.{name}": weight.contiguous() for name, weight in self.up_OR.items()}

    def _to_bytes(self, notes: dict[str, str] | None = None) -> bytes:
        import safetensors.torch

        return safetensors.torch.save(self.tensors, {**(notes or {}), "scale": repr(self.scale)})


def notes_of(path: Path) -> dict[str, str]:
    """What was noted when an adapter was saved.

    Raises:
        IntegrityError: if the file is not safetensors.
    """
    import safetensors

    try:
        with safetensors.safe_open(path, "pt") as file:
            return dict(file.metadata() or {})
    except (OSError, safetensors.SafetensorError) as error:
        raise IntegrityError(f"{path} cannot be read as an adapter ({error}); delete it and train again") from None


class LoraLinear(nn.Module):
    """A linear layer of the shared model with the thin matrices beside it."""

    def __init__(self, base: nn.Linear, down_RI: Tensor, up_OR: Tensor, scale: float) -> None:
        super().__init__()
        self.base = base
        self.down_RI, self.up_OR = nn.Parameter(down_RI), nn.Parameter(up_OR)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        """W x + scale * up (down x); the thin products are made in the adapter's number format."""
        change = (x.to(self.down_RI.dtype) @ self.down_RI.T) @ self.up_OR.T
        y: Tensor = self.base(x)
        return y + (self.scale * change).to(y.dtype)


def adapted(lm: CausalLM, adapter: Adapter) -> CausalLM:
    """The model with an adapter beside its layers; both can be used at once, and share the base's weights.

    Raises:
        InputError: if the adapter was made for other layers.
    """
    return as_language_model(with_adapter(lm, adapter), lm, f"{lm.name}+lora")


def merged(lm: CausalLM, adapter: Adapter) -> CausalLM:
    """As `adapted`, with the products added to copies of the layers' weights: faster to run, larger in memory."""
    network = twin(lm)
    for name, layer in _layers(network, adapter):
        change_OI = adapter.scale * (adapter.up_OR[name] @ adapter.down_RI[name]).to(layer.weight.device)
        layer.weight = nn.Parameter((layer.weight + change_OI).to(layer.weight.dtype), requires_grad=False)
    return as_language_model(network, lm, f"{lm.name}+lora")


def _layers(network: Any, adapter: Adapter) -> list[tuple[str, nn.Linear]]:
    modules = dict(network.named_modules())
    found = []
    for name, down_RI in adapter.down_RI.items():
        layer, shape = modules.get(name), (adapter.up_OR[name].shape[0], down_RI.shape[1])
        if not isinstance(layer, nn.Linear) or layer.weight.shape != shape:
            raise InputError(f"an adapter for this model is needed, got one for a layer {name!r} that it lacks")
        found.append((name, layer))
    return found


def with_adapter(lm: CausalLM, adapter: Adapter) -> Any:
    """A network that shares the model's weights, with a copy of the adapter in it that can be trained."""
    network = twin(lm)
    for name, layer in _layers(network, adapter):
        down_RI, up_OR = (
            weight.detach().clone().to(lm.device) for weight in (adapter.down_RI[name], adapter.up_OR[name])
        )
        owner, _, own_name = name.rpartition(".")
        setattr(network.get_submodule(owner), own_name, LoraLinear(layer, down_RI, up_OR, adapter.scale))
    return network


def adapter_in(network: Any, scale: float) -> Adapter:
    """The adapter of a network that `with_adapter` made, a copy of what it is now."""
    layers = {name: layer for name, layer in network.named_modules() if isinstance(layer, LoraLinear)}
    return Adapter(
        scale,
        {name: layer.down_RI.detach().clone() for name, layer in layers.items()},
        {name: layer.up_OR.detach().clone() for name, layer in layers.items()},
    )
