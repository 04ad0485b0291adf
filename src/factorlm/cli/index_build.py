"""factorlm index build and adopt: memories from texts, and from indexes of others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

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
MemoryGib = Annotated[float, typer.Option("--memory-gib", min=0.01, help="That sorting may take.")]


def build(
    kind: Annotated[str, typer.Argument(help="infini: counts of everything, by suffix array.")],
    corpus: Corpus,
    out: Annotated[Path, typer.Option("--out", help="Folder to write to.")],
    model: Model = "smollm2",
    documents: Documents = "whole",
    field: Field = "text",
    shard_tokens: Annotated[
        int | None, typer.Option("--shard-tokens", min=1000, help="Of a shard, about; one shard by default.")
    ] = None,
    memory_gib: MemoryGib = 4.0,
    licence: Licence = "",
    replace: Replace = False,
) -> None:
    """Build a memory of texts. A run that was stopped goes on, if asked the same again.

    Example: factorlm index build infini letters/ contracts.jsonl.gz --out office
    """
    from factorlm.cli.terminal import notes, progress
    from factorlm.errors import UnknownNameError
    from factorlm.memory.building import BuildSettings, build
    from factorlm.memory.card import check_place, mark_of
    from factorlm.memory.corpus import corpus_files
    from factorlm.models.loading import load_model

    if kind not in ("infini",):
        raise UnknownNameError.of("kind of memory", kind, ("infini",))
    settings = BuildSettings(corpus=corpus_settings(documents, field), shard_tokens=shard_tokens, memory_gib=memory_gib)
    check_place(out, replace=replace)
    files = corpus_files(corpus)
    lm = load_model(model)
    use_all_cores()
    with progress() as report:
        card = build(
            files, out, lm.encode_texts, mark_of(lm, with_encoder=False), lm.vocabulary.size, settings,
            licence=licence, replace=replace, report=report,
        )  # fmt: skip
    tell(out, card)
    notes.print(f'try: factorlm index query {out} "of the" --next', markup=False, soft_wrap=True)


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


def use_all_cores() -> None:
    """Let the tokenizer use several cores: nothing here forks."""
    import os

    os.environ["TOKENIZERS_PARALLELISM"] = "true"


def tell(place: Path, card: MemoryCard) -> None:
    """What a memory has become, and what was wrong with its texts."""
    from factorlm.cli.terminal import console, notes

    console.print(
        f"{place}: {card.num_documents:,} documents, {card.num_tokens:,} tokens", markup=False, soft_wrap=True
    )
    for what, number in card.troubles.items():
        notes.print(f"[yellow]{what}: {number:,}[/yellow]", soft_wrap=True)
