"""factorlm models edit, edits and unedit: facts written into a model, and taken back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from factorlm.cli.options import Json

if TYPE_CHECKING:
    from factorlm.models import CausalLM
    from factorlm.models.editing.artefact import Edits, StepCard
    from factorlm.models.editing.editor import Tried
    from factorlm.models.editing.facts import EditFact
    from factorlm.models.editing.methods import EditSettings

DATA_SET = "me_ppl/all"
OWN_TEXTS, OWN_LENGTH = 64, 48  # written by the model where there is no data set

Folder = Annotated[Path, typer.Argument(help="Folder of an edited model.")]


def edit(
    model: Annotated[str, typer.Argument(help="Name, folder or hub name; an edited model gets more edits.")],
    fact: Annotated[list[str], typer.Option("--fact", help='"SUBJECT | PROMPT WITH {} | NEW TARGET".')] = [],  # noqa: B006
    facts: Annotated[Path | None, typer.Option("--facts", help="Rows of CounterFact in JSON lines.")] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Folder of the edited model.")] = None,
    method: Annotated[str, typer.Option("--method", help="rome, c-rome or memit.")] = "rome",
    layer: Annotated[
        str, typer.Option("--layer", help='A number, "usual", or "auto": where these facts come through.')
    ] = "usual",
    texts: Annotated[Path | None, typer.Option("--texts", help="Sentences to take keys from, one a line.")] = None,
    guard: Annotated[Path | None, typer.Option("--guard", help="Sentences whose perplexity is watched.")] = None,
    tokens: Annotated[int, typer.Option("--tokens", help="Of the texts, read for keys.", min=1)] = 20_000,
    force: Annotated[bool, typer.Option("--force", help="Keep an edit although the model collapsed.")] = False,
    replace: Annotated[bool, typer.Option("--replace", help="Supersede an edited model at --out.")] = False,
    as_json: Json = False,
) -> None:
    """Write facts into a model; what comes out is a small folder that is used like any model.

    Example: factorlm models edit smollm2 --fact "Lyon | {} is a city in | Italy" --out edited/
    """
    from factorlm.cli.terminal import progress
    from factorlm.errors import InputError
    from factorlm.models.editing.artefact import EDITS
    from factorlm.models.editing.editor import edit_model
    from factorlm.models.editing.facts import EditFact, read_facts
    from factorlm.models.editing.guard import guard_sentences

    wanted = [EditFact.parse(text) for text in fact] + (read_facts(facts) if facts else [])
    if not wanted:
        raise InputError("a fact is needed, got none; give --fact or --facts")
    if out is None:
        raise InputError("a place for the edited model is needed, got none; name a folder with --out")
    is_same = EDITS.is_one(model) and out.resolve() == Path(model).resolve()
    EDITS.check_place(out, replace=replace or is_same)
    settings = _settings(method)
    edits = _edits_of(model)
    base = edits.base
    with progress() as report:
        read, watched = _texts(base, texts, guard, report)
        watched = guard_sentences(watched, [f.subject for f in wanted])
        settings = settings.model_copy(update={"layer": _layer(layer, base, wanted, report)})
        after, tried = edit_model(
            edits, wanted, settings, texts=read, guard=watched, is_forced=force, max_tokens=tokens, report=report
        )
    if any(one.is_kept for one in tried):
        after.save(out, replace=replace or is_same)
    _show_tried(tried, out, as_json=as_json)
    if not any(one.is_kept for one in tried):
        raise InputError(
            f"every edit ruined the model and was taken back, so nothing was written to {out}; try --method c-rome or "
            "another --layer, or keep them with --force"
        )


def list_edits(folder: Folder, as_json: Json = False) -> None:
    """What was written into an edited model, in order."""
    from rich.markup import escape
    from rich.table import Table

    from factorlm.cli.terminal import console, print_json
    from factorlm.models.editing.artefact import EDITS

    card = EDITS.read_card(folder)
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("", "fact", "method", "layers", "‖ΔW‖/‖W‖", "perplexity"):
        table.add_column(heading)
    for n, step in enumerate(card.steps, 1):
        if as_json:
            print_json({"number": n, "base": card.base, **_as_object(step)})
            continue
        facts = "; ".join(one.statement for one in step.facts[:3])
        more = f" and {len(step.facts) - 3} more" if len(step.facts) > 3 else ""
        table.add_row(str(n), escape(facts + more), step.settings.method, ", ".join(map(str, step.layers)),
                      ", ".join(f"{norm:.3f}" for norm in step.relative_norms), _times(step.guard_ratio))  # fmt: skip
    if not as_json:
        console.print(f"{card.base} ({card.base_fingerprint}) with {len(card.steps)} edits", markup=False)
        console.print(table)


def unedit(
    folder: Folder,
    number: Annotated[int | None, typer.Argument(help="Which edit; the last if not given.")] = None,
    as_json: Json = False,
) -> None:
    """Take an edit back; the others stay, and the hash of the weights tells that nothing is left of it."""
    from factorlm.cli.terminal import console, print_json
    from factorlm.errors import IntegrityError
    from factorlm.models.editing.artefact import EDITS, Edits
    from factorlm.models.loading import load_present

    card = EDITS.read_card(folder)
    edits = Edits.load(folder, load_present(card.base, dtype="float32"))
    place = len(card.steps) if number is None else number
    after = edits.without(place - 1)
    is_last = place == len(card.steps)
    if is_last and not edits.restores(after):
        raise IntegrityError(f"{folder} does not give back the weights from before its last edit; edit the model anew")
    after.save(folder, replace=True)
    done = {"folder": str(folder), "undone": card.steps[place - 1].facts[0].statement, "edits": len(after.changes),
            "restored": True if is_last else None}  # fmt: skip
    if as_json:
        print_json(done)
    else:
        end = "; the weights are, bit for bit, those from before it" if is_last else ""
        console.print(f"taken back: {done['undone']} {len(after.changes)} edits are left{end}", markup=False,
                      soft_wrap=True)  # fmt: skip


def _settings(method: str) -> EditSettings:
    from factorlm.errors import UnknownNameError
    from factorlm.models.editing.methods import METHODS, EditSettings

    if method not in METHODS:
        raise UnknownNameError.of("method", method, METHODS)
    return EditSettings(method=method)


def _edits_of(model: str) -> Edits:
    """The edits in a folder, or none yet of another model, over the base in float32."""
    from factorlm.models.editing.artefact import EDITS, Edits
    from factorlm.models.loading import load_model, load_present

    if EDITS.is_one(model):
        return Edits.load(model, load_present(EDITS.read_card(model).base, dtype="float32"))
    return Edits.none(load_model(model, dtype="float32"))


def _layer(text: str, lm: CausalLM, facts: list[EditFact], report: Callable[[str, int, int], None]) -> int | None:
    from factorlm.errors import InputError
    from factorlm.models.editing.tracing import best_layer, indirect_effects

    if text == "usual":
        return None
    if text == "auto":
        return best_layer(indirect_effects(lm, facts, report=report))
    if not text.isdecimal():
        raise InputError(f"a layer is a number, usual or auto, got {text!r}")
    return int(text)


def _texts(
    lm: CausalLM, texts: Path | None, guard: Path | None, report: Callable[[str, int, int], None]
) -> tuple[list[str], list[str]]:
    """Texts to take keys from, and sentences to watch; of a set that serves as both, the last tenth is watched."""
    from factorlm.evaluation.corpora import DataFolder
    from factorlm.models.editing.own_texts import own_texts

    if texts and guard:
        return _lines(texts), _lines(guard)
    data = DataFolder.default()
    if data.has(DATA_SET):
        import numpy as np

        rows = [str(row["text"]) for row in data.rows(DATA_SET)]
        found = [rows[i] for i in np.random.default_rng(0).permutation(len(rows))]
    else:
        found = own_texts(lm, OWN_TEXTS, OWN_LENGTH, report=report)
    tenth = len(found) - len(found) // 10
    return _lines(texts) if texts else found[:tenth], _lines(guard) if guard else found[tenth:]


def _lines(path: Path) -> list[str]:
    from factorlm.errors import InputError

    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"sentences are needed, one a line, got {path}: {error}") from None
    if not lines:
        raise InputError(f"sentences are needed, one a line, got an empty {path}")
    return lines


def _show_tried(tried: list[Tried], out: Path, *, as_json: bool) -> None:
    from factorlm.cli.terminal import console, notes, print_json

    for one in tried:
        step = one.step
        if as_json:
            print_json({"kept": one.is_kept, "harm": one.harm, **_as_object(step), "folder": str(out)})
            continue
        what = step.facts[0].statement + (f" and {len(step.facts) - 1} more" if len(step.facts) > 1 else "")
        console.print(f"{'written' if one.is_kept else 'taken back'}: {what} Perplexity {_times(step.guard_ratio)} of "
                      f"the guard, layers {', '.join(map(str, step.layers))}, {step.seconds:.1f} s",
                      markup=False, soft_wrap=True)  # fmt: skip
        if one.harm != "none":
            notes.print(f"[yellow]the model is {one.harm}: see --guard[/yellow]")
    if not as_json and any(one.is_kept for one in tried):
        console.print(f"use it as --model {out}", markup=False, soft_wrap=True)


def _as_object(step: StepCard) -> dict[str, object]:
    return {
        "facts": [one.model_dump() for one in step.facts],
        "method": step.settings.method,
        "layers": list(step.layers),
        "relative_norms": list(step.relative_norms),
        "denominators": list(step.denominators),
        "guard_ratio": step.guard_ratio,
        "seconds": step.seconds,
        "hash_before": step.hash_before,
        "hash_after": step.hash_after,
    }


def _times(ratio: float | None) -> str:
    return "no number" if ratio is None else f"{ratio:.2f} times that"
