"""Markers that a model writes: of its own accord before right and wrong answers, and taught by examples."""

# Axes: Q questions.

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveInt

from factorlm.errors import InputError
from factorlm.evaluation.answers import top_is_right
from factorlm.evaluation.calibration import auroc, calibration_error, with_interval
from factorlm.evaluation.document import Bar, Cell, Column, Intervals, Section, Table
from factorlm.evaluation.intervals import Estimate, mean_interval
from factorlm.evaluation.markers.asked import Choice, choices, commonsense
from factorlm.evaluation.markers.table import FILLERS, MARKERS, NONE
from factorlm.evaluation.part import Part
from factorlm.evaluation.requests import loglikelihood
from factorlm.evaluation.responses import respond
from factorlm.evaluation.suites.capability import read_choices
from factorlm.evaluation.workbench import Workbench
from factorlm.inference import Sampling
from factorlm.settings import Config
from factorlm.text.comparing import normalized

Array = NDArray[np.float64]
BATCH = 16
CERTAIN, DOUBT = " I'm certain.", " I'm not sure."
TEACHINGS = ("nothing", "certainty", "doubt")
COPULA = re.compile(r",?\s*(?:that )?(?:it's|it is)$|^it's ", re.IGNORECASE)
TOO_SHORT = {"", "it"}


class Writing(Config):
    """Settings.

    Attributes:
        sets: of questions that are answered freely, as messages.
        num_questions: of each set.
        max_tokens: of an answer.
        taught: questions answered after examples.
        tried: questions that examples are chosen from.
        examples: of each kind: that the model gets right without help, and wrong.
    """

    sets: Annotated[tuple[str, ...], Field(min_length=1)] = ("commonsense_qa", "nq_open")
    num_questions: PositiveInt = 24
    max_tokens: PositiveInt = 32
    taught: PositiveInt = 60
    tried: PositiveInt = 40
    examples: PositiveInt = 3


def measure_written(bench: Workbench, settings: Writing) -> Part:
    """Count markers in answers, and teach them."""
    return Part.joined([_own(bench, settings), _taught(bench, settings)])


def kinds_in(text: str) -> set[str]:
    """Types of markers of our table whose words stand in a text."""
    words = f" {' '.join(re.findall(r'[a-z0-9%]+', text.lower()))} "
    return {kind for kind, stem in STEMS if f" {stem} " in words}


def _stems() -> list[tuple[str, str]]:
    found = []
    for marker in MARKERS:
        stem = " ".join(re.findall(r"[a-z0-9%]+", COPULA.sub("", marker.phrase).lower()))
        if marker.kind not in (NONE, FILLERS) and stem not in TOO_SHORT:
            found.append((marker.kind, stem))
    return found


STEMS = _stems()


def _own(bench: Workbench, settings: Writing) -> Part:
    """What the model writes when it is asked, and which markers stand in it."""
    composed = bench.models[0]
    asked = [c for name in settings.sets for c in choices(bench, name, settings.num_questions)]
    prompts = [f"{c.question} Answer in one sentence." for c in asked]
    written = respond(bench, composed, prompts, n=1, max_tokens=settings.max_tokens, sampling=Sampling(temperature=0.0),
                      stage="answers", chat=bench.models[0].model.lm.tokenizer.chat_template is not None)  # fmt: skip
    texts = [row[0].text for row in written]
    right_Q = np.array(
        [f" {normalized(c.answers[0])} " in f" {normalized(t)} " for c, t in zip(asked, texts, strict=True)]
    )
    kinds = list(dict.fromkeys(kind for kind, _ in STEMS))
    has_QK = np.array([[kind in kinds_in(text) for kind in kinds] for text in texts], float)
    sides = {"right answers": right_Q, "wrong answers": ~right_Q}
    shares = {
        "any": {side: mean_interval(has_QK[is_Q].max(1, initial=0.0), seed=bench.seed) for side, is_Q in sides.items()},
        **{
            kind: {side: mean_interval(has_QK[is_Q, k], seed=bench.seed) for side, is_Q in sides.items()}
            for k, kind in enumerate(kinds)
        },
    }
    right = mean_interval(right_Q.astype(float), seed=bench.seed)
    columns = (Column(title="type"), *(Column(title=side, form=".1%") for side in sides))
    rows: list[tuple[Cell, ...]] = [(kind, *by.values()) for kind, by in shares.items()]
    table = Table(title="Answers with markers", columns=columns, rows=tuple(rows))
    section = Section(
        title="Markers of the model's own",
        lead=f"{len(asked)} questions as messages, answered greedily in at most {settings.max_tokens} tokens. One "
        f"counts as right where the right words stand in it: {right}. Shares of answers with a marker of our table.",
        blocks=(table,),
    )
    measures = {f"answers with markers/{kind}": by for kind, by in shares.items()} | {
        "freely answered": {"right": right}
    }
    return Part((section,), measures)


