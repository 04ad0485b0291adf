"""Low-rank fine-tuning (LoRA) of the base model on the texts of one class.

Source: Hu et al. (2022), arXiv:2106.09685: a linear layer W becomes W + (alpha / r) B A, with B zero at first.
"""

# Axes: B texts, D width, N tokens laid end to end, O width out, R rank, T time, V vocabulary.

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from factorlm.algebra import PAD, pad_right
from factorlm.evaluation import clock
from factorlm.evaluation.rivals.kept import Checkpoint, Kept, Learned
from factorlm.evaluation.rivals.rival import digest
from factorlm.factors.features import tokenized
from factorlm.models import CausalLM
from factorlm.models.progress import Report, quiet
from factorlm.models.twins import as_language_model, twin
from factorlm.settings import Config

TARGETS = ("q_proj", "v_proj")
CHECKPOINT_STEPS = 25


class FineTuning(Config):
    """How to fine-tune.

    Attributes:
        rank: of the change of each query and value projection.
        alpha: the change is scaled by alpha / rank.
        learning_rate: at first; it falls to zero in a straight line.
        epochs: over the texts.
        batch_texts: texts to a step.
        seed: of first values and of the order of texts.
    """

    rank: Annotated[int, Field(ge=1)] = 8
    alpha: float = 16.0
    learning_rate: float = 1e-3
    epochs: Annotated[int, Field(ge=1)] = 2
    batch_texts: Annotated[int, Field(ge=1)] = 16
    seed: int = 0


class LowRankLinear(nn.Module):
    """A linear layer with a low-rank change that can be trained."""

    def __init__(self, base: nn.Linear, settings: FineTuning, generator: torch.Generator) -> None:
        super().__init__()
        self.base = base
        self.scale = settings.alpha / settings.rank
        width_out, width_in = base.weight.shape
        bound = 1 / math.sqrt(width_in)
        down_RD = (2 * torch.rand(settings.rank, width_in, generator=generator) - 1) * bound
        self.down = nn.Parameter(down_RD.to(base.weight.device))
        self.up = nn.Parameter(torch.zeros(width_out, settings.rank, device=base.weight.device))

    def forward(self, x: Tensor) -> Tensor:
        """W x + (alpha / r) B A x."""
        change: Tensor = (x.float() @ self.down.T) @ self.up.T
        base: Tensor = self.base(x)
        return base + (self.scale * change).to(x.dtype)


def fine_tuned(
    lm: CausalLM,
    texts: Sequence[str],
    settings: FineTuning,
    *,
    name: str,
    kept: Kept,
    report: Report = quiet,
) -> tuple[CausalLM, Learned]:
    """The base model after fine-tuning on texts, and the change itself; the base stays as it was.

    Args:
        lm: the base.
        texts: one class; each is cut as texts for heads are.
        settings: how.
        name: of the new model, for messages.
        kept: where the change is kept, and its progress.
        report: told of progress.
    """
    rows = [row for row in tokenized(lm, texts) if row]
    key = {"what": "fine-tuning", "model": lm.fingerprint, "dtype": str(lm.model.dtype),
           "settings": settings.model_dump(mode="json"), "texts": digest(rows)}  # fmt: skip
    stage = f"fine-tuning on {name}"
    learned = kept.get("fine-tuned", key, lambda checkpoint: _train(lm, rows, settings, checkpoint, stage, report))
    report(stage, 1, 1)
    return merged(lm, learned.tensors, settings, name), learned


def merged(lm: CausalLM, change: dict[str, Tensor], settings: FineTuning, name: str) -> CausalLM:
    """The base with the change added to its weights: as fast as the base itself."""
    network = twin(lm)
    for path, layer in _targets(network):
        weight_OD = layer.weight.float() + settings.alpha / settings.rank * (
            change[f"{path}.up"].to(lm.device) @ change[f"{path}.down"].to(lm.device)
        )
        changed = nn.Linear(weight_OD.shape[1], weight_OD.shape[0], bias=False, device="meta")
        changed.weight = nn.Parameter(weight_OD.to(layer.weight.dtype), requires_grad=False)
        changed.bias = layer.bias
        _put(network, path, changed)
    return as_language_model(network, lm, name)


