"""A claim: a sentence that can fail, the rule that decides it, fixed before it is run, and what a run found."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from factorlm.errors import InputError
from factorlm.evaluation.corpora import DataFolder
from factorlm.evaluation.intervals import Estimate
from factorlm.evaluation.workbench import Cache, Progress, Workbench
from factorlm.files import write_whole
from factorlm.inference.expression import Composed, compose
from factorlm.settings import Config, explain_validation

Verdict = Literal["holds", "does not hold here", "not shown"]


class Outcome(Config):
    """What a run found.

    Attributes:
        measured: in a sentence.
        numbers: that the verdict rests on.
        verdict: what the rule says of them.
        detail: what else must be known to read the verdict.
    """

    measured: str
    numbers: dict[str, Any]
    verdict: Verdict
    detail: str = ""


def in_float32(expression: str) -> Composed:
    """The model of an expression in single precision."""
    return compose(expression, dtype="float32")


@dataclass(frozen=True)
class ClaimBench:
    """The surroundings of a run.

    Attributes:
        data: where data sets are.
        cache: of finished pieces.
        report: told of progress: stage, done, total.
        seed: of all randomness.
        benchmarks: folder of the records of benchmarks, for claims that rest on one of those.
        compose: from an expression to a model; single precision, so that no verdict depends on a processor's formats.
        used: fingerprints of the data used, filled in by the run.
    """

    data: DataFolder
    cache: Cache
    report: Progress
    seed: int
    benchmarks: Path
    compose: Callable[[str], Composed] = in_float32
    used: dict[str, str] = field(default_factory=dict)

    def workbench(self, *expressions: str) -> Workbench:
        """The bench of a suite with these models."""
        models = tuple(map(self.compose, expressions))
        return Workbench(models, self.data, self.cache, self.report, self.seed, self.used)

    def benchmark(self, name: str, command: str) -> list[dict[str, Any]]:
        """The objects in the record of a benchmark: one in a .json file, one a line in a .jsonl file.

        Args:
            name: of the file.
            command: that makes it.

        Raises:
            InputError: if it is not there.
        """
        path = self.benchmarks / name
        try:
            text = path.read_text(encoding="utf-8")
            return [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else [json.loads(text)]
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InputError(
                f"the record {path} is needed: {reason}; make it with {command}, or name its folder with --benchmarks"
            ) from None


@dataclass(frozen=True)
class Claim:
    """A sentence that can fail.

    Attributes:
        name: by which it is run.
        sentence: what is claimed.
        source: whose claim it is; empty for one of ours that nobody has published.
        reported: the source's own figure; empty if there is none.
        rule: what decides, with threshold and interval. It is part of every record: a change of rule shows.
        settings: of the run.
        run: from bench and settings to the outcome.
        needs: models, factors, data and records.
        minutes: about how long it takes on two cores.
        made_by: the command of the benchmark on whose record it rests; empty if the run measures itself.
    """

    name: str
    sentence: str
    source: str
    reported: str
    rule: str
    settings: Config
    run: Callable[[ClaimBench, Any], Outcome]
    needs: tuple[str, ...]
    minutes: float
    made_by: str = ""


class ClaimRecord(Config):
    """A claim that was run, with how it was.

    Attributes:
        name: of the claim.
        sentence: of the claim.
        source: of the claim.
        reported: by the source.
        rule: that decided.
        outcome: what was found.
        command: that runs it again.
        made_by: the command of the benchmark on whose record it rests; empty if the run measured itself.
        settings: complete.
        seed: of all randomness.
        data: set -> fingerprint of the texts used.
        machine: processor and cores, or accelerator.
        threads: that torch computed with.
        versions: of what matters.
        commit: of the code; "+" marks changes since.
        seconds: that the run took, cached parts not counted again.
        finished: date and time, UTC.
    """

    name: str
    sentence: str
    source: str
    reported: str
    rule: str
    outcome: Outcome
    command: str
    made_by: str = ""
    settings: dict[str, Any]
    seed: int
    data: dict[str, str] = Field(default_factory=dict)
    machine: str
    threads: int
    versions: dict[str, str]
    commit: str | None
    seconds: float
    finished: str


def is_current(record: ClaimRecord, claim: Claim) -> bool:
    """Whether a record was made by the rule, the settings and the benchmark that the claim has now.

    Settings that came after the record count as left at their defaults.
    """
    try:
        settings = type(claim.settings).model_validate_json(json.dumps(record.settings))
    except ValidationError:
        return False
    return (record.rule, settings, record.made_by) == (claim.rule, claim.settings, claim.made_by)


class NoSettings(Config):
    """For claims that leave nothing to choose."""


def decide(found: Estimate, line: float, *, above: bool) -> Verdict:
    """The usual rule: the whole interval must lie beyond the line, or before it, else nothing is shown.

    Args:
        found: the number.
        line: the threshold.
        above: whether the claim is that the number lies above it, rather than below.
    """
    if found.value is None or found.low is None or found.high is None:
        return "not shown"
    if found.low > line:
        return "holds" if above else "does not hold here"
    if found.high < line:
        return "does not hold here" if above else "holds"
    return "not shown"


def all_of(verdicts: list[Verdict]) -> Verdict:
    """The verdict on a claim with several parts: it holds if all do, and does not if one does not."""
    for verdict in ("does not hold here", "not shown"):
        if verdict in verdicts:
            return verdict
    return "holds"


def write_record(record: ClaimRecord, folder: Path) -> Path:
    """Write a record as NAME.json into a folder."""
    path = folder / f"{record.name}.json"
    try:
        write_whole(path, record.model_dump_json(indent=1) + "\n")
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror or error}; choose another folder") from None
    return path


def read_records(folder: Path) -> Mapping[str, ClaimRecord]:
    """The records in a folder, by claim; none if it is not there.

    Raises:
        InputError: if one of them is broken.
    """
    found = {}
    for path in sorted(folder.glob("*.json")):
        try:
            record = ClaimRecord.model_validate_json(path.read_text(encoding="utf-8"))
        except ValidationError as error:
            raise explain_validation(error, str(path)) from None
        found[record.name] = record
    return found
