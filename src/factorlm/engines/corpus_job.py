"""What is asked of each document of a corpus, and how an order becomes a job that leaves nothing open."""

from __future__ import annotations

import hashlib
from typing import Literal

from pydantic import PositiveInt

from factorlm.engines.corpus_keep import parse_keep
from factorlm.engines.corpus_scores import reach_of
from factorlm.errors import InputError
from factorlm.memory.corpus import CorpusSettings
from factorlm.settings import Config

Format = Literal["jsonl", "jsonl.gz", "parquet"]


class Dose(Config):
    """A factor that is added to a composition; without numbers its evidence is measured, and it does not steer."""

    name: str
    exponent: float | None = None
    strength: float | None = None


class CorpusOrder(Config):
    """What is asked.

    Attributes:
        expression: a composition, as `factorlm.inference.expression` reads it.
        factors: that are added to it.
        dtype: number format of the models.
        texts: what a document is.
        keep: conditions that a document must pass to be written; see `factorlm.engines.corpus_keep`.
        format: of the parts.
        with_text: whether documents are written with their text.
        shard_bytes: least bytes of text in a shard.
        window: most tokens read at once; None takes all that the models can read.
        stride: tokens by which windows move; None takes half a window.
    """

    expression: str = "smollm2"
    factors: tuple[Dose, ...] = ()
    dtype: str = "auto"
    texts: CorpusSettings = CorpusSettings()
    keep: tuple[str, ...] = ()
    format: Format = "jsonl"
    with_text: bool = True
    shard_bytes: PositiveInt = 1_000_000
    window: PositiveInt | None = None
    stride: PositiveInt | None = None


class Part(Config):
    """A model or factor of the composition, as `factorlm.inference.expression.Composed` has it."""

    name: str
    kind: str
    version: str
    fingerprint: str


class Job(Config):
    """What is asked of each document, with nothing left open; equal jobs give equal scores.

    Attributes:
        expression: of the composition, factors that are only measured included.
        parts: of the composition.
        dtype: number format of the models.
        texts: what a document is.
        keep: conditions that a document must pass to be written.
        format: of the parts.
        with_text: whether documents are written with their text.
        shard_bytes: least bytes of text in a shard.
        window: most tokens read at once.
        stride: tokens by which windows move.
    """

    expression: str
    parts: tuple[Part, ...]
    dtype: str
    texts: CorpusSettings
    keep: tuple[str, ...]
    format: Format
    with_text: bool
    shard_bytes: int
    window: int
    stride: int

    @property
    def fingerprint(self) -> str:
        """Of everything but the text that the scores depend on."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]


def job_of(order: CorpusOrder, device: str) -> Job:
    """The job of an order.

    Args:
        order: what is asked.
        device: where the models are read, to be asked what they are.

    Raises:
        FactorlmError: for a composition, a condition or a window that cannot be used.
    """
    from factorlm.algebra import names_of
    from factorlm.factors import bind, factor
    from factorlm.inference.expression import compose, written
    from factorlm.inference.strengths import exponent_of

    composed = compose(order.expression, dtype=order.dtype, device=device)
    expression = order.expression
    if order.factors:
        lm = composed.model.lm
        is_place = composed.parts[0]["name"] == expression  # the folder or hub name of a model, quoted inside others
        shown = [f"({written(expression) if is_place else expression})"]
        for dose in order.factors:
            exponent = dose.exponent or 0.0
            if dose.strength is not None:
                exponent = exponent_of(lm, bind(factor(dose.name), lm), dose.strength)
            shown.append(f"{written(dose.name)}^{exponent!r}")
        expression = " * ".join(shown)
        composed = compose(expression, dtype=order.dtype, device=device)
    names = names_of(composed.model.terms[1:])
    if len(names) != len(set(names)):
        raise InputError(f"each factor is named once, got {', '.join(names)}; join those of one name")
    parse_keep(order.keep, names)
    reach = reach_of(composed.model, order.window, order.stride)
    return Job(
        expression=expression,
        parts=tuple(Part(**part) for part in composed.parts),
        dtype=str(composed.model.lm.model.dtype).removeprefix("torch."),
        texts=order.texts,
        keep=order.keep,
        format=order.format,
        with_text=order.with_text,
        shard_bytes=order.shard_bytes,
        window=reach.window,
        stride=reach.stride,
    )
