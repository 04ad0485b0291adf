"""`--memory INDEX=MOST` of generate and score: memories mixed in, multiplied on, or guessing ahead."""

from __future__ import annotations

from typing import TYPE_CHECKING

from factorlm.errors import InputError, UnknownNameError

if TYPE_CHECKING:
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
        InputError: for a number that the mode cannot use.
    """
    from factorlm.cli import faders

    if mode not in MODES:
        raise UnknownNameError.of("way of using a memory", mode, MODES)
    found = faders.parse(options)
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
    return found


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
