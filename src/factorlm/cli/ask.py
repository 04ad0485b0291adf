"""factorlm ask: answer a question, and say how sure the model is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from factorlm.cli import faders
from factorlm.cli import generate_options as options

if TYPE_CHECKING:
    from factorlm.inference.expression import Composed
    from factorlm.inference.uncertainty import Asking, Evidence, Known, Query, Recalibration, Tools
    from factorlm.inference.uncertainty.gathering import Vary
    from factorlm.prior import Prior

Told = dict[str, dict[str, float | None]]  # value, raw and calibrated chance of each estimator
DEFAULT_ESTIMATORS = ("mean-log-prob", "semantic-entropy", "agreement")


def ask(
    question: Annotated[str, typer.Argument(help="The question; - reads it from standard input.")] = "",
    uncertainty: Annotated[
        bool, typer.Option("--uncertainty", help="Say how sure the model is; without it only the answer comes.")
    ] = False,
    estimator: Annotated[
        list[str], typer.Option("--estimator", help="How it is estimated; several times. --list shows all.")
    ] = [],  # noqa: B006
    list_estimators: Annotated[bool, typer.Option("--list", help="List the estimators and stop.")] = False,
    model: options.Model = "smollm2",
    factor: options.Factor = [],  # noqa: B006
    context: Annotated[str, typer.Option("--context", help="A passage that the model reads before.")] = "",
    examples: Annotated[
        bool, typer.Option("--examples/--no-examples", help="Show four short answers before the question.")
    ] = True,
    chat: Annotated[bool, typer.Option("--chat", help="Ask the question as a message.")] = False,
    samples: Annotated[int, typer.Option("--samples", min=2, help="Answers that estimators compare.")] = 10,
    temperature: Annotated[float, typer.Option("--temperature", min=0.01, help="That they are drawn at.")] = 0.7,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, help="Most tokens of an answer.")] = 12,
    variants: Annotated[int, typer.Option("--variants", min=1, help="Of the question, for inv-entropy.")] = 5,
    brainstorm: Annotated[bool, typer.Option("--brainstorm", help="Tell p-true five samples before.")] = False,
    recalibration: Annotated[
        Path | None, typer.Option("--recalibration", help="File that factorlm eval uncertainty wrote.")
    ] = None,
    known: Annotated[Path | None, typer.Option("--known", help="Folder of a P(IK) head.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of all randomness.")] = 0,
    dtype: Annotated[str, typer.Option("--dtype", help="Number format: auto, float32 or bfloat16.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Answer a question, and say how sure the model is of it.

    Example: factorlm ask "Which river flows through Paris?" --uncertainty --estimator semantic-entropy
    """
    from factorlm.cli.terminal import console, notes, print_json, progress, read_prompt
    from factorlm.errors import InputError
    from factorlm.inference.uncertainty import ESTIMATORS, Asking, Query, Tools, estimator_named, gather
    from factorlm.inference.uncertainty.evidence import EXAMPLES
    from factorlm.inference.uncertainty.inverse import is_past_turn

    if list_estimators:
        for found in ESTIMATORS.values():
            console.print(f"{found.name:<26} {found.how}", highlight=False, soft_wrap=True)
        return
    if not question.strip():
        raise InputError("a question of at least one character is needed, got an empty one")
    if estimator and not uncertainty:
        raise InputError("--estimator is for --uncertainty, which was not given; add it")
    if chat and context:
        raise InputError("--context goes before a question that is read as text, got --chat too; leave one out")
    chosen = [estimator_named(name) for name in dict.fromkeys(estimator or DEFAULT_ESTIMATORS)] if uncertainty else []
    composed, prior = _composed(model, factor, dtype)
    question = read_prompt(question)
    query = Query(question, "", "", is_chat=True) if chat else Query.short(
        question, context, EXAMPLES if examples else ())  # fmt: skip
    asking = Asking(samples=samples, max_tokens=max_tokens, temperature=temperature, seed=seed,
                    stop=() if chat else ("\n",))  # fmt: skip
    maps = _recalibration(composed, recalibration) if uncertainty else None
    needs = list(dict.fromkeys(need for found in chosen for need in found.needs))
    head = _known(composed, known) if "known" in needs else None
    tools = Tools.default()
    with progress() as report:
        evidence = gather(
            composed.model, [query], needs, asking, known=head, prior=prior, brainstorm=brainstorm, report=report,
            vary=_variants(tools, variants, seed) if "variants" in needs else None,
        )[0]  # fmt: skip
    told = _told(evidence, [found.name for found in chosen], tools, maps)
    best = _best(told, maps)
    if as_json:
        print_json(_as_object(composed, query, evidence, told, best, seed))
        return
    console.print(evidence.answer.text or "(an empty answer)", markup=False, highlight=False, soft_wrap=True)
    if not uncertainty:
        return
    _show(evidence, told, best, tools)
    if evidence.variants and is_past_turn(evidence.variants, tools.encode):
        notes.print("[yellow]Inv-Entropy falls where doubt rises at shares this large; do not trust it here[/yellow]")
    if maps is None:
        notes.print(
            f"[yellow]no recalibration is known for {composed.expression}: these are raw numbers, which are mostly too "
            f"high or too low; factorlm eval uncertainty --model '{composed.expression}' fits one[/yellow]",
            soft_wrap=True,
        )
    elif _differs(maps, asking, chat):
        notes.print("[yellow]the recalibration was fitted to questions that were put in another way[/yellow]")


