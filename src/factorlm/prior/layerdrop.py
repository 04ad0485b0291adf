"""Making layers dispensable: a low-rank change of a model, learned while layers are left out at random.

Without it the loss of any one layer hurts, and components that skip layers can hardly differ. Source: LayerDrop, Fan
et al. (2020), arXiv:1909.11556; there a network is trained from the start, here thin matrices beside one that is.
"""

# Axes: L layers that are free.

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field, PositiveFloat, PositiveInt
from torch import nn

from factorlm.errors import InputError
from factorlm.models import CausalLM
from factorlm.models.layers import num_layers, shortened
from factorlm.models.lora import Adapter, LoraLinear, LoraSettings, adapter_in, with_adapter
from factorlm.models.progress import Report, quiet
from factorlm.prior.batches import by_length, weighted_nats
from factorlm.prior.learning import Rows
from factorlm.settings import Config

LARGEST_GRADIENT = 1.0  # norm to which the gradient is clipped


class Adaptation(Config):
    """How a model learns to do without some of its layers.

    Attributes:
        drop: probability that a free layer is left out of a batch. Fan et al. take 0.1 to 0.2, or what is to be left
            out later.
        epochs: passes over the texts.
        rank: of the thin matrices.
        scale: of their product.
        layers: linear layers that get one, by the end of their name.
        learning_rate: of AdamW at the first step; it falls to zero in a straight line.
        batch_tokens: to a step, padding included.
    """

    drop: Annotated[float, Field(ge=0, lt=1)] = 0.2
    epochs: PositiveInt = 2
    rank: PositiveInt = 8
    scale: PositiveFloat = 2.0
    layers: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    learning_rate: PositiveFloat = 2e-3
    batch_tokens: PositiveInt = 512


def adapt(
    lm: CausalLM, rows: Rows, settings: Adaptation, *, first: int, last: int, seed: int = 0, report: Report = quiet
) -> Adapter:
    """Learn an adapter with which the model gets along when layers are missing: least mean nats of texts per token.

    Args:
        lm: the model, which stays as it is.
        rows: token ids of texts, without the start token.
        settings: how.
        first: layers at the beginning that are never left out.
        last: layers at the end that are never left out.
        seed: of first values, of the order of texts, and of what is left out.
        report: told of progress.

    Raises:
        InputError: if there are no texts, or no layers of these names.
    """
    texts = [row for row in rows if row]
    if not texts:
        raise InputError("texts to adapt to are needed, got none with a token in it")
    shape = LoraSettings(rank=settings.rank, scale=settings.scale, layers=settings.layers)
    network = with_adapter(lm, Adapter.fresh(lm, shape, seed))
    thin = [layer for layer in network.modules() if isinstance(layer, LoraLinear)]
    weights = [weight.requires_grad_(True) for layer in thin for weight in (layer.down_RI, layer.up_OR)]
    optimizer = torch.optim.AdamW(weights, lr=settings.learning_rate, weight_decay=0.0)
    generator = torch.Generator().manual_seed(seed)
    lengths = [len(row) + len(lm.start_ids) for row in texts]
    batches = [b for _ in range(settings.epochs) for b in by_length(lengths, settings.batch_tokens, generator)]
    for step, batch in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * (1 - step / len(batches))
        kept = _drawn(num_layers(lm), first, last, settings.drop, generator)
        before_BTD = lm.embed(torch.tensor([lm.start_ids] * len(batch)))
        with torch.enable_grad():
            loss = weighted_nats(
                lm, shortened(network, kept), before_BTD, [texts[i] for i in batch], [1.0] * len(batch)
            )
            optimizer.zero_grad()  # to no gradient at all, so that Adam leaves a layer alone that is left out
            loss.backward()
        nn.utils.clip_grad_norm_(weights, LARGEST_GRADIENT)
        optimizer.step()
        report("adaptation", step + 1, len(batches))
    return adapter_in(network, settings.scale)


def _drawn(total: int, first: int, last: int, drop: float, generator: torch.Generator) -> list[int]:
    """Numbers of the layers that are run this time."""
    is_kept_L = torch.rand(total - first - last, generator=generator) >= drop
    free = (is_kept_L.nonzero()[:, 0] + first).tolist()
    return [*range(first), *free, *range(total - last, total)]
