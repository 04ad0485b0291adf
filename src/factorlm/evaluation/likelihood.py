"""What continuations cost, and how uncertain a model was before each of their tokens: of its own, and of people's."""

# Axes: B texts, P prompts, R resamples, T time, U units.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from factorlm.algebra import Factor, pad_left, pad_right
from factorlm.evaluation.continuations import Prompt, by_unit
from factorlm.evaluation.intervals import Estimate, bootstrap, ratio_interval
from factorlm.evaluation.responses import Samples, base_nats, respond
from factorlm.evaluation.workbench import Workbench
from factorlm.inference import Model, Sampling, read
from factorlm.models import CausalLM

Array = NDArray[np.float64]
BATCH_ROWS = 32
PER_TOKENS = 100  # that slopes of entropy are about


@dataclass(frozen=True, eq=False)
class Readings:
    """What a model makes of texts, in nats for each of their tokens, text by text.

    Attributes:
        nats: minus the log probability of each token.
        base_nats: the same under the first factor alone.
        entropy: of the next-token distribution before each token.
    """

    nats: list[Array]
    base_nats: list[Array]
    entropy: list[Array]


@dataclass(frozen=True, eq=False)
class Written:
    """What one model wrote, and what it makes of that and of what people wrote.

    Attributes:
        name: of the model.
        samples: of each prompt.
        own: of its texts, samples within prompts.
        human: of the human continuations.
        judged_P2: nats of each prompt's samples under the judge, and their tokens.
    """

    name: str
    samples: Samples
    own: Readings
    human: Readings
    judged_P2: Array

    @property
    def own_P2(self) -> Array:
        """Nats of each prompt's samples under the model itself, and their tokens."""
        return np.array([[-sum(s.log_prob for s in row), sum(len(s.token_ids) for s in row)] for row in self.samples])

    @property
    def human_P2(self) -> Array:
        """Nats of each human continuation under the model, and its tokens."""
        return costs(self.human.nats)


def write(
    bench: Workbench, index: int, prompts: Sequence[Prompt], *, n: int, max_tokens: int, sampling: Sampling
) -> Written:
    """Let a model of the bench continue prompts, and read its continuations and the human ones with it.

    Args:
        bench: its first model's language model is the judge of likelihood.
        index: of the model.
        prompts: what to continue.
        n: samples of each prompt.
        max_tokens: of a continuation, human or not.
        sampling: how tokens are drawn.
    """
    composed, name = bench.models[index], bench.names[index]
    samples = draw(bench, index, prompts, n=n, max_tokens=max_tokens, sampling=sampling)
    own = [(p.text, list(s.token_ids)) for p, row in zip(prompts, samples, strict=True) for s in row]
    human = [(p.text, human_ids(composed.model.lm, p, max_tokens)) for p in prompts]
    key = {"what": "continuations read", "model": composed.fingerprint}
    return Written(
        name,
        samples,
        _readings(bench, composed.model.factor, composed.model.lm, own, key, f"{name}: reading its texts"),
        _readings(bench, composed.model.factor, composed.model.lm, human, key, f"{name}: reading human text"),
        judged(bench, index, prompts, samples),
    )


def draw(
    bench: Workbench, index: int, prompts: Sequence[Prompt], *, n: int, max_tokens: int, sampling: Sampling
) -> Samples:
    """Continuations by a model of the bench."""
    stage = f"{bench.names[index]}: writing at temperature {sampling.temperature:g}"
    texts = [p.text for p in prompts]
    return respond(bench, bench.models[index], texts, n=n, max_tokens=max_tokens, sampling=sampling, stage=stage)


def human_ids(lm: CausalLM, prompt: Prompt, max_tokens: int) -> list[int]:
    """The first tokens of a human continuation."""
    return lm.encode_text(prompt.human)[:max_tokens]


def judged(bench: Workbench, index: int, prompts: Sequence[Prompt], samples: Samples) -> Array:
    """Nats of each prompt's samples under the judge, and their tokens, [P, 2].

    Where the judge is the model's base these are the numbers found when drawing; else the texts are read again.
    """
    judge = bench.models[0].model.lm
    if _has_base(bench.models[index].model, judge):
        return base_nats(samples)
    rows = [(p.text, judge.encode_text(s.text)) for p, row in zip(prompts, samples, strict=True) for s in row]
    return _judge(bench, rows, f"{bench.names[index]}: likelihood").reshape(len(prompts), -1, 2).sum(1)


def judged_human(bench: Workbench, prompts: Sequence[Prompt], first: Written, max_tokens: int) -> Array:
    """Nats of the human continuations under the judge, and their tokens, [P, 2].

    Args:
        bench: its first model's language model is the judge.
        prompts: with the continuations.
        first: what the first model read; it has the numbers if the judge is its base.
        max_tokens: that are read.
    """
    judge = bench.models[0].model.lm
    if _has_base(bench.models[0].model, judge):
        return costs(first.human.base_nats)
    return _judge(bench, [(p.text, human_ids(judge, p, max_tokens)) for p in prompts], "human text: likelihood")


def costs(nats: Sequence[Array]) -> Array:
    """Nats and tokens of each text, [B, 2]."""
    return np.array([[nats_T.sum(), len(nats_T)] for nats_T in nats], float)