def _targets(network: Any) -> list[tuple[str, nn.Linear]]:
    found = [(path, module) for path, module in network.named_modules() if path.rpartition(".")[2] in TARGETS]
    assert found, f"no layers named {TARGETS} in this network"
    return found


def _put(network: Any, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(network.get_submodule(parent), name, module)


def _train(
    lm: CausalLM, rows: list[list[int]], settings: FineTuning, checkpoint: Checkpoint, stage: str, report: Report
) -> Learned:
    network = twin(lm)
    generator = torch.Generator().manual_seed(settings.seed)
    weights: dict[str, nn.Parameter] = {}
    for path, layer in _targets(network):
        adapted = LowRankLinear(layer, settings, generator)
        weights |= {f"{path}.up": adapted.up, f"{path}.down": adapted.down}
        _put(network, path, adapted)
    optimizer = torch.optim.AdamW(weights.values(), lr=settings.learning_rate, weight_decay=0.0)
    batches = [
        batch
        for _ in range(settings.epochs)
        for batch in torch.randperm(len(rows), generator=generator).split(settings.batch_texts)
    ]
    done, before = _resume(checkpoint, weights, optimizer)
    start = clock.seconds(lm.device)
    for step in range(done, len(batches)):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * (1 - step / len(batches))
        loss = _loss(network, lm, [rows[i] for i in batches[step]])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights.values(), 1.0)
        optimizer.step()
        report(stage, step + 1, len(batches))
        if (step + 1) % CHECKPOINT_STEPS == 0:
            _save(checkpoint, weights, optimizer, step + 1, before + clock.seconds(lm.device) - start)
    return Learned(
        {name: weight.detach() for name, weight in weights.items()}, before + clock.seconds(lm.device) - start
    )


def _loss(network: Any, lm: CausalLM, rows: list[list[int]]) -> Tensor:
    """Mean nats a token of these texts."""
    start = list(lm.start_ids)
    text_BT = pad_right(rows).to(lm.device)
    read_BT = torch.cat([torch.tensor([start] * len(rows), device=lm.device), text_BT[:, :-1]], 1)
    body = network.base_model
    output = body(input_ids=read_BT.clamp(min=0), attention_mask=(read_BT != PAD).long(), use_cache=False)
    real_BT = text_BT != PAD
    hidden_ND = output.last_hidden_state[:, len(start) - 1 :][real_BT]
    logit_NV = nn.functional.linear(hidden_ND, lm.unembedding_VD).float()
    return nn.functional.cross_entropy(logit_NV, text_BT[real_BT])


def _save(checkpoint: Checkpoint, weights: dict[str, nn.Parameter], optimizer: Any, step: int, seconds: float) -> None:
    if checkpoint.path is None:
        return
    tensors = {name: weight.detach() for name, weight in weights.items()}
    for name, weight in weights.items():
        moments = optimizer.state[weight]
        tensors |= {f"{name}/exp_avg": moments["exp_avg"], f"{name}/exp_avg_sq": moments["exp_avg_sq"]}
    checkpoint.save({**tensors, "step": torch.tensor(step)}, seconds)


def _resume(checkpoint: Checkpoint, weights: dict[str, nn.Parameter], optimizer: Any) -> tuple[int, float]:
    """Steps done and seconds spent before, with weights and moments put back."""
    found = checkpoint.load()
    if found is None:
        return 0, 0.0
    step = int(found.tensors["step"])
    with torch.no_grad():
        for name, weight in weights.items():
            weight.copy_(found.tensors[name])
            optimizer.state[weight] = {
                "step": torch.tensor(float(step)),
                "exp_avg": found.tensors[f"{name}/exp_avg"].to(weight.device),
                "exp_avg_sq": found.tensors[f"{name}/exp_avg_sq"].to(weight.device),
            }
    return step, found.seconds
