"""Speed of instructions, grammars, particles and guesses, as ratios within one run; see `harness`."""

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
from factorlm.inference.drafts import PromptLookup
from factorlm.inference.draw import Sampling, generator_of
from factorlm.inference.local import Row, sample_local
from factorlm.inference.particles import Particles, sample_particles
from factorlm.inference.speculation import sample_speculative
from factorlm.models import CausalLM
from factorlm.text import TextStream

INSTRUCTIONS = (
    "Write in a calm and friendly tone.", "Write as if for a child.", "Be precise and give numbers.",
    "Write about the sea and ships.", "Avoid any swear words.", "Use short sentences.", "Be a little ironic.",
    "Write as a travel guide would.",
)  # fmt: skip
EXPONENT = 0.4
# Texts that repeat themselves, as edits and lists do.
COPIES = (
    "Correct the spelling: The quick brown fox jumps over the lazy dog. Corrected: The quick brown fox",
    "alpha 1, beta 2, gamma 3, delta 4; alpha 1, beta 2, gamma 3, delta 4; alpha 1, beta 2,",
    "def add(a, b):\n    return a + b\n\ndef sub(a, b):\n    return a - b\n\ndef add(a, b):\n    return",
)
LONG = 48  # tokens of a text with guesses


def instructions_together(
    lm: CausalLM, batch_size: int, *, num_prompts: int = 4, num_repeats: int = 9, with_noise: bool = False,
    report: Progress,
) -> SpeedRecord:  # fmt: skip
    """Speed of decoding under instructions that share a pass over reading each for itself; both write the same."""
    product: Factor = lm
    for n, instruction in enumerate(INSTRUCTIONS[:num_prompts]):
        product = product * UnboundPrompt(f"prompt{n}", None, instruction).bind(lm) ** EXPONENT
    apart = LocalProduct(product)
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


def guesses_against_none(
    lm: CausalLM, *, num_repeats: int = 9, with_noise: bool = False, report: Progress
) -> SpeedRecord:
    """Speed of greedy decoding with guesses from the text itself, where texts repeat, over decoding without."""

    def write(prompts: list[list[int]], draft: PromptLookup | None) -> Written:
        found = []
        for prompt in prompts:
            row = Row(prompt, generator_of(0, prompt, 0), TextStream())
            how = {"max_tokens": LONG, "sampling": Sampling(temperature=0)}
            run = (
                sample_local(lm, [row], **how)  # type: ignore[arg-type]
                if draft is None
                else sample_speculative(lm, [row], draft, **how)  # type: ignore[arg-type]
            )
            for _ in run:
                pass
            found.append(row.token_ids + [lm.vocabulary.end_ids[0]] * (LONG - len(row.token_ids)))
        return Written(torch.tensor(found), None)

    timing = compare_speed(
        "guesses",
        {"plain": lambda prompts: write(prompts, None), "guessing": lambda prompts: write(prompts, PromptLookup())},
        lambda repeat: [[*lm.start_ids, *lm.encode_text(text)] for text in COPIES],
        agree=lambda want, got: None if torch.equal(want.token_BT, got.token_BT) else "other texts",
        baseline="plain",
        repeats=num_repeats,
        work_per_run=LONG * len(COPIES),
        unit="token",
        ratio_of="speed",
        with_noise=with_noise,
        before_each=lm.forget,
        settings={"texts": len(COPIES), "tokens": LONG},
        report=report,
    )
    return record_of("tokens per second with guesses / without, on texts that repeat", lm, (), 0, 1, timing)
