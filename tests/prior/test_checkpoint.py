"""A run that is stopped after any round goes on as if nothing had happened, bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from factorlm.errors import InputError
from factorlm.models import CausalLM
from factorlm.models.progress import Report
from factorlm.prior.checkpoint import Checkpoint
from factorlm.prior.learning import Learning, Progress, Rows
from factorlm.prior.rounds import learn
from factorlm.prior.soft import SoftComponents, SoftSettings


class Shaky(SoftComponents):
    """Half of its steps end somewhere else, as far as the rate, so that some make it worse."""

    def improve(self, rows: Rows, weight_NK: Tensor, *, rate: float, report: Report) -> None:
        super().improve(rows, weight_NK, rate=rate, report=report)
        noise_KMD = torch.randn(self._soft_KMD.shape, generator=self._generator)
        if float(torch.rand(1, generator=self._generator)) < 0.5:
            with torch.no_grad():
                self._soft_KMD.add_(rate * noise_KMD)


class Stopped(Exception):
    """As if the power had failed."""


def texts() -> list[list[int]]:
    generator = torch.Generator().manual_seed(0)
    lengths = torch.randint(3, 9, (24,), generator=generator).tolist()
    return [torch.randint(3, 50, (length,), generator=generator).tolist() for length in lengths]


def run(
    lm: CausalLM, settings: Learning, checkpoint: Checkpoint, stop_after: int | None
) -> tuple[Progress, SoftComponents]:
    rows = texts()
    learner = Shaky(lm, SoftSettings(places=2, batch_tokens=128), 3, rows, seed=0 if stop_after is not None else 5)
    found = checkpoint.load(learner)

    def save(now: Progress) -> None:
        checkpoint.save(now, learner, 1.5)
        if len(now.rounds) == stop_after:
            raise Stopped

    progress = None if found is None else found[0]
    first_NK = torch.eye(3).repeat(8, 1) if progress is None else None
    return learn(learner, rows, settings, first_NK=first_NK, progress=progress, save=save), learner


@pytest.mark.parametrize(
    "settings",
    [
        Learning(rounds=6, patience=9, dead_below=0.0),
        Learning(rounds=4, patience=9, dead_below=0.9, assignment="all", warm=1),
        Learning(method="variational", rounds=3, patience=9, batch_texts=9),
        Learning(method="hard", rounds=3, patience=9, batch_texts=9, alpha=1.0),
    ],
    ids=["em", "em with new beginnings", "variational", "hard"],
)
def test_a_stopped_run_goes_on(tiny_lm: CausalLM, tmp_path: Path, settings: Learning) -> None:
    whole = Checkpoint(tmp_path / "whole", "key")
    want, learner = run(tiny_lm, settings, whole, stop_after=99)
    for stop_after in range(1, len(want.rounds) + 1):
        checkpoint = Checkpoint(tmp_path / f"{stop_after}", "key")
        with pytest.raises(Stopped):
            run(tiny_lm, settings, checkpoint, stop_after)
        got, other = run(tiny_lm, settings, checkpoint, stop_after=None)
        assert torch.equal(got.log_prob_K, want.log_prob_K)
        assert got.rounds == want.rounds
        assert (got.rate, got.best_dev) == (want.rate, want.best_dev)
        state = other.state()
        assert all(torch.equal(tensor, state[name]) for name, tensor in learner.state().items())
    if settings.method == "em":  # the hard cases were met
        assert any(r.reseeded if settings.dead_below else r.is_undone for r in want.rounds)


def test_seconds_are_kept_and_files_go(tiny_lm: CausalLM, tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "new" / "run", "key")
    progress, learner = run(tiny_lm, Learning(rounds=1), checkpoint, stop_after=99)
    found = checkpoint.load(learner)
    assert found is not None
    assert found[1] == 1.5
    assert found[0].rounds == progress.rounds
    checkpoint.remove()
    checkpoint.remove()
    assert checkpoint.load(learner) is None


def test_other_runs_and_damaged_files_are_not_gone_on_from(tiny_lm: CausalLM, tmp_path: Path) -> None:
    path = tmp_path / "run"
    _, learner = run(tiny_lm, Learning(rounds=1), Checkpoint(path, "key"), stop_after=99)
    before = learner.state()
    assert Checkpoint(path, "another").load(learner) is None
    path.write_bytes(path.read_bytes()[:-100])
    assert Checkpoint(path, "key").load(learner) is None
    path.write_text("no run")
    assert Checkpoint(path, "key").load(learner) is None
    assert all(torch.equal(tensor, before[name]) for name, tensor in learner.state().items())


def test_a_place_that_cannot_be_written_is_named(tiny_lm: CausalLM, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"run cannot be written: .*; name another place"):
        run(tiny_lm, Learning(rounds=1), Checkpoint(tmp_path / "file" / "run", "key"), stop_after=99)
