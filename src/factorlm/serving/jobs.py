"""What the server asks of an engine, and what an engine gives back: plain data, the same for every engine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from factorlm.errors import FactorlmError

if TYPE_CHECKING:
    from factorlm.factors.strength import StrengthMap
    from factorlm.inference import Particles, Sampling, Score

Alternative = tuple[str, float]  # text of a token and its log probability, in nats


class OverloadedError(FactorlmError):
    """There is no room for another request now.

    Attributes:
        retry_after_s: when it is worth asking again.
    """

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


@dataclass(frozen=True)
class Dose:
    """One factor of a request and how much of it.

    Attributes:
        name: as the client says it.
        folder: of the factor.
        exponent: of its weight on whole texts.
        strength: in signed nats per token, where the client gave one or the factor's card knows it.
    """

    name: str
    folder: Path
    exponent: float
    strength: float | None = None


@dataclass(frozen=True)
class Recipe:
    """What a request composes onto the served model; equal recipes are one composition.

    Attributes:
        doses: of factors.
        language: ("json_schema", "regex", "grammar" or "choice", its content); choices are a JSON list.
        memories: name, folder and number of each: a largest weight to interpolate, a strength to multiply.
        memory_mode: "interpolate" or "multiply".
        guides: strength of each guide of meaning.
        prior: name, folder and mode ("response", "bayes" or "blend") of a prior that takes the model's place.
    """

    doses: tuple[Dose, ...] = ()
    language: tuple[str, str] | None = None
    memories: tuple[tuple[str, Path, float], ...] = ()
    memory_mode: str = "interpolate"
    guides: tuple[tuple[str, float], ...] = ()
    prior: tuple[str, Path, str] | None = None


@dataclass(frozen=True)
class Job:
    """Texts to write.

    Attributes:
        prompts: token ids of each prompt, a start token included.
        prompt_texts: what they say.
        n: texts for each prompt.
        max_tokens: most tokens of a text.
        seed: of all randomness; the same job gives the same texts whatever else is being written.
        sampling: how tokens are drawn.
        recipe: what the model is composed with.
        particles: how the global product is sampled; None draws from the local one, token by token.
        top: alternatives to tell of at each token.
        explain: whether to tell what each factor did to each token.
    """

    prompts: tuple[tuple[int, ...], ...]
    prompt_texts: tuple[str, ...]
    n: int
    max_tokens: int
    seed: int
    sampling: Sampling
    recipe: Recipe = Recipe()
    particles: Particles | None = None
    top: int = 0
    explain: bool = False


@dataclass(frozen=True)
class Piece:
    """One token of one text.

    Attributes:
        row: the text: number of the prompt times n plus number of the sample.
        token: its id.
        text: characters that became certain with it; with the last token of a text, all that were held back.
        piece: the text of the token itself.
        log_prob: under the composition (untruncated, temperature one), in nats.
        top: id, text and log probability of the most probable tokens in its place, if asked for.
        base_log_prob: under the base alone, where an explanation was asked for.
        pushes: nats by which each factor pushed this token; see factorlm.inference.Reading.
        normalizer: the price of disagreeing with the base: base_log_prob + pushes - normalizer = log_prob.
        without: for each factor the most probable tokens if it were not there; under "" those of the base.
        finish_reason: "end", "stop" or "length" with the last token of a text, else empty.
        extra: with the last token of a text that was written as a whole, what is known of how it came about.
    """

    row: int
    token: int
    text: str
    piece: str
    log_prob: float
    top: tuple[tuple[int, str, float], ...] = ()
    base_log_prob: float | None = None
    pushes: tuple[tuple[str, float], ...] = ()
    normalizer: float | None = None
    without: tuple[tuple[str, tuple[Alternative, ...]], ...] = ()
    finish_reason: str = ""
    extra: Mapping[str, Any] | None = None


class Engine(Protocol):
    """Writes the texts of many jobs at once."""

    @property
    def model_id(self) -> str:
        """Name of the served model."""

    @property
    def max_tokens(self) -> int:
        """Longest text, prompt included, in tokens."""

    def encode(self, text: str) -> list[int]:
        """Token ids of a prompt, a start token included. May be called from any thread."""

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Token ids of a conversation that the model is to go on with, each message with `role` and `content`.

        Raises:
            InputError: if the model has no chat template, or refuses these messages.
        """

    def strengths(self, folder: Path) -> StrengthMap:
        """From strengths of the factor in a folder to exponents; measured where its card does not say, some seconds.

        May be called from any thread.

        Raises:
            InputError: for a factor whose exponent changes nothing.
        """

    def check(self, job: Job) -> None:
        """Complain of what this engine cannot do, before anything slow.

        Raises:
            FactorlmError: naming it.
        """

    def expect(self) -> Callable[[], None]:
        """A request is on its way, and may be read with others that come at the same moment.

        Gives what is called, once or more often, when it was submitted or will not be; in the loop's thread.
        """

    def submit(self, job: Job) -> AsyncIterator[Piece]:
        """The tokens of all texts as they are drawn; closing the iterator frees their places at once.

        Raises:
            OverloadedError: if too much is waiting.
        """

    async def score(self, texts: Sequence[str], prompt: str, recipe: Recipe) -> list[Score]:
        """What the composition thinks of whole texts; see `Model.score`."""

    def load(self) -> dict[str, float]:
        """Counters and gauges by name: rows_active, rows_waiting, tokens_drawn, tokens_read, steps."""

    async def start(self) -> None:
        """Begin."""

    async def close(self, drain_s: float) -> None:
        """Take nothing more, finish what was begun within so many seconds, and stop."""
