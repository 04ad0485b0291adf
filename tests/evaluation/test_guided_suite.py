"""The suite `guided` on a tiny model with vectors of the real encoder: numbers against their definitions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from factorlm.diffusion import BiasLearning, DenoiserLearning, MeaningsFitting, SoftLearning, WindowSettings
from factorlm.diffusion.decoders import PlanSettings
from factorlm.diffusion.denoiser import DenoiserSettings
from factorlm.diffusion.files import save
from factorlm.diffusion.fitting import fit_meanings
from factorlm.errors import InputError, UnknownNameError
from factorlm.evaluation.document import Table
from factorlm.evaluation.guided.control import BEST, GUIDE, NONE, PLAN, Control, measure_control
from factorlm.evaluation.guided.grid import Grid
from factorlm.evaluation.guided.latency import Latency
from factorlm.evaluation.guided.latents import Latents
from factorlm.evaluation.guided.noise import Noise
from factorlm.evaluation.guided.recipes import RECIPES, make_guide, recipe_named
from factorlm.evaluation.guided.signals import Signals
from factorlm.evaluation.guided.topics import learn_topic_judge
from factorlm.evaluation.guided.writing import Guiding, Way, best_of
from factorlm.evaluation.judges import load_judge
from factorlm.evaluation.judging import judged
from factorlm.evaluation.responses import Sample
from factorlm.evaluation.rivals.methods import Writing
from factorlm.evaluation.suites.guided import Settings, run
from factorlm.evaluation.texts import Corpus
from factorlm.evaluation.workbench import Cache, Workbench
from factorlm.inference import Model, Sampling
from factorlm.inference.expression import Composed
from factorlm.models import CausalLM
from factorlm.models.vectors import load_encoder

from .conftest import Put

pytestmark = pytest.mark.model
NOUNS = ("boat", "lamp", "hill", "song", "bird", "road", "rain", "wall")
TEXTS = [
    f"the {NOUNS[n % 8]} is {'good' if n % 3 else 'bad'} and the {NOUNS[n // 8 % 8]} was so "
    f"{'good' if n % 3 else 'bad'} in {NOUNS[n % 7]} {chr(97 + n % 26)}{chr(97 + n // 26)}"
    for n in range(140)
]
FITTING = MeaningsFitting(
    windows=WindowSettings(prefix=(3, 16), continuation=(8, 60), sentences=1), most=100, decoded=60, held_out=10,
    shown=50, denoiser=DenoiserLearning(network=DenoiserSettings(width=32, blocks=1, waves=4), steps=60, batch=32,
                                        rising=5),
    bias=BiasLearning(steps=20, batch=64, rising=5),
    soft=SoftLearning(plan=PlanSettings(places=2, narrow=8, layers=1, heads=4), steps=10, batch=8, rising=5),
)  # fmt: skip
NEWS = {"0": "vote minister war", "1": "match goal team", "2": "market shares profit", "3": "software chips web"}


@pytest.fixture(scope="module")
def folder(tiny_lm: CausalLM, tmp_path_factory: pytest.TempPathFactory, lm: object) -> Path:
    """Meanings of a tiny model; `lm` skips where models cannot be fetched."""
    place = tmp_path_factory.mktemp("meanings") / "tiny.meanings"
    meanings, origin = fit_meanings(tiny_lm, load_encoder().encode, TEXTS, FITTING)
    save(meanings, place, encoder="minilm", origin=origin)
    return place


@pytest.fixture
def bench(put: Put, tiny_lm: CausalLM, tmp_path: Path) -> Workbench:
    put("prompts/mine", [{"prompt": f"the {noun} is"} for noun in NOUNS for _ in range(2)])
    put("topic_wordlists/prefixes", [{"prompt": f"a {noun} was"} for noun in NOUNS])
    put("sentiment_prompts/neutral", [{"prompt": f"the {noun} {other} is"} for noun in NOUNS for other in NOUNS])
    put("stories/held", [{"text": f"{text} too"} for text in TEXTS[:30]])
    for part in ("train", "test"):
        put(f"ag_news/{part}", [{"text": f"{words} {n}", "label": int(label)} for label, words in NEWS.items()
                                for n in range(12)])  # fmt: skip
    composed = Composed(tiny_lm.name, Model(tiny_lm, tiny_lm), ({"name": tiny_lm.name, "kind": "model"},), "tiny")
    data = put("unused/unused", [{"text": "a"}])
    return Workbench((composed,), data, Cache(tmp_path / "cache"), lambda *_: None)


def settings(folder: Path) -> Settings:
    return Settings(
        meanings=str(folder), max_tokens=6,
        signals=Signals(corpora=(Corpus(part="stories/held", name="stories"),), num_windows=8, shares=(0.5, 1.0),
                        windows=FITTING.windows),
        noise=Noise(learned_from=Corpus(part="stories/held", name="learned"), num_windows=20,
                    bias=BiasLearning(steps=4, batch=16, rising=1), shares=(0.2, 1.0), num_held_out=6,
                    measured_on=Corpus(part="stories/held", name="stories")),
        control=Control(wanted=("positive", "topic sports"), num_prompts=6, doses=(2.0, 8.0), emphasis=(1.5,), heads=(),
                        best_of=(2, 3), fudge=()),
        grid=Grid(topics=("sports", "business"), num_prompts=4),
        latents=Latents(num_prompts=8, strengths=(1.0, 4.0), steps=(3, 6), particles=4, reference_steps=6),
        latency=Latency(batches=(1, 2), tokens=(3,), steps=(2, 10), repeats=2),
    )  # fmt: skip


def test_the_whole_suite(bench: Workbench, folder: Path) -> None:
    found = run(bench, settings(folder))
    titles = [section.title for section in found.sections]
    assert titles == [
        "Signals: stories", "Noise augmentation", "Control: positive", "Control: topic sports", "Two guides at once",
        "Latents", "Time", "Judges",
    ]  # fmt: skip
    assert len(found.headlines) == 7
    assert list(found.measures["nats saved by noise in learning"]) == ["0.2", "1"]
    rates = found.measures["positive, rate"]
    expected = {NONE, PLAN, f"{GUIDE} 2", f"{GUIDE} 8", f"{GUIDE}, emphasis 1.5 30", f"{BEST} 2", f"{BEST} 3"}
    assert expected <= set(rates)
    assert any(name.startswith("prompting") for name in rates)
    assert all(0 <= rate.value <= 1 for rate in rates.values() if rate.value is not None)
    share = found.measures["share of time before the first token"]["3 tokens, 2 together, 10 steps"].value
    assert share is not None
    assert 0 < share < 1
    again = run(bench, settings(folder))  # from the cache
    assert again.measures["positive, rate"] == rates
    assert again.measures["grid, topic"] == found.measures["grid, topic"]


def test_control_judges_what_was_written(bench: Workbench, folder: Path) -> None:
    """The table's numbers, from the texts of another call."""
    how = Writing(1, 6, Sampling(top_p=0.9))
    guiding = Guiding(bench, folder, how)
    control = settings(folder).control.model_copy(update={"wanted": ("positive",)})
    judge = load_judge("sentiment-words")
    part = measure_control(guiding, control, {judge.name: judge})
    [table] = [b for b in part.sections[0].blocks if isinstance(b, Table)]
    row = next(r for r in table.rows if r[:2] == (GUIDE, 8.0))
    prompts = [f"the {NOUNS[0]} {other} is" for other in NOUNS[:6]]
    responses = guiding.prior(Way({"positive": 8.0})).sample(prompts, max_tokens=6, sampling=how.sampling)
    prob_BL = judge.probabilities([r.text for r in responses])
    said = [np.nan if np.isnan(p).any() else float(p.argmax() == judge.labels.index("positive")) for p in prob_BL]
    assert part.measures["positive, rate"][f"{GUIDE} 8"].value == pytest.approx(np.nanmean(said), nan_ok=True)
    nats = -sum(r.base_log_prob for r in responses) / sum(len(r.token_ids) for r in responses)
    assert part.measures["positive, base perplexity"][f"{GUIDE} 8"].value == pytest.approx(np.exp(nats), rel=1e-3)
    alone = [bench.models[0].model.lm.score(*_row(bench, r.prompt_ids, r.token_ids)).sum() for r in responses]
    assert sum(alone) == pytest.approx(sum(r.base_log_prob for r in responses), abs=1e-2)
    plans = [r.plan for r in responses if r.plan]
    assert row[7] == pytest.approx(np.mean([p.planned[0] for p in plans]), abs=1e-5)
    heeded = [p.likeness for p in plans if p.likeness is not None]
    assert row[9] == pytest.approx(np.mean(heeded), abs=1e-5)


