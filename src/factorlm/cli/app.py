"""The entry point: commands, and what happens when something is wrong."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from factorlm import __version__
from factorlm.cli import (
    ask,
    bench,
    corpus,
    evaluate,
    factor,
    feedback,
    flywheel,
    generate,
    guide,
    index,
    models,
    prior,
    redteam,
    score,
    search,
    serve,
)
from factorlm.errors import FactorlmError

# What typer says of words it cannot use; where the class lives has changed between versions of typer.
_COMPLAINT: type[Exception] = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")

app = typer.Typer(
    name="factorlm",
    help="Multiply, mix and steer language models instead of retraining them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.command("generate")(generate.generate)
app.command("ask")(ask.ask)
app.command("score")(score.score)
app.command("search")(search.search)
app.command("redteam")(redteam.redteam)
app.add_typer(factor.app, name="factor", help="List, show, train, make and verify factors.")
app.add_typer(
    prior.app, name="prior", help="A distribution over models: learn it, draw from it, update it by evidence, tilt it."
)
app.add_typer(guide.app, name="guide", help="Classifiers of what sentences mean: learn, list and try them.")
app.add_typer(index.app, name="index", help="Memories made from texts: build, ask, change and verify them.")
app.add_typer(serve.app, name="serve", help="Serve a model to OpenAI's clients, and a page to mix factors on.")
app.add_typer(feedback.app, name="feedback", help="What people said of texts: export it, or train on it.")
app.add_typer(
    flywheel.app, name="flywheel", help="From use to better factors: collect, train, test, promote, roll back."
)
app.add_typer(corpus.app, name="corpus", help="Corpora of any size scored and filtered, here or on a cluster.")
app.add_typer(
    models.app, name="models", help="Models known by name: list, fetch; write facts into a model, and take them back."
)
app.add_typer(evaluate.app, name="eval", help="Measure compositions: suites, judges, tasks, claims.")
app.add_typer(bench.app, name="bench", help="Measure speed on this machine, as ratios within one run.")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"factorlm {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and stop.")
    ] = False,
) -> None:
    """Multiply, mix and steer language models instead of retraining them."""


def main() -> None:
    """Run the command line; bad input ends with one line and exit status 2."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        raise SystemExit(app(standalone_mode=False))
    except FactorlmError as error:
        print(f"factorlm: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from None
    except _COMPLAINT as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()  # type: ignore[attr-defined]
        else:
            where = getattr(getattr(error, "ctx", None), "command_path", "factorlm")
            message = " ".join(error.format_message().split()).rstrip(".")  # type: ignore[attr-defined]
            print(f"factorlm: {message}; {where} --help shows what there is", file=sys.stderr)
        raise SystemExit(2) from None
    except (KeyboardInterrupt, typer.Abort):
        print("factorlm: stopped", file=sys.stderr)
        raise SystemExit(130) from None
    except BrokenPipeError:  # the reader of our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
