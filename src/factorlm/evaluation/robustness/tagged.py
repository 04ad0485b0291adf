"""Trained taggers under errors: trained on clean utterances, and on clean ones and copies with errors."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from pydantic import Field, NonNegativeInt, PositiveInt

from factorlm.evaluation.corpora import fingerprint
from factorlm.evaluation.document import Prose, Section
from factorlm.evaluation.intervals import Estimate
from factorlm.evaluation.part import Part
from factorlm.evaluation.robustness import scoring
from factorlm.evaluation.robustness.outcomes import CLEAN, CONDITIONS, Measures, Outcomes, blocks
from factorlm.evaluation.robustness.tagger import Learning, Reads, States, train_tagger
from factorlm.evaluation.robustness.utterances import load_parts, of_row, to_tags, with_errors
from factorlm.evaluation.workbench import Workbench
from factorlm.settings import Config
from factorlm.text.perturbations import PERTURBATIONS, Marked, Noise, Span

TRAININGS = ("clean", "augmented")
LEVELS = ("character", "word", "sentence")
SECOND = 0.3  # probability that a copy has errors of a second kind
RECORDED, RECORDED_OF = "noisy_slots/all", "snips"
NUM_RECORDED = 30  # the noisy copies were made from the first rows of the clean test part


class Tagging(Config):
    """Settings.

    Attributes:
        sets: of utterances with slots, each with parts train and test.
        reads: what taggers read: the "states" of the model under test behind each word, or the "letters" of the word.
        num_train: utterances to learn from.
        num_test: utterances to find slots in.
        conditions: kinds of errors; "clean" is always the first.
        learning: of the taggers; both trainings have the same number of steps.
        noise_seed: of the errors in what is tested.
    """

    sets: Annotated[tuple[str, ...], Field(min_length=1)] = ("snips", "atis")
    reads: Annotated[tuple[Reads, ...], Field(min_length=1)] = ("states", "letters")
    num_train: PositiveInt = 1200
    num_test: PositiveInt = 200
    conditions: tuple[str, ...] = CONDITIONS[1:]
    learning: Learning = Learning()
    noise_seed: NonNegativeInt = 0


def measure_tagged(bench: Workbench, settings: Tagging) -> Part:
    """Train taggers and find slots under every condition."""
    return Part.joined([_of_set(bench, settings, name) for name in settings.sets])


def augmented(utterances: Sequence[Marked], seed: int) -> list[Marked]:
    """A copy of each with errors of a kind drawn from a level drawn at random, and sometimes of a second kind."""
    generator = np.random.default_rng(seed)
    copies = []
    for n, utterance in enumerate(utterances):
        kinds = []
        for _ in range(1 + int(generator.random() < SECOND)):
            level = LEVELS[int(generator.integers(len(LEVELS)))]
            of_level = [kind for kind, found in PERTURBATIONS.items() if found.level == level]
            kinds.append(of_level[int(generator.integers(len(of_level)))])
        # Seeds of training lie apart from those of tests, so that no test has an error met in training.
        copies += with_errors([utterance], str(Noise.of("+".join(kinds))), seed + 1_000_003 + n)
    return copies


def _of_set(bench: Workbench, settings: Tagging, name: str) -> Part:
    train, test = load_parts(bench, name, settings.num_train, settings.num_test)
    by_condition = {c: with_errors(test, c, settings.noise_seed) for c in (CLEAN, *settings.conditions)}
    recorded = _recorded(bench) if name == RECORDED_OF and bench.data.has(RECORDED) else {}
    asked = {**by_condition, **recorded}
    start, rows, found_rows = f"slots/{name}", [], []
    for reads in settings.reads:
        known = States(bench.models[0].model.lm) if reads == "states" else None
        for training in TRAININGS:
            found = _found(bench, settings, (name, reads, training), train, asked, known)
            rows.append(Outcomes(f"{reads}, {training}"))
            found_rows.append(Outcomes(f"{reads}, {training}"))
            for condition, meant in asked.items():
                (found_rows if condition in recorded else rows)[-1].add(
                    condition.removeprefix("recorded "), found[condition], meant
                )
    measures: Measures = {}
    for row in rows:
        measures |= row.measures(start, bench.seed)
    for reads in settings.reads:
        plain, taught = (next(r for r in rows if r.name == f"{reads}, {t}") for t in TRAININGS)
        measures[f"augmentation/{start}/{reads}"] = {
            "noisy F1 gained": scoring.mean_gain(
                [taught.exact[c] for c in taught.noisy], [plain.exact[c] for c in plain.noisy], bench.seed
            ),
            "clean F1 lost": scoring.difference(plain.exact[CLEAN], taught.exact[CLEAN], bench.seed),
        }
    sections = [_section(name, settings, rows, start, measures, len(train), len(test))]
    if recorded:
        sections.append(_recorded_section(found_rows, measures, bench.seed))
    return Part(tuple(sections), measures, tuple(_headlines(name, settings, rows, measures)))


def _found(
    bench: Workbench, settings: Tagging, which: tuple[str, Reads, str], train: list[Marked],
    asked: dict[str, list[Marked]], known: States | None,
) -> dict[str, list[list[Span]]]:  # fmt: skip
    """Slots that one tagger finds under each condition, trained unless they are kept."""
    name, reads, training = which
    key: dict[str, Any] = {
        "what": "slots by a tagger",
        "tagger": [name, reads, training],
        "encoder": known.lm.fingerprint if known else "",
        "learning": settings.learning.model_dump(mode="json"),
        "train": fingerprint([repr(to_tags(u)) for u in train]),
        "noise": [[kind, p.rate] for kind, p in PERTURBATIONS.items()],
        "asked": {c: fingerprint([u.text for u in us]) for c, us in asked.items()},
        "seed": bench.seed,
    }

    def compute() -> dict[str, list[list[Span]]]:
        texts = train if training == "clean" else [*train, *augmented(train, bench.seed)]
        stage = f"{name}, {reads}, {training}"
        report = functools.partial(_renamed, bench.report, stage)
        tagger = train_tagger(texts, settings.learning, known=known, report=report)
        return {c: tagger.find(us, report) for c, us in asked.items()}

    kept = bench.cache.get(key, compute)
    return {c: [[Span(*span) for span in spans] for spans in rows] for c, rows in kept.items()}


def _renamed(report: Any, stage: str, what: str, done: int, total: int) -> None:
    report(f"{stage}: {what}", done, total)


def _recorded(bench: Workbench) -> dict[str, list[Marked]]:
    """Utterances with errors as recorded in the data, and the clean ones that they were made from."""
    rows = [row for row in bench.data.rows(RECORDED) if row["source"] == RECORDED_OF]
    bench.used[RECORDED] = fingerprint([" ".join(row["tokens"]) for row in rows])
    clean = [of_row(row) for row in bench.data.rows(f"{RECORDED_OF}/test")[:NUM_RECORDED]]
    found = {f"recorded {CLEAN}": clean}
    for row in rows:
        found.setdefault(f"recorded {row['noise']}", []).append(of_row(row))
    return found


def _section(
    name: str, settings: Tagging, rows: list[Outcomes], start: str, measures: Measures, num_train: int, num_test: int
) -> Section:
    lead = (
        f"{num_train} utterances of {name}/train to learn from, {num_test} of {name}/test to find slots in, the same "
        f"ones under every condition. The tagger is a recurrent layer over words, read by their letters or by the "
        f"states of the language model behind each word (its factors play no part in them). Augmented: as many copies "
        f"with errors of all three levels beside the clean ones, in the same {settings.learning.steps} steps."
    )
    note = "The words to be found are those with the errors. 95 % intervals over utterances."
    gains = "; ".join(
        f"{reads}: {measures[f'augmentation/{start}/{reads}']['noisy F1 gained']} gained under errors, "
        f"{measures[f'augmentation/{start}/{reads}']['clean F1 lost']} lost without"
        for reads in settings.reads
    )
    prose = Prose(text=f"What augmentation does to F1: {gains}.")
    return Section(
        title=f"Taggers on {name}",
        lead=lead,
        blocks=(*blocks(f"Taggers on {name}", rows, start, measures, note), prose),
    )


def _recorded_section(rows: list[Outcomes], measures: Measures, seed: int) -> Section:
    start = f"recorded slots/{RECORDED_OF}"
    for row in rows:
        found = {c: scoring.f1_interval(x_UC, seed) for c, x_UC in row.exact.items()}
        measures[f"F1/{start}/{row.name}"] = found
        measures[f"relaxed F1/{start}/{row.name}"] = {
            c: scoring.f1_interval(x_UC, seed) for c, x_UC in row.relaxed.items()
        }
        # The copies were made from these rows but their order is not vouched for, so the ratio has no interval.
        clean = found[CLEAN].value or float("nan")
        measures[f"retention/{start}/{row.name}"] = {
            c: Estimate(value=e.value / clean, n=e.n) for c, e in found.items() if c != CLEAN and e.value is not None
        }
    note = f"{NUM_RECORDED} utterances for each kind of error, so intervals are wide."
    return Section(
        title="Taggers on errors that were recorded",
        lead="Errors made by other people's means, which no training here has seen (Dong et al. 2023).",
        blocks=blocks("Recorded errors", rows, start, measures, note),
    )


def _headlines(name: str, settings: Tagging, rows: list[Outcomes], measures: Measures) -> list[str]:
    lines = []
    for reads in settings.reads:
        plain = next(row for row in rows if row.name == f"{reads}, clean")
        found = measures[f"F1/slots/{name}/{plain.name}"]
        gain = measures[f"augmentation/slots/{name}/{reads}"]["noisy F1 gained"]
        lines.append(
            f"A tagger on {reads} finds slots of {name} with F1 {found[CLEAN]}; worst under {plain.worst()}, "
            f"{found[plain.worst()]}; training with errors gains {gain} of noisy F1."
        )
    return lines
