"""Exact answers for tiny languages: the weight of every text up to a length."""

from __future__ import annotations

import torch

from factorlm.algebra.factor import Factor, State
from factorlm.algebra.operators import LocalProduct
from factorlm.errors import InputError

Text = tuple[int, ...]


def log_weights_of_texts(factor: Factor, max_tokens: int, prefix: Text = ()) -> dict[Text, float]:
    """Log weight in nats of every text of at most max_tokens tokens that ends with an end token.

    Raises:
        InputError: if there are more than a million texts.
    """
    num_texts = factor.vocabulary.size**max_tokens
    if num_texts > 1_000_000:
        raise InputError(f"at most a million texts can be enumerated, got {num_texts}; use fewer letters or tokens")
    end_ids = set(factor.vocabulary.end_ids)
    found: dict[Text, float] = {}

    def walk(state: State, text: Text, log_weight: float) -> None:
        for token, step in enumerate(state.log_weight_BV[0].tolist()):
            total, longer = log_weight + step, (*text, token)
            if token in end_ids:
                found[longer] = total
            elif len(longer) < max_tokens:
                walk(factor.extend(state, torch.tensor([token])), longer, total)

    walk(factor.start(torch.tensor([prefix], dtype=torch.long)), (), 0.0)
    return found


def global_product(factor: Factor, max_tokens: int) -> dict[Text, float]:
    """Probability of every text under p(x) ∝ w(x): what a product means."""
    return _normalized(log_weights_of_texts(factor, max_tokens))


def local_product(factor: Factor, max_tokens: int) -> dict[Text, float]:
    """Probability of every text under token-by-token normalisation: what plain decoding samples."""
    return _normalized(log_weights_of_texts(LocalProduct(factor), max_tokens))


def total_variation(p: dict[Text, float], q: dict[Text, float]) -> float:
    """Half the sum of absolute differences of two distributions over texts."""
    return 0.5 * sum(abs(p.get(text, 0.0) - q.get(text, 0.0)) for text in p.keys() | q.keys())


def _normalized(log_weight: dict[Text, float]) -> dict[Text, float]:
    prob = torch.tensor(list(log_weight.values()), dtype=torch.float64).softmax(0)
    return dict(zip(log_weight, prob.tolist(), strict=True))
