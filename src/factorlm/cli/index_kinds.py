"""What each kind of memory is built with: settings, texts, tools. A new kind is a function here and a table line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factorlm.errors import InputError

if TYPE_CHECKING:
    from factorlm.memory.card import MemoryCard, SourceFile
    from factorlm.memory.corpus import CorpusSettings, Document, Troubles
    from factorlm.models import CausalLM
    from factorlm.models.progress import Report
    from factorlm.settings import Config


@dataclass(frozen=True)
class Order:
    """What is asked for.

    Attributes:
        corpus: files and folders.
        out: folder to write.
        model: name of the model.
        texts: how files become documents.
        recipe: of settings.
        assignments: of settings.
        licence: of the texts.
        replace: whether a memory that is there may go.
        report: told of progress.
    """

    corpus: list[Path]
    out: Path
    model: str
    texts: CorpusSettings
    recipe: Path | None
    assignments: list[str]
    licence: str
    replace: bool
    report: Report

    def settings(self, defaults: Config) -> Any:
        """Settings after recipe and assignments."""
        from factorlm.settings import changed

        return changed(defaults, self.recipe, self.assignments)


@dataclass
class Reading:
    """Documents of an order, with what was wrong with them once they are read."""

    files: list[Path]
    texts: CorpusSettings
    troubles: Troubles = field(default_factory=lambda: _no_troubles())

    @property
    def sources(self) -> list[SourceFile]:
        """For the card."""
        from factorlm.memory.card import SourceFile

        return [SourceFile(path=str(path), size=path.stat().st_size) for path in self.files]

    def documents(self, report: Report) -> Iterator[Document]:
        """All documents, once."""
        from factorlm.memory.corpus import read_documents

        at_byte, total = [0], sum(path.stat().st_size for path in self.files)
        for document in read_documents(self.files, self.texts, self.troubles, at_byte):
            yield document
            report("reading", at_byte[0], total)

    def counts(self) -> dict[str, int]:
        """What was wrong."""
        from factorlm.memory.card import counted

        return counted(self.troubles)


def reading(corpus: list[Path], texts: CorpusSettings) -> Reading:
    """Documents of files and folders."""
    from factorlm.memory.corpus import corpus_files

    return Reading(corpus_files(corpus), texts)


def _no_troubles() -> Troubles:
    from factorlm.memory.corpus import Troubles

    return Troubles()


def _infini(order: Order) -> MemoryCard:
    from factorlm.memory.building import build
    from factorlm.memory.card import check_place, mark_of

    settings = order.settings(default_settings("infini")).model_copy(update={"corpus": order.texts})
    check_place(order.out, replace=order.replace)
    files, lm = reading(order.corpus, order.texts).files, loaded(order.model)
    use_all_cores()
    return build(
        files, order.out, lm.encode_texts, mark_of(lm, with_encoder=False), lm.vocabulary.size, settings,
        licence=order.licence, replace=order.replace, report=order.report,
    )  # fmt: skip


def _knn(order: Order) -> MemoryCard:
    from factorlm.memory.card import check_place
    from factorlm.memory.neighbour_building import build_neighbours

    settings = order.settings(default_settings("knn"))
    check_place(order.out, replace=order.replace)
    texts = reading(order.corpus, order.texts)
    return build_neighbours(
        loaded(order.model), texts.documents(order.report), order.out, settings, troubles=texts.troubles,
        sources=texts.sources, report=_told(order.report), replace=order.replace, licence=order.licence,
    )  # fmt: skip


def _mlp(order: Order) -> MemoryCard:
    from factorlm.memory.mlp_training import train_mlp

    if len(order.corpus) != 1:
        raise InputError(f"an MLP memory learns from one knn memory, got {len(order.corpus)} places; name one folder")
    settings = order.settings(default_settings("mlp"))
    return train_mlp(
        loaded(order.model), order.corpus[0], order.out, settings, report=order.report, replace=order.replace
    )


def _passages(order: Order) -> MemoryCard:
    from factorlm.memory.card import check_place, mark_of
    from factorlm.memory.retrievers import build_passages

    settings = order.settings(default_settings("passages"))
    check_place(order.out, replace=order.replace)
    texts, lm = reading(order.corpus, order.texts), loaded(order.model)
    return build_passages(
        texts.documents(order.report), order.out, settings, mark=mark_of(lm, with_encoder=False),
        **tools(lm, settings), sources=texts.sources, troubles=texts.counts, licence=order.licence,
        replace=order.replace, report=_told(order.report),
    ).card  # fmt: skip


def default_settings(kind: str) -> Config:
    """The settings class of a kind, with its defaults."""
    if kind == "infini":
        from factorlm.memory.building import BuildSettings

        return BuildSettings()
    if kind == "knn":
        from factorlm.memory.datastore import NeighbourSettings

        return NeighbourSettings()
    if kind == "mlp":
        from factorlm.memory.mlp import MlpSettings

        return MlpSettings()
    from factorlm.memory.passages import PassageSettings

    return PassageSettings()


def tools(lm: CausalLM, settings: Any) -> dict[str, Any]:
    """What passages are cut and encoded with."""
    from factorlm.memory.passages import token_ends

    found: dict[str, Any] = {"token_ends": token_ends(lm) if settings.unit == "tokens" else None, "encoder": None}
    if "dense" in settings.retrievers:
        from factorlm.memory.dense import sentence_encoder

        found["encoder"] = sentence_encoder()
    return found


def loaded(model: str) -> CausalLM:
    """The model of this name."""
    from factorlm.models.loading import load_model

    return load_model(model)


def use_all_cores() -> None:
    """Let the tokenizer use several cores: nothing here forks."""
    import os

    os.environ["TOKENIZERS_PARALLELISM"] = "true"


def _told(report: Report) -> Report:
    """Without stages whose end nobody knows: those of reading are told already."""
    return lambda stage, done, total: report(stage, done, total) if total else None


KINDS: dict[str, Callable[[Order], MemoryCard]] = {
    "infini": _infini,
    "knn": _knn,
    "mlp": _mlp,
    "passages": _passages,
}
HELP = {
    "infini": "counts of everything, by suffix array",
    "knn": "hidden states and what followed them",
    "mlp": "a network that imitates a knn memory, which CORPUS then is",
    "passages": "pieces of texts to be found and read in context, by bm25 or dense vectors",
}
