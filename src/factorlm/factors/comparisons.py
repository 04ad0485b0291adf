"""Preferences as logistic regression sees them: a row for each pair of texts, and one for each text rated alone."""

# Axes: B texts, C covariates, D features, R comparisons.

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from factorlm.factors.feedback import Pair, Preferences, Rated, groups_of


@dataclass(frozen=True, eq=False)
class Comparisons:
    """Logistic regression's view of preferences: a row for each pair, and one for each rated text.

    Attributes:
        text_BD: of each text, its features, pooled over its tokens.
        length_B: tokens of each text.
        better_R: the chosen text of a pair, or the rated text.
        worse_R: the rejected text, or -1.
        label_R: 1 for pairs and for thumbs up, 0 for thumbs down.
        weight_R: summing to one.
        group_R: rows of one group are held out together.
        per_token: whether pooling takes means, times the mean length.
        is_length_controlled: whether length has a coefficient of its own.
    """

    text_BD: Tensor
    length_B: Tensor
    better_R: Tensor
    worse_R: Tensor
    label_R: Tensor
    weight_R: Tensor
    group_R: Tensor
    per_token: bool
    is_length_controlled: bool = True

    @property
    def is_pair_R(self) -> Tensor:
        """Which rows compare two texts."""
        return self.worse_R >= 0

    def contrast(self, value_B: Tensor) -> Tensor:
        """Of each row the value of the better text minus that of the worse one, if there is one."""
        paired_R = self.is_pair_R.to(value_B.dtype).reshape(-1, *[1] * (value_B.ndim - 1))
        return value_B[self.better_R] - paired_R * value_B[self.worse_R.clamp(min=0)]

    @property
    def target_R(self) -> Tensor:
        """Labels, each with a little doubt, so that outcomes without exception leave rewards finite (Platt, 1999)."""
        doubt = 1 / (len(self.label_R) + 2)
        return self.label_R + doubt * (1 - 2 * self.label_R)

    @property
    def covariate_RC(self) -> Tensor:
        """What the reward shall not explain: the difference in length, in tens of tokens, and being rated alone."""
        length_R = self.contrast(self.length_B) / 10 * float(self.is_length_controlled)
        return torch.stack([length_R, (~self.is_pair_R).double()], 1)


def laid_out(preferences: Preferences, text_BD: Tensor, length_B: Tensor, *, per_token: bool) -> Comparisons:
    """The comparisons over features of texts.

    Args:
        preferences: what to compare.
        text_BD: features of each of its `distinct_texts`.
        length_B: tokens of each.
        per_token: whether features are means over tokens.
    """
    number = {key: n for n, key in enumerate(distinct_texts(preferences))}
    pairs, rated = preferences.pairs, preferences.rated
    items: list[Pair | Rated] = [*pairs, *rated]
    weight_R = torch.tensor([item.weight for item in items], dtype=torch.float64)
    chosen, rejected = [number[p.prompt, p.chosen] for p in pairs], [number[p.prompt, p.rejected] for p in pairs]
    return Comparisons(
        text_BD,
        length_B,
        torch.tensor([*chosen, *(number[r.prompt, r.text] for r in rated)]),
        torch.tensor([*rejected, *[-1] * len(rated)]),
        torch.tensor([1.0] * len(pairs) + [float(r.is_positive) for r in rated], dtype=torch.float64),
        weight_R / weight_R.sum(),
        torch.tensor(groups_of(preferences)),
        per_token,
    )


def distinct_texts(preferences: Preferences) -> list[tuple[str, str]]:
    """Each prompt and text once, in order."""
    found = [(pair.prompt, text) for pair in preferences.pairs for text in (pair.chosen, pair.rejected)]
    return list(dict.fromkeys([*found, *((rated.prompt, rated.text) for rated in preferences.rated)]))
