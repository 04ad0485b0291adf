"""factorlm factor measure: dose and response of a factor that has none on its card, or an old one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from factorlm.cli.options import Name

if TYPE_CHECKING:
    from factorlm.factors.response import Judge


def measure(
    name: Name,
    judge: Annotated[str | None, typer.Option("--judge", help="A judge; factorlm eval judge list shows them.")] = None,
    label: Annotated[str | None, typer.Option("--label", help="The label that counts (default: NAME, or 1).")] = None,
    positive: Annotated[Path | None, typer.Option("--positive", help="Or: texts that have it, one a line.")] = None,
    negative: Annotated[Path | None, typer.Option("--negative", help="And texts that do not.")] = None,
    table: Annotated[Path | None, typer.Option("--table", help="Or: a .jsonl or .tsv of text and label.")] = None,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Texts for each of 32 openings.")] = 4,
    seed: Annotated[int, typer.Option("--seed", help="Of the draws.")] = 0,
) -> None:
    """Measure how often texts have the attribute at each strength, and put it on the factor's card.

    Example: factorlm factor measure sunny --judge sentiment --label positive

    With texts instead of a judge, a classifier of sentence vectors is learned from them; take texts that the factor
    did not learn from. The card is a new version of the factor, in your own store; factorlm factor edit NAME --undo
    brings the old one back.
    """
    from factorlm.cli.terminal import console, progress
    from factorlm.errors import InputError
    from factorlm.factors import Head, bind, factor
    from factorlm.factors.manifest import Change
    from factorlm.factors.response import measure_response
    from factorlm.factors.seal import digest_of
    from factorlm.factors.store import WEIGHTS, default_stores, folder_of, read_manifest, verify
    from factorlm.factors.versions import check_own, next_version, save_edit
    from factorlm.models.loading import load_present

    folder = folder_of(name)
    manifest = read_manifest(folder)
    verify(folder, manifest)
    if manifest.kind != "head" or manifest.encoder is None:
        raise InputError(f"dose and response of a head can be measured, got {manifest.name!r}, a {manifest.kind}")
    check_own(folder, manifest.name)
    digest = digest_of(folder)
    verdict, judge_name, accuracy = _judge(manifest.name, judge, label, positive, negative, table)
    lm = load_present(manifest.encoder.name)
    head = bind(factor(name), lm)
    assert isinstance(head, Head)
    with progress() as report:
        response = measure_response(
            lm, head, verdict, judge_name=judge_name, accuracy=accuracy, num_samples=samples, seed=seed, report=report
        )
    if response is None:
        raise InputError(f"{manifest.name!r} has no strength: it moves the model nowhere; train it anew")
    import safetensors.torch

    tensors = safetensors.torch.load_file(folder / WEIGHTS)
    change = Change(version=manifest.version, what=f"measured by {judge_name}", sha256=digest)
    measured = {
        "version": next_version(default_stores()[0], manifest),
        "changes": (*manifest.changes, change),
        "response": response,
    }
    save_edit(folder, manifest.model_copy(update=measured), tensors)
    doses = ", ".join(f"{d.rate:.0%} at {d.strength:+g}" if d.strength else f"{d.rate:.0%}" for d in response.doses)
    console.print(f"[bold]{manifest.name}[/bold] {measured['version']}: {doses}", soft_wrap=True)
    console.print(f"see: factorlm factor show {manifest.name}; now --target {manifest.name}=RATE can be asked for")


def _judge(
    name: str,
    judge: str | None,
    label: str | None,
    positive: Path | None,
    negative: Path | None,
    table: Path | None,
) -> tuple[Judge, str, float]:
    """What says whether a text has the attribute, its name, and how often it is right."""
    from factorlm.errors import InputError
    from factorlm.evaluation.judges import judges_for, load_judge
    from factorlm.factors.examples import from_files, from_table
    from factorlm.factors.response import sentence_judge

    ways = [judge is not None, positive is not None or negative is not None, table is not None]
    if sum(ways) > 1 or (positive is None) != (negative is None):
        raise InputError("one of --judge, --positive with --negative, or --table is needed; give exactly one")
    if table is not None or (positive is not None and negative is not None):
        if table is not None:
            examples, source = from_table(table, positive=label or "1"), str(table)
        else:
            assert positive is not None
            assert negative is not None
            examples, source = from_files(positive, negative), f"{positive} against {negative}"
        verdict, accuracy = sentence_judge(examples)
        return verdict, f"sentence vectors, from {source}", accuracy
    label = label or name
    if judge is None:
        known = judges_for(label)
        if not known:
            raise InputError(
                f"a judge of {label!r} is needed, and there is none; give --judge with --label, or labelled texts"
            )
        chosen = known[0]
    else:
        chosen = load_judge(judge)
    wanted = chosen.index(label)
    return (
        lambda texts: [verdict == wanted for verdict in chosen.verdicts(texts)],
        f"{chosen.name}, {label}",
        chosen.card.accuracy,
    )
