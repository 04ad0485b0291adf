"""factorlm feedback: what people said of responses becomes training data, and a factor or a prior learns from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from factorlm.cli.options import Json, Replace

if TYPE_CHECKING:
    from factorlm.serving.database import Database

app = typer.Typer(no_args_is_help=True)
State = Annotated[Path | None, typer.Option("--state", help="State folder of the server; its usual one by default.")]
Tenant = Annotated[str | None, typer.Option("--tenant", help="Only what this tenant sent; everybody's by default.")]
As = Annotated[str, typer.Option("--as", help="head (prompt, text, thumb, edit) or prior (component, thumb).")]
PriorPlace = Annotated[Path | None, typer.Option("--prior", help="With --as prior: the folder of the prior.")]
Reweight = Annotated[
    bool, typer.Option("--reweight", help="Weigh what was asked for by the inverse of its propensity.")
]


@app.command("export")
def export(
    out: Annotated[Path, typer.Option("--out", help="The .jsonl to write.")],
    state: State = None,
    tenant: Tenant = None,
    kind: As = "head",
    prior: PriorPlace = None,
    reweight: Reweight = False,
    as_json: Json = False,
) -> None:
    """Write thumbs and edits as lines that `factor train --thumbs` or `prior tilt --thumbs` reads.

    Example: factorlm feedback export --out thumbs.jsonl
    """
    from factorlm.cli.terminal import notes, print_json, write_file

    names = _names(kind, prior)
    with opened(state) as database:
        rows = database.feedback(tenant)
    if names is not None:
        from factorlm.serving.flywheel.events import component_lines

        lines, left_out = component_lines(rows, names)
    else:
        from factorlm.serving.flywheel.events import collect

        found = collect(rows)
        lines, left_out = [event.line(reweight=reweight) for event in found.events], dict(found.left_out)
    write_file(out, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    if as_json:
        print_json({"rows": len(rows), "written": len(lines), "left_out": left_out})
        return
    notes.print(f"{len(lines)} of {len(rows)} pieces of feedback{_told(left_out)}", soft_wrap=True)


@app.command("train")
def train(
    name: Annotated[str, typer.Argument(help="Name of the factor; with --as prior the folder to write.")],
    state: State = None,
    tenant: Tenant = None,
    kind: As = "head",
    prior: PriorPlace = None,
    temperature: Annotated[
        float, typer.Option("--temperature", help="With --as prior: of the ratings; small ones tilt strongly.")
    ] = 1.0,
    model: Annotated[str, typer.Option("--model", help="Name, folder or hub name of the encoder.")] = "smollm2",
    reweight: Reweight = False,
    seed: Annotated[int, typer.Option("--seed", help="Of learning.")] = 0,
    replace: Replace = False,
) -> None:
    """Learn a head from thumbs and edits, or tilt a prior by thumbs, at once and without a gate.

    `factorlm flywheel run` does the same with one: it compares with the version in use, and can be rolled back.

    Example: factorlm feedback train liked
    """
    if _names(kind, prior) is None:
        _train_head(name, state, tenant, model, reweight, seed, replace)
    else:
        assert prior is not None
        _tilt(Path(name), state, tenant, prior, temperature, replace)


def _train_head(
    name: str, state: Path | None, tenant: str | None, model: str, reweight: bool, seed: int, replace: bool
) -> None:
    from factorlm.cli.terminal import console, notes, progress
    from factorlm.cli.train import _quality
    from factorlm.errors import InputError
    from factorlm.factors.feedback import split_preferences
    from factorlm.factors.store import Store, default_stores
    from factorlm.factors.versions import supersede
    from factorlm.models.loading import load_model
    from factorlm.serving.flywheel.events import collect
    from factorlm.serving.flywheel.ledger import FlywheelSettings
    from factorlm.serving.flywheel.wheel import learn_head, preferences_of

    store = default_stores()[0]
    store.check_name(name, replace=replace)
    with opened(state) as database:
        rows = database.feedback(tenant)
    found = collect(rows)
    notes.print(f"{len(found.events)} of {len(rows)} pieces of feedback{_told(dict(found.left_out))}", soft_wrap=True)
    if not found.events:
        raise InputError(f"feedback with thumbs or edits is needed, got none of {len(rows)} rows that can be used")
    preferences = preferences_of(found.events, reweight=reweight)
    split_preferences(preferences)
    lm = load_model(model)
    with progress() as report:
        trained = learn_head(name, lm, preferences, found.events, FlywheelSettings(seed=seed), report)
    save = supersede if replace else Store.save
    folder = save(store, trained.manifest, trained.tensors)
    console.print(f"[bold]{name}[/bold] is in {folder}; {_quality(trained.manifest)}", soft_wrap=True)


def _tilt(out: Path, state: Path | None, tenant: str | None, prior: Path, temperature: float, replace: bool) -> None:
    from factorlm.cli.prior_show import draw_update
    from factorlm.cli.terminal import notes
    from factorlm.errors import InputError
    from factorlm.prior import Prior
    from factorlm.prior.files import check_place, read_manifest
    from factorlm.prior.thumbs import of_line, ratings
    from factorlm.serving.flywheel.events import component_lines

    check_place(out, replace=replace)
    names = read_manifest(prior).names
    with opened(state) as database:
        rows = database.feedback(tenant)
    lines, left_out = component_lines(rows, names)
    notes.print(f"{len(lines)} of {len(rows)} pieces of feedback{_told(left_out)}", soft_wrap=True)
    if not lines:
        raise InputError(f"thumbs on responses of {', '.join(names)} are needed, got none of {len(rows)} rows")
    rewards = ratings([of_line(line, names, f"feedback {line['event']}") for line in lines], names)
    why = f"{len(lines)} thumbs: " + ", ".join(f"{k} {r:.3g}" for k, r in zip(names, rewards, strict=True))
    after = Prior.load(prior).tilt(rewards, temperature=temperature, why=why)
    after.save(out, replace=replace)
    draw_update(after.manifest, after.manifest.updates[-1])


def opened(state: Path | None) -> Database:
    """The database of a server, which must be there.

    Raises:
        InputError: if there is none.
    """
    from factorlm.errors import InputError
    from factorlm.serving.database import Database

    path = state_folder(state) / "server.sqlite"
    if not path.is_file():
        raise InputError(
            f"the state folder of a server is needed, got {path.parent} without server.sqlite; give --state"
        )
    return Database(path)


def state_folder(state: Path | None) -> Path:
    """The folder given, else the server's usual one."""
    from factorlm.serving.settings import ServerSettings

    return state or ServerSettings().state


def _names(kind: str, prior: Path | None) -> tuple[str, ...] | None:
    """Names of the components if feedback is for a prior; None if it is for a head."""
    from factorlm.errors import InputError, UnknownNameError

    if kind not in ("head", "prior"):
        raise UnknownNameError.of("use of feedback", kind, ("head", "prior"))
    if (kind == "prior") != (prior is not None):
        raise InputError("--prior FOLDER belongs to --as prior, and that needs it; give both, or neither")
    if prior is None:
        return None
    from factorlm.prior.files import read_manifest

    return read_manifest(prior).names


def _told(left_out: dict[str, int]) -> str:
    if not left_out:
        return ""
    return "; left out: " + ", ".join(f"{count} {reason}" for reason, count in left_out.items())
