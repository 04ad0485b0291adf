"""How much a memory may say, by what it knows about its own answer: weights learned on texts it was not built from.

A gate maps features of an answer (how long a suffix was found, how often, how sure the neighbours are) to a weight
lambda in [0, 1]. It is fitted to the likelihood of p = lambda p_memory + (1 - lambda) p_model on held-out tokens.
"""

# Axes: C cells of a table, F features, N tokens.

from __future__ import annotations

import bisect
from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, model_validator
from scipy.optimize import minimize
from torch import Tensor

from factorlm.errors import InputError
from factorlm.settings import Config

Array = NDArray[np.float64]
PASSES = 200  # of expectation-maximisation; each cell's likelihood is concave in its weight, so it cannot go astray
FEWEST_TOKENS = 100


class ConstantGate(Config):
    """The same weight wherever the memory knows anything.

    Attributes:
        weight: of the memory.
    """

    kind: Literal["constant"] = "constant"
    weight: Annotated[float, Field(ge=0, le=1)] = 0.3

    def weights(self, feature_NF: Tensor) -> Tensor:
        """Weight of the memory, [N]."""
        return torch.full((feature_NF.shape[0],), self.weight)


class TableGate(Config):
    """A weight for each cell of a table over the features.

    Attributes:
        edges: of each feature, rising: a cell ends before its edge.
        cells: weights, the last feature changing fastest.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    kind: Literal["table"] = "table"
    edges: tuple[tuple[float, ...], ...]
    cells: tuple[Annotated[float, Field(ge=0, le=1)], ...]

    @model_validator(mode="after")
    def _check(self) -> TableGate:
        if len(self.cells) != int(np.prod([len(edges) + 1 for edges in self.edges])):
            raise ValueError("a weight for each cell is needed")
        if any(list(edges) != sorted(set(edges)) for edges in self.edges):
            raise ValueError("edges must rise")
        return self

    def cell(self, feature_NF: Tensor) -> Tensor:
        """In which cell each answer lies, [N]."""
        place_N = torch.zeros(feature_NF.shape[0], dtype=torch.long)
        for f, edges in enumerate(self.edges):
            inside_N = torch.bucketize(feature_NF[:, f].double().contiguous(), torch.tensor(edges).double(), right=True)
            place_N = place_N * (len(edges) + 1) + inside_N
        return place_N

    def weights(self, feature_NF: Tensor) -> Tensor:
        """Weight of the memory, [N]."""
        return torch.tensor(self.cells)[self.cell(feature_NF)]


class LogisticGate(Config):
    """A weight sigmoid(b + w . features): a few numbers, learned from few tokens.

    Attributes:
        bias: b.
        slopes: w.
        most: a weight that is never passed, so that the model is always heard.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    kind: Literal["logistic"] = "logistic"
    bias: float
    slopes: tuple[float, ...]
    most: Annotated[float, Field(gt=0, le=1)] = 0.999

    def weights(self, feature_NF: Tensor) -> Tensor:
        """Weight of the memory, [N]."""
        return torch.sigmoid(self.bias + feature_NF.float() @ torch.tensor(self.slopes)) * self.most


Gate = ConstantGate | TableGate | LogisticGate


class Evidence:
    """Held-out tokens: what the memory knew of its answer, and what memory and model gave to the token that came.

    Attributes:
        feature_NF: see the memory.
        memory_N: log probability of the token under the memory, in nats; -inf is usual.
        model_N: under the model.
    """

    def __init__(self, feature_NF: Array, memory_N: Array, model_N: Array) -> None:
        if not len(feature_NF) == len(memory_N) == len(model_N):
            raise InputError("features and two log probabilities are needed for each token")
        self.feature_NF, self.memory_N, self.model_N = feature_NF, memory_N, model_N

    @staticmethod
    def joined(parts: Sequence[Evidence]) -> Evidence:
        """Of several texts."""
        return Evidence(
            *(np.concatenate([getattr(p, n) for p in parts]) for n in ("feature_NF", "memory_N", "model_N"))
        )

    def mixed(self, weight_N: Array) -> Array:
        """Log probability of each token under the mixture with these weights, in nats."""
        with np.errstate(divide="ignore"):
            return np.logaddexp(np.log(weight_N) + self.memory_N, np.log1p(-weight_N) + self.model_N)

    def under(self, gate: Gate) -> Array:
        """Log probability of each token under the mixture that a gate makes, in nats."""
        return self.mixed(gate.weights(torch.from_numpy(self.feature_NF)).double().numpy())


