"""`--memory INDEX=MOST` of generate and score: memories mixed in, multiplied on, or guessing ahead."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from factorlm.errors import InputError, UnknownNameError

if TYPE_CHECKING:
    from rich.console import Console

    from factorlm.cli.faders import Fader
    from factorlm.inference import Model
    from factorlm.inference.results import Response
    from factorlm.memory import MemoryDraft

MODES = ("interpolate", "multiply", "draft")
RECALLED = "what each memory knew before each token: its weight, the token's probability by it, and where that is from"


def parse(options: list[str], mode: str) -> list[Fader]:
    """Memories with their numbers.

    Raises:
        UnknownNameError: for a mode that there is not.
        InputError: for a number that is none, or a memory given twice.
    """
    from factorlm.cli import faders

    if mode not in MODES:
        raise UnknownNameError.of("way of using a memory", mode, MODES)
    return faders.parse(options)


def split(memories: list[Fader], mode: str) -> tuple[list[Fader], list[Fader]]:
    """Memories that are distributions, and passages to be read in context, where the number is an exponent.

    Raises:
        InputError: for a number that the mode cannot use.
    """
    from factorlm.inference.memory_names import parted
    from factorlm.memory.card import is_memory, kind_of

    folders = {m.name: parted(m.name)[0] for m in memories}
    passages = [m for m in memories if is_memory(folders[m.name]) and kind_of(folders[m.name]) == "passages"]
    found = [m for m in memories if m not in passages]
    for memory in found:
        if mode == "interpolate" and memory.exponent is not None:
            raise InputError(
                f"a memory that is mixed in has a weight, got {memory.name}^{memory.exponent:g}; write =, or take "
                "--memory-mode multiply"
            )
        if mode == "interpolate" and memory.strength is not None and not 0 <= memory.strength <= 1:
            raise InputError(f"a weight from 0 to 1 is needed, got {memory.name}={memory.strength:g}")
        if mode == "draft" and (memory.exponent, memory.strength) != (None, None):
            raise InputError(f"a memory that only guesses ahead has no number, got one for {memory.name}; leave it out")
    if mode == "draft" and len(found) > 1:
        raise InputError(f"one memory guesses ahead, got {len(found)}; leave some out")
    return found, passages


def mixed(model: Model, memories: list[Fader]) -> Model:
    """The model with memories mixed into its base."""
    if memories:
        from factorlm.inference.memories import remember

        for memory in memories:
            model = remember(model, memory.name, most=1.0 if memory.strength is None else memory.strength)
    return model


def multiplied(model: Model, memories: list[Fader]) -> Model:
    """The model times memories."""
    if memories:
        from factorlm.inference.memories import memory_factor
        from factorlm.inference.strengths import exponent_of

        for memory in memories:
            factor = memory_factor(model.lm, memory.name)
            exponent = 1.0 if memory.exponent is None else memory.exponent
            if memory.strength is not None:
                exponent = exponent_of(model.lm, factor, memory.strength)
            model = model * factor**exponent
    return model


def with_passages(model: Model, passages: list[Fader], prompt: str, notes: Console) -> Model:
    """The model times what reading passages for a prompt changes; they are told to the notes."""
    from factorlm.inference.memory_names import parted
    from factorlm.inference.retrieved import retrieve_for
    from factorlm.memory.retrievers import open_passages

    for memory in passages:
        folder, retriever = parted(memory.name)
        found = retrieve_for(model, open_passages(folder, retriever), prompt, name=folder.name)
        number = memory.exponent if memory.exponent is not None else memory.strength
        model = model * found.factor ** (1.0 if number is None else number)
        for shown in found.shown:
            told = f"{Path(shown.passage.source).name}:{shown.passage.line}  {shown.beginning}"
            notes.print(f"{'read' if shown.is_read else 'left out'}: {told}", style="dim", markup=False, soft_wrap=True)
    return model


def draft(model: Model, memories: list[Fader]) -> MemoryDraft | None:
    """What guesses ahead; None if nothing does."""
    if not memories:
        return None
    from factorlm.inference.memories import draft_of

    return draft_of(model.lm, memories[0].name)


def show_recalled(response: Response) -> None:
    """Where the tokens of a text may come from."""
    from factorlm.cli.terminal import console

    for recalled in response.recalled:
        console.print(f"[dim]{RECALLED}[/dim]" if recalled is response.recalled[0] else "", soft_wrap=True)
        console.print(f"[bold]{recalled.name}[/bold]")
        console.print(recalled.table())
