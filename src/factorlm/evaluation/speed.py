"""Speed as ratios: two ways of doing one thing, run in turn in one process, compared by the median of their pairs."""

# Axes: B batch, D width, R rank, T time.

from __future__ import annotations

import os
import platform
import re
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from factorlm.algebra import Factor, pad_right
from factorlm.factors.head import Head, HeadWeights
from factorlm.factors.headed import HeadedModel
from factorlm.inference.reading import read
from factorlm.models import CausalLM

PROMPT_TOKENS, NEW_TOKENS = 16, 16
Report = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Ratio:
    """One comparison.

    Attributes:
        benchmark: what was compared.
        num_heads: heads in the composition.
        rank: of each head.
        batch_size: rows decoded or texts scored together.
        ratio: median over pairs of runs; the benchmark says of what to what.
        lowest: smallest ratio of a pair.
        highest: largest ratio of a pair.
        num_repeats: pairs of runs.
        ms_per_token: median of the way that is ours or has factors, in milliseconds for a token of the whole batch.
        other_ms_per_token: the same of the other way.
        head_bytes: memory of the heads.
        encoder_bytes: memory of the encoder.
        number_format: of the encoder.
        machine: processor or accelerator, and cores.
    """

    benchmark: str
    num_heads: int
    rank: int
    batch_size: int
    ratio: float
    lowest: float
    highest: float
    num_repeats: int
    ms_per_token: float
    other_ms_per_token: float
    head_bytes: int
    encoder_bytes: int
    number_format: str
    machine: str


def random_heads(lm: CausalLM, num_heads: int, rank: int, seed: int = 0) -> tuple[Head, ...]:
    """Heads of random numbers, for timing only."""
    generator = torch.Generator().manual_seed(seed)

    def numbers(*shape: int) -> torch.Tensor:
        return (0.01 * torch.randn(*shape, generator=generator)).to(lm.device)

    return tuple(
        Head(f"random{k}", HeadWeights(numbers(lm.width), numbers(lm.width, rank), numbers(rank, lm.width)), lm)
        for k in range(num_heads)
    )


def heads_against_none(
    lm: CausalLM, batch_size: int, *, num_heads: int = 32, rank: int = 16, num_repeats: int = 9, report: Report
) -> Ratio:
    """Time per token of decoding with heads (another exponent in every row) over decoding without; 1 is free."""
    heads = random_heads(lm, num_heads, rank)
    exponents = tuple(torch.linspace(-1, 1, batch_size) * (1 + k / num_heads) for k in range(num_heads))
    headed = HeadedModel(lm, heads, exponents)
    name = f"{num_heads} heads, batch {batch_size}"
    with_heads, without = _timed(
        lambda prompt: _greedy(headed, prompt), lambda prompt: _greedy(lm, prompt), lm, batch_size, num_repeats,
        name, report,
    )  # fmt: skip
    ratios = [a / b for a, b in zip(with_heads, without, strict=True)]
    return _ratio("time per token with heads / without", lm, heads, rank, batch_size, ratios, with_heads, without)


def decoding_against_transformers(lm: CausalLM, batch_size: int, *, num_repeats: int = 9, report: Report) -> Ratio:
    """Tokens per second of our greedy decoding over those of transformers' own `generate`; 1 is as fast.

    The other way runs on a copy of the model as transformers loaded it, without our matrix products.
    """
    import copy

    from factorlm.models.linear import FewRowsLinear

    other = copy.deepcopy(lm.model)
    for module in other.modules():
        if type(module) is FewRowsLinear:
            module.__class__ = torch.nn.Linear  # type: ignore[assignment]

    def theirs(prompt: torch.Tensor) -> None:
        other.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=NEW_TOKENS,
            min_new_tokens=NEW_TOKENS,
            do_sample=False,
        )

    ours_s, theirs_s = _timed(
        lambda prompt: _greedy(lm, prompt), theirs, lm, batch_size, num_repeats,
        f"transformers, batch {batch_size}", report,
    )  # fmt: skip
    ratios = [b / a for a, b in zip(ours_s, theirs_s, strict=True)]
    return _ratio("tokens per second / those of transformers", lm, (), 0, batch_size, ratios, ours_s, theirs_s)


