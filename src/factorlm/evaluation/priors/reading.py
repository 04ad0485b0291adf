"""What a prior and single models think of each token of some texts, read once and kept."""

# Axes: B texts, K components, T time, V vocabulary.

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from factorlm.algebra import Factor, entropy, pad_left, pad_right
from factorlm.evaluation.workbench import Workbench
from factorlm.models import CausalLM
from factorlm.prior import Prior

Array = NDArray[np.float64]
Row = list[int]  # token ids of a text
TOGETHER = 16  # texts read at once
DIGITS = 6


@dataclass(frozen=True, eq=False)
class Tokens:
    """What a language model thought of each token of one text before it was read.

    Attributes:
        log_prob_T: of the token, in nats.
        top_T: probability of the likeliest token.
        hit_T: whether that was the token, 1 or 0.
        square_T: sum of the squared probabilities of all tokens.
        entropy_T: of the next token, in nats.
    """

    log_prob_T: Array
    top_T: Array
    hit_T: Array
    square_T: Array
    entropy_T: Array

    @property
    def num_tokens(self) -> int:
        """Of the text."""
        return len(self.log_prob_T)

    @cached_property
    def nats(self) -> float:
        """Negative log probability of the text."""
        return -float(self.log_prob_T.sum())

    @property
    def brier_T(self) -> Array:
        """Squared distance of the probabilities of all tokens from what came."""
        return np.asarray(1 - 2 * np.exp(self.log_prob_T) + self.square_T)


@dataclass(frozen=True, eq=False)
class MixtureTokens(Tokens):
    """The same for the mixture of a prior, whose next tokens follow sequential Bayes, with what is behind it.

    Attributes:
        blend_T: log probability of the token under the blend with fixed weights.
        within_T: mean entropy of the components.
        between_T: mutual information of next token and component, given the text before.
        fixed_T: the same with the weights as they were before the text.
        log_lik_K: log probability of the text under each component, -inf for those without weight.
        log_weight_K: of the components before the text.
    """

    blend_T: Array
    within_T: Array
    between_T: Array
    fixed_T: Array
    log_lik_K: Array
    log_weight_K: Array

    @property
    def responsibility_K(self) -> Array:
        """Probability of each component given the text."""
        joint_K = self.log_weight_K + self.log_lik_K
        odds_K = np.exp(joint_K - joint_K.max())
        return np.asarray(odds_K / odds_K.sum())


def rows_of(lm: CausalLM, texts: Sequence[str], longest: int) -> list[Row]:
    """The first tokens of each text."""
    return [lm.encode_text(text)[:longest] for text in texts]


def digest(prior: Prior) -> str:
    """Of all that a prior's numbers depend on, its base included; for keys of caches."""
    found = hashlib.sha256(f"{prior.lm.fingerprint} {prior.lm.model.dtype} {prior.manifest.weights}".encode())
    found.update(prior.manifest.kind.model_dump_json().encode())
    for name, tensor in sorted(prior.tensors.items()):
        found.update(name.encode() + tensor.float().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:32]


def read_mixture(bench: Workbench, prior: Prior, rows: Sequence[Row], *, stage: str) -> list[MixtureTokens]:
    """What a prior thinks of texts.

    Args:
        bench: with the cache.
        prior: that reads.
        rows: the texts, each of at least one token.
        stage: for the progress bar.
    """
    key = {"what": "tokens under the mixture of a prior", "prior": digest(prior)}
    log_weight_K = prior.log_prob_K.numpy()
    found = bench.in_batches(stage, key, list(rows), TOGETHER, lambda batch: _of_mixture(prior, batch))
    return [
        MixtureTokens(**{name: np.array(values, float) for name, values in text.items()}, log_weight_K=log_weight_K)
        for text in found
    ]


def read_model(
    bench: Workbench, model: Factor, lm: CausalLM, rows: Sequence[Row], *, name: str, stage: str
) -> list[Tokens]:
    """What one language model thinks of texts.

    Args:
        bench: with the cache.
        model: that reads, a factor that is normalised.
        lm: whose start token stands before each text.
        rows: the texts, each of at least one token.
        name: of all that the model's numbers depend on, for the cache.
        stage: for the progress bar.
    """
    key = {"what": "tokens under a model", "model": name, "base": lm.fingerprint, "dtype": str(lm.model.dtype)}
    found = bench.in_batches(stage, key, list(rows), TOGETHER, lambda batch: _of_model(model, lm, batch))
    return [Tokens(**{name: np.array(values, float) for name, values in text.items()}) for text in found]


