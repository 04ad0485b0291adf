"""The pool's estimators against every choice, pairs against their wordings, and the suite on a tiny model."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from factorlm.errors import InputError
from factorlm.evaluation.alignment.arms import BASE, BEST, DPO, MEAN, PARTICLES, SOFT, WEIGHED
from factorlm.evaluation.alignment.confidence import Confidence
from factorlm.evaluation.alignment.frontier import Frontier
from factorlm.evaluation.alignment.pool import best_of_n, tilted
from factorlm.evaluation.alignment.rewards import RewardQuality
from factorlm.evaluation.alignment.sources import SOURCES, divided, pairs_of
from factorlm.evaluation.suites.alignment import Settings, run
from factorlm.evaluation.workbench import Workbench
from factorlm.factors import dpo
from factorlm.factors.feedback import Pair

Bench = Callable[..., Workbench]


def test_best_of_n_is_the_mean_over_every_choice() -> None:
    generator = np.random.default_rng(0)
    reward_PS, value_PS = generator.normal(size=(3, 7)), generator.normal(size=(3, 7))
    for n in (1, 2, 5, 7):
        found_P = best_of_n(reward_PS, n).mean(value_PS)
        for p in range(3):
            subsets = [max(some, key=lambda s: reward_PS[p, s]) for some in itertools.combinations(range(7), n)]
            assert found_P[p] == pytest.approx(np.mean([value_PS[p, s] for s in subsets]), abs=1e-12)
    assert best_of_n(reward_PS, 4).nats_P[0] == pytest.approx(math.log(4) - 3 / 4)
    with pytest.raises(ValueError, match="best of 1 to 7"):
        best_of_n(reward_PS, 8)


def test_weights_of_the_pool_are_the_product() -> None:
    reward_PS = np.random.default_rng(1).normal(size=(2, 9))
    found = tilted(reward_PS, 0.5)
    weight_PS = np.exp(2 * reward_PS)
    weight_PS /= weight_PS.sum(1, keepdims=True)
    np.testing.assert_allclose(found.weight_PS, weight_PS, atol=1e-12)
    np.testing.assert_allclose(found.nats_P, (weight_PS * np.log(9 * weight_PS)).sum(1), atol=1e-12)
    assert 1 < found.effective_size < 9
    blank_PS = np.where(np.arange(9) == 0, np.nan, 1.0) * np.ones((2, 1))
    np.testing.assert_allclose(found.mean(blank_PS), 1.0)  # what was not judged is left out


def test_shared_beginnings_are_prompts(put: Callable[..., Any]) -> None:
    rows = [
        {"toxic": "you are a silly old goat", "neutral": ["you are a wise old goat"]},
        {"toxic": "shut up now", "neutral": ["be quiet now"]},
        {"toxic": "same words", "neutral": ["Same words"]},
    ]
    folder = put("paradetox/train", rows)
    bench = Workbench((), folder, None, lambda *a: None)  # type: ignore[arg-type]
    found = set(pairs_of(bench, SOURCES["civil"]))
    assert found == {
        Pair("you are a", "wise old goat", "silly old goat"),
        Pair("", "be quiet now", "shut up now"),
    }


def test_no_beginning_is_in_two_parts() -> None:
    pairs = [Pair(f"p{n // 2}", f"a{n}", f"b{n}") for n in range(40)] + [Pair("", f"c{n}", f"d{n}") for n in range(9)]
    found = divided(pairs, num_rewards=25, num_tuning=10, num_prompts=8)
    assert len(found.prompts) == 8
    assert not {pair.prompt for pair in (*found.rewards, *found.tuning)} & set(found.prompts)
    with pytest.raises(InputError, match="ask for fewer"):
        divided(pairs, num_rewards=25, num_tuning=10, num_prompts=21)


def small(**changes: Any) -> Settings:
    frontier = Frontier(pool=4, best_of=(1, 2, 4), betas=(1.0, 0.25), particle_betas=(0.5,), particles=4,
                        lead_exponents=(1.0,), lead_prompts=2, lead_texts=12, components=(), samples=2,
                        dpo_exponents=())  # fmt: skip
    return Settings(**{"parts": ("rewards", "frontier"), "judge": "toxicity-characters", "pairs": 60,
                       "tuning_pairs": 8, "unseen_pairs": 20, "prompts": 3, "max_tokens": 4, "frontier": frontier,
                       "preference": "civil", "rewards": RewardQuality(few=(30,), unseen=20), **changes})  # fmt: skip


def test_the_suite_measures_every_way_and_nothing_twice(
    bench: Bench, tiny: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FACTORLM_CACHE", str(tmp_path / "models"))
    desk = bench(tiny("tiny"))
    found = run(desk, small())
    for way in (BASE, BEST, WEIGHED, PARTICLES, SOFT, MEAN):
        assert f"judged/{way}" in found.measures, way
    rewards = found.measures[f"reward/{BEST}"]
    assert rewards["n=4"].value > rewards["n=2"].value > found.measures[f"reward/{BASE}"]["n=1"].value
    assert found.measures[f"nats/{SOFT}"]["β=1"].value != 0
    assert {"pair accuracy/length taken out, 60 pairs", "pair accuracy/length left in, 60 pairs"} <= set(found.measures)

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("written again")

    monkeypatch.setattr("factorlm.inference.Model.generate", refuse)
    monkeypatch.setattr("factorlm.evaluation.alignment.learned.train_reward", refuse)
    assert run(desk, small()).measures == found.measures


@pytest.mark.skipif(bool(dpo.missing()), reason="needs the extra align")
@pytest.mark.filterwarnings("ignore")
def test_tuned_ways_and_confidence(
    bench: Bench, tiny: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("FACTORLM_CACHE", str(tmp_path / "models"))
    tuning = dpo.DpoSettings(rank=2, batch_pairs=8, epochs=3, learning_rate=5e-2)
    frontier = small().frontier.model_copy(
        update={"dpo": tuning, "dpo_exponents": (1.0, 2.0), "lead_exponents": (), "particle_betas": ()}
    )
    found = run(
        bench(tiny("tiny")),
        small(parts=("frontier", "confidence"), frontier=frontier, confidence=Confidence(texts=8, exponents=(1.0,))),
    )
    moved = found.measures[f"nats/{DPO}"]
    assert moved["w=1"].value != 0
    assert moved["w=2"].value != moved["w=1"].value
    assert {"calibration error/the model", "calibration error/DPO, w=1"} <= set(found.measures)


def test_sizes_differ_and_bad_input_is_refused(bench: Bench, tiny: Callable[[str], Any]) -> None:
    assert Settings.sized("full").prompts > Settings.sized("small").prompts
    with pytest.raises(InputError):
        run(bench(tiny("tiny")), small(preference="civl"))
    with pytest.raises(InputError, match="ask for fewer"):
        run(bench(tiny("tiny")), small(unseen_pairs=100_000))
