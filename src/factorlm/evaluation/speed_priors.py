"""Speed of priors, as ratios within one run: a component for each response, and evidence; see `harness`."""

# Axes: B batch, D width, K components, M places, T time.

from __future__ import annotations

import torch
from torch import Tensor

from factorlm.algebra import LocalProduct, pad_left
from factorlm.evaluation.harness import compare_speed
from factorlm.evaluation.speed import NEW_TOKENS, SpeedRecord, greedy, prompts_of, record_of
from factorlm.evaluation.workbench import Progress
from factorlm.factors.headed import fuse
from factorlm.models import CausalLM
from factorlm.prior import Bayes, InContext, PerResponse

PLACES = 8  # vectors of each soft prompt
EVIDENCE_TOKENS = 100


def random_components(lm: CausalLM, number: int) -> InContext:
    """Soft prompts of random numbers, as large as embeddings are: what they say costs nothing more or less."""
    generator = torch.Generator().manual_seed(0)
    scale = float(lm.embed(torch.arange(min(64, lm.vocabulary.size))).float().std())
    return InContext(lm, [scale * torch.randn(PLACES, lm.width, generator=generator) for _ in range(number)])


def components_against_none(
    lm: CausalLM, batch_size: int, *, num_components: int = 4, num_repeats: int = 9, with_noise: bool = False,
    report: Progress,
) -> SpeedRecord:  # fmt: skip
    """Time per token of rows with different soft prompts in one batch, over that of the bare model."""
    ensemble = random_components(lm, num_components)
    component_B = torch.arange(batch_size) % num_components
    plain, mixed = fuse(LocalProduct.of(lm)), fuse(LocalProduct.of(PerResponse(ensemble, component_B)))
    timing = compare_speed(
        f"a component for each response, batch {batch_size}",
        {
            "the bare model": lambda prompt: greedy(plain, prompt, NEW_TOKENS),
            "a component a row": lambda prompt: greedy(mixed, prompt, NEW_TOKENS),
        },
        prompts_of(lm, batch_size),
        agree=lambda want, got: None if want.token_BT.shape == got.token_BT.shape else "other numbers of tokens",
        baseline="the bare model",
        repeats=num_repeats,
        work_per_run=NEW_TOKENS,
        unit="token of the batch",
        with_noise=with_noise,
        before_each=lm.forget,
        settings={"batch_size": batch_size, "num_components": num_components, "places": PLACES},
        report=report,
    )
    name = f"time per token, {num_components} components in a batch / the bare model"
    return record_of(name, lm, (), 0, batch_size, timing)


def evidence_against_one_reading(
    lm: CausalLM, *, num_components: int = 8, num_repeats: int = 9, with_noise: bool = False, report: Progress
) -> SpeedRecord:
    """Time of a posterior over components given 100 tokens of evidence, over one reading of them by the bare model."""
    ensemble = random_components(lm, num_components)
    mixture = Bayes(ensemble, torch.full((num_components,), 1 / num_components, dtype=torch.float64).log())
    prefix_BT = pad_left([list(lm.start_ids)])

    def posterior(text_BT: Tensor) -> Tensor:
        return mixture.score_all(prefix_BT, text_BT)[:, 0].double().sum(1).softmax(0)

    timing = compare_speed(
        f"evidence for {num_components} components",
        {"one reading": lambda text_BT: lm.score(prefix_BT, text_BT), "posterior": posterior},
        prompts_of(lm, 1, EVIDENCE_TOKENS),
        agree=_are_weights,
        baseline="one reading",
        repeats=num_repeats,
        work_per_run=EVIDENCE_TOKENS,
        unit="token of the evidence",
        with_noise=with_noise,
        before_each=lm.forget,
        settings={"num_components": num_components, "evidence_tokens": EVIDENCE_TOKENS},
        report=report,
    )
    name = f"time per token of evidence, posterior over {num_components} components / one reading"
    return record_of(name, lm, (), 0, 1, timing)


def _are_weights(want: Tensor, got: Tensor) -> str | None:
    """The ways compute different things; one of them must be a distribution."""
    is_fine = want.shape == got.shape or abs(float(got.sum()) - 1) < 1e-9
    return None if is_fine else f"weights sum to {float(got.sum())}"
