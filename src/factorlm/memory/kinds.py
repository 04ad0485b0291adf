"""The table of memories: how each kind is opened for a language model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from factorlm.errors import InputError, UnknownNameError
from factorlm.memory.card import MemoryCardMarks, check_model, kind_of, read_card
from factorlm.memory.gates import ConstantGate, Gate
from factorlm.memory.infini import open_index
from factorlm.memory.longest_suffix import InfiniGram
from factorlm.memory.mlp import open_mlp
from factorlm.memory.neighbours import open_neighbours
from factorlm.memory.remembering import Memory
from factorlm.models import CausalLM

USUAL_WEIGHT = 0.3  # of a memory whose weights were not learned


def open_memory(path: Path | str, lm: CausalLM, *, gate: str = "", most: float = 1.0) -> Memory:
    """The memory in a folder, for a model, with its learned weights.

    Args:
        path: of the folder.
        lm: the model that it is mixed with.
        gate: name of the learned weights; "" takes those that have none, or, if none were learned, a constant weight
            of 0.3, or of `most` if that is below one.
        most: a weight that it never passes.

    Raises:
        InputError: if there is no memory, or it cannot be mixed with a model.
        UnknownNameError: if it has no such weights.
        IncompatibleError: if it was built with another model.
        IntegrityError: if its files are not what its card says.
    """
    folder = Path(path)
    kind = kind_of(folder)
    if kind not in KINDS:
        raise InputError(
            f"{folder} holds {kind!r}, which gives no distribution over tokens; mix with {', '.join(KINDS)}"
        )
    gates = read_card(folder, MemoryCardMarks).gates
    chosen: Gate = ConstantGate(weight=USUAL_WEIGHT if most == 1 else most)
    if gate in gates:
        chosen = gates[gate].gate
    elif gate:
        raise UnknownNameError.of(f"learned weights in {folder}", gate, gates, "factorlm index weigh learns some")
    return KINDS[kind](folder, lm, gate).gated(chosen, most)


def open_infini(path: Path, lm: CausalLM, gate: str = "") -> InfiniGram:
    """An ∞-gram memory."""
    index = open_index(path)
    check_model(path, index.card.model, lm)
    return InfiniGram(path.name, None, 1.0, index.engine, lm.vocabulary, lm.start_ids, device=lm.device)


KINDS: dict[str, Callable[[Path, CausalLM, str], Memory]] = {
    "infini": open_infini,
    "knn": lambda path, lm, gate: open_neighbours(path, lm, gate=gate),  # its temperature was learned with the gate
    "mlp": lambda path, lm, gate: open_mlp(path, lm, gate=gate),
}
