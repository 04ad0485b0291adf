"""Factorised: factors on one model against one fine-tuned model and one instruction, as constraints are added."""

# Axes: K constraints, P prompts.

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from factorlm.errors import InputError, UnknownNameError
from factorlm.evaluation.constrained.cautions import cautions
from factorlm.evaluation.constrained.constraints import Constraint, ExamplesOf, examiner_of, remembering
from factorlm.evaluation.constrained.costs import measure_costs
from factorlm.evaluation.constrained.independence import measure_independence
from factorlm.evaluation.constrained.interference import Interference, measure_interference
from factorlm.evaluation.constrained.sections import (
    Found,
    Made,
    curves_section,
    examples_section,
    judges_section,
    price_section,
)
from factorlm.evaluation.constrained.ways import (
    AS_TRAINED,
    BASE,
    CLAIMED,
    FACTORISED,
    MATCHED_PROMPT,
    MONOLITHIC,
    PROMPT,
    RIVALS,
    WAYS,
    Condition,
    Work,
    Writing,
)
from factorlm.evaluation.corpora import DataFolder
from factorlm.evaluation.intervals import Comparison, Estimate, adjusted, compare
from factorlm.evaluation.responses import base_nats, distinct_prompts
from factorlm.evaluation.workbench import Findings, Workbench
from factorlm.factors import bind, factor
from factorlm.factors.examples import Example
from factorlm.factors.recipe import load_recipe
from factorlm.factors.store import manifests
from factorlm.inference import Sampling
from factorlm.models import CausalLM
from factorlm.models.lora import LoraSettings
from factorlm.settings import Config

# Taken in this order, as far as there are such factors. No two learn against each other (romantic texts are among those
# that humorous learned to avoid, and the other way round), so texts can well have all of them at once.
USUAL = ("positive", "polite", "simple", "-toxic", "romantic", "childlike", "dialogue", "subjective")


class Settings(Config):
    """Settings of the suite.

    Attributes:
        constraints: factors, each with a minus in front if its attribute is unwanted, in the order in which they are
            added; empty takes the usual ones that are in the store.
        counts: how many constraints are asked for at once; counts beyond their number are left out.
        strength: of each factor, in nats per token.
        budget: most nats per token of all factors together; beyond it all are turned down alike.
        change: what is done to one constraint to see how the others move.
        changed: how many of the constraints are changed, one at a time; 0 measures no interference.
        pairs: how many of the constraints are measured in pairs; 0 or 1 measures none.
        prompts: data set with `prompt`, continued by the models; the first distinct ones are taken.
        num_prompts: how many.
        samples: texts for each prompt.
        max_tokens: of a text.
        sampling: how tokens are drawn.
        texts: of each constraint, that the one model is fine-tuned on.
        lora: how it is fine-tuned.
        head_texts: of each class, that a head is trained on to see how long it takes; 0 takes all.
    """

    constraints: tuple[str, ...] = ()
    counts: tuple[Annotated[int, Field(ge=1)], ...] = (1, 2, 4)
    strength: Annotated[float, Field(gt=0)] = 0.2
    budget: Annotated[float, Field(gt=0)] = 0.6
    change: Literal["flip", "remove"] = "flip"
    changed: Annotated[int, Field(ge=0)] = 2
    pairs: Annotated[int, Field(ge=0)] = 3
    prompts: str = "sentiment_prompts/neutral"
    num_prompts: Annotated[int, Field(ge=2)] = 24
    samples: Annotated[int, Field(ge=1)] = 1
    max_tokens: Annotated[int, Field(ge=1)] = 20
    sampling: Sampling = Sampling(top_p=0.9)
    texts: Annotated[int, Field(ge=1)] = 32
    lora: LoraSettings = LoraSettings()
    head_texts: Annotated[int, Field(ge=0)] = 300

    @classmethod
    def sized(cls, size: str) -> Settings:
        """Minutes, or what one would publish."""
        if size == "small":
            return cls()
        return cls(counts=(1, 2, 4, 8), changed=3, pairs=4, num_prompts=96, texts=100, head_texts=0)


def run(bench: Workbench, settings: Settings) -> Findings:
    """Compare the ways with the texts that the recipes of the shelf name."""
    return measure(bench, settings, shelf_examples(bench.data))