def perplexity(cost_P2: Array, units: Sequence[str], seed: int) -> Estimate:
    """exp(nats / tokens) over all texts, with an interval over units."""
    total_U2 = by_unit(cost_P2, units)
    return ratio_interval(total_U2[:, 0], total_U2[:, 1], change=np.exp, seed=seed)


def entropy_by_position(
    entropy: Sequence[Array], units: Sequence[str], num_tokens: int, num_bins: int, seed: int
) -> tuple[tuple[float, ...], tuple[Estimate, ...]]:
    """Middles of stretches of positions, and the mean entropy in each, in nats.

    Args:
        entropy: of the texts, before each token.
        units: of the texts.
        num_tokens: most tokens of a text.
        num_bins: stretches, at most.
        seed: of the intervals.
    """
    width = -(-num_tokens // num_bins)
    middles, means = [], []
    for start in range(0, num_tokens, width):
        parts = [entropy_T[start : start + width] for entropy_T in entropy]
        total_U2 = by_unit(np.array([[part.sum(), len(part)] for part in parts], float), units)
        total_U2 = total_U2[total_U2[:, 1] > 0]
        if len(total_U2):
            middles.append(start + (min(width, num_tokens - start) + 1) / 2)
            means.append(ratio_interval(total_U2[:, 0], total_U2[:, 1], seed=seed))
    return tuple(middles), tuple(means)


def entropy_slope(entropy: Sequence[Array], units: Sequence[str], seed: int) -> Estimate:
    """Slope of entropy over position by least squares over all tokens, in nats per 100 tokens."""
    return bootstrap(_moments(entropy, units), _slope, seed=seed)


def entropy_drift(own: Sequence[Array], human: Sequence[Array], units: Sequence[str], seed: int) -> Estimate:
    """Slope on the model's own texts less that on human texts, paired by unit, in nats per 100 tokens.

    Source: of retrieval distributions, Wang et al. (2023), arXiv:2305.14625.

    Args:
        own: entropies of the samples, samples within prompts.
        human: entropies of the human continuations.
        units: of the prompts.
        seed: of the interval.
    """
    own_U5, human_U5 = _moments(own, repeated(units, len(own))), _moments(human, units)
    both = np.concatenate([own_U5, human_U5], 1)
    return bootstrap(both, lambda mean: _slope(mean[:, :5]) - _slope(mean[:, 5:]), seed=seed)


def mean_entropy(entropy: Sequence[Array], units: Sequence[str], seed: int) -> Estimate:
    """Mean over tokens, in nats."""
    total_U2 = by_unit(costs(entropy), units)
    return ratio_interval(total_U2[:, 0], total_U2[:, 1], seed=seed)


def repeated(units: Sequence[str], num_texts: int) -> list[str]:
    """Units of samples within prompts from those of the prompts."""
    return [unit for unit in units for _ in range(num_texts // len(units))]


def mean_length(samples: Samples, units: Sequence[str], seed: int) -> Estimate:
    """Mean tokens of a text, end tokens included."""
    length_B = np.array([len(s.token_ids) for row in samples for s in row], float)
    total_U2 = by_unit(length_B, repeated(units, len(length_B)))
    return ratio_interval(total_U2[:, 0], total_U2[:, 1], seed=seed)


def _moments(entropy: Sequence[Array], units: Sequence[str]) -> Array:
    """Number of tokens, sums of position, entropy, their square and product, over the texts of each unit, [U, 5]."""
    rows = []
    for entropy_T in entropy:
        time_T = np.arange(1, len(entropy_T) + 1) / PER_TOKENS
        rows.append([len(time_T), time_T.sum(), entropy_T.sum(), (time_T**2).sum(), (time_T * entropy_T).sum()])
    return by_unit(np.array(rows, float).reshape(-1, 5), units)


def _slope(mean_R5: Array) -> Array:
    number, time, entropy, square, product = mean_R5.T
    spread = number * square - time**2
    spread = np.where(spread > 1e-9 * number * square, spread, np.nan)  # one position alone has no slope
    return np.asarray((number * product - time * entropy) / spread)


def _has_base(model: Model, lm: CausalLM) -> bool:
    base = model.terms[0]
    return base.factor is lm and base.is_plain


def _readings(
    bench: Workbench, factor: Factor, lm: CausalLM, rows: list[tuple[str, list[int]]], key: dict[str, Any], stage: str
) -> Readings:
    def work(batch: list[list[Any]]) -> list[list[list[float]]]:
        prefixes = [[*lm.start_ids, *lm.encode_text(text)] for text, _ in batch]
        reading = read(factor, pad_left(prefixes), pad_right([ids for _, ids in batch]), with_shape=True)
        assert reading.entropy_BT is not None
        found = (-reading.log_prob_BT, -reading.base_log_prob_BT, reading.entropy_BT)
        return [[[round(v, 5) for v in x[b, : len(ids)].tolist()] for x in found] for b, (_, ids) in enumerate(batch)]

    texts = bench.in_batches(stage, key, [list(row) for row in rows], BATCH_ROWS, work)
    return Readings(*([np.array(text[i], float) for text in texts] for i in range(3)))


def _judge(bench: Workbench, rows: list[tuple[str, list[int]]], stage: str) -> Array:
    judge = bench.models[0].model.lm
    key = {"what": "continuations read", "language model of": bench.models[0].fingerprint}
    return costs(_readings(bench, judge, judge, rows, key, stage).nats)
