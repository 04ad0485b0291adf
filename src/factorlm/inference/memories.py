"""Memories in a composition: mixed with the base, multiplied onto it, or guessing for it.

- *interpolate*: the base's next-token distribution becomes lambda p_memory + (1 - lambda) p_base, with lambda by what
  the memory knows of its answer; factors then act on the mixture, so that a ban stays a ban.
- *multiply*: the factor 1 - lambda + lambda p_memory / p_base, at most 1 - lambda below one and never zero, with any
  exponent: positive ones lean towards the corpus ("write like this"), negative ones away from it ("unlike this").
  At exponent one it is the interpolation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from factorlm.algebra import Backoff, BackoffRatio, Factor, LocalProduct, Named, Term, leaves, unflatten
from factorlm.errors import InputError
from factorlm.inference.explanation import shown
from factorlm.inference.memory_names import parted
from factorlm.inference.model import Model
from factorlm.memory import Memory, MemoryDraft, Recollection, Source, open_memory
from factorlm.memory.longest_suffix import InfiniGram
from factorlm.models import CausalLM
from factorlm.text import Vocabulary

if TYPE_CHECKING:
    from rich.console import RenderableType

SHOWN_FEATURES = 1  # in a terminal; all are in JSON
FOUND_WIDTH = 24  # last characters of what matched that a terminal shows
MULTIPLIED_WEIGHT = 0.5  # lambda of a memory that is multiplied, where none was learned


def memory_at(place: Path | str, lm: CausalLM, most: float = 1.0) -> Memory:
    """The memory of FOLDER, or of FOLDER@WEIGHTS, with the learned weights of that name."""
    folder, gate = parted(place)
    return open_memory(folder, lm, gate=gate, most=most)


def remember(model: Model, memory: Memory | Path | str, *, most: float = 1.0) -> Model:
    """The model with a memory mixed into its base at each token.

    Args:
        model: a composition.
        memory: a memory, or the folder of one, FOLDER or FOLDER@WEIGHTS.
        most: the largest weight that the memory may have.
    """
    found = memory if isinstance(memory, Memory) else memory_at(memory, model.lm, most)
    base, *terms = model.terms
    mixed = Named(f"{base.name} with {found.name}", Backoff((found, LocalProduct.of(base.as_factor()))))
    return Model(unflatten([Term(mixed), *terms]), model.lm)


def memory_factor(lm: CausalLM, memory: Memory | Path | str) -> Factor:
    """The factor 1 - lambda + lambda p_memory / p_base of a memory, to be multiplied with any exponent.

    Args:
        lm: the base.
        memory: a memory, or the folder of one, FOLDER or FOLDER@WEIGHTS; without learned weights, lambda is a half.
    """
    found = memory if isinstance(memory, Memory) else memory_at(memory, lm, MULTIPLIED_WEIGHT)
    return Named(found.name, BackoffRatio((found, lm)))


def draft_of(lm: CausalLM, place: Path | str) -> MemoryDraft:
    """What guesses tokens for speculation by a memory.

    Raises:
        InputError: for a memory whose answers cost as much as the model.
    """
    memory = memory_at(place, lm)
    if not isinstance(memory, InfiniGram):
        raise InputError(f"only an ∞-gram index guesses ahead, got {place}; factorlm index build infini makes one")
    return MemoryDraft(memory)


def memories_in(factor: Factor) -> list[Memory]:
    """Every memory of a composition, once."""
    return list({id(leaf): leaf for leaf in leaves(factor) if isinstance(leaf, Memory)}.values())


@dataclass(frozen=True)
class Recalled:
    """What one memory said of each token of a text.

    Attributes:
        name: of the memory.
        tokens: the text of each token.
        recollections: one for each token.
        vocabulary: of the tokens in sources.
    """

    name: str
    tokens: tuple[str, ...]
    recollections: tuple[Recollection, ...]
    vocabulary: Vocabulary

    @staticmethod
    def of(memory: Memory, prompt_ids: Sequence[int], token_ids: Sequence[int]) -> Recalled:
        """Over one text behind a prompt."""
        vocabulary = memory.vocabulary
        recollections = tuple(memory.recollect(prompt_ids, token_ids))
        return Recalled(memory.name, vocabulary.pieces(token_ids), recollections, vocabulary)

    def as_json(self) -> list[dict[str, Any]]:
        """An object for each token: token, weight, prob, features, sources."""
        return [
            {
                "token": token,
                "weight": r.weight,
                "prob": r.prob,
                **{name.replace(" ", "_"): value for name, value in r.features.items()},
                "sources": [self._source(source) for source in r.sources],
            }
            for token, r in zip(self.tokens, self.recollections, strict=True)
        ]

    def table(self, most_tokens: int = 40) -> RenderableType:
        """For a terminal: the first tokens, each with what the memory knew and the first place it comes from."""
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, pad_edge=False, header_style="dim")
        table.add_column("token", no_wrap=True)
        names = list(self.recollections[0].features)[:SHOWN_FEATURES] if self.recollections else []
        for heading in ("weight", "prob", *names):
            table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("found as", overflow="ellipsis", no_wrap=True, justify="right")
        table.add_column("in", overflow="ellipsis", no_wrap=True, style="cyan")
        for token, r in list(zip(self.tokens, self.recollections, strict=True))[:most_tokens]:
            numbers = [f"{r.weight:.2f}", f"{r.prob:.2f}", *(f"{r.features[name]:.3g}" for name in names)]
            found, place = "", ""
            if r.sources:
                found = shown(self.vocabulary.text(_known(r.sources[0].match, self.vocabulary)))
                found = found if len(found) <= FOUND_WIDTH else f"…{found[1 - FOUND_WIDTH :]}"
                place = named_place(r.sources[0])
            table.add_row(Text(shown(token)), *numbers, Text(found), Text(place))
        return table

    def _source(self, source: Source) -> dict[str, Any]:
        parts = {"before": source.before, "match": source.match, "after": source.after}
        texts = {name: self.vocabulary.text(_known(ids, self.vocabulary)) for name, ids in parts.items()}
        return {"document": source.document, "path": source.path, "line": source.line, **texts}


def named_place(source: Source) -> str:
    """Where a source is, for people."""
    name = Path(source.path).name or f"document {source.document}"
    return f"{name}:{source.line}" if source.line is not None else name


def _known(token_ids: Sequence[int], vocabulary: Vocabulary) -> list[int]:
    return [token for token in token_ids if token < vocabulary.size]
