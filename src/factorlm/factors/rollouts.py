"""The model's own texts: continuations of neutral openings, with the states they were drawn from; drawn once, kept."""

# Axes: B texts, D width, K most probable tokens, R rows, T time, V vocabulary.

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from factorlm.algebra import pad_left
from factorlm.factors import kept
from factorlm.factors.nucleus import most_probable, quantile
from factorlm.models import CausalLM
from factorlm.models.fetch import cache_folder
from factorlm.models.progress import Report, quiet

NUM_TOKENS = 20
TOP_P = 0.95
LARGEST_BATCH = 256

# Neutral openings of ours: every subject before every verb; none of them is among those where factors are measured.
SUBJECTS = (
    "I", "We", "You", "My sister", "The doctor", "Our neighbours", "The old house", "A young man", "The first chapter",
    "Her letter", "The train", "The government", "The new teacher", "Most people", "The song", "His brother",
    "The city", "Two friends", "The shop on the corner", "The study", "The dog", "Their plan", "This product",
    "The music", "Someone", "The game", "The staff", "The story", "Many students", "The room", "The book",
    "The machine",
)  # fmt: skip
VERBS = (
    "had", "could", "never", "always", "came to", "looked", "made", "began to", "seemed to", "told us", "needed",
    "wanted", "did not", "would", "took", "gave", "said", "brought", "left", "felt", "changed", "kept", "became",
    "started with", "went", "found", "showed that", "asked", "ended", "turned", "might", "used to",
)  # fmt: skip


@dataclass(frozen=True, eq=False)
class Rollouts:
    """Texts that the model wrote, all of one length.

    Attributes:
        hidden_BTD: the state before each token, half precision.
        token_BT: the tokens.
        mean_BTD: mean unembedding of the token under the distribution that it was drawn from, half precision.
    """

    hidden_BTD: Tensor
    token_BT: Tensor
    mean_BTD: Tensor


@torch.no_grad()
def rollouts(lm: CausalLM, count: int, *, seed: int = 0, report: Report = quiet) -> Rollouts:
    """Draw texts with top-p sampling, or find them drawn already.

    Args:
        lm: the model.
        count: how many texts.
        seed: of the draws, and of the order of openings.
        report: told of progress.
    """
    path = _path(lm, count, seed)
    if (found := kept.find(path, "hidden_BTD", "token_BT", "mean_BTD")) is not None:
        hidden_BTD, token_BT, mean_BTD = found
        return Rollouts(hidden_BTD, token_BT.long(), mean_BTD)
    generator = torch.Generator().manual_seed(seed)
    openings = [f"{subject} {verb}" for subject, verb in itertools.product(SUBJECTS, VERBS)]
    order = torch.cat([torch.randperm(len(openings), generator=generator) for _ in range(-(-count // len(openings)))])
    rows = [[*lm.start_ids, *lm.encode_text(openings[i])] for i in order[:count]]
    batches: list[tuple[Tensor, Tensor, Tensor]] = []
    for start in range(0, count, LARGEST_BATCH):
        batch = rows[start : start + LARGEST_BATCH]
        batches.append(_drawn(lm, batch, generator))
        report("writing texts to learn from", start + len(batch), count)
    drawn = Rollouts(*(torch.cat(parts) for parts in zip(*batches, strict=True)))
    kept.keep(path, {"hidden_BTD": drawn.hidden_BTD, "token_BT": drawn.token_BT.int(), "mean_BTD": drawn.mean_BTD})
    return drawn


def _drawn(lm: CausalLM, rows: list[list[int]], generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Continuations of some rows: states, tokens and mean unembeddings."""
    state = lm.start(pad_left(rows))
    hidden, tokens, means = [], [], []
    for step in range(NUM_TOKENS):
        log_prob_BV = state.log_weight_BV.clone()
        log_prob_BV[:, list(lm.vocabulary.end_ids)] = -torch.inf
        prob_BV = torch.zeros_like(log_prob_BV)
        for row_R, prob_RK, token_RK in most_probable(log_prob_BV.softmax(-1), TOP_P):
            prob_BV[row_R[:, None], token_RK] = prob_RK / prob_RK.sum(-1, keepdim=True)
        token_B = quantile(
            prob_BV, torch.rand(len(rows), generator=generator, dtype=torch.float64).to(prob_BV.device)
        ).cpu()
        hidden.append(state.memory.hidden_BD.to("cpu", torch.float16))
        tokens.append(token_B)
        means.append((prob_BV @ lm.unembedding_VD.float()).to("cpu", torch.float16))
        if step + 1 < NUM_TOKENS:
            state = lm.extend(state, token_B.to(lm.device))
    return torch.stack(hidden, 1), torch.stack(tokens, 1), torch.stack(means, 1)


def _path(lm: CausalLM, count: int, seed: int) -> Path:
    what = f"{lm.fingerprint} {lm.model.dtype} {count} {seed} {NUM_TOKENS} {TOP_P} {SUBJECTS} {VERBS}"
    return cache_folder() / "rollouts" / f"{hashlib.sha256(what.encode()).hexdigest()[:24]}.safetensors"
