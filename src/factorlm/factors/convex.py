"""Least values of smooth convex functions."""

# Axes: K numbers to find.

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def minimise(objective: Callable[[Tensor], tuple[Tensor, Tensor]], start_K: Tensor, *, most_steps: int = 300) -> Tensor:
    """The argument [K], in double precision, at which a smooth convex function is least; L-BFGS.

    Args:
        objective: gives the value and the slope [K] at an argument [K].
        start_K: where to begin.
        most_steps: after which it gives up, with what it has.
    """
    from scipy.optimize import minimize

    def evaluated(found_K: object) -> tuple[float, object]:
        value, slope_K = objective(torch.as_tensor(found_K, dtype=torch.float64))
        return float(value), slope_K.double().numpy()

    options = {"maxiter": most_steps, "maxcor": 20, "ftol": 1e-12, "gtol": 1e-7}
    return torch.from_numpy(minimize(evaluated, start_K.numpy(), jac=True, method="L-BFGS-B", options=options).x)
