"""The adapter beside the harness's own model over the same weights, and the harness running a task of our own."""

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from typer.testing import CliRunner

import factorlm as fl
from factorlm.cli import tasks as command
from factorlm.errors import InputError
from factorlm.evaluation.requests import loglikelihood
from factorlm.factors.head import Head
from factorlm.inference import Model, Sampling
from factorlm.models import CausalLM

pytestmark = pytest.mark.filterwarnings("ignore")  # the harness's own
pytest.importorskip("lm_eval")

from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.models.huggingface import HFLM  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402

from factorlm.evaluation.lm_eval_adapter import FactorLM, generation_of, tokenization_of  # noqa: E402

NATS = 1e-3
TINY_PAIRS = [
    ("the good", " bad"),
    ("the good ", "bad, in a house"),
    ("", "in the bad"),
    ("", "<s> in the bad"),
    ("<s>a, b", ": the good"),
    ("a b c d e f g h i j k l m n o p", " good, bad"),
]
PAIRS = [
    ("The capital of France is", " Paris"),
    ("The capital of France is ", "London"),
    ("", "Hello there, my friend."),
    ("Café costs\n\n", "€ 3.50 per cup"),
    ("<|im_start|>user\nHi<|im_end|>\n", "Hello"),
]


def requests(kind: str, arguments: list[Any]) -> list[Instance]:
    return [Instance(request_type=kind, doc={}, arguments=a, idx=i) for i, a in enumerate(arguments)]


def assert_same_numbers(ours: FactorLM, theirs: HFLM, pairs: list[tuple[str, str]], texts: list[str]) -> None:
    asked = requests("loglikelihood", pairs)
    for got, want in zip(ours.loglikelihood(asked), theirs.loglikelihood(asked, disable_tqdm=True), strict=True):
        assert got[0] == pytest.approx(want[0], abs=NATS)
        assert got[1] == want[1]
    asked = requests("loglikelihood_rolling", [(text,) for text in texts])
    want = theirs.loglikelihood_rolling(asked, disable_tqdm=True)
    assert ours.loglikelihood_rolling(asked) == pytest.approx(want, abs=NATS)


def assert_same_texts(ours: FactorLM, theirs: HFLM, asked: list[tuple[str, dict[str, Any]]]) -> None:
    instances = requests("generate_until", asked)
    assert ours.generate_until(instances) == theirs.generate_until(instances, disable_tqdm=True)


@pytest.fixture(scope="module")
def tiny_theirs(tiny_folder: Path) -> Callable[..., HFLM]:
    def make(**options: Any) -> HFLM:
        network = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
        return HFLM(network, tokenizer=AutoTokenizer.from_pretrained(tiny_folder), batch_size=3, **options)

    return make


@pytest.mark.parametrize("max_length", [None, 12])
def test_numbers_of_the_tiny_model_are_the_harness_own(
    tiny_lm: CausalLM, tiny_theirs: Callable[..., HFLM], max_length: int | None
) -> None:
    ours = FactorLM(Model(tiny_lm, tiny_lm), max_length=max_length)
    texts = ["the good, the bad, a house in a good house", "a", "<s> in a"]
    assert_same_numbers(ours, tiny_theirs(max_length=max_length), TINY_PAIRS, texts)
    asked = [("the good", {"until": ["a"], "max_gen_toks": 6}), ("a b c d e f g h i j k", {"max_gen_toks": 6})]
    assert_same_texts(ours, tiny_theirs(max_length=max_length), asked)


