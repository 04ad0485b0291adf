"""A few next tokens that stand for all: the most probable ones, and a weighted sample of the others.

The sum over the vocabulary of p(v) f(v) becomes the sum over candidates of weight f(candidate), whose expectation over
the sample is the same; sampled tokens share what probability the top ones leave. With at least as many top candidates
as there are tokens it is exact.
"""

# Axes: C candidates, D width, K heads, N places, V vocabulary; n is a stretch of N.

from __future__ import annotations

import functools
import hashlib
import weakref
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from factorlm.factors import kept
from factorlm.factors.calibration import OPENING_TOKENS, OPENINGS, STATES_MEASURED, neutral_states
from factorlm.factors.head import Head
from factorlm.models import CausalLM
from factorlm.models.fetch import cache_folder

TOP, TAIL = 64, 32  # of each place; enough to compare heads to about 0.01 of correlation


def choose(
    log_prob_nV: Tensor, generator: torch.Generator, *, top: int = TOP, tail: int = TAIL
) -> tuple[Tensor, Tensor]:
    """Candidates [n, C] of each place, and the log of the probability that each stands for, [n, C], in nats.

    Args:
        log_prob_nV: of each next token.
        generator: of the sample.
        top: most probable tokens, taken as they are.
        tail: tokens drawn from the others, with replacement.
    """
    found = log_prob_nV.topk(min(top, log_prob_nV.shape[1]), -1)
    if top >= log_prob_nV.shape[1] or not tail:
        return found.indices, found.values
    rest_nV = log_prob_nV.exp().scatter(1, found.indices, 0.0)
    mass_n1 = rest_nV.sum(-1, keepdim=True)
    safe_nV = rest_nV.clamp(min=torch.finfo(rest_nV.dtype).tiny)  # a place may leave nothing to its tail
    drawn_nC = torch.multinomial(safe_nV.cpu(), tail, replacement=True, generator=generator).to(rest_nV.device)
    share_nC = (mass_n1 / tail).log().expand(-1, tail)
    return torch.cat([found.indices, drawn_nC], 1), torch.cat([found.values, share_nC], 1)


@dataclass(frozen=True, eq=False)
class Places:
    """Neutral states with their candidates: all that is needed to compare heads.

    Attributes:
        hidden_ND: the encoder's states.
        token_NC: candidates.
        share_NC: the probability that each stands for.
    """

    hidden_ND: Tensor
    token_NC: Tensor
    share_NC: Tensor


@functools.lru_cache(maxsize=2)
def neutral_places(lm: CausalLM) -> Places:
    """The neutral states of a model with their candidates; kept on disk, since finding them takes seconds."""
    key = (lm.fingerprint, str(lm.model.dtype), OPENINGS, OPENING_TOKENS, STATES_MEASURED, TOP, TAIL)
    digest = hashlib.sha256(repr(key).encode()).hexdigest()[:24]
    path = cache_folder() / "features" / f"neutral-{digest}.safetensors"
    if (found := kept.find(path, "hidden_ND", "token_NC", "share_NC")) is not None:
        hidden_ND, token_NC, share_NC = (tensor.to(lm.device) for tensor in found)
        return Places(hidden_ND, token_NC.long(), share_NC)
    states = neutral_states(lm)
    token_NC, log_share_NC = choose(states.log_prob_NV, torch.Generator().manual_seed(0))
    places = Places(states.hidden_ND.float(), token_NC, log_share_NC.exp())
    kept.keep(path, {"hidden_ND": places.hidden_ND, "token_NC": token_NC.int(), "share_NC": places.share_NC})
    return places


_sketches: weakref.WeakKeyDictionary[Head, Tensor] = weakref.WeakKeyDictionary()


@torch.no_grad()
def sketched_covariance(lm: CausalLM, heads: Sequence[Head]) -> Tensor:
    """Estimate of E_h Cov_p(phi_i, phi_j) over the neutral states, [K, K], in nats squared per token.

    Each head is a vector whose inner products are the covariances; it is kept as long as the head is.
    """
    new = [head for head in dict.fromkeys(heads) if head not in _sketches]
    if new:
        for head, spread_M in zip(new, _sketch(lm, new), strict=True):
            _sketches[head] = spread_M.clone()  # a view would keep those of all the others
    sketch_KM = torch.stack([_sketches[head] for head in heads])
    return (sketch_KM @ sketch_KM.T).cpu().double()


def _sketch(lm: CausalLM, heads: Sequence[Head]) -> Tensor:
    places = neutral_places(lm)
    row_NCD = lm.unembedding_VD[places.token_NC].float()
    output_NDK = torch.stack([head.weights(places.hidden_ND) for head in heads], -1)
    potential_KNC = torch.bmm(row_NCD, output_NDK).movedim(-1, 0)
    total_N1 = places.share_NC.sum(-1, keepdim=True)
    mean_KN1 = (potential_KNC * places.share_NC).sum(-1, keepdim=True) / total_N1
    weight_NC = places.share_NC / (total_N1 * len(total_N1))
    return ((potential_KNC - mean_KN1) * weight_NC.sqrt()).flatten(1)
