"""Activation steering: a vector added to the residual stream behind one layer, with its multiple as the dial.

The vector is the difference of mean states of texts with and without the attribute. The layer is the one that controls
most at equal divergence, in the eyes of a classifier of held-out texts.
"""

# Axes: B texts, D width, L layers, N places measured, T time, V vocabulary.

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from factorlm.algebra import PAD, Factor, Named, pad_right
from factorlm.evaluation import clock
from factorlm.evaluation.rivals.kept import Checkpoint, Kept, Learned
from factorlm.evaluation.rivals.rival import Prepared, bounded, digest, digest_of_tensors
from factorlm.factors.calibration import OPENINGS, neutral_states
from factorlm.factors.examples import Example, Split
from factorlm.factors.features import tokenized
from factorlm.factors.response import Judge, sentence_judge
from factorlm.inference.draw import Sampling
from factorlm.inference.model import Model
from factorlm.models import CausalLM
from factorlm.models.encoding import Memo
from factorlm.models.progress import Report, quiet
from factorlm.models.twins import as_language_model, twin

MOST_TEXTS = 300  # of each class, for the means
BATCH_TEXTS = 16
DEPTHS = (0.25, 0.4, 0.5, 0.6, 0.75)  # of the layers tried
MATCHED = 0.3  # nats per token at which layers are compared
PLACES, SAMPLES, TOKENS = 24, 3, 12  # of the comparison
BISECTIONS = 4  # of an interval whose ends are a factor of two apart
LARGEST = 256.0


@dataclass(frozen=True)
class ActivationSteering:
    """h_layer + dial v.

    Attributes:
        depths: shares of the layers behind which the vector is tried.
        judge: says which texts have the attribute when layers are compared; the default is learned from the held-out
            texts, and is none of the judges that measure.
    """

    depths: tuple[float, ...] = DEPTHS
    judge: Judge | None = None
    name: str = "activation"
    dial: str = "multiple of the difference of means"
    source: str = "Turner et al. (2023), arXiv:2308.10248; difference of means, Rimsky et al. (2024), arXiv:2312.06681"

    def prepare(self, lm: CausalLM, parts: Split, kept: Kept, report: Report = quiet) -> Prepared:
        """See Rival."""
        some = bounded(parts, MOST_TEXTS)
        key = {"what": "activation", "model": lm.fingerprint, "depths": list(self.depths),
               "dtype": str(lm.model.dtype), "judged": self.judge is None,
               "compared": [MATCHED, PLACES, SAMPLES, TOKENS, BISECTIONS],
               "texts": digest([[e.text, e.is_positive] for e in (*some.train, *parts.dev)])}  # fmt: skip
        learned = kept.get("activation", key, lambda checkpoint: self._learn(lm, some, parts, checkpoint, report))
        layer, vector_D = int(learned.tensors["layer"]), learned.tensors["vector"]

        @lru_cache(maxsize=8)
        def factor(dial: float) -> Factor:
            return Named(self.name, steered(lm, layer, dial * vector_D) / lm)

        return Prepared(
            self.name, lm, factor, vector_D.numel(), learned.seconds, digest_of_tensors(learned.tensors),
            f"behind layer {layer + 1} of {_num_layers(lm)}",
        )  # fmt: skip

    def _learn(self, lm: CausalLM, some: Split, parts: Split, checkpoint: Checkpoint, report: Report) -> Learned:
        start = clock.seconds(lm.device)
        mean_LD = torch.stack([
            _mean_states(lm, [e for e in some.train if e.is_positive == is_positive], report)
            for is_positive in (False, True)
        ]).diff(dim=0)[0]  # fmt: skip
        layers = sorted({min(_num_layers(lm) - 2, max(0, round(_num_layers(lm) * d) - 1)) for d in self.depths})
        if len(layers) == 1:
            best = layers[0]
        else:
            judge = self.judge or sentence_judge(parts.dev)[0]
            control = [_control(lm, layer, mean_LD[layer], judge, report) for layer in layers]
            best = layers[max(range(len(layers)), key=control.__getitem__)]
        found = {"layer": torch.tensor(best), "vector": mean_LD[best]}
        return Learned(found, clock.seconds(lm.device) - start)


def steered(lm: CausalLM, layer: int, vector_D: Tensor) -> CausalLM:
    """The language model with a vector added to what a layer gives out at every token; the original is left alone.

    Args:
        lm: the original.
        layer: number of the layer, from 0.
        vector_D: what is added.
    """
    return Steerable(lm, layer).by(vector_D)


