"""Plain ancestral sampling, for what a prior says of itself; responses to people come from `inference`."""

# Axes: B texts.

from __future__ import annotations

from collections.abc import Sequence

import torch

from factorlm.algebra import Factor, pad_left


@torch.no_grad()
def write(
    model: Factor, prefixes: Sequence[Sequence[int]], max_tokens: int, generator: torch.Generator
) -> list[list[int]]:
    """A text behind each prefix, drawn token by token; end tokens are left out.

    Args:
        model: a language model.
        prefixes: token ids, the start token included.
        max_tokens: most tokens of a text.
        generator: of the draws.
    """
    rows: list[list[int]] = [[] for _ in prefixes]
    has_ended = [False] * len(rows)
    end_ids = set(model.vocabulary.end_ids)
    state = model.start(pad_left([list(p) for p in prefixes]))
    for step in range(max_tokens):
        prob_BV = state.log_weight_BV.double().exp().cpu()
        token_B = torch.multinomial(prob_BV, 1, generator=generator)[:, 0]
        for b, token in enumerate(token_B.tolist()):
            has_ended[b] = has_ended[b] or token in end_ids
            if not has_ended[b]:
                rows[b].append(token)
        if all(has_ended) or step + 1 == max_tokens:
            break
        state = model.extend(state, token_B)
    return rows
