"""Speed of guessing tokens and checking them together, as ratios within one run; see `harness`."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable

import torch

from factorlm.algebra import Factor
from factorlm.evaluation.harness import compare_speed
from factorlm.evaluation.speed import SpeedRecord, Written, record_of
from factorlm.evaluation.speed_samplers import under_instructions
from factorlm.evaluation.workbench import Progress
from factorlm.factors.contrast import contrast
from factorlm.inference.drafts import Draft, ModelDraft, PromptLookup, cheap_part
from factorlm.inference.draw import Sampling, generator_of
from factorlm.inference.local import Row, sample_local
from factorlm.inference.speculation import Tally, sample_speculative
from factorlm.models import CausalLM
from factorlm.text import TextStream

# Texts that repeat themselves, as edits and lists do.
COPIES = (
    "Correct the spelling: The quick brown fox jumps over the lazy dog. Corrected: The quick brown fox",
    "alpha 1, beta 2, gamma 3, delta 4; alpha 1, beta 2, gamma 3, delta 4; alpha 1, beta 2,",
    "def add(a, b):\n    return a + b\n\ndef sub(a, b):\n    return a - b\n\ndef add(a, b):\n    return",
)
OPENINGS = (
    "The old house at the end of the road",
    "In the last ten years, the city",
    "When she opened the letter, she",
)
LONG = 48  # tokens of a text
NOISE = 0.05  # of each weight's spread: what makes another model; it is 0.1 nats per token away
EXPONENT = 0.5  # of each further model


def guesses_by_lookup(
    lm: CausalLM, num_prompts: int = 0, *, num_repeats: int = 9, with_noise: bool = False, report: Progress
) -> SpeedRecord:
    """Speed of greedy decoding with guesses from the text itself, where texts repeat, over decoding without.

    Under instructions, all of them check a guess in one pass.
    """
    under = f", under {num_prompts} instructions" if num_prompts else ""
    return _guessing(
        lm, f"with guesses from the text / without, on texts that repeat{under}", under_instructions(lm, num_prompts),
        PromptLookup(), COPIES, Sampling(temperature=0), num_repeats, with_noise, report,
    )  # fmt: skip


def guesses_by_the_base(
    lm: CausalLM, num_models: int = 4, *, num_repeats: int = 9, with_noise: bool = False, report: Progress
) -> SpeedRecord:
    """Speed of sampling from a product with further models where the base guesses, over sampling without."""
    product: Factor = lm
    for number in range(num_models):
        product = product * contrast(f"other{number}", _other(lm, number), lm) ** EXPONENT
    return _guessing(
        lm, f"with guesses from the base / without, {num_models} further models", product,
        ModelDraft(cheap_part(product)), OPENINGS, Sampling(), num_repeats, with_noise, report,
    )  # fmt: skip


def _guessing(
    lm: CausalLM, what: str, factor: Factor, draft: Draft | ModelDraft, openings: tuple[str, ...], sampling: Sampling,
    num_repeats: int, with_noise: bool, report: Progress,
) -> SpeedRecord:  # fmt: skip
    prompts = [[*lm.start_ids, *lm.encode_text(text)] for text in openings]
    tally = Tally()
    _write(factor, prompts, sampling, draft, tally)
    ways: dict[str, Callable[[int], Written]] = {
        "plain": lambda repeat: _write(factor, prompts, sampling, None, Tally(), repeat),
        "guessing": lambda repeat: _write(factor, prompts, sampling, draft, Tally(), repeat),
    }

    def agree(want: Written, got: Written) -> str | None:
        if want.token_BT.shape != got.token_BT.shape:
            return f"{want.token_BT.numel()} tokens against {got.token_BT.numel()}"
        is_same = torch.equal(want.token_BT, got.token_BT)
        return None if is_same or sampling.temperature > 0 else "other texts"

    timing = compare_speed(
        what,
        ways,
        lambda repeat: repeat,
        agree=agree,
        baseline="plain",
        repeats=num_repeats,
        work_per_run=LONG * len(prompts),
        unit="token",
        ratio_of="speed",
        with_noise=with_noise,
        before_each=lm.forget,
        settings={"texts": len(prompts), "tokens": LONG, "acceptance": round(tally.acceptance, 3)},
        report=report,
    )
    right = f" ({tally.acceptance:.0%} right)"
    return record_of(f"tokens per second {what}{right}", lm, (), 0, 1, timing)


def _write(
    factor: Factor, prompts: list[list[int]], sampling: Sampling, draft: Draft | ModelDraft | None, tally: Tally,
    seed: int = 0,
) -> Written:  # fmt: skip
    """As many tokens for each prompt, in as many texts as that takes."""
    run = sample_local if draft is None else functools.partial(sample_speculative, draft=draft, tally=tally)
    found = []
    for prompt in prompts:
        tokens: list[int] = []
        while len(tokens) < LONG:
            row = Row(prompt, generator_of(seed, prompt, len(tokens)), TextStream())
            for _ in run(factor, [row], max_tokens=LONG - len(tokens), sampling=sampling):
                pass
            tokens += row.token_ids
        found.append(tokens)
    return Written(torch.tensor(found), None)


def _other(lm: CausalLM, seed: int) -> CausalLM:
    """Another model of the same make, with all its weights in memory."""
    network = copy.deepcopy(lm.model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in network.base_model.layers.parameters():
            noise = torch.randn(weight.shape, generator=generator).to(weight)
            weight += NOISE * weight.float().std().nan_to_num() * noise
    return CausalLM(network, lm.tokenizer, name=f"other{seed}", start_ids=lm.start_ids, end_ids=lm.vocabulary.end_ids)
