"""The capability suite: marks by hand, questions of made-up and of real data, and runs that go on where they broke."""

import gzip
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from factorlm.errors import InputError, UnknownNameError
from factorlm.evaluation.answers import final_number
from factorlm.evaluation.corpora import DataFolder
from factorlm.evaluation.document import Intervals, Report, Table
from factorlm.evaluation.document import Samples as ShownSamples
from factorlm.evaluation.marks import Mark, choice_marks, written_marks
from factorlm.evaluation.questions import QUESTION_SETS, Question, nearest_sentence
from factorlm.evaluation.run import evaluate
from factorlm.evaluation.suites.capability import Asked, Settings, _compared, _floors, _headlines, run
from factorlm.evaluation.workbench import Cache, Workbench
from factorlm.factors import bind, lexicon
from factorlm.factors.head import Head
from factorlm.inference import Model
from factorlm.inference.expression import Composed
from factorlm.models import CausalLM

SMALL = Settings(
    commonsense_qa=Asked(num_questions=12, shots=1),
    truthfulqa=Asked(num_questions=12),
    gsm8k=Asked(num_questions=4, shots=1, max_tokens=6),
    xquad_en=Asked(num_questions=12, shots=1, max_tokens=6),
)
WORDS = ("good", "bad", "house", "cat", "dog", "the", "in", "a")


def logs(*probs: float) -> list[float]:
    return [math.log(p) if p else -math.inf for p in probs]


# Marks


def test_mc1_and_mc2_by_hand() -> None:
    """Lin et al. (2021): MC1 sets the best answer against wrong ones, MC2 all right ones against all."""
    questions = [
        Question("1", "", right=(" aa", " b"), wrong=(" cccc",)),
        Question("2", "", right=(" a",), wrong=(" bbb", " cc")),
        Question("3", "", right=(" best", " other"), wrong=(" x", " y")),
    ]
    found = {
        "m": [
            {"log_probs": logs(0.2, 0.1, 0.3)},  # best loses, though all right answers have half
            {"log_probs": logs(0.5, 0.25, 0.25)},
            {"log_probs": logs(0.1, 0.7, 0.05, 0.05)},  # the other right answer is no rival of the best
        ]
    }
    mc1, mc2 = choice_marks("truthfulqa", questions, found)
    assert (mc1.measure, mc2.measure) == ("MC1", "MC2")
    assert mc1.sums_QC["m"].tolist() == [[0, 1], [1, 1], [1, 1]]
    assert mc2.sums_QC["m"][:, 0] == pytest.approx([0.5, 0.5, 0.8 / 0.9])
    assert mc1.chance_Q == pytest.approx([1 / 2, 1 / 3, 1 / 3])
    assert mc2.chance_Q == pytest.approx([2 / 3, 1 / 3, 1 / 2])
    assert mc1.rule_Q == pytest.approx([0, 0, 1])  # the longest answer
    assert mc2.rule_Q == pytest.approx([0, 0, 1])
    estimate = mc1.estimate("m", 0)
    assert (estimate.value, estimate.n) == (pytest.approx(2 / 3), 3)


def test_choices_in_total_and_per_byte_by_hand() -> None:
    questions = [Question("1", "", right=(" long",), wrong=(" a", " é"))]
    found = {"m": [{"log_probs": [-4.0, -2.0, -2.2]}], "n": [{"log_probs": [-math.inf] * 3}]}
    accuracy, per_byte, share = choice_marks("commonsense_qa", questions, found)
    assert accuracy.sums_QC["m"][0, 0] == 0
    assert per_byte.sums_QC["m"][0, 0] == 1  # -1 against -2 and, é having two bytes, -1.1
    total = sum(math.exp(x) for x in (-4.0, -2.0, -2.2))
    assert share.sums_QC["m"][0, 0] == pytest.approx(math.exp(-4) / total)
    assert accuracy.sums_QC["n"][0, 0] == pytest.approx(1 / 3)  # nothing is possible: a guess
    assert share.sums_QC["n"][0, 0] == 0


