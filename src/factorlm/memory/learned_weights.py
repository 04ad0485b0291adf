"""Learning the weights of a memory on disk, and keeping them there."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from factorlm.algebra import Factor, pad_left, pad_right
from factorlm.errors import InputError
from factorlm.memory.card import FittedGate, keep_gate
from factorlm.memory.kinds import open_memory
from factorlm.memory.neighbour_fitting import fit_neighbours, keep_fit
from factorlm.memory.neighbours import NeighbourMemory
from factorlm.memory.weighing import Weighing, fit_gate, fitted, held_out_evidence, stretches_of
from factorlm.models import CausalLM
from factorlm.models.progress import Report, quiet


def learn_weights(
    path: Path,
    lm: CausalLM,
    model: Factor,
    rows: Sequence[Sequence[int]],
    settings: Weighing,
    *,
    name: str = "",
    mixed_with: str = "",
    learned_on: str = "",
    report: Report = quiet,
) -> FittedGate:
    """Learn how much the memory in a folder may say beside a model, and write it on its card.

    Neighbours learn their temperature, too.

    Args:
        path: of the memory.
        lm: whose tokens, or states, it holds.
        model: what it is mixed with.
        rows: tokens of held-out texts.
        settings: of what kind, and how much is read.
        name: of the weights; "" is what is taken where none is named.
        mixed_with: name of the model, for the card.
        learned_on: name of the texts, for the card.
        report: told of progress.

    Raises:
        InputError: if there is too little text, or the memory has no such weights.
    """
    memory = open_memory(path, lm).ungated
    if isinstance(memory, NeighbourMemory):
        if settings.kind == "two":
            raise InputError(f"two weights are for ∞-gram indexes, got neighbours in {path}; take --kind logistic")
        windows = stretches_of(rows, settings)
        prefix_BT = pad_left([list(lm.start_ids)] * len(windows))
        fit = fit_neighbours(
            memory,
            model,
            prefix_BT,
            pad_right(windows),
            gate=settings.kind,
            mixed_with=mixed_with,
            learned_on=learned_on,
        )
        keep_fit(path, fit, name)
        return fit.fitted
    evidence = held_out_evidence(memory, model, rows, lm.start_ids, settings, report)
    gate = fitted(fit_gate(memory, evidence, settings), evidence, mixed_with or lm.name, learned_on)
    keep_gate(path, name, gate)
    return gate
