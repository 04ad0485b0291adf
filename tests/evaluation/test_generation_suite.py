"""Prompts, texts side by side, likelihood and entropy by brute force, and the suite from end to end on a tiny model."""

import gzip
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from factorlm.errors import FetchError, InputError
from factorlm.evaluation import diversity, likelihood, mauve
from factorlm.evaluation.continuations import Prompt, Side, Variety, by_unit, long_enough, prompts_of, varieties
from factorlm.evaluation.corpora import DataFolder
from factorlm.evaluation.document import Report
from factorlm.evaluation.generated import HUMAN, Work, closeness
from factorlm.evaluation.run import evaluate
from factorlm.evaluation.suites.generation import Settings
from factorlm.evaluation.workbench import Cache, Findings, Workbench
from factorlm.factors.head import Head
from factorlm.inference import Model, Sampling
from factorlm.inference.expression import Composed
from factorlm.models import CausalLM

NUM_TEXTS = 60
FLOAT32 = 2e-4  # nats over a text of tens of tokens
WORDS = ["the", "good", "bad", "inn", "hat", "a", "toad", "met", "then", "dog"]


def human_text(seed: int, length: int = 30) -> str:
    return " ".join(np.random.default_rng(seed).choice(WORDS, length))


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    """Texts from twelve works, and prompts with continuations."""
    texts = [{"text": human_text(i), "story": f"work {i % 12}"} for i in range(NUM_TEXTS)]
    pairs = [
        {"prompt": "the good ", "continuation": "dog met a bad hat"},
        {"prompt": "then", "continuation": ", a toad met the dog"},
        {"prompt": "a bad", "continuation": "inn"},
        {"prompt": 'he said "', "continuation": "the dog met a toad"},
        {"prompt": "the good", "continuation": "toad met a bad dog"},
    ]
    for name, rows in (("texts/all", texts), ("pairs/all", pairs), ("numbers/all", [{"number": 1}])):
        path = tmp_path / "data" / f"{name}.jsonl.gz"
        path.parent.mkdir(parents=True)
        path.write_bytes(gzip.compress("\n".join(map(json.dumps, rows)).encode()))
    return DataFolder(tmp_path / "data")


def composed(name: str, model: Model) -> Composed:
    return Composed(name, model, (), f"fingerprint of {name}")


def bench_of(folder: DataFolder, *models: Composed) -> Workbench:
    return Workbench(models, folder, Cache(None), lambda stage, done, total: None)


def prompts_with(folder: DataFolder, part: str, **settings: Any) -> list[Prompt]:
    wanted = {"num_prompts": 99, "prompt_words": 4, "words": 5, "unit": "story", "seed": 0} | settings
    return prompts_of(folder, part, **wanted)


def test_a_text_is_cut_into_prompt_and_continuation(folder: DataFolder) -> None:
    found = prompts_with(folder, "texts/all")
    whole = {human_text(i): f"work {i % 12}" for i in range(NUM_TEXTS)}
    assert {p.text + p.human: p.unit for p in found} == whole
    assert all(len(p.text.split()) == 4 and p.human.startswith(" ") for p in found)


def test_works_come_in_turns(folder: DataFolder) -> None:
    assert len({p.unit for p in prompts_with(folder, "texts/all", num_prompts=12)}) == 12
    assert len({p.unit for p in prompts_with(folder, "texts/all", num_prompts=12, unit=None)}) == 12
    first, second = (prompts_with(folder, "texts/all", num_prompts=12, seed=seed) for seed in (0, 1))
    assert first != second


def test_pairs_are_joined_as_they_stood(folder: DataFolder) -> None:
    found = prompts_with(folder, "pairs/all")
    # Too short a continuation is left out, and so is the second of two equal prompts.
    assert len(found) == 3
    assert {p.text for p in found} == {"the good", "then", 'he said "'}
    assert {p.text + p.human for p in found} - {"the good toad met a bad dog"} <= {
        "the good dog met a bad hat", "then, a toad met the dog", 'he said "the dog met a toad',
    }  # fmt: skip


def test_prompts_that_cannot_be_had(folder: DataFolder) -> None:
    with pytest.raises(InputError, match="at least 500 words"):
        prompts_with(folder, "texts/all", words=500)
    with pytest.raises(InputError, match="columns prompt and continuation, or text"):
        prompts_with(folder, "numbers/all")


def test_sums_over_units() -> None:
    assert by_unit(np.array([1.0, 2.0, math.nan, 4.0]), ["a", "b", "b", "a"]).tolist() == [[5, 2], [2, 1]]
    assert by_unit(np.array([[1.0, 2], [3, 4], [5, 6]]), ["a", "b", "a"]).tolist() == [[6, 8], [3, 4]]


