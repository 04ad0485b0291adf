"""factorlm eval: measure compositions with the suites, and write reports."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from factorlm.cli import claim, judge, tasks, trust
from factorlm.evaluation.suites import SUITES

if TYPE_CHECKING:
    from factorlm.evaluation import Report

app = typer.Typer(no_args_is_help=True)

Expression = Annotated[
    str,
    typer.Option("--model", help="What to measure, such as 'smollm2 * positive^2 / toxic' or 'smollm2 * calm=0.3'."),
]
Rivals = Annotated[list[str], typer.Option("--vs", help="What to compare it with, pair by pair; several times.")]
Out = Annotated[Path | None, typer.Option("--out", help="Folder for report.html, report.md and report.json.")]
Size = Annotated[str, typer.Option("--size", help="small (minutes) or full (what one would publish).")]
Seed = Annotated[int, typer.Option("--seed", help="Of all randomness.")]
Data = Annotated[Path | None, typer.Option("--data", help="Folder of data sets (default: $FACTORLM_DATA).")]
Texts = Annotated[
    list[str], typer.Option("--text", help="GROUP=FILE of your own texts, instead of the data sets; several times.")
]
Recipe = Annotated[Path | None, typer.Option("--recipe", help="Settings in TOML.")]
Changes = Annotated[list[str], typer.Option("--set", help="path.to.key=value: change one setting; several times.")]
PrintSettings = Annotated[bool, typer.Option("--print-settings", help="Print the settings and stop.")]
Dtype = Annotated[str, typer.Option("--dtype", help="Number format: float32, bfloat16, or auto for the faster one.")]
Perturb = Annotated[
    str, typer.Option("--perturb", help="Errors to make in prompts: typos, speech, verbose ...; 'typos=0.1+append'.")
]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Measure everything anew, keep nothing.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON object for each measure and model.")]


def _command(suite: str) -> Callable[..., None]:
    """The command of a suite; all take the same options."""

    def run(
        model: Expression = "smollm2",
        rivals: Rivals = [],  # noqa: B006
        out: Out = None,
        size: Size = "small",
        seed: Seed = 0,
        data: Data = None,
        text: Texts = [],  # noqa: B006
        recipe: Recipe = None,
        changes: Changes = [],  # noqa: B006
        print_settings: PrintSettings = False,
        dtype: Dtype = "float32",
        perturb: Perturb = "",
        no_cache: NoCache = False,
        as_json: Json = False,
    ) -> None:
        from factorlm.cli.terminal import console, notes, progress
        from factorlm.errors import InputError
        from factorlm.evaluation import Cache, DataFolder, evaluate, terminal, write_report
        from factorlm.evaluation.suites import settings_of
        from factorlm.settings import changed

        defaults = settings_of(suite, size)
        if text:
            if "texts" not in type(defaults).model_fields:
                raise InputError(f"--text is for the suite perplexity, got it with {suite}; leave it out")
            defaults = defaults.model_copy(update={"texts": tuple(text)})
        settings = changed(defaults, recipe, changes)
        if print_settings:
            console.print_json(settings.model_dump_json())
            return
        if out is not None and out.exists() and not out.is_dir():
            raise InputError(f"a folder for the report is needed, got the file {out}; choose another name")
        with progress() as report:
            found = evaluate(
                suite,
                [model, *rivals],
                settings=settings,
                seed=seed,
                data=DataFolder(data) if data else None,
                cache=Cache(None) if no_cache else None,
                report=report,
                dtype=dtype,
                perturb=perturb,
                command=shlex.join(["factorlm", *sys.argv[1:]]),
            )
        if as_json:
            _print_measures(found)
        else:
            console.print(terminal(found))
        if out is not None:
            for path in write_report(found, out):
                if path.suffix == ".html" or path.name == "report.json":
                    notes.print(f"wrote {path}", soft_wrap=True)

    run.__doc__ = SUITES[suite]
    return run


for _name in SUITES:
    app.command(_name)(_command(_name))
app.command("tasks")(tasks.tasks)
app.command("claim")(claim.claim)
app.command("trust")(trust.trust)
app.add_typer(judge.app, name="judge", help="List, show and train the classifiers that measure attributes.")


def _print_measures(report: Report) -> None:
    from factorlm.cli.terminal import print_json

    for measure, by_model in report.measures.items():
        for model, estimate in by_model.items():
            print_json({"measure": measure, "model": model, **estimate.model_dump()})
    for comparison in report.comparisons:
        print_json(comparison.model_dump())