def _of_mixture(prior: Prior, rows: list[Row]) -> list[dict[str, list[float]]]:
    mixture, alive = prior.mixture, prior.mixture.alive
    log_weight_K = prior.log_prob_K[alive].float()
    steps: list[dict[str, Tensor]] = []
    log_lik_BK = torch.full((len(rows), prior.num_components), -torch.inf, dtype=torch.float64)
    log_lik_BK[:, alive] = 0.0
    with torch.no_grad():
        for (joint_BK, log_prob_KBV), token_B in zip(*_together(mixture.beliefs, prior.lm, rows), strict=True):
            entropy_KB = entropy(log_prob_KBV)
            within_B, between_B, log_prob_BV = _split(joint_BK.log_softmax(-1), log_prob_KBV, entropy_KB)
            fixed_BK = log_weight_K.to(log_prob_KBV.device).expand(len(rows), -1)
            _, fixed_B, blend_BV = _split(fixed_BK, log_prob_KBV, entropy_KB)
            place_B1 = token_B.to(log_prob_BV.device).clamp(min=0)[:, None]
            blend_B = blend_BV.gather(1, place_B1)[:, 0]
            steps.append(
                _seen(log_prob_BV, token_B)
                | {"blend_T": blend_B, "within_T": within_B, "between_T": between_B, "fixed_T": fixed_B}
            )
            own_KB = log_prob_KBV.gather(2, place_B1[None].expand(len(alive), -1, -1))[..., 0]
            log_lik_BK[:, alive] += torch.where(token_B >= 0, own_KB.cpu(), 0.0).T.double()
    found = _by_text(steps, rows)
    return [text | {"log_lik_K": log_lik_K.tolist()} for text, log_lik_K in zip(found, log_lik_BK, strict=True)]


def _of_model(model: Factor, lm: CausalLM, rows: list[Row]) -> list[dict[str, list[float]]]:
    with torch.no_grad():
        steps = [
            _seen(log_prob_BV, token_B) for log_prob_BV, token_B in zip(*_together(model.steps, lm, rows), strict=True)
        ]
    return _by_text(steps, rows)


def _together(read: Any, lm: CausalLM, rows: list[Row]) -> tuple[Any, Any]:
    """What is read of a batch, and the tokens that come, step by step."""
    text_BT = pad_right(rows)
    return read(pad_left([list(lm.start_ids)] * len(rows)), text_BT), text_BT.unbind(1)


def _split(log_weight_BK: Tensor, log_prob_KBV: Tensor, entropy_KB: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As `uncertainty.decomposed`, for several weights of the same components, whose entropies are known."""
    log_weight_KB = log_weight_BK.T.to(log_prob_KBV.dtype)
    log_prob_BV = torch.logsumexp(log_weight_KB[:, :, None] + log_prob_KBV, 0)
    within_B = (log_weight_KB.exp() * entropy_KB).sum(0)
    return within_B, (entropy(log_prob_BV) - within_B).clamp(min=0.0), log_prob_BV


def _seen(log_prob_BV: Tensor, token_B: Tensor) -> dict[str, Tensor]:
    place_B1 = token_B.to(log_prob_BV.device).clamp(min=0)[:, None]
    prob_BV = log_prob_BV.exp()
    top = prob_BV.max(1)
    return {
        "log_prob_T": log_prob_BV.gather(1, place_B1)[:, 0],
        "top_T": top.values,
        "hit_T": (top.indices == place_B1[:, 0]).float(),
        "square_T": prob_BV.square().sum(1),
        "entropy_T": entropy(log_prob_BV),
    }


def _by_text(steps: list[dict[str, Tensor]], rows: list[Row]) -> list[dict[str, list[float]]]:
    """Numbers of each text as far as it goes."""
    whole = {name: torch.stack([step[name].double().cpu() for step in steps], 1) for name in steps[0]}
    return [
        {name: [round(x, DIGITS) for x in values_BT[b, : len(row)].tolist()] for name, values_BT in whole.items()}
        for b, row in enumerate(rows)
    ]
