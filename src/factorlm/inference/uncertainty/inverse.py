"""Inv-Entropy: how many ways of asking could have led to the answers that came.

Variants of a question are answered anew. Two random walks over the variants step to what is asked alike and to what is
answered alike; a model that is sure answers alike what is asked alike.

Source: Song et al. (2025), arXiv:2506.09684.
"""

# Axes: D width, N variants (the question itself first), R replications.

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from factorlm.inference.uncertainty.evidence import Variant
from factorlm.inference.uncertainty.meanings import Encode
from factorlm.text.comparing import normalized

Array = NDArray[np.float64]
DRAWS = 20  # of one answer for each variant
TURN = 1 / np.e  # -p log p turns there: larger shares make the measure fall where doubt rises


def walk(similarity_NN: Array) -> Array:
    """Steps of a random walk to what is similar, itself included: rows sum to one."""
    return np.asarray(similarity_NN / similarity_NN.sum(1, keepdims=True))


def inverse_entropy(input_NN: Array, output_NN: Array) -> float:
    """-sum_i p_i log p_i with p_i = (P_y P_x)[i, i], the chance of each variant given its own answer, in nats.

    Args:
        input_NN: similarities of variants, zero or more, with a positive diagonal.
        output_NN: of their answers.
    """
    prob_N = inverse_probs(input_NN, output_NN)
    return float(-(prob_N * np.log(prob_N.clip(1e-300))).sum())


def inverse_probs(input_NN: Array, output_NN: Array) -> Array:
    """P(X = x_i | Y = y_i) of each variant, [N]: a diagonal, which need not sum to one."""
    return np.asarray(np.einsum("ij,ji->i", walk(output_NN), walk(input_NN)))


def similarity(vector_ND: Array) -> Array:
    """(1 + cosine) / 2 of vectors of length one, [N, N]: 1 for equal ones, 0 for opposite ones."""
    return np.asarray(((1 + vector_ND @ vector_ND.T) / 2).clip(0, 1))


def answer_similarity(answers: Sequence[str], encode: Encode) -> Array:
    """Similarities of answers, [N, N]; an empty answer is like other empty ones, and like nothing else."""
    similarity_NN = similarity(encode(answers))
    is_empty_N = np.array([not normalized(answer) for answer in answers])
    similarity_NN[is_empty_N[:, None] != is_empty_N[None]] = 0.0
    similarity_NN[is_empty_N[:, None] & is_empty_N[None]] = 1.0
    return similarity_NN


def estimate(variants: Sequence[Variant], encode: Encode, *, draws: int = DRAWS, seed: int = 0) -> float:
    """Mean Inv-Entropy over draws of one answer for each variant, in nats."""
    input_NN = similarity(encode([variant.question for variant in variants]))
    return float(np.mean([inverse_entropy(input_NN, out_NN) for out_NN in _drawn(variants, encode, draws, seed)]))


def is_past_turn(variants: Sequence[Variant], encode: Encode, *, draws: int = DRAWS, seed: int = 0) -> bool:
    """Whether a share was met above TURN, where the measure is no longer monotone in doubt."""
    input_NN = similarity(encode([variant.question for variant in variants]))
    return any(inverse_probs(input_NN, output_NN).max() > TURN for output_NN in _drawn(variants, encode, draws, seed))


def _drawn(variants: Sequence[Variant], encode: Encode, draws: int, seed: int) -> Iterator[Array]:
    """Similarities of answers, one of each variant, drawn anew each time."""
    generator = np.random.default_rng(seed)
    for _ in range(draws):
        answers = [v.answers[int(generator.integers(len(v.answers)))].text for v in variants]
        yield answer_similarity(answers, encode)
