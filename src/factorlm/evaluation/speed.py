"""Speed of decoding and scoring, as ratios within one run; see `harness` for how they are taken."""

# Axes: B batch, D width, K heads, R rank, T time, V vocabulary.

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from factorlm.algebra import Factor, LocalProduct, pad_right
from factorlm.evaluation.harness import Timing, compare_speed
from factorlm.evaluation.workbench import Progress
from factorlm.factors.head import Head, HeadWeights
from factorlm.factors.headed import HeadedModel
from factorlm.inference.reading import read
from factorlm.models import CausalLM
from factorlm.settings import Config

PROMPT_TOKENS, NEW_TOKENS, SCORED_TOKENS = 16, 16, 64
OTHERS = "transformers"


class SpeedRecord(Config):
    """One comparison, as `factorlm bench --json` gives it.

    Attributes:
        benchmark: what was compared.
        num_heads: heads in the composition.
        rank: of each head.
        batch_size: rows decoded or texts scored together.
        ratio: median over pairs of runs; the benchmark says of what to what.
        low: lower end of its 95 % interval; None where repeats are too few for one.
        high: upper end.
        lowest: smallest ratio of a pair.
        highest: largest ratio of a pair.
        num_repeats: pairs of runs.
        verdict: what the interval says.
        noise: the other way against itself; None if not asked for.
        ms_per_token: median of the way that is ours or has factors, in milliseconds for a token of the whole batch.
        other_ms_per_token: the same of the other way.
        head_bytes: memory of the heads.
        encoder_bytes: memory of the encoder.
        number_format: of the encoder.
        machine: processor and cores, or accelerator.
        timing: every run.
    """

    benchmark: str
    num_heads: int
    rank: int
    batch_size: int
    ratio: float
    low: float | None
    high: float | None
    lowest: float
    highest: float
    num_repeats: int
    verdict: str
    noise: float | None
    ms_per_token: float
    other_ms_per_token: float
    head_bytes: int
    encoder_bytes: int
    number_format: str
    machine: str
    timing: Timing


def random_heads(lm: CausalLM, num_heads: int, rank: int, seed: int = 0, scale: float = 0.03) -> tuple[Head, ...]:
    """Heads of random numbers, for timing and for checks of rounding only."""
    generator = torch.Generator().manual_seed(seed)

    def numbers(*shape: int) -> Tensor:
        return (scale * torch.randn(*shape, generator=generator)).to(lm.device)

    return tuple(
        Head(f"random{k}", HeadWeights(numbers(lm.width), numbers(lm.width, rank), numbers(rank, lm.width)), lm)
        for k in range(num_heads)
    )


def heads_against_none(
    lm: CausalLM,
    batch_size: int,
    *,
    num_heads: int = 32,
    rank: int = 16,
    num_repeats: int = 9,
    with_noise: bool = False,
    report: Progress,
) -> SpeedRecord:
    """Time per token of decoding with heads (another exponent in every row) over decoding without; 1 is free.

    The tokens with heads must be those of the slow twin, which unembeds each head by itself.
    """
    timing = time_heads(lm, (num_heads,), batch_size, rank=rank, repeats=num_repeats, with_noise=with_noise,
                        report=report)  # fmt: skip
    heads = random_heads(lm, num_heads, rank)
    return record_of("time per token with heads / without", lm, heads, rank, batch_size, timing)


def time_heads(
    lm: CausalLM,
    counts: tuple[int, ...],
    batch_size: int,
    *,
    rank: int,
    repeats: int,
    new_tokens: int = NEW_TOKENS,
    with_noise: bool = False,
    clock: Callable[[], float] = time.perf_counter,
    report: Progress,
) -> Timing:
    """Time per decoding step with these numbers of heads against none; the ways are called "N heads" and "no heads".

    Args:
        lm: the encoder.
        counts: numbers of heads.
        batch_size: rows, each with exponents of its own.
        rank: of the heads.
        repeats: runs of each way.
        new_tokens: written in a run.
        with_noise: see `compare_speed`.
        clock: see `compare_speed`.
        report: told of progress.
    """
    ways: dict[str, Callable[[Tensor], Written]] = {"no heads": lambda prompt: greedy(lm, prompt, new_tokens)}
    twins: dict[str, Callable[[Tensor], Written]] = {}
    for count in counts:
        heads = random_heads(lm, count, rank)
        exponents = tuple(torch.linspace(-1, 1, batch_size) * (1 + k / count) for k in range(count))
        headed = HeadedModel(lm, heads, exponents)
        product: Factor = lm
        for head, exponent in zip(heads, exponents, strict=True):
            product = product * head**exponent
        slow = LocalProduct(product)
        ways[f"{count} heads"] = lambda prompt, model=headed: greedy(model, prompt, new_tokens)  # type: ignore[misc]
        twins[f"{count} heads"] = lambda prompt, model=slow: greedy(model, prompt, new_tokens)  # type: ignore[misc]
    return compare_speed(
        f"{counts[-1]} heads, batch {batch_size}",
        ways,
        prompts_of(lm, batch_size),
        agree=same_tokens(tolerance_of(lm)),
        baseline="no heads",
        twins=twins,
        repeats=repeats,
        work_per_run=new_tokens,
        unit="token of the batch",
        with_noise=with_noise,
        before_each=lm.forget,
        settings={"batch_size": batch_size, "rank": rank, "prompt_tokens": PROMPT_TOKENS, "new_tokens": new_tokens},
        report=report,
        clock=clock,
    )


