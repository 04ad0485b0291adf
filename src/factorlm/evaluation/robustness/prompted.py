"""A prompted language model under errors: without demonstrations, with the nearest utterances, with values of slots."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, PositiveInt

from factorlm.evaluation.document import Samples, Section
from factorlm.evaluation.intervals import Estimate
from factorlm.evaluation.part import Part
from factorlm.evaluation.requests import generate_until
from factorlm.evaluation.robustness import scoring
from factorlm.evaluation.robustness.outcomes import CLEAN, Measures, Outcomes, blocks
from factorlm.evaluation.robustness.tagged import augmented
from factorlm.evaluation.robustness.utterances import load_parts, with_errors
from factorlm.evaluation.workbench import Workbench
from factorlm.settings import Config
from factorlm.text.perturbations import Marked, Span

Strategy = Literal["none", "utterances", "noisy utterances", "values"]
TITLES: dict[Strategy, str] = {
    "none": "no demonstrations",
    "utterances": "nearest utterances",
    "noisy utterances": "nearest utterances with errors",
    "values": "values of slots",
}
BATCH = 32
TASK = "Name the slots of each sentence as type: value, parted by semicolons, with values copied from the sentence."


class Prompting(Config):
    """Settings.

    Attributes:
        sets: of utterances with slots.
        strategies: what stands before the utterance.
        num_test: utterances to find slots in.
        num_pool: utterances that demonstrations are chosen from.
        shots: demonstrations, or utterances whose slots give the types and values to show.
        values: shown of each type.
        max_tokens: of an answer.
        conditions: kinds of errors; "clean" is always the first.
    """

    sets: Annotated[tuple[str, ...], Field(min_length=1)] = ("snips",)
    strategies: Annotated[tuple[Strategy, ...], Field(min_length=1)] = ("none", "utterances", "values")
    num_test: PositiveInt = 32
    num_pool: PositiveInt = 1200
    shots: PositiveInt = 5
    values: PositiveInt = 3
    max_tokens: PositiveInt = 40
    conditions: tuple[str, ...] = ("typos", "speech", "verbose", "context_typos+entity_typos+append")


@dataclass(frozen=True, eq=False)
class Pool:
    """Utterances that demonstrations are chosen from, by groups of letters that they share with a sentence."""

    utterances: list[Marked]
    vectorizer: Any
    weights: Any

    @classmethod
    def of(cls, utterances: list[Marked]) -> Pool:
        """Over these utterances."""
        from sklearn.feature_extraction.text import TfidfVectorizer

        vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True)
        return cls(utterances, vectorizer, vectorizer.fit_transform([u.text for u in utterances]))

    def nearest(self, text: str, number: int) -> list[int]:
        """Places of the most similar ones, the most similar last, so that it stands next to the question."""
        similarity = (self.weights @ self.vectorizer.transform([text]).T).toarray()[:, 0]
        return np.argsort(-similarity, kind="stable")[:number][::-1].tolist()

    def values(self) -> dict[str, list[str]]:
        """Values of each type, the most frequent first."""
        count: dict[str, Counter[str]] = {}
        for u in self.utterances:
            for span in u.spans:
                count.setdefault(span.kind, Counter())[u.text[span.start : span.end]] += 1
        return {kind: [value for value, _ in found.most_common()] for kind, found in count.items()}


def measure_prompted(bench: Workbench, settings: Prompting) -> Part:
    """Ask the composition for slots under every condition."""
    return Part.joined([_of_set(bench, settings, name) for name in settings.sets])


def readable(kind: str) -> str:
    """The name of a type as words."""
    return re.sub(r"[._]+", " ", kind)


def answer(utterance: Marked) -> str:
    """Its slots as they are to be written."""
    return "; ".join(f"{readable(s.kind)}: {utterance.text[s.start : s.end]}" for s in utterance.spans) or "none"


def parsed(text: str, utterance: Marked, kinds: Sequence[str]) -> list[Span]:
    """Slots that an answer names, at the first place in the utterance where each value stands and is free.

    Capitals and marks around values are of no matter; a value that stands nowhere in the utterance is counted as a
    slot found in no place, so that it is wrong in any score.
    """
    names = {readable(kind).lower(): kind for kind in kinds}
    found: list[Span] = []
    for piece in text.strip().split("\n")[0].split(";"):
        name, has_value, value = piece.partition(":")
        value = value.strip().strip("\"'.,").lower()
        if not has_value or not value:
            continue
        kind = names.get(" ".join(name.lower().split()), f"unknown {name.strip()}")
        pattern = rf"(?<!\S){re.escape(value)}(?!\S)"
        places = [match.span() for match in re.finditer(pattern, utterance.text.lower())]
        free = [p for p in places if all(p[1] <= s.start or s.end <= p[0] for s in found)]
        place = free[0] if free else (-1 - len(found), -1 - len(found))
        found.append(Span(*place, kind))
    return found


def prompt(strategy: Strategy, utterance: Marked, pool: Pool, noisy: Pool, settings: Prompting) -> str:
    """What the model reads before it names the slots of an utterance."""
    asked = f"Sentence: {utterance.text}\nSlots:"
    if strategy == "none":
        return f"{TASK}\nTypes: {', '.join(readable(kind) for kind in sorted(pool.values()))}\n\n{asked}"
    near = [pool.utterances[i] for i in pool.nearest(utterance.text, settings.shots)]
    if strategy == "values":
        values = pool.values()
        of_near = dict.fromkeys(s.kind for u in near for s in u.spans)
        lines = "\n".join(f"{readable(kind)}: {', '.join(values[kind][: settings.values])}" for kind in of_near)
        return f"{TASK}\nTypes and examples of values:\n{lines}\n\n{asked}"
    if strategy == "noisy utterances":
        near = [noisy.utterances[i] for i in noisy.nearest(utterance.text, settings.shots)]
    shown = "".join(f"Sentence: {u.text}\nSlots: {answer(u)}\n\n" for u in near)
    return f"{TASK}\n\n{shown}{asked}"


def _of_set(bench: Workbench, settings: Prompting, name: str) -> Part:
    train, test = load_parts(bench, name, settings.num_pool, settings.num_test)
    pool, noisy = Pool.of(train), Pool.of([*train, *augmented(train, bench.seed)])
    by_condition = {c: with_errors(test, c, 0) for c in (CLEAN, *settings.conditions)}
    kinds = sorted({s.kind for u in pool.utterances for s in u.spans})
    start, rows = f"prompted/{name}", []
    shown: list[tuple[str, str, str]] = []
    unread: Counter[str] = Counter()
    for strategy in settings.strategies:
        row = Outcomes(TITLES[strategy])
        for condition, meant in by_condition.items():
            prompts = [prompt(strategy, u, pool, noisy, settings) for u in meant]
            texts = _written(bench, f"{name}, {row.name}, {condition}", prompts, settings.max_tokens)
            found = [parsed(text, u, kinds) for text, u in zip(texts, meant, strict=True)]
            row.add(condition, found, meant)
            pairs = zip(found, texts, strict=True)
            unread[row.name] += sum(not spans and text.strip().lower() != "none" for spans, text in pairs)
            shown.append((f"{row.name}, {condition}", meant[0].text, f" → {texts[0].strip()}"))
        rows.append(row)
    measures: Measures = {}
    for row in rows:
        measures |= row.measures(start, bench.seed)
    plain, *taught = rows
    if plain.name == TITLES["none"]:
        measures[f"demonstrations/{start}"] = {
            row.name: scoring.mean_gain(
                [row.exact[c] for c in row.noisy], [plain.exact[c] for c in plain.noisy], bench.seed
            )
            for row in taught
        }
    total = len(test) * len(by_condition)
    measures[f"answers not understood/{start}"] = {
        r.name: Estimate(value=unread[r.name] / total, n=total) for r in rows
    }
    note = "Answers are read as type: value, copied from the noisy sentence. 95 % intervals over sentences."
    section = Section(
        title=f"The prompted model on {name}",
        lead=f"{len(test)} sentences of {name}/test, the same under every condition, greedy answers; "
        f"demonstrations are the {settings.shots} most similar of {len(pool.utterances)} sentences of {name}/train.",
        blocks=(
            *blocks(f"Prompts on {name}", rows, start, measures, note),
            Samples(title="Answers to the first sentence", texts=tuple(shown)),
        ),
    )
    return Part((section,), measures, tuple(_headlines(name, rows, start, measures)))


def _written(bench: Workbench, stage: str, prompts: list[str], max_tokens: int) -> list[str]:
    """What the composition writes after each prompt, up to the end of the line."""
    composed = bench.models[0]

    def work(batch: list[str]) -> list[str]:
        return [w.text for w in generate_until(composed.model, [(text, ("\n",), max_tokens) for text in batch])]

    key = {"what": "slots by prompt", "model": composed.fingerprint, "max_tokens": max_tokens}
    return bench.in_batches(stage, key, prompts, BATCH, work)


def _headlines(name: str, rows: Sequence[Outcomes], start: str, measures: Measures) -> list[str]:
    """One for each way."""
    lines = []
    for row in rows:
        found = measures[f"F1/{start}/{row.name}"]
        mean = found.get("mean of noisy")
        lines.append(f"Prompted on {name}, {row.name}: F1 {found[CLEAN]} without errors, {mean} in the mean with them.")
    return lines