def sides_of(texts: Sequence[Sequence[str]], words: int) -> list[Side]:
    return [Side(f"s{i}", [list(row)], [[tuple(range(9))] * len(row)], words) for i, row in enumerate(texts)]


def test_all_sides_are_cut_alike() -> None:
    sides = sides_of([["a b c d e f", "a b", "a b c d"], ["a, b. C d!", "a b c d e", "a-b c's; d e"]], 4)
    assert long_enough(sides).tolist() == [0, 2]
    twice = Side("t", [["a b c d"] * 3, ["a b c d", "a b c d", "a b"]], [], 4)
    assert long_enough([*sides, twice]).tolist() == [0]
    assert sides[1].cut_SP == [["a, b. C d", "a b c d", "a-b c's; d"]]
    assert sides[0].num_words_SP.tolist() == [[6, 2, 4]]


def vectors(texts: list[str]) -> np.ndarray:
    vector_BD = np.array([np.random.default_rng(len(text)).normal(size=5) for text in texts])
    return np.asarray(vector_BD / np.linalg.norm(vector_BD, axis=1, keepdims=True))


def test_measures_are_of_the_cut_texts_that_all_sides_have() -> None:
    texts = [[human_text(100 * s + i, 12 + i % 3) for i in range(20)] for s in range(2)]
    texts[0][3] = "too short"
    sides = sides_of(texts, 10)
    kept_P = long_enough(sides)
    units = [str(i) for i in kept_P]
    ours, theirs = varieties(sides, kept_P, units, vectors, vocabulary=50, seed=0)
    words = [diversity.words_of(text)[:10] for i, text in enumerate(texts[0]) if i != 3]
    assert len(words) == 19
    assert ours.estimate("dist_2", 0).value == diversity.distinct(words, 2)
    assert ours.estimate("self_bleu", 0).value == diversity.self_bleu(words)
    assert ours.estimate("ead_2", 0).value == diversity.expectation_adjusted_distinct(words, 2, 50)
    assert ours.estimate("rep_2", 0).value == pytest.approx(np.mean([diversity.repetition(w, 2) for w in words]))
    assert ours.estimate("loops", 0).value is None
    for key in ("dist_2", "entropy_bits"):
        found = ours.relative_to(theirs, key, 0)
        expected = ours.estimate(key, 0).value / theirs.estimate(key, 0).value - 1
        assert found.value == pytest.approx(expected)
        assert found.low < expected < found.high
    same = ours.relative_to(ours, "dist_1", 0)
    assert (same.value, same.low, same.high) == (0, 0, 0)  # pairing leaves nothing to chance


def test_measures_of_several_samples_are_means() -> None:
    rows = [[human_text(100 * s + i, 12) for i in range(10)] for s in range(2)]
    units = [str(i) for i in range(10)]
    ids = [[tuple(range(9))] * 10] * 2
    [both] = varieties([Side("s", rows, ids, 10)], np.arange(10), units, vectors, vocabulary=50, seed=0)
    singles = [varieties([Side("s", [row], ids[:1], 10)], np.arange(10), units, vectors, vocabulary=50, seed=0)[0]
               for row in rows]  # fmt: skip
    for key in ("dist_1", "self_bleu", "diversity"):
        means = np.mean([single.estimate(key, 0).value for single in singles])
        assert both.estimate(key, 0).value == pytest.approx(means)
    expected = np.mean([a @ b for a, b in zip(*both.vector_SPD, strict=True)])
    assert both.cosine_within_prompts(0).value == pytest.approx(expected)


def test_no_text_is_long_enough() -> None:
    assert varieties(sides_of([["a"]], 4), np.arange(0), [], vectors, vocabulary=50, seed=0) == []


def test_slopes_are_found_again() -> None:
    units = [str(i) for i in range(10)]
    human = [3.0 + 0.01 * np.arange(1, 21 + i) for i in range(10)]
    own = [2.0 - 0.02 * np.arange(1, 31 - i) for i in range(10)]
    assert likelihood.entropy_slope(human, units, 0).value == pytest.approx(1)
    assert likelihood.entropy_slope(own, units, 0).value == pytest.approx(-2)
    drift = likelihood.entropy_drift(own, human, units, 0)
    assert (drift.value, drift.low, drift.high) == pytest.approx((-3, -3, -3))
    noisy = [h + np.random.default_rng(i).normal(0, 0.3, len(h)) for i, h in enumerate(human)]
    time = np.concatenate([np.arange(1, len(h) + 1) / 100 for h in noisy])
    expected = np.polyfit(time, np.concatenate(noisy), 1)[0]
    assert likelihood.entropy_slope(noisy, units, 0).value == pytest.approx(expected)


