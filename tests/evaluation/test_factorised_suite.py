"""Factorised against monolithic: the arithmetic by hand, and the suite on a tiny model with factors of its own."""

# Axes: K constraints, P prompts, S samples of a prompt.

import gzip
import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from factorlm.errors import InputError
from factorlm.evaluation.constrained import costs, interference, ways
from factorlm.evaluation.constrained.constraints import (
    Constraint,
    OwnExaminer,
    balanced_accuracy,
    examiner_of,
    instruction,
    split_of,
)
from factorlm.evaluation.constrained.interference import Changed, mean_square
from factorlm.evaluation.constrained.matching import correlation, divergence, matched, potentials
from factorlm.evaluation.constrained.monolithic import fine_tuned, mixture
from factorlm.evaluation.constrained.ways import WAYS, Condition
from factorlm.evaluation.corpora import DataFolder
from factorlm.evaluation.document import Curve, Matrix, Table
from factorlm.evaluation.responses import Sample
from factorlm.evaluation.suites import factorised
from factorlm.evaluation.workbench import Cache, Workbench
from factorlm.factors import bind, factor
from factorlm.factors.calibration import head_strengths
from factorlm.factors.examples import Example
from factorlm.factors.head import EncoderCard, Head
from factorlm.factors.manifest import HeadSettings, Manifest
from factorlm.factors.recipe import load_recipe
from factorlm.factors.store import Store
from factorlm.inference.expression import compose, written
from factorlm.models import CausalLM
from factorlm.models.lora import LoraSettings

PROMPTS = ("the good", "a bad in the", "in the", "the bad bad", "a good food", "the cat")
WORDS = ("the", "a", "in", "food", "cat", "tree", "house", "road", "girl", "boy")


def sample(text: str, base: float = -3.0, tokens: int = 2) -> Sample:
    return Sample(text, tuple(range(tokens)), -2.0, base, "length")


def examples_of(name: str) -> list[Example]:
    """Texts with and without a word."""
    with_it, without = {"nice": ("good", "bad"), "short": ("no", "however")}[name]
    return [
        Example(f"{word} {other} is {with_it if is_positive else without} {n}", is_positive)
        for n, (word, other) in enumerate((w, o) for w in WORDS for o in WORDS[:4])
        for is_positive in (True, False)
    ]


# By hand


def test_constraints_are_read_and_asked_for() -> None:
    polite, civil = Constraint.read("polite"), Constraint.read("-toxic")
    assert (polite.title, polite.sign) == ("polite", 1)
    assert (civil.factor, civil.title, civil.sign) == ("toxic", "not toxic", -1)
    assert civil.flipped == Constraint("toxic")
    assert instruction([polite]) == "Write a text that is polite."
    assert instruction([Constraint("simple"), polite, civil]) == (
        "Write a text that is in simple words, polite and civil and inoffensive."
    )
    assert Constraint.read("-odd").phrase == "not odd"
    assert civil.meeting([Example("a", True), Example("b", False)]) == ["b"]


def test_rates_by_hand() -> None:
    nan = math.nan
    meets = {"a": np.array([[1, 0], [1, 1], [nan, nan]]), "b": np.array([[1, 1], [0, nan], [nan, nan]])}
    found = Condition([[sample("one two three four"), sample("one two three")]] * 3, meets, seed=0)
    assert found.rate("a").value == pytest.approx(3 / 4)
    np.testing.assert_array_equal(found.share("a"), [0.5, 1.0, nan])
    np.testing.assert_array_equal(found.mean_share(["a", "b"]), [0.75, 0.5, nan])
    assert found.mean_rate(["a", "b"]).value == pytest.approx(0.625)
    np.testing.assert_array_equal(found.joint_share(["a", "b"]), [0.5, 0.0, nan])
    assert found.joint_rate(["a", "b"]).value == pytest.approx(1 / 3)
    assert found.distinct_3.value == pytest.approx(2 / 9)
    other = Condition([[sample("x", -4.0), sample("y", -4.0)]] * 3, meets, seed=0)
    assert other.perplexity_ratio(found).value == pytest.approx(math.exp(4 / 2 - 3 / 2))


