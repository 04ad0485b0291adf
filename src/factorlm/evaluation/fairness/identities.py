"""Terms of identity in data: how much likelier what demeans a group is, against what is neutral about it, by group."""

# Axes: G groups, T templates.

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveInt

from factorlm.errors import InputError
from factorlm.evaluation.corpora import fingerprint
from factorlm.evaluation.document import Bar, Intervals, Section
from factorlm.evaluation.intervals import Estimate, bootstrap
from factorlm.evaluation.part import Part
from factorlm.evaluation.requests import rolling
from factorlm.evaluation.workbench import Workbench
from factorlm.settings import Config

Array = NDArray[np.float64]
PART, MARK = "hatecheck/test", "[IDENTITY"
KINDS = {
    "demeaning": ("derog_neg_emote_h", "derog_neg_attrib_h", "derog_dehum_h", "derog_impl_h"),
    "favourable": ("ident_pos_nh",),
    "neutral": ("ident_neutral_nh",),
}
BATCH = 32


class Identities(Config):
    """Settings.

    Attributes:
        templates: sentences of each kind, each with every group's term; None takes all.
    """

    templates: PositiveInt | None = 16


def measure_identities(bench: Workbench, settings: Identities) -> Part:
    """Read the same sentences about each group with every model."""
    groups, texts = _texts(bench, settings.templates)
    measures: dict[str, dict[str, Estimate]] = {}
    for index, name in enumerate(bench.names):
        composed = bench.models[index]
        flat = [text for kind in texts.values() for row in kind for text in row]
        key = {"what": "log probability of texts", "model": composed.fingerprint}

        def work(batch: list[Any], index: int = index) -> list[float]:
            return rolling(bench.models[index].model, batch)

        read = iter(bench.in_batches(f"sentences about groups: {name}", key, flat, BATCH, work))
        log_prob = {kind: np.array([[next(read) for _ in row] for row in rows]) for kind, rows in texts.items()}
        for g, group in enumerate(groups):
            for kind in ("demeaning", "favourable"):
                found = contrast(log_prob[kind], log_prob["neutral"], g, bench.seed)
                measures.setdefault(f"difference of pairs/{kind}/{group}", {})[name] = found
    return Part((_section(bench, groups, measures, texts),), measures, (), (CAUTION,))


CAUTION = (
    "Sentences about groups come from templates for testing classifiers; they are few, English, and measure no harm. "
    "They are counted here and not shown."
)


def contrast(log_prob_TG: Array, neutral_TG: Array, group: int, seed: int) -> Estimate:
    """How many nats likelier sentences of a kind are about a group than about all, less the same of neutral ones.

    How frequent a group's term is cancels, since it stands in both kinds. The interval is over sentences of both.
    """
    of_kind_T = log_prob_TG[:, group] - log_prob_TG.mean(1)
    neutral_T = neutral_TG[:, group] - neutral_TG.mean(1)
    # Two samples in one table: means of the filled places, so that both are drawn anew.
    table_TC = np.zeros((len(of_kind_T) + len(neutral_T), 4))
    table_TC[: len(of_kind_T), 0], table_TC[: len(of_kind_T), 1] = of_kind_T, 1
    table_TC[len(of_kind_T) :, 2], table_TC[len(of_kind_T) :, 3] = neutral_T, 1

    def statistic(mean_RC: Array) -> Array:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray(mean_RC[:, 0] / mean_RC[:, 1] - mean_RC[:, 2] / mean_RC[:, 3])

    return bootstrap(table_TC, statistic, seed=seed)


def _texts(bench: Workbench, number: int | None) -> tuple[list[str], dict[str, list[list[str]]]]:
    """Groups, and of each kind the sentences of each template in the order of groups; only templates that all have."""
    rows = [row for row in bench.data.rows(PART) if row["target"] and MARK in str(row["template"])]
    groups = sorted({row["target"] for row in rows})
    found: dict[str, list[list[str]]] = {}
    for kind, functions in KINDS.items():
        by_template: dict[str, dict[str, str]] = {}
        for row in rows:
            if row["functionality"] in functions:
                by_template.setdefault(row["template"], {})[row["target"]] = row["text"]
        whole = [[by[group] for group in groups] for by in by_template.values() if len(by) == len(groups)]
        order = np.random.default_rng(bench.seed).permutation(len(whole))[:number]
        found[kind] = [whole[i] for i in order]
        if not found[kind]:
            raise InputError(f"templates of every group are needed in {PART}, got none that is {kind}")
    bench.used[PART] = fingerprint([text for kind in found.values() for row in kind for text in row])
    return groups, found


def _section(
    bench: Workbench, groups: list[str], measures: dict[str, dict[str, Estimate]], texts: dict[str, list[list[str]]]
) -> Section:
    pictures = tuple(
        Intervals(
            title=f"What is {kind}, by group",
            x_label="nats a sentence, less those of neutral sentences; 0 is the mean of all groups",
            series=tuple(bench.names),
            bars=tuple(
                Bar(label=group, values=tuple(measures[f"difference of pairs/{kind}/{group}"][n] for n in bench.names))
                for group in groups
            ),
            zero=0.0,
        )
        for kind in ("demeaning", "favourable")
    )
    numbers = ", ".join(f"{len(rows)} {kind}" for kind, rows in texts.items())
    return Section(
        title="Terms of identity",
        lead=f"The same sentences ({numbers}) about {len(groups)} groups: how much likelier a kind of sentence is "
        "about one group than about the others, against neutral sentences.",
        blocks=pictures,
    )
