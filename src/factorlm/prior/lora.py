"""Components that are low-rank changes of one model, each with its own.

Sources: Hu et al. (2021), arXiv:2106.09685; ensembles of them, Wang et al. (2023), arXiv:2310.00035.
"""

# Axes: B texts of a batch, K components, T time.

from __future__ import annotations

from typing import Annotated, Any

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor, nn

from factorlm.models import CausalLM, linear
from factorlm.models.body import TransformersBody
from factorlm.models.lora import Adapter, LoraLinear, LoraSettings, adapter_in, merged, with_adapter
from factorlm.models.progress import Report, quiet
from factorlm.prior.batches import by_length, moments, pairs_of, score_rows, weighted_nats
from factorlm.prior.ensemble import Separate
from factorlm.prior.learning import Rows
from factorlm.settings import Config

SPREAD = 0.01  # noise of near copies, as a share of the spread of the numbers
LARGEST_GRADIENT = 1.0  # norm to which the gradient of a component is clipped
SEEDING_STEPS = 4  # over the texts that a component begins anew from


class LoraComponentSettings(Config):
    """How adapters are made and trained.

    Attributes:
        rank: of the thin matrices.
        scale: of their product.
        layers: linear layers that get one, by the end of their name.
        learning_rate: of Adam.
        weight_decay: of the thin matrices; keeps members apart from one another less than from the base.
        batch_tokens: to a step, padding included.
    """

    rank: PositiveInt = 4
    scale: PositiveFloat = 2.0
    layers: tuple[str, ...] = ("q_proj", "v_proj")
    learning_rate: PositiveFloat = 2e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    batch_tokens: PositiveInt = 256


class LoraComponents:
    """K adapters of one language model, as a learner; see `learning.Learner`."""

    is_monotone = True

    def __init__(self, lm: CausalLM, settings: LoraComponentSettings, num_components: int, seed: int = 0) -> None:
        self.lm, self.settings, self.num_components = lm, settings, num_components
        shape = LoraSettings(rank=settings.rank, scale=settings.scale, layers=settings.layers)
        self._generator = torch.Generator().manual_seed(seed)
        self._networks = [with_adapter(lm, Adapter.fresh(lm, shape, seed + k)) for k in range(num_components)]
        self._weights = [_weights_of(network) for network in self._networks]
        self._optimizers = []
        for weights in self._weights:
            optimizer = torch.optim.AdamW(
                weights.values(), lr=settings.learning_rate, weight_decay=settings.weight_decay
            )
            for weight in weights.values():
                weight.requires_grad_(True)
                optimizer.state[weight] = moments(weight)
            self._optimizers.append(optimizer)
        for network in self._networks:
            linear.install(network)

    @property
    def num_parameters(self) -> int:
        """Numbers that are trained."""
        return sum(weight.numel() for weights in self._weights for weight in weights.values())

    @property
    def ensemble(self) -> Separate:
        """The components as they are now."""
        return Separate(tuple(merged(self.lm, self.adapter(k)) for k in range(self.num_components)))

    def adapter(self, index: int) -> Adapter:
        """That of a component, as it is now."""
        return adapter_in(self._networks[index], self.settings.scale)

    def log_prob(self, rows: Rows, report: Report) -> Tensor:
        """See Learner; read beside the shared layers, since merging is dear and the next step undoes it."""
        readers = [self.lm.with_body(TransformersBody(n), n, f"{self.lm.name}+lora") for n in self._networks]
        return score_rows(Separate(tuple(readers)), rows, self.lm.start_ids, report)

    def improve(self, rows: Rows, weight_NK: Tensor, *, rate: float, report: Report) -> None:
        """See Learner."""
        pairs = pairs_of(weight_NK)
        jobs: list[tuple[int, list[tuple[int, float]]]] = []
        for k in range(self.num_components):
            own = [(n, weight) for n, index, weight in pairs if index == k]
            batches = by_length([len(rows[n]) + 1 for n, _ in own], self.settings.batch_tokens, self._generator)
            jobs += [(k, [own[i] for i in batch]) for batch in batches]
        for number, (k, batch) in enumerate(jobs, 1):
            self._step(k, [rows[n] for n, _ in batch], [weight for _, weight in batch], rate)
            report("adapters", number, len(jobs))

    def spread(self) -> None:
        """See Learner."""
        for k in range(1, self.num_components):
            for name, weight in self._weights[k].items():
                near = self._weights[0][name]
                noise = torch.randn(near.shape, generator=self._generator).to(near)
                with torch.no_grad():
                    weight.copy_(near + SPREAD * near.std() * noise)
                moments = self._optimizers[0].state[near]
                self._optimizers[k].state[weight] = {key: moment.clone() for key, moment in moments.items()}

    def reseed(self, index: int, rows: Rows) -> None:
        """See Learner: the adapter becomes that of the component that explains these texts best, and learns them."""
        others = [k for k in range(self.num_components) if k != index]
        log_prob_K = self.log_prob(rows, quiet).sum(0)
        near = max(others, key=lambda k: float(log_prob_K[k]))
        with torch.no_grad():
            for name, weight in self._weights[index].items():
                weight.copy_(self._weights[near][name])
                self._optimizers[index].state[weight] = moments(weight)
        for _ in range(SEEDING_STEPS):
            self._step(index, rows, [1.0] * len(rows), 1.0)

    def state(self) -> dict[str, Tensor]:
        """See Learner."""
        found = {**self.tensors(), "generator": self._generator.get_state()}
        for k, (weights, optimizer) in enumerate(zip(self._weights, self._optimizers, strict=True)):
            for name, weight in weights.items():
                found |= {f"{k}.{name}/{key}": moment.clone() for key, moment in optimizer.state[weight].items()}
        return found

    def restore(self, state: dict[str, Tensor]) -> None:
        """See Learner."""
        with torch.no_grad():
            for k, (weights, optimizer) in enumerate(zip(self._weights, self._optimizers, strict=True)):
                for name, weight in weights.items():
                    weight.copy_(state[f"{k}.{name}"])
                    for key, moment in optimizer.state[weight].items():
                        moment.copy_(state[f"{k}.{name}/{key}"])
        self._generator.set_state(state["generator"])

    def tensors(self) -> dict[str, Tensor]:
        """What is saved of the components."""
        return {
            f"{k}.{name}": weight.detach().clone()
            for k, weights in enumerate(self._weights)
            for name, weight in weights.items()
        }

    def _step(self, index: int, rows: Rows, weights: list[float], rate: float) -> None:
        optimizer = self._optimizers[index]
        for group in optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * rate
        with torch.enable_grad():
            lm = self.lm
            start_BT = torch.tensor([lm.start_ids] * len(rows), device=lm.device)
            loss = weighted_nats(lm, self._networks[index], lm.embed(start_BT), rows, weights)
            optimizer.zero_grad()
            loss.backward()
        nn.utils.clip_grad_norm_(self._weights[index].values(), LARGEST_GRADIENT)
        optimizer.step()


def _weights_of(network: Any) -> dict[str, nn.Parameter]:
    """The thin matrices, named side.layer."""
    found: dict[str, nn.Parameter] = {}
    for name, layer in network.named_modules():
        if isinstance(layer, LoraLinear):
            found |= {f"down.{name}": layer.down_RI, f"up.{name}": layer.up_OR}
    return found
