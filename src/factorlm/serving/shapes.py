"""What clients get: OpenAI's objects, each choice with what factorlm knows besides."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, SerializerFunctionWrapHandler, model_serializer

Alternatives = list[tuple[str, float | None]]  # text of a token and its log probability, the most probable first
FinishReason = Literal["stop", "length"]


class _Sparse(BaseModel):
    """What is None is left out."""

    @model_serializer(mode="wrap")
    def _without_none(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in handler(self).items() if value is not None}


class Usage(BaseModel):
    """Tokens of a request; end tokens are counted, as they are drawn like others."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class FactorNumbers(BaseModel):
    """How much of a factor there was; the strength is null where it is not known."""

    exponent: float
    strength: float | None


class ToldToken(BaseModel):
    """What is known of a token where an explanation was asked for; all numbers are in nats.

    Attributes:
        token: its id.
        piece: its text.
        log_prob: under the composition.
        base_log_prob: under the base alone.
        normalizer: base_log_prob + the sum of factors - normalizer = log_prob.
        factors: by how much each factor pushed it.
        top: the most probable tokens in its place.
        without: the same if a factor were not there; under "" without all of them.
    """

    token: int
    piece: str
    log_prob: float | None
    base_log_prob: float | None
    normalizer: float | None
    factors: dict[str, float | None]
    top: Alternatives
    without: dict[str, Alternatives]


class Told(_Sparse):
    """What factorlm says of a text besides; absent fields were not asked for, or are not known.

    Attributes:
        factors: how much of each there was.
        seed: to write the same text again.
        log_prob: of the drawn tokens under the composition, in nats; see `factorlm.inference.Response`.
        base_log_prob: of the same tokens under the base alone, in nats.
        token_ids: as drawn, an end token included.
        attribution: what is known of each token.
        tokens: the same, of those in this chunk of a stream.
    """

    model_config = {"extra": "allow"}

    factors: dict[str, FactorNumbers] | None = None
    seed: int | None = None
    log_prob: float | None = None
    base_log_prob: float | None = None
    token_ids: list[int] | None = None
    attribution: list[ToldToken] | list[dict[str, Any]] | None = None
    tokens: list[ToldToken] | None = None


class CompletionLogprobs(BaseModel):
    """Tokens of a text side by side, without the end token."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float | None]]
    text_offset: list[int]


class CompletionChoice(BaseModel):
    """One text, or a piece of it."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: FinishReason | None = None
    factorlm: Told | None = None


class Completion(BaseModel):
    """The answer of /v1/completions, and each chunk of its stream."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None


class Alternative(BaseModel):
    """A token that could have stood there; its bytes are null where they are no text by themselves."""

    token: str
    logprob: float | None
    bytes: list[int] | None


class ChatToken(Alternative):
    """A token of an answer."""

    top_logprobs: list[Alternative]


class ChatLogprobs(BaseModel):
    """Tokens of an answer, without the end token."""

    content: list[ChatToken]


class ChatMessage(BaseModel):
    """An answer."""

    role: Literal["assistant"] = "assistant"
    content: str


class ChatChoice(BaseModel):
    """One answer."""

    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason
    factorlm: Told | None = None


class ChatCompletion(BaseModel):
    """The answer of /v1/chat/completions."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class Delta(_Sparse):
    """A piece of an answer; the first one says who speaks."""

    role: Literal["assistant"] | None = None
    content: str | None = None


class ChunkChoice(BaseModel):
    """A piece of one answer."""

    index: int
    delta: Delta
    logprobs: ChatLogprobs | None = None
    finish_reason: FinishReason | None = None
    factorlm: Told | None = None


class ChatChunk(BaseModel):
    """A chunk of a stream of answers."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | None = None


class Weighed(BaseModel):
    """What the composition thinks of a text.

    Attributes:
        text: the text.
        log_prob: under the composition, in nats; null for an impossible one.
        base_log_prob: under the base alone, in nats.
        num_tokens: of the text.
        num_bytes: of the text.
        bits_per_byte: surprise of the composition.
        factors: evidence log p_k(x) / p(x) of each factor at exponent one, in nats.
    """

    text: str
    log_prob: float | None
    base_log_prob: float | None
    num_tokens: int
    num_bytes: int
    bits_per_byte: float | None
    factors: dict[str, float | None]


class Scores(BaseModel):
    """The answer of /v1/score."""

    object: Literal["list"] = "list"
    model: str
    data: list[Weighed]
    usage: Usage


class ServedAbilities(BaseModel):
    """What requests may name and how much they may ask for.

    Attributes:
        max_tokens: longest text, prompt included, in tokens.
        memories: names.
        priors: names.
        guides: names of those that were learned; "topic:WORD" and "tone:WORD" are guides, too.
        samplers: kinds.
        limits: what is too much.
    """

    max_tokens: int
    memories: list[str]
    priors: list[str]
    guides: list[str]
    samplers: list[str]
    limits: dict[str, float]


class ServedModel(BaseModel):
    """A model that can be asked."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "factorlm"
    factorlm: ServedAbilities


class ServedModels(BaseModel):
    """The answer of /v1/models."""

    object: Literal["list"] = "list"
    data: list[ServedModel]


class Health(BaseModel):
    """The answer of /healthz."""

    status: Literal["ok"] = "ok"
    model: str
    load: dict[str, float]
