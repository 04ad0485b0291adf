"""Rewards and adapters that the parts of the suite share: learned once, kept as files."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from factorlm.evaluation.alignment.sources import Source
from factorlm.evaluation.workbench import Workbench
from factorlm.factors.dpo import DpoSettings, tune
from factorlm.factors.feedback import Pair, Preferences
from factorlm.factors.reward import Reward, RewardWeights
from factorlm.factors.reward_training import train_reward
from factorlm.factors.training import Description
from factorlm.models import CausalLM
from factorlm.models.lora import Adapter


@dataclass(frozen=True, eq=False)
class Learned:
    """A reward with what its card says of held-out pairs."""

    reward: Reward
    effect: dict[str, float]


def learned_reward(
    bench: Workbench, lm: CausalLM, source: Source, pairs: Sequence[Pair], *, is_length_controlled: bool = True
) -> Learned:
    """A reward trained on pairs, or the one that was trained before."""
    key = {"what": "reward", "model": lm.fingerprint, "pairs": digest(pairs), "seed": bench.seed,
           "is_length_controlled": is_length_controlled}  # fmt: skip
    about = Description(name=source.name, description="", label=source.label, licence=source.licence)

    def train() -> dict[str, Any]:
        found = train_reward(
            lm, Preferences(tuple(pairs)), about, is_length_controlled=is_length_controlled, seed=bench.seed,
            report=bench.report,
        )  # fmt: skip
        weights = found.weights
        return {"weight": weights.weight_D.tolist(), "offset": weights.offset, "effect": found.manifest.effect}

    found = bench.cache.get(key, train)
    weights = RewardWeights(torch.tensor(found["weight"], dtype=torch.float64), found["offset"])
    return Learned(Reward(source.name, lm.vocabulary, weights, lm), found["effect"])


def tuned_adapter(bench: Workbench, lm: CausalLM, pairs: Sequence[Pair], settings: DpoSettings) -> Adapter:
    """An adapter tuned to pairs by DPO, or the one that was tuned before.

    Raises:
        InputError: without TRL and PEFT.
    """
    text = f"{lm.fingerprint} {settings.model_dump_json()} {digest(pairs)} {bench.seed}"
    name = hashlib.sha256(text.encode()).hexdigest()[:24]
    path = bench.cache.folder / "adapters" / f"{name}.safetensors" if bench.cache.folder else None
    if path is None or not path.is_file():
        adapter = tune(lm, pairs, settings, seed=bench.seed, report=bench.report).adapter
        if path is None:
            return adapter
        path.parent.mkdir(parents=True, exist_ok=True)
        adapter.save(path)
    return Adapter.load(path)


def digest(pairs: Sequence[Pair]) -> str:
    """Hash of pairs in order."""
    return hashlib.sha256("\n".join(map(repr, pairs)).encode()).hexdigest()[:16]
