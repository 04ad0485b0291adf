"""Weighted ridge regression with an intercept, in closed form; the ridge is chosen on folds held out."""

# Axes: D inputs, F folds, K columns foretold, L ridges tried, N rows; M = D + 1 + K.

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

RIDGES = tuple(10.0**n for n in range(-10, 3))  # in units of the mean variance of an input
CHUNK_ROWS = 4096


@dataclass(frozen=True, eq=False)
class Fit:
    """y ~ x @ coefficient + intercept, in double precision.

    Attributes:
        coefficient_DK: from all rows.
        intercept_K: from all rows.
        foretold_NK: each row from a fit to the other folds, under the same ridge.
        ridge_K: chosen for each column.
    """

    coefficient_DK: Tensor
    intercept_K: Tensor
    foretold_NK: Tensor
    ridge_K: Tensor

    def __call__(self, x_ND: Tensor) -> Tensor:
        """What the fit foretells, [N, K]."""
        return x_ND.double() @ self.coefficient_DK + self.intercept_K


def ridge(x_ND: Tensor, y_NK: Tensor, weight_N: Tensor, fold_N: Tensor) -> Fit:
    """Fit each column by weighted least squares; the ridge is the one with the least error on folds held out.

    The rows enter by their second moments alone, which are added up fold by fold, so that no fit reads them twice.

    Args:
        x_ND: inputs, of any number format.
        y_NK: what is to be foretold.
        weight_N: of each row; rows of weight zero are only foretold.
        fold_N: from 0 up; rows of one fold are held out together. At least two are needed.
    """
    num_inputs, num_folds = x_ND.shape[1], int(fold_N.max()) + 1
    moment_FMM = torch.stack([_moments(x_ND, y_NK, weight_N, fold_N == fold) for fold in range(num_folds)])
    total_MM = moment_FMM.sum(0)
    lost_LK = torch.zeros(len(RIDGES), y_NK.shape[1], dtype=torch.float64)
    maps_F = [_solve(total_MM - held_MM, num_inputs) for held_MM in moment_FMM]
    for held_MM, map_LMK in zip(moment_FMM, maps_F, strict=True):
        lost_LK += (map_LMK * (held_MM @ map_LMK)).sum(1)  # sum of weight * (x b + a - y)^2: a form in the moments
    best_K = lost_LK.argmin(0)
    columns_K = torch.arange(y_NK.shape[1])

    def chosen(map_LMK: Tensor) -> Tensor:
        return map_LMK[best_K, : num_inputs + 1, columns_K].T

    foretold_NK = torch.empty(y_NK.shape, dtype=torch.float64)
    for fold, map_LMK in enumerate(maps_F):
        row_n = (fold_N == fold).nonzero()[:, 0]
        map_DK = chosen(map_LMK)
        foretold_NK[row_n] = x_ND[row_n].cpu().double() @ map_DK[:-1] + map_DK[-1]
    final_DK = chosen(_solve(total_MM, num_inputs))
    return Fit(final_DK[:-1], final_DK[-1], foretold_NK, torch.tensor(RIDGES)[best_K])


def _moments(x_ND: Tensor, y_NK: Tensor, weight_N: Tensor, is_mine_N: Tensor) -> Tensor:
    """Sum over my rows of weight * z z', [M, M], for z = (x, 1, y)."""
    size = x_ND.shape[1] + 1 + y_NK.shape[1]
    moment_MM = torch.zeros(size, size, dtype=torch.float64)
    for row_n in (is_mine_N & (weight_N > 0)).nonzero()[:, 0].split(CHUNK_ROWS):
        x_nD, y_nK = x_ND[row_n].cpu().double(), y_NK[row_n].cpu().double()
        z_nM = torch.cat([x_nD, torch.ones(len(row_n), 1, dtype=torch.float64), y_nK], 1)
        moment_MM += (z_nM * weight_N[row_n, None].double()).T @ z_nM
    return moment_MM


def _solve(moment_MM: Tensor, num_inputs: int) -> Tensor:
    """Coefficients, intercept and -1 on the column itself, [L, M, K], so that x b + a - y is z times it."""
    x, one, y = slice(num_inputs), num_inputs, slice(num_inputs + 1, None)
    weight = moment_MM[one, one].clamp(min=1e-300)
    mean_D, mean_K = moment_MM[x, one] / weight, moment_MM[y, one] / weight
    covariance_DD = moment_MM[x, x] / weight - mean_D[:, None] * mean_D
    cross_DK = moment_MM[x, y] / weight - mean_D[:, None] * mean_K
    variance_D, axis_DD = torch.linalg.eigh(covariance_DD)
    unit = variance_D.mean().clamp(min=1e-300)
    along_DK = axis_DD.T @ cross_DK
    found = []
    for ridge_size in RIDGES:
        slope_DK = axis_DD @ (along_DK / (variance_D.clamp(min=0) + ridge_size * unit)[:, None])
        level_K = mean_K - mean_D @ slope_DK
        found.append(torch.cat([slope_DK, level_K[None], -torch.eye(len(mean_K), dtype=torch.float64)]))
    return torch.stack(found)
