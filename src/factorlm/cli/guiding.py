"""`--guide NAME=STRENGTH` of generate: what meanings are leant towards, and how the plan of a text is shown."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from factorlm.errors import InputError, UnknownNameError

if TYPE_CHECKING:
    from factorlm.inference import GuidedPrior, Model
    from factorlm.inference.plans import Plan

CLEAR = 10.0  # the strength of a guide that is only named
DECODERS = ("soft", "bias")
SHOWN_CHARACTERS = 90  # of a real sentence


@dataclass(frozen=True)
class Wish:
    """What the options ask for.

    Attributes:
        strengths: of guides.
        meanings: folder of a prior over meanings; None takes what is shipped.
        decoder: "soft" or "bias"; empty takes the better one.
        emphasis: power of what a plan changes.
        steps: of denoising.
        exact: particles that latents are drawn by; 0 takes what guidance gives.
    """

    strengths: dict[str, float]
    meanings: Path | None
    decoder: str
    emphasis: float
    steps: int
    exact: int


def parse(options: list[str]) -> dict[str, float]:
    """Strengths by name, from NAME=STRENGTH or NAME.

    Raises:
        InputError: for a number that is not finite, or a guide given twice.
    """
    from factorlm.cli import faders

    found: dict[str, float] = {}
    for option in options:
        name, sign, number = option.rpartition("=")
        name = name if sign else option
        if not name or name in found:
            raise InputError(f"each guide is given once as NAME=STRENGTH, got {option!r}; positive=10 is clear")
        found[name] = faders.number(number, f"{name}=", "--guide") if sign else CLEAR
    return found


def is_wanted(guides: list[str], meanings: Path | None) -> bool:
    """Whether latents are to be drawn at all; without guides, a folder asks for the plain prior over meanings."""
    return bool(guides) or meanings is not None


def prior_of(model: Model, wish: Wish) -> GuidedPrior:
    """The model guided by meaning.

    Raises:
        UnknownNameError: for a decoder, or a guide, that there is not.
    """
    from factorlm.diffusion import Denoising, LatentParticles, Proposing
    from factorlm.diffusion.meanings import FEW_STEPS
    from factorlm.inference import guided

    if wish.decoder and wish.decoder not in DECODERS:
        raise UnknownNameError.of("decoder", wish.decoder, DECODERS)
    proposing = Proposing(denoising=FEW_STEPS.model_copy(update={"steps": wish.steps}))
    if wish.exact == 1:
        raise InputError("--meaning-particles is 0 or at least 2, got 1; 32 is usual")
    if wish.exact:
        denoising = Denoising(steps=wish.steps, most=FEW_STEPS.most)  # ancestral: its steps have densities
        proposing = Proposing(denoising=denoising, particles=LatentParticles(number=wish.exact))
    decoder = wish.decoder or None
    return guided(
        model, wish.strengths, meanings=wish.meanings, decoder=decoder,  # type: ignore[arg-type]
        emphasis=wish.emphasis, proposing=proposing,
    )  # fmt: skip


def show_plan(plan: Plan) -> None:
    """What the text was to say, and whether it does."""
    from rich.markup import escape
    from rich.table import Table

    from factorlm.cli.terminal import console

    if plan.guides:
        table = Table(box=None, pad_edge=False, header_style="dim")
        table.add_column("guide")
        table.add_column("expected of the text, from noise to plan", style="cyan", no_wrap=True)
        table.add_column("of the plan", justify="right")
        table.add_column("of the text", justify="right")
        for k, name in enumerate(plan.guides):
            written = f"{plan.written[k]:.2f}" if plan.written else ""
            expected = f"{plan.bars(k)} {plan.probs[-1][k]:.2f}" if plan.probs else ""
            table.add_row(f"{escape(name)}={plan.strengths[k]:g}", expected, f"{plan.planned[k]:.2f}", written)
        console.print(table)
    heeded = "" if plan.likeness is None else f"; the text has a cosine of {plan.likeness:.2f} to the plan"
    if plan.nearest:
        console.print(f"[dim]real sentences nearest to the plan{heeded}[/dim]")
        for text, cosine in plan.nearest:
            short = text if len(text) <= SHOWN_CHARACTERS else f"{text[:SHOWN_CHARACTERS]}…"
            console.print(f"  [dim]{cosine:.2f}[/dim] {escape(short)}", highlight=False, soft_wrap=True)
    elif heeded:
        console.print(f"[dim]{heeded[2:]}[/dim]")
