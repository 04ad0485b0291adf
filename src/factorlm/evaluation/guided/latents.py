"""What becomes of latents by how they are drawn: steps, samplers, forms of guidance, particles; without any text."""

# Axes: B latents, G guides.

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat, PositiveInt

from factorlm.diffusion import Denoising, Guidance, LatentParticles, LinearGuide, Meanings, Proposing, Schedule
from factorlm.diffusion.meanings import FEW_STEPS
from factorlm.evaluation.document import Cell, Column, Curve, Section, Series, Table
from factorlm.evaluation.guided.writing import Guiding
from factorlm.evaluation.intervals import Estimate, mean_interval
from factorlm.evaluation.part import Part
from factorlm.evaluation.responses import distinct_prompts
from factorlm.inference.guide_names import find_guide
from factorlm.settings import Config


class Latents(Config):
    """Settings of this part.

    Attributes:
        prompts: data set.
        num_prompts: that latents are drawn for, one each.
        guide: that leans.
        strengths: of it.
        steps: of denoising, for each sampler.
        particles: of the reference.
        reference_steps: of the reference.
    """

    prompts: str = "sentiment_prompts/neutral"
    num_prompts: Annotated[int, Field(ge=8)] = 64
    guide: str = "positive"
    strengths: tuple[PositiveFloat, ...] = (1.0, 3.0, 10.0)
    steps: tuple[PositiveInt, ...] = (5, 10, 20, 50, 250)
    particles: PositiveInt = 32
    reference_steps: PositiveInt = 50


@dataclass(frozen=True)
class Drawn:
    """Latents drawn in one way.

    Attributes:
        way: of drawing.
        strength: of the guide.
        prob_B: probability that the guide gives each.
        size_B: root mean square of the numbers of each; 1 for latents of texts.
        nearest_B: cosine to the nearest real sentence.
        seconds: that drawing took, all together.
    """

    way: str
    strength: float
    prob_B: NDArray[np.float64]
    size_B: NDArray[np.float64]
    nearest_B: NDArray[np.float64]
    seconds: float


def measure_latents(guiding: Guiding, settings: Latents) -> Part:
    """Draw latents in all ways."""
    bench = guiding.bench
    meanings = guiding.loaded
    prompts = distinct_prompts(bench, settings.prompts, settings.num_prompts)
    guide = find_guide(settings.guide, meanings)
    meanings.encode(prompts)  # so that no way waits for it
    ways = _ways(settings)
    found = []
    for done, (name, strength, proposing) in enumerate(ways):
        found.append(_drawn(meanings, prompts, guide, name, strength, proposing, bench.seed))
        bench.report("drawing latents", done + 1, len(ways))
    return _part(settings, found, bench.seed)


def _ways(settings: Latents) -> list[tuple[str, float, Proposing]]:
    strong = settings.strengths[-1]
    ways: list[tuple[str, float, Proposing]] = [("no guide", 0.0, Proposing())]
    for strength in settings.strengths:
        ways += [(f"form {form}", strength, Proposing(guidance=Guidance(form=form)))
                 for form in ("tilt", "scaled", "released")]  # fmt: skip
        ways.append(("form scaled, wide as published", strength,
                     Proposing(guidance=Guidance(form="scaled", spread="likelihood"))))  # fmt: skip
        ancestral = Denoising(steps=settings.reference_steps, most=FEW_STEPS.most)
        for method in ("twisted", "resample"):
            particles = LatentParticles(method=method, number=settings.particles)
            ways.append((f"{settings.particles} particles, {method}", strength,
                         Proposing(denoising=ancestral, particles=particles)))  # fmt: skip
    ways.append(("no prefix", strong, Proposing(scale=0.0)))
    wider = FEW_STEPS.model_copy(update={"schedule": Schedule()})
    for strength in settings.strengths:
        ways.append((f"begun at log-SNR -{Schedule().widest:g}", strength, Proposing(denoising=wider)))
    for method in ("dpm", "ddim", "ancestral"):
        for steps in settings.steps:
            denoising = FEW_STEPS.model_copy(update={"method": method, "steps": steps})
            ways.append((f"{method}, {steps} steps", strong, Proposing(denoising=denoising)))
    return ways


def _drawn(
    meanings: Meanings, prompts: list[str], guide: LinearGuide, name: str, strength: float, proposing: Proposing,
    seed: int,
) -> Drawn:  # fmt: skip
    start = time.perf_counter()
    found = meanings.propose(
        prompts, torch.Generator().manual_seed(seed), proposing, guides=[guide], strengths=[strength]
    )
    seconds = time.perf_counter() - start
    with torch.no_grad():
        prob_B = guide.log_prob(found.latent_BD).exp()
    vectors = meanings.collection
    nearest_B = (found.vector_BD @ vectors.vector_CD.T).amax(1) if vectors else torch.full((len(prompts),), torch.nan)
    size_B = found.latent_BD.square().mean(1).sqrt()
    prob, size, nearest = (values.double().numpy() for values in (prob_B, size_B, nearest_B))
    return Drawn(name, strength, prob, size, nearest, seconds)


def _part(settings: Latents, found: list[Drawn], seed: int) -> Part:
    def mean(values_B: NDArray[np.float64]) -> Estimate:
        return mean_interval(values_B, seed=seed)

    columns = (
        Column(title="way"), Column(title="strength", form="g"),
        Column(title=f"probability of {settings.guide} by the guide", form=".3f"),
        Column(title="size (1 for texts)", form=".2f"), Column(title="cosine to the nearest real sentence", form=".2f"),
        Column(title="seconds for all", form=".2f", best="low"),
    )  # fmt: skip
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (d.way, d.strength, mean(d.prob_B), mean(d.size_B), mean(d.nearest_B), d.seconds) for d in found
    )
    table = Table(
        title="Latents by how they are drawn", columns=columns, rows=rows,
        note=f"{settings.num_prompts} prompts of {settings.prompts}, one latent each. Particles are the reference: "
        "they come to the prior tilted by guide^strength; forms of guidance come near it, and may go beyond.",
    )  # fmt: skip
    series = []
    for method in ("dpm", "ddim", "ancestral"):
        mine = [d for d in found if d.way.startswith(f"{method},")]
        series.append(
            Series(name=method, x=tuple(float(s) for s in settings.steps), y=tuple(mean(d.prob_B) for d in mine))
        )
    curve = Curve(title="Probability by the guide against steps", x_label="steps of denoising",
                  y_label=f"probability of {settings.guide}", series=tuple(series), is_percent=True)  # fmt: skip
    named = {f"{d.way} at {d.strength:g}": d for d in found}
    measures = {
        "latents, probability by the guide": {name: mean(d.prob_B) for name, d in named.items()},
        "latents, size": {name: mean(d.size_B) for name, d in named.items()},
        "latents, cosine to the nearest real sentence": {name: mean(d.nearest_B) for name, d in named.items()},
    }
    strong = settings.strengths[-1]
    tilt, exact = (
        next(d for d in found if d.way == way and d.strength == strong)
        for way in ("form tilt", f"{settings.particles} particles, twisted")
    )
    line = (
        f"Latents at strength {strong:g}: {settings.guide} with probability {found[0].prob_B.mean():.2f} without "
        f"guide, {tilt.prob_B.mean():.2f} guided, {exact.prob_B.mean():.2f} by {settings.particles} particles."
    )
    return Part(sections=(Section(title="Latents", blocks=(table, curve)),), measures=measures, headlines=(line,))
