"""When learning stops, what it keeps, and what it begins with: with components that do what a script says."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from factorlm.errors import InputError
from factorlm.models.progress import Report
from factorlm.prior.learning import Learning, Rows, split
from factorlm.prior.rounds import learn

ROWS = [[0] * (8 + 2 * n) for n in range(20)]
TEMPER_N1 = torch.tensor([min(1, 16 / len(row)) for row in ROWS], dtype=torch.float64)[:, None]


class Scripted:
    """Equal components: each step is better for the texts, and does to those held out what the script says."""

    is_monotone = True

    def __init__(self, num_components: int, nats: list[float], dev: Sequence[int] = ()) -> None:
        self.num_components, self.nats, self.step = num_components, nats, torch.tensor(0)
        self.dev = [ROWS[n] for n in dev]
        self.calls: list[tuple[str, Any]] = []

    def log_prob(self, rows: Rows, report: Report) -> Tensor:
        nats = [self.nats[int(self.step)] if row in self.dev else 9 - 0.1 * int(self.step) for row in rows]
        log_prob = [[-n * len(row)] * self.num_components for n, row in zip(nats, rows, strict=True)]
        return torch.tensor(log_prob, dtype=torch.float64)

    def improve(self, rows: Rows, weight_NK: Tensor, *, rate: float, report: Report) -> None:
        self.calls.append(("improve", weight_NK))
        self.step = self.step + 1

    def spread(self) -> None:
        self.calls.append(("spread", None))

    def reseed(self, index: int, rows: Rows) -> None:
        self.calls.append(("reseed", index))

    def state(self) -> dict[str, Tensor]:
        return {"step": self.step.clone()}

    def restore(self, state: dict[str, Tensor]) -> None:
        self.step = state["step"].clone()


CURVE = [5.0, 4.0, 3.0, 3.5, 3.1, 2.5, 2.6, 2.6, 2.6, 2.6]


@pytest.mark.parametrize(
    ("patience", "rounds", "num_rounds", "best"), [(2, 9, 5, 2), (3, 9, 9, 5), (3, 3, 4, 2), (1, 9, 4, 2), (9, 1, 2, 1)]
)
def test_the_best_held_out_state_is_kept(patience: int, rounds: int, num_rounds: int, best: int) -> None:
    settings = Learning(patience=patience, rounds=rounds)
    learner = Scripted(1, CURVE, split(len(ROWS), settings)[1])
    progress = learn(learner, ROWS, settings)
    assert [r.dev_nats for r in progress.rounds] == pytest.approx(CURVE[:num_rounds])
    assert [r.train_nats for r in progress.rounds] == pytest.approx([9 - 0.1 * n for n in range(num_rounds)])
    assert int(learner.step) == best
    assert progress.best_dev == pytest.approx(CURVE[best])


def test_what_climbs_something_else_goes_on_to_the_end() -> None:
    settings = Learning(patience=1, rounds=4)
    learner = Scripted(1, CURVE, split(len(ROWS), settings)[1])
    learner.is_monotone = False
    progress = learn(learner, ROWS, settings)
    assert len(progress.rounds) == 5
    assert int(learner.step) == 2
    assert progress.best_dev == pytest.approx(CURVE[2])


@pytest.mark.parametrize(("method", "num_rounds"), [("em", 4), ("hard", 3), ("variational", 3)])
def test_there_are_as_many_rounds_as_were_asked_for(method: str, num_rounds: int) -> None:
    """EM measures once more, after its last step; responsibilities that are given come before the first round."""
    settings = Learning.model_validate({"method": method, "rounds": 3, "patience": 9, "dead_below": 0.0})
    assert len(learn(Scripted(2, CURVE), ROWS, settings).rounds) == num_rounds
    begun = learn(Scripted(2, CURVE), ROWS, settings, first_NK=torch.eye(2).repeat(10, 1))
    assert [r.bound is None for r in begun.rounds] == [True, False, False, False]


def test_given_responsibilities_are_the_first_ones() -> None:
    settings = Learning(assignment="all", rounds=1, dev_share=0.0, alpha=1.5)
    first_NK = torch.tensor([[1.0, 0.0], [0.25, 0.75]]).repeat(10, 1)
    learner = Scripted(2, CURVE)
    weights = []
    learn(learner, ROWS, settings, first_NK=first_NK, save=lambda now: weights.append(now.log_prob_K.exp()))
    assert torch.equal(learner.calls[0][1], first_NK * TEMPER_N1)
    torch.testing.assert_close(weights[0], torch.tensor([12.5 + 0.5, 7.5 + 0.5], dtype=torch.float64) / 21)


def test_warming_up_teaches_one_component_and_spreads_it() -> None:
    learner = Scripted(3, CURVE)
    learn(learner, ROWS, Learning(warm=2, rounds=1, dev_share=0.0, assignment="all"))
    assert [name for name, _ in learner.calls] == ["improve", "improve", "spread", "improve"]
    for _, weight_NK in learner.calls[:2]:
        assert torch.equal(weight_NK[:, :1], TEMPER_N1)
        assert not weight_NK[:, 1:].any()


def test_tempering_goes_down_by_equal_factors() -> None:
    learner = Scripted(2, CURVE)
    settings = Learning(rounds=5, patience=9, dev_share=0.0, temper_tokens=16.0, anneal_from=1.0, assignment="all")
    learn(learner, ROWS, settings)
    found = [
        float((weight_NK.sum(1) * torch.tensor([len(row) for row in ROWS])).max()) for _, weight_NK in learner.calls
    ]
    assert found == pytest.approx([1, 2, 4, 8, 16])


def test_progress_is_saved_after_every_round() -> None:
    seen: list[int] = []
    settings = Learning(rounds=3, patience=9)
    progress = learn(Scripted(2, CURVE), ROWS, settings, save=lambda now: seen.append(len(now.rounds)))
    assert seen == [1, 2, 3, 4]
    assert len(progress.rounds) == 4


def test_texts_are_split_once_and_for_all() -> None:
    settings = Learning(dev_share=0.25, seed=4)
    train, dev = split(41, settings)
    assert (len(train), len(dev)) == (31, 10)
    assert sorted(train + dev) == list(range(41))
    assert split(41, settings) == (train, dev)
    assert split(41, Learning(dev_share=0.25, seed=5)) != (train, dev)
    assert split(7, Learning(dev_share=0.0)) == (list(range(7)), [])


def test_too_few_texts_are_refused() -> None:
    with pytest.raises(InputError, match="at least 3 texts to learn from are needed, got 2; give more"):
        learn(Scripted(3, CURVE), ROWS[:2], Learning())
