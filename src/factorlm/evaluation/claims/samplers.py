"""Claims about samplers and searches: particles, twists, guesses, contrastive search, and time beside others."""

from __future__ import annotations

import itertools
import math
import statistics
from collections import defaultdict

import numpy as np
from pydantic import PositiveInt

from factorlm.algebra import global_product, local_product
from factorlm.errors import InputError
from factorlm.evaluation.claims.claim import Claim, ClaimBench, NoSettings, Outcome, decide
from factorlm.evaluation.claims.recorded import SPEED
from factorlm.evaluation.corpora import fingerprint
from factorlm.evaluation.diversity import repetition
from factorlm.evaluation.intervals import bootstrap
from factorlm.factors.sequence import FunctionFactor
from factorlm.inference.draw import Sampling, generator_of
from factorlm.inference.particles import Particles, sample_particles
from factorlm.inference.search import ContrastiveSearch, contrastive_search
from factorlm.inference.twists import learn_twist
from factorlm.models.table import random_table
from factorlm.settings import Config

NEARER = 0.5  # of the local product's distance
COMPARE = "python benchmarks/rivals/compare.py"
GLAD = ("good", "great", "happy", "love", "beautiful", "wonderful", "best", "nice", "joy", "smile", "fun", "delicious")


class ParticleSettings(Config):
    """Random languages and runs.

    Attributes:
        pairs: of languages.
        numbers: of particles, rising.
        draws: texts drawn with each number of particles from each pair, each by a run of its own.
    """

    pairs: PositiveInt = 4
    numbers: tuple[PositiveInt, ...] = (2, 8, 32)
    draws: PositiveInt = 4000


def _particles(bench: ClaimBench, settings: ParticleSettings) -> Outcome:
    import torch

    generator = torch.Generator().manual_seed(bench.seed)
    apart: dict[str, list[float]] = {"local": [], **{str(n): [] for n in settings.numbers}}
    for pair in range(settings.pairs):
        product = random_table("abc", 4, generator) * random_table("abc", 4, generator)
        target = {str(text): p for text, p in global_product(product, 4).items()}
        found = {"local": {str(text): p for text, p in local_product(product, 4).items()}}
        for number in settings.numbers:
            mean: dict[str, float] = defaultdict(float)
            for part in range(0, settings.draws, 500):
                some = range(part, min(part + 500, settings.draws))
                populations = sample_particles(
                    product, [[]] * len(some), [generator_of(bench.seed, [pair, number], i) for i in some],
                    max_tokens=4, particles=Particles(number=number), sampling=Sampling(),
                )  # fmt: skip
                for population in populations:
                    for text, weight in zip(population.token_ids, population.weights, strict=True):
                        mean[str(text)] += weight / settings.draws
            found[str(number)] = dict(mean)
            bench.report("running particles", pair * len(settings.numbers) + len(found) - 1,
                         settings.pairs * len(settings.numbers))  # fmt: skip
        for name, law in found.items():
            apart[name].append(sum(abs(law.get(text, 0.0) - p) for text, p in target.items()) / 2)
    means = {name: statistics.mean(values) for name, values in apart.items()}
    falling = [means[str(n)] for n in settings.numbers]
    is_falling = all(a > b for a, b in itertools.pairwise(falling))
    return Outcome(
        measured=f"total variation from the global product {means['local']:.3f} of the local product, "
        + ", ".join(f"{means[str(n)]:.3f} with {n} particles" for n in settings.numbers)
        + f" (mean weighted law of {settings.draws:,} runs, {settings.pairs} pairs of random languages)",
        numbers={"total_variation": apart},
        verdict="holds" if is_falling and falling[-1] <= NEARER * means["local"] else "does not hold here",
    )


PARTICLES_REACH_THE_PRODUCT = Claim(
    name="particles-reach-the-product",
    sentence="Sequential Monte Carlo with the local product as proposal draws from the product over texts, nearer with "
    "more particles",
    source="Lew et al. 2023",
    reported="",
    rule="The mean weighted law of many runs is compared with the global product by enumeration. Holds if its total "
    f"variation falls with each number of particles and ends at no more than {NEARER} of the local product's; else it "
    "does not hold.",
    settings=ParticleSettings(),
    run=_particles,
    needs=(),
    minutes=2,
)