def test_interference_by_hand() -> None:
    """What is changed counts as itself, all else as others; a column's square is the mean product of two prompts."""
    changes = {
        "a": {"a": np.full(4, -1.0), "b": np.array([1.0, 1, 1, 0]), "c": np.array([-1.0, 1, -1, 1])},
        "b": {"a": np.array([0.0, -1, 0, math.nan]), "b": np.full(4, -0.5), "c": np.full(4, -0.25)},
    }
    found = Changed("factorised", changes, seed=0)
    assert found.on_itself.value == pytest.approx(-0.75)
    squares = (6 / 12, (0 - 4) / 12, 0, 0.0625)
    assert mean_square(found.others_PC).value == pytest.approx(sum(squares) / 4)
    for i, without in enumerate(mean_square(found.others_PC).without_P):
        rest_PC = np.delete(found.others_PC, i, 0)
        assert without == pytest.approx(mean_square(rest_PC).value)
    assert found.on_others.value == pytest.approx((sum(squares) / 4) ** 0.5)
    still = Changed("none", {"a": {"a": np.full(4, -1.0), "b": np.zeros(4), "c": np.zeros(4)}}, seed=0)
    assert still.on_others.value == 0
    assert still.less_than(found).value == pytest.approx(sum(squares) / 4)


def noise(generator: np.random.Generator, size: float, shift: float = 0.0, num_prompts: int = 48) -> Changed:
    """Three rates of other constraints whose changes scatter by so much over prompts around a shift."""
    others = {title: shift + size * generator.standard_normal(num_prompts) for title in "bcd"}
    return Changed("", {"a": {"a": np.full(num_prompts, -1.0), **others}}, seed=0)


def test_noise_of_different_size_is_no_interference() -> None:
    """Two ways that move nothing, one with four times the noise: the level is 5 %, 20 of 200 allowed (p < 0.005)."""
    generator = np.random.default_rng(0)
    squares, claims = [], 0
    for _ in range(200):
        calm, loud = noise(generator, 0.2), noise(generator, 0.8)
        squares.append([mean_square(way.others_PC).value for way in (calm, loud)])
        gap = calm.less_than(loud)
        assert gap.low is not None
        assert gap.high is not None
        claims += not gap.low <= 0 <= gap.high
    assert claims <= 20
    error_2 = np.std(squares, 0) / len(squares) ** 0.5
    assert (np.abs(np.mean(squares, 0)) < 3 * error_2).all()  # three standard errors
    one, two = noise(generator, 0.8), noise(generator, 0.8, shift=0.5)
    gap = one.less_than(two)
    assert gap.low is not None
    assert gap.low > 0
    assert two.on_others.value == pytest.approx(0.5, abs=0.2)
    assert two.on_others.low is not None
    assert one.on_others.low == 0


def test_accuracy_weighs_both_classes_alike() -> None:
    assert balanced_accuracy(np.array([[90, 10], [5, 5]])) == pytest.approx(0.7)


# Matching


def test_matched_exponents_diverge_as_asked(tiny_lm: CausalLM, make_head: Callable[..., Head]) -> None:
    potential_NV = potentials(tiny_lm, make_head(seed=3))
    states_NV = make_head(seed=3).start(_neutral_prefixes(tiny_lm)).log_weight_BV
    torch.testing.assert_close(potential_NV, states_NV, atol=1e-4, rtol=1e-4)
    found = matched(tiny_lm, potential_NV, 0.3)
    assert found.divergence == pytest.approx(0.3, rel=1e-2)
    assert divergence(tiny_lm, potential_NV, found.exponent) == pytest.approx(found.divergence)
    weak = matched(tiny_lm, 1e-3 * potential_NV, 0.3)
    assert weak.exponent == 8.0
    assert weak.divergence < 1e-3
    assert matched(tiny_lm, potential_NV, 1e9, largest=0.5).exponent == 0.5


def _neutral_prefixes(lm: CausalLM) -> torch.Tensor:
    from factorlm.factors.calibration import neutral_states

    return neutral_states(lm).prefix_NT


def test_correlation_of_a_factor_with_itself_and_its_opposite(
    tiny_lm: CausalLM, make_head: Callable[..., Head]
) -> None:
    head, other = make_head(seed=1), make_head(seed=2)
    opposite = Head("opposite", head.weights.scaled(-2.0), tiny_lm)
    found = correlation(tiny_lm, (head, opposite, other))
    np.testing.assert_allclose(np.diagonal(found), 1, atol=1e-6)
    assert found[0, 1] == pytest.approx(-1, abs=1e-5)
    assert abs(found[0, 2]) < 0.9
    np.testing.assert_allclose(found, found.T)


