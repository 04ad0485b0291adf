"""One reward, several ways of using it: what each gains in reward and in an independent judge's eyes, by divergence."""

# Axes: P prompts, S responses to a prompt.

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat, PositiveInt
from scipy.special import logsumexp

from factorlm.algebra import Power
from factorlm.evaluation.alignment.arms import (
    BASE,
    BEST,
    DPO,
    MEAN,
    PARTICLES,
    PRIOR,
    SOFT,
    WEIGHED,
    Arm,
    part_of,
)
from factorlm.evaluation.alignment.learned import digest, tuned_adapter
from factorlm.evaluation.alignment.pool import Weighed, best_of_n, tilted
from factorlm.evaluation.alignment.sources import Divided
from factorlm.evaluation.alignment.ways import Read, Writer, numbers_of
from factorlm.evaluation.part import Part
from factorlm.factors.adapter import ratio
from factorlm.factors.dpo import DpoSettings
from factorlm.inference.twists import Loss
from factorlm.settings import Config

Array = NDArray[np.float64]
Doses = tuple[PositiveFloat, ...]


class Frontier(Config):
    """Settings of the part.

    Attributes:
        pool: responses to each prompt, from which best of n and weights are had.
        best_of: n of best of n.
        betas: of the weights over the pool.
        particle_betas: of particles; empty leaves them out.
        particles: number of them.
        lead_beta: at which values of beginnings are learned.
        lead_exponents: of those values, token by token; empty leaves them out.
        lead_prompts: that they are learned behind.
        lead_texts: for each of these.
        dpo: how the adapter is tuned.
        dpo_exponents: of its ratio to the model; empty leaves it out.
        components: shelf factors, each of which makes a component of a prior; empty leaves it out.
        component_strength: of each.
        temperatures: at which components are tilted by their mean reward.
        samples: responses to a prompt of each way that writes its own.
    """

    pool: Annotated[int, Field(ge=2)] = 24
    best_of: tuple[PositiveInt, ...] = (1, 2, 4, 8, 16)
    betas: Doses = (4.0, 2.0, 1.0, 0.5, 0.25)
    particle_betas: Doses = (0.5,)
    particles: Annotated[int, Field(ge=2)] = 12
    lead_beta: PositiveFloat = 1.0
    lead_exponents: Doses = (1.0, 2.0)
    lead_prompts: PositiveInt = 8
    lead_texts: PositiveInt = 32
    dpo: DpoSettings = DpoSettings()
    dpo_exponents: Doses = (1.0, 2.0, 4.0)
    components: tuple[str, ...] = ("polite", "toxic")
    component_strength: float = 0.3
    temperatures: Doses = (1.0, 0.3, 0.1)
    samples: PositiveInt = 3


def measure_frontier(writer: Writer, settings: Frontier, divided: Divided) -> Part:
    """Every way at every dose."""
    bench = writer.bench
    pool = writer.read(writer.write(settings.pool, "the pool"), "the pool")
    arms = [*_chosen(settings, pool, bench.seed)]
    arms += _particled(writer, settings, pool)
    arms += _led(writer, settings, divided)
    arms += _tuned(writer, settings, divided)
    arms += _components(writer, settings)
    return part_of(arms, writer.judge.name, writer.label, bench.seed)


def _chosen(settings: Frontier, pool: Read, seed: int) -> Iterator[Arm]:
    for n in settings.best_of:
        yield _weighed(BASE if n == 1 else BEST, f"n={n}", pool, best_of_n(pool.reward_PS, n), seed)
    for beta in settings.betas:
        yield _weighed(WEIGHED, f"β={beta:g}", pool, tilted(pool.reward_PS, beta), seed)


def _weighed(way: str, dial: str, pool: Read, by: Weighed, seed: int) -> Arm:
    return Arm(way, dial, by.nats_P, by.mean(pool.reward_PS), by.mean(pool.judged_PS), by.mean(pool.length_PS),
               pool.texts(by.drawn(seed)))  # fmt: skip


def _written(way: str, dial: str, read: Read, nats_P: Array | None = None) -> Arm:
    moved_P = read.moved_PS.mean(1) if nats_P is None else nats_P
    texts = read.texts([0] * len(read.samples))
    return Arm(way, dial, moved_P, read.reward_PS.mean(1), _known(read.judged_PS), read.length_PS.mean(1), texts)


