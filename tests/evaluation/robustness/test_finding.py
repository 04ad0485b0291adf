"""Ways of finding slots: a tagger that learns a small language of requests, answers read back, and the suite whole."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from factorlm.errors import InputError
from factorlm.evaluation.corpora import DataFolder
from factorlm.evaluation.robustness import scoring
from factorlm.evaluation.robustness.prompted import Pool, Prompting, answer, parsed, prompt
from factorlm.evaluation.robustness.tagged import Tagging
from factorlm.evaluation.robustness.tagger import Learning, States, states, train_tagger
from factorlm.evaluation.robustness.utterances import from_tags, with_errors
from factorlm.evaluation.suites.robustness import Settings, run
from factorlm.evaluation.workbench import Cache, Workbench
from factorlm.models import CausalLM
from factorlm.text.perturbations import Marked, Span

TOWNS = ("boston", "denver", "dallas", "new york", "oslo", "san jose", "paris", "berlin")
QUICK = Learning(width=16, steps=60, batch=12, learning_rate=2e-2)


def requests(number: int, seed: int) -> list[dict[str, Any]]:
    generator = np.random.default_rng(seed)
    rows = []
    for _ in range(number):
        a, b = (TOWNS[int(generator.integers(len(TOWNS)))].split() for _ in range(2))
        tokens = ["please", "fly", "from", *a, "to", *b, f"day{number}-{len(rows)}"]
        mark = lambda words, kind: [f"{'I' if n else 'B'}-{kind}.city_name" for n in range(len(words))]  # noqa: E731
        rows.append({"tokens": tokens, "slots": ["O", "O", "O", *mark(a, "fromloc"), "O", *mark(b, "toloc"), "O"]})
    return rows


def utterances(number: int, seed: int) -> list[Marked]:
    return [from_tags(row["tokens"], row["slots"]) for row in requests(number, seed)]


def f1(tagger: Any, meant: list[Marked]) -> float:
    return scoring.f1_interval(scoring.table(tagger.find(meant), meant), 0).value or 0.0


@pytest.mark.parametrize("kind", ["letters", "states"])
def test_a_tagger_learns_and_says_the_same_again(kind: str, tiny_lm: CausalLM) -> None:
    train, test = utterances(60, 0), utterances(30, 1)
    known = States(tiny_lm) if kind == "states" else None
    tagger = train_tagger(train, QUICK, known=known)
    assert f1(tagger, test) > 0.9
    if kind == "letters":
        assert train_tagger(train, QUICK).find(test) == tagger.find(test)
    longer = with_errors(test, "verbose=1", 0)
    assert tagger.find(test) == [tagger.find([u])[0] for u in test], "neighbours in a batch must not matter"
    assert f1(tagger, longer) < f1(tagger, test)


def test_states_are_those_after_each_word(tiny_lm: CausalLM) -> None:
    """Slow twin: read each beginning of the text by itself."""
    rows = [["a", "dog", "in", "the", "house"], ["cat"], ["good", "bad"]]
    found = states(tiny_lm, rows)
    for words, state_WD in zip(rows, found, strict=True):
        for n in range(len(words)):
            ids = [token for word in words[: n + 1] for token in tiny_lm.encode_text(f" {word}")]
            alone = tiny_lm.encode(torch.tensor([[*tiny_lm.start_ids, *ids]])).hidden_BD[0]
            torch.testing.assert_close(state_WD[n].float(), alone.float(), atol=5e-3, rtol=5e-3)  # half precision


def test_states_are_read_once(tiny_lm: CausalLM, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    inner = tiny_lm.hidden_before
    monkeypatch.setattr(tiny_lm, "hidden_before", lambda prefix, text: read.append(len(text)) or inner(prefix, text))
    known, rows = States(tiny_lm), [["a", "dog"], ["cat"], ["a", "dog"]]
    first = known.of(rows)
    assert sum(read) == 2
    torch.testing.assert_close(known.of([["cat"], ["a", "dog"]]), [first[1], first[0]])
    assert sum(read) == 2


KINDS = ["fromloc.city_name", "toloc.city_name"]


def test_an_answer_is_read_back() -> None:
    for u in utterances(20, 2):
        assert parsed(f" {answer(u)}\nmore: text", u, KINDS) == list(u.spans)


def test_answers_that_are_not_as_asked() -> None:
    u = from_tags(["from", "Boston", "to", "boston", "bay"], ["O", "B-a", "O", "B-b", "O"])
    assert parsed("a: boston; b: boston", u, ["a", "b"]) == [Span(5, 11, "a"), Span(15, 21, "b")]
    assert parsed('A: "Boston".; b', u, ["a", "b"]) == [Span(5, 11, "a")]
    assert parsed("c: boston", u, ["a", "b"])[0].kind == "unknown c"
    [nowhere] = parsed("a: bosto", u, ["a", "b"])  # a part of a word stands nowhere
    assert nowhere.end <= 0
    assert parsed("none", u, ["a", "b"]) == []
    twice = parsed("a: oslo; a: oslo", u, ["a"])
    assert len(set(twice)) == 2


def test_prompts_show_what_their_strategy_says() -> None:
    pool = Pool.of(utterances(30, 3))
    asked = from_tags(["please", "fly", "from", "oslo", "to", "paris"], ["O"] * 6)
    texts = {s: prompt(s, asked, pool, pool, Prompting(shots=2)) for s in ("none", "utterances", "values")}
    assert all(text.endswith("Sentence: please fly from oslo to paris\nSlots:") for text in texts.values())
    assert texts["utterances"].count("Sentence:") == 3
    assert texts["none"].count("Sentence:") == 1
    assert "Types: fromloc city name, toloc city name" in texts["none"]
    assert "toloc city name: " in texts["values"]
    assert "oslo" in texts["utterances"].rpartition("Sentence:")[0]  # the nearest share its town


Put = Callable[[str, list[dict[str, Any]]], DataFolder]


def test_the_suite_whole_and_from_its_cache(put: Put, tiny: Callable[[str], Any], tmp_path: Any) -> None:
    put("snips/train", requests(41, 0))
    put("noisy_slots/all", [{**row, "source": "snips", "noise": "AppendIrr"} for row in requests(10, 5)])
    data = put("snips/test", requests(40, 1))
    settings = Settings(
        taggers=Tagging(
            sets=("snips",), reads=("letters",), num_train=41, num_test=12, learning=QUICK,
            conditions=("typos=1", "verbose", "append", "typos=1+append"),
        ),
        prompts=Prompting(num_test=4, num_pool=20, shots=1, max_tokens=6, conditions=("append",)),
    )  # fmt: skip
    stages: list[str] = []

    def bench() -> Workbench:
        return Workbench(
            (tiny("tiny"),), data, Cache(tmp_path / "cache"), lambda stage, done, total: stages.append(stage)
        )

    found = run(bench(), settings)
    assert any("training a tagger" in stage for stage in stages)
    stages.clear()
    assert run(bench(), settings).measures == found.measures
    assert not any("training a tagger" in stage for stage in stages)
    name = "F1/slots/snips/letters, clean"
    assert found.measures[name]["clean"].value > found.measures[name]["typos=1"].value  # type: ignore[operator]
    assert found.measures["augmentation/slots/snips/letters"]["noisy F1 gained"].value > 0  # type: ignore[operator]
    assert found.measures["worst part less mixture/slots/snips/letters, clean"]["typos=1+append"].value is not None
    assert found.measures["F1/recorded slots/snips/letters, clean"]["AppendIrr"].n == 10
    assert set(found.measures["demonstrations/prompted/snips"]) == {"nearest utterances", "values of slots"}
    assert found.measures["F1/prompted/snips/values of slots"]["append"].value == 0.0  # random weights


def test_bad_settings_are_refused(put: Put, tiny: Callable[[str], Any]) -> None:
    data = put("snips/train", requests(3, 0))
    bench = Workbench((tiny("tiny"),), data, Cache(None), lambda stage, done, total: None)
    with pytest.raises(InputError, match="at most 3 utterances"):
        run(bench, Settings())
    with pytest.raises(InputError, match="at least one part"):
        run(bench, Settings(parts=()))
    with pytest.raises(InputError, match="one model"):
        run(Workbench((tiny("a"), tiny("b")), data, Cache(None), bench.report), Settings())