def test_written_answers_by_hand() -> None:
    questions = [Question("p", "", right=(" ab cd",), rule="ab"), Question("p", "", right=(" e",))]
    found = {
        "m": [{"text": " ab", "log_prob": -math.log(8)}, {"text": "e.", "log_prob": -math.log(2)}],
        "n": [{"text": "x", "log_prob": -1.0}, {"text": "y", "log_prob": -math.inf}],
    }
    f1, exact, bits = written_marks("xquad_en", questions, found)
    assert f1.sums_QC["m"][:, 0] == pytest.approx([2 / 3, 1])
    assert exact.sums_QC["m"][:, 0] == pytest.approx([0, 1])
    assert f1.rule_Q == pytest.approx([2 / 3, 0])
    assert bits.sums_QC["m"].tolist() == [[pytest.approx(3), 6]]  # the impossible answer counts for nobody
    assert f1.sums_UC("m").tolist() == [[pytest.approx(5 / 3), 2]]  # one passage
    assert f1.floor("n") == "no answer is right"
    assert f1.floor("m") == bits.floor("m") == ""
    worked = [Question("q", "", right=(" 2 + 2 = 4\n#### 4",), rule="7")]
    exact, bits = written_marks("gsm8k", worked, {"m": [{"text": "so 4.0", "log_prob": -1.0}]})
    assert exact.sums_QC["m"].tolist() == [[1, 1]]
    assert exact.rule_Q == pytest.approx([0])


def coin_mark(**right: int) -> Mark:
    """Twenty questions with two answers, of which each model gets the first few right."""
    hits = {model: np.stack([np.arange(20) < n, np.ones(20)], 1).astype(float) for model, n in right.items()}
    units_Q = tuple(map(str, range(20)))
    return Mark("accuracy", "commonsense_qa", units_Q, hits, chance_Q=np.full(20, 0.5), is_hit=True)


def test_floors_are_those_of_guessing() -> None:
    mark = coin_mark(m=14, n=15)
    assert mark.least == 0.75  # P(15 or more of 20 by coin) = 0.02, of 14 or more 0.06
    assert mark.floor("m") == "no better than guessing"
    assert mark.floor("n") == ""


@pytest.mark.parametrize(
    ("mine", "theirs", "verdict"),
    [(20, 10, "better"), (10, 20, "worse"), (18, 18, "no difference shown"), (2, 14, "cannot rank")],
)
def test_verdicts(mine: int, theirs: int, verdict: str, made_up: DataFolder, plain: Composed) -> None:
    bench = bench_of(made_up, replace(plain, expression="m"), replace(plain, expression="n"))
    mark = coin_mark(m=mine, n=theirs)
    [comparison] = _compared(bench, [mark])
    assert comparison.verdict == verdict
    assert comparison.difference.value == pytest.approx((mine - theirs) / 20)
    assert (comparison.reason == "no better than guessing, by either model") == (verdict == "cannot rank")
    bits = Mark(
        "bits",
        "gsm8k",
        mark.units_Q,
        {m: x_QC + np.array([1.0, 0.0]) for m, x_QC in mark.sums_QC.items()},
        is_bits=True,
    )
    [comparison] = _compared(bench, [bits])
    assert comparison.verdict == {"better": "worse", "worse": "better", "cannot rank": "better"}.get(verdict, verdict)


# Questions


def save(folder: Path, part: str, rows: list[dict[str, Any]]) -> None:
    path = folder / f"{part}.jsonl.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))


