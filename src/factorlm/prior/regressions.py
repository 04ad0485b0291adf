"""Mixtures of softmax regressions on hidden states: the cheapest components, for learning to begin with.

Each component predicts the next token from the last hidden state of the bare model by a linear map of its own. States
are read once, so EM takes seconds to minutes, and is run from several beginnings, of which the likeliest is kept.
Clusters of states group texts by what they are about; these components part by what one of them predicts and another
does not, and so tell documents apart that say opposite things about the same people.

Source: mixtures of regressions by EM, Jordan and Jacobs (1994).
"""

# Axes: D directions of states and a constant, I tokens laid end to end, K components, N texts, W frequent tokens.

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from factorlm.algebra import PAD, pad_left, pad_right
from factorlm.models import CausalLM
from factorlm.models.progress import Report, quiet
from factorlm.prior.batches import by_length
from factorlm.prior.learning import Rows, responsibilities

READ_TOKENS = 2048  # to a batch, padding included
DIRECTIONS = 96  # of most variance, in which states are told apart
FREQUENT = 1000  # tokens that are predicted; all others are one
DAMPING = 0.01  # of the variance of a direction, as a share of the mean
COMMON_RIDGE = 1e-3  # on the squares of the map that all components share
RIDGE = 3e-3  # on those of what a component has of its own, so that one that explains nothing gains nothing by it
TEMPER = 0.5  # of likelihoods while components part
RATE = 0.02  # of Adam
COMMON_STEPS, ROUNDS, STEPS = 150, 15, 5
STEP_TOKENS = 8192  # about as many to a step
SPREAD = 0.02  # of what components have of their own at first
RESTARTS = 16


@dataclass(frozen=True, eq=False)
class Tokens:
    """What is predicted from what.

    Attributes:
        state_ID: hidden states before each token, whitened, and a constant.
        target_I: the number of each token among the frequent ones.
        text_I: the text that each is of.
        num_texts: N.
        num_targets: W.
    """

    state_ID: Tensor
    target_I: Tensor
    text_I: Tensor
    num_texts: int
    num_targets: int

    def of(self, is_chosen_N: Tensor) -> Tokens:
        """Those of some texts."""
        kept_I = is_chosen_N[self.text_I]
        return Tokens(
            self.state_ID[kept_I], self.target_I[kept_I], self.text_I[kept_I], self.num_texts, self.num_targets
        )

    def nats(self, map_DW: Tensor) -> Tensor:
        """Negative log probability of each token under one map, [I]."""
        return cross_entropy(self.state_ID @ map_DW, self.target_I, reduction="none")

    def log_lik(self, map_KDW: Tensor) -> Tensor:
        """Log probability of each text under each map, [N, K], in nats."""
        nats_IK = torch.stack([self.nats(map_DW) for map_DW in map_KDW], 1)
        return -torch.zeros(self.num_texts, len(map_KDW)).index_add_(0, self.text_I, nats_IK)


@torch.no_grad()
def read(lm: CausalLM, rows: Rows, report: Report = quiet) -> Tokens:
    """Hidden states of the bare model before every token of the texts."""
    states: list[Tensor] = [torch.empty(0)] * len(rows)
    done = 0
    for batch in by_length([len(row) + 1 for row in rows], READ_TOKENS):
        text_BT = pad_right([rows[i] for i in batch])
        prefix_BT = pad_left([list(lm.start_ids)] * len(batch))
        hidden_BTD = lm.hidden_before(prefix_BT, text_BT).float().cpu()
        for i, hidden_TD, row_T in zip(batch, hidden_BTD, text_BT, strict=True):
            states[i] = hidden_TD[row_T != PAD]
        done += len(batch)
        report("states of texts", done, len(rows))
    token_I = torch.tensor([token for row in rows for token in row])
    token_U, place_I, count_U = token_I.unique(return_inverse=True, return_counts=True)
    kept_W = count_U.argsort(descending=True, stable=True)[:FREQUENT]
    number_U = torch.full((len(token_U),), len(kept_W))
    number_U[kept_W] = torch.arange(len(kept_W))
    text_I = torch.arange(len(rows)).repeat_interleave(torch.tensor([len(row) for row in rows]))
    return Tokens(_whitened(torch.cat(states)), number_U[place_I], text_I, len(rows), len(kept_W) + 1)


