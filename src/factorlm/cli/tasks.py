"""factorlm eval tasks: run the tasks of EleutherAI's evaluation harness on a composition."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager
    from rich.table import Table

Tasks = Annotated[list[str], typer.Argument(help="Names of tasks, such as arc_easy, or of your own in --include.")]
Expression = Annotated[str, typer.Option("--model", help="What to run, such as 'smollm2 * positive^2 / toxic'.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="Questions of each task at most, for a try.")]
Fewshot = Annotated[int | None, typer.Option("--fewshot", min=0, help="Examples before each question.")]
Chat = Annotated[bool, typer.Option("--chat", help="Ask in the model's chat template.")]
Include = Annotated[Path | None, typer.Option("--include", help="Folder of task files (YAML) of your own.")]
Seed = Annotated[int, typer.Option("--seed", help="Of examples and of drawing.")]
Out = Annotated[Path | None, typer.Option("--out", help="Folder for results.json, table.md and every answer.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object for each task and metric.")]
HEADINGS = ("task", "metric", "filter", "value", "standard error", "examples", "n")


def tasks(
    names: Tasks,
    model: Expression = "smollm2",
    limit: Limit = None,
    fewshot: Fewshot = None,
    chat: Chat = False,
    include: Include = None,
    seed: Seed = 0,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Run tasks of the evaluation harness (lm-eval) on a composition; their data sets come from the Hugging Face hub.

    Numbers are those that the harness gives for the same requests, so plain models compare with published tables.
    """
    from factorlm.cli.terminal import console, print_json, progress
    from factorlm.errors import InputError
    from factorlm.evaluation.lm_eval_adapter import FactorLM

    for folder, what in ((include, "task files"), (out, "results")):
        if folder is not None and folder.exists() and not folder.is_dir():
            raise InputError(f"a folder for {what} is needed, got the file {folder}; choose another name")
    if include is not None and not include.is_dir():
        raise InputError(f"a folder of task files is needed, got {include}, which is not there; check --include")
    with _quiet_harness():
        from lm_eval import simple_evaluate

        manager = _manager(names, include)
        with progress() as report:
            found: dict[str, Any] = simple_evaluate(
                FactorLM(model, seed=seed, report=report),
                tasks=list(names),
                num_fewshot=fewshot,
                limit=limit,
                apply_chat_template=chat,
                task_manager=manager,
                log_samples=out is not None,
                random_seed=seed,
                numpy_random_seed=seed,
                torch_random_seed=seed,
                fewshot_random_seed=seed,
            )
    rows = list(_rows(found))
    if as_json:
        for row in rows:
            print_json(row)
    else:
        console.print(_table(rows))
    if out is not None:
        _write(out, found, rows)


def _manager(names: list[str], include: Path | None) -> TaskManager:
    """A manager of tasks that knows these names and ends in one line where a data set cannot be had."""
    from lm_eval.tasks import TaskManager

    from factorlm.errors import FactorlmError, InputError, UnknownNameError

    class Manager(TaskManager):
        def load(self, task_list: Any) -> Any:
            try:
                return super().load(task_list)
            except FactorlmError:
                raise
            except Exception as error:  # hub, network, data set and task files each fail in their own ways
                reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
                raise InputError(
                    f"the data of {', '.join(names)} cannot be had: {type(error).__name__}: {reason}; tasks fetch "
                    "them from the Hugging Face hub, unless a task file in --include names files of your own"
                ) from error

    folder = str(include) if include else None
    if folder:  # thousands of task files need not be read for tasks of one's own
        own = Manager(include_path=folder, include_defaults=False)
        if set(names) <= set(own.all_subtasks):
            return own
    manager = Manager(include_path=folder)
    for name in names:
        if name not in manager.all_tasks:
            raise UnknownNameError.of("task", name, manager.all_tasks, "your own come with --include FOLDER")
    return manager


@contextmanager
def _quiet_harness() -> Iterator[None]:
    """Keep the harness's log of routine steps away; warnings stay."""
    loggers = [logging.getLogger(name) for name in ("lm_eval", "datasets")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _rows(found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """One for each task and metric: the harness calls them "metric,filter", beside "metric_stderr,filter"."""
    for part in ("results", "groups"):
        for task, numbers in found.get(part, {}).items():
            for key, value in numbers.items():
                metric, comma, chosen = key.partition(",")
                if not comma or metric.endswith("_stderr"):
                    continue
                error = numbers.get(f"{metric}_stderr,{chosen}")
                yield {
                    "task": task,
                    "is_group": part == "groups",
                    "metric": metric,
                    "filter": chosen,
                    "value": value,
                    "standard_error": error if isinstance(error, float) else None,
                    "num_fewshot": found.get("n-shot", {}).get(task),
                    "n": found.get("n-samples", {}).get(task, {}).get("effective"),
                    "version": found.get("versions", {}).get(task),
                }


def _table(rows: list[dict[str, Any]]) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in HEADINGS:
        table.add_column(heading, justify="left" if heading in HEADINGS[:3] else "right")
    for row in rows:
        table.add_row(*(escape(cell) for cell in _cells(row)))
    return table


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    numbers = [f"{x:.4f}" if isinstance(x, float) else "" if x is None else str(x)
               for x in (row["value"], row["standard_error"], row["num_fewshot"], row["n"])]  # fmt: skip
    return row["task"], row["metric"], row["filter"], *numbers


def _write(folder: Path, found: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Results and table, and for each task the question and answer of every document."""
    from factorlm.cli.terminal import write_file
    from factorlm.errors import InputError

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} cannot be made: {error.strerror or error}; choose another place") from None
    samples = found.pop("samples", {})
    found.pop("pretty_env_info", None)  # of the whole machine, to no use here
    write_file(folder / "results.json", json.dumps(found, indent=2, ensure_ascii=False, default=str))
    lines = [HEADINGS, ("---",) * len(HEADINGS), *(_cells(row) for row in rows)]
    write_file(folder / "table.md", "".join(f"| {' | '.join(cells)} |\n" for cells in lines))
    for task, documents in samples.items():
        answers = (json.dumps(document, ensure_ascii=False, default=str) for document in documents)
        write_file(folder / f"samples_{task.replace('/', '_')}.jsonl", "\n".join(answers) + "\n")
