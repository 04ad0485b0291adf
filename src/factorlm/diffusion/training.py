"""Training of networks: steps of AdamW, a mean of the weights, and runs that go on where they were stopped."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Generic, TypeVar

import safetensors
import safetensors.torch
import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from factorlm.errors import InputError
from factorlm.files import write_whole
from factorlm.models.progress import Report, quiet
from factorlm.settings import Config

LARGEST_GRADIENT = 1.0  # norm to which gradients are clipped

Network = TypeVar("Network", bound=nn.Module)


class Training(Config):
    """How a network is trained.

    Attributes:
        steps: of the optimiser.
        batch: examples to a step.
        learning_rate: of AdamW; it rises over the first steps, then falls like a cosine.
        rising: steps in which it rises.
        weight_decay: of AdamW.
        kept: of the mean of weights, at each step; less at first.
        checkpoint_every: steps.
        seed: of everything random.
    """

    steps: PositiveInt = 8000
    batch: PositiveInt = 256
    learning_rate: PositiveFloat = 1e-3
    rising: PositiveInt = 200
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    kept: Annotated[float, Field(ge=0, lt=1)] = 0.999
    checkpoint_every: PositiveInt = 500
    seed: int = 0


class Run(Generic[Network]):
    """A network on its way.

    Attributes:
        network: what learns.
        mean: the mean of its weights over the last steps, which is what is kept.
        generator: of everything random in the steps.
    """

    def __init__(
        self, build: Callable[[], Network], settings: Training, data: Sequence[Tensor], *,
        checkpoint: Path | None = None, remembered: dict[str, Tensor] | None = None,
    ) -> None:  # fmt: skip
        """Begin, or go on from the checkpoint of an equal run.

        Args:
            build: makes the network, with numbers of torch's own generator.
            settings: how it is trained.
            data: everything that it learns from.
            checkpoint: a file that keeps the run while it goes on.
            remembered: tensors that steps change in place, and that are kept, too.
        """
        self.settings, self.checkpoint, self.done = settings, checkpoint, 0
        self.generator = torch.Generator().manual_seed(settings.seed)
        with torch.random.fork_rng([]):
            torch.manual_seed(settings.seed)
            self.network = build()
        self.mean = copy.deepcopy(self.network).requires_grad_(False).eval()
        self._optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        for weight in self.network.parameters():  # there from the start, so that they can be restored
            self._optimizer.state[weight] = {
                "step": torch.tensor(0.0), "exp_avg": torch.zeros_like(weight), "exp_avg_sq": torch.zeros_like(weight),
            }  # fmt: skip
        self._remembered = remembered or {}
        self._key = _key_of(settings, data)
        if checkpoint is not None:
            self._load(checkpoint)

    def go(self, loss: Callable[[], Tensor], stage: str, report: Report = quiet) -> Network:
        """All steps that are left; gives the mean. A checkpoint stays, so that a finished run need not be repeated."""
        while not self.is_done:
            self.step(loss)
            report(stage, self.done, self.settings.steps)
            if self.checkpoint is not None and (self.is_done or self.done % self.settings.checkpoint_every == 0):
                self._save(self.checkpoint)
        return self.mean

    @property
    def is_done(self) -> bool:
        """Whether no steps are left."""
        return self.done >= self.settings.steps

    def step(self, loss: Callable[[], Tensor]) -> None:
        """One step down the loss of some examples."""
        settings = self.settings
        rising = min(1.0, (self.done + 1) / settings.rising)
        for group in self._optimizer.param_groups:
            group["lr"] = settings.learning_rate * rising * 0.5 * (1 + math.cos(math.pi * self.done / settings.steps))
        with torch.enable_grad():
            value = loss()
            self._optimizer.zero_grad()
            value.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), LARGEST_GRADIENT)
        self._optimizer.step()
        self.done += 1
        kept = min(settings.kept, (1 + self.done) / (10 + self.done))
        with torch.no_grad():
            for mean, weight in zip(self.mean.parameters(), self.network.parameters(), strict=True):
                mean.lerp_(weight, 1 - kept)

    def _save(self, path: Path) -> None:
        facts = {"key": self._key, "done": self.done}
        content = safetensors.torch.save({n: t.clone() for n, t in self._state().items()}, {"facts": json.dumps(facts)})
        try:
            write_whole(path, content)
        except OSError as error:
            raise InputError(f"{path} cannot be written: {error.strerror or error}; name another place") from None

    def _load(self, path: Path) -> None:
        try:
            with safetensors.safe_open(path, "pt") as file:
                facts = json.loads((file.metadata() or {})["facts"])
                if facts["key"] != self._key:
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
            found |= {f"{key}/{name}": moment for key, moment in self._optimizer.state[weight].items()}
        found |= {f"remembered/{name}": tensor for name, tensor in self._remembered.items()}
        return {**found, "generator": self.generator.get_state()}


def _key_of(settings: Training, data: Sequence[Tensor]) -> str:
    """Of everything that a run depends on."""
    digest = hashlib.sha256(settings.model_dump_json().encode())
    for tensor in data:
        digest.update(f"{tuple(tensor.shape)}{tensor.dtype}".encode() + tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
