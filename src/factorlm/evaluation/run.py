"""From a suite's name and some expressions to a report."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from factorlm.errors import InputError
from factorlm.evaluation.corpora import DataFolder
from factorlm.evaluation.document import Block, Comparisons, Prose, Provenance, Report, Section
from factorlm.evaluation.intervals import Comparison
from factorlm.evaluation.noisy import noisy, told
from factorlm.evaluation.provenance import commit, machine, versions
from factorlm.evaluation.suites import settings_of, suite_named
from factorlm.evaluation.workbench import Cache, Progress, Workbench, default_cache
from factorlm.inference.expression import Composed, compose
from factorlm.settings import Config


def evaluate(
    suite: str,
    models: str | Composed | Sequence[str | Composed] = "smollm2",
    *,
    settings: Config | None = None,
    size: str = "small",
    seed: int = 0,
    data: DataFolder | None = None,
    cache: Cache | None = None,
    report: Progress = lambda stage, done, total: None,
    command: str = "",
    dtype: str = "float32",
    perturb: str = "",
) -> Report:
    """Measure a composition, and compare it with rivals.

    Args:
        suite: its name in `factorlm.evaluation.SUITES`.
        models: expressions such as "smollm2 * positive^2", or compositions; the first is the model under test, the
            others are rivals it is compared with, pair by pair.
        settings: of the suite; None takes those of the size.
        size: "small" for minutes, "full" for what one would publish.
        seed: of all randomness.
        data: where data sets are; None takes $FACTORLM_DATA, else ../shared/data.
        cache: of finished pieces; None keeps them beside the models. `Cache(None)` keeps nothing.
        report: told of progress: stage, done, total.
        command: that makes the report again, for its foot.
        dtype: number format of the models; float32 gives the same numbers on every machine, to rounding, and to texts
            alone as to texts in a batch; bfloat16 is faster where the machine multiplies it natively.
        perturb: errors to make in prompts, such as "typos=0.1+append"; see `factorlm.text.perturbations`.

    Raises:
        UnknownNameError: for an unknown suite, size, model, factor or data set.
        InputError: for settings that the suite cannot use.
    """
    run = suite_named(suite).run
    settings = settings or settings_of(suite, size)
    start = time.monotonic()
    wanted = [models] if isinstance(models, str | Composed) else list(models)
    composed = tuple(m if isinstance(m, Composed) else compose(m, dtype=dtype) for m in wanted)
    expressions = [m.expression for m in composed]
    if not composed or len(set(expressions)) < len(expressions):
        raise InputError(f"different models are needed, got {', '.join(expressions) or 'none'}")
    folder = data or DataFolder.default()
    if perturb:
        folder = noisy(folder, perturb, seed)
    bench = Workbench(composed, folder, cache or default_cache(), report, seed)
    found = run(bench, settings)
    return Report(
        suite=suite,
        title=found.title,
        headlines=found.headlines,
        cautions=(*told(folder, suite), *found.cautions),
        models=bench.cards,
        sections=tuple(_without_repeats(found.sections, found.comparisons)),
        measures=found.measures,
        comparisons=found.comparisons,
        provenance=Provenance(
            command=command,
            settings=settings.model_dump(mode="json") | ({"perturb": perturb} if perturb else {}),
            seed=seed,
            data=dict(bench.used),
            judges=dict(bench.judges_used),
            versions=versions(),
            machine=machine(),
            commit=commit(),
            seconds=round(time.monotonic() - start, 1),
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
        ),
    )


def _without_repeats(sections: Sequence[Section], comparisons: Sequence[Comparison]) -> Iterator[Section]:
    """The sections without the comparisons that head the report already; of these only the note stays."""
    for section in sections:
        blocks: list[Block] = []
        for block in section.blocks:
            if not isinstance(block, Comparisons) or any(row not in comparisons for row in block.rows):
                blocks.append(block)
            elif block.note:
                blocks.append(Prose(text=f"Comparisons: {block.note}"))
        if blocks or not section.blocks:
            yield section.model_copy(update={"blocks": tuple(blocks)})
