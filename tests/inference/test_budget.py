"""Budgets: divergences against a count over the vocabulary."""

from collections.abc import Callable

import pytest
import torch

from factorlm.errors import InputError
from factorlm.factors.calibration import neutral_states
from factorlm.factors.head import Head
from factorlm.factors.lexicon import Lexicon
from factorlm.inference.budget import divergence_of, within_budget
from factorlm.inference.model import Model
from factorlm.models import CausalLM

MakeHead = Callable[..., Head]


@pytest.fixture
def steered(tiny_lm: CausalLM, make_head: MakeHead) -> Model:
    return Model(tiny_lm, tiny_lm) * make_head(rank=0, seed=1) ** 0.7 * make_head(rank=2, seed=2) ** -0.4


def _counted(model: Model) -> float:
    """KL by definition, from the composition's own next-token distributions."""
    states = neutral_states(model.lm)
    log_weight_NV = model.factor.start(states.prefix_NT).log_weight_BV
    log_prob_NV = log_weight_NV.log_softmax(-1)
    ratio_NV = torch.where(log_prob_NV == -torch.inf, 0.0, log_prob_NV - states.log_prob_NV)
    return float((log_prob_NV.exp() * ratio_NV).sum(-1).mean())


def test_the_divergence_is_that_of_the_composition(steered: Model) -> None:
    assert divergence_of(steered) == pytest.approx(_counted(steered), rel=1e-3)


def test_a_budget_scales_all_exponents_alike(steered: Model) -> None:
    asked = divergence_of(steered)
    found = within_budget(steered, asked / 3)
    assert found.asked == pytest.approx(asked)
    assert found.divergence <= asked / 3
    assert _counted(found.model) == pytest.approx(asked / 3, rel=0.01)
    exponents = [float(term.exponent) for term in found.model.terms[1:]]
    assert exponents == pytest.approx([0.7 * found.scale, -0.4 * found.scale])


def test_a_budget_that_is_kept_changes_nothing(steered: Model) -> None:
    found = within_budget(steered, 100.0)
    assert found.model is steered
    assert found.scale == 1.0


def test_bans_count_and_cannot_be_scaled(tiny_lm: CausalLM) -> None:
    ban = Lexicon.from_tokenizer("ban", {"the": float("-inf")}, tiny_lm.vocabulary, tiny_lm.encode_text)
    banned = Model(tiny_lm, tiny_lm) * ban
    least = divergence_of(banned)
    assert least == pytest.approx(_counted(banned), rel=1e-3)
    assert within_budget(banned, 2 * least).scale == 1.0
    with pytest.raises(InputError, match="bans alone"):
        within_budget(banned, least / 2)


@pytest.mark.parametrize("budget", [0.0, -1.0, float("nan"), float("inf")])
def test_a_budget_is_a_positive_number(steered: Model, budget: float) -> None:
    with pytest.raises(InputError, match="positive number of nats"):
        within_budget(steered, budget)
