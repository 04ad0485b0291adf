"""What `generate` is asked about languages and particles, and how particles are shown."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from factorlm.algebra import Factor
    from factorlm.inference import Particles
    from factorlm.inference.population import Population

TEXTS_SHOWN = 5


def language_of(schema: Path | None, regex: str | None, rules: Path | None, choices: list[str]) -> Factor | None:
    """The formal language that was asked for, if any."""
    from factorlm.factors import grammar
    from factorlm.factors.grammar import read_rules

    if schema is None and regex is None and rules is None and not choices:
        return None
    return grammar(
        json_schema=None if schema is None else read_rules(schema),
        regex=regex,
        rules=None if rules is None else read_rules(rules),
        choices=choices or None,
    )


def particles_of(sampler: str, number: int, scheme: str, threshold: float, limit: str) -> Particles | None:
    """Settings of a sampler that works with particles; None for the local one."""
    from pydantic import ValidationError

    from factorlm.algebra.resampling import SCHEMES
    from factorlm.errors import UnknownNameError
    from factorlm.inference import Particles
    from factorlm.settings import explain_validation

    if scheme not in SCHEMES:
        raise UnknownNameError.of("scheme of resampling", scheme, SCHEMES)
    method = "smc" if sampler == "local" else sampler  # a bad option is an error even where it is not used
    try:
        found = Particles.model_validate(
            {"method": method, "number": number, "scheme": scheme, "threshold": threshold, "limit": limit}
        )
        return None if sampler == "local" else found
    except ValidationError as error:
        raise explain_validation(error, "the particles") from None


def show_population(population: Population, *, with_texts: bool) -> None:
    """What the particles say of themselves; their texts are shown with weights, as they are no independent samples."""
    from rich.table import Table
    from rich.text import Text

    from factorlm.cli.terminal import console

    effective = population.effective_sizes[-1] if population.effective_sizes else len(population.texts)
    moved = "" if population.acceptance is None else f", {population.acceptance:.0%} of moves accepted"
    console.print(
        f"[dim]drawn from {len(population.texts)} particles: {effective:.1f} effective, {population.num_ancestors} "
        f"first ancestors, resampled {len(population.resampled)} times{moved}; log Z {population.log_z:.2f} ± "
        f"{population.log_z_error:.2f} nats[/dim]",
        soft_wrap=True,
    )
    if with_texts:
        table = Table(box=None, pad_edge=False, header_style="dim")
        table.add_column("weight", justify="right")
        table.add_column("text of the particles, not independent", overflow="fold")
        for text, weight in list(population.distribution.items())[:TEXTS_SHOWN]:
            table.add_row(f"{weight:.2f}", Text(" ".join(text.split())))
        console.print(table)