def shelf_examples(data: DataFolder) -> ExamplesOf:
    """The labelled texts that a head of the shelf learned from, by its name."""

    def examples_of(name: str) -> list[Example]:
        try:
            return load_recipe(name).examples(data.either)
        except UnknownNameError:
            raise InputError(
                f"a factor with a recipe is needed, to know its texts, got {name!r}; take another"
            ) from None

    return examples_of


def measure(bench: Workbench, settings: Settings, examples_of: ExamplesOf) -> Findings:
    """Compare the ways.

    Args:
        bench: with one bare language model.
        settings: of the suite.
        examples_of: labelled texts of an attribute, by the name of its factor.

    Raises:
        InputError: if more than a bare model is given, a constraint stands twice, or there are too few texts.
    """
    base = bench.models[0]
    if len(bench.models) > 1 or not isinstance(base.model.factor, CausalLM):
        raise InputError(
            f"one bare language model is needed, got {', '.join(bench.names)}; name factors in the settings"
        )
    examples_of = remembering(examples_of)
    constraints = chosen(settings)
    counts = sorted({min(count, len(constraints)) for count in settings.counts})
    constraints = constraints[: counts[-1]]
    for constraint in constraints:
        bind(factor(constraint.factor), base.model.lm)  # what is not there, or not for this model, is refused at once
    work = Work(
        bench, base, distinct_prompts(bench, settings.prompts, settings.num_prompts),
        Writing(settings.samples, settings.max_tokens, settings.sampling, settings.strength, settings.budget,
                settings.texts, settings.lora),
        {c: examiner_of(bench, c, examples_of) for c in constraints}, examples_of,
    )  # fmt: skip
    found = Found(work, constraints, work.plain(), {}, {})
    for count in counts:
        _write(found, count)
    changes = None
    if settings.changed and len(constraints) > 1:
        whole = {way: found.conditions[way, counts[-1]] for way in CLAIMED}
        changes = measure_interference(work, constraints, whole, settings.change, settings.changed)
    pairs = constraints[: settings.pairs]
    independence = measure_independence(work, pairs, found.base) if len(pairs) > 1 else None
    sections = [curves_section(found, counts), price_section(found, counts)]
    sections += [part.section for part in (changes, independence) if part is not None]
    costs = measure_costs(found, counts, changes, settings.head_texts)
    sections += [costs.section, examples_section(found, counts[-1]), judges_section(work)]
    measures = _measures(found, counts)
    if changes is not None:
        measures |= {f"change of the others/{way}": c.on_others for way, c in changes.by_way.items()}
        measures |= {f"change of the constraint itself/{way}": c.on_itself for way, c in changes.by_way.items()}
    if independence is not None:
        measures |= {f"interaction/{a} with {b}": e for (a, b), e in independence.interactions.items()}
    headlines = [
        *_headlines(found, counts),
        *_interference_lines(changes),
        *(independence.findings if independence else ()),
    ]
    return Findings(
        title=f"Factorised against monolithic: {len(constraints)} constraints on {base.expression}",
        sections=tuple(sections),
        measures={measure: {bench.names[0]: estimate} for measure, estimate in measures.items()},
        comparisons=tuple(adjusted(_comparisons(found, counts))),
        headlines=(*headlines, costs.finding),
        cautions=cautions(found, counts, settings.counts),
    )


def chosen(settings: Settings) -> list[Constraint]:
    """The constraints asked for, else the usual ones whose factors are in the store.

    Raises:
        InputError: if one stands twice, or there are none.
    """
    wanted = [Constraint.read(text) for text in settings.constraints]
    if not wanted:
        in_store = {manifest.name for _, manifest in manifests()}
        wanted = [c for c in map(Constraint.read, USUAL) if c.factor in in_store]
    factors = [c.factor for c in wanted]
    if not factors or len(set(factors)) < len(factors) or not settings.counts:
        raise InputError(
            f"different constraints and at least one count of them are needed, got {', '.join(factors) or 'none'} and "
            f"{settings.counts}; factorlm factor list shows factors"
        )
    return wanted


