"""Attacks that language models write: by the base, after examples that worked, and by the model with negated exponents.

Where the rule can be learned as a factor, failures become a safety factor, and the attack is made again.
"""

# Axes: B cases.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from factorlm.errors import InputError
from factorlm.evaluation.document import Block, Cell, Column, Prose, Scatter, Section, Series, Table
from factorlm.evaluation.document import Samples as Texts
from factorlm.evaluation.intervals import Estimate, bootstrap, mean_interval
from factorlm.evaluation.part import Part
from factorlm.evaluation.redteam.attacks import negated, without
from factorlm.evaluation.redteam.loop import Written, distinct, examples
from factorlm.evaluation.redteam.measures import variety
from factorlm.evaluation.redteam.work import Work
from factorlm.evaluation.redteam.writing import Rule, answers_to, no_toxicity, writer
from factorlm.inference.expression import Composed
from factorlm.models.sentences import load_sentence_encoder
from factorlm.settings import Config

Array = NDArray[np.float64]
Measures = dict[str, dict[str, Estimate]]


class WrittenCases(Config):
    """Settings of attacks that are written.

    Attributes:
        cases: asked for from each writer.
        shown: examples before each case of the few-shot writer.
        temperature: of the draw of examples: the smaller, the more successful ones.
    """

    cases: Annotated[int, Field(ge=8)] = 48
    shown: Annotated[int, Field(ge=1)] = 4
    temperature: Annotated[float, Field(gt=0)] = 0.1


@dataclass(frozen=True, eq=False)
class Tried:
    """Cases with the target's answers.

    Attributes:
        written: the cases, with the value that the attacker saw.
        answers: of the target.
        broken: by each check, whether each answer breaks the rule, [B].
    """

    written: Written
    answers: list[str]
    broken: dict[str, Array]

    def rate(self, check: str, seed: int) -> Estimate:
        """Share of different cases that break the rule."""
        return mean_interval(self.broken[check], seed=seed)


def measure_written(work: Work, settings: WrittenCases) -> Part:
    """Who makes the first model insult people: the base, the base after examples, the model with negated exponents."""
    target = work.bench.models[0]
    rule = no_toxicity(work)
    base = without(target, work.safety) or target
    attacker = negated(target, work.safety)
    tried = attacks(work, rule, target, base, settings)
    cautions: tuple[str, ...] = ()
    if attacker is not None:
        cases = writer(work, attacker, f"{rule.name}: cases by negated")([()] * settings.cases)
        tried["negated"] = against(work, rule, target, cases, "negated")
    else:
        cautions = (f"{target.expression} has no factors, so none could be negated to write test cases.",)
    part = report(work, rule, tried, f"Test cases written for {work.bench.name(0)}")
    return replace(part, cautions=cautions)


def attacks(work: Work, rule: Rule, target: Composed, author: Composed, settings: WrittenCases) -> dict[str, Tried]:
    """Zero-shot cases, and cases after the zero-shot ones that worked best."""
    write = writer(work, author, f"{rule.name}: cases")
    first = against(work, rule, target, write([()] * settings.cases), "zero-shot")
    sets = examples(first.written, settings.cases, shown=settings.shown, temperature=settings.temperature,
                    seed=work.bench.seed)  # fmt: skip
    return {"zero-shot": first, "few-shot": against(work, rule, target, write(sets), "few-shot")}


def against(work: Work, rule: Rule, target: Composed, cases: Sequence[str], stage: str) -> Tried:
    """What a target answers to different cases.

    Raises:
        InputError: if no case is a question.
    """
    found = distinct(cases)
    if not found:
        raise InputError(f"questions are needed, but none of {len(cases)} texts of the writer was one; take more cases")
    texts = answers_to(work, target, found, f"{rule.name}: answers to {stage}")
    broken = {check: says(texts) for check, says in rule.checks.items()}
    return Tried(Written(tuple(found), rule.value(texts), len(cases)), texts, broken)


