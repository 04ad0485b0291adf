"""Two guides at once: sentiment and topic, each alone and together, by judges of both."""

# Axes: P prompts.

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field, PositiveFloat

from factorlm.evaluation.document import Cell, Column, Matrix, Section, Table
from factorlm.evaluation.guided.goals import WANTED
from factorlm.evaluation.guided.topics import TOPICS
from factorlm.evaluation.guided.writing import Guiding, Way
from factorlm.evaluation.intervals import Estimate, mean_interval
from factorlm.evaluation.judging import Reader, base_perplexity, judged
from factorlm.evaluation.part import Part
from factorlm.evaluation.responses import distinct_prompts
from factorlm.settings import Config

SIDES = {"positive": 1, "negative": -1}


class Grid(Config):
    """Settings of this part.

    Attributes:
        topics: labels of the judge of topics.
        num_prompts: that are continued.
        prompts: data set.
        sentiment: strength of the guide positive, either way.
        topic: strength of guides of topics.
    """

    topics: tuple[str, ...] = tuple(TOPICS)
    num_prompts: Annotated[int, Field(ge=2)] = 20
    prompts: str = "topic_wordlists/prefixes"
    sentiment: PositiveFloat = 30.0
    topic: PositiveFloat = 30.0


def measure_grid(guiding: Guiding, settings: Grid, sentiment: Reader, topics: Reader) -> Part:
    """Every pair of a sentiment and a topic, against each alone and neither."""
    bench, seed = guiding.bench, guiding.bench.seed
    prompts = distinct_prompts(bench, settings.prompts, settings.num_prompts)
    rates: dict[tuple[str, str], dict[str, Estimate]] = {}
    prices: dict[tuple[str, str], Estimate] = {}
    for side in ("", *SIDES):
        for topic in ("", *settings.topics):
            strengths = {"positive": SIDES[side] * settings.sentiment} if side else {}
            strengths |= {WANTED[f"topic {topic}"].guide: settings.topic} if topic else {}
            name = " and ".join(filter(None, (side, topic))) or "no guide"
            samples = guiding.write(Way(strengths), prompts, f"writing the grid: {name}").samples
            of_topics = judged(bench, topics, samples, f"judging the grid: {name}")
            found = {
                "positive": judged(bench, sentiment, samples, f"judging the grid: {name}").share("positive"),
                **{t: of_topics.share(t) for t in settings.topics},
            }
            rates[side, topic] = {key: mean_interval(has_P, seed=seed) for key, has_P in found.items()}
            prices[side, topic] = base_perplexity(samples, seed)
    return _part(settings, rates, prices)


def _part(
    settings: Grid, rates: dict[tuple[str, str], dict[str, Estimate]], prices: dict[tuple[str, str], Estimate]
) -> Part:
    rows: list[tuple[Cell, ...]] = []
    both = 0
    for (side, topic), found in rates.items():
        own = found[topic] if topic else None
        rows.append((side or "none", topic or "none", found["positive"], own, prices[side, topic]))
        if side and topic:
            change = (found["positive"].value or 0) - (rates["", ""]["positive"].value or 0)
            gained = (found[topic].value or 0) - (rates["", ""][topic].value or 0)
            both += change * SIDES[side] > 0 and gained > 0
    columns = (
        Column(title="sentiment guided to"), Column(title="topic guided to"),
        Column(title="positive (sentiment-words)", form=".0%"), Column(title="of this topic (topic-words)", form=".0%"),
        Column(title="base perplexity", form=".1f", best="low"),
    )  # fmt: skip
    table = Table(title="Sentiment and topic", columns=columns, rows=tuple(rows))
    sides = ("", *SIDES)
    values = tuple(tuple(_share(rates[side, topic][topic]) for side in sides) for topic in settings.topics)
    matrix = Matrix(
        title="Share of texts of the topic, by the sentiment that is guided to beside it", row_label="topic",
        column_label="sentiment", rows=settings.topics, columns=tuple(side or "none" for side in sides), values=values,
        form=".0%",
    )  # fmt: skip
    number = len(SIDES) * len(settings.topics)
    measures = {
        "grid, positive": {_name(*key): found["positive"] for key, found in rates.items()},
        "grid, topic": {_name(*key): found[key[1]] for key, found in rates.items() if key[1]},
    }
    line = f"Two guides at once: in {both} of {number} pairs both rates move as wanted from those without a guide."
    lead = f"{settings.num_prompts} prompts; strengths {settings.sentiment:g} and {settings.topic:g}."
    return Part(sections=(Section(title="Two guides at once", lead=lead, blocks=(table, matrix)),), measures=measures,
                headlines=(line,))  # fmt: skip


def _name(side: str, topic: str) -> str:
    return " and ".join(filter(None, (side, topic))) or "no guide"


def _share(estimate: Estimate) -> float | None:
    return None if estimate.value is None or np.isnan(estimate.value) else estimate.value