def scoring_with_factors(
    lm: CausalLM, batch_size: int, *, num_heads: int = 12, evidence: bool = False, num_repeats: int = 5, report: Report
) -> Ratio:
    """Speed of scoring texts with factors over plain scoring; 1 is as fast.

    Args:
        lm: the base.
        batch_size: texts of 64 tokens in a batch.
        num_heads: heads of rank zero on it.
        evidence: False times the log probability of the composed model; True times the log probability of the base
            and the exact evidence of each factor.
        num_repeats: pairs of runs.
        report: told of progress.
    """
    heads = random_heads(lm, num_heads, 0)
    headed = HeadedModel(lm, heads, (0.5,) * num_heads)
    product: Factor = lm
    for head in heads:
        product = product * head**0.0
    length = 64

    def text(prompt: torch.Tensor) -> torch.Tensor:
        return prompt.repeat(1, 1 + length // prompt.shape[1])[:, :length]

    start = torch.tensor([lm.start_ids] * batch_size)

    def with_factors(prompt: torch.Tensor) -> None:
        if evidence:
            read(product, start, pad_right(text(prompt).tolist()), with_ratios=True)
        else:
            headed.score(start, text(prompt))

    def plain(prompt: torch.Tensor) -> None:
        lm.score(start, text(prompt))

    name = "scoring, evidence" if evidence else "scoring, composed"
    factors_s, plain_s = _timed(with_factors, plain, lm, batch_size, num_repeats, name, report, length)
    ratios = [b / a for a, b in zip(factors_s, plain_s, strict=True)]
    what = "the evidence of each factor" if evidence else "composed log probability"
    return _ratio(f"speed of scoring, {what} / plain", lm, heads, 0, batch_size, ratios, factors_s, plain_s)


@torch.inference_mode()
def _greedy(model: Factor, prompt_BT: torch.Tensor) -> None:
    state = model.start(prompt_BT)
    for step in range(NEW_TOKENS):
        token_B = state.log_weight_BV.argmax(-1)
        if step + 1 < NEW_TOKENS:
            state = model.extend(state, token_B)


def _timed(
    first: Callable[[torch.Tensor], None],
    second: Callable[[torch.Tensor], None],
    lm: CausalLM,
    batch_size: int,
    num_repeats: int,
    name: str,
    report: Report,
    tokens: int = NEW_TOKENS,
) -> tuple[list[float], list[float]]:
    """Seconds per token of both ways, run in turn on the same fresh prompts; which goes first alternates."""
    generator = torch.Generator().manual_seed(0)
    seconds: tuple[list[float], list[float]] = ([], [])
    for repeat in range(-1, num_repeats):  # the first pair warms up and does not count
        prompt = torch.randint(100, lm.vocabulary.size - 100, (batch_size, PROMPT_TOKENS), generator=generator)
        prompt = prompt.to(lm.device)
        for way in (0, 1) if repeat % 2 else (1, 0):
            start = time.perf_counter()
            (first, second)[way](prompt)
            if lm.device.type == "cuda":
                torch.cuda.synchronize()
            if repeat >= 0:
                seconds[way].append((time.perf_counter() - start) / tokens)
        report(name, repeat + 1, num_repeats)
    return seconds


def _ratio(
    benchmark: str,
    lm: CausalLM,
    heads: tuple[Head, ...],
    rank: int,
    batch_size: int,
    ratios: list[float],
    seconds: list[float],
    other_seconds: list[float],
) -> Ratio:
    numbers = sum(t.numel() for h in heads for t in (h.weights.bias_D, h.weights.up_DR, h.weights.down_RD))
    return Ratio(
        benchmark=benchmark,
        num_heads=len(heads),
        rank=rank,
        batch_size=batch_size,
        ratio=statistics.median(ratios),
        lowest=min(ratios),
        highest=max(ratios),
        num_repeats=len(ratios),
        ms_per_token=1e3 * statistics.median(seconds),
        other_ms_per_token=1e3 * statistics.median(other_seconds),
        head_bytes=4 * numbers,
        encoder_bytes=sum(p.numel() * p.element_size() for p in lm.model.parameters()),
        number_format=str(lm.model.dtype).removeprefix("torch."),
        machine=_machine(lm),
    )


def _machine(lm: CausalLM) -> str:
    if lm.device.type == "cuda":
        return torch.cuda.get_device_name(lm.device)
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.+)", info.read_text()) if info.is_file() else None
    return f"{found[1] if found else platform.machine()}, {os.cpu_count()} cores"
