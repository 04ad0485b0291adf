"""Learning how far neighbours are to be trusted."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from factorlm.algebra import Backoff, pad_right
from factorlm.memory.datastore import Looking
from factorlm.memory.gates import ConstantGate
from factorlm.memory.neighbour_fitting import fit_neighbours, keep_fit
from factorlm.memory.neighbours import NeighbourMemory, open_neighbours
from factorlm.memory.remembering import evidence_of
from factorlm.models import CausalLM

from .test_neighbours import build, held_out, texts


@pytest.fixture(scope="module")
def folder(tiny_lm: CausalLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("neighbours") / "store"
    build(tiny_lm, texts(40), target)
    return target


@pytest.fixture
def memory(tiny_lm: CausalLM, folder: Path) -> NeighbourMemory:
    return open_neighbours(folder, tiny_lm, looking=Looking(k=8, temperature=0.05))


@pytest.mark.parametrize("gate", ["constant", "table", "logistic"])
def test_fitting_gains_on_text_that_it_has_not_seen(
    memory: NeighbourMemory, tiny_lm: CausalLM, folder: Path, tmp_path: Path, gate: str
) -> None:
    prefix_BT, text_BT = held_out(tiny_lm)
    fit = fit_neighbours(memory, tiny_lm, prefix_BT, text_BT, gate=gate)  # type: ignore[arg-type]
    rows = [tiny_lm.encode_text(text) for text in texts(20, seed=6)]
    unseen_BT = pad_right(rows)
    alone = float(tiny_lm.score(prefix_BT, unseen_BT).sum())
    mixed = float(Backoff((fit.memory, tiny_lm)).score(prefix_BT, unseen_BT).sum())
    untuned = replace(memory, temperature=10.0).gated(ConstantGate(weight=0.1))
    assert mixed > alone + 50
    assert mixed > float(Backoff((untuned, tiny_lm)).score(prefix_BT, unseen_BT).sum())
    assert fit.fitted.mixed_nats < fit.fitted.model_nats
    assert fit.mixed_nats[fit.looking.temperature] == min(fit.mixed_nats.values())
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    keep_fit(copy, fit)
    again = open_neighbours(copy, tiny_lm)
    assert (again.k, again.temperature, again.gate) == (fit.memory.k, fit.memory.temperature, fit.memory.gate)
    assert torch.equal(again.start(prefix_BT).log_weight_BV, fit.memory.start(prefix_BT).log_weight_BV)


def test_the_quick_likelihood_of_a_temperature_is_that_of_the_memory(
    memory: NeighbourMemory, tiny_lm: CausalLM
) -> None:
    prefix_BT, text_BT = held_out(tiny_lm)
    fit = fit_neighbours(memory, tiny_lm, prefix_BT, text_BT, gate="constant", temperatures=[0.2])
    assert fit.mixed_nats[0.2] == pytest.approx(fit.fitted.mixed_nats, abs=1e-5)
    evidence = evidence_of(fit.memory.ungated, tiny_lm, prefix_BT, text_BT)
    assert float(-evidence.under(fit.fitted.gate).mean()) == pytest.approx(fit.fitted.mixed_nats, abs=1e-6)
