"""Learning how much a memory may say, on texts that it was not built from."""

# Axes: N tokens.

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from factorlm.algebra import Factor, pad_left, pad_right
from factorlm.errors import InputError
from factorlm.memory.card import FittedGate
from factorlm.memory.gates import Evidence, Gate, edges_of, fit_constant, fit_logistic, fit_table
from factorlm.memory.remembering import Memory, evidence_of
from factorlm.models.progress import Report, quiet
from factorlm.settings import Config

BATCH_TOKENS = 2048


class Weighing(Config):
    """How weights are learned.

    Attributes:
        kind: one weight; two, for answers with one token and for others (the paper's scheme); a table over all
            features of an answer; or a logistic function of them.
        window: tokens of a held-out text that are read together.
        num_tokens: that are read at most.
        cells: of a table, for each feature.
    """

    kind: Literal["constant", "two", "table", "logistic"] = "table"
    window: PositiveInt = 256
    num_tokens: PositiveInt = 20_000
    cells: Annotated[int, Field(ge=2)] = 6


def held_out_evidence(
    memory: Memory,
    model: Factor,
    rows: Sequence[Sequence[int]],
    start_ids: Sequence[int],
    settings: Weighing,
    report: Report = quiet,
) -> Evidence:
    """What memory and model gave to each token of held-out texts.

    Args:
        memory: its gate is not asked.
        model: what it is mixed with.
        rows: tokens of each text.
        start_ids: what stands before each.
        settings: how much is read.
        report: told of progress.
    """
    chosen = stretches_of(rows, settings)
    total = sum(map(len, chosen))
    chosen.sort(key=len)
    parts, done = [], 0
    while chosen:
        size = max(1, BATCH_TOKENS // len(chosen[-1]))
        batch, chosen = chosen[-size:], chosen[:-size]
        parts.append(evidence_of(memory, model, pad_left([list(start_ids)] * len(batch)), pad_right(batch)))
        done += sum(map(len, batch))
        report("weighing", done, total)
    return Evidence.joined(parts)


def stretches_of(rows: Sequence[Sequence[int]], settings: Weighing) -> list[list[int]]:
    """Stretches of texts that are read together, up to the tokens asked for.

    Raises:
        InputError: if there are none.
    """
    found: list[list[int]] = []
    left = settings.num_tokens
    for row in rows:
        for first in range(0, len(row), settings.window):
            stretch = list(row[first : first + min(settings.window, left)])
            if stretch:
                found.append(stretch)
                left -= len(stretch)
    if not found:
        raise InputError("held-out text is needed to learn weights, got none; give another file")
    return found


def fit_gate(memory: Memory, evidence: Evidence, settings: Weighing) -> Gate:
    """The best weights of a kind on some evidence."""
    if settings.kind == "constant":
        return fit_constant(evidence)
    if settings.kind == "logistic":
        return fit_logistic(evidence)
    if settings.kind == "two":
        if "sparse" not in memory.FEATURES:
            raise InputError(
                f"two weights are for memories that tell answers with one token from others, got {memory.name}; "
                "take --kind table"
            )
        return fit_table(evidence, [[0.5] if name == "sparse" else [] for name in memory.FEATURES])
    edges = [edges_of(evidence.feature_NF[:, f].tolist(), settings.cells - 1) for f in range(len(memory.FEATURES))]
    return fit_table(evidence, edges)


def fitted(gate: Gate, evidence: Evidence, model: str, text: str) -> FittedGate:
    """A gate with what it is worth where it was learned."""
    return FittedGate(
        gate=gate,
        model=model,
        text=text,
        num_tokens=len(evidence.model_N),
        model_nats=float(-evidence.model_N.mean()),
        mixed_nats=float(-evidence.under(gate).mean()),
    )
