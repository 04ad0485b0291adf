"""Claims about products and unions, decided by enumerating every text of small languages."""

# Axes: V vocabulary.

from __future__ import annotations

import statistics

import torch
from pydantic import PositiveInt

from factorlm.algebra import Factor, global_product, local_product, total_variation
from factorlm.evaluation.claims.claim import Claim, ClaimBench, Outcome
from factorlm.models.table import markov_pair, random_table
from factorlm.settings import Config

VISIBLE = 0.01  # of total variation
SHARE = 0.9  # of the pairs
ROUNDING = 1e-9  # nats


class Pairs(Config):
    """Random languages.

    Attributes:
        pairs: of languages.
        alphabet: of each.
        max_tokens: of a text, its end included.
    """

    pairs: PositiveInt = 100
    alphabet: str = "abc"
    max_tokens: PositiveInt = 4


class UnionSettings(Pairs):
    """Random languages, and how much of the union is taken away.

    Attributes:
        strengths: exponents of the union, below one.
    """

    strengths: tuple[float, ...] = (0.5, 0.9, 0.99)


def _random_pairs(settings: Pairs, seed: int) -> list[tuple[Factor, Factor]]:
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            random_table(settings.alphabet, settings.max_tokens, generator),
            random_table(settings.alphabet, settings.max_tokens, generator),
        )
        for _ in range(settings.pairs)
    ]


def _local_and_global(bench: ClaimBench, settings: Pairs) -> Outcome:
    first, second = markov_pair()
    by_hand = total_variation(global_product(first * second, 3), local_product(first * second, 3))
    apart = [
        total_variation(global_product(a * b, settings.max_tokens), local_product(a * b, settings.max_tokens))
        for a, b in _random_pairs(settings, bench.seed)
    ]
    share = sum(tv > VISIBLE for tv in apart) / len(apart)
    return Outcome(
        measured=f"total variation {by_hand:.2f} on the two-letter example, by enumeration; "
        f"{statistics.median(apart):.2f} at the median of {len(apart)} pairs of random languages",
        numbers={
            "two_letters": by_hand,
            "median": statistics.median(apart),
            "smallest": min(apart),
            "largest": max(apart),
            "share_visible": share,
        },
        verdict="holds" if by_hand > VISIBLE and share >= SHARE else "does not hold here",
    )


LOCAL_IS_NOT_GLOBAL = Claim(
    name="local-is-not-global",
    sentence="A product of next-token distributions is not the product over texts",
    source="Lew et al. 2023",
    reported="",
    rule=f"Holds if the total variation between local and global product is above {VISIBLE} on the two-letter example "
    f"and for at least {SHARE:.0%} of the pairs of random languages; else it does not hold.",
    settings=Pairs(),
    run=_local_and_global,
    needs=(),
    minutes=0.1,
)


def _union(bench: ClaimBench, settings: UnionSettings) -> Outcome:
    moved: list[float] = []  # by how much the ratio of two kept tokens changes
    moved_plainly: list[float] = []  # the same without the union
    rises: list[float] = []  # of tokens that the other prefers, less the kept ones
    for a, b in _random_pairs(settings, bench.seed):
        for first in (None, *range(len(settings.alphabet))):
            prefix = torch.tensor([[] if first is None else [first]], dtype=torch.long)
            a_V, b_V = (p.start(prefix).log_weight_BV[0] for p in (a, b))
            is_kept_V = b_V <= a_V
            for strength in settings.strengths:
                change_V, plain_V = (
                    (a / other**strength).start(prefix).log_weight_BV[0] / (1 - strength) - a_V for other in (a | b, b)
                )
                if is_kept_V.any():
                    moved.append(float(change_V[is_kept_V].abs().max()))
                    moved_plainly.append(float(plain_V[is_kept_V].max() - plain_V[is_kept_V].min()))
                rises += change_V[~is_kept_V].tolist()
    most, num_falls = max(moved), sum(rise < 0 for rise in rises)
    return Outcome(
        measured=f"exact on {settings.pairs} pairs of random languages: "
        * (most <= ROUNDING)
        + f"{num_falls:,} of {len(rises):,} preferred tokens fall, and the ratios of the others change by at most "
        f"{most:.0e} nats (by plain subtraction, by {statistics.median(moved_plainly):.1f} at the median)",
        numbers={
            "most_that_kept_tokens_move": most,
            "preferred_tokens": len(rises),
            "preferred_tokens_that_fall": num_falls,
            "median_that_plain_subtraction_moves_kept_tokens": statistics.median(moved_plainly),
        },
        verdict="holds" if most <= ROUNDING and num_falls == len(rises) else "does not hold here",
    )


UNION_ONLY_PUSHES_DOWN = Claim(
    name="union-only-pushes-down",
    sentence="Subtracting a union only pushes down what the other model prefers",
    source="Dekoninck et al. 2024",
    reported="",
    rule=f"Holds if, for every pair of random languages, prefix and strength, the ratios of the tokens that the other "
    f"model does not prefer stay within {ROUNDING:.0e} nats and every token that it prefers falls against them; else "
    "it does not hold.",
    settings=UnionSettings(),
    run=_union,
    needs=(),
    minutes=0.1,
)
