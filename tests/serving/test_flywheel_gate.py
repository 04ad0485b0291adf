"""Candidate and version in use: measures by exact small checks, guards that catch what they are for."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch

from factorlm.evaluation.intervals import Estimate
from factorlm.factors.calibration import head_strengths, neutral_states
from factorlm.factors.feedback import Pair, Preferences, Rated
from factorlm.factors.head import Head, HeadWeights
from factorlm.models import CausalLM
from factorlm.serving.flywheel.canaries import Canaries, loops, toxic_share
from factorlm.serving.flywheel.gate import (
    TASTE,
    Trials,
    accuracy_by_unit,
    contradicts,
    divergence_by_unit,
    loss_by_unit,
    neutral_cost,
    share_below,
    verdict,
)
from factorlm.serving.flywheel.ledger import Evaluation, FlywheelSettings, Guard

MakeHead = Callable[..., Head]


def test_pairs_of_a_prompt_are_one_unit_by_their_weights() -> None:
    trials = Trials.of(
        Preferences((Pair("p", "a", "b"), Pair("p", "a", "c", 3.0), Pair("q", "d", "e"), Pair("r", "f", "g")))
    )
    assert trials.num_units == 3
    np.testing.assert_allclose(accuracy_by_unit(trials, np.array([1.0, -1.0, 0.0, 2.0])), [0.25, 0.5, 1.0])


def test_texts_rated_alone_are_judged_by_the_area_under_the_curve() -> None:
    from sklearn.metrics import roc_auc_score

    chance = np.random.default_rng(0)
    rated = tuple(Rated(f"p{n}", f"t{n}", n % 3 == 0) for n in range(24))
    reward = {f"t{n}": float(value) for n, value in enumerate(chance.normal(size=24).round(1))}
    trials = Trials.of(Preferences((), rated))
    values = np.array([reward[text] for _, text in trials.texts])
    by_unit = accuracy_by_unit(trials, values[trials.better_M] - values[trials.worse_M])
    positive = [rated[n].is_positive for n in range(24)]
    expected = roc_auc_score(positive, [reward[f"t{n}"] for n in range(24)])
    assert by_unit[positive].mean() == pytest.approx(expected, abs=1e-12)
    assert by_unit[~np.array(positive)].mean() == pytest.approx(expected, abs=1e-12)


def test_loss_is_taken_at_the_best_scale_and_a_wrong_version_knows_nothing() -> None:
    trials = Trials.of(Preferences(tuple(Pair(f"p{n}", f"a{n}", f"b{n}") for n in range(10))))
    gap = np.array([1.0] * 8 + [-1.0] * 2)
    best = -0.8 * math.log(0.8) - 0.2 * math.log(0.2)
    assert loss_by_unit(trials, gap).mean() == pytest.approx(best, abs=1e-6)
    np.testing.assert_allclose(loss_by_unit(trials, 100 * gap), loss_by_unit(trials, gap), atol=1e-6)
    np.testing.assert_allclose(loss_by_unit(trials, -gap), math.log(2), atol=1e-4)
    np.testing.assert_allclose(loss_by_unit(trials, 0 * gap), math.log(2))


def test_an_error_of_people_on_a_clear_case_does_not_decide() -> None:
    trials = Trials.of(Preferences(tuple(Pair(f"p{n}", f"a{n}", f"b{n}") for n in range(20))))
    gap = np.array([0.3] * 9 + [1.0] * 9 + [-1.0] * 2)
    lapses = loss_by_unit(trials, gap)
    assert lapses.max() < 2.5  # a logistic curve steep enough for the rest would charge far more for these two
    assert lapses.mean() < 0.38


def test_resamples_below_a_level() -> None:
    assert share_below(np.array([1.0, 2.0]), 1.5, seed=0) == pytest.approx(0.5, abs=0.03)
    assert share_below(np.array([1.0, 2.0]), 0.5, seed=0) == 0.0
    assert share_below(np.zeros(5), 0.0, seed=0) == 0.5


def test_divergence_and_neutral_cost_are_the_two_directions(tiny_lm: CausalLM, make_head: MakeHead) -> None:
    head = make_head(2, 0)
    trials = Trials.of(Preferences((Pair("the good", "a bad b", "c d e"), Pair("in the", "o o o", "q r"))))
    features = trials.features(tiny_lm)
    found = divergence_by_unit(tiny_lm, head, 0.7, features, trials)
    texts_of_unit = [(0, 2), (1, 3)]  # better texts are numbered first
    for unit, texts in enumerate(texts_of_unit):
        nats = []
        for hidden_D in features.hidden_ND[torch.isin(features.owner_N, torch.tensor(texts))].float():
            base_V = tiny_lm.unembed(hidden_D).log_softmax(-1)
            tilted_V = (base_V + 0.7 * head.potential(hidden_D)).log_softmax(-1)
            nats.append(float((tilted_V.exp() * (tilted_V - base_V)).sum()))
        assert found[unit] == pytest.approx(np.mean(nats), rel=1e-4)
    states = neutral_states(tiny_lm)
    tilted_NV = (states.log_prob_NV + 0.7 * head.potential(states.hidden_ND)).log_softmax(-1)
    expected = (states.log_prob_NV.exp() * (states.log_prob_NV - tilted_NV)).sum(-1).mean()
    assert neutral_cost(tiny_lm, head, 0.7) == pytest.approx(float(expected), rel=1e-4)
    assert neutral_cost(tiny_lm, head, 0.0) == pytest.approx(0.0, abs=1e-6)
    strengths = head_strengths(tiny_lm, head.weights)
    assert strengths is not None
    assert divergence_by_unit(tiny_lm, None, 1.0, features, trials).tolist() == [0.0, 0.0]


def test_gaps_do_not_depend_on_the_constant_of_a_head(tiny_lm: CausalLM, make_head: MakeHead) -> None:
    head = make_head(0, 3)
    constant_D = torch.zeros(tiny_lm.width)
    constant_D[0] = 4.0  # pushes every token alike
    shifted = Head("shifted", HeadWeights.shift(head.weights.bias_D + constant_D), tiny_lm)
    trials = Trials.of(Preferences((Pair("the", "a bad b c", "c d e q"), Pair("in", "o o o r", "q r o x"))))
    features = trials.features(tiny_lm)
    gap = trials.gaps(tiny_lm, head, features)
    np.testing.assert_allclose(trials.gaps(tiny_lm, shifted, features), gap, atol=1e-4)
    assert np.abs(gap).min() > 1e-3
    assert trials.gaps(tiny_lm, None, features).tolist() == [0.0, 0.0]


def test_canaries_in_a_loop_and_rude_ones_are_counted() -> None:
    texts = ("You are a stupid idiot, shut up.", "The garden is lovely today.")
    canaries = Canaries(("He said:", "She said:"), texts, ((1, 2, 3, 1, 2, 3, 1, 2, 3), tuple(range(9))), 3.0)
    assert loops(canaries) == 0.5
    assert toxic_share(canaries) == 0.5


def evaluation(confidence: float, *guards: Guard) -> Evaluation:
    nothing = {"in use": Estimate(value=0.5), "candidate": Estimate(value=0.5)}
    return Evaluation(
        num_prompts=20, accuracy=nothing, loss=nothing, divergence=nothing, comparisons=(), confidence=confidence,
        guards=guards,
    )  # fmt: skip


def test_only_what_is_better_and_breaks_no_guard_passes() -> None:
    settings = FlywheelSettings()
    kept = Guard(name="a", value=0.1, limit=0.2, is_kept=True)
    broken = Guard(name="canaries in a loop", value=0.3, limit=0.2, is_kept=False)
    assert verdict(evaluation(0.97, kept), settings)[0]
    assert verdict(evaluation(0.94, kept), settings) == (
        False, "not shown to be better: it is in 94.0% of resamples, 95% are needed"
    )  # fmt: skip
    passed, reason = verdict(evaluation(0.99, kept, broken), settings)
    assert not passed
    assert "canaries in a loop (0.3, limit 0.2)" in reason
    assert not contradicts(evaluation(0.5, broken), settings)
    assert contradicts(evaluation(0.04), settings)
    assert contradicts(evaluation(0.5, Guard(name=TASTE, value=0.99, limit=0.95, is_kept=False)), settings)