@pytest.mark.model
def test_numbers_of_the_default_model_are_the_harness_own(model: fl.Model) -> None:
    theirs = HFLM(model.lm.model, tokenizer=model.lm.tokenizer, batch_size=2)
    ours = FactorLM(model)
    assert_same_numbers(ours, theirs, PAIRS, ["The quick brown fox jumps over the lazy dog."])
    asked = [
        ("Q: What is the capital of Italy?\nA:", {"until": ["\n"], "max_gen_toks": 6, "do_sample": False}),
        ("Once upon a time", {"until": [".", ","], "max_gen_toks": 6}),
    ]
    assert_same_texts(ours, theirs, asked)
    turns = [{"role": "user", "content": "Hi"}]
    assert ours.apply_chat_template(turns) == theirs.apply_chat_template(turns)
    assert ours.chat_template(True) == theirs.chat_template(True)
    assert ours.chat_template(False) is None


def test_a_composition_is_scored_as_composed(tiny_lm: CausalLM, make_head: Callable[..., Head]) -> None:
    model = Model(tiny_lm * make_head(2, 1) ** 2.0, tiny_lm)
    ours = FactorLM(model, add_bos_token=True)
    kept: list[Any] = []
    ours.cache_hook.add_partial = lambda *what: kept.append(what)
    found = ours.loglikelihood(requests("loglikelihood", TINY_PAIRS[:3]))
    want = loglikelihood(model, TINY_PAIRS[:3])
    assert [log_prob for log_prob, _ in found] == pytest.approx([w.log_prob for w in want], abs=1e-4)
    plain = FactorLM(Model(tiny_lm, tiny_lm), add_bos_token=True).loglikelihood(
        requests("loglikelihood", TINY_PAIRS[:3])
    )
    assert abs(plain[0][0] - found[0][0]) > 0.1
    assert kept == [("loglikelihood", pair, result) for pair, result in zip(TINY_PAIRS[:3], found, strict=True)]


def test_requests_with_other_settings_are_written_each_with_its_own(tiny_lm: CausalLM) -> None:
    ours = FactorLM(Model(tiny_lm, tiny_lm), max_gen_toks=5, seed=1)
    drawn = {"do_sample": True, "temperature": 1.0, "max_gen_toks": 8}
    found = ours.generate_until(
        requests("generate_until", [("the good", drawn), ("the good", {}), ("the good", drawn)])
    )
    greedy = ours.composition.generate("the good", max_tokens=5, sampling=Sampling(temperature=0.0))[0]
    assert found[0] != found[2]
    assert FactorLM(Model(tiny_lm, tiny_lm), max_gen_toks=5).generate_until(
        requests("generate_until", [("<s>the good", {})])
    ) == [greedy.text]


def test_start_tokens_are_those_of_the_tokenizer(tiny_lm: CausalLM) -> None:
    plain = tokenization_of(tiny_lm)
    assert (plain.start_ids, plain.empty_ids) == ((), (0,))
    assert tokenization_of(tiny_lm, True).start_ids == (0,)
    assert tokenization_of(tiny_lm, False, 7).empty_ids == (7,)
    assert plain.whole("<s>a")[0] == 0


@pytest.mark.parametrize(
    ("options", "stops", "max_tokens", "sampling"),
    [
        ({}, (), 9, Sampling(temperature=0.0)),
        ({"until": "\n", "temperature": 0.0, "do_sample": False}, ("\n",), 9, Sampling(temperature=0.0)),
        ({"until": ["a", "b"], "max_gen_toks": 3, "do_sample": False, "temperature": 0.7}, ("a", "b"), 3,
         Sampling(temperature=0.0)),
        ({"temperature": 0.7, "top_p": 0.9, "max_tokens": 4}, (), 4, Sampling(temperature=0.7, top_p=0.9)),
        ({"do_sample": True, "top_k": 5, "max_new_tokens": None}, (), 9, Sampling(top_k=5)),
    ],
)  # fmt: skip
def test_generation_settings(
    options: dict[str, Any], stops: tuple[str, ...], max_tokens: int, sampling: Sampling
) -> None:
    assert generation_of(options, 9) == (stops, max_tokens, sampling)


