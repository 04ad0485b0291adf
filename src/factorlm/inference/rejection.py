"""Drawing a token that passes a test, by testing few tokens, with an unbiased estimate of how much passes."""

# Axes: V vocabulary.

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

SORTED_AT_ONCE = 64  # tokens; most draws need fewer


@dataclass(frozen=True)
class Accepted:
    """A token that passed.

    Attributes:
        token: drawn from the distribution restricted to what passes; None if nothing passes.
        mass: unbiased estimate of the probability of what passes, whatever the token: E[mass | token] is exact.
        num_tests: how many tokens were tested.
    """

    token: int | None
    mass: float
    num_tests: int


def first_accepted(prob_V: Tensor, order: Iterator[int], passes: Callable[[int], bool]) -> Accepted:
    """Test tokens in an order drawn without replacement until one passes, and one more for the estimate.

    With r the mass of the rejected tokens and q the share of the accepted one in what is left, the estimate is
    (1 - r) (q + (1 - q) [the next token passes]).

    Source: adaptive weighted rejection sampling, Lipkin et al. (2025), arXiv:2504.05410.

    Args:
        prob_V: probabilities, float64.
        order: tokens of positive probability, drawn from it one after the other without replacement.
        passes: the test.
    """
    left, num_tests = 1.0, 0
    for token in order:
        num_tests += 1
        prob = float(prob_V[token])
        if not passes(token):
            left -= prob
            continue
        after = next(order, None)
        if after is None:
            return Accepted(token, prob, num_tests)
        is_next_passing = passes(after)
        return Accepted(token, max(left, prob) if is_next_passing else prob, num_tests + 1)
    return Accepted(None, 0.0, num_tests)


def drawn_order(prob_V: Tensor, generator: torch.Generator) -> Iterator[int]:
    """Tokens drawn one after the other without replacement; only as many are sorted as are asked for.

    By an exponential race: Efraimidis and Spirakis (2006).
    """
    wait_V = torch.empty_like(prob_V, dtype=torch.float64, device="cpu").exponential_(generator=generator)
    wait_V = torch.where(prob_V.cpu() > 0, wait_V / prob_V.cpu().double(), torch.inf)
    first = wait_V.topk(min(SORTED_AT_ONCE, len(wait_V)), largest=False)
    for wait, token in zip(first.values.tolist(), first.indices.tolist(), strict=True):
        if wait == float("inf"):
            return
        yield token
    if len(wait_V) > SORTED_AT_ONCE:
        order = wait_V.argsort()[SORTED_AT_ONCE:]
        for wait, token in zip(wait_V[order].tolist(), order.tolist(), strict=True):
            if wait == float("inf"):
                return
            yield token
