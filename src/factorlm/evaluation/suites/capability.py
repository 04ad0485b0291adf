"""Capability: what a composition costs in common sense, truthfulness, arithmetic and reading, question by question."""

# Axes: C columns (numerator, denominator), R resamples.

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field

from factorlm.errors import InputError, UnknownNameError
from factorlm.evaluation.corpora import fingerprint
from factorlm.evaluation.document import (
    Bar,
    Block,
    Cell,
    Column,
    Intervals,
    Prose,
    Samples,
    Section,
    Table,
)
from factorlm.evaluation.intervals import Comparison, Estimate, adjusted, compare
from factorlm.evaluation.marks import Mark, Record, choice_marks, written_marks
from factorlm.evaluation.questions import QUESTION_SETS, Question
from factorlm.evaluation.requests import generate_until, loglikelihood
from factorlm.evaluation.workbench import Findings, Workbench
from factorlm.inference import Model
from factorlm.settings import Config

BATCH = 16  # questions that are cached together
SHOWN = 2  # answers of each model in the report


class Asked(Config):
    """How a question set is asked.

    Attributes:
        num_questions: how many, drawn by the seed; None asks all.
        shots: examples before each question.
        max_tokens: of a written answer.
    """

    num_questions: Annotated[int, Field(ge=2)] | None
    shots: Annotated[int, Field(ge=0)] = 0
    max_tokens: Annotated[int, Field(ge=1)] = 1


class Settings(Config):
    """Settings of the suite.

    Attributes:
        sets: question sets to ask.
        commonsense_qa: how they are asked.
        truthfulqa: how they are asked; at most four examples.
        gsm8k: how they are asked.
        xquad_en: how they are asked; each question has a passage.
    """

    sets: tuple[str, ...] = tuple(QUESTION_SETS)
    commonsense_qa: Asked = Asked(num_questions=80)
    truthfulqa: Asked = Asked(num_questions=40)
    gsm8k: Asked = Asked(num_questions=10, shots=3, max_tokens=128)
    xquad_en: Asked = Asked(num_questions=24, shots=1, max_tokens=16)

    @classmethod
    def sized(cls, size: str) -> Settings:
        """Minutes, or all questions."""
        if size == "small":
            return cls()
        return cls(
            commonsense_qa=Asked(num_questions=None, shots=5),
            truthfulqa=Asked(num_questions=None, shots=4),
            gsm8k=Asked(num_questions=None, shots=8, max_tokens=256),
            xquad_en=Asked(num_questions=None, shots=2, max_tokens=32),
        )


def run(bench: Workbench, settings: Settings) -> Findings:
    """Ask every model every question, and compare the answers question by question."""
    if not settings.sets:
        raise InputError(f"question sets are some of {', '.join(QUESTION_SETS)}, got none")
    marks: list[Mark] = []
    sections: list[Section] = []
    cautions: list[str] = []
    for name in settings.sets:
        if name not in QUESTION_SETS:
            raise UnknownNameError.of("question set", name, QUESTION_SETS)
        asked: Asked = getattr(settings, name)
        questions = QUESTION_SETS[name].ask(bench.data, asked.num_questions, asked.shots, bench.seed)
        read = [text for q in questions for text in (q.prompt, *q.right, *q.wrong)]
        bench.used[QUESTION_SETS[name].part] = fingerprint(read)
        records = {
            model: _answers(bench, index, name, questions, asked.max_tokens) for index, model in enumerate(bench.names)
        }
        found = (written_marks if QUESTION_SETS[name].stops else choice_marks)(name, questions, records)
        marks += found
        cautions += _lost(name, records, found)
        sections.append(_section(name, asked, questions, records))
    comparisons = _compared(bench, marks)
    return Findings(
        title="Capability of " + ", ".join(bench.names),
        sections=(_overview(bench, marks), *_costs(bench, marks, comparisons), *sections),
        measures={f"{m.measure}/{m.name}": {n: m.estimate(n, bench.seed) for n in bench.names} for m in marks},
        comparisons=tuple(comparisons),
        headlines=tuple(_headlines(bench, marks, comparisons)),
        cautions=(*_floors(bench, marks), *cautions, PUBLIC),
    )


PUBLIC = (
    "The question sets are public, so a model may have read them in training. A level suffers from that; the cost, a "
    "difference between compositions of one model, much less."
)