# Texts and the one model


def test_the_mixture_holds_nothing_back_from_judges(tmp_path: Path) -> None:
    asked = [Constraint("nice"), Constraint("short", is_wanted=False)]
    texts = mixture(asked, examples_of, 12)
    assert len(texts) == 24
    assert all("good" in text for text in texts[:12])
    assert all("however" in text for text in texts[12:])
    held_out = {e.text for c in asked for e in split_of(examples_of, c).dev}
    assert not held_out & set(texts)
    with pytest.raises(InputError, match="texts of few: at least 10"):
        mixture([Constraint("few")], lambda name: [Example("a", True)], 3)


def test_a_fine_tuned_model_is_trained_once(tiny_lm: CausalLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACTORLM_CACHE", str(tmp_path / "models"))
    stages: list[str] = []
    settings = LoraSettings(rank=2, epochs=1, batch_texts=8)

    def tune(folder: Path | None, name: str = "nice") -> str:
        bench = Workbench((), DataFolder(tmp_path), Cache(folder), lambda stage, done, total: stages.append(stage))
        found = fine_tuned(bench, tiny_lm, [Constraint(name)], examples_of, settings, most=8)
        assert (found.num_texts, found.seconds > 0) == (8, True)
        return found.adapter.fingerprint

    first = tune(tmp_path / "cache")
    assert stages == ["fine-tuning: nice"]
    assert tune(tmp_path / "cache") == first
    assert stages == ["fine-tuning: nice"]
    assert tune(tmp_path / "cache", "short") != first
    assert len(list((tmp_path / "models" / "monolithic").iterdir())) == 2
    assert tune(None) == first  # without a cache: trained again, not kept
    assert stages == ["fine-tuning: nice", "fine-tuning: short", "fine-tuning: nice"]
    assert len(list((tmp_path / "models" / "monolithic").iterdir())) == 2


# The suite


@pytest.fixture
def desk(
    tiny_lm: CausalLM, make_head: Callable[..., Head], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Workbench:
    """The tiny model, two heads of its own in a store, and six prompts."""
    from factorlm.models.sentences import load_sentence_encoder

    load_sentence_encoder()  # from the cache that the next lines hide
    for name, head in (("nice", make_head(seed=5)), ("short", make_head(seed=6))):
        encoder = EncoderCard(name=tiny_lm.name, fingerprint=tiny_lm.fingerprint, width=tiny_lm.width)
        manifest = Manifest(name=name, settings=HeadSettings(rank=0), encoder=encoder,
                            strengths=head_strengths(tiny_lm, head.weights))  # fmt: skip
        weights = {"bias": head.weights.bias_D, "up": head.weights.up_DR, "down": head.weights.down_RD}
        Store(tmp_path / "store").save(manifest, weights)
    monkeypatch.setenv("FACTORLM_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("FACTORLM_CACHE", str(tmp_path / "models"))
    prompts = "\n".join(json.dumps({"prompt": prompt}) for prompt in PROMPTS)
    (tmp_path / "data" / "mine").mkdir(parents=True)
    (tmp_path / "data" / "mine" / "prompts.jsonl.gz").write_bytes(gzip.compress(prompts.encode()))
    model = compose(written(tiny_lm.name), dtype="float32", device="cpu")
    return Workbench((model,), DataFolder(tmp_path / "data"), Cache(tmp_path / "cache"), lambda *_: None)


SETTINGS = factorised.Settings(
    constraints=("nice", "-short"), counts=(1, 2, 8), prompts="mine/prompts", num_prompts=6, samples=2, max_tokens=8,
    texts=8, pairs=2, changed=1, budget=0.3, head_texts=20, lora=LoraSettings(rank=2, epochs=1, batch_texts=4),
)  # fmt: skip


@pytest.mark.model
def test_the_suite_compares_all_ways(desk: Workbench) -> None:
    found = factorised.measure(desk, SETTINGS, examples_of)
    name = desk.names[0]
    for way in WAYS:
        for k in (1, 2):
            for measure in ("mean rate", "joint rate", "rate of nice", "Dist-3"):
                value = found.measures[f"{measure}/{way}/K={k}"][name].value
                assert value is not None
                assert 0 <= value <= 1
        both, joint = (found.measures[f"{m}/{way}/K=2"][name].value for m in ("mean rate", "joint rate"))
        assert both is not None
        assert joint is not None
        assert joint <= both + 1e-9
        assert found.measures[f"joint rate/{way}/K=1"] == found.measures[f"mean rate/{way}/K=1"]
    assert found.measures["mean rate/base/K=1"] == found.measures["rate of nice/base/K=1"]
    assert {(c.measure, c.rival) for c in found.comparisons} == {
        (f"{measure}, K={k}", rival)
        for rival in ("monolithic", "prompt", "prompt, matched")
        for k in (1, 2)
        for measure in ("mean rate", "joint rate", "base perplexity")
        if (measure, k) != ("joint rate", 1)  # of one constraint it is the mean rate
    }
    assert len({(c.measure, c.rival) for c in found.comparisons}) == len(found.comparisons)
    blocks = [block for section in found.sections for block in section.blocks]
    curves = {b.title: b for b in blocks if isinstance(b, Curve)}
    assert [s.name for s in curves["Constraints met, on average"].series] == [*WAYS, "base"]
    assert curves["Perplexity"].series[0].x == (1.0, 2.0)
    matrices = {b.title: b for b in blocks if isinstance(b, Matrix)}
    assert matrices["Correlation of potentials"].values[0][0] == pytest.approx(1)
    assert matrices["Interference, factorised: change of every rate, in points"].rows == ("nice flipped",)
    tables = {b.title: b for b in blocks if isinstance(b, Table)}
    costs = {row[0]: row[1:] for row in tables["Costs"].rows}
    assert costs["K=2, factorised"][0] == 2 * 32
    assert costs["K=2, monolithic"][0] == costs["K=1, monolithic"][0] == 2 * 2 * (2 * 64 + 2 * 48 + 3 * 80)
    assert costs["K=2, prompt"][-1] > costs["K=1, prompt"][-1] > 0  # type: ignore[operator]
    budget = {row[0]: row[1:] for row in tables["Budget of the factors"].rows}
    assert budget["K=1"][1] == pytest.approx(0.2, rel=0.02)
    assert budget["K=2"][0] == pytest.approx(0.4)
    assert float(budget["K=2"][1]) <= 0.303  # type: ignore[arg-type]
    assert any("K = 8 was asked for" in line for line in found.cautions)
    assert any(line.startswith("Independence bites most for") for line in found.headlines)
    assert any("sentence vectors" in str(row[1]) for row in tables["Who judges"].rows)


@pytest.mark.model
def test_a_second_run_writes_and_trains_nothing(desk: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = SETTINGS.model_copy(update={"counts": (2,)})
    first = factorised.measure(desk, settings, examples_of)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("this was done before")

    monkeypatch.setattr("factorlm.inference.Model.generate", refuse)
    monkeypatch.setattr("factorlm.evaluation.constrained.monolithic.train_lora", refuse)
    monkeypatch.setattr("factorlm.evaluation.constrained.costs.train_head", refuse)
    monkeypatch.setattr("factorlm.evaluation.constrained.constraints.sentence_judge", refuse)
    assert factorised.measure(desk, settings, examples_of) == first


@pytest.mark.model
def test_a_judge_of_its_own_is_learned_and_tested(desk: Workbench) -> None:
    examiner = examiner_of(desk, Constraint("short", is_wanted=False), examples_of)
    assert isinstance(examiner, OwnExaminer)
    assert examiner.num_tests == 12
    assert examiner.accuracy >= 0.5
    found = examiner.examine([[sample("the house is however 3"), sample(" ?! ")], [sample("a cat is no 7")] * 2], "")
    np.testing.assert_array_equal(found, [[1, math.nan], [0, 0]])


def test_mistakes_are_explained(desk: Workbench) -> None:
    changed = {"constraints": ("nice", "-nice")}
    with pytest.raises(InputError, match="different constraints and at least one count"):
        factorised.measure(desk, SETTINGS.model_copy(update=changed), examples_of)
    with pytest.raises(InputError, match="no factor named 'nicer'"):
        factorised.measure(desk, SETTINGS.model_copy(update={"constraints": ("nicer",)}), examples_of)
    with pytest.raises(InputError, match="a factor with a recipe is needed"):
        factorised.run(desk, SETTINGS)
    steered = compose(f"{desk.models[0].expression} * nice")
    bench = Workbench((steered,), desk.data, desk.cache, desk.report)
    with pytest.raises(InputError, match="one bare language model is needed"):
        factorised.measure(bench, SETTINGS, examples_of)


def test_the_one_model_is_moved_as_far_as_the_changed_factors(desk: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A factor that is taken away moves nothing, so the one model that is trained without it moves less as well."""
    asked = [Constraint("nice"), Constraint("short", is_wanted=False)]
    targets = []
    whole = ways.Condition([], {c.title: np.zeros((6, 1)) for c in asked}, 0)
    monkeypatch.setattr(ways.Work, "factorised", lambda *_: whole)
    monkeypatch.setattr(ways.Work, "monolith", lambda *_: SimpleNamespace(seconds=1.0))

    def monolithic(work: ways.Work, monolith: object, to: dict[str, float]) -> dict[str, tuple[Condition, float]]:
        targets.extend(to.values())
        return dict.fromkeys(to, (whole, 1.0))

    monkeypatch.setattr(ways.Work, "monolithic", monolithic)
    monkeypatch.setattr(ways.Work, "prompted", lambda *_, **__: (whole, 1.0))
    how = ways.Writing(1, 4, SETTINGS.sampling, 0.2, 0.3, 8, SETTINGS.lora)
    work = ways.Work(desk, desk.models[0], PROMPTS, how, {}, examples_of)
    interference.measure_interference(work, asked, dict.fromkeys(ways.CLAIMED, whole), "remove", 1)
    exponent = work.composition(asked).exponents["short"]
    head = bind(factor("short"), work.lm)
    want = divergence(work.lm, potentials(work.lm, head), exponent)
    assert targets == [pytest.approx(want, rel=1e-3)]
    assert want < 0.8 * work.composition(asked).divergence


def test_times_of_training_do_not_profit_from_what_was_read_before(
    desk: Workbench, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    inner = costs.encode

    def counted(lm: CausalLM, texts: list[str], **settings: object) -> object:
        read.append(len(texts))
        return inner(lm, texts, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(costs, "encode", counted)
    how = ways.Writing(1, 4, SETTINGS.sampling, 0.2, 0.3, 8, SETTINGS.lora)
    work = ways.Work(desk, desk.models[0], PROMPTS, how, {}, examples_of)
    examples = [Example(f"{e.text} {'and the food ' * 12}", e.is_positive) for e in examples_of("nice")]
    first = costs._timed(work, examples, 0, 16)
    assert read == [12], "the others were new; these are one batch, which cannot be told from texts on disk"
    read.clear()
    assert first["seconds_own"] is not None
    second = costs._timed(work, examples, 0, 16)
    assert read == [12, 68], "texts that were found on disk are read for their time"
    assert second["seconds_own"] is None
    assert (second["seconds"] or 0) > 0


def test_usual_constraints_are_not_learned_against_each_other() -> None:
    """Of the texts with one attribute that the recipe of another labels, not nearly all are texts without it."""
    data = DataFolder.default()
    asked = [Constraint.read(text) for text in factorised.USUAL]
    texts = {c: load_recipe(c.factor).examples(data.either) for c in asked}
    with_it = {c: set(c.meeting(texts[c])) for c in asked}
    without = {c: set(c.flipped.meeting(texts[c])) for c in asked}

    def is_against(a: Constraint, b: Constraint) -> bool:
        both, only = len(with_it[a] & with_it[b]), len(with_it[a] & without[b])
        return only >= 20 and only > 0.9 * (both + only)

    assert not [(a.title, b.title) for a in asked for b in asked if a != b and is_against(a, b)]


def test_a_judge_that_learned_from_the_texts_of_a_head_is_named(desk: Workbench) -> None:
    texts = {"simple": load_recipe("simple"), "positive": load_recipe("positive")}
    bench = Workbench(desk.models, DataFolder.default(), desk.cache, desk.report)
    shared = {
        name: examiner_of(bench, Constraint(name), lambda name: texts[name].examples(bench.data.either)).shared
        for name in texts
    }
    assert shared["simple"] > 0.5
    assert shared["positive"] < 0.01


def test_usual_constraints_are_those_of_the_store(desk: Workbench) -> None:
    found = factorised.chosen(factorised.Settings())
    assert [c.title for c in found][:1] == ["positive"]
    assert {c.title for c in found} <= {Constraint.read(text).title for text in factorised.USUAL}
