"""Low-rank fine-tuning of a language model: a rival that changes the model, where factors leave it as it is.

The model is never touched: an adapted one shares its weights and holds the thin matrices beside them.

Source: Hu et al. (2021), arXiv:2106.09685.
"""

# Axes: B texts, N tokens of a batch laid end to end, T time.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from factorlm.algebra import PAD, pad_right
from factorlm.errors import InputError
from factorlm.evaluation import clock
from factorlm.factors.features import tokenized
from factorlm.models import CausalLM
from factorlm.models.lora import Adapter, LoraLinear, LoraSettings, adapter_in, with_adapter
from factorlm.models.progress import Report, quiet

WARM_UP = 0.1  # share of the steps in which the learning rate rises; after that it falls to zero
POOL = 16  # batches of texts that are sorted by length together
LARGEST_GRADIENT = 1.0  # norm to which gradients are clipped


@dataclass(frozen=True, eq=False)
class Tuned:
    """A trained adapter.

    Attributes:
        adapter: its numbers.
        losses: of each step, in nats per token.
        seconds: that the training took, of the processor; see `clock`.
    """

    adapter: Adapter
    losses: tuple[float, ...]
    seconds: float


def train_lora(
    lm: CausalLM,
    texts: Sequence[str],
    settings: LoraSettings,
    *,
    seed: int = 0,
    stage: str = "fine-tuning",
    report: Report = quiet,
) -> Tuned:
    """Fine-tune a model towards texts: least cross-entropy of their tokens, as they come after the start token.

    Args:
        lm: the base, which stays as it is.
        texts: to become likely; of each the first tokens that heads are trained on as well.
        settings: of the adapter and its training.
        seed: of first values and of the order of texts.
        stage: for the progress bar.
        report: told of progress.

    Raises:
        InputError: if there are no texts, or no such layers.
    """
    start = clock.seconds(lm.device)
    rows = [[*lm.start_ids, *row] for row in tokenized(lm, texts) if row]
    if not rows:
        raise InputError("texts to train on are needed, got none with a token in it")
    network = with_adapter(lm, Adapter.fresh(lm, settings, seed))
    layers = [layer for layer in network.modules() if isinstance(layer, LoraLinear)]
    weights = [weight for layer in layers for weight in (layer.down_RI, layer.up_OR)]
    for weight in weights:
        weight.requires_grad_(True)
    generator = torch.Generator().manual_seed(seed)
    lengths = [len(row) for row in rows]
    batches = [b for _ in range(settings.epochs) for b in shuffled(lengths, settings.batch_texts, generator)]
    optimizer = torch.optim.AdamW(weights, lr=settings.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, len(batches)))
    losses = []
    with torch.enable_grad():
        for step, batch in enumerate(batches, 1):
            loss = _loss(network, lm, [rows[i] for i in batch])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(weights, LARGEST_GRADIENT)
            optimizer.step()
            schedule.step()
            losses.append(float(loss.detach()))
            report(stage, step, len(batches))
    return Tuned(adapter_in(network, settings.scale), tuple(losses), clock.seconds(lm.device) - start)


def shuffled(lengths: Sequence[int], size: int, generator: torch.Generator) -> list[Tensor]:
    """Numbers of texts in random batches, each of about equal length, so that little of a batch is filled up."""
    batches: list[Tensor] = []
    for pool in torch.randperm(len(lengths), generator=generator).split(POOL * size):
        length_of = torch.tensor([lengths[i] for i in pool])
        batches += pool[length_of.argsort(stable=True)].split(size)
    return [batches[i] for i in torch.randperm(len(batches), generator=generator)]


def _rate(step: int, num_steps: int) -> float:
    """Share of the highest learning rate: a straight rise, then a straight fall."""
    rise = max(1, round(WARM_UP * num_steps))
    return (step + 1) / rise if step < rise else (num_steps - step) / max(1, num_steps - rise)


def _loss(network: Any, lm: CausalLM, rows: list[list[int]]) -> Tensor:
    """Mean over tokens of their cross-entropy, in nats; start tokens are given."""
    token_BT = pad_right(rows).to(lm.device)
    # What fills the right side comes after every real token, so a causal model does not see it.
    hidden_BTD = network.base_model(input_ids=token_BT[:, :-1].clamp(min=0), use_cache=False).last_hidden_state
    target_BT = token_BT[:, 1:].clone()
    target_BT[:, : len(lm.start_ids) - 1] = PAD
    real_BT = target_BT != PAD
    logit_NV = nn.functional.linear(hidden_BTD[real_BT].to(lm.unembedding_VD.dtype), lm.unembedding_VD)
    return nn.functional.cross_entropy(logit_NV.float(), target_BT[real_BT])