class TwistSettings(Config):
    """A judge of whole texts that likes glad words, and runs with and without what was learned for it.

    Attributes:
        model: who writes.
        prompts: that the twist is learned and used behind.
        nats: for each glad word of a text.
        texts: learned from, for each prompt.
        particles: of a run.
        runs: for each prompt, with other seeds.
        max_tokens: of a text.
    """

    model: str = "smollm2"
    prompts: tuple[str, ...] = ("The food was", "One morning, the children", "My friend told me that")
    nats: float = 2.0
    texts: PositiveInt = 192
    particles: PositiveInt = 8
    runs: PositiveInt = 16
    max_tokens: PositiveInt = 12


def _twist(bench: ClaimBench, settings: TwistSettings) -> Outcome:
    lm = bench.compose(settings.model).model.lm

    def nats(text: str) -> float:
        return settings.nats * sum(word.strip(".,!?;:'\"") in GLAD for word in text.lower().split())

    product = lm * FunctionFactor("glad", lm.vocabulary, nats)
    prompts = [[*lm.start_ids, *lm.encode_text(prompt)] for prompt in settings.prompts]
    twist = learn_twist(product, prompts, max_tokens=settings.max_tokens, number=settings.texts, seed=bench.seed,
                        limit="cut", report=bench.report)  # fmt: skip
    bounds = {}
    for name, lead in (("without", None), ("with", twist.head)):
        populations = sample_particles(
            product, prompts * settings.runs,
            [generator_of(bench.seed + 1, p, n) for n in range(settings.runs) for p in prompts],
            max_tokens=settings.max_tokens, particles=Particles(number=settings.particles, limit="cut"),
            sampling=Sampling(), twist=lead, report=bench.report,
        )  # fmt: skip
        bounds[name] = [population.log_z for population in populations]
    gain = bootstrap(np.array([bounds["with"], bounds["without"]]).T, _first_less_second, seed=bench.seed)
    means = {name: statistics.mean(values) for name, values in bounds.items()}
    assert gain.value is not None
    return Outcome(
        measured=f"mean log Z of {settings.particles} particles, a lower bound, {means['without']:.2f} without and "
        f"{means['with']:.2f} with the twist, {gain.value:+.2f} ({gain.low or 0:+.2f} to {gain.high or 0:+.2f}) nats",
        numbers={"gain": gain.model_dump(), "log_z": bounds, "ridge": twist.ridge, "held_out_gain": twist.gain},
        verdict=decide(gain, 0.0, above=True),
    )


def _first_less_second(mean_RC: np.ndarray) -> np.ndarray:
    return np.asarray(mean_RC[:, 0] - mean_RC[:, 1])


TWIST_TIGHTENS_BOUND = Claim(
    name="twist-tightens-bound",
    sentence="A twist learned by the contrastive loss makes the lower bound on log Z tighter",
    source="Zhao et al. 2024",
    reported="tight bounds with tens of particles where proposals of the base model need thousands",
    rule="A judge gives nats for each glad word of a whole text. Holds if the 95 % interval of the mean difference of "
    "log Z (with the twist minus without, bootstrap over runs) lies above zero, does not hold if it lies below; else "
    "it is not shown.",
    settings=TwistSettings(),
    run=_twist,
    needs=("smollm2",),
    minutes=3,
)


class ContrastiveSettings(Config):
    """Texts to compare.

    Attributes:
        model: who writes.
        part: of data, with prompts.
        prompts: how many.
        max_tokens: of a text.
        candidates: of contrastive search.
        penalty: of contrastive search.
    """

    model: str = "smollm2"
    part: str = "sentiment_prompts/neutral"
    prompts: PositiveInt = 24
    max_tokens: PositiveInt = 64
    candidates: PositiveInt = 5
    penalty: float = 0.6


def _contrastive(bench: ClaimBench, settings: ContrastiveSettings) -> Outcome:
    model = bench.compose(settings.model).model
    prompts = list(dict.fromkeys(row["prompt"] for row in bench.data.rows(settings.part)))[: settings.prompts]
    if len(prompts) < settings.prompts:
        raise InputError(f"{settings.prompts} prompts are needed, got {len(prompts)} in {settings.part}; take fewer")
    bench.used[settings.part] = fingerprint(prompts)
    rows = []
    for number, prompt in enumerate(prompts):
        ids = model.encode_prompt(prompt, settings.max_tokens)
        pair = []
        for penalty in (settings.penalty, 0.0):  # without the penalty it is greedy decoding
            how = ContrastiveSearch(candidates=settings.candidates, penalty=penalty)
            found = contrastive_search(model.factor, ids, how, max_tokens=settings.max_tokens)
            pair.append(repetition(found.token_ids, 4) if len(found.token_ids) > 3 else math.nan)
        rows.append(pair)
        bench.report("searching", number + 1, len(prompts))
    kept = np.array([pair for pair in rows if not any(map(math.isnan, pair))])
    difference = bootstrap(kept, _first_less_second, seed=bench.seed)
    assert difference.value is not None
    return Outcome(
        measured=f"{kept[:, 0].mean():.0%} of 4-grams repeat, {kept[:, 1].mean():.0%} in greedy texts, "
        f"{100 * difference.value:+.0f} points ({100 * (difference.low or 0):+.0f} to "
        f"{100 * (difference.high or 0):+.0f}); {len(kept)} prompts",
        numbers={"difference": difference.model_dump(), "repetition": rows},
        verdict=decide(difference, 0.0, above=False),
    )