def decoding_against_transformers(
    lm: CausalLM, batch_size: int, *, num_repeats: int = 9, with_noise: bool = False, report: Progress
) -> SpeedRecord:
    """Tokens per second of our greedy decoding over those of transformers' own `generate`; 1 is as fast.

    The other way runs on a copy of the model as transformers loaded it, without our matrix products. Both must write
    the same tokens.
    """
    import copy

    from transformers import GenerationConfig

    from factorlm.models.linear import PackedLinear

    other = copy.deepcopy(lm.model)
    for module in other.modules():
        if type(module) is PackedLinear:
            module.__class__ = torch.nn.Linear  # type: ignore[assignment]
    other.generation_config = GenerationConfig(max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=0)  # no end

    timing = compare_speed(
        f"transformers, batch {batch_size}",
        {
            OTHERS: lambda prompt: Written(other.generate(prompt, attention_mask=torch.ones_like(prompt)), None),
            "factorlm": lambda prompt: greedy(lm, prompt, NEW_TOKENS),
        },
        prompts_of(lm, batch_size),
        agree=same_tokens(tolerance_of(lm)),
        baseline=OTHERS,
        repeats=num_repeats,
        work_per_run=NEW_TOKENS,
        unit="token of the batch",
        ratio_of="speed",
        with_noise=with_noise,
        before_each=lm.forget,
        settings={"batch_size": batch_size, "prompt_tokens": PROMPT_TOKENS, "new_tokens": NEW_TOKENS},
        report=report,
    )
    return record_of("tokens per second / those of transformers", lm, (), 0, batch_size, timing)


def scoring_with_factors(
    lm: CausalLM,
    batch_size: int,
    *,
    num_heads: int = 12,
    evidence: bool = False,
    num_repeats: int = 9,
    with_noise: bool = False,
    report: Progress,
) -> SpeedRecord:
    """Speed of scoring texts with factors over plain scoring; 1 is as fast.

    Args:
        lm: the base.
        batch_size: texts of 64 tokens in a batch.
        num_heads: heads of rank zero on it.
        evidence: False times the log probability of the composed model; True times the log probability of the base
            and the exact evidence of each factor. Both must equal what each head gives when it is unembedded alone.
        num_repeats: pairs of runs.
        with_noise: whether plain scoring is also timed against itself.
        report: told of progress.
    """
    heads = random_heads(lm, num_heads, 0)
    headed = HeadedModel(lm, heads, (0.5,) * num_heads)
    alone = [LocalProduct(lm * head) for head in heads]
    whole: Factor = lm
    product: Factor = lm
    for head in heads:
        whole = whole * head**0.5
        product = product * head**0.0
    start = torch.tensor([lm.start_ids] * batch_size)

    def with_evidence(text_BT: Tensor) -> Tensor:
        found = read(product, start, pad_right(text_BT.tolist()), with_ratios=True)
        assert found.log_ratio_BTK is not None
        return torch.cat([found.base_log_prob_BT[..., None], found.log_ratio_BTK], -1)

    def evidence_alone(text_BT: Tensor) -> Tensor:
        plain_BT = lm.score(start, text_BT)
        return torch.stack([plain_BT, *(factor.score(start, text_BT) - plain_BT for factor in alone)], -1)

    what = "the evidence of each factor" if evidence else "composed log probability"
    timing = compare_speed(
        f"scoring, {what.split()[-1]}",
        {
            "plain": lambda text_BT: lm.score(start, text_BT),
            "with factors": with_evidence if evidence else lambda text_BT: headed.score(start, text_BT),
        },
        prompts_of(lm, batch_size, SCORED_TOKENS),
        agree=same_numbers(tolerance_of(lm)),
        baseline="plain",
        twins={"with factors": evidence_alone if evidence else lambda t: LocalProduct(whole).score(start, t)},
        repeats=num_repeats,
        work_per_run=SCORED_TOKENS,
        unit="token of the batch",
        ratio_of="speed",
        with_noise=with_noise,
        before_each=lm.forget,
        settings={"batch_size": batch_size, "tokens": SCORED_TOKENS},
        report=report,
    )
    return record_of(f"speed of scoring, {what} / plain", lm, heads, 0, batch_size, timing)


