"""What clients may ask for: bodies of requests, strict, so that a typo is an error with its name.

Fields of OpenAI's that mean nothing here are taken with the value that asks for nothing.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from factorlm.serving.fields import (
    LARGEST_SEED,
    Body,
    Exponent,
    GuideName,
    Name,
    Never,
    NoList,
    NoObject,
    Nothing,
    PlaceName,
    Strength,
    Text,
    TextOrList,
    Zero,
    dose_form,
    forms,
)

MOST_ALTERNATIVES = 20


class StrengthDose(Body):
    """How much of a factor, in signed nats per token of divergence that it would cause alone: 0.2 is clear."""

    strength: Strength


class ExponentDose(Body):
    """How much of a factor, as the power of its weight on whole texts: 1 is one Bayes posterior."""

    exponent: Exponent


Dose = Annotated[
    Annotated[Strength, Tag("<plain>")]
    | Annotated[StrengthDose, Tag("<strength>")]
    | Annotated[ExponentDose, Tag("<exponent>")],
    Discriminator(dose_form),
]


class PriorChoice(Body):
    """A prior over models that takes the model's place.

    Attributes:
        name: as the server was started with it.
        mode: a component for each text ("response"), all of them weighed by their posterior ("bayes"), or all of them
            with fixed weights ("blend").
    """

    name: PlaceName
    mode: Literal["response", "bayes", "blend"] = "response"


class Sampler(Body):
    """How texts are drawn, beyond temperature and top_p.

    Attributes:
        kind: "local" draws token by token; the others draw from the product normalised over whole texts.
        particles: of each text, where the kind is not "local".
        resampling: scheme of it.
        ess: particles are resampled when the effective share falls below this.
        limit: whether a text must end within max_tokens ("end") or may be cut there ("cut").
        top_k: keep the k most probable tokens; 0 keeps all.
        min_p: keep tokens with at least this share of the largest probability.
        typical_p: keep the tokens whose surprise is nearest to the entropy, up to this probability.
        epsilon_cutoff: keep tokens of at least this probability.
        eta_cutoff: keep tokens of at least min(eta, sqrt(eta) exp(-entropy)).
        repetition_penalty: of tokens that were read already; 1 leaves them alone.
        dry_multiplier: nats that a token loses if it makes a run repeat what was read.
    """

    kind: Literal["local", "smc", "importance", "metropolis"] = "local"
    particles: Annotated[int, Field(ge=2)] = 16
    resampling: Literal["stratified", "systematic", "residual", "multinomial"] = "stratified"
    ess: Annotated[float, Field(ge=0, le=1)] = 0.5
    limit: Literal["end", "cut"] = "end"
    top_k: Annotated[int, Field(ge=0, le=1 << 31)] = 0
    min_p: Annotated[float, Field(ge=0, le=1)] = 0.0
    typical_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    epsilon_cutoff: Annotated[float, Field(ge=0, lt=1)] = 0.0
    eta_cutoff: Annotated[float, Field(ge=0, lt=1)] = 0.0
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] = 1.0
    dry_multiplier: Annotated[float, Field(ge=0, le=100)] = 0.0


class Composition(Body):
    """What is composed onto the served model.

    Attributes:
        factors: how much of each factor, by name; a bare number is a strength.
        guides: strength of each guide of meaning; 10 is clear.
        prior: that takes the model's place, by name.
        memory: largest weight (0 to 1) of each memory that is mixed in, or the exponent that it is multiplied with.
        memory_mode: which of the two.
    """

    factors: dict[Name, Dose] = Field(default_factory=dict)
    guides: dict[GuideName, Annotated[float, Field(ge=-1000, le=1000)]] = Field(default_factory=dict)
    prior: (
        Annotated[
            Annotated[PlaceName, Tag("<plain>")] | Annotated[PriorChoice, Tag("<object>")],
            forms("<plain>", "<object>"),
        ]
        | None
    ) = None
    memory: dict[PlaceName, Strength] = Field(default_factory=dict)
    memory_mode: Literal["interpolate", "multiply"] = "interpolate"


class StreamOptions(Body):
    """How a stream is told.

    Attributes:
        include_usage: whether its last chunk counts tokens.
        include_obfuscation: taken, and without effect: nothing is added to hide lengths.
    """

    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class TextFormat(Body):
    """Any text."""

    type: Literal["text"]


class JsonObjectFormat(Body):
    """Any JSON object."""

    type: Literal["json_object"]


class JsonSchema(Body):
    """A JSON schema with a name.

    Attributes:
        name: for people.
        description: for people.
        strict: taken; a text always keeps to the schema.
        definition: the schema, under the name `schema`.
    """

    name: str | None = None
    description: str | None = None
    strict: bool | None = None
    definition: dict[str, Any] = Field(alias="schema")


class JsonSchemaFormat(Body):
    """JSON that a schema allows."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


