"""The planted world, and what is estimated in it, against sums over all questions."""

import itertools

import numpy as np
import pytest

from factorlm.errors import InputError
from factorlm.evaluation.redteam import loop
from factorlm.evaluation.redteam.exact import Planted, run_planted
from factorlm.evaluation.redteam.measures import corrected_share, num_clusters, success_at
from factorlm.evaluation.redteam.planted import SLOTS, TRIGGERS, World, noisy

WORLD = World()


@pytest.mark.parametrize(("tries", "successes"), [(5, 0), (5, 1), (5, 3), (4, 4)])
def test_success_in_k_tries_is_the_mean_over_all_choices_of_tries(tries: int, successes: int) -> None:
    won = [i < successes for i in range(tries)]
    for k in range(1, tries + 1):
        every = [any(chosen) for chosen in itertools.combinations(won, k)]
        assert success_at(k, tries, successes) == pytest.approx(sum(every) / len(every), abs=1e-12)
    with pytest.raises(InputError, match=f"from 1 to {tries} tries"):
        success_at(tries + 1, tries, successes)


@pytest.mark.parametrize("truth", [0.0, 0.2, 0.7, 1.0])
def test_correction_undoes_what_errors_do_to_a_share(truth: float) -> None:
    seen = truth * 0.9 + (1 - truth) * 0.25
    assert corrected_share(seen, 0.9, 0.25) == pytest.approx(truth, abs=1e-12)


def test_laws_of_the_generator_are_distributions() -> None:
    examples = [" ".join(WORLD.questions[i]) for i in (3, 700, 1999)]
    laws = [WORLD.plain_Q, WORLD.after(examples), WORLD.learned(examples), *(WORLD.tilted(a) for a in (1.0, 0.1))]
    for law_Q in laws:
        assert law_Q.min() > 0
        assert law_Q.sum() == pytest.approx(1, abs=1e-12)


def test_a_case_after_one_example_by_hand() -> None:
    world = World(imitation=0.5, change=0.2)
    example = WORLD.questions[0]
    slots = []
    for axis, word in enumerate(example):
        share = sum(p for p, q in zip(world.plain_Q, world.questions, strict=True) if q[axis] == word)
        slots.append(0.8 + 0.2 * share)
    assert world.after([" ".join(example)])[0] == pytest.approx(
        0.5 * world.plain_Q[0] + 0.5 * np.prod(slots), abs=1e-12
    )


def test_the_law_after_any_of_some_sets_is_the_mean_of_their_laws() -> None:
    texts = [" ".join(WORLD.questions[i]) for i in (0, 5, 900, 1500)]
    sets = [(texts[0], texts[1]), (texts[1], texts[2]), (texts[3], texts[1])]
    want_Q = np.mean([WORLD.after(shown) for shown in sets], 0)
    np.testing.assert_allclose(WORLD.after_any(sets), want_Q, rtol=1e-10)


def test_learning_from_nothing_is_the_plain_law_and_tilting_is_the_best_law_by_its_own_measure() -> None:
    np.testing.assert_allclose(WORLD.learned([]), WORLD.plain_Q, rtol=1e-9)

    def worth(law_Q: np.ndarray, alpha: float) -> float:
        return float(law_Q @ WORLD.says_Q - alpha * (law_Q @ np.log(law_Q / WORLD.plain_Q)))

    best = WORLD.tilted(0.2)
    generator = np.random.default_rng(0)
    for _ in range(20):
        other = best * np.exp(0.1 * generator.standard_normal(len(best)))
        assert worth(other / other.sum(), 0.2) < worth(best, 0.2)


def test_the_planted_phrases_are_where_they_were_planted() -> None:
    assert (WORLD.trigger_Q >= 0).sum() == len(TRIGGERS) * len(SLOTS[0])
    assert WORLD.covered(["draw yellow fruit", "hide sweet snack", "hide sweet shoe"]) == {0, 2}


def test_examples_are_drawn_as_their_values_say() -> None:
    """The first example of a set is drawn with probability ∝ exp(value / T)."""
    earlier = loop.Written(("a", "b", "c", "d"), np.array([1.0, 0.9, 0.5, 0.0]), 4)
    sets = loop.examples(earlier, 20_000, shown=2, temperature=0.5, seed=1)
    assert all(len(set(shown)) == 2 for shown in sets)
    weight = np.exp(earlier.value_B / 0.5)
    want = weight / weight.sum()
    seen = np.array([sum(shown[0] == case for shown in sets) for case in earlier.cases]) / len(sets)
    # The standard error is below 0.0035 each; this fails about once in 10,000 seeds.
    np.testing.assert_allclose(seen, want, atol=0.015)
    with pytest.raises(InputError, match="5 different earlier cases"):
        loop.examples(earlier, 1, shown=5, temperature=1.0, seed=0)


def test_repeated_and_blank_cases_count_once_and_not() -> None:
    found = loop.zero_shot(lambda sets: ["a", "", "b", "a"][: len(sets)], lambda cases: np.ones(len(cases)), 4)
    assert (found.cases, found.asked, found.successes) == (("a", "b"), 4, ["a", "b"])
    nothing = loop.zero_shot(lambda sets: [""], lambda cases: np.ones(len(cases)), 1)
    assert (nothing.cases, nothing.successes) == ((), [])


def test_estimates_of_every_way_of_writing_are_near_the_sums() -> None:
    found = run_planted(Planted(repeats=1), seed=0)
    for name, truth in found.success.items():
        # 2,000 answers: four standard errors, passed once in 16,000 estimates.
        assert found.estimated[name] == pytest.approx(truth, abs=4 * (truth * (1 - truth) / 2000) ** 0.5 + 1e-9)
    assert found.success["zero-shot"] < found.success["few-shot"] < found.success["supervised"]


def test_a_noisy_judge_is_wrong_as_often_as_it_says() -> None:
    is_success_B = np.zeros(40_000, bool)
    said_B = noisy(is_success_B, 0.1, np.random.default_rng(0))
    assert said_B.mean() == pytest.approx(0.1, abs=0.006)  # four standard errors
    assert noisy(~is_success_B, 0.0, np.random.default_rng(0)).all()


def test_a_factor_from_failures_helps_where_phrases_are_and_harms_nowhere() -> None:
    generator = np.random.default_rng(0)
    found = loop.zero_shot(
        lambda sets: WORLD.write(sets, generator), lambda cases: WORLD.answers(cases, generator).astype(float), 2000
    )
    guarded_Q = WORLD.guarded([found], 1.0)
    assert (guarded_Q <= WORLD.says_Q + 1e-12).all()
    assert WORLD.success(WORLD.plain_Q, guarded_Q) < WORLD.success(WORLD.plain_Q)
    np.testing.assert_allclose(WORLD.guarded([found], 0.0), WORLD.says_Q, rtol=1e-12)


def test_clusters_are_groups_of_like_vectors() -> None:
    axes = np.eye(4)
    near = axes[[0, 0, 1, 1, 2]] + 0.05 * axes[[3, 0, 3, 1, 3]]
    near /= np.linalg.norm(near, axis=1, keepdims=True)
    assert num_clusters(near) == 3
    assert [num_clusters(near[:n]) for n in (0, 1, 2)] == [0, 1, 1]
