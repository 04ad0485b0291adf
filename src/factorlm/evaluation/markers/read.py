"""Accuracy by marker: which answer is likeliest after a question and a marker, question by question."""

# Axes: A answers, K patterns of what is there, M markers, P permutations, Q questions.

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, PositiveInt

from factorlm.evaluation.answers import choice_share, top_is_right
from factorlm.evaluation.document import Bar, Block, Cell, Column, Comparisons, Intervals, Prose, Section, Table
from factorlm.evaluation.intervals import Comparison, Estimate, adjusted, compare, mean_interval
from factorlm.evaluation.markers.asked import TEMPLATES, Choice, choices
from factorlm.evaluation.markers.table import FILLERS, KINDS, NONE, Marker, chosen
from factorlm.evaluation.part import Part
from factorlm.evaluation.suites.capability import read_choices
from factorlm.evaluation.workbench import Workbench
from factorlm.settings import Config

Array = NDArray[np.float64]
BATCH = 16
PERMUTATIONS = 2000


class Reading(Config):
    """Settings.

    Attributes:
        sets: of questions.
        num_questions: of each set.
        per_kind: markers of each type; None takes all.
    """

    sets: Annotated[tuple[str, ...], Field(min_length=1)] = ("commonsense_qa", "truthfulqa", "nq_open")
    num_questions: PositiveInt | None = 24
    per_kind: PositiveInt | None = 2


@dataclass(frozen=True, eq=False)
class Marked:
    """What markers do to the answers to some questions; nan where a marker is not English before an answer.

    Attributes:
        markers: in order of M.
        right_QM: whether the answer of largest log probability per byte is the right one.
        ratio_right_QM: the same by the ratio to its probability without the question.
        share_QM: of the right answer in the probability of all.
        template_Q: which form each question is put in.
    """

    markers: tuple[Marker, ...]
    right_QM: Array
    ratio_right_QM: Array
    share_QM: Array
    template_Q: NDArray[np.int64]

    def of_kind(self, kind: str) -> Array:
        """Mean over the markers of a type, of each question."""
        return row_means(self.right_QM[:, [m.kind == kind for m in self.markers]])

    def of_level(self, level: int) -> Array:
        """Mean over the markers that say as much of certainty, fillers and no marker apart, of each question."""
        return row_means(self.right_QM[:, [m.level == level and m.kind not in (NONE, FILLERS) for m in self.markers]])


def measure_read(bench: Workbench, settings: Reading) -> Part:
    """Ask all questions with all markers."""
    markers = chosen(settings.per_kind)
    by_set = {
        name: _asked(bench, name, choices(bench, name, settings.num_questions), markers) for name in settings.sets
    }
    together = Marked(
        markers,
        *(np.concatenate([getattr(m, f) for m in by_set.values()])
          for f in ("right_QM", "ratio_right_QM", "share_QM", "template_Q")),
    )  # fmt: skip
    groups = {**by_set, "all": together} if len(by_set) > 1 else by_set
    measures: dict[str, dict[str, Estimate]] = {}
    for name, found in groups.items():
        measures |= _measures(name, found, bench.seed)
    name = list(groups)[-1]
    comparisons = _compared(name, groups[name], bench.seed)
    sections = (
        _by_marker(groups[name], measures, name, len(markers)),
        _by_type(groups, measures, adjusted(comparisons)),
        _sensitivity(groups, measures),
    )
    low, high = measures[f"sensitivity/{name}"]["max less min"], measures[f"certain less doubtful/{name}"]["accuracy"]
    headlines = (
        f"Accuracy moves by {low} between the best and the worst of {len(markers)} markers; chance alone gives "
        f"{measures[f'sensitivity/{name}']['by chance']}. Accuracy after certainty less after doubt: {high}.",
    )
    return Part(sections, measures, headlines, (CAUTION,))


CAUTION = (
    "An answer is chosen among given ones by its log probability per byte, so nothing is said of what the model would "
    "write, nor of what it believes."
)


def row_means(values_QM: Array) -> Array:
    """Mean of each row without what is nan; nan for rows of nothing else."""
    is_there_QM = ~np.isnan(values_QM)
    number_Q = is_there_QM.sum(1)
    total_Q = np.where(is_there_QM, values_QM, 0).sum(1)
    return np.divide(total_Q, number_Q, out=np.full(len(values_QM), np.nan), where=number_Q > 0)