def test_entropy_by_position_is_that_of_the_texts_that_get_there() -> None:
    entropy = [np.array([1.0, 2, 3, 4, 5]), np.array([3.0, 4])]
    x, y = likelihood.entropy_by_position(entropy, ["a", "b"], 5, 3, 0)
    assert x == (1.5, 3.5, 5.0)
    assert [e.value for e in y] == [2.5, 3.5, 5.0]
    assert [e.n for e in y] == [2, 1, 1]


@pytest.fixture
def prompts() -> list[Prompt]:
    return [Prompt(human_text(i, 3), f" {human_text(50 + i, 12)}", str(i)) for i in range(9)]


def test_readings_are_those_of_the_distributions(
    folder: DataFolder, prompts: list[Prompt], tiny_lm: CausalLM, make_head: Callable[..., Head]
) -> None:
    model = Model(tiny_lm, tiny_lm) * make_head(1, 3)
    bench = bench_of(folder, composed("tiny * head", model))
    found = likelihood.write(bench, 0, prompts, n=2, max_tokens=8, sampling=Sampling())
    text = prompts[4]
    prefix = torch.tensor([[*tiny_lm.start_ids, *tiny_lm.encode_text(text.text)]])
    sample = found.samples[4][1]
    for i, ids, readings in (
        (4, likelihood.human_ids(tiny_lm, text, 8), found.human),
        (9, list(sample.token_ids), found.own),
    ):
        assert len(readings.nats[i]) == len(ids)
        for t, log_weight_BV in enumerate(model.factor.steps(prefix, torch.tensor([ids]))):
            log_prob_V = log_weight_BV[0].double().log_softmax(-1)
            assert readings.entropy[i][t] == pytest.approx(float(-(log_prob_V.exp() * log_prob_V).sum()), abs=FLOAT32)
            assert readings.nats[i][t] == pytest.approx(-float(log_prob_V[ids[t]]), abs=FLOAT32)
    assert found.own.nats[9].sum() == pytest.approx(-sample.log_prob, abs=FLOAT32)
    assert found.own.base_nats[9].sum() == pytest.approx(-sample.base_log_prob, abs=FLOAT32)
    assert found.own_P2.shape == found.judged_P2.shape == (9, 2)
    assert found.own_P2[4, 0] == pytest.approx(-sum(s.log_prob for s in found.samples[4]))


def test_one_judge_for_all_models(folder: DataFolder, prompts: list[Prompt], tiny_lm: CausalLM) -> None:
    plain = Model(tiny_lm, tiny_lm)
    bench = bench_of(folder, composed("tiny", plain), composed("tiny^2", plain**2))
    samples = likelihood.draw(bench, 1, prompts, n=1, max_tokens=6, sampling=Sampling(temperature=0.7))
    found = likelihood.judged(bench, 1, prompts, samples)  # the base of the rival is tiny^2, which is no judge
    for prompt, [sample], (nats, tokens) in zip(prompts, samples, found, strict=True):
        [score] = plain.score(sample.text, prompt=prompt.text)
        assert (nats, tokens) == pytest.approx((-score.log_prob, score.num_tokens), abs=FLOAT32)
    written = likelihood.write(bench, 0, prompts, n=1, max_tokens=6, sampling=Sampling())
    human = likelihood.judged_human(bench, prompts, written, 6)
    squared = bench_of(folder, composed("tiny^2", plain**2))
    again = likelihood.write(squared, 0, prompts, n=1, max_tokens=6, sampling=Sampling())
    np.testing.assert_allclose(likelihood.judged_human(squared, prompts, again, 6), human, atol=FLOAT32)


SMALL = Settings(
    prompts="texts/all", num_prompts=60, prompt_words=4, max_tokens=60, words=4,
    sampling=Sampling(temperature=0.9), temperatures=(0.5, 0.9), num_shown=2,
)  # fmt: skip