def _row(bench: Workbench, prefix: tuple[int, ...], text: tuple[int, ...]) -> tuple[object, object]:
    from factorlm.algebra import pad_left, pad_right

    return pad_left([list(prefix)]), pad_right([list(text)])


def test_the_best_of_several() -> None:
    def sample(text: str) -> Sample:
        return Sample(text, (1,), 0.0, 0.0, "length")

    samples = [[sample(t) for t in "bca"], [sample(t) for t in "cab"]]
    picked = best_of(samples, lambda texts: [ord(t) for t in texts], 2)
    assert [row[0].text for row in picked] == ["c", "c"]
    assert [row[0].text for row in best_of(samples, lambda texts: [-ord(t) for t in texts], 3)] == ["a", "a"]


def test_the_judge_of_topics(bench: Workbench) -> None:
    judge = learn_topic_judge(bench)
    assert judge.accuracy == 1.0
    assert judge.labels[judge.probabilities(["a team and a goal"])[0].argmax()] == "sports"
    assert np.isnan(judge.probabilities(["..."])).all()
    samples = [[Sample("a match", (1,), 0, 0, "end"), Sample("software", (1,), 0, 0, "end")],
               [Sample("!", (1,), 0, 0, "end"), Sample("the team", (1,), 0, 0, "end")]]  # fmt: skip
    assert judged(bench, judge, samples, "judging").share("sports").tolist() == [0.5, 1.0]


def test_recipes_of_guides(put: Put, lm: object) -> None:
    glad = [{"text": f"I love the {noun} , it 's great .", "label": 1} for noun in NOUNS]
    data = put("review_sentiment_transfer/yelp_dev",
               glad + [{"text": f"I hate the {noun} , it 's awful .", "label": 0} for noun in NOUNS])  # fmt: skip
    guide = make_guide(recipe_named("positive"), data, load_encoder().encode)
    assert (guide.card.num_positive, guide.card.num_negative) == (8, 8)
    happy, sad = guide.prob(load_encoder().encode(["I love it, it's great.", "I hate it, it's awful."])).tolist()
    assert happy > sad
    with pytest.raises(UnknownNameError, match="positive"):
        recipe_named("positiv")
    assert all(recipe.licence for recipe in RECIPES)


def test_bad_settings(bench: Workbench, folder: Path) -> None:
    with pytest.raises(InputError, match="one language model"):
        run(Workbench(bench.models * 2, bench.data, bench.cache, bench.report), settings(folder))
    with pytest.raises(InputError, match="at least one part"):
        run(bench, settings(folder).model_copy(update={"parts": ()}))
    control = Control(wanted=("happy",))
    with pytest.raises(UnknownNameError, match="wish"):
        run(bench, settings(folder).model_copy(update={"control": control}))