def _write(found: Found, count: int) -> None:
    work, asked = found.work, found.constraints[:count]
    composition = work.composition(asked)
    target = composition.divergence
    monolith = work.monolith(asked)
    exponents = {}
    found.conditions[FACTORISED, count] = work.factorised(composition.exponents, f"K={count}")
    names = {way: f"{way}, K={count}" for way in (MONOLITHIC, AS_TRAINED)}
    tuned = work.monolithic(monolith, {names[MONOLITHIC]: target, names[AS_TRAINED]: None})
    for way, name in names.items():
        found.conditions[way, count], exponents[way] = tuned[name]
    for way, to in ((PROMPT, None), (MATCHED_PROMPT, target)):
        found.conditions[way, count], exponents[way] = work.prompted(asked, f"{way}, K={count}", target=to)
    found.made[count] = Made(composition, monolith, exponents)


def _measures(found: Found, counts: Sequence[int]) -> dict[str, Estimate]:
    measures: dict[str, Estimate] = {}
    for k in counts:
        titles = found.titles(k)
        for way, c in {BASE: found.base, **{way: found.conditions[way, k] for way in WAYS}}.items():
            numbers = {
                "mean rate": c.mean_rate(titles),
                "joint rate": c.joint_rate(titles),
                **{f"rate of {title}": c.rate(title) for title in titles},
                "Dist-3": c.distinct_3,
            }
            if way != BASE:
                numbers |= {"perplexity ratio": c.perplexity_ratio(found.base), "nats per token from the base": c.moved}
            measures |= {f"{measure}/{way}/K={k}": estimate for measure, estimate in numbers.items()}
    return measures


def _comparisons(found: Found, counts: Sequence[int]) -> list[Comparison]:
    comparisons, seed = [], found.work.bench.seed
    for k in counts:
        ours, titles = found.conditions[FACTORISED, k], found.titles(k)
        for rival in RIVALS:
            theirs = found.conditions[rival, k]
            rates = (("mean rate", Condition.mean_share), ("joint rate", Condition.joint_share))
            for measure, of in rates if k > 1 else rates[:1]:  # of one constraint they are the same
                comparisons.append(
                    compare(f"{measure}, K={k}", (FACTORISED, of(ours, titles)), (rival, of(theirs, titles)),
                            lower_is_better=False, seed=seed)
                )  # fmt: skip
            comparisons.append(
                compare(f"base perplexity, K={k}", (FACTORISED, base_nats(ours.samples)),
                        (rival, base_nats(theirs.samples)),
                        statistic=lambda mean_RC: np.exp(mean_RC[:, 0] / mean_RC[:, 1]), lower_is_better=True,
                        seed=seed)
            )  # fmt: skip
    return comparisons


def _headlines(found: Found, counts: Sequence[int]) -> list[str]:
    lines = []
    for k in counts:
        titles = found.titles(k)

        def rates(c: Condition, titles: list[str] = titles) -> str:
            joint = f" on average and {_percent(c.joint_rate(titles))} all at once" if len(titles) > 1 else ""
            return _percent(c.mean_rate(titles)) + joint

        said = []
        for way in CLAIMED:
            c = found.conditions[way, k]
            ratio = c.perplexity_ratio(found.base).value or math.nan
            said.append(f"{way} {rates(c)}, at {ratio:.2f} times the base's perplexity")
        lines.append(
            f"{k} {'constraint' if k == 1 else 'constraints'} ({', '.join(titles)}), texts that meet them: "
            f"{'; '.join(said)}; the base alone {rates(found.base)}."
        )
    return lines


def _percent(share: Estimate) -> str:
    return "not measured" if share.value is None else f"{share.value:.0%}"


def _interference_lines(changes: Interference | None) -> list[str]:
    if changes is None:
        return []
    ours = changes.by_way[FACTORISED]

    def points(size: Estimate) -> str:
        if size.value is None:
            return "not measured"
        value = f"{100 * size.value:.1f} points"
        if size.low is None or size.high is None:
            return value
        return f"{value} ({100 * size.low:.1f} to {100 * size.high:.1f})"

    said = ", ".join(f"{way} {points(c.on_others)}" for way, c in changes.by_way.items())
    lines = [
        f"When one constraint is changed, the rates of the others move by (root of the mean square, sampling noise "
        f"taken out): {said}."
    ]
    for rival in CLAIMED[1:]:
        gap = ours.less_than(changes.by_way[rival])
        if gap.low is None or gap.high is None or gap.low <= 0 <= gap.high:
            lines.append(f"Whether the factors interfere less than the {rival} way does not show on so few prompts.")
        else:
            lines.append(f"The factors interfere {'less' if gap.low > 0 else 'more'} than the {rival} way.")
    return lines