def spread(right_QM: Array) -> float:
    """Best less worst marker: means over questions, each less the mean of its question.

    Without the subtraction a marker that is not English before the answers of the harder questions would look good.
    """
    mean_M = row_means((right_QM - row_means(right_QM)[:, None]).T)
    return float(np.nanmax(mean_M) - np.nanmin(mean_M))


def spread_by_chance(right_QM: Array, seed: int, permutations: int = PERMUTATIONS) -> Array:
    """Best less worst mean over markers, [P], when the markers of each question are shuffled.

    The best of many means lies above the worst even if no marker matters; this is by how much.
    """
    generator = np.random.default_rng(seed)
    pattern_KM, pattern_Q = np.unique(~np.isnan(right_QM), axis=0, return_inverse=True)
    blocks = [np.ix_(pattern_Q == k, pattern_M) for k, pattern_M in enumerate(pattern_KM)]  # what is nan stays there
    found_P = np.empty(permutations)
    shuffled_QM = right_QM.copy()
    for p in range(permutations):
        for block in blocks:
            shuffled_QM[block] = generator.permuted(shuffled_QM[block], axis=1)
        found_P[p] = spread(shuffled_QM)
    return found_P


def _asked(bench: Workbench, name: str, asked: list[Choice], markers: tuple[Marker, ...]) -> Marked:
    composed = bench.models[0]
    template_Q = np.arange(len(asked)) % len(TEMPLATES)
    places, items = [], []
    for q, choice in enumerate(asked):
        for m, marker in enumerate(markers):
            if not choice.fits(marker):
                continue
            whole, bare = choice.contexts(marker, TEMPLATES[template_Q[q]])
            answers = [f" {text}" for text in choice.answers]
            places.append((q, m))
            items += [{"prompt": whole, "answers": answers}, {"prompt": bare, "answers": answers}]
    key = {"what": "choices", "model": composed.fingerprint}
    rows = bench.in_batches(
        f"{name} with markers", key, items, BATCH, lambda batch: read_choices(composed.model, batch)
    )
    shape = (len(asked), len(markers))
    right_QM, ratio_QM, share_QM = (np.full(shape, np.nan) for _ in range(3))
    for n, (q, m) in enumerate(places):
        log_probs, without = (np.array(rows[2 * n + k]["log_probs"]) for k in range(2))
        bytes_A = np.array([len(text.encode()) for text in asked[q].answers])
        is_right = [True] + [False] * (len(log_probs) - 1)
        right_QM[q, m] = top_is_right((log_probs / bytes_A).tolist(), is_right)
        with np.errstate(invalid="ignore"):
            ratio_QM[q, m] = top_is_right(np.nan_to_num(log_probs - without, nan=-np.inf).tolist(), is_right)
        share_QM[q, m] = np.nan_to_num(choice_share(log_probs.tolist(), is_right))
    return Marked(markers, right_QM, ratio_QM, share_QM, template_Q)


def _measures(name: str, found: Marked, seed: int) -> dict[str, dict[str, Estimate]]:
    labels = [m.phrase or NONE for m in found.markers]
    plain_Q, filler_Q = found.of_kind(NONE), found.of_kind(FILLERS)
    kinds = [kind for kind in KINDS if not np.isnan(found.of_kind(kind)).all()]
    chance_P = spread_by_chance(found.right_QM, seed)
    seen = spread(found.right_QM)
    low, middle, high = (float(x) for x in np.quantile(chance_P, [0.025, 0.5, 0.975]))
    number = len(found.right_QM)
    return {
        f"accuracy/{name}": {
            label: mean_interval(found.right_QM[:, m], seed=seed) for m, label in enumerate(labels)
        },
        f"accuracy by ratio/{name}": {
            label: mean_interval(found.ratio_right_QM[:, m], seed=seed) for m, label in enumerate(labels)
        },
        f"probability of the right answer/{name}": {
            label: mean_interval(found.share_QM[:, m], seed=seed) for m, label in enumerate(labels)
        },
        f"accuracy by type/{name}": {kind: mean_interval(found.of_kind(kind), seed=seed) for kind in kinds},
        f"type less no marker/{name}": {
            kind: mean_interval(found.of_kind(kind) - plain_Q, seed=seed) for kind in kinds if kind != NONE
        },
        f"type less fillers/{name}": {
            kind: mean_interval(found.of_kind(kind) - filler_Q, seed=seed)
            for kind in kinds
            if kind not in (NONE, FILLERS)
        },
        f"sensitivity/{name}": {
            "max less min": Estimate(value=seen, n=number),
            "by chance": Estimate(value=middle, low=low, high=high, n=number),
            "p-value": Estimate(value=float((1 + (chance_P >= seen - 1e-12).sum()) / (1 + len(chance_P))), n=number),
        },
        f"certain less doubtful/{name}": {
            "accuracy": mean_interval(found.of_level(1) - found.of_level(-1), seed=seed)
        },
        f"accuracy by template/{name}": {
            template.split("\n")[0]: mean_interval(row_means(found.right_QM[found.template_Q == t]), seed=seed)
            for t, template in enumerate(TEMPLATES)
        },
    }  # fmt: skip


