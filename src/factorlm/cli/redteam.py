"""factorlm redteam: attack a composition, or a server that runs, and report what held."""

from __future__ import annotations

import shlex
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from factorlm.cli.evaluate import (
    Changes,
    Data,
    Dtype,
    Expression,
    Json,
    NoCache,
    Out,
    PrintSettings,
    Rivals,
    Seed,
    Size,
)

Attacks = Annotated[
    str, typer.Option("--attacks", help="Names with commas: plain, best-of-n, persona, prefix, suppression, negated, "
                      "suffix-random, suffix-gradient (default: all).")
]  # fmt: skip
Parts = Annotated[
    str, typer.Option("--parts", help="Names with commas: requests, balance, written, rule, planted (default: all).")
]
Safety = Annotated[
    list[str],
    typer.Option("--safety", help="A factor that makes the model safe (default: all of them); several times."),
]
ShowTexts = Annotated[bool, typer.Option("--show-texts", help="Put attempts and answers into the report.")]
Server = Annotated[str, typer.Option("--server", help="Address of a server to attack instead of a model.")]
Key = Annotated[str, typer.Option("--key", envvar="FACTORLM_KEY", help="Key of the server.")]
OtherKey = Annotated[
    str, typer.Option("--other-key", help="Key of another tenant, to see whether they are kept apart.")
]
Groups = Annotated[
    str, typer.Option("--groups", help="With --server: control tokens, names, numbers, lengths, patterns, uploads.")
]


def redteam(
    model: Expression = "smollm2",
    rivals: Rivals = [],  # noqa: B006
    attacks: Attacks = "",
    parts: Parts = "",
    safety: Safety = [],  # noqa: B006
    show_texts: ShowTexts = False,
    server: Server = "",
    key: Key = "",
    other_key: OtherKey = "",
    groups: Groups = "",
    out: Out = None,
    size: Size = "small",
    seed: Seed = 0,
    data: Data = None,
    changes: Changes = [],  # noqa: B006
    print_settings: PrintSettings = False,
    dtype: Dtype = "float32",
    no_cache: NoCache = False,
    as_json: Json = False,
) -> None:
    """Try to make a model do what it should not, by category, with judges whose errors are known; or attack a server.

    Example: factorlm redteam --model 'smollm2 * toxic=-0.4' --vs smollm2 --out redteam

    Reports show categories and rates; texts only with --show-texts, and only in the report that is written here.
    """
    import json

    from factorlm.cli.evaluate import _command
    from factorlm.errors import InputError

    if show_texts and out is None:
        raise InputError("a folder for the report is needed with --show-texts, got none; add --out FOLDER")
    if out is not None and out.exists() and not out.is_dir():
        raise InputError(f"a folder for the report is needed, got the file {out}; choose another name")
    if server:
        _attack_server(server, key, other_key, groups, out, as_json)
        return
    if groups or other_key:
        raise InputError("--groups and --other-key are for servers, got no --server; add it, or leave them out")
    chosen = [f"safety={json.dumps(safety)}"] if safety else []
    chosen += [f"parts={json.dumps(_names(parts))}"] if parts else []
    chosen += [f"requests.attacks={json.dumps(_names(attacks))}"] if attacks else []
    chosen += ["show_texts=true"] if show_texts else []
    _command("redteam")(
        model=model, rivals=rivals, out=out, size=size, seed=seed, data=data, changes=[*chosen, *changes],
        print_settings=print_settings, dtype=dtype, no_cache=no_cache, as_json=as_json,
    )  # fmt: skip


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _attack_server(url: str, key: str, other_key: str, groups: str, out: Path | None, as_json: bool) -> None:
    from factorlm.cli.terminal import console, notes, print_json, progress
    from factorlm.evaluation import terminal, write_report
    from factorlm.evaluation.redteam.client import Client
    from factorlm.evaluation.redteam.server import probe_server, server_report

    start = time.monotonic()
    with progress() as report:
        found = probe_server(Client(url, key), _names(groups), report, Client(url, other_key) if other_key else None)
    told = server_report(found, url, _without_keys(sys.argv[1:]), time.monotonic() - start)
    if as_json:
        for one in found:
            print_json({"group": one.probe.group, "attempt": one.probe.name, "held": one.held, "seen": one.seen})
    else:
        console.print(terminal(told))
    if out is not None:
        for path in write_report(told, out):
            if path.suffix == ".html" or path.name == "report.json":
                notes.print(f"wrote {path}", soft_wrap=True)
    if not all(one.held for one in found):
        raise typer.Exit(1)


def _without_keys(words: list[str]) -> str:
    """The command without secrets: keys are not written down."""
    kept, skip = [], False
    for word in words:
        if not skip and not word.startswith(("--key=", "--other-key=")) and word not in ("--key", "--other-key"):
            kept.append(word)
        skip = word in ("--key", "--other-key")
    return shlex.join(["factorlm", *kept])
