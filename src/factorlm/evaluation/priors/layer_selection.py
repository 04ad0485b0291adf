"""Layer selection: what leaving layers out costs, whether components that choose layers differ, and what it gains."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PositiveInt

from factorlm.errors import InputError
from factorlm.evaluation.corpora import fingerprint
from factorlm.evaluation.document import Cell, Column, Curve, Section, Series, Table
from factorlm.evaluation.harness import Timing
from factorlm.evaluation.intervals import Estimate
from factorlm.evaluation.part import Part
from factorlm.evaluation.priors.layer_components import measure_components
from factorlm.evaluation.priors.layer_costs import measure_costs
from factorlm.evaluation.priors.layer_orders import Arm, make_arm
from factorlm.evaluation.priors.layer_speed import LayerSpeed, time_layers, tokens_per_second
from factorlm.evaluation.texts import Corpus
from factorlm.evaluation.workbench import Workbench
from factorlm.models.layers import num_layers
from factorlm.prior import Fitting, Learning
from factorlm.prior.layerdrop import Adaptation
from factorlm.prior.layers import LayerSettings
from factorlm.settings import Config

BARE, TUNED, DROPPED = "as it is", "fine-tuned", "fine-tuned with layers dropped"


class LayerSelection(Config):
    """Settings of this part.

    Attributes:
        sources: two or more corpora.
        held_out: texts of each, its first, that nothing learns from.
        longest: tokens read of a text.
        layers: how the order is learned by which layers are left out; `adapt` is how the model is fine-tuned for it,
            and `first` and `last` hold for components, too.
        passes: over the texts, in which the order is learned.
        shares: of the layers, that are run.
        random_sets: draws of as many layers.
        with_tuned: whether to measure the model fine-tuned without dropping layers besides: what dropping itself gives.
        components: K, that are learned of the model fine-tuned with layers dropped.
        choosing: how components choose. Without a price (`layer_cost`) they keep all layers that help at all; with a
            warm-up, or in few steps, they hardly part.
        learning: of them.
        with_bare: whether to learn components of the model as it is, too.
        speed: how speed is measured.
    """

    sources: tuple[Corpus, ...] = (
        Corpus(part="tinystories/valid", name="stories", max_documents=44, max_characters=300),
        Corpus(part="wikitext/wikitext103_train_head", name="articles", documents="headings", max_documents=44,
               max_characters=300),
    )  # fmt: skip
    held_out: Annotated[int, Field(ge=2)] = 12
    longest: PositiveInt = 32
    layers: LayerSettings = LayerSettings(
        noise=0.0, learning_rate=0.2, batch_tokens=256, adapt=Adaptation(batch_tokens=256)
    )
    passes: PositiveInt = 3
    shares: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.9, 0.8, 0.7, 0.6, 0.5)
    random_sets: PositiveInt = 2
    with_tuned: bool = False
    components: Annotated[int, Field(ge=2)] = 2
    choosing: LayerSettings = LayerSettings(layer_cost=0.2, learning_rate=0.3, batch_tokens=100)
    learning: Learning = Learning(rounds=2, dev_share=0.0)
    with_bare: bool = False
    speed: LayerSpeed = LayerSpeed()

    @classmethod
    def sized(cls, size: str) -> LayerSelection:
        """Minutes, or what one would publish."""
        if size == "small":
            return cls()
        sources = tuple(c.model_copy(update={"max_documents": 240, "max_characters": 1000}) for c in cls().sources)
        return cls(
            sources=sources, held_out=40, longest=96, passes=6, random_sets=8, with_tuned=True, with_bare=True,
            learning=Learning(rounds=8, dev_share=0.0),
            speed=LayerSpeed(new_tokens=32, read=16, repeats=15),
        )  # fmt: skip


def measure_layers(bench: Workbench, settings: LayerSelection) -> Part:
    """Quality, components and speed of a model that runs some of its layers.

    Raises:
        InputError: if there are too few sources or texts.
    """
    lm = bench.models[0].model.lm
    held_out, train = {}, {}
    for corpus in settings.sources:
        texts = [document.text for document in corpus.load(bench.data)]
        texts = [text for text in texts if lm.encode_text(text)]
        if len(texts) <= settings.held_out:
            raise InputError(
                f"more than {settings.held_out} texts of {corpus.part} are needed, got {len(texts)}; hold out fewer"
            )
        bench.used[corpus.part] = fingerprint(texts)
        held_out[corpus.group] = [lm.encode_text(text)[: settings.longest] for text in texts[: settings.held_out]]
        train[corpus.group] = texts[settings.held_out :]
    if len(held_out) < 2:
        raise InputError(f"two or more different sources are needed, got {', '.join(held_out) or 'none'}")
    learned_from = [text for texts in train.values() for text in texts]
    rows = [lm.encode_text(text)[: settings.longest] for text in learned_from]
    arms = {name: make_arm(bench, lm, name, rows, chosen, settings.passes) for name, chosen in _arms(settings).items()}
    fitting = Fitting(
        kind="layers", components=settings.components, longest=settings.longest,
        learning=settings.learning.model_copy(update={"seed": bench.seed}),
        layers=settings.choosing.model_copy(
            update={"adapt": None, "first": settings.layers.first, "last": settings.layers.last}
        ),
    )  # fmt: skip
    parts = [measure_costs(bench, list(arms.values()), held_out, settings.shares, settings.random_sets)]
    for name in (DROPPED, *([BARE] if settings.with_bare else [])):
        parts.append(measure_components(bench, arms[name], learned_from, held_out, fitting))
    parts.append(_speed(bench, arms[BARE], settings.speed))
    cautions = (
        "Fine-tuning also teaches the model the manner of these texts: what dropping layers taught it shows in what a "
        "model loses to its own full depth, or against the model fine-tuned without dropping.",
        f"Layers were chosen with {sum(map(len, rows))} tokens, in {settings.passes} passes; the order is noisy, and "
        "more texts make it better.",
        "Purity is reported for components named after the texts they explain, so chance gives a little more than the "
        "share of the largest source.",
    )
    return Part(
        sections=tuple(section for part in parts for section in part.sections),
        measures={f"layers: {name}": values for part in parts for name, values in part.measures.items()},
        headlines=tuple(line for part in parts for line in part.headlines),
        cautions=(*cautions, *(line for part in parts for line in part.cautions)),
    )


def _arms(settings: LayerSelection) -> dict[str, LayerSettings]:
    adaptation = settings.layers.adapt or Adaptation()
    found = {BARE: settings.layers.model_copy(update={"adapt": None})}
    if settings.with_tuned:
        plain = adaptation.model_copy(update={"drop": 0.0})
        found[TUNED] = settings.layers.model_copy(update={"adapt": plain})
    return {**found, DROPPED: settings.layers.model_copy(update={"adapt": adaptation})}


def _speed(bench: Workbench, arm: Arm, settings: LayerSpeed) -> Part:
    """Speed of the learned choices of layers; what was fine-tuned is as fast."""
    total = num_layers(arm.lm)
    counts = sorted({max(arm.first + arm.last, round(share * total)) for share in settings.shares} - {total})[::-1]
    kept = {f"{count} of {total} layers": arm.kept(count) for count in (total, *counts)}
    timings = time_layers(bench, arm.lm, kept, settings)
    ways = list(kept)
    measures: dict[str, dict[str, Estimate]] = {}
    table: list[tuple[Cell, ...]] = []
    for name, timing in timings.items():
        speeds = {way: Estimate(value=tokens_per_second(timing, way), n=timing.repeats) for way in ways}
        ratios = {way: _ratio(timing, way) for way in ways[1:]}
        measures |= {f"tokens per second, {name}": speeds, f"speed to all layers, {name}": ratios}
        table += [(f"{name}, {way}", speeds[way].value, ratios.get(way)) for way in ways]
    shares = [len(kept[way]) / total for way in ways[1:]]
    series = [
        Series(name=name, x=tuple(shares), y=tuple(_ratio(timing, way) for way in ways[1:]))
        for name, timing in timings.items()
    ]
    bound = Series(name="if layers took all the time", x=tuple(shares), y=tuple(1 / share for share in shares),
                   is_reference=True)  # fmt: skip
    columns = (
        Column(title="work and layers"),
        Column(title="tokens per second", form=".1f"),
        Column(title="to all layers", form=".2f", best="high"),
    )
    lead = (
        f"Ways run in turn in one process, {settings.repeats} times each, on fresh input; ratios are medians of pairs. "
        "Before that each gave what transformers' own code gives for a network of these layers."
    )
    blocks = (
        Curve(title="Speed against layers run", x_label="share of the layers run", y_label="speed to all layers",
              series=(*series, bound)),
        Table(title="Speed", columns=columns, rows=tuple(table)),
    )  # fmt: skip
    said = "; ".join(f"{name} {timing.ratio(ways[-1])}" for name, timing in timings.items())
    return Part(
        sections=(Section(title="Speed with layers left out", lead=lead, blocks=blocks),),
        measures=measures,
        headlines=(f"Running {ways[-1]} is faster by these factors: {said}.",),
        cautions=tuple(f"Speed, {name}: {line}." for name, t in timings.items() for line in t.cautions),
    )


def _ratio(timing: Timing, way: str) -> Estimate:
    found = timing.ratio(way)
    return Estimate(value=found.ratio, low=found.low, high=found.high, n=timing.repeats)
