"""Batches of texts of about equal length, and what an ensemble thinks of texts."""

# Axes: B rows of a batch, D width, K components, N texts (in `weighted_nats` tokens laid end to end), T time.

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from factorlm.algebra import PAD, pad_left, pad_right
from factorlm.models import CausalLM
from factorlm.models.progress import Report, quiet
from factorlm.prior.ensemble import Ensemble

SCORED_TOKENS = 2048  # to a batch, padding included
LEAST_WEIGHT = 0.01  # of a text for a component, below which it teaches nothing worth its price
POOL = 16  # batches of texts that are sorted by length together


def by_length(lengths: Sequence[int], batch_tokens: int, generator: torch.Generator | None = None) -> list[list[int]]:
    """Numbers of rows in batches of at most so many tokens, padding included; in random order with a generator."""
    order = sorted(range(len(lengths)), key=lambda i: lengths[i])
    if generator is not None:  # sorted within pools only, so that batches are not the same each time
        shuffled = torch.randperm(len(lengths), generator=generator).tolist()
        longest = max(lengths, default=1)
        size = POOL * max(1, batch_tokens // longest)
        order = [
            i for n in range(0, len(shuffled), size) for i in sorted(shuffled[n : n + size], key=lambda i: lengths[i])
        ]
    batches: list[list[int]] = []
    longest = 0
    for i in order:
        longest = max(longest, lengths[i]) if batches else lengths[i]
        if not batches or longest * (len(batches[-1]) + 1) > batch_tokens:
            batches.append([])
            longest = lengths[i]
        batches[-1].append(i)
    if generator is None:
        return batches
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


def pairs_of(weight_NK: Tensor) -> list[tuple[int, int, float]]:
    """Text, component and weight of every pair that counts."""
    found = (weight_NK >= LEAST_WEIGHT * weight_NK.sum(1, keepdim=True)) & (weight_NK > 0)
    return [(n, k, float(weight_NK[n, k])) for n, k in found.nonzero().tolist()]


@torch.no_grad()
def score_rows(
    ensemble: Ensemble,
    rows: Sequence[list[int]],
    prefix: Sequence[int],
    report: Report = quiet,
    components: Sequence[int] | None = None,
) -> Tensor:
    """Log probability of each text behind a prefix, under each component, [N, K], in nats and float64.

    Args:
        ensemble: of the components.
        rows: token ids of the texts.
        prefix: read before each text, the start token included.
        report: told of progress.
        components: numbers of those that are asked; all by default. The others are at -inf.
    """
    asked = list(range(ensemble.num_components)) if components is None else list(components)
    found_NK = torch.full((len(rows), ensemble.num_components), -torch.inf, dtype=torch.float64)
    lengths = [len(asked) * (len(row) + len(prefix)) for row in rows]
    done = 0
    for batch in by_length(lengths, SCORED_TOKENS):
        text_BT = pad_right([rows[i] for i in batch])
        component_B = torch.tensor(asked).repeat_interleave(len(batch))
        prefix_BT = pad_left([list(prefix)] * len(component_B))
        log_prob_BT = ensemble.score(prefix_BT, text_BT.repeat(len(asked), 1), component_B)
        found_NK[torch.tensor(batch)[:, None], torch.tensor(asked)] = (
            log_prob_BT.double().sum(1).unflatten(0, (len(asked), -1)).T.cpu()
        )
        done += len(batch)
        report("likelihoods", done, len(rows))
    return found_NK


def weighted_nats(
    lm: CausalLM, network: Any, before_BTD: Tensor, rows: Sequence[list[int]], weights: Sequence[float]
) -> Tensor:
    """Mean nats of the tokens of some texts, each token with the weight of its text; gradients flow through it.

    Args:
        lm: whose embedding and unembedding are used.
        network: whose layers are run.
        before_BTD: what is read before each text in the places of tokens, the start token's first.
        rows: token ids of the texts.
        weights: of the texts.
    """
    text_BT = pad_right(list(rows)).to(lm.device)
    read_BTD = torch.cat([before_BTD, lm.embed(text_BT[:, :-1].clamp(min=0))], 1)
    # What fills the right side comes after every real token, so a causal model does not see it.
    hidden_BTD = network.base_model(inputs_embeds=read_BTD, use_cache=False).last_hidden_state
    real_BT = text_BT != PAD
    hidden_ND = hidden_BTD[:, before_BTD.shape[1] - 1 :][real_BT]
    logit_NV = torch.nn.functional.linear(hidden_ND, lm.unembedding_VD).float()
    nats_N = torch.nn.functional.cross_entropy(logit_NV, text_BT[real_BT], reduction="none")
    weight_B1 = torch.tensor(weights, dtype=torch.float32, device=lm.device)[:, None]
    weight_N = weight_B1.expand_as(real_BT)[real_BT]
    return (nats_N * weight_N).sum() / weight_N.sum()


def moments(weight: Tensor) -> dict[str, Tensor]:
    """What Adam knows of numbers that no step was made for yet; there from the start, so that it can be restored."""
    return {"step": torch.tensor(0.0), "exp_avg": torch.zeros_like(weight), "exp_avg_sq": torch.zeros_like(weight)}
