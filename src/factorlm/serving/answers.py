"""From tokens to answers: whole ones, and the chunks of streams."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from factorlm.serving.jobs import Job, Piece
from factorlm.serving.shapes import (
    Alternative,
    Alternatives,
    ChatChoice,
    ChatChunk,
    ChatCompletion,
    ChatLogprobs,
    ChatMessage,
    ChatToken,
    ChunkChoice,
    Completion,
    CompletionChoice,
    CompletionLogprobs,
    Delta,
    FactorNumbers,
    FinishReason,
    Told,
    ToldToken,
    Usage,
)

REPEATED = {"prompt", "text", "finish_reason"}  # of what is known of a whole text: said elsewhere


@dataclass
class Written:
    """A text as far as it is written."""

    pieces: list[Piece] = field(default_factory=list)
    text: str = ""

    def add(self, piece: Piece) -> int:
        """Take the next token; gives the place in the text where what it made certain begins."""
        offset = len(self.text)
        self.pieces.append(piece)
        self.text += piece.text
        return offset


@dataclass
class Answer:
    """The answer to a request while it is being written: pieces go in, OpenAI's objects come out.

    Attributes:
        job: what was asked.
        model: name of the served one.
        is_chat: whether it is an answer in a conversation.
        num_alternatives: to tell of at each token; None tells no log probabilities.
        with_usage: whether a stream ends with a count of tokens.
    """

    job: Job
    model: str
    is_chat: bool
    num_alternatives: int | None = None
    with_usage: bool = False
    id: str = ""
    created: int = 0
    written: list[Written] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.id = f"{'chatcmpl' if self.is_chat else 'cmpl'}-{uuid.uuid4().hex}"
        self.created = int(time.time())
        self.written = [Written() for _ in range(len(self.job.prompts) * self.job.n)]

    @property
    def usage(self) -> Usage:
        """Tokens so far."""
        read = sum(len(prompt) for prompt in self.job.prompts)
        drawn = sum(len(written.pieces) for written in self.written)
        return Usage(prompt_tokens=read, completion_tokens=drawn, total_tokens=read + drawn)

    # Whole

    def add(self, piece: Piece) -> None:
        """Take the next token of a text."""
        self.written[piece.row].add(piece)

    def whole(self) -> Completion | ChatCompletion:
        """The answer when all is written."""
        if self.is_chat:
            chat = [self._chat_choice(row) for row in range(len(self.written))]
            return ChatCompletion(
                id=self.id, created=self.created, model=self.model, choices=chat, usage=self.usage
            )  # fmt: skip
        choices = [self._choice(row) for row in range(len(self.written))]
        return Completion(id=self.id, created=self.created, model=self.model, choices=choices, usage=self.usage)

    def _choice(self, row: int) -> CompletionChoice:
        written = self.written[row]
        offsets = _offsets(written.pieces)
        return CompletionChoice(
            index=row,
            text=written.text,
            logprobs=self._logprobs(written.pieces, offsets),
            finish_reason=_reason(written.pieces),
            factorlm=self._told(written.pieces, whole=True),
        )

    def _chat_choice(self, row: int) -> ChatChoice:
        written = self.written[row]
        return ChatChoice(
            index=row,
            message=ChatMessage(role="assistant", content=written.text),
            logprobs=self._chat_logprobs(written.pieces),
            finish_reason=_reason(written.pieces) or "length",
            factorlm=self._told(written.pieces, whole=True),
        )

    # In a stream

    def opening(self) -> Iterator[ChatChunk]:
        """What a stream begins with: in a conversation, who speaks."""
        if self.is_chat:
            for row in range(len(self.written)):
                yield self._chat_chunk(ChunkChoice(index=row, delta=Delta(role="assistant", content="")))

    def chunk(self, piece: Piece) -> Completion | ChatChunk | None:
        """What a token adds to a stream; None where there is nothing to say yet."""
        written = self.written[piece.row]
        offset = written.add(piece)
        is_last = bool(piece.finish_reason)
        if not (piece.text or is_last or self.job.explain or self.num_alternatives is not None):
            return None
        told = self._told(written.pieces, whole=False) if is_last else Told() if self.job.explain else None
        if told is not None and self.job.explain:
            told = told.model_copy(update={"tokens": [_token(piece)]})
        reason = _reason([piece])
        if self.is_chat:
            choice = ChunkChoice(
                index=piece.row,
                delta=Delta(content=piece.text) if piece.text or not is_last else Delta(),
                logprobs=self._chat_logprobs([piece]),
                finish_reason=reason,
                factorlm=told,
            )
            return self._chat_chunk(choice)
        found = CompletionChoice(
            index=piece.row,
            text=piece.text,
            logprobs=self._logprobs([piece], [offset]),
            finish_reason=reason,
            factorlm=told,
        )
        return Completion(id=self.id, created=self.created, model=self.model, choices=[found])

    def closing(self) -> Iterator[Completion | ChatChunk]:
        """What a stream ends with: a count of tokens, if it was asked for."""
        if self.with_usage and self.is_chat:
            yield ChatChunk(id=self.id, created=self.created, model=self.model, choices=[], usage=self.usage)
        elif self.with_usage:
            yield Completion(id=self.id, created=self.created, model=self.model, choices=[], usage=self.usage)

    def _chat_chunk(self, choice: ChunkChoice) -> ChatChunk:
        return ChatChunk(id=self.id, created=self.created, model=self.model, choices=[choice])

    # Parts of both

    def _told(self, pieces: Sequence[Piece], *, whole: bool) -> Told:
        """What is known of a text that is finished."""
        doses = self.job.recipe.doses
        known: dict[str, Any] = {
            "factors": {d.name: FactorNumbers(exponent=d.exponent, strength=d.strength) for d in doses},
            "seed": self.job.seed,
            "log_prob": _finite(sum(piece.log_prob for piece in pieces)),
            "token_ids": [piece.token for piece in pieces],
        }
        base = [piece.base_log_prob for piece in pieces]
        if base and None not in base:
            known["base_log_prob"] = _finite(sum(value for value in base if value is not None))
        if whole and self.job.explain:
            known["attribution"] = [_token(piece) for piece in pieces]
        extra = (pieces[-1].extra if pieces else None) or {}
        return Told(**known | {name: plain(value) for name, value in extra.items() if name not in REPEATED})

    def _logprobs(self, pieces: Sequence[Piece], offsets: Sequence[int]) -> CompletionLogprobs | None:
        if self.num_alternatives is None:
            return None
        spoken = [(p, o) for p, o in zip(pieces, offsets, strict=True) if p.finish_reason != "end"]
        return CompletionLogprobs(
            tokens=[piece.piece for piece, _ in spoken],
            token_logprobs=[_finite(piece.log_prob) for piece, _ in spoken],
            top_logprobs=[self._top(piece) for piece, _ in spoken],
            text_offset=[offset for _, offset in spoken],
        )

    def _top(self, piece: Piece) -> dict[str, float | None]:
        found: dict[str, float | None] = {}
        for _, text, log_prob in piece.top[: self.num_alternatives]:
            if math.isfinite(log_prob):
                found.setdefault(text, log_prob)  # of tokens with one text the more probable one is told
        return found

    def _chat_logprobs(self, pieces: Sequence[Piece]) -> ChatLogprobs | None:
        if self.num_alternatives is None:
            return None
        return ChatLogprobs(
            content=[
                ChatToken(
                    token=piece.piece,
                    logprob=_finite(piece.log_prob),
                    bytes=_bytes(piece.piece),
                    top_logprobs=[
                        Alternative(token=text, logprob=log_prob, bytes=_bytes(text))
                        for _, text, log_prob in piece.top[: self.num_alternatives]
                        if math.isfinite(log_prob)
                    ],
                )
                for piece in pieces
                if piece.finish_reason != "end"
            ]
        )


def plain(value: Any) -> Any:
    """A value as JSON can hold it: what is infinite or no number is null."""
    if isinstance(value, float):
        return _finite(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _reason(pieces: Sequence[Piece]) -> FinishReason | None:
    """OpenAI's word for how a text ended; an end token and a stop string are the same to it."""
    found = pieces[-1].finish_reason if pieces else ""
    return "length" if found == "length" else "stop" if found else None


def _offsets(pieces: Sequence[Piece]) -> list[int]:
    offsets, place = [], 0
    for piece in pieces:
        offsets.append(place)
        place += len(piece.text)
    return offsets


def _bytes(text: str) -> list[int] | None:
    return None if "\ufffd" in text else list(text.encode())


def _token(piece: Piece) -> ToldToken:
    return ToldToken(
        token=piece.token,
        piece=piece.piece,
        log_prob=_finite(piece.log_prob),
        base_log_prob=None if piece.base_log_prob is None else _finite(piece.base_log_prob),
        normalizer=None if piece.normalizer is None else _finite(piece.normalizer),
        factors={name: _finite(nats) for name, nats in piece.pushes},
        top=_alternatives((text, log_prob) for _, text, log_prob in piece.top),
        without={name: _alternatives(found) for name, found in piece.without},
    )


def _alternatives(found: Any) -> Alternatives:
    return [(text, log_prob) for text, log_prob in found if math.isfinite(log_prob)]
