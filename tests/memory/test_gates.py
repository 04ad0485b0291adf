"""Weights of memories: what is learned is the best there is."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from factorlm.errors import InputError
from factorlm.memory.gates import (
    ConstantGate,
    Evidence,
    LogisticGate,
    TableGate,
    edges_of,
    fit_constant,
    fit_logistic,
    fit_table,
)


def evidence(num: int = 4000, seed: int = 0) -> Evidence:
    """A memory that is right as often as its first feature says, and a model that gives every token a tenth."""
    rng = np.random.default_rng(seed)
    feature_NF = np.stack([rng.random(num), rng.random(num)], 1)
    memory_N = np.where(rng.random(num) < feature_NF[:, 0], np.log(0.9), -np.inf)
    return Evidence(feature_NF, memory_N, np.full(num, np.log(0.1)))


def test_a_constant_weight_is_the_likeliest() -> None:
    found = evidence()
    best = fit_constant(found).weight
    grid = [(found.mixed(np.full(4000, w)).mean(), w) for w in np.linspace(0.01, 0.99, 99)]
    assert best == pytest.approx(max(grid)[1], abs=0.011)
    assert found.under(ConstantGate(weight=0.0)).tolist() == found.model_N.tolist()


def test_cells_have_their_own_weights_and_few_tokens_little_say() -> None:
    found = evidence()
    table = fit_table(found, [[0.25, 0.5, 0.75], []])
    assert list(table.cells) == sorted(table.cells)
    assert found.under(table).mean() > found.under(fit_constant(found)).mean() + 0.05
    for cell, weight in enumerate(table.cells):
        inside = table.cell(torch.from_numpy(found.feature_NF)).numpy() == cell
        part = Evidence(found.feature_NF[inside], found.memory_N[inside], found.model_N[inside])
        assert weight == pytest.approx(fit_constant(part).weight, abs=0.03)  # ten tokens of the prior among a thousand
    overall = fit_constant(found).weight
    lonely = fit_table(found, [[2.0], []])  # nothing lies in the second cell
    assert lonely.cells[1] == pytest.approx(overall, abs=1e-3)


def test_a_logistic_gate_follows_its_features() -> None:
    found = evidence()
    gate = fit_logistic(found)
    assert found.under(gate).mean() > found.under(fit_constant(found)).mean() + 0.05
    assert gate.slopes[0] > 3 > 1 > abs(gate.slopes[1])
    step = 1e-4
    for change in ([step, 0, 0], [0, step, 0], [0, 0, step]):  # no direction is better
        moved = LogisticGate(
            bias=gate.bias + change[0], slopes=(gate.slopes[0] + change[1], gate.slopes[1] + change[2])
        )
        assert found.under(moved).mean() - found.under(gate).mean() < 1e-7
    later = evidence(seed=1)
    assert later.under(gate).mean() > later.under(fit_constant(later)).mean() + 0.05


def test_edges_part_values_evenly() -> None:
    assert edges_of([0, 0, 0, 1], 3) == (1.0,)
    assert edges_of(list(range(100)), 3) == (25.0, 50.0, 75.0)
    assert edges_of([5, 5, 5], 4) == ()


def test_what_cannot_be_used_is_refused() -> None:
    with pytest.raises(InputError, match="at least 100"):
        fit_constant(evidence(50))
    with pytest.raises(InputError, match="for each token"):
        Evidence(np.zeros((2, 1)), np.zeros(2), np.zeros(3))
    for bad in ({"edges": ((1.0,),), "cells": (0.5,)}, {"edges": ((2.0, 1.0),), "cells": (0.1, 0.1, 0.1)}):
        with pytest.raises(ValidationError):
            TableGate(**bad)  # type: ignore[arg-type]
