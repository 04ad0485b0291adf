"""What suites work with: the models under test, data, a cache that makes runs resumable, progress and a seed."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from factorlm.errors import InputError
from factorlm.evaluation.corpora import DataFolder
from factorlm.evaluation.document import ModelCard, Section
from factorlm.evaluation.intervals import Comparison, Estimate
from factorlm.files import write_whole
from factorlm.inference.expression import Composed
from factorlm.models.fetch import cache_folder

Progress = Callable[[str, int, int], None]  # stage, done, total
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
PROTOCOL = 1  # raised whenever cached numbers would come out differently


@dataclass(frozen=True)
class Cache:
    """Finished pieces of work as JSON files named by what they depend on; a broken run goes on where it was.

    Attributes:
        folder: where they are kept; None keeps nothing.
    """

    folder: Path | None

    def get(self, key: dict[str, Any], compute: Callable[[], Any]) -> Any:
        """The value for this key, computed and kept if it is not there; values are JSON."""
        if self.folder is None:
            return compute()
        text = json.dumps({"protocol": PROTOCOL, **key}, sort_keys=True, ensure_ascii=False)
        path = self.folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"
        try:
            return json.loads(path.read_text(encoding="utf-8"))["value"]
        except (OSError, ValueError, KeyError):
            pass  # not there, or not whole: computed again
        value = compute()
        try:
            write_whole(path, json.dumps({"key": json.loads(text), "value": value}))
        except OSError as error:
            raise InputError(
                f"{self.folder} cannot be written: {error.strerror or error}; set FACTORLM_CACHE, or use --no-cache"
            ) from None
        return value


def default_cache() -> Cache:
    """Beside the models, in `evaluations`."""
    return Cache(cache_folder() / "evaluations")


@dataclass(frozen=True)
class Findings:
    """What a suite found; models and provenance make it a report.

    Attributes:
        title: of the page.
        sections: in order.
        measures: the numbers by name for scripts: measure -> model -> estimate.
        comparisons: of the model with each rival.
        headlines: the findings in a sentence each.
        cautions: what the numbers cannot bear, in a sentence each.
    """

    title: str
    sections: tuple[Section, ...]
    measures: dict[str, dict[str, Estimate]]
    comparisons: tuple[Comparison, ...] = ()
    headlines: tuple[str, ...] = ()
    cautions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Workbench:
    """The surroundings of a run.

    Attributes:
        models: under test; the first is the model, the others are rivals.
        data: where data sets are.
        cache: of finished pieces.
        report: told of progress: stage, done, total.
        seed: of all randomness.
        used: fingerprints of the data and judges used, filled in by the run for the provenance.
    """

    models: tuple[Composed, ...]
    data: DataFolder
    cache: Cache
    report: Progress
    seed: int = 0
    used: dict[str, str] = field(default_factory=dict)
    judges_used: dict[str, str] = field(default_factory=dict)

    def name(self, index: int) -> str:
        """What tables call a model: its expression, or a letter where that is long."""
        expression = self.models[index].expression
        return expression if len(expression) <= 40 else LETTERS[index]

    @property
    def names(self) -> list[str]:
        """Of all models."""
        return [self.name(i) for i in range(len(self.models))]

    @property
    def cards(self) -> tuple[ModelCard, ...]:
        """Of all models, for the report."""
        return tuple(
            ModelCard(name=name, expression=m.expression, parts=tuple(m.parts))
            for name, m in zip(self.names, self.models, strict=True)
        )

    def in_batches(
        self, stage: str, key: dict[str, Any], items: Sequence[Any], size: int, work: Callable[[list[Any]], list[Any]]
    ) -> list[Any]:
        """Work on items in batches, each cached under the key and its items; results are JSON, one for each item.

        Args:
            stage: for the progress bar.
            key: what the results depend on beside the items; give `model.fingerprint` if they depend on a model.
            items: JSON values.
            size: items to a batch.
            work: from the items of a batch to their results.
        """
        results: list[Any] = []
        self.report(stage, 0, len(items))
        for start in range(0, len(items), size):
            batch = list(items[start : start + size])
            results += self.cache.get({**key, "items": batch}, functools.partial(work, batch))
            self.report(stage, len(results), len(items))
        return results
