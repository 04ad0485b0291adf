"""factorlm index query and show: what stands in a memory, how often, what follows it and where it comes from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from factorlm.cli.options import Json

if TYPE_CHECKING:
    from rich.text import Text

    from factorlm.memory.engine import Occurrence
    from factorlm.memory.infini import InfiniIndex
    from factorlm.models import CausalLM

Place = Annotated[Path, typer.Argument(help="Folder of a memory.")]
AROUND = 12  # tokens looked at on either side of a place
SIDE = 24  # characters of them that a terminal shows


def query(
    index: Place,
    text: Annotated[str, typer.Argument(help="What to look for; - reads it from standard input.")],
    count: Annotated[bool, typer.Option("--count", help="How often it stands there, as it is and behind a space.")] = (
        False
    ),
    prob: Annotated[bool, typer.Option("--prob", help="Probability of its last token after those before.")] = False,
    next_: Annotated[bool, typer.Option("--next", help="What follows it.")] = False,
    find: Annotated[bool, typer.Option("--find", help="Where it stands.")] = False,
    attribute: Annotated[
        bool, typer.Option("--attribute", help="Which of its stretches stand there word for word, and where.")
    ] = False,
    n: Annotated[
        int | None,
        typer.Option("--n", min=1, help="With --prob and --next: of an n-gram; else the longest suffix is taken."),
    ] = None,
    top: Annotated[int, typer.Option("--top", min=1, help="Most tokens, places or stretches to show.")] = 10,
    retriever: Annotated[
        str, typer.Option("--retriever", help="Of passages: bm25, dense or hybrid; the best there is by default.")
    ] = "",
    model: Annotated[str, typer.Option("--model", help="The model whose tokens it holds; that of its card.")] = "",
    as_json: Json = False,
) -> None:
    """Ask a memory: an ∞-gram index how often the text stands there, passages and neighbours for those near to it.

    Example: factorlm index query office "in witness whereof" --next
    """
    from factorlm.cli.index_near import NEAR
    from factorlm.cli.terminal import print_json, read_prompt
    from factorlm.errors import InputError
    from factorlm.memory.card import check_model, kind_of
    from factorlm.memory.infini import open_index
    from factorlm.models.loading import load_model

    wanted = [name for name, on in (("count", count), ("prob", prob), ("next", next_), ("find", find),
                                    ("attribute", attribute)) if on] or ["count"]  # fmt: skip
    if len(wanted) > 1:
        raise InputError(f"one of --count, --prob, --next, --find and --attribute is answered, got {len(wanted)}")
    text = read_prompt(text)
    if not text:
        raise InputError("a text of at least one character is needed to look for, got an empty one")
    kind = kind_of(index)
    if kind in NEAR:
        nearby, show_nearby = NEAR[kind]
        places = nearby(index, text, top, retriever, model)
        if as_json:
            print_json({"text": text, "near": places})
        else:
            show_nearby(places)
        return
    found = open_index(index)
    lm = load_model(model or found.card.model.name)
    check_model(index, found.card.model, lm)
    answer = ANSWERS[wanted[0]](found, lm, text, n, top)
    if as_json:
        print_json(answer)
    else:
        SHOWN[wanted[0]](answer)


def show(index: Place, as_json: Json = False) -> None:
    """What a memory is made of, and what its learned weights are worth.

    Example: factorlm index show office
    """
    from rich.table import Table

    from factorlm.cli.terminal import console, print_json
    from factorlm.memory.card import MemoryCardMarks, read_card

    card = read_card(index, MemoryCardMarks)
    if as_json:
        print_json(card.model_dump(mode="json"))
        return
    size = sum(mark.size for mark in card.files.values())
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="dim")
    table.add_column()
    rows = {
        "kind": card.kind, "documents": f"{card.num_documents:,}", "tokens": f"{card.num_tokens:,} ({card.model.name})",
        "size": f"{size / 1e6:,.1f} MB in {len(card.files)} files", "licence": card.licence or "not stated",
        "from": ", ".join(source.path for source in card.sources[:8]) + (" …" if len(card.sources) > 8 else ""),
    }  # fmt: skip
    if card.troubles:
        rows["troubles"] = "; ".join(f"{what}: {number:,}" for what, number in card.troubles.items())
    for name, value in rows.items():
        table.add_row(name, value)
    for name, gate in card.gates.items():
        told = f"{gate.gate.kind} with {gate.model} on {gate.num_tokens:,} tokens of {gate.text}: "
        told += f"{gate.model_nats:.3f} to {gate.mixed_nats:.3f} nats a token"
        table.add_row(f"weights {name}".strip(), told)
    console.print(table)


def _count(found: InfiniIndex, lm: CausalLM, text: str, n: int | None, top: int) -> dict[str, Any]:
    counts = [found.engine.count(tokens) for tokens in _variants(lm, text)]
    return {"text": text, "count": sum(counts), "as_is": counts[0], "behind_space": counts[1] if counts[1:] else None}


def _variants(lm: CausalLM, text: str) -> list[list[int]]:
    """A text as it is, and behind a space, where that has other tokens at its end."""
    plain, spaced = lm.encode_text(text), lm.encode_text(f" {text}")
    return [plain] if text[0].isspace() or spaced[-len(plain) :] == plain else [plain, spaced]


def _prob(found: InfiniIndex, lm: CausalLM, text: str, n: int | None, top: int) -> dict[str, Any]:
    *context, token = lm.encode_text(text)
    context = context if n is None else context[max(0, len(context) - n + 1) :]
    length, ratio = (
        found.engine.longest_ratio(context, token) if n is None else (len(context), found.engine.ratio(context, token))
    )
    return {
        "text": text, "token": _shown(lm, [token]), "context": _shown(lm, context[len(context) - length :]),
        "suffix_length": length, "count_context": ratio.num_context, "count": ratio.num_both, "prob": ratio.prob,
    }  # fmt: skip


def _next(found: InfiniIndex, lm: CausalLM, text: str, n: int | None, top: int) -> dict[str, Any]:
    context = lm.encode_text(text)
    context = context if n is None else context[max(0, len(context) - n + 1) :]
    engine = found.engine
    length, after = engine.longest_following(context) if n is None else (len(context), engine.following(context))
    total = max(1, int(after.counts.sum()))
    order = sorted(range(len(after.tokens)), key=lambda i: (-int(after.counts[i]), int(after.tokens[i])))[:top]
    return {
        "text": text,
        "context": _shown(lm, context[len(context) - length :]),
        "suffix_length": length,
        "count_context": after.num_context,
        "num_tokens": len(after.tokens),
        "next": [
            {
                "token": None if int(after.tokens[i]) == engine.separator else _shown(lm, [int(after.tokens[i])]),
                "token_id": int(after.tokens[i]), "count": int(after.counts[i]), "prob": int(after.counts[i]) / total,
            }
            for i in order
        ],
    }  # fmt: skip


def _find(found: InfiniIndex, lm: CausalLM, text: str, n: int | None, top: int) -> dict[str, Any]:
    places: list[dict[str, Any]] = []
    total = 0
    for tokens in reversed(_variants(lm, text)):
        total += found.engine.count(tokens)
        places += [place_of(lm, p, len(tokens)) for p in found.engine.occurrences(tokens, top - len(places), AROUND)]
    return {"text": text, "count": total, "places": places}


def _attribute(found: InfiniIndex, lm: CausalLM, text: str, n: int | None, top: int) -> dict[str, Any]:
    from factorlm.memory.attribution import stretches

    tokens = lm.encode_text(text)
    parts = stretches(found.engine, tokens, most=top)
    return {
        "text": text,
        "share": sum(_covered(len(tokens), [(p.first, p.length) for p in parts])) / max(1, len(tokens)),
        "stretches": [
            {
                "text": _shown(lm, tokens[p.first : p.first + p.length]), "first": p.first, "length": p.length,
                "count": p.count, "surprise": p.surprise, "places": [place_of(lm, o, p.length) for o in p.occurrences],
            }
            for p in parts
        ],
    }  # fmt: skip


def place_of(lm: CausalLM, found: Occurrence, length: int) -> dict[str, Any]:
    """A place for JSON: document, source, line, and the text before, in and behind it."""
    before, inside = found.token_ids[: found.first], found.token_ids[found.first : found.first + length]
    return {
        "document": found.document,
        "source": found.metadata.get("path", ""),
        "line": found.metadata["linenum"] + 1 if "linenum" in found.metadata else None,
        "before": _shown(lm, before),
        "match": _shown(lm, inside),
        "after": _shown(lm, found.token_ids[found.first + length :]),
    }


def source_of(place: dict[str, Any]) -> str:
    """Where a place is, for people."""
    name = Path(place["source"]).name or f"document {place['document']}"
    return f"{name}:{place['line']}" if place["line"] is not None else name


def in_context(place: dict[str, Any]) -> Text:
    """A place in one line, the match in the middle."""
    from rich.text import Text

    def flat(text: str) -> str:
        return " ".join(text.split("\n"))

    before, match, after = flat(place["before"]), flat(place["match"]), flat(place["after"])
    line = Text(f"…{before[-SIDE:]}" if len(before) > SIDE else before, style="dim")
    line.append(match, style="bold not dim")
    line.append(f"{after[:SIDE]}…" if len(after) > SIDE else after, style="dim")
    return line


def _show_count(answer: dict[str, Any]) -> None:
    from factorlm.cli.terminal import console

    told = f"{answer['count']:,}"
    if answer["behind_space"] is not None:
        told += f"  ({answer['as_is']:,} as it is, {answer['behind_space']:,} behind a space)"
    console.print(told)


def _show_prob(answer: dict[str, Any]) -> None:
    from factorlm.cli.terminal import console

    told = f"{answer['prob']:.4g}  {answer['count']:,} of {answer['count_context']:,}"
    console.print(f"{told} times {answer['token']!r} follows {answer['context']!r}", markup=False, soft_wrap=True)


def _show_next(answer: dict[str, Any]) -> None:
    from rich.table import Table
    from rich.text import Text

    from factorlm.cli.terminal import console

    told = f"{answer['num_tokens']:,} tokens follow {answer['context']!r}, which stands there"
    console.print(f"{told} {answer['count_context']:,} times", markup=False, soft_wrap=True, style="dim")
    table = Table(box=None, pad_edge=False, header_style="dim")
    for heading in ("token", "count", "prob"):
        table.add_column(heading, justify="left" if heading == "token" else "right")
    table.add_column("")
    for row in answer["next"]:
        name = Text("end of a document", style="dim") if row["token"] is None else Text(repr(row["token"])[1:-1])
        table.add_row(name, f"{row['count']:,}", f"{row['prob']:.3f}", "█" * round(30 * row["prob"]))
    console.print(table)


def _show_find(answer: dict[str, Any]) -> None:
    from factorlm.cli.terminal import console

    told = f"{answer['count']:,} times" + (f", {len(answer['places'])} of them:" if answer["places"] else "")
    console.print(told, style="dim")
    _show_places(answer["places"])


def _show_attribute(answer: dict[str, Any]) -> None:
    from factorlm.cli.terminal import console

    told = f"{answer['share']:.0%} of its tokens are in stretches that stand there word for word"
    console.print(told, style="dim", soft_wrap=True)
    for part in answer["stretches"]:
        console.print(f"{part['text']!r}  {part['count']:,} times", markup=False, soft_wrap=True, style="bold")
        _show_places(part["places"])


def _show_places(places: list[dict[str, Any]]) -> None:
    from rich.table import Table

    from factorlm.cli.terminal import console

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="cyan", no_wrap=True)
    table.add_column()
    for place in places:
        table.add_row(source_of(place), in_context(place))
    console.print(table)


def _shown(lm: CausalLM, tokens: Any) -> str:
    return lm.vocabulary.text([t for t in tokens if t < lm.vocabulary.size])


def _covered(num_tokens: int, parts: list[tuple[int, int]]) -> list[bool]:
    return [any(first <= t < first + length for first, length in parts) for t in range(num_tokens)]


ANSWERS = {"count": _count, "prob": _prob, "next": _next, "find": _find, "attribute": _attribute}
SHOWN = {
    "count": _show_count,
    "prob": _show_prob,
    "next": _show_next,
    "find": _show_find,
    "attribute": _show_attribute,
}
