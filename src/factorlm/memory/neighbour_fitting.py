"""How far neighbours are trusted: the temperature and the gate are learned on text that was not stored."""

# Axes: B batch, D width of a state, K neighbours, N tokens of texts laid end to end, T time.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from factorlm.algebra import PAD, Factor
from factorlm.errors import InputError
from factorlm.memory.card import FittedGate, read_card, write_card
from factorlm.memory.datastore import Looking, NeighbourCard
from factorlm.memory.gates import Evidence, Gate, edges_of, fit_constant, fit_logistic, fit_table
from factorlm.memory.neighbour_index import Found
from factorlm.memory.neighbours import NeighbourMemory, log_shares
from factorlm.memory.remembering import evidence_of, log_probs_of
from factorlm.memory.state_memory import TOGETHER
from factorlm.memory.weighing import fitted

TEMPERATURES = tuple(float(f"{10 ** (step / 4):.4g}") for step in range(-12, 5))  # 0.001 to 10
GateKind = Literal["constant", "table", "logistic"]
TABLE_EDGES = (5, 5)  # of a table: the entropy of the answer and how near the nearest is; more would starve its cells


@dataclass(frozen=True, eq=False)
class NeighbourFit:
    """What was learned on held-out text.

    Attributes:
        memory: under the gate, at the temperature.
        looking: its neighbours and temperature, for the card.
        fitted: its gate, for the card.
        mixed_nats: by temperature, the mean loss of the best constant mixture, in nats a token.
    """

    memory: NeighbourMemory
    looking: Looking
    fitted: FittedGate
    mixed_nats: dict[float, float]


def fit_neighbours(
    memory: NeighbourMemory,
    model: Factor,
    prefix_BT: Tensor,
    text_BT: Tensor,
    *,
    gate: GateKind = "logistic",
    temperatures: Sequence[float] = TEMPERATURES,
    mixed_with: str = "",
    learned_on: str = "held-out text",
) -> NeighbourFit:
    """The likeliest temperature under the best constant weight, then the likeliest gate at that temperature.

    Args:
        memory: its gate and temperature are not asked; if documents of the text are stored, exclude them.
        model: what is mixed with, normalised at each token.
        prefix_BT: what was read before, filled on the left with PAD.
        text_BT: held-out texts, filled on the right with PAD.
        gate: "constant", "table" over entropy and nearness of the answer, or "logistic" over all features.
        temperatures: that are tried.
        mixed_with: name of the model for the card; "" takes that of the memory's encoder.
        learned_on: name of the texts for the card.

    Raises:
        InputError: if there are too few tokens, or no temperature.
    """
    if not temperatures:
        raise InputError("at least one temperature is needed, got none")
    real_BT = text_BT != PAD
    model_N = log_probs_of(model, prefix_BT, text_BT).cpu()[real_BT].double().numpy()
    found = _found(memory, memory.lm.hidden_before(prefix_BT, text_BT)[real_BT.to(memory.lm.device)])
    is_hit_NK = memory.tokens(found) == text_BT.cpu()[real_BT.cpu()][:, None]

    def loss(temperature: float) -> float:
        share_NK = log_shares(found, temperature).masked_fill(~is_hit_NK, -torch.inf)
        memory_N = share_NK.logsumexp(1).double().numpy() if share_NK.shape[1] else np.full(len(model_N), -np.inf)
        evidence = Evidence(np.zeros((len(model_N), 0)), memory_N, model_N)
        return float(-evidence.under(fit_constant(evidence)).mean())

    losses = {temperature: loss(temperature) for temperature in temperatures}
    best = min(losses, key=lambda temperature: losses[temperature])
    looking = Looking(k=memory.k, temperature=best)
    answering = memory.ungated.looking(looking)
    evidence = evidence_of(answering, model, prefix_BT, text_BT)
    weights = learned_gate(evidence, gate)
    kept = fitted(weights, evidence, mixed_with or memory.lm.name, learned_on)
    return NeighbourFit(answering.gated(weights, memory.most), looking, kept, losses)


def learned_gate(evidence: Evidence, kind: GateKind) -> Gate:
    """The likeliest gate of a kind; a table has cells over the first features only."""
    if kind == "constant":
        return fit_constant(evidence)
    if kind == "logistic":
        return fit_logistic(evidence)
    return fit_table(
        evidence, [edges_of(evidence.feature_NF[:, f].tolist(), most) for f, most in enumerate(TABLE_EDGES)]
    )


def keep_fit(path: Path, fit: NeighbourFit, name: str = "") -> NeighbourCard:
    """Write what was learned on the card of a datastore, under a name; "" is what is taken where none is named."""
    card = read_card(path, NeighbourCard)
    card = card.model_copy(
        update={"gates": {**card.gates, name: fit.fitted}, "lookings": {**card.lookings, name: fit.looking}}
    )
    write_card(path, card)
    return card


def _found(memory: NeighbourMemory, hidden_ND: Tensor) -> Found:
    """Neighbours of many states, a stretch at a time."""
    parts = [memory.found(hidden_SD) for hidden_SD in hidden_ND.split(TOGETHER)]
    return Found(*(torch.cat(some) for some in zip(*parts, strict=True)))