def part(lm: CausalLM, rows: Rows, number: int, seed: int, report: Report = quiet) -> Tensor:
    """Responsibilities of the likeliest of several mixtures of so many components, [N, K]."""
    tokens = read(lm, rows, report)
    generator = torch.Generator().manual_seed(seed)
    common_DW = common(tokens, generator)
    found = []
    for restart in range(RESTARTS):
        found.append(mixture(tokens, common_DW, number, generator))
        report("mixtures of regressions", restart + 1, RESTARTS)
    return min(found, key=lambda pair: pair[0])[1]


def common(tokens: Tokens, generator: torch.Generator) -> Tensor:
    """The map that fits all texts together, [D, W]."""
    map_DW = torch.zeros(tokens.state_ID.shape[1], tokens.num_targets, requires_grad=True)
    optimizer = torch.optim.Adam([map_DW], lr=2 * RATE)
    for _ in range(COMMON_STEPS):
        some = _some(tokens, generator)
        with torch.enable_grad():
            loss = COMMON_RIDGE * map_DW.square().sum() + some.nats(map_DW).mean()
        _step(optimizer, loss)
    return map_DW.detach()


def mixture(tokens: Tokens, common_DW: Tensor, number: int, generator: torch.Generator) -> tuple[float, Tensor]:
    """Loss in nats per token, ridge included, and responsibilities [N, K] of one mixture, by EM from random maps.

    Weights of components stay equal, so that none dies before it has found its texts.
    """
    own_KDW = (SPREAD * torch.randn(number, *common_DW.shape, generator=generator)).requires_grad_(True)
    optimizer = torch.optim.Adam([own_KDW], lr=RATE)
    log_prob_K = torch.full((number,), -math.log(number))
    for _ in range(ROUNDS):
        with torch.no_grad():
            resp_NK = responsibilities(log_prob_K, TEMPER * tokens.log_lik(common_DW + own_KDW)).exp()
        for _ in range(STEPS):
            some = _some(tokens, generator)
            weight_IK = resp_NK[some.text_I]
            with torch.enable_grad():
                loss = RIDGE * own_KDW.square().sum()
                for own_DW, weight_I in zip(own_KDW, weight_IK.T, strict=True):
                    loss = loss + (weight_I * some.nats(common_DW + own_DW)).mean()
            _step(optimizer, loss)
    with torch.no_grad():
        log_lik_NK = tokens.log_lik(common_DW + own_KDW)
        nats = -float(torch.logsumexp(log_prob_K + log_lik_NK, 1).sum()) / len(tokens.text_I)
        return nats + RIDGE * float(own_KDW.square().sum()), responsibilities(log_prob_K, log_lik_NK).exp().double()


def _step(optimizer: torch.optim.Adam, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _some(tokens: Tokens, generator: torch.Generator) -> Tokens:
    """Texts for a step: all, or a random part."""
    share = STEP_TOKENS / len(tokens.text_I)
    return tokens if share >= 0.5 else tokens.of(torch.rand(tokens.num_texts, generator=generator) < share)


def _whitened(state_ID: Tensor) -> Tensor:
    """Directions of most variance at about equal variance, and a constant."""
    state_ID = state_ID - state_ID.mean(0)
    variance_D, direction_DD = torch.linalg.eigh((state_ID.T @ state_ID / len(state_ID)).double())
    scale_D = (variance_D + DAMPING * variance_D.mean()).rsqrt()
    turned_DD = (direction_DD * scale_D)[:, -DIRECTIONS:].float()
    return torch.cat([state_ID @ turned_DD, torch.ones(len(state_ID), 1)], 1)
