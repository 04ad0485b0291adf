"""Drawing from the most probable tokens equals sorting the whole vocabulary."""

import pytest
import torch

from factorlm.factors import nucleus
from factorlm.factors.nucleus import draw_nucleus, most_probable, quantile


@pytest.mark.parametrize("mass", [0.3, 0.9, 0.999, 1.0])
def test_sets_equal_those_of_a_whole_sort(mass: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nucleus, "MOST_SORTED", 8)
    generator = torch.Generator().manual_seed(0)
    prob_BV = (torch.randn(20, 50, generator=generator) * torch.linspace(0.1, 6, 20)[:, None]).softmax(-1)
    groups = most_probable(prob_BV, mass)
    assert sorted(int(row) for row_R, _, _ in groups for row in row_R) == list(range(20))
    for row_R, prob_RK, token_RK in groups:
        for row, prob_K, token_K in zip(row_R.tolist(), prob_RK, token_RK, strict=True):
            order_V = prob_BV[row].argsort(descending=True)
            sorted_V = prob_BV[row][order_V]
            kept = int((sorted_V.cumsum(0) - sorted_V < mass).sum())
            assert set(token_K[prob_K > 0].tolist()) == set(order_V[:kept].tolist())


def test_draws_follow_the_truncated_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nucleus, "MOST_SORTED", 2)
    prob_V = torch.tensor([0.05, 0.4, 0.1, 0.3, 0.15])
    draws = draw_nucleus(prob_V.expand(40_000, -1), 0.8, torch.Generator().manual_seed(1))
    share_V = torch.bincount(draws, minlength=5) / len(draws)
    want_V = torch.tensor([0.0, 0.4, 0.0, 0.3, 0.15]) / 0.85
    assert share_V == pytest.approx(want_V, abs=0.01)  # four standard errors
    assert share_V[0] == share_V[2] == 0


def test_quantiles_never_take_what_weighs_nothing() -> None:
    weight_RK = torch.tensor([[0.0, 0.5, 0.0, 0.5, 0.0]]).expand(5, -1)
    assert quantile(weight_RK, torch.tensor([0.0, 0.4, 0.5, 0.7, 1 - 1e-12], dtype=torch.float64)).tolist() == [
        1,
        1,
        3,
        3,
        3,
    ]
