"""Control and toxicity on the real model with the real judges, small; and the arithmetic of verdicts by hand."""

import math

import numpy as np
import pytest

import factorlm as fl
from factorlm.errors import InputError
from factorlm.evaluation.document import Curve, Matrix, Scatter
from factorlm.evaluation.intervals import Estimate
from factorlm.evaluation.judges import Judge, judges_for, load_judge
from factorlm.evaluation.judging import Verdicts, agreement, base_perplexity, divergence, judged
from factorlm.evaluation.responses import Sample
from factorlm.evaluation.suites import control, toxicity
from factorlm.evaluation.workbench import Findings
from factorlm.inference.expression import compose

from .conftest import Bench


@pytest.fixture(scope="module")
def judge() -> Judge:
    return load_judge("toxicity-characters")


def sample(text: str, log_prob: float = -2.0, base: float = -3.0, tokens: int = 2) -> Sample:
    return Sample(text, tuple(range(tokens)), log_prob, base, "length")


def test_verdicts_by_hand(judge: Judge) -> None:
    toxic = judge.labels.index("toxic")
    sure = np.zeros(2)
    sure[toxic] = 1.0
    nothing = np.full(2, math.nan)
    found = Verdicts(judge, np.array([[sure, 1 - sure], [0.6 * sure + 0.2, nothing], [nothing, nothing]]))
    np.testing.assert_array_equal(found.has("toxic"), [[1, 0], [1, math.nan], [math.nan, math.nan]])
    np.testing.assert_array_equal(found.share("toxic"), [0.5, 1.0, math.nan])
    np.testing.assert_allclose(toxicity.worst(found), [1.0, 0.8, 0.0])
    np.testing.assert_array_equal(toxicity.any_toxic(found), [1, 1, 0])
    rate = found.rate("toxic", seed=0)
    assert rate.raw.value == pytest.approx(2 / 3)
    assert (rate.num_texts, rate.num_unjudged) == (3, 3)


def test_costs_by_hand() -> None:
    samples = [[sample("a", -2.0, -3.0, 2), sample("b", -4.0, -4.0, 3)], [sample("c", -1.0, -5.0, 5)]]
    assert base_perplexity(samples, 0).value == pytest.approx(math.exp(12 / 10))
    assert divergence(samples, 0).value == pytest.approx(5 / 10)


def test_agreement_is_kappa(judge: Judge) -> None:
    from sklearn.metrics import cohen_kappa_score

    generator = np.random.default_rng(0)
    first, second = (Verdicts(judge, generator.dirichlet([1, 1], size=(30, 2))) for _ in range(2))
    ours = agreement(first, second, "toxic")
    assert ours == pytest.approx(cohen_kappa_score(first.has("toxic").ravel(), second.has("toxic").ravel()))
    assert agreement(first, first, "toxic") == 1.0
    always = Verdicts(judge, np.tile(np.eye(2)[0], (3, 1, 1)))
    assert agreement(always, always, "toxic") is None


def test_judging_is_cached_and_leaves_blanks_out(judge: Judge, bench: Bench) -> None:
    desk = bench()
    samples = [[sample("You are a stupid idiot."), sample("  ")], [sample("What a lovely day."), sample("Thank you.")]]
    first = judged(desk, judge, samples, "judging")
    assert np.isnan(first.prob("toxic")[0, 1])
    assert first.prob("toxic")[0, 0] > first.prob("toxic")[1].max()
    np.testing.assert_array_equal(judged(desk, judge, samples, "judging").prob_PSL, first.prob_PSL)
    assert desk.judges_used == {judge.name: judge.fingerprint}


@pytest.mark.model
@pytest.mark.slow
def test_control_sees_what_a_factor_does(bench: Bench, lm: object) -> None:
    desk = bench(compose("smollm2 * positive=0.6"), compose("smollm2"))
    settings = control.Settings(num_prompts=16, max_tokens=12, strengths=(-0.6, 0.6))
    found = control.run(desk, settings)
    name = judges_for("positive")[0].name
    low, none, high = (found.measures[f"positive {s}"][name].value for s in ("-0.6", "+0", "+0.6"))
    assert low < none < high
    # The composition at that strength is the factor alone at that strength: one cause, one effect.
    assert found.measures[f"positive by {name}"]["smollm2 * positive=0.6"].value == high
    assert found.measures[f"positive by {name}"]["smollm2"].value == none
    compared = {c.measure: c for c in found.comparisons}
    assert compared[f"positive by {name}"].difference.value == pytest.approx(high - none)
    blocks = [block for section in found.sections for block in section.blocks]
    assert any(isinstance(b, Curve) and len(b.series[0].x) == 3 for b in blocks)
    assert any(isinstance(b, Scatter) and {"positive", "smollm2"} <= {s.name for s in b.series} for b in blocks)
    assert any(isinstance(b, Matrix) and b.is_signed and b.rows == ("positive +0.6",) for b in blocks)
    assert any("16 prompts" in line for line in found.cautions)
    again = control.run(desk, settings)  # from the cache
    assert again == found


@pytest.mark.model
@pytest.mark.slow
def test_toxicity_is_paired_and_says_what_it_cannot_bear(bench: Bench, lm: object) -> None:
    desk = bench(compose("smollm2 * toxic=-0.5"), compose("smollm2 * toxic=0.5"))
    found = toxicity.run(desk, toxicity.Settings(num_prompts=8, samples=2, max_tokens=10))
    names = desk.names
    for group in ("challenging", "nontoxic"):
        for judge in judges_for("toxic"):
            civil, rude = (found.measures[f"maximum toxicity/{group}/{judge.name}"][n] for n in names)
            assert isinstance(civil, Estimate)
            assert civil.value is not None
            assert rude.value is not None
            assert civil.value < rude.value
            assert 0 <= civil.value <= 1
    assert len({c.measure for c in found.comparisons}) == len(found.comparisons)
    assert any("over 2 samples" in line for line in found.cautions)
    assert isinstance(found, Findings)


def test_control_without_a_judge_says_so(bench: Bench, lm: object) -> None:
    desk = bench(compose("smollm2 * positive"))
    with pytest.raises(InputError, match="a judge of 'positive' is needed"):
        control.run(desk, control.Settings(judges=("toxicity-characters",), num_prompts=2))
    with pytest.raises(InputError, match="at least one strength other than 0"):
        control.run(desk, control.Settings(strengths=(0.0,)))
    with pytest.raises(InputError, match="different prompts are wanted"):
        control.run(desk, control.Settings(num_prompts=100_000))


def test_strengths_change_the_key_of_responses(bench: Bench, lm: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """A factor that changes on disk must not be taken from the cache; here: another factor of that name."""
    from factorlm.evaluation.responses import respond

    desk = bench(compose("smollm2"))
    calls = []
    generate = fl.Model.generate
    monkeypatch.setattr(
        fl.Model, "generate", lambda self, *a, **k: calls.append(k["strengths"]) or generate(self, *a, **k)
    )
    for strength in (0.2, 0.2, 0.4):
        respond(desk, desk.models[0], ["The food was"], n=1, max_tokens=2, sampling=fl.Sampling(), stage="writing",
                strengths={"positive": strength})  # fmt: skip
    assert calls == [{"positive": 0.2}, {"positive": 0.4}]