class Written(NamedTuple):
    """Tokens [B, T], prompts included, and the composition that wrote them, where it is one of ours."""

    token_BT: Tensor
    model: Factor | None


@torch.inference_mode()
def greedy(model: Factor, prompt_BT: Tensor, new_tokens: int) -> Written:
    """Prompts with the most probable continuations; ends of texts do not end anything."""
    state = model.start(prompt_BT)
    tokens = [prompt_BT]
    for step in range(new_tokens):
        token_B = state.log_weight_BV.argmax(-1)
        tokens.append(token_B[:, None])
        if step + 1 < new_tokens:
            state = model.extend(state, token_B)
    return Written(torch.cat(tokens, 1), model)


def same_tokens(tolerance: float) -> Callable[[Written, Written], str | None]:
    """Whether the same was written; rows may part where both tokens are equally probable.

    Args:
        tolerance: nats within which two tokens count as equally probable: rounding decides between them.
    """

    @torch.inference_mode()
    def agree(want: Written, got: Written) -> str | None:
        want_BT, got_BT = want.token_BT, got.token_BT
        if want_BT.shape != got_BT.shape:
            return f"{list(want_BT.shape)} tokens against {list(got_BT.shape)}"
        model = want.model or got.model
        for row in (want_BT != got_BT).any(1).nonzero()[:, 0].tolist():
            place = int((want_BT[row] != got_BT[row]).nonzero()[0, 0])
            if model is None:
                return f"row {row} has another token at place {place}"
            log_weight_V = model.start(want_BT[:, :place]).log_weight_BV[row]
            gap = abs(float(log_weight_V[want_BT[row, place]] - log_weight_V[got_BT[row, place]]))
            if not gap <= tolerance:
                return f"row {row} has another token at place {place}, {gap:.2g} nats away"
        return None

    return agree


def same_numbers(tolerance: float) -> Callable[[Tensor, Tensor], str | None]:
    """Whether numbers in nats are equal within a tolerance."""

    def agree(want: Tensor, got: Tensor) -> str | None:
        if want.shape != got.shape:
            return f"{list(want.shape)} numbers against {list(got.shape)}"
        apart = float((want - got).abs().max())
        return None if apart <= tolerance else f"they are {apart:.2g} nats apart"

    return agree


def tolerance_of(lm: CausalLM) -> float:
    """Nats by which sums in another order differ: formats of 8 bits are 0.1 apart where logits are about 20."""
    return 1e-3 if lm.model.dtype == torch.float32 else 0.5


def prompts_of(lm: CausalLM, batch_size: int, length: int = PROMPT_TOKENS) -> Callable[[int], Tensor]:
    """Random tokens for each repeat, repeated where a text is longer than a prompt."""

    def of(repeat: int) -> Tensor:
        generator = torch.Generator().manual_seed(repeat)
        least = min(100, lm.vocabulary.size // 4)  # the first tokens are special ones
        shape = (batch_size, PROMPT_TOKENS)
        prompt_BT = torch.randint(least, lm.vocabulary.size - least, shape, generator=generator)
        return prompt_BT.repeat(1, -(-length // PROMPT_TOKENS))[:, :length].to(lm.device)

    return of


def record_of(
    benchmark: str, lm: CausalLM, heads: tuple[Head, ...], rank: int, batch_size: int, timing: Timing
) -> SpeedRecord:
    """What a comparison of two ways found, with the sizes of model and heads."""
    [ratio] = timing.ratios
    numbers = sum(t.numel() for h in heads for t in (h.weights.bias_D, h.weights.up_DR, h.weights.down_RD))
    settings: dict[str, Any] = {"num_heads": len(heads), "rank": rank, "batch_size": batch_size}
    return SpeedRecord(
        benchmark=benchmark,
        **settings,
        ratio=ratio.ratio,
        low=ratio.low,
        high=ratio.high,
        lowest=ratio.lowest,
        highest=ratio.highest,
        num_repeats=timing.repeats,
        verdict=ratio.verdict,
        noise=timing.noise.ratio if timing.noise else None,
        ms_per_token=1e3 * ratio.seconds,
        other_ms_per_token=1e3 * timing.baseline_seconds,
        head_bytes=4 * numbers,
        encoder_bytes=sum(p.numel() * p.element_size() for p in lm.model.parameters()),
        number_format=str(lm.model.dtype).removeprefix("torch."),
        machine=timing.machine,
        timing=timing,
    )