@pytest.mark.model
def test_the_suite_from_end_to_end(
    folder: DataFolder, tiny_lm: CausalLM, make_head: Callable[..., Head], tmp_path: Path
) -> None:
    plain = Model(tiny_lm, tiny_lm)
    models = [composed("tiny", plain), composed("tiny * head", plain * make_head(0, 1))]
    stages: list[str] = []

    def run() -> Report:
        return evaluate("generation", models, settings=SMALL, data=folder, cache=Cache(tmp_path / "cache"),
                        report=lambda stage, done, total: stages.append(stage))  # fmt: skip

    try:
        report = run()
    except FetchError as error:
        pytest.skip(f"the sentence encoder could not be fetched: {error}")
    assert Report.model_validate_json(report.model_dump_json()) == report
    names = {"tiny", "tiny * head", HUMAN}
    for measure in ("diversity", "dist_2", "self_bleu", "vendi", "base_perplexity", "words"):
        assert set(report.measures[measure]) == names
        assert all(estimate.value is not None for estimate in report.measures[measure].values())
    assert set(report.measures["entropy_drift"]) == names - {HUMAN}
    assert report.measures["diversity/temperature 0.5"]["tiny"].value is not None
    assert "diversity/temperature 0.9" not in report.measures  # that is the one it is measured at anyway
    assert {c.measure for c in report.comparisons} >= {"Dist-2", "Self-BLEU", "perplexity under the base alone"}
    assert all((c.model, c.rival) == ("tiny", "tiny * head") for c in report.comparisons)
    assert [section.title for section in report.sections] == [
        "Diversity", "Likelihood", "Closeness to human text", "Entropy drift", "Length", "Comparisons", "Samples",
    ]  # fmt: skip
    assert any("too few to rank" in caution for caution in report.cautions)
    [frontier] = [c for c in report.comparisons if c.measure == "frontier integral"]
    assert frontier.verdict == "cannot rank"
    assert "mauve" not in report.measures  # "auto" leaves it out where it could not rank
    assert report.provenance.data.keys() == {"texts/all"}
    assert report.provenance.judges.keys() == {"minilm"}
    again = run()
    assert (again.measures, again.headlines, again.comparisons) == (
        report.measures, report.headlines, report.comparisons,
    )  # fmt: skip


def test_texts_without_words_are_counted(folder: DataFolder, tiny_lm: CausalLM) -> None:
    from factorlm.evaluation.suites import generation

    settings = SMALL.model_copy(update={"max_tokens": 1, "temperatures": (), "num_prompts": 10, "num_shown": 10})
    found: Findings = generation.run(bench_of(folder, composed("tiny", Model(tiny_lm, tiny_lm))), settings)
    assert "diversity" not in found.measures
    assert found.measures["base_perplexity"]["tiny"].value is not None
    assert any(caution.startswith("10 of 10 prompts are left out") for caution in found.cautions)
    samples = next(section for section in found.sections if section.title == "Samples")
    num_empty = sum(not diversity.words_of(text) for heading, _, text in samples.blocks[0].texts if "tiny" in heading)
    [table] = next(section for section in found.sections if section.title == "Length").blocks
    assert [row[-2] for row in table.rows] == [num_empty, 0]


def test_enough_texts_are_ranked_by_closeness(folder: DataFolder, tiny_lm: CausalLM) -> None:
    def variety(shift: float, seed: int) -> Variety:
        vector_SPD = np.random.default_rng(seed).normal(size=(1, 500, 16)) + shift * (np.arange(16) < 4)
        return Variety([str(i) for i in range(500)], {}, np.zeros(0), np.zeros((20, 0)), vector_SPD)

    bench = bench_of(folder, composed("near", Model(tiny_lm, tiny_lm)), composed("far", Model(tiny_lm, tiny_lm)))
    sides = [Side(name, [], [], 4) for name in ("near", "far", HUMAN)]
    settings = SMALL.model_copy(update={"mauve": "off"})
    work = Work(bench, settings, [], [], sides, [variety(0.0, 1), variety(0.8, 2), variety(0.0, 3)])
    section = closeness(work)
    [comparison] = work.comparisons
    assert (comparison.model, comparison.rival, comparison.verdict) == ("near", "far", "better")
    found = {name: estimate.value for name, estimate in work.measures["frontier_integral_of_halves"].items()}
    assert found["far"] > 2 * max(found["near"], found[HUMAN])
    assert len(work.headlines) == 2
    assert "too few" not in section.lead


def test_asking_for_mauve_without_its_package(
    folder: DataFolder, tiny_lm: CausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    from factorlm.evaluation.suites import generation

    monkeypatch.setattr(mauve, "is_installed", lambda: False)
    bench = bench_of(folder, composed("tiny", Model(tiny_lm, tiny_lm)))
    with pytest.raises(InputError, match=r"pip install 'factorlm\[mauve\]'"):
        generation.run(bench, SMALL.model_copy(update={"mauve": "on"}))
    settings = SMALL.model_copy(update={"max_tokens": 1, "temperatures": (), "num_prompts": 10})
    found = generation.run(bench, settings)
    assert sum(mauve.INSTALL in caution for caution in found.cautions) == 1


def test_sizes() -> None:
    small, full = Settings.sized("small"), Settings.sized("full")
    assert (small.num_prompts, small.samples, small.max_tokens) == (64, 1, 40)
    assert (full.num_prompts, full.max_tokens) == (1000, 128)
    assert full.words >= diversity.TAIL  # so that loops can be seen
