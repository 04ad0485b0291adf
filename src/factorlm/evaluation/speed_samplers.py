"""Speed of instructions, grammars and particles, as ratios within one run; see `harness`."""

# Axes: B batch, T time.

from __future__ import annotations

import torch
from torch import Tensor

from factorlm.algebra import Factor, LocalProduct
from factorlm.evaluation.harness import compare_speed
from factorlm.evaluation.speed import (
    NEW_TOKENS,
    SpeedRecord,
    Written,
    greedy,
    prompts_of,
    random_heads,
    record_of,
    same_tokens,
    tolerance_of,
)
from factorlm.evaluation.workbench import Progress
from factorlm.factors.grammar import Grammar, regex_grammar
from factorlm.factors.headed import fuse
from factorlm.factors.prompt import UnboundPrompt
from factorlm.inference.draw import Sampling, generator_of
from factorlm.inference.local import Row, sample_local
from factorlm.inference.particles import Particles, sample_particles
from factorlm.models import CausalLM
from factorlm.text import TextStream

INSTRUCTIONS = (
    "Write in a calm and friendly tone.", "Write as if for a child.", "Be precise and give numbers.",
    "Write about the sea and ships.", "Avoid any swear words.", "Use short sentences.", "Be a little ironic.",
    "Write as a travel guide would.",
)  # fmt: skip
EXPONENT = 0.4


def under_instructions(lm: CausalLM, number: int) -> Factor:
    """The product of a model and what instructions make of it."""
    product: Factor = lm
    for n, instruction in enumerate(INSTRUCTIONS[:number]):
        product = product * UnboundPrompt(f"prompt{n}", None, instruction).bind(lm) ** EXPONENT
    return product


def instructions_together(
    lm: CausalLM, batch_size: int, *, num_prompts: int = 4, num_repeats: int = 9, with_noise: bool = False,
    report: Progress,
) -> SpeedRecord:  # fmt: skip
    """Speed of decoding under instructions that share a pass over reading each for itself; both write the same."""
    apart = LocalProduct(under_instructions(lm, num_prompts))
    together = fuse(apart)
    timing = compare_speed(
        f"{num_prompts} instructions, batch {batch_size}",
        {
            "apart": lambda prompt: greedy(apart, prompt, NEW_TOKENS),
            "together": lambda prompt: greedy(together, prompt, NEW_TOKENS),
        },
        prompts_of(lm, batch_size),
        agree=same_tokens(tolerance_of(lm)),
        baseline="apart",
        repeats=num_repeats,
        work_per_run=NEW_TOKENS,
        unit="token of the batch",
        ratio_of="speed",
        with_noise=with_noise,
        before_each=lm.forget,
        settings={"batch_size": batch_size, "num_prompts": num_prompts},
        report=report,
    )  # fmt: skip
    return record_of(f"tokens per second, {num_prompts} instructions together / apart", lm, (), 0, batch_size, timing)


def grammar_against_none(
    lm: CausalLM, batch_size: int, *, num_repeats: int = 9, with_noise: bool = False, report: Progress
) -> SpeedRecord:
    """Time per token of decoding with a grammar that allows any text, over decoding without."""
    masked = LocalProduct(lm * Grammar("any", regex_grammar("(?s:.*)"), lm.vocabulary))
    timing = compare_speed(
        f"a grammar, batch {batch_size}",
        {
            "without": lambda prompt: greedy(lm, prompt, NEW_TOKENS),
            "with a grammar": lambda prompt: greedy(masked, prompt, NEW_TOKENS),
        },
        prompts_of(lm, batch_size),
        agree=lambda want, got: None if want.token_BT.shape == got.token_BT.shape else "other numbers of tokens",
        baseline="without",
        repeats=num_repeats,
        work_per_run=NEW_TOKENS,
        unit="token of the batch",
        with_noise=with_noise,
        before_each=lm.forget,
        settings={"batch_size": batch_size},
        report=report,
    )
    return record_of("time per token with a grammar / without", lm, (), 0, batch_size, timing)


def particles_against_samples(
    lm: CausalLM, number: int = 16, *, num_repeats: int = 9, with_noise: bool = False, report: Progress
) -> SpeedRecord:
    """Time of sequential Monte Carlo over that of as many plain samples in a batch, of a model with one head."""
    heads = random_heads(lm, 1, 0)
    product = lm * heads[0] ** 0.5

    def plain(prompt_BT: Tensor) -> Written:
        prompt = prompt_BT[0].tolist()
        rows = [Row(prompt, generator_of(0, prompt, n), TextStream()) for n in range(number)]
        for _ in sample_local(product, rows, max_tokens=NEW_TOKENS, sampling=Sampling()):
            pass
        return Written(torch.tensor([len(row.token_ids) for row in rows])[None], None)

    def smc(prompt_BT: Tensor) -> Written:
        prompt = prompt_BT[0].tolist()
        [population] = sample_particles(
            product, [prompt], [generator_of(0, prompt, 0)], max_tokens=NEW_TOKENS,
            particles=Particles(number=number, limit="cut"), sampling=Sampling(),
        )  # fmt: skip
        return Written(torch.tensor([len(text) for text in population.token_ids])[None], None)

    timing = compare_speed(
        f"{number} particles",
        {"plain samples": plain, "particles": smc},
        prompts_of(lm, 1),
        agree=lambda want, got: None if want.token_BT.shape == got.token_BT.shape else "other numbers of texts",
        baseline="plain samples",
        repeats=num_repeats,
        work_per_run=NEW_TOKENS,
        unit="token of the batch",
        with_noise=with_noise,
        before_each=lm.forget,
        settings={"number": number},
        report=report,
    )
    return record_of(f"time, {number} particles / as many plain samples", lm, heads, 0, number, timing)
