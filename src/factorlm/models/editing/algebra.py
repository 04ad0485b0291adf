"""The closed forms of ROME and MEMIT: least-squares changes of a matrix that is read as a memory W k = v.

Sources: Meng et al. (2022), arXiv:2202.05262; Meng et al. (2023), arXiv:2210.07229.
"""

# Axes: F width of keys, N facts, O width of values.

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from factorlm.errors import InputError


@dataclass(frozen=True, eq=False)
class LowRank:
    """The change up down of a matrix [O, F], in float64.

    Attributes:
        up_ON: the one factor.
        down_NF: the other.
    """

    up_ON: Tensor
    down_NF: Tensor

    @property
    def dense_OF(self) -> Tensor:
        """The product."""
        return self.up_ON @ self.down_NF

    @property
    def norm(self) -> float:
        """Frobenius norm, from matrices as large as the rank."""
        gram_NN = (self.up_ON.T @ self.up_ON) * (self.down_NF @ self.down_NF.T)
        return float(gram_NN.sum().clamp(min=0).sqrt())


def rank_one(
    moment_FF: Tensor, key_F: Tensor, read_F: Tensor, value_O: Tensor, want_O: Tensor
) -> tuple[LowRank, float]:
    """The change Λ (C⁻¹ k)ᵀ with Λ = (v* - v) / ((C⁻¹ k)ᵀ k'), and its denominator.

    With k' = k it is the least change of ‖W K - V‖² that has W' k = v*. ROME reads k' from the prompt alone and k as
    the mean over prefixes, C-ROME (Yang et al. 2024, arXiv:2406.11263) takes the mean for both.

    Args:
        moment_FF: C, the mean of k kᵀ over other texts, invertible.
        key_F: k.
        read_F: k', the key at which the value is to be v*.
        value_O: v = W k', what the matrix gives there now.
        want_O: v*.

    Raises:
        InputError: if the denominator is zero or no number.
    """
    moment_FF, key_F, read_F = moment_FF.double(), key_F.double(), read_F.double()
    direction_F = torch.linalg.solve(moment_FF, key_F)
    denominator = float(direction_F @ read_F)
    if denominator == 0 or denominator != denominator:
        raise InputError(f"keys that meet are needed, got a denominator of {denominator}; edit another layer")
    up_O = (want_O.double() - value_O.double()) / denominator
    return LowRank(up_O[:, None], direction_F[None]), denominator


def ridge(moment_FF: Tensor, weight: float, key_NF: Tensor, residual_NO: Tensor) -> LowRank:
    """The change R Kᵀ (λ C + K Kᵀ)⁻¹, the least of λ E‖Δ k‖² + Σ ‖Δ k_i - r_i‖².

    Args:
        moment_FF: C, the mean of k kᵀ over other texts.
        weight: λ: how many tokens of other texts count as much as one fact.
        key_NF: K, transposed.
        residual_NO: what the values shall gain.
    """
    key_NF = key_NF.double()
    down_FN = torch.linalg.solve(weight * moment_FF.double() + key_NF.T @ key_NF, key_NF.T)
    return LowRank(residual_NO.double().T, down_FN.T)
