"""The suite of edits, small and whole, and claims from made-up records: they can hold, and they can fail."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from factorlm.errors import InputError
from factorlm.evaluation.claims import CLAIMS, run_claim
from factorlm.evaluation.edited.cases import Case
from factorlm.evaluation.edited.ground import generation_entropy, harmonic, over, probed
from factorlm.evaluation.edited.hard import HARD
from factorlm.evaluation.edited.ways import C_ROME, LEXICON, MEMIT, MEMORY, ROME, STATEMENT, TILT, TUNED, Doses
from factorlm.evaluation.facts import Training, WorldSettings
from factorlm.evaluation.suites.editing import FactWorld, FirstTokens, RealModel, Settings, run
from factorlm.evaluation.workbench import Cache, Workbench
from factorlm.inference import Model
from factorlm.inference.expression import Composed
from factorlm.models import CausalLM
from factorlm.models.editing.facts import EditFact
from factorlm.models.editing.methods import EditSettings
from factorlm.models.editing.values import ValueSettings

VALUE = ValueSettings(prefixes=(2,), steps=8, learning_rate=1.0, clamp=20.0)
DOSES = Doses(edit=EditSettings(layer=0, value=VALUE, weight=0.1))
ALL = (ROME, C_ROME, MEMIT, TUNED, LEXICON, MEMORY, STATEMENT, TILT)


def test_what_a_model_says_of_a_case(tiny_lm: CausalLM) -> None:
    def log_prob(prompt: str, end: str) -> float:
        import torch

        before, whole = tiny_lm.encode_text(prompt), tiny_lm.encode_text(prompt + end)
        start_BT = torch.tensor([[*tiny_lm.start_ids, *before]])
        return float(tiny_lm.score(start_BT, torch.tensor([whole[len(before) :]])).sum())

    fact = EditFact(subject="the cat", prompt="i met {}", target="good", truth="bad")
    case = Case(fact, ("once the cat", "so the cat"), ("i met a dog",))
    got = probed(Model(tiny_lm, tiny_lm), case)
    gains = [log_prob(p, " good") - log_prob(p, " bad") for p in ("i met the cat", "once the cat", "so the cat")]
    assert got["efficacy"] == float(gains[0] > 0)
    assert got["paraphrase"] == sum(gain > 0 for gain in gains[1:]) / 2
    assert got["neighbourhood"] == float(log_prob("i met a dog", " good") < log_prob("i met a dog", " bad"))
    new, old = (math.exp(log_prob("i met the cat", end)) for end in (" good", " bad"))
    assert got["magnitude"] == pytest.approx(new - old, abs=1e-5)


def test_scores() -> None:
    assert harmonic([1.0, 0.5, 0.5]) == pytest.approx(0.6)
    assert harmonic([1.0, 0.0, 0.5]) == 0
    assert generation_entropy("a a a a a") == 0
    pairs, triples = math.log(3), math.log(2)
    assert generation_entropy("a b c d") == pytest.approx((2 / 3 * pairs + 4 / 3 * triples) / 2)


def test_factors_read_the_edited_model(tiny_lm: CausalLM, fresh_lm: CausalLM, make_head: Any) -> None:
    model = Model(tiny_lm * make_head(0) ** 0.5, tiny_lm)
    moved = over(model, fresh_lm)
    assert moved.lm is fresh_lm
    assert [term.factor.lm for term in moved.terms[1:]] == [fresh_lm]
    assert moved.terms[0].factor is fresh_lm


@pytest.fixture
def rows(put: Any) -> Any:
    """Small data sets in the form of the real ones, of words that the tiny model can read."""
    names, ends = ("cat", "dog", "pig", "hen", "fox", "good", "bad", "he"), ("good", "bad", "he")
    facts = [
        {"case_id": n, "subject": f"{a} the {b}", "prompt": f"{a} the {b} met", "target_new": "good",
         "ground_truth": "bad", "rephrase_prompt": f"so {a} the {b} met", "locality_prompt": f"{b} met"}
        for n, (a, b) in enumerate((a, b) for a in names for b in names)
    ]  # fmt: skip
    facts += [{**facts[0], "subject": word, "prompt": f"{word} met"} for word in ("good", "bad", "the")]
    put("counterfact/edit", facts)
    put("me_ppl/all", [{"corpus": "x", "text": f"so a {x} had a {y} in {n}."} for n, (x, y) in enumerate(
        (x, y) for x in ("man", "pen", "cup") for y in ("hat", "bag", "map", "tin"))])  # fmt: skip
    choice = [{"id": str(n), "question": f"what {n}", "choices": dict(zip("ABC", ends, strict=True)), "answer": "A"}
              for n in range(3)]  # fmt: skip
    put("commonsense_qa/dev", choice)
    put("commonsense_qa/train", choice)
    return put("truthfulqa/all", [{"question": "who", "best_answer": "he", "correct_answers": ["he"],
                                   "incorrect_answers": ["the cat", "bad"]}] * 3)  # fmt: skip


def test_the_suite(tiny_lm: CausalLM, rows: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACTORLM_CACHE", str(tmp_path / "models"))
    composed = Composed("tiny", Model(tiny_lm, tiny_lm), (), "tiny")
    bench = Workbench((composed,), rows, Cache(tmp_path / "cache"), lambda stage, done, total: None)
    small = {"guard": 3, "large": 5, "questions": 2, "tokens": 300, "doses": DOSES}
    settings = Settings(
        ways=ALL,
        world=FactWorld(
            world=WorldSettings(subjects=8, objects=3, first_names=4, frequencies=(3,)), strangers=20,
            training=Training(width=16, depth=2, heads=2, epochs=1), singles=2, stops=(1, 3), removed=2, **small,
        ),
        model=RealModel(singles=2, max_tokens=3, **small),
        hard=FirstTokens(cases=2),
    )  # fmt: skip
    found = run(bench, settings)
    assert set(found.measures["tiny/efficacy"]) == {"as it was", *ALL}
    assert found.measures["fact world/removal"]["exact"].value == 1
    assert set(found.measures["fact world/series efficacy"]) >= {"ROME, 3", "MEMIT, 3", "fine-tuning, 1"}
    assert found.measures["tiny/bytes"][ROME].value == 4 * (32 + 48)
    assert found.measures["tiny/neighbourhood lost"][LEXICON].n == 2
    assert len(found.headlines) == 7
    again = run(bench, settings)
    assert again.measures == found.measures
    with pytest.raises(InputError, match="some of the ways"):
        run(bench, settings.model_copy(update={"ways": ("magic",)}))


Range = tuple[float | None, float | None, float | None]
ONE_BY_ONE: dict[str, dict[str, Range]] = {
    "efficacy": {ROME: (0.98, 0.9, 1.0), LEXICON: (1.0, 0.9, 1.0)},
    "paraphrase": {ROME: (0.9, 0.85, 0.95), LEXICON: (0.9, 0.8, 1)},
    "neighbourhood lost": {ROME: (0.05, 0.0, 0.08), LEXICON: (0.02, 0, 0.1)},
    "perplexity ratio": {ROME: (1.1, 1, 1.2), LEXICON: (1.0, 1, 1.1)},
}
GOOD: dict[str, dict[str, Range]] = {
    **{f"{place}/{name}": values for place in ("fact world", "smollm2") for name, values in ONE_BY_ONE.items()},
    "fact world/series efficacy": {f"{MEMIT}, 100": (0.95, None, None), f"{ROME}, 100": (0.3, None, None)},
    "fact world/series perplexity ratio": {f"{MEMIT}, 100": (1.02, None, None), f"{ROME}, 100": (9.0, None, None)},
    "fact world/perplexity and accuracy": {"rank correlation": (-0.9, None, None)},
    "fact world/guard": {"flagged by the large one": (20, None, None), "of these by the small one": (1.0, None, None),
                         "false alarms": (1, None, None)},
    "fact world/removal": {"exact": (1.0, None, None)},
    "first tokens/norm, hard over ordinary, bare": {ROME: (5.0, 3.0, 8.0), C_ROME: (1.1, 0.9, 1.4)},
    f"first tokens/{HARD}, efficacy behind a prefix, bare": {C_ROME: (0.9, 0.8, 1)},
}  # fmt: skip
NAMES = [
    "rome-writes-facts-world", "rome-writes-facts-smollm2", "memit-keeps-where-sequential-rome-breaks",
    "perplexity-tracks-damage", "small-guard-suffices", "first-token-subjects-blow-up", "c-rome-repairs",
    "removing-an-edit-restores", "factor-edits-have-fewer-side-effects",
]  # fmt: skip
CHANGES: list[tuple[str, str, dict[str, Range], str]] = [
    ("rome-writes-facts-world", "fact world/efficacy", {ROME: (0.5, 0.4, 0.6)}, "does not hold here"),
    ("rome-writes-facts-smollm2", "smollm2/paraphrase", {ROME: (0.7, 0.5, 0.9)}, "not shown"),
    ("memit-keeps-where-sequential-rome-breaks", "fact world/series efficacy",
     {f"{MEMIT}, 100": (0.8, None, None), f"{ROME}, 100": (0.3, None, None)}, "does not hold here"),
    ("perplexity-tracks-damage", "fact world/perplexity and accuracy", {"rank correlation": (-0.5, None, None)},
     "does not hold here"),
    ("small-guard-suffices", "fact world/guard", {"flagged by the large one": (2, None, None),
     "of these by the small one": (1.0, None, None), "false alarms": (0, None, None)}, "not shown"),
    ("first-token-subjects-blow-up", "first tokens/norm, hard over ordinary, bare",
     {ROME: (0.8, 0.6, 0.9), C_ROME: (1, 0.9, 1.1)}, "does not hold here"),
    ("c-rome-repairs", "first tokens/norm, hard over ordinary, bare", {ROME: (5, 3, 8), C_ROME: (4.0, 2.5, 6)},
     "does not hold here"),
    ("removing-an-edit-restores", "fact world/removal", {"exact": (0.9, None, None)}, "does not hold here"),
    ("factor-edits-have-fewer-side-effects", "smollm2/perplexity ratio", {ROME: (1.0, 1, 1), LEXICON: (1.4, 1, 2)},
     "does not hold here"),
]  # fmt: skip


def verdict(name: str, measures: dict[str, dict[str, Range]], folder: Path) -> str:
    by = {
        measure: {of: {"value": v, "low": low, "high": high, "n": 30} for of, (v, low, high) in values.items()}
        for measure, values in measures.items()
    }
    (folder / "editing").mkdir(parents=True, exist_ok=True)
    report = {"measures": by, "provenance": {"commit": "c", "machine": "m", "versions": {}}}
    (folder / "editing" / "report.json").write_text(json.dumps(report))
    return run_claim(name, benchmarks=folder, cache=Cache(None)).outcome.verdict


@pytest.mark.parametrize("name", NAMES)
def test_claims_can_hold(name: str, tmp_path: Path) -> None:
    assert verdict(name, GOOD, tmp_path) == "holds"


@pytest.mark.parametrize(("name", "measure", "values", "expected"), CHANGES, ids=[change[0] for change in CHANGES])
def test_claims_can_fail(name: str, measure: str, values: dict[str, Range], expected: str, tmp_path: Path) -> None:
    assert measure in GOOD
    assert verdict(name, {**GOOD, measure: values}, tmp_path) == expected


def test_all_are_listed() -> None:
    assert set(NAMES) <= set(CLAIMS)
