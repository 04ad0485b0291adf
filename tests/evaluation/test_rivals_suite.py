"""The suite of rivals on the real model, very small, and what it refuses."""

from types import SimpleNamespace

import pytest

import factorlm as fl
from factorlm.errors import InputError, UnknownNameError
from factorlm.evaluation.document import Scatter, Table
from factorlm.evaluation.rivals import speed
from factorlm.evaluation.rivals.cautions import USUAL_SAMPLES
from factorlm.evaluation.rivals.goals import GOALS
from factorlm.evaluation.rivals.methods import Dials
from factorlm.evaluation.suites import rivals, settings_of
from factorlm.evaluation.workbench import Workbench
from factorlm.factors.recipe import load_recipe
from factorlm.factors.store import folder_of, read_manifest
from factorlm.inference.expression import compose
from factorlm.models import CausalLM

from .conftest import Bench

NOBODY = dict.fromkeys(Dials.model_fields, ())


@pytest.fixture
def desk(bench: Bench, lm: object) -> Workbench:
    return bench(compose("smollm2", dtype="float32", device="cpu"))


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times are shown, not tested."""
    monkeypatch.setattr(speed, "ROWS", 2)
    monkeypatch.setattr(speed, "TOKENS", 2)
    monkeypatch.setattr(speed, "REPEATS", 1)


def tables(found: object) -> dict[str, Table]:
    return {b.title: b for section in found.sections for b in section.blocks if isinstance(b, Table)}  # type: ignore[attr-defined]


@pytest.mark.model
def test_ours_and_two_rivals_on_the_same_ground(desk: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    dials = Dials(**{**NOBODY, "ours": (0.6,), "prompting": (1.0,), "arithmetic": (6.0,)})
    settings = rivals.Settings(num_prompts=2, max_tokens=3, texts=20, words=4, dials=dials)
    found = rivals.run(desk, settings)
    wordings = [w.name for w in GOALS["positive"].wordings]
    names = ["positive (ours)", *wordings, "arithmetic"]
    [first, second] = [b for s in found.sections for b in s.blocks if isinstance(b, Scatter)]
    assert [series.name for series in first.series] == [series.name for series in second.series] == ["base", *names]
    points = ["positive (ours) +0.6", *(f"{name} +1" for name in wordings), "arithmetic +6"]
    by_point = tables(found)["Every method at every setting, neutral prompts"]
    assert [row[0] for row in by_point.rows] == ["base", *points]
    assert set(found.measures["perplexity ratio/neutral"]) == set(points)
    assert set(found.measures["positive texts/neutral/sentiment"]) == {"base", *points}
    # What it costs: the classifier of arithmetic has a weight for each of 384 features and a bias; prompts have none.
    cost = {row[0]: row for row in tables(found)["What it takes"].rows}
    assert [cost[name][1] for name in ("base", names[0], names[1], "arithmetic")] == [0, 576, 0, 385]
    milliseconds = found.measures["milliseconds a token"]
    assert all((milliseconds[name].value or 0) > 0 for name in ("base", *names))
    assert [c.rival for c in found.comparisons] == points[1:]
    assert {c.verdict for c in found.comparisons} == {"cannot rank"}
    assert cost[names[0]][2] == "trained before"
    assert any("sentiment, which decides here, reads the sentence encoder minilm" in line for line in found.cautions)
    data = read_manifest(folder_of("positive")).data
    learned = found.cautions[-1]
    assert f"Ours learned from {data.train[0].num_texts} labelled texts" in learned
    assert f"{data.own_texts} texts that the model wrote" in learned or not data.own_texts
    assert "rivals from fewer, 48 of" in learned
    assert any(line.startswith("Positive texts at 1.2x") for line in found.headlines)
    assert len(desk.used) == 2

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("it was written already")

    monkeypatch.setattr(fl.Model, "generate", refuse)
    monkeypatch.setattr(fl.Model, "stream", refuse)
    assert rivals.run(desk, settings) == found


@pytest.mark.model
@pytest.mark.long
def test_all_rivals_write_and_detoxify(desk: Workbench) -> None:
    settings = rivals.Settings(
        attribute="toxic", num_prompts=2, samples=2, max_tokens=4, texts=20, words=4, dials=Dials(
            ours=(0.4,), prompting=(1.0,), dexperts=(0.5,), gedi=(10.0,), fudge=(2.0,), lm_steer=(1.0,),
            activation=(1.0,), arithmetic=(2.0,),
        ),
    )  # fmt: skip
    found = rivals.run(desk, settings)
    names = [row[0] for row in tables(found)["What it takes"].rows]
    assert {"base", "toxic (ours)", "DExperts", "GeDi", "FUDGE", "LM-Steer", "activation", "arithmetic"} <= set(names)
    for group in ("challenging", "nontoxic"):
        found_maximum = found.measures[f"average maximum toxicity/{group}/toxicity"]
        assert len(found_maximum) == len(names)
        assert all(0 <= (estimate.value or 0) <= 1 for estimate in found_maximum.values())
    assert any(f"over 2 samples; published figures use {USUAL_SAMPLES}" in line for line in found.cautions)


@pytest.mark.model
def test_a_model_given_as_it_is_stands_beside_them(bench: Bench, lm: object) -> None:
    desk = bench(compose("smollm2 * positive=0.6", dtype="float32", device="cpu"))
    dials = Dials(**{**NOBODY, "ours": (0.6,)})
    found = rivals.run(desk, rivals.Settings(num_prompts=2, max_tokens=3, texts=20, words=4, dials=dials))
    rates = found.measures["positive texts/neutral/sentiment"]
    assert set(rates) == {"base", "positive (ours) +0.6", "smollm2 * positive=0.6"}
    moved = found.measures["divergence/neutral"]
    assert moved["positive (ours) +0.6"].value == pytest.approx(moved["smollm2 * positive=0.6"].value, abs=1e-3)


def test_no_run_that_is_timed_has_seen_its_prompts_before(tiny_lm: CausalLM, bench: Bench) -> None:
    """Rivals remember what they found after a text; the warm-up must not do the work of the others."""
    seen: list[str] = []

    class Written:
        fingerprint = "x"
        model = SimpleNamespace(lm=tiny_lm, stream=lambda prompts, **_: seen.extend(prompts) or iter(prompts))

    assert speed.milliseconds_per_token(bench(), Written()) >= 0  # type: ignore[arg-type]
    assert len(seen) == len(set(seen)) == 2 * speed.ROWS


def test_what_it_refuses(bench: Bench) -> None:
    desk = bench()
    with pytest.raises(UnknownNameError, match="attribute with rivals"):
        rivals.run(desk, rivals.Settings(attribute="positiv"))
    with pytest.raises(UnknownNameError, match="label of toxicity"):
        rivals.run(desk, rivals.Settings(judges=("toxicity",)))
    with pytest.raises(InputError, match="a strength of ours is needed"):
        rivals.run(desk, rivals.Settings(dials=Dials(ours=())))


def test_a_dial_stands_above_zero_and_small_is_smaller_than_full() -> None:
    with pytest.raises(ValueError, match="greater than 0"):
        Dials(gedi=(-1.0,))
    small, full = (settings_of("rivals", size) for size in ("small", "full"))
    for rival in Dials.model_fields:
        assert 0 < len(getattr(small.dials, rival)) <= len(getattr(full.dials, rival))  # type: ignore[attr-defined]


def test_rivals_learn_from_the_texts_of_the_recipe(bench: Bench) -> None:
    """To the letter: with the blanks of a tokeniser left in, they would learn another task than ours."""
    desk = bench()
    for name, goal in GOALS.items():
        assert goal.examples(desk.data) == load_recipe(name).examples(desk.data.either)
        assert all(part in goal.sets for part in ("paradetox/train",) if name == "toxic")
    assert "yelp_dev" in GOALS["positive"].sets
    assert not any(" ." in e.text for e in GOALS["positive"].examples(desk.data))


def test_training_texts_are_none_that_a_judge_learned_from(bench: Bench) -> None:
    desk = bench()
    from factorlm.evaluation.judges.sources import kept_pairs, rewrites

    learned = {"toxic": kept_pairs(desk.data), "positive": rewrites(desk.data)}
    for name, goal in GOALS.items():
        texts = {e.text for e in goal.examples(desk.data)}
        shared = texts & {row.text for row in learned[name]}
        assert len(shared) <= 0.01 * len(learned[name]), name