@pytest.fixture(scope="module")
def made_up(tmp_path_factory: pytest.TempPathFactory) -> DataFolder:
    """Small question sets in the letters that the tiny model has."""
    folder = tmp_path_factory.mktemp("data")
    generator = np.random.default_rng(0)

    def text(number: int) -> str:
        return " ".join(generator.choice(WORDS, number))

    for part in ("train", "dev"):
        save(folder, f"commonsense_qa/{part}", [
            {"id": f"{part}{i}", "concept": "", "question": f"{text(3)}, {i * 'a'}",
             "choices": {letter: text(1 + n % 2) for n, letter in enumerate("ABCDE")}, "answer": "ABCDE"[i % 5]}
            for i in range(14)
        ])  # fmt: skip
    answers = [[text(1), text(2)] for _ in range(14)]
    save(folder, "truthfulqa/all", [
        {"question": f"{text(3)}, {i * 'b'}", "best_answer": answer[0], "correct_answers": answer,
         "incorrect_answers": [f"{text(n)} x" for n in (1, 2, 3)]}
        for i, answer in enumerate(answers)
    ])  # fmt: skip
    for part in ("train", "test"):
        rows = [{"question": f"{text(2)} {i}", "answer": f"{text(2)} <<1+{i}={1 + i}>>\n#### {i}"} for i in range(6)]
        save(folder, f"gsm8k/{part}", rows)
    passages = [{"pid": f"p{i:02}", "title": "", "text": f"{text(3)}. {text(3 + i)}."} for i in range(10)]
    save(folder, "xquad_en/passages", passages)
    save(folder, "xquad_en/questions", [
        {"qid": str(q), "pid": f"p{q % 10:02}", "question": text(2), "answers": [text(1)]} for q in range(17)
    ])  # fmt: skip
    return DataFolder(folder)


def test_more_questions_keep_the_first_ones_and_seeds_draw_others(made_up: DataFolder) -> None:
    for questions in QUESTION_SETS.values():
        few, more, others = (questions.ask(made_up, n, 1, seed) for n, seed in ((3, 0), (5, 0), (3, 1)))
        assert more[:3] == few
        assert others != few
        with pytest.raises(InputError, match="ask for fewer"):
            questions.ask(made_up, 1000, 1, 0)
    with pytest.raises(InputError, match="at most 4 pairs"):
        QUESTION_SETS["truthfulqa"].ask(made_up, 3, 5, 0)


def test_questions_are_put_with_examples_that_are_not_asked(made_up: DataFolder) -> None:
    [question, *_] = QUESTION_SETS["commonsense_qa"].ask(made_up, 2, 2, 0)
    assert question.prompt.count("Question: ") == 3
    assert question.prompt.endswith("\nAnswer:")
    assert len(question.wrong) == 4
    assert all(answer.startswith(" ") for answer in (*question.right, *question.wrong))
    worked = QUESTION_SETS["gsm8k"].ask(made_up, None, 2, 0)
    assert all("<<" not in text for q in worked for text in (q.prompt, *q.right))
    assert worked[0].prompt.count("#### ") == 2
    assert {int(final_number(q.rule) or 0) for q in worked} == set(range(6))
    read = QUESTION_SETS["xquad_en"].ask(made_up, None, 1, 0)
    shortest = read[0].prompt.partition("\n")[0]
    assert not any(q.prompt.count(shortest) > 1 for q in read)
    assert len({q.unit for q in read[:9]}) == 9  # a passage comes again only when all were asked about
    assert len(read) == 17 - 2


def test_the_nearest_sentence_has_most_words_of_the_question() -> None:
    passage = "The cat sleeps. A dog sees the cat! Birds fly."
    assert nearest_sentence(passage, "What does the dog see of the cat?") == "A dog sees the cat!"


def test_real_question_sets(data: DataFolder) -> None:
    found = {name: questions.ask(data, None, 2, 0) for name, questions in QUESTION_SETS.items()}
    assert [len(questions) for questions in found.values()] == [1221, 817, 1319, 1184]
    assert all(q.wrong or QUESTION_SETS[name].stops for name, questions in found.items() for q in questions)
    gold = {row["question"]: row["answer"].partition("#### ")[2].replace(",", "") for row in data.rows("gsm8k/test")}
    assert all(str(final_number(q.right[0])) == gold[q.unit] for q in found["gsm8k"])
    best = {row["question"]: row["best_answer"] for row in data.rows("truthfulqa/all")}
    assert all(q.right[0].strip(" .") == best[q.unit].strip(" .") for q in found["truthfulqa"])
    assert all(q.right[0] not in q.wrong for q in found["truthfulqa"])


# Runs


def composed(name: str, model: Model) -> Composed:
    return Composed(name, model, ({"name": name, "kind": "model", "fingerprint": name},), name)


@pytest.fixture
def plain(tiny_lm: CausalLM) -> Composed:
    return composed("tiny", Model(tiny_lm, tiny_lm))


