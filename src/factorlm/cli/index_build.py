"""factorlm index build and adopt: memories from texts, and from indexes of others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from factorlm.cli.index_kinds import HELP, KINDS, Order, default_settings

if TYPE_CHECKING:
    from factorlm.memory.card import MemoryCard
    from factorlm.memory.corpus import CorpusSettings

Corpus = Annotated[
    list[Path], typer.Argument(help="Files or folders of text: .txt, .jsonl with `text`, .md; gzipped or not.")
]
Documents = Annotated[
    str, typer.Option("--documents", help="What a document of plain text is: whole, lines, paragraphs or headings.")
]
Field = Annotated[str, typer.Option("--field", help="Of an object in .jsonl that holds the text.")]
Model = Annotated[str, typer.Option("--model", help="The model whose tokens, or states, are kept.")]
Licence = Annotated[str, typer.Option("--licence", help="Of the texts, for the card.")]
Replace = Annotated[bool, typer.Option("--replace", help="Supersede what is there.")]
TRY = {
    "infini": 'factorlm index query {out} "of the" --next',
    "knn": "factorlm index weigh {out} --held-out OTHER.txt",
    "mlp": 'factorlm generate "Once upon a time" --memory {out}',
    "passages": 'factorlm index query {out} "what is it about?"',
}
MemoryGib = Annotated[float, typer.Option("--memory-gib", min=0.01, help="That sorting may take.")]


def build(
    kind: Annotated[str, typer.Argument(help="; ".join(f"{name}: {what}" for name, what in HELP.items()) + ".")],
    corpus: Corpus,
    out: Annotated[Path | None, typer.Option("--out", help="Folder to write to.")] = None,
    model: Model = "smollm2",
    documents: Documents = "whole",
    field: Field = "text",
    recipe: Annotated[Path | None, typer.Option("--recipe", help="A TOML file with settings.")] = None,
    assignments: Annotated[
        list[str], typer.Option("--set", help="One setting: path.to.key=value, such as shard_tokens=100000000.")
    ] = [],  # noqa: B006
    print_settings: Annotated[bool, typer.Option("--print-settings", help="Show all settings and stop.")] = False,
    licence: Licence = "",
    replace: Replace = False,
) -> None:
    """Build a memory of texts. A run that was stopped goes on, if asked the same again (infini and mlp).

    Example: factorlm index build infini letters/ contracts.jsonl.gz --out office
    """
    from factorlm.cli.terminal import console, notes, progress
    from factorlm.errors import InputError, UnknownNameError
    from factorlm.settings import changed

    if kind not in KINDS:
        raise UnknownNameError.of("kind of memory", kind, KINDS)
    if print_settings:
        console.print_json(changed(default_settings(kind), recipe, assignments).model_dump_json())
        return
    if out is None:
        raise InputError("a folder to write to is needed; give --out FOLDER")
    texts = corpus_settings(documents, field)
    with progress() as report:
        card = KINDS[kind](Order(corpus, out, model, texts, recipe, assignments, licence, replace, report))
    tell(out, card)
    notes.print(f"try: {TRY[kind].format(out=out)}", markup=False, soft_wrap=True)


def adopt(
    folder: Annotated[Path, typer.Argument(help="A public infini-gram index: tokenized.0, table.0, offset.0, ...")],
    model: Model = "smollm2",
    token_bytes: Annotated[
        int | None, typer.Option("--token-bytes", help="1, 2 or 4; as few as hold all tokens by default.")
    ] = None,
    licence: Licence = "",
) -> None:
    """Check an index that the public indexer made, and add the card that makes it a memory of ours.

    Example: factorlm index adopt /data/pile-val --model my-llama
    """
    from factorlm.cli.terminal import progress
    from factorlm.errors import InputError
    from factorlm.memory.card import mark_of
    from factorlm.memory.infini import adopt as adopt_index
    from factorlm.models.loading import load_model

    if token_bytes not in (None, 1, 2, 4):
        raise InputError(f"a token has 1, 2 or 4 bytes, got {token_bytes}")
    lm = load_model(model)
    with progress() as report:
        card = adopt_index(
            folder, mark_of(lm, with_encoder=False), lm.vocabulary.size,
            width=token_bytes, licence=licence, report=report,  # type: ignore[arg-type]
        )  # fmt: skip
    tell(folder, card)


def corpus_settings(documents: str, field: str) -> CorpusSettings:
    """From options.

    Raises:
        UnknownNameError: for documents that there are not.
    """
    from factorlm.errors import UnknownNameError
    from factorlm.memory.corpus import CorpusSettings

    known = ("whole", "lines", "paragraphs", "headings")
    if documents not in known:
        raise UnknownNameError.of("kind of documents", documents, known)
    return CorpusSettings(documents=documents, field=field)  # type: ignore[arg-type]


def tell(place: Path, card: MemoryCard) -> None:
    """What a memory has become, and what was wrong with its texts."""
    from factorlm.cli.terminal import console, notes

    console.print(
        f"{place}: {card.num_documents:,} documents, {card.num_tokens:,} tokens", markup=False, soft_wrap=True
    )
    for what, number in card.troubles.items():
        notes.print(f"[yellow]{what}: {number:,}[/yellow]", soft_wrap=True)
