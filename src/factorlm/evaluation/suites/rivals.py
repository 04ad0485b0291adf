"""Rivals: ours and other ways of steering the same model, with the same prompts, judges and sampling, side by side."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveFloat

from factorlm.errors import InputError
from factorlm.evaluation.corpora import fingerprint
from factorlm.evaluation.document import Section
from factorlm.evaluation.intervals import adjusted
from factorlm.evaluation.judges import load_judge
from factorlm.evaluation.judging import judge_blocks, judged
from factorlm.evaluation.responses import Samples, distinct_prompts, respond
from factorlm.evaluation.rivals import Kept, bounded
from factorlm.evaluation.rivals.cautions import cautions
from factorlm.evaluation.rivals.frontier import Point
from factorlm.evaluation.rivals.goals import goal_named
from factorlm.evaluation.rivals.methods import Dials, Method, Writing, bare, given, ours, rivals_of
from factorlm.evaluation.rivals.sections import Work, cost, equal_price, group_of, plane
from factorlm.evaluation.workbench import Findings, Workbench
from factorlm.factors.examples import split
from factorlm.inference import Sampling
from factorlm.settings import Config


class Settings(Config):
    """Settings of the suite.

    Attributes:
        attribute: positive, or toxic, which is to be avoided.
        factor: ours, of the store; empty takes the one named like the attribute.
        texts: of each class, at most, that rivals learn from: texts that the factor learned from; 0 takes all.
        prompts: data sets with `prompt`; empty takes those of the attribute.
        num_prompts: of each set; 0 takes 96 for positive and 12 for toxic, which has two sets and more samples.
        samples: texts for each prompt; 0 takes 1 for positive and 5 for toxic.
        max_tokens: of a text.
        sampling: how tokens are drawn, by all in the same way.
        judges: names, of which the first decides; empty takes those of the attribute.
        dials: where they are set.
        prices: perplexity ratios at which methods are compared; tests are made near the first.
        words: of each text that count for Dist-3.
    """

    attribute: str = "positive"
    factor: str = ""
    texts: Annotated[int, Field(ge=0)] = 500
    prompts: tuple[str, ...] = ()
    num_prompts: Annotated[int, Field(ge=0)] = 24
    samples: Annotated[int, Field(ge=0)] = 0
    max_tokens: Annotated[int, Field(ge=1)] = 16
    sampling: Sampling = Sampling(top_p=0.9)
    judges: tuple[str, ...] = ()
    dials: Dials = Dials()
    prices: Annotated[tuple[PositiveFloat, ...], Field(min_length=1)] = (1.2, 1.4)
    words: Annotated[int, Field(ge=4)] = 10

    @classmethod
    def sized(cls, size: str) -> Settings:
        """Minutes, or what one would publish.

        The bound on texts takes all of the reviews, and as many of the toxic rewrites, of which there are four times as
        many: preparation takes minutes.
        """
        if size == "full":
            return cls(texts=2600, num_prompts=0, max_tokens=20)
        few = Dials(
            ours=(0.2, 0.4), prompting=(0.5, 1.0), dexperts=(1.0, 1.5), gedi=(2.0, 5.0), fudge=(2.0,),
            lm_steer=(2.0, 3.0), activation=(2.0, 4.0), arithmetic=(4.0,),
        )  # fmt: skip
        return cls(dials=few)


def run(bench: Workbench, settings: Settings) -> Findings:
    """Prepare the rivals, write with each at each setting of its dial, and judge all of it.

    Raises:
        InputError: if ours has no setting, or there are too few prompts.
        UnknownNameError: for an attribute without rivals, or a judge that does not know it.
    """
    goal = goal_named(settings.attribute)
    judges = [load_judge(name) for name in settings.judges or goal.judges]
    for judge in judges:
        judge.index(goal.label)
    if not settings.dials.ours:
        raise InputError("a strength of ours is needed to compare with, got none; try --set dials.ours=[0.2,0.4]")
    num_prompts = settings.num_prompts or goal.num_prompts
    sets = {part: distinct_prompts(bench, part, num_prompts) for part in settings.prompts or goal.prompts}
    whole = split(goal.examples(bench.data))
    parts = bounded(whole, settings.texts) if settings.texts else whole
    bench.used[goal.sets] = fingerprint([e.text for e in (*parts.train, *parts.dev)])
    how = Writing(settings.samples or goal.samples, settings.max_tokens, settings.sampling)
    folder = bench.cache.folder
    kept = Kept(None if folder is None else folder.parent / "rivals")
    mine = ours(bench, settings.factor or goal.label, goal, settings.dials.ours, how)
    work = Work(bench, settings, goal, judges, [mine, *given(bench, how)], whole, parts)

    def judged_point(name: str, dial: float, samples: Samples, what: str) -> Point:
        verdicts = {judge.name: judged(bench, judge, samples, f"judging {what}") for judge in judges}
        scores = {(measure, name): of(v) for measure, of in goal.scores.items() for name, v in verdicts.items()}
        return Point(name, dial, samples, scores, bench.seed)

    def point(method: Method, dose: float, part: str) -> Point:
        what = f"{method.name} {dose:g}: {group_of(part)}"
        dial = goal.sign * dose if method.has_dial else 0.0
        return judged_point(method.name, dial, method.write(dose, sets[part], f"writing {what}"), what)

    for part, prompts in sets.items():
        what = f"the base: {group_of(part)}"
        samples = respond(
            bench, bare(bench), prompts, n=max(how.samples, goal.base_samples), max_tokens=how.max_tokens,
            sampling=how.sampling, stage=f"writing {what}",
        )  # fmt: skip
        work.bases[part] = judged_point("base", 0.0, samples, what)
    work.methods.extend(rivals_of(bench, goal, settings.dials, parts, kept, how))
    for method in work.methods:
        for part in sets:
            work.points[part, method.name] = [point(method, dose, part) for dose in method.doses]
    sections = [section for part in sets for section in (plane(work, part), equal_price(work, part))]
    sections.append(cost(work))
    sections.append(Section(title="Judges", blocks=judge_blocks(judges)))
    return Findings(
        title=f"Rivals on the same ground: {goal.label if goal.sign > 0 else f'less {goal.label}'}",
        sections=tuple(sections),
        measures=work.measures,
        comparisons=tuple(adjusted(work.comparisons)),
        headlines=tuple(work.headlines),
        cautions=tuple(cautions(work)),
    )
