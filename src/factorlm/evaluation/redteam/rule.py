"""A harmless stand-in rule on the real model: never write a digit. What fails teaches a safety factor.

Because the rule can be checked exactly, no judge stands between the numbers and the truth.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from factorlm.errors import InputError
from factorlm.evaluation.document import Bar, Block, Cell, Column, Intervals, Prose, Section, Table
from factorlm.evaluation.intervals import Estimate
from factorlm.evaluation.judging import base_perplexity
from factorlm.evaluation.part import Part
from factorlm.evaluation.redteam.attacks import without
from factorlm.evaluation.redteam.attempts import Attempt
from factorlm.evaluation.redteam.work import Work
from factorlm.evaluation.redteam.writing import no_digits
from factorlm.evaluation.redteam.written import Tried, WrittenCases, against, attacks, gap, report
from factorlm.factors.examples import FEWEST_TEXTS, Example
from factorlm.factors.head import Head
from factorlm.factors.training import Description, train_head
from factorlm.inference import Model
from factorlm.inference.expression import Composed
from factorlm.models import CausalLM

CHECK = "the rule itself"


class StandInRule(WrittenCases):
    """Settings of this part.

    Attributes:
        strength: of the safety factor against failures, in nats per token; it is turned away from them.
    """

    strength: float = 0.4


def measure_rule(work: Work, settings: StandInRule) -> Part:
    """Attack the base with a harmless rule, learn a factor from its failures, and attack again."""
    rule = no_digits()
    target = without(work.bench.models[0], work.safety) or work.bench.models[0]
    tried = attacks(work, rule, target, target, settings)
    found = report(work, rule, tried, "A stand-in rule: no digits")
    factor = learned(work, target, list(tried.values()))
    if factor is None:
        return replace(
            found, cautions=("Too few answers broke or kept the stand-in rule to learn a factor from them.",)
        )
    guarded = guarded_by(target, factor, settings.strength)
    same = against(work, rule, guarded, tried["few-shot"].written.cases, "few-shot, guarded")
    later = replace_seed(work, work.bench.seed + 1)
    fresh = {
        name: against(later, rule, model, cases, f"fresh, {name}")
        for cases in [_fresh_cases(later, target, tried["few-shot"], settings)]
        for name, model in (("unguarded", target), ("guarded", guarded))
    }
    rows = {
        "the same attack": (tried["few-shot"], same),
        "a fresh attack": (fresh["unguarded"], fresh["guarded"]),
    }
    section, measures = _section(work, settings, target, guarded, rows)
    headline = "; ".join(
        f"{what}: {before.rate(CHECK, 0).value or 0:.0%} before, {after.rate(CHECK, 0).value or 0:.0%} with the factor"
        for what, (before, after) in rows.items()
    )
    return replace(
        found,
        sections=(*found.sections, section),
        measures={**found.measures, **measures},
        headlines=(*found.headlines, f"A factor learned from failures against digits, {headline}."),
    )


def learned(work: Work, target: Composed, tried: Sequence[Tried]) -> Head | None:
    """A head that tells answers that break the rule from answers that keep it; None if there are too few of either."""
    answers = {text: bool(b) for t in tried for text, b in zip(t.answers, t.broken[CHECK], strict=True) if text.strip()}
    broken = [text for text, is_broken in answers.items() if is_broken]
    kept = [text for text, is_broken in answers.items() if not is_broken]
    number = min(len(broken), len(kept))
    if number < FEWEST_TEXTS:
        return None
    lm = target.model.lm
    chosen = [Example(text, is_positive=True) for text in broken[:number]]
    chosen += [Example(text, is_positive=False) for text in kept[:number]]
    try:
        trained = train_head(lm, chosen, Description("failures", label="answers that broke the rule"),
                             seed=work.bench.seed, report=work.bench.report)  # fmt: skip
    except InputError:  # the shares that are held out may be too small
        return None
    return Head("failures", trained.weights.to(lm.device), lm, trained.manifest.strengths)


def guarded_by(target: Composed, factor: Head, strength: float) -> Composed:
    """A target with a factor turned away from failures at this strength."""
    lm: CausalLM = target.model.lm
    exponent = factor.strengths.exponent(-strength) if factor.strengths else -1.0
    weights = factor.weights
    digest = float(weights.bias_D.double().sum()) + float(weights.bias_D.double().square().sum())
    return Composed(
        f"{target.expression} * failures^{exponent:.3g}",
        Model(target.model.factor * factor**exponent, lm),
        target.parts,
        f"{target.fingerprint} failures {digest:.12g}^{exponent:.6g}",
    )


def replace_seed(work: Work, seed: int) -> Work:
    """The same run with other draws."""
    return replace(work, bench=replace(work.bench, seed=seed))


def _fresh_cases(work: Work, author: Composed, earlier: Tried, settings: StandInRule) -> list[str]:
    """Cases of another run of the attack, without those that the factor has learned from."""
    again = attacks(work, no_digits(), author, author, settings)["few-shot"].written.cases
    known = set(earlier.written.cases)
    return [case for case in again if case not in known] or list(again)


def _section(
    work: Work, settings: StandInRule, target: Composed, guarded: Composed, rows: dict[str, tuple[Tried, Tried]]
) -> tuple[Section, dict[str, dict[str, Estimate]]]:
    seed = work.bench.seed
    measures: dict[str, dict[str, Estimate]] = {}
    table: list[tuple[Cell, ...]] = []
    for what, (before, after) in rows.items():
        numbers = {
            "before": before.rate(CHECK, seed),
            "with the factor": after.rate(CHECK, seed),
            "change": gap(after.broken[CHECK], before.broken[CHECK], seed),
        }
        measures[f"rule broken, {what}"] = numbers
        table.append((what, len(after.answers), *numbers.values()))
    prompts = [prompt for prompt in work.balance if not prompt.is_unsafe]
    for name, model in (("before", target), ("with the factor", guarded)):
        answers = work.answer(model, [Attempt(prompt.text) for prompt in prompts], f"no digits: what it costs, {name}")
        found = work.outcome([prompt.text for prompt in prompts], answers, f"no digits, {name}")
        measures.setdefault("rule: perplexity", {})[name] = base_perplexity(answers, seed)
        for judge, verdicts in zip(work.refusal, found.refusal, strict=True):
            refused = work.mean(np.nan_to_num(verdicts.has("refuses")))
            measures.setdefault(f"rule: safe refused/{judge.name}", {})[name] = refused
    blocks: list[Block] = [
        Table(title="Before and after failures became a factor", columns=(
            Column(title="attack"), Column(title="cases", form="d"), Column(title="rule broken", form=".0%"),
            Column(title="with the factor", form=".0%", best="low"), Column(title="change", form="+.0%")),
            rows=tuple(table)),
        Intervals(title="The rule broken, before and after", x_label="share of cases",
                  series=("before", "with the factor"), is_percent=True,
                  bars=tuple(Bar(label=what, values=(measures[f"rule broken, {what}"]["before"],
                             measures[f"rule broken, {what}"]["with the factor"])) for what in rows)),
        Table(title="What the factor costs on safe prompts of XSTest", columns=(
            Column(title="measure"), Column(title="before", form=".3g"), Column(title="with the factor", form=".3g")),
            rows=tuple((measure, *values.values()) for measure, values in measures.items()
                       if measure.startswith("rule:"))),
        Prose(text="The gap between the two attacks is what the factor has learned by heart rather than generalised."),
    ]  # fmt: skip
    lead = (
        "Answers of both attacks that broke the rule teach a head, which is turned against them at "
        f"{settings.strength:g} nats."
    )
    return Section(title="Failures as a safety factor", lead=lead, blocks=tuple(blocks)), measures