def _answers(bench: Workbench, index: int, name: str, questions: list[Question], max_tokens: int) -> list[Record]:
    """What a model makes of each question, as numbers and texts from which all measures follow."""
    composed, stops = bench.models[index], QUESTION_SETS[name].stops
    stage = f"{QUESTION_SETS[name].title}: {bench.name(index)}"
    key: dict[str, Any] = {"what": "capability", "model": composed.fingerprint}
    if not stops:
        choices = [{"prompt": q.prompt, "answers": [*q.right, *q.wrong]} for q in questions]
        return bench.in_batches(stage, key, choices, BATCH, lambda batch: read_choices(composed.model, batch))
    key |= {"stops": list(stops), "max_tokens": max_tokens}
    items = [{"prompt": q.prompt, "answer": q.right[0]} for q in questions]
    return bench.in_batches(
        stage, key, items, BATCH, lambda batch: write_answers(composed.model, batch, stops, max_tokens)
    )


def read_choices(model: Model, items: Sequence[dict[str, Any]]) -> list[Record]:
    """Log probability of each of the answers of each item after its prompt, in nats."""
    found = iter(loglikelihood(model, [(item["prompt"], answer) for item in items for answer in item["answers"]]))
    records = []
    for item in items:
        likelihoods = [next(found) for _ in item["answers"]]
        num_cut = max(likelihood.num_cut for likelihood in likelihoods)
        records.append({"log_probs": [likelihood.log_prob for likelihood in likelihoods], "num_cut": num_cut})
    return records


def write_answers(model: Model, items: Sequence[dict[str, Any]], stops: Sequence[str], max_tokens: int) -> list[Record]:
    """The greedy answer to each prompt, and the log probability of the right one, in nats."""
    likelihoods = loglikelihood(model, [(item["prompt"], item["answer"]) for item in items])
    writings = generate_until(model, [(item["prompt"], stops, max_tokens) for item in items])
    return [
        {"text": w.text, "log_prob": found.log_prob, "num_cut": max(w.num_cut, found.num_cut)}
        for w, found in zip(writings, likelihoods, strict=True)
    ]


def _lost(name: str, records: dict[str, list[Record]], marks: list[Mark]) -> list[str]:
    """Questions that were not read whole, or could not be counted."""
    title, lines = QUESTION_SETS[name].title, []
    for model, found in records.items():
        if num_cut := sum(record["num_cut"] > 0 for record in found):
            lines.append(f"{num_cut} of {len(found)} questions of {title} were too long for {model}: cut on the left.")
    if num_left := max(len(m.units_Q) for m in marks) - min(len(m.units_Q) for m in marks):
        lines.append(f"{num_left} right answers of {title} are impossible for a model, and not in its bits per byte.")
    return lines


def _compared(bench: Workbench, marks: list[Mark]) -> list[Comparison]:
    """The first model with each rival; where both are too weak for a cost to show, no ranking is made."""
    first, *rivals = bench.names
    found = []
    for m in marks:
        for rival in rivals:
            comparison = compare(
                m.label,
                (first, m.sums_UC(first)),
                (rival, m.sums_UC(rival)),
                statistic=lambda mean_RC: mean_RC[:, 0] / mean_RC[:, 1],
                lower_is_better=m.is_bits,
                seed=bench.seed,
            )
            if comparison.verdict != "cannot rank" and (reason := m.floor(first)) and m.floor(rival):
                comparison = comparison.model_copy(
                    update={"verdict": "cannot rank", "p_value": None, "reason": f"{reason}, by either model"}
                )
            found.append(comparison)
    return adjusted(found)


def _overview(bench: Workbench, marks: list[Mark]) -> Section:
    seed, names = bench.seed, bench.names

    def columns(form: str, *more: str) -> tuple[Column, ...]:
        numbers = tuple(Column(title=title, form=form) for title in (*names, *more))
        return (Column(title="measure"), Column(title="questions", form="d"), *numbers)

    shares: list[tuple[Cell, ...]] = []
    bits: list[tuple[Cell, ...]] = []
    for m in marks:
        cells: tuple[Cell, ...] = (m.label, len(m.units_Q), *(m.estimate(name, seed) for name in names))
        if m.is_bits:
            bits.append(cells)
        else:
            means = (None if x_Q is None else float(x_Q.mean()) for x_Q in (m.chance_Q, m.rule_Q))
            shares.append((*cells, *means, m.least))
    blocks: list[Block] = []
    if shares:
        bars = tuple(
            Bar(label=m.label, values=tuple(m.estimate(name, seed) for name in names)) for m in marks if not m.is_bits
        )
        blocks += [
            Intervals(
                title="Right answers", x_label="share of the questions", series=tuple(names), bars=bars, is_percent=True
            ),
            Table(
                title="Right answers, beside guessing and simple rules",
                columns=columns(".1%", "guessing", "simple rule", "least to beat guessing"),
                rows=tuple(shares),
                note="The last column is the smallest share that guessing reaches in at most 5 % of all tries.",
            ),
        ]
    if bits:
        note = "Lower is better; bits of the right answer after its question, comparable between tokenizers."
        blocks.append(
            Table(title="Bits per byte of right answers", columns=columns(".3f"), rows=tuple(bits), note=note)
        )
    return Section(title="Capability", lead="95 % intervals are over questions, or passages.", blocks=tuple(blocks))


