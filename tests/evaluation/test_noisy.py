"""Any suite with errors in its prompts: what is changed, what stays, and what the report says of it."""

from collections.abc import Callable
from typing import Any

import pytest

from factorlm.errors import InputError
from factorlm.evaluation.corpora import DataFolder
from factorlm.evaluation.noisy import noisy
from factorlm.evaluation.questions import QUESTION_SETS
from factorlm.evaluation.run import evaluate
from factorlm.evaluation.suites.capability import Asked, Settings
from factorlm.evaluation.workbench import Cache
from factorlm.text.perturbations import Noise

Put = Callable[[str, list[dict[str, Any]]], DataFolder]
WORDS = ("river", "window", "garden", "candle", "market", "bridge", "pencil", "winter")


def rows(number: int) -> list[dict[str, Any]]:
    return [
        {"id": str(n), "question": f"Where would people find {WORDS[n % 8]} number {n}?", "answer": "A",
         "choices": {"A": "station", "B": "kitchen"}}
        for n in range(number)
    ]  # fmt: skip


def test_questions_get_errors_and_answers_and_examples_none(put: Put) -> None:
    put("commonsense_qa/train", rows(12))
    clean = put("commonsense_qa/dev", rows(12))
    data = noisy(clean, "typos=1", 3)
    ask = QUESTION_SETS["commonsense_qa"].ask
    for before, after in zip(ask(clean, None, 1, 0), ask(data, None, 1, 0), strict=True):
        example, _, asked = before.prompt.rpartition("Question: ")
        wrong = Noise.of("typos=1").text(asked.removesuffix("\nAnswer:"), 3)
        assert after.prompt == f"{example}Question: {wrong}\nAnswer:"
        assert after.prompt != before.prompt
        assert (after.right, after.wrong) == (before.right, before.wrong)
    assert data.asked == {True: 12}


def test_the_report_says_what_was_done(put: Put, tiny: Callable[[str], Any]) -> None:
    put("commonsense_qa/train", rows(12))
    data = put("commonsense_qa/dev", rows(12))
    settings = Settings(sets=("commonsense_qa",), commonsense_qa=Asked(num_questions=12))

    def run(perturb: str) -> Any:
        return evaluate("capability", tiny("tiny"), settings=settings, data=data, cache=Cache(None), perturb=perturb)

    clean, typed = run(""), run("typos=1")
    assert typed.provenance.settings["perturb"] == "typos=1"
    assert "perturb" not in clean.provenance.settings
    assert "100% were changed" in typed.cautions[0]
    name = next(n for n in clean.measures if "probability" in n)
    assert typed.measures[name] != clean.measures[name]
    assert run("typos=1").measures == typed.measures


def test_a_suite_without_prompts_in_data_refuses(put: Put, tiny: Callable[[str], Any]) -> None:
    data = put("commonsense_qa/dev", rows(2))
    from factorlm.evaluation.suites.perplexity import Settings as Texts

    path = data.folder / "a.txt"
    path.write_text("one text\nanother text\n")
    with pytest.raises(InputError, match="reads no prompts"):
        evaluate("perplexity", tiny("tiny"), settings=Texts(texts=(f"a={path}",)), data=data, cache=Cache(None),
                 perturb="typos")  # fmt: skip
    with pytest.raises(InputError, match="marked slots"):
        evaluate("capability", tiny("tiny"), data=data, cache=Cache(None), perturb="entity_typos")