@pytest.fixture
def steered(tiny_lm: CausalLM, make_head: Callable[..., Head]) -> Composed:
    return composed("tiny * head", Model(tiny_lm * make_head(2, 1) ** 2.0, tiny_lm))


def bench_of(data: DataFolder, *models: Composed, folder: Path | None = None, **more: Any) -> Workbench:
    return Workbench(models, data, Cache(folder), more.pop("report", lambda stage, done, total: None), **more)


def test_figures_are_those_of_the_models(made_up: DataFolder, plain: Composed) -> None:
    found = run(bench_of(made_up, plain), SMALL)
    questions = QUESTION_SETS["truthfulqa"].ask(made_up, 12, 0, 0)
    mc1, mc2 = [], []
    for q in questions:
        answers = [*q.right, *q.wrong]
        log_probs = [score.log_prob for score in plain.model.score(answers, prompt=q.prompt)]
        prob = np.exp(log_probs)
        mc2.append(prob[: len(q.right)].sum() / prob.sum())
        mc1.append(float(log_probs[0] > max(log_probs[len(q.right) :])))
    assert found.measures["MC1/truthfulqa"]["tiny"].value == pytest.approx(np.mean(mc1))
    assert found.measures["MC2/truthfulqa"]["tiny"].value == pytest.approx(np.mean(mc2), abs=1e-4)
    questions = QUESTION_SETS["xquad_en"].ask(made_up, 12, 1, 0)
    nats = [-plain.model.score(q.right[0], prompt=q.prompt)[0].log_prob for q in questions]
    want = sum(nats) / math.log(2) / sum(len(q.right[0]) for q in questions)
    estimate = found.measures["bits per byte of the answer/xquad_en"]["tiny"]
    assert estimate.value == pytest.approx(want, abs=1e-4)
    assert estimate.n == 9  # passages
    assert found.comparisons == ()
    assert any("On CommonsenseQA" in line or "on CommonsenseQA must" in line for line in found.cautions)


def test_a_report_with_a_rival(made_up: DataFolder, plain: Composed, steered: Composed) -> None:
    report = evaluate("capability", [steered, plain], settings=SMALL, data=made_up, cache=Cache(None))
    assert Report.model_validate_json(report.model_dump_json()) == report
    assert set(report.provenance.data) == {questions.part for questions in QUESTION_SETS.values()}
    assert {c.measure for c in report.comparisons} >= {"TruthfulQA: MC2", "XQuAD (English): F1"}
    for c in report.comparisons:
        measure, name = next(
            (m, n)
            for m, n in (key.split("/") for key in report.measures)
            if c.measure == f"{QUESTION_SETS[n].title}: {m}"
        )
        values = [report.measures[f"{measure}/{name}"][model].value for model in ("tiny * head", "tiny")]
        assert None not in values
        assert c.difference.value == pytest.approx(values[0] - values[1])  # type: ignore[operator]
    mc1 = next(c for c in report.comparisons if c.measure == "TruthfulQA: MC1")
    weak = [line for line in report.cautions if "MC1 on TruthfulQA must" in line]
    both = weak and all(f"{name} (" in weak[0] for name in ("tiny * head", "tiny"))
    assert (mc1.verdict == "cannot rank") == bool(both)
    bits = next(c for c in report.comparisons if c.measure == "XQuAD (English): bits per byte of the answer")
    assert bits.verdict != "cannot rank"
    blocks = [block for section in report.sections for block in section.blocks]
    assert {Intervals, Table, ShownSamples} <= {type(block) for block in blocks}
    cost = next(block for block in blocks if isinstance(block, Intervals) and block.zero == 0)
    assert [bar.label for bar in cost.bars] == [c.measure for c in report.comparisons if "bits" not in c.measure]
    table = next(b for s in report.sections for b in s.blocks if isinstance(b, Table))
    row = next(row for row in table.rows if row[0] == "CommonsenseQA: accuracy")
    assert row[1] == 12
    assert row[4] == pytest.approx(0.2)
    assert len(report.headlines) == 4
    assert all("against tiny" in line for line in report.headlines)