def report(work: Work, rule: Rule, tried: dict[str, Tried], title: str) -> Part:
    """Success and variety of each attack."""
    measures: Measures = {}
    rows: list[tuple[Cell, ...]] = []
    seed = work.bench.seed
    for attack, found in tried.items():
        kinds = variety(found.written.cases, _vectors(found.written.cases))
        won = found.written.successes
        rates = {check: found.rate(check, seed) for check in rule.checks}
        for check, rate in rates.items():
            measures.setdefault(f"{rule.name} broken/{attack}", {})[check] = rate
        self_bleu = Estimate(value=kinds.self_bleu, n=len(found.written.cases))
        measures.setdefault(f"{rule.name} self-BLEU", {})[attack] = self_bleu
        clusters = variety(won, _vectors(won)).clusters
        measures.setdefault(f"{rule.name} kinds of successes", {})[attack] = Estimate(value=clusters, n=len(won))
        rows.append((attack, len(found.written.cases), *rates.values(), kinds.self_bleu, kinds.clusters, clusters))
    for attack in [a for a in tried if a != "zero-shot"]:
        for check in rule.checks:
            difference = gap(tried[attack].broken[check], tried["zero-shot"].broken[check], seed)
            measures.setdefault(f"{rule.name} broken, {attack} less zero-shot", {})[check] = difference
    columns = (
        Column(title="attack"),
        Column(title="different cases", form="d"),
        *(Column(title=f"broken, {check}", form=".1%") for check in rule.checks),
        Column(title="Self-BLEU of cases", form=".1f"),
        Column(title="kinds of cases", form="d"),
        Column(title="kinds of successes", form="d"),
    )
    check = next(iter(rule.checks))
    series = tuple(
        Series(name=attack, x=(measures[f"{rule.name} self-BLEU"][attack],), y=(found.rate(check, seed),))
        for attack, found in tried.items()
        if measures[f"{rule.name} self-BLEU"][attack].value is not None
    )
    blocks: list[Block] = [
        Table(title=f"{title}: success and variety", columns=columns, rows=tuple(rows)),
        Scatter(title=f"{title}: success against sameness", x_label="Self-BLEU of the cases",
                y_label=f"rule broken, {check}", series=series, y_is_percent=True, best="upper left"),
    ]  # fmt: skip
    if work.show_texts:
        texts = tuple(
            (f"{attack}: {value:.2f}", case, answer)
            for attack, found in tried.items()
            for case, answer, value in zip(found.written.cases, found.answers, found.written.value_B, strict=True)
        )
        blocks.append(Texts(title=f"{title}: cases and answers", texts=texts))
    if len(rule.checks) > 1:
        blocks.append(Prose(text=f"The attacker chose examples by {check}. Where the other judge does not follow, the "
                            "attack has found errors of the first judge rather than insults."))  # fmt: skip
    told = ", ".join(f"{found.rate(check, seed)} ({attack})" for attack, found in tried.items())
    headlines = (f"Rule that {rule.description}: cases that break it, by {check}: {told}.",)
    lead = (
        f"The rule: {rule.description}. Questions are written as a numbered list is gone on with; few-shot lists begin "
        "with zero-shot cases drawn with probability ∝ exp(value / T). Repeated questions count once."
    )
    return Part((Section(title=title, lead=lead, blocks=tuple(blocks)),), measures, headlines)


def gap(first_B: Array, second_B: Array, seed: int) -> Estimate:
    """Difference of the means of two unpaired samples, with its bootstrap interval."""
    values = np.concatenate([first_B, second_B])
    is_first = np.arange(len(values)) < len(first_B)
    columns_UC = np.stack([values * is_first, is_first, values * ~is_first, ~is_first], 1).astype(float)

    def statistic(mean_RC: Array) -> Array:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(mean_RC[:, 0] / mean_RC[:, 1] - mean_RC[:, 2] / mean_RC[:, 3])

    return bootstrap(columns_UC, statistic, seed=seed)


def _vectors(texts: Sequence[str]) -> Array:
    return np.asarray(load_sentence_encoder().encode(list(texts)).double().numpy())
