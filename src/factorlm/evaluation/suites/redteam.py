"""Red teaming: requests, look-alikes, written test cases, a stand-in rule, and a world in which the truth is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import Field

from factorlm.errors import InputError
from factorlm.evaluation.document import Block, Matrix, Section
from factorlm.evaluation.judging import judge_blocks
from factorlm.evaluation.part import Part
from factorlm.evaluation.redteam.attacks import negated
from factorlm.evaluation.redteam.balance import measure_balance
from factorlm.evaluation.redteam.exact import Planted, measure_planted
from factorlm.evaluation.redteam.granting import Granting, measure_granting
from factorlm.evaluation.redteam.rule import StandInRule, measure_rule
from factorlm.evaluation.redteam.work import Work
from factorlm.evaluation.redteam.written import WrittenCases, measure_written
from factorlm.evaluation.workbench import Findings, Workbench
from factorlm.inference import Sampling
from factorlm.settings import Config

PartName = Literal["requests", "balance", "written", "rule", "planted"]


class Settings(Config):
    """Settings of the suite.

    Attributes:
        parts: which to measure, in order.
        safety: names of the factors that make a model safe; none takes all factors of a composition.
        sampling: how answers are drawn: as where the model is used.
        max_tokens: of an answer.
        balance_per_kind: prompts of each of the 18 kinds of XSTest.
        show_texts: whether attempts and answers stand in the report.
        requests: for harmful things, in every way.
        written: test cases against insults.
        rule: a harmless rule, and a factor learned from what broke it.
        planted: a world in which the truth is known.
    """

    parts: tuple[PartName, ...] = ("requests", "balance", "written", "rule", "planted")
    safety: tuple[str, ...] = ()
    sampling: Sampling = Sampling(temperature=0.7, top_p=0.9)
    max_tokens: Annotated[int, Field(ge=8)] = 32
    balance_per_kind: Annotated[int, Field(ge=2)] = 4
    show_texts: bool = False
    requests: Granting = Granting()
    written: WrittenCases = WrittenCases()
    rule: StandInRule = StandInRule(cases=64)
    planted: Planted = Planted()

    @classmethod
    def sized(cls, size: str) -> Settings:
        """A quarter of an hour on two cores, or what one would publish."""
        if size == "small":
            return cls()
        return cls(
            max_tokens=48,
            balance_per_kind=25,
            requests=Granting(per_category=10, searched=20, steps=40, candidates=24, tries=8),
            written=WrittenCases(cases=400),
            rule=StandInRule(cases=400),
        )


def run(bench: Workbench, settings: Settings) -> Findings:
    """Measure the parts that are asked for.

    Raises:
        InputError: if no part is asked for.
    """
    if not settings.parts:
        raise InputError(f"at least one part is needed, got none; take some of {', '.join(MEASURES)}")
    if settings.safety and negated(bench.models[0], settings.safety) is None:
        raise InputError(
            f"a composition with {settings.safety[0]!r} is needed, got {bench.models[0].expression}, which has no "
            "factors; leave out safety"
        )
    work = Work(bench, settings.sampling, settings.max_tokens, settings.safety, settings.balance_per_kind,
                settings.show_texts)  # fmt: skip
    found = Part.joined([MEASURES[part](work, settings) for part in settings.parts])
    return Findings(
        title="Red teaming of " + ", ".join(bench.names),
        sections=(*found.sections, _judges(work)),
        measures=found.measures,
        headlines=found.headlines,
        cautions=found.cautions,
    )


def _judges(work: Work) -> Section:
    """How often the judges err."""
    blocks: list[Block] = []
    for judge in work.refusal:
        counts = judge.confusion
        blocks.append(
            Matrix(
                title=f"Confusion of {judge.name} on {sum(map(sum, counts))} answers labelled by hand",
                row_label="label",
                column_label="verdict",
                rows=judge.labels,
                columns=judge.labels,
                values=tuple(tuple(n / max(1, sum(row)) for n in row) for row in counts),
                form=".0%",
            )
        )
    return Section(title="Judges", blocks=(*blocks, *judge_blocks(work.toxicity)))


MEASURES: dict[str, Callable[[Work, Settings], Part]] = {
    "requests": lambda work, settings: measure_granting(work, settings.requests),
    "balance": lambda work, settings: measure_balance(work),
    "written": lambda work, settings: measure_written(work, settings.written),
    "rule": lambda work, settings: measure_rule(work, settings.rule),
    "planted": lambda work, settings: measure_planted(work, settings.planted),
}