class Steerable:
    """One twin of a language model for all vectors behind a layer: it is made once, and steered by one at a time."""

    def __init__(self, lm: CausalLM, layer: int) -> None:
        network = twin(lm)
        self._added_D = torch.zeros(lm.width, device=lm.device, dtype=lm.model.dtype)

        def add(module: Any, inputs: Any, output: Any) -> Any:
            if isinstance(output, tuple):
                return (output[0] + self._added_D, *output[1:])
            return output + self._added_D

        network.base_model.layers[layer].register_forward_hook(add)
        self._network, self._lm = network, lm
        self._twin: CausalLM | None = None

    def by(self, vector_D: Tensor) -> CausalLM:
        """The twin with this vector from now on, whoever holds it; what it read before is forgotten."""
        self._added_D = vector_D.to(self._added_D)
        if self._twin is None:
            self._twin = as_language_model(self._network, self._lm, f"{self._lm.name} behind a vector")
        self._twin.forget()
        self._twin._memo = Memo()  # states that somebody still holds were read under another vector
        return self._twin


def _num_layers(lm: CausalLM) -> int:
    return int(lm.model.config.num_hidden_layers)


@torch.no_grad()
def _mean_states(lm: CausalLM, examples: Sequence[Example], report: Report) -> Tensor:
    """Mean state behind each layer over all tokens of these texts, [L, D]; the start token is not counted."""
    rows = sorted((row for row in tokenized(lm, [e.text for e in examples]) if row), key=len)
    total_LD = torch.zeros(_num_layers(lm), lm.width)
    num_tokens = 0
    start = torch.tensor(lm.start_ids)
    for first in range(0, len(rows), BATCH_TEXTS):
        text_BT = pad_right(rows[first : first + BATCH_TEXTS])
        read_BT = torch.cat([start.expand(len(text_BT), -1), text_BT], 1).to(lm.device)
        output = lm.model.base_model(
            input_ids=read_BT.clamp(min=0), attention_mask=(read_BT != PAD).long(), use_cache=False,
            output_hidden_states=True,
        )  # fmt: skip
        real_BT = (text_BT != PAD).to(lm.device)
        for layer, hidden_BTD in enumerate(output.hidden_states[1:]):  # the first are the embeddings
            total_LD[layer] += hidden_BTD[:, len(start) :][real_BT].float().sum(0).cpu()
        num_tokens += int(real_BT.sum())
        report("reading the layers", min(first + BATCH_TEXTS, len(rows)), len(rows))
    return total_LD / num_tokens


def _control(lm: CausalLM, layer: int, vector_D: Tensor, judge: Judge, report: Report) -> float:
    """P(judged positive | +v) - P(judged positive | -v) on continuations of neutral openings, at equal divergence."""
    shares, steerable = [], Steerable(lm, layer)
    for sign in (1, -1):
        size = _matched_size(lambda size, sign=sign: _divergence(lm, steerable.by(sign * size * vector_D)))  # type: ignore[misc]
        model = Model(steerable.by(sign * size * vector_D), lm)
        found = model.generate(OPENINGS, n=SAMPLES, max_tokens=TOKENS, sampling=Sampling(top_p=0.9))
        verdicts = judge([response.text for response in found])
        shares.append(sum(map(bool, verdicts)) / len(verdicts))
        report(f"trying layer {layer + 1}", len(shares), 2)
    return shares[0] - shares[1]


@torch.no_grad()
def _divergence(lm: CausalLM, other: CausalLM) -> float:
    """Mean KL(other || lm) over some neutral places, in nats."""
    places = neutral_states(lm)
    log_prob_NV = places.log_prob_NV[:PLACES]
    other_NV = other.start(places.prefix_NT[:PLACES].to(lm.device)).log_weight_BV
    return float((other_NV.exp() * (other_NV - log_prob_NV)).sum(-1).mean())


def _matched_size(divergence: Callable[[float], float]) -> float:
    """The size at which the divergence is about MATCHED: doubled or halved past it, then bisected on a log scale."""
    low = high = 1.0
    if divergence(1.0) < MATCHED:
        while high < LARGEST:
            low, high = high, 2 * high
            if divergence(high) >= MATCHED:
                break
    else:
        while low > 1 / LARGEST:
            low, high = low / 2, low
            if divergence(low) < MATCHED:
                break
    for _ in range(BISECTIONS):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if divergence(middle) < MATCHED else (low, middle)
    return math.sqrt(low * high)
