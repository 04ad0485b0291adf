"""What a model and memories say of each token of texts: its probability, and how sure they are before it."""

# Axes: B texts, F features of an answer, T time, V vocabulary.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from factorlm.algebra import entropy, pad_left, pad_right
from factorlm.evaluation.workbench import Workbench
from factorlm.memory import Memory
from factorlm.memory.gates import Evidence
from factorlm.models import CausalLM

Array = NDArray[np.float64]
Text = tuple[list[int], list[int]]  # tokens read before, start tokens included; tokens that are asked for
ROWS = 16  # texts read together
DIGITS = 6


@dataclass(frozen=True, eq=False)
class Told:
    """What one of them says of a text, token by token.

    Attributes:
        log_prob_T: of the token that came, in nats.
        entropy_T: of the distribution before it, in nats; nan where a memory knows nothing.
        feature_TF: what a memory knows of its answer; none of a model.
        kl_T: from the teacher's distribution to this one, in nats; empty where no teacher was named.
    """

    log_prob_T: Array
    entropy_T: Array
    feature_TF: Array
    kl_T: Array


@dataclass(frozen=True, eq=False)
class Observed:
    """What all of them say of one text.

    Attributes:
        model: the model alone.
        memories: each memory alone, by name; their gates were not asked.
    """

    model: Told
    memories: dict[str, Told]

    def evidence(self, name: str) -> Evidence:
        """Of one memory, for its gate."""
        told = self.memories[name]
        return Evidence(told.feature_TF, told.log_prob_T, self.model.log_prob_T)


def observe(
    bench: Workbench, lm: CausalLM, memories: Mapping[str, Memory], marks: Mapping[str, str], texts: Sequence[Text],
    stage: str, *, teacher: str = "",
) -> list[Observed]:  # fmt: skip
    """Ask a model and memories about texts, cached.

    Args:
        bench: cache and progress.
        lm: the model.
        memories: by name.
        marks: of each memory, everything that its answers depend on.
        texts: at least one token of each is asked for.
        stage: for the progress bar.
        teacher: a memory from which the divergence to each other one, and to the model, is taken; "" takes none.
    """
    key = {"what": "texts under memories", "model": lm.fingerprint, "dtype": str(lm.model.dtype),
           "memories": {name: marks[name] for name in memories}, "teacher": teacher}  # fmt: skip

    def work(batch: list[Any]) -> list[Any]:
        return _observe(lm, memories, [(prefix, ids) for prefix, ids in batch], teacher)

    rows = bench.in_batches(stage, key, [list(text) for text in texts], ROWS, work)
    return [Observed(_told(row["model"]), {name: _told(row["memories"][name]) for name in memories}) for row in rows]


@torch.no_grad()
def _observe(lm: CausalLM, memories: Mapping[str, Memory], texts: Sequence[Text], teacher: str) -> list[Any]:
    prefix_BT, text_BT = pad_left([prefix for prefix, _ in texts]), pad_right([ids for _, ids in texts])
    found: dict[str, list[tuple[Tensor, ...]]] = {name: [] for name in ("", *memories)}
    looking = [memory.looks(prefix_BT, text_BT) for memory in memories.values()]
    for t, (model_BV, *answers) in enumerate(zip(lm.steps(prefix_BT, text_BT), *looking, strict=True)):
        token_B1 = text_BT[:, t, None].clamp(min=0).to(model_BV.device)
        said = {"": model_BV} | {n: a.log_prob_BV.to(model_BV) for n, a in zip(memories, answers, strict=True)}
        features = {"": model_BV.new_zeros(len(texts), 0)}
        features |= {n: answer.feature_BF for n, answer in zip(memories, answers, strict=True)}
        for name, log_prob_BV in said.items():
            knows_B = log_prob_BV.amax(-1) > -torch.inf
            entropy_B = torch.where(knows_B, entropy(log_prob_BV), torch.nan)
            kl_B = divergence(said[teacher], log_prob_BV) if teacher else model_BV.new_zeros(len(texts), 0)
            found[name].append((log_prob_BV.gather(1, token_B1)[:, 0], entropy_B, features[name], kl_B))
    whole = {name: [torch.stack(some, 1).double().cpu().numpy() for some in zip(*steps, strict=True)]
             for name, steps in found.items()}  # fmt: skip

    def row(name: str, b: int) -> list[Any]:
        log_prob_T, entropy_T, feature_TF, kl_T = (values[b, : len(texts[b][1])] for values in whole[name])
        # Features stay as they are: edges of a gate's cells are values of features, and rounding would pass them.
        return [np.round(log_prob_T, DIGITS).tolist(), np.round(entropy_T, DIGITS).tolist(), feature_TF.tolist(),
                np.round(kl_T, DIGITS).tolist()]  # fmt: skip

    return [{"model": row("", b), "memories": {name: row(name, b) for name in memories}} for b in range(len(texts))]


def divergence(teacher_BV: Tensor, log_prob_BV: Tensor) -> Tensor:
    """KL from the teacher's distributions to others, [B], in nats; infinite where a token of the teacher's is missing.

    Zero where the teacher knows nothing.
    """
    prob_BV = teacher_BV.exp()
    return torch.where(prob_BV > 0, prob_BV * (teacher_BV - log_prob_BV), 0.0).sum(-1)


def _told(row: list[Any]) -> Told:
    log_prob_T, entropy_T, feature_TF, kl_T = (np.array(values, float) for values in row)
    return Told(log_prob_T, entropy_T, feature_TF.reshape(len(log_prob_T), -1), kl_T.reshape(-1))