def fit_constant(evidence: Evidence) -> ConstantGate:
    """The best single weight."""
    _check(evidence)
    return ConstantGate(weight=float(_best(evidence, np.zeros(len(evidence.memory_N), np.int64), 1)[0]))


def fit_table(evidence: Evidence, edges: Sequence[Sequence[float]]) -> TableGate:
    """The best weight of each cell, drawn towards the weight over all where a cell has few tokens."""
    _check(evidence)
    shape = tuple(tuple(map(float, e)) for e in edges)
    num_cells = int(np.prod([len(e) + 1 for e in shape]))
    empty = TableGate(edges=shape, cells=(0.0,) * num_cells)
    cell_N = empty.cell(torch.from_numpy(evidence.feature_NF)).numpy()
    overall = float(_best(evidence, np.zeros_like(cell_N), 1)[0])
    weights = _best(evidence, cell_N, num_cells, prior=overall)
    return TableGate(edges=shape, cells=tuple(float(f"{w:.6g}") for w in weights))


def fit_logistic(evidence: Evidence, ridge: float = 1e-4) -> LogisticGate:
    """The best logistic gate, by L-BFGS from the best constant weight."""
    _check(evidence)
    mean_F = evidence.feature_NF.mean(0)
    spread_F = np.maximum(evidence.feature_NF.std(0), 1e-9)
    scaled_NF = (evidence.feature_NF - mean_F) / spread_F
    most = LogisticGate.model_fields["most"].default

    def loss(parameter: Array) -> tuple[float, Array]:
        share_N = 1 / (1 + np.exp(-(parameter[0] + scaled_NF @ parameter[1:])))
        mixed_N = evidence.mixed(most * share_N)
        slope_N = (np.exp(evidence.memory_N - mixed_N) - np.exp(evidence.model_N - mixed_N)) * most
        slope_N *= share_N * (1 - share_N)
        gradient = -np.array([slope_N.mean(), *(slope_N @ scaled_NF / len(slope_N))])
        penalty = np.array([0.0, *(2 * ridge * parameter[1:])])
        return float(-mixed_N.mean() + ridge * (parameter[1:] ** 2).sum()), gradient + penalty

    begin = min(max(fit_constant(evidence).weight, 1e-3), 0.99)
    start = np.array([np.log(begin / (1 - begin)), *np.zeros(scaled_NF.shape[1])])
    found = minimize(loss, start, jac=True, method="L-BFGS-B").x
    slopes = found[1:] / spread_F
    return LogisticGate(bias=float(found[0] - slopes @ mean_F), slopes=tuple(map(float, slopes)))


def edges_of(values: Sequence[float], most: int) -> tuple[float, ...]:
    """At most so many edges that part values into cells of about equal size."""
    rising = sorted(values)
    edges: list[float] = []
    for n in range(1, most + 1):
        value = rising[min(len(rising) - 1, n * len(rising) // (most + 1))]
        if value > rising[0] and (not edges or value > edges[-1]):
            bisect.insort(edges, float(value))
    return tuple(edges)


def _best(evidence: Evidence, cell_N: NDArray[np.int64], num_cells: int, prior: float | None = None) -> Array:
    """The likeliest weight of each cell, by expectation-maximisation; a prior counts as ten tokens that say so."""
    strength = 10.0 if prior is not None else 0.0
    weight_C = np.full(num_cells, 0.5 if prior is None else prior)
    count_C = np.bincount(cell_N, minlength=num_cells)
    for _ in range(PASSES):
        weight_N = weight_C[cell_N]
        with np.errstate(divide="ignore"):
            share_N = np.exp(np.log(weight_N) + evidence.memory_N - evidence.mixed(weight_N))
        total_C = np.bincount(cell_N, share_N, minlength=num_cells)
        updated_C = (total_C + strength * (prior or 0.0)) / np.maximum(count_C + strength, 1e-9)
        if np.abs(updated_C - weight_C).max() < 1e-7:
            return updated_C
        weight_C = updated_C
    return weight_C


def _check(evidence: Evidence) -> None:
    if len(evidence.memory_N) < FEWEST_TOKENS:
        raise InputError(
            f"at least {FEWEST_TOKENS} held-out tokens are needed to fit weights, got {len(evidence.memory_N)}; "
            "give more text"
        )