def _composed(model: str, factor: list[str], dtype: str) -> tuple[Composed, Prior | None]:
    """The model with its factors as one expression, and its prior where it is one."""
    from factorlm.inference.expression import compose, written
    from factorlm.prior import Prior, is_prior

    composed = compose(model, dtype=dtype)
    prior = Prior.load(model, composed.model.lm) if is_prior(model) else None
    wanted = faders.parse(factor)
    if not wanted:
        return composed, prior
    terms = [
        f"{written(f.name)}^{f.exponent!r}"
        if f.exponent is not None
        else f"{written(f.name)}={faders.CLEAR if f.strength is None else f.strength!r}"
        for f in wanted
    ]
    return compose(" * ".join([f"({composed.expression})", *terms]), dtype=dtype), prior


def _recalibration(composed: Composed, path: Path | None) -> Recalibration | None:
    from factorlm.inference.uncertainty import found_for, read_recalibration

    if path is None:
        return found_for(composed)
    found = read_recalibration(path)
    found.check(composed)
    return found


def _known(composed: Composed, folder: Path | None) -> Known | None:
    from factorlm.inference.uncertainty import Known
    from factorlm.inference.uncertainty.recalibration import identity_of, own_folder

    place = folder or own_folder() / f"{identity_of(composed)}.known"
    return Known.load(place) if folder is not None or place.is_dir() else None


def _variants(tools: Tools, number: int, seed: int) -> Vary:
    from factorlm.inference.uncertainty.variants import Gaap, gaap

    def vary(query: Query) -> list[Query]:
        bred = gaap(query.question, tools.encode, Gaap(number=number, seed=seed))
        return [query.asked(variant.text) for variant in bred]

    return vary


def _told(evidence: Evidence, names: list[str], tools: Tools, maps: Recalibration | None) -> Told:
    from factorlm.inference.uncertainty import ESTIMATORS

    found: Told = {}
    for name in names:
        value = ESTIMATORS[name].confidence(evidence, tools)
        known = maps.maps.get(name) if maps else None
        found[name] = {
            "value": value,
            "raw": ESTIMATORS[name].raw_probability(value),
            "calibrated": known.probability(name, value) if known else None,
        }
    return found


def _best(told: Told, maps: Recalibration | None) -> str | None:
    """The estimator whose chance is given as the confidence: of those with a map the one that ranks best."""
    if not told:
        return None
    mapped = [name for name, found in told.items() if found["calibrated"] is not None]
    if not mapped or maps is None:
        return next(iter(told))
    return max(mapped, key=lambda name: maps.maps[name].auroc or 0.0)


def _confidence(found: dict[str, float | None]) -> float | None:
    return found["raw"] if found["calibrated"] is None else found["calibrated"]


def _as_object(
    composed: Composed, query: Query, evidence: Evidence, told: Told, best: str | None, seed: int
) -> dict[str, Any]:
    return {
        "question": query.question,
        "answer": evidence.answer.text,
        "log_prob": evidence.answer.log_prob,
        "num_tokens": evidence.answer.num_tokens,
        "confidence": _confidence(told[best]) if best else None,
        "is_calibrated": best is not None and told[best]["calibrated"] is not None,
        "estimator": best,
        "estimators": told,
        "samples": list(evidence.texts),
        "variants": [{"question": v.question, "answers": [a.text for a in v.answers]} for v in evidence.variants],
        "model": composed.expression,
        "seed": seed,
    }


def _show(evidence: Evidence, told: Told, best: str | None, tools: Tools) -> None:
    from rich.table import Table

    from factorlm.cli.terminal import console
    from factorlm.inference.uncertainty import ESTIMATORS

    assert best is not None
    is_calibrated = told[best]["calibrated"] is not None
    kind = "calibrated" if is_calibrated else "raw"
    console.print(f"[bold]confidence {_confidence(told[best]):.0%}[/bold] ({kind}, {ESTIMATORS[best].title})")
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("estimator", "value", "raw", "calibrated"):
        table.add_column(heading, justify="left" if heading == "estimator" else "right")
    for name, found in told.items():
        calibrated = "-" if found["calibrated"] is None else f"{found['calibrated']:.0%}"
        table.add_row(ESTIMATORS[name].title, f"{found['value']:.3f}", f"{found['raw']:.0%}", calibrated)
    console.print(table)
    if evidence.samples:
        clusters = tools.meanings.clusters(evidence.question, evidence.texts)
        counts = sorted(((clusters.count(c), evidence.texts[clusters.index(c)]) for c in set(clusters)), reverse=True)
        shown = "; ".join(f"{text or '(empty)'} ×{count}" for count, text in counts[:5])
        console.print(f"samples: {shown}", style="dim", markup=False, highlight=False, soft_wrap=True)


def _differs(maps: Recalibration, asking: Asking, chat: bool) -> bool:
    """Whether answers were had in another way than those that the maps were fitted to."""
    now = asking.model_dump(mode="json")
    return chat or any(maps.asking.get(key, now[key]) != now[key] for key in ("samples", "temperature", "max_tokens"))