def test_cautions_and_headlines_say_where_a_cost_can_show(made_up: DataFolder, plain: Composed) -> None:
    bench = bench_of(made_up, replace(plain, expression="m"), replace(plain, expression="n"))
    both, mine = coin_mark(m=2, n=14), coin_mark(m=2, n=20)
    needed = "At 20 questions accuracy on CommonsenseQA must be at least 75.0% to beat guessing (50.0%); m (10.0%)"
    assert _floors(bench, [both, mine, coin_mark(m=20, n=20)]) == [
        f"{needed}, n (70.0%) cannot be told from it, so no cost can show there.",
        f"{needed} cannot be told from it.",
    ]
    bits = replace(mine, measure="bits per byte", is_bits=True)
    [line] = _headlines(bench, [mine, bits], _compared(bench, [mine, bits]))
    assert line.startswith("CommonsenseQA: accuracy: 10.0 % (")
    assert line.endswith(") against n, a cost.")
    [line] = _headlines(bench, [both, bits], _compared(bench, [both, bits]))
    assert line.startswith("CommonsenseQA: bits per byte: 0.100 (")


def test_a_model_against_itself_shows_no_difference(made_up: DataFolder, plain: Composed) -> None:
    twin = replace(plain, expression="tiny^1")
    found = run(bench_of(made_up, plain, twin), SMALL)
    assert {c.verdict for c in found.comparisons} <= {"no difference shown", "cannot rank"}
    assert all(c.difference.value == pytest.approx(0, abs=1e-6) for c in found.comparisons)


def test_impossible_answers_are_told(made_up: DataFolder, plain: Composed, tiny_lm: CausalLM) -> None:
    banning = Model(bind(tiny_lm * lexicon(["good"], ban=True), tiny_lm), tiny_lm)
    settings = SMALL.model_copy(update={"sets": ("xquad_en",)})
    found = run(bench_of(made_up, composed("banning", banning), plain), settings)
    questions = QUESTION_SETS["xquad_en"].ask(made_up, 12, 1, 0)
    num_good = sum("good" in q.right[0] for q in questions)
    assert num_good
    assert f"{num_good} right answers of XQuAD (English) are impossible for a model" in found.cautions[-2]
    value = found.measures["bits per byte of the answer/xquad_en"]["banning"].value
    assert value is not None
    assert math.isfinite(value)


def test_contexts_that_do_not_fit_are_told(made_up: DataFolder, plain: Composed) -> None:
    settings = Settings(sets=("gsm8k",), gsm8k=Asked(num_questions=2, shots=1, max_tokens=250))
    found = run(bench_of(made_up, plain), settings)
    assert "2 of 2 questions of GSM8K were too long for tiny: cut on the left." in found.cautions


def test_a_run_goes_on_where_it_was_broken_off(made_up: DataFolder, fresh_lm: CausalLM, tmp_path: Path) -> None:
    mine = composed("fresh", Model(fresh_lm, fresh_lm))

    def stop_at(stage: str, done: int, total: int) -> None:
        if stage.startswith("GSM8K"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(bench_of(made_up, mine, folder=tmp_path, report=stop_at), SMALL)
    before = fresh_lm.num_tokens_read
    broken = run(bench_of(made_up, mine, folder=tmp_path), SMALL)
    rest = fresh_lm.num_tokens_read - before
    assert rest > 0
    again = run(bench_of(made_up, mine, folder=tmp_path), SMALL)
    assert fresh_lm.num_tokens_read == before + rest
    assert again.measures == broken.measures
    whole = run(bench_of(made_up, mine), SMALL)
    assert fresh_lm.num_tokens_read - before - rest > rest
    assert whole.measures == broken.measures


def test_sets_are_named(made_up: DataFolder, plain: Composed) -> None:
    with pytest.raises(UnknownNameError, match="no question set named 'gsm9k'; did you mean gsm8k"):
        run(bench_of(made_up, plain), Settings(sets=("gsm9k",)))
    with pytest.raises(InputError, match="got none"):
        run(bench_of(made_up, plain), Settings(sets=()))


@pytest.mark.parametrize("size", ["small", "full"])
def test_sizes(size: str) -> None:
    settings = Settings.sized(size)
    assert (settings.gsm8k.num_questions is None) == (size == "full")
    assert settings.sets == tuple(QUESTION_SETS)