CONTRASTIVE_REPEATS_LESS = Claim(
    name="contrastive-repeats-less",
    sentence="Contrastive search repeats itself less than greedy decoding",
    source="Su et al. 2022",
    reported="far fewer repeated n-grams, at better coherence, on Wikitext-103",
    rule="Repetition is the share of 4-grams of tokens that a text has already. Holds if the 95 % interval of the mean "
    "difference (contrastive minus greedy, bootstrap over prompts) lies below zero, does not hold if it lies above; "
    "else it is not shown. Coherence is not measured.",
    settings=ContrastiveSettings(),
    run=_contrastive,
    needs=("smollm2", "sentiment_prompts/neutral"),
    minutes=4,
)


def _guesses(bench: ClaimBench, settings: NoSettings) -> Outcome:
    rows = [row for row in bench.benchmark("speed.jsonl", SPEED) if "guesses" in row["benchmark"]]
    if not rows:
        raise InputError(f"times with guesses are needed in speed.jsonl, got none; make it with {SPEED}")
    found = {row["benchmark"].removeprefix("tokens per second with "): row for row in rows}
    is_faster = all((row["low"] or 0.0) > 1 for row in rows)
    return Outcome(
        measured="; ".join(f"{row['ratio']:.2f} times, {name}" for name, row in found.items()),
        numbers={name: [row["low"], row["ratio"], row["high"]] for name, row in found.items()},
        verdict="holds" if is_faster else "does not hold here",
    )


GUESSES_PAY = Claim(
    name="guesses-pay",
    sentence="Guessing tokens and checking them together is faster than writing them one by one, for compositions, too",
    source="Leviathan et al. 2023; for formulas, Dekoninck et al. 2024",
    reported="2 to 3 times on T5-XXL; up to 2.24 times for formulas",
    rule="Holds if the lower end of the 95 % interval of the ratio of tokens per second is above 1 in each of the rows "
    "of the benchmark: guesses from texts that repeat, alone and under instructions, and of the base for further "
    "models; else it does not hold. The texts that were chosen repeat; others do not profit.",
    settings=NoSettings(),
    run=_guesses,
    needs=("benchmarks/records/speed.jsonl",),
    minutes=0.1,
    made_by="factorlm bench samplers",
)


def _beside_others(bench: ClaimBench, settings: NoSettings) -> Outcome:
    [found] = bench.benchmark("rivals_speed.json", COMPARE)
    rows = [row for row in found["rows"] if row["kind"] == "prompts" and row["terms"] >= 1]
    others = {row["library"] for row in rows} - {"factorlm"}
    least = {library: min(r["ratio"] for r in rows if r["library"] == library) for library in sorted(others)}
    particles = next(r["ratio"] for r in found["rows"] if r["kind"] == "particles" and r["library"] != "factorlm")
    return Outcome(
        measured="at least "
        + ", ".join(f"{ratio:.1f} times as fast as {library}" for library, ratio in least.items())
        + f" with 1 to {max(row['terms'] for row in rows)} instructions; particles {particles:.1f} times as fast as "
        "those of genlm-control",
        numbers={"least": least, "particles": particles, "machine": found["machine"]},
        verdict="holds" if min(*least.values(), particles) > 1 else "does not hold here",
    )


FASTER_THAN_OTHERS = Claim(
    name="faster-than-others",
    sentence="Products with instructions are written faster than by language-model-arithmetic, genlm-control and a "
    "loop over models",
    source="",
    reported="",
    rule="Holds if the median ratio of milliseconds a token is above 1 for each library and number of terms, and for "
    "16 particles against genlm-control; else it does not hold.",
    settings=NoSettings(),
    run=_beside_others,
    needs=("benchmarks/records/rivals_speed.json",),
    minutes=0.1,
    made_by=COMPARE,
)
