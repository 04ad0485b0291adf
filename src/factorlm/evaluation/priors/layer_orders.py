"""Which layers to leave out first: by keep-probabilities learned from texts, or at random; and what that costs."""

# Axes: L layers that are free, N texts.

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from factorlm.evaluation.priors.kept import titled
from factorlm.evaluation.workbench import Workbench
from factorlm.models import CausalLM
from factorlm.models.layers import num_layers, skipping
from factorlm.models.lora import Adapter, merged
from factorlm.prior import Separate
from factorlm.prior.batches import score_rows
from factorlm.prior.layerdrop import Adaptation, adapt
from factorlm.prior.layers import LayerComponents, LayerSettings
from factorlm.prior.learning import Rows

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Arm:
    """A model whose layers are left out.

    Attributes:
        name: what was done to it before.
        lm: the model.
        logit_L: learned, of running each layer that is free.
        first: layers at the beginning that are always run.
        last: layers at the end that are always run.
    """

    name: str
    lm: CausalLM
    logit_L: Tensor
    first: int
    last: int

    def kept(self, number: int) -> tuple[int, ...]:
        """So many layers: those that run most probably."""
        best = self.logit_L.argsort(descending=True, stable=True)[: number - self.first - self.last]
        return self._with(best.tolist())

    def kept_at_random(self, number: int, seed: int) -> tuple[int, ...]:
        """So many layers, the free ones among them drawn; equal for arms of one model."""
        generator = torch.Generator().manual_seed(seed)
        return self._with(
            torch.randperm(len(self.logit_L), generator=generator)[: number - self.first - self.last].tolist()
        )

    def _with(self, free: Sequence[int]) -> tuple[int, ...]:
        total = num_layers(self.lm)
        return (*range(self.first), *sorted(place + self.first for place in free), *range(total - self.last, total))


def make_arm(bench: Workbench, lm: CausalLM, name: str, rows: Rows, settings: LayerSettings, passes: int) -> Arm:
    """A model, adapted first if the settings say so, with keep-probabilities learned in passes over texts."""
    if settings.adapt is not None:
        lm = _adapted(bench, lm, name, rows, settings, settings.adapt)
        settings = settings.model_copy(update={"adapt": None})
    key = {"what": "keep-probabilities", **_key(bench, lm, rows, settings), "passes": passes}

    def learn() -> list[float]:
        learner = LayerComponents(lm, settings, 1, bench.seed)
        weight_N1 = torch.ones(len(rows), 1)
        for number in range(1, passes + 1):
            learner.improve(rows, weight_N1, rate=1.0, report=titled(bench.report, f"{name}, pass {number}"))
        return learner.tensors()["logits"][0].tolist()

    return Arm(name, lm, torch.tensor(bench.cache.get(key, learn)), settings.first, settings.last)


def nats_of(bench: Workbench, lm: CausalLM, kept: Sequence[int], rows: Rows) -> Array:
    """Nats of each text under the model that runs only these layers, [N]."""
    key = {"what": "nats of texts", "model": lm.fingerprint, "dtype": str(lm.model.dtype), "layers": list(kept),
           "texts": _digest(rows)}  # fmt: skip

    def score() -> list[float]:
        found_N1 = score_rows(Separate((skipping(lm, kept),)), rows, lm.start_ids)
        return (-found_N1[:, 0]).tolist()

    return np.array(bench.cache.get(key, score))


def _adapted(
    bench: Workbench, lm: CausalLM, name: str, rows: Rows, settings: LayerSettings, adaptation: Adaptation
) -> CausalLM:
    """The model with an adapter learned from texts, or with the one kept from an equal run."""

    def train() -> Adapter:
        return adapt(lm, rows, adaptation, first=settings.first, last=settings.last, seed=bench.seed,
                     report=titled(bench.report, name))  # fmt: skip

    if bench.cache.folder is None:
        return merged(lm, train())
    content = {"what": "adapter", **_key(bench, lm, rows, adaptation), "first": settings.first, "last": settings.last}
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]
    path = Path(bench.cache.folder) / "priors" / f"{digest}.safetensors"
    if not path.is_file():
        train().save(path)
    return merged(lm, Adapter.load(path))


def _key(bench: Workbench, lm: CausalLM, rows: Rows, settings: LayerSettings | Adaptation) -> dict[str, object]:
    return {"model": lm.fingerprint, "dtype": str(lm.model.dtype), "settings": settings.model_dump(mode="json"),
            "seed": bench.seed, "texts": _digest(rows)}  # fmt: skip


def _digest(rows: Rows) -> str:
    return hashlib.sha256(json.dumps([list(row) for row in rows]).encode()).hexdigest()[:32]