class Writing(Composition):
    """What completions and chat completions have in common.

    Attributes:
        model: the served one, by name; may be left out.
        n: texts for each prompt.
        max_tokens: most new tokens of a text.
        temperature: divides log probabilities; 0 takes the most probable token.
        top_p: keep the smallest set of tokens with at least this probability.
        seed: of all randomness; without one each request has its own.
        stop: strings at whose first appearance a text ends.
        stream: whether to send tokens as they are drawn, as server-sent events.
        stream_options: how.
        response_format: text, a JSON object, or JSON that a schema allows.
        regex: texts that a pattern matches.
        grammar: texts of a Lark or GBNF grammar.
        choice: one of some texts.
        sampler: how texts are drawn.
        explain: whether to tell what each factor did to each token.
        user: taken, and without effect.
    """

    model: str | None = None
    n: Annotated[int, Field(ge=1)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-LARGEST_SEED, le=LARGEST_SEED)] | None = None
    stop: TextOrList | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    response_format: Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")] | None = (
        None
    )
    regex: Text | None = None
    grammar: Text | None = None
    choice: Annotated[list[Text], Field(min_length=1)] | None = None
    sampler: Sampler = Sampler()
    explain: bool = False
    user: str | None = None
    presence_penalty: Zero | None = None
    frequency_penalty: Zero | None = None
    logit_bias: NoObject | None = None

    @model_validator(mode="after")
    def _check(self) -> Writing:
        formats = {
            "response_format": self.response_format is not None and self.response_format.type != "text",
            "regex": self.regex is not None,
            "grammar": self.grammar is not None,
            "choice": self.choice is not None,
        }
        given = [name for name, is_given in formats.items() if is_given]
        if len(given) > 1:
            raise ValueError(f"one language is enough; leave out {' or '.join(given)}")
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options is for streams; add stream, or leave it out")
        return self


class CompletionBody(Writing):
    """A text to be continued.

    Attributes:
        prompt: one or several.
        logprobs: how many alternatives to tell of at each token, with the log probability of the token itself.
    """

    prompt: TextOrList
    logprobs: Annotated[int, Field(ge=0, le=MOST_ALTERNATIVES)] | None = None
    echo: Never | None = None
    best_of: Annotated[int, Field(ge=1, description="Not honoured here: only what n is, or leave it out.")] | None = (
        None
    )
    suffix: Nothing = None

    @property
    def num_alternatives(self) -> int | None:
        """To tell of at each token; None tells no log probabilities."""
        return self.logprobs

    @model_validator(mode="after")
    def _check_best(self) -> CompletionBody:
        if self.best_of is not None and self.best_of != (self.n or 1):
            raise ValueError(f"best_of is not honoured here, got {self.best_of}; leave it out, and ask for n")
        return self


class TextPart(Body):
    """A piece of a message."""

    type: Literal["text"]
    text: Text


class Message(Body):
    """A turn of a conversation; "developer" is another word for "system"."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[
        Annotated[Text, Tag("<plain>")] | Annotated[list[TextPart], Field(min_length=1), Tag("<list>")],
        forms("<plain>", "<list>"),
    ]

    @property
    def text(self) -> str:
        """All that is said."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class ChatBody(Writing):
    """A conversation to go on with.

    Attributes:
        messages: the turns so far.
        max_completion_tokens: the newer name of max_tokens.
        logprobs: whether to tell the log probability of each token.
        top_logprobs: how many alternatives to tell of at each token.
    """

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=MOST_ALTERNATIVES)] | None = None
    tools: NoList | None = None
    tool_choice: Literal["none"] | None = None
    parallel_tool_calls: bool | None = None
    store: Never | None = None

    @property
    def num_alternatives(self) -> int | None:
        """To tell of at each token; None tells no log probabilities."""
        return (self.top_logprobs or 0) if self.logprobs else None

    @model_validator(mode="after")
    def _check_chat(self) -> ChatBody:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs needs logprobs to be true; add it")
        if None not in (self.max_tokens, self.max_completion_tokens) and self.max_tokens != self.max_completion_tokens:
            raise ValueError("max_tokens and max_completion_tokens are the same; leave one out")
        return self


class ScoreBody(Composition):
    """Texts to be weighed.

    Attributes:
        texts: whose log probabilities are wanted.
        prompt: what stands before each of them.
        model: the served one, by name; may be left out.
    """

    texts: Annotated[list[Text], Field(min_length=1)]
    prompt: str = ""
    model: str | None = None