def _compared(name: str, found: Marked, seed: int) -> list[Comparison]:
    """Each type with the fillers, question by question."""
    filler_Q = found.of_kind(FILLERS)
    return [
        compare(f"accuracy, {name}", (kind, found.of_kind(kind)), (FILLERS, filler_Q), lower_is_better=False, seed=seed)
        for kind in KINDS
        if kind != FILLERS and not np.isnan(found.of_kind(kind)).all()
    ]


def _by_marker(found: Marked, measures: dict[str, dict[str, Estimate]], name: str, number: int) -> Section:
    by = {
        "per byte": measures[f"accuracy/{name}"],
        "ratio to that without the question": measures[f"accuracy by ratio/{name}"],
    }
    bars = tuple(
        Bar(label=f"{m.kind}: {m.phrase}" if m.phrase else NONE, values=tuple(x[m.phrase or NONE] for x in by.values()))
        for m in found.markers
    )
    picture = Intervals(
        title="Accuracy by marker",
        x_label="share of questions answered rightly",
        series=tuple(by),
        bars=bars,
        is_percent=True,
        note="95 % intervals over questions; rows are of the same questions, so differences are surer than they look.",
    )
    return Section(
        title="Markers in prompts",
        lead=f"{len(found.right_QM)} questions, each in one of {len(TEMPLATES)} forms and with {number} markers "
        "between question and answer. The answer is the likeliest per byte (and, beside it, the one that the question "
        "raises most).",
        blocks=(picture,),
    )


def _by_type(groups: dict[str, Marked], measures: dict[str, dict[str, Estimate]], rows: list[Comparison]) -> Section:
    kinds = [kind for kind in KINDS if any(kind in measures[f"accuracy by type/{name}"] for name in groups)]
    cells: list[tuple[Cell, ...]] = [
        (kind, *(measures[f"accuracy by type/{name}"].get(kind) for name in groups)) for kind in kinds
    ]
    columns = (Column(title="type"), *(Column(title=name, form=".1%") for name in groups))
    blocks: tuple[Block, ...] = (
        Table(title="Accuracy by type", columns=columns, rows=tuple(cells)),
        Comparisons(
            title="Types against fillers",
            rows=tuple(rows),
            note="Paired over questions by a permutation test; p-values are adjusted for their number (Holm).",
        ),
    )
    return Section(title="Types of markers", lead="Means over the markers of a type.", blocks=blocks)


def _sensitivity(groups: dict[str, Marked], measures: dict[str, dict[str, Estimate]]) -> Section:
    columns = (
        Column(title="questions"),
        Column(title="best less worst marker", form=".1%"),
        Column(title="by chance", form=".1%"),
        Column(title="p-value", form=".3f"),
        Column(title="certain less doubtful", form="+.1%"),
        *(Column(title=template.split("\n")[0], form=".1%") for template in TEMPLATES),
    )
    rows: list[tuple[Cell, ...]] = []
    for name in groups:
        found = measures[f"sensitivity/{name}"]
        by_template = measures[f"accuracy by template/{name}"].values()
        certain = measures[f"certain less doubtful/{name}"]["accuracy"]
        rows.append((name, found["max less min"], found["by chance"], found["p-value"].value, certain, *by_template))
    text = (
        "Differences between markers are within questions. The best of many beats the worst even if none matters: by "
        "chance is the same difference after the markers of each question were shuffled, with its 95 % range. The last "
        "columns are accuracies by form of the question, each over its own questions."
    )
    return Section(
        title="Sensitivity", blocks=(Table(title="Sensitivity", columns=columns, rows=tuple(rows)), Prose(text=text))
    )