def _taught(bench: Workbench, settings: Writing) -> Part:
    """After examples that end in a phrase where the model was right, or where it was wrong."""
    train = _train(bench, settings.tried)
    right_Q = _answered(bench, "examples", [""] * len(train), train)[0]
    good, bad = ([c for c, hit in zip(train, right_Q, strict=True) if (hit == 1.0) == is_right][: settings.examples]
                 for is_right in (True, False))  # fmt: skip
    if min(len(good), len(bad)) < settings.examples:
        raise InputError(
            f"{settings.examples} questions that are answered rightly and as many wrongly are needed for examples, got "
            f"{len(good)} and {len(bad)}; raise written.tried"
        )
    order = np.random.default_rng(bench.seed).permutation(2 * settings.examples)
    asked = choices(bench, "commonsense_qa", settings.taught)
    measures: dict[str, dict[str, Estimate]] = {
        name: {} for name in ("taught accuracy", "taught calibration error", "taught discrimination", "phrase written")
    }
    confidence: dict[str, Array] = {}
    for teaching in TEACHINGS:
        phrase = {"nothing": "", "certainty": CERTAIN, "doubt": DOUBT}[teaching]
        shown = [
            _example(c) + (phrase if (c in good) == (teaching == "certainty") else "")
            for c in ([*good, *bad][i] for i in order)
        ]
        before = "".join(f"{text}\n\n" for text in shown)
        hit_Q, answer_Q = _answered(bench, f"taught {teaching}", [before] * len(asked), asked)
        measures["taught accuracy"][teaching] = mean_interval(hit_Q, seed=bench.seed)
        if teaching == "nothing":
            continue
        said_Q = _said(bench, teaching, phrase, before, asked, answer_Q)
        prob_Q = said_Q if teaching == "certainty" else 1 - said_Q
        confidence[teaching] = np.stack([prob_Q, (hit_Q == 1.0).astype(float)])
        measures["phrase written"][teaching] = mean_interval((said_Q > 0.5).astype(float), seed=bench.seed)
        measures["taught calibration error"][teaching] = with_interval(
            calibration_error, *confidence[teaching], seed=bench.seed
        )
        measures["taught discrimination"][teaching] = with_interval(auroc, *confidence[teaching], seed=bench.seed)
    return Part((_section(settings, measures, len(asked)),), measures)


def _train(bench: Workbench, number: int) -> list[Choice]:
    rows = bench.data.rows("commonsense_qa/train")
    order = np.random.default_rng(bench.seed + 1).permutation(len(rows))[:number]
    return commonsense(rows, [int(i) for i in order])


def _asking(choice: Choice) -> str:
    return f"Question: {choice.question}\nAnswer:"


def _example(choice: Choice) -> str:
    return f"{_asking(choice)} {choice.answers[0]}."


def _answered(bench: Workbench, stage: str, before: Sequence[str], asked: Sequence[Choice]) -> tuple[Array, list[str]]:
    """Whether the answer chosen is right, ties counted by shares, and which it is."""
    composed = bench.models[0]
    items = [
        {"prompt": b + _asking(c), "answers": [f" {text}" for text in c.answers]}
        for b, c in zip(before, asked, strict=True)
    ]
    key = {"what": "choices", "model": composed.fingerprint}
    rows = bench.in_batches(stage, key, items, BATCH, lambda batch: read_choices(composed.model, batch))
    hits, chosen = [], []
    for row, choice in zip(rows, asked, strict=True):
        each = [x / len(text.encode()) for x, text in zip(row["log_probs"], choice.answers, strict=True)]
        hits.append(top_is_right(each, [True] + [False] * (len(each) - 1)))
        chosen.append(choice.answers[int(np.argmax(each))])
    return np.array(hits), chosen


def _said(
    bench: Workbench, teaching: str, phrase: str, before: str, asked: Sequence[Choice], answers: list[str]
) -> Array:
    """Probability of the phrase behind each answer, rather than of an end."""
    composed = bench.models[0]

    def work(batch: list[Any]) -> list[float]:
        pairs = [(text, end) for text in batch for end in (phrase, "\n\n")]
        found = [x.log_prob for x in loglikelihood(composed.model, pairs)]
        return [1 / (1 + float(np.exp(min(700.0, no - yes)))) for yes, no in zip(found[::2], found[1::2], strict=True)]

    items = [f"{before}{_asking(c)} {answer}." for c, answer in zip(asked, answers, strict=True)]
    key = {"what": "phrase behind an answer", "model": composed.fingerprint, "phrase": phrase}
    return np.array(bench.in_batches(f"taught {teaching}, the phrase", key, items, BATCH, work))


def _section(settings: Writing, measures: dict[str, dict[str, Estimate]], number: int) -> Section:
    picture = Intervals(
        title="What teaching markers does",
        x_label="share, or error",
        series=("certainty", "doubt"),
        bars=tuple(
            Bar(label=name, values=tuple(measures[name][t] for t in ("certainty", "doubt"))) for name in measures
        ),
        is_percent=True,
        note="Discrimination is the probability that a right answer is said with more certainty than a wrong one.",
    )
    return Section(
        title="Markers taught by examples",
        lead=f"{number} questions of commonsense_qa after {2 * settings.examples} examples; it gets half of them "
        f"right without help. Certainty: {CERTAIN.strip()!r} stands behind those; doubt: {DOUBT.strip()!r} behind the "
        "others. The probability of the phrase behind the model's own answer, rather than of an end, is its stated "
        f"confidence. Accuracy after examples without phrases: {measures['taught accuracy']['nothing']}.",
        blocks=(picture,),
    )
