"""Contrastive search: of the likeliest tokens the one whose state is least like the states before it."""

# Axes: B rows, D width, K candidates, T time, V vocabulary.

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from factorlm.algebra import Factor, LocalProduct, flatten, pad_left
from factorlm.errors import DeadEndError, InputError
from factorlm.factors.headed import fuse
from factorlm.inference.search.counting import Counting
from factorlm.inference.search.found import Found
from factorlm.models import CausalLM
from factorlm.settings import Config


class ContrastiveSearch(Config):
    """How tokens are compared.

    Attributes:
        candidates: most probable tokens that are considered.
        penalty: share of the likeness in the comparison, in [0, 1]; 0 is greedy decoding.
    """

    candidates: Annotated[int, Field(ge=1)] = 5
    penalty: Annotated[float, Field(ge=0, le=1)] = 0.6


PLAIN = ContrastiveSearch()


@torch.inference_mode()
def contrastive_search(
    factor: Factor,
    prompt_ids: Sequence[int],
    settings: ContrastiveSearch = PLAIN,
    *,
    max_tokens: int = 64,
) -> Found:
    """The text that takes at each place argmax_v (1 - a) p(v) - a max_j cos(h_v, h_j), v among the likeliest.

    H_v is the base's last hidden state after v, and h_j are those of all tokens before it, prompt included. Nothing is
    drawn. The value is the mean of what was maximised. Where a base puts all states in a narrow cone, as many small
    ones do, all are alike and the penalty decides little. Source: Su et al. (2022), arXiv:2202.06417.

    Args:
        factor: any composition with a language model in it, whose states are compared.
        prompt_ids: what is continued.
        settings: how.
        max_tokens: most tokens of the text, its end included.

    Raises:
        DeadEndError: if every next token is impossible.
        InputError: if there is no language model, or no token to write.
    """
    base = flatten(factor.base if isinstance(factor, LocalProduct) else factor)
    lm = next((term.factor for term in base if isinstance(term.factor, CausalLM)), None)
    if lm is None:
        raise InputError("contrastive search compares states of a language model, got a composition without one")
    if max_tokens < 1:
        raise InputError(f"a text of at least 1 token is needed, got {max_tokens}")
    model = Counting(fuse(LocalProduct.of(factor)))
    vocabulary = factor.vocabulary
    prefix_BT = pad_left([list(prompt_ids)]).to(lm.device)
    state, encoded = model.start(prefix_BT), lm.encode(prefix_BT)
    text: list[int] = []
    values, log_weight, reason = [], 0.0, "length"
    for _ in range(max_tokens):
        found = state.log_weight_BV[0].topk(min(settings.candidates, vocabulary.size))
        possible = int((found.values > -torch.inf).sum())
        if not possible:
            raise DeadEndError(f"every next token is impossible after {len(text)} tokens; take a factor away")
        token_K, log_prob_K = found.indices[:possible], found.values[:possible]
        same_K = torch.zeros_like(token_K)
        copies, rows = model.reorder(state, same_K), lm.rows(encoded, same_K)
        wider = model.extend(copies, token_K)
        read = lm.advance(rows, token_K[:, None])  # while both are held, this is what the composition just read
        likeness_K = _likeness(read.hidden.view)
        value_K = (1 - settings.penalty) * log_prob_K.double().exp() - settings.penalty * likeness_K
        best = value_K.argmax()[None]
        token = int(token_K[best])
        text.append(token)
        values.append(float(value_K[best]))
        log_weight += float(log_prob_K[best])
        if token in vocabulary.end_ids:
            reason = "end"
            break
        state, encoded = model.reorder(wider, best), lm.rows(read, best)
    return Found(tuple(text), vocabulary.text(text), sum(values) / len(values), log_weight, reason, model.spent)


def _likeness(hidden_KTD: Tensor) -> Tensor:
    """The largest cosine between the last state of each row and those before it, [K]."""
    unit_KTD = torch.nn.functional.normalize(hidden_KTD.double(), dim=-1)
    return (unit_KTD[:, :-1] @ unit_KTD[:, -1, :, None])[..., 0].amax(-1)