def test_settings_that_cannot_be_followed_are_named() -> None:
    with pytest.raises(InputError, match="got 'num_beams'; take it out"):
        generation_of({"num_beams": 4}, 9)
    with pytest.raises(InputError, match="generation settings cannot be used: top_p"):
        generation_of({"top_p": 1.5}, 9)


def test_a_model_without_a_chat_template_says_so(tiny_lm: CausalLM) -> None:
    ours = FactorLM(Model(tiny_lm, tiny_lm))
    with pytest.raises(InputError, match="has no chat template"):
        ours.apply_chat_template([{"role": "user", "content": "hi"}])
    assert ours.chat_template(False) is None


def test_a_missing_harness_is_named_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "factorlm.evaluation.lm_eval_adapter"
    monkeypatch.setitem(sys.modules, "lm_eval.api.model", None)
    monkeypatch.delitem(sys.modules, name)
    with pytest.raises(InputError, match=r"pip install 'factorlm\[lm-eval\]'"):
        importlib.import_module(name)


@pytest.fixture
def task_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two questions of our own; the second has the answer that the tiny model writes."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    rows = [
        {"question": "the good", "choices": ["bad", "house"], "answer": 0},
        {"question": "a house", "choices": ["good", "in"], "answer": 1},
    ]
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "own.yaml").write_text(
        f"""
task: factorlm_own
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data}
output_type: multiple_choice
test_split: test
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: answer
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""
    )
    return folder


@pytest.fixture(scope="module")
def run_command() -> Callable[..., Any]:
    app = typer.Typer()
    app.command()(command.tasks)
    return lambda *arguments: CliRunner().invoke(app, list(map(str, arguments)))


def test_a_task_of_our_own_runs_offline(
    task_folder: Path, tiny_folder: Path, tmp_path: Path, run_command: Callable[..., Any]
) -> None:
    expression = f'"{tiny_folder}" * lexicon("good": 3)'
    out = tmp_path / "out"
    options = ("--include", task_folder, "--model", expression, "--out", out)
    done = run_command("factorlm_own", *options, "--json")
    assert done.exception is None
    row = json.loads(done.stdout)
    composed = FactorLM(expression).composition
    questions = [json.loads(line) for line in (task_folder.parent / "rows.jsonl").read_text().splitlines()]
    right = []
    for question in questions:
        pairs = [(question["question"], f" {choice}") for choice in question["choices"]]
        instances = requests("loglikelihood", pairs)
        log_probs = [log_prob for log_prob, _ in FactorLM(composed).loglikelihood(instances)]
        right.append(log_probs.index(max(log_probs)) == question["answer"])
    assert (row["task"], row["metric"], row["n"], row["value"]) == ("factorlm_own", "acc", 2, sum(right) / 2)
    assert json.loads((out / "results.json").read_text())["config"]["model_expression"].endswith('lexicon("good": 3)')
    assert len((out / "samples_factorlm_own.jsonl").read_text().splitlines()) == 2
    assert "| factorlm_own | acc | none |" in (out / "table.md").read_text()


def test_data_that_cannot_be_had_is_one_line(
    task_folder: Path, tiny_folder: Path, run_command: Callable[..., Any]
) -> None:
    model = ("--model", f'"{tiny_folder}"')
    (task_folder.parent / "rows.jsonl").unlink()
    missing = run_command("factorlm_own", "--include", task_folder, *model)
    assert isinstance(missing.exception, InputError)
    assert "the data of factorlm_own cannot be had" in str(missing.exception)
    assert "\n" not in str(missing.exception)
    absent = run_command("factorlm_own", "--include", task_folder / "absent", *model)
    assert "which is not there" in str(absent.exception)


@pytest.mark.slow  # the harness reads thousands of task files
def test_an_unknown_task_is_answered_with_near_names(task_folder: Path, run_command: Callable[..., Any]) -> None:
    unknown = run_command("factorlm_owm", "--include", task_folder)
    assert isinstance(unknown.exception, InputError)
    assert "did you mean factorlm_own" in str(unknown.exception)