def _known(value_PS: Array) -> Array:
    """Means over the responses that have a value, [P]; nan where none has."""
    return Weighed(np.full_like(value_PS, 1 / value_PS.shape[1]), np.zeros(len(value_PS))).mean(value_PS)


def _particled(writer: Writer, settings: Frontier, pool: Read) -> Iterator[Arm]:
    for beta in settings.particle_betas:
        stage = f"particles, β={beta:g}"
        read = writer.read(writer.particles(beta, settings.particles, stage), stage)
        log_z_P = logsumexp(pool.reward_PS / beta, axis=1) - np.log(pool.reward_PS.shape[1])
        yield _written(PARTICLES, f"β={beta:g}", read, read.reward_PS.mean(1) / beta - log_z_P)


def _led(writer: Writer, settings: Frontier, divided: Divided) -> Iterator[Arm]:
    prompts = list(dict.fromkeys(pair.prompt for pair in divided.tuning))[: settings.lead_prompts]
    losses: tuple[tuple[str, Loss], ...] = ((SOFT, "ctl"), (MEAN, "mean"))
    for way, loss in losses if settings.lead_exponents else ():
        head = writer.lead(prompts, settings.lead_beta, settings.lead_texts, loss)
        for exponent in settings.lead_exponents:
            stage = f"{way}, {exponent:g}"
            name = f"{loss} {numbers_of(writer.reward)} {settings.lead_beta} {settings.lead_texts} {exponent} {prompts}"
            samples = writer.write(settings.samples, stage, Power(head, exponent), name)
            yield _written(way, f"β={settings.lead_beta / exponent:g}", writer.read(samples, stage))


def _tuned(writer: Writer, settings: Frontier, divided: Divided) -> Iterator[Arm]:
    if not settings.dpo_exponents:
        return
    lm = writer.base.model.lm
    tuned = ratio("dpo", lm, tuned_adapter(writer.bench, lm, divided.tuning, settings.dpo))
    name = f"dpo {settings.dpo.model_dump_json()} {digest(divided.tuning)}"
    for exponent in settings.dpo_exponents:
        stage = f"{DPO}, w={exponent:g}"
        samples = writer.write(settings.samples, stage, Power(tuned, exponent), f"{name} {exponent}")
        yield _written(DPO, f"w={exponent:g}", writer.read(samples, stage))


def _components(writer: Writer, settings: Frontier) -> Iterator[Arm]:
    """A prior over the model and the model with each of some factors, tilted by the components' mean rewards.

    The means are those of the very responses that are reported, which flatters the tilt a little: components are few.
    """
    if not settings.components:
        return
    model = writer.base.model
    models = [model, *(model.steered({name: settings.component_strength}) for name in settings.components)]
    reads = []
    for name, component in zip(("the model alone", *settings.components), models, strict=True):
        key = f"{name}={settings.component_strength}"
        factor = None if component is model else component.terms[-1]
        written = writer.write(
            settings.samples,
            f"component {name}",
            None if factor is None else Power(factor.factor, factor.exponent),
            key,
        )
        reads.append(writer.read(written, f"component {name}"))
    log_prob_KCPS = np.stack([writer.log_probs(read.samples, models, "components weighed") for read in reads])
    mean_K = np.array([read.reward_PS.mean() for read in reads])
    for temperature in (np.inf, *settings.temperatures):
        log_weight_K = mean_K / temperature - logsumexp(mean_K / temperature)
        weight_K = np.exp(log_weight_K)
        mixed_KPS = logsumexp(log_prob_KCPS + log_weight_K[None, :, None, None], axis=1)
        moved_KPS = mixed_KPS - log_prob_KCPS[:, 0]
        nats_P = np.einsum("k,kp->p", weight_K, moved_KPS.mean(2))
        reward_P, judged_P, length_P = (
            np.einsum("k,kp->p", weight_K, np.stack([_known(value_PS) for value_PS in values]))
            for values in ([r.reward_PS for r in reads], [r.judged_PS for r in reads], [r.length_PS for r in reads])
        )
        generator = np.random.default_rng(writer.bench.seed)
        drawn = generator.choice(len(reads), size=len(writer.prompts), p=weight_K)
        texts = [reads[k].samples[p][0].text for p, k in enumerate(drawn)]
        dial = "uniform" if np.isinf(temperature) else f"T={temperature:g}"
        yield Arm(PRIOR, dial, nats_P, reward_P, judged_P, length_P, texts)