def _costs(bench: Workbench, marks: list[Mark], comparisons: list[Comparison]) -> list[Section]:
    """A picture of differences; the comparisons themselves head the report."""
    first, *rivals = bench.names
    bars = tuple(
        Bar(label=m.label, values=tuple(c.difference for c in comparisons if c.measure == m.label))
        for m in marks
        if not m.is_bits
    )
    if not rivals or not bars:
        return []
    picture = Intervals(
        title=f"{first} minus rival",
        x_label="difference of shares; negative is a cost",
        series=tuple(rivals),
        bars=bars,
        zero=0.0,
        is_percent=True,
        note="Paired over questions, or passages; p-values are adjusted for the number of comparisons (Holm).",
    )
    return [Section(title="Cost", lead="What the model loses against a rival.", blocks=(picture,))]


def _section(name: str, asked: Asked, questions: list[Question], records: dict[str, list[Record]]) -> Section:
    found = QUESTION_SETS[name]
    examples = f"{asked.shots or 'no'} example{'' if asked.shots == 1 else 's'}"
    lead = f"{len(questions)} questions of {found.part}, {examples} before each. {found.how}"
    blocks: list[Block] = [Prose(text=f"The simple rule: {found.rule}.")]
    if found.stops:
        texts = tuple(
            (model, question.prompt.rpartition("Question:")[2].removesuffix("Answer:").strip(), record["text"].strip())
            for i, question in enumerate(questions[:SHOWN])
            for model, record in ((model, rows[i]) for model, rows in records.items())
        )
        blocks.append(Samples(title="Answers", texts=texts))
    return Section(title=found.title, lead=lead, blocks=tuple(blocks))


def _floors(bench: Workbench, marks: list[Mark]) -> list[str]:
    """Which models are too weak for which measures; where all are, no cost can show."""
    lines = []
    for m in marks:
        weak = [name for name in bench.names if m.floor(name)]
        if not weak:
            continue
        number, title = len(m.units_Q), QUESTION_SETS[m.name].title
        end = ", so no cost can show there." if len(weak) == len(bench.names) else "."
        if m.is_hit and m.chance_Q is not None:
            needed = f"be at least {m.least:.1%}" if m.least is not None else "be more than all of them"
            lines.append(
                f"At {number} questions {m.measure} on {title} must {needed} to beat guessing "
                f"({m.chance_Q.mean():.1%}); {_listed(m, weak)} cannot be told from it{end}"
            )
        else:
            lines.append(
                f"No answer of {' or '.join(weak)} to {number} questions of {title} counts by {m.measure}{end}"
            )
    return lines


def _listed(mark: Mark, names: list[str]) -> str:
    shares = [mark.sums_QC[name].sum(0) for name in names]
    return ", ".join(f"{name} ({right / number:.1%})" for name, (right, number) in zip(names, shares, strict=True))


def _headlines(bench: Workbench, marks: list[Mark], comparisons: list[Comparison]) -> list[str]:
    """One for each set: of the first measure in which a cost can show."""
    first, *rivals = bench.names
    lines = []
    for name in dict.fromkeys(m.name for m in marks):
        of_set = [m for m in marks if m.name == name]
        m = next((m for m in of_set if not all(m.floor(n) for n in bench.names)), of_set[0])
        line = f"{m.label}: {_said(m.estimate(first, bench.seed), m)} for {first}"
        for rival in rivals:
            c = next(c for c in comparisons if c.measure == m.label and c.rival == rival)
            difference = _said(c.difference, m, signed=True)
            line += f"; {difference} against {rival}, {c.verdict if c.verdict != 'worse' else 'a cost'}"
        lines.append(f"{line}.")
    return lines


def _said(estimate: Estimate, mark: Mark, *, signed: bool = False) -> str:
    if estimate.value is None:
        return "not measured"
    sign = "+" if signed else ""

    def number(value: float) -> str:
        return format(value, f"{sign}.3f") if mark.is_bits else format(100 * value, f"{sign}.1f")

    unit = "" if mark.is_bits else " points" if signed else " %"
    if estimate.low is None or estimate.high is None:
        return f"{number(estimate.value)}{unit}"
    return f"{number(estimate.value)}{unit} ({number(estimate.low)} to {number(estimate.high)})"
