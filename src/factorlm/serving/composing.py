"""From a body to what the engine is asked: names become folders, strengths become exponents.

A client says names, never places. A factor is looked for among its tenant's own, then among those of the server;
memories and priors are those that the server was started with.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from factorlm.errors import FactorlmError, InputError, UnknownNameError
from factorlm.factors.strength import StrengthMap
from factorlm.inference import Particles, Sampling
from factorlm.serving.complaints import RefusedError
from factorlm.serving.fields import LARGEST_EXPONENT
from factorlm.serving.jobs import Dose, Engine, Job, Recipe
from factorlm.serving.schemas import (
    ChatBody,
    CompletionBody,
    Composition,
    ExponentDose,
    JsonSchemaFormat,
    PriorChoice,
    StrengthDose,
    Writing,
)
from factorlm.serving.settings import Limits, ServerSettings
from factorlm.serving.stores import Stores

FEW_TOKENS = 16  # of a completion that does not say how many, as OpenAI has it
TOLD_ALTERNATIVES = 5  # at each token of an explanation
ROLES = {"developer": "system"}

Result = TypeVar("Result")


@dataclass(frozen=True)
class Shelves:
    """What names mean to one tenant.

    Attributes:
        settings: of the server.
        stores: of factors.
        strengths: of factors whose cards do not say what a strength is, by folder; see `jobs.Engine`.
        tenant: who asks.
    """

    settings: ServerSettings
    stores: Stores
    strengths: Callable[[Path], StrengthMap]
    tenant: str

    @property
    def limits(self) -> Limits:
        """What is too much."""
        return self.settings.limits

    def dose(self, name: str, asked: float | StrengthDose | ExponentDose) -> Dose:
        """How much of a factor.

        Raises:
            RefusedError: if there is none of this name.
            InputError: for a strength that it cannot have, or if its exponent changes nothing.
        """
        found = self.stores.find(self.tenant, name)
        strengths = found.manifest.strengths
        if isinstance(asked, ExponentDose):
            strength = strengths.strength(asked.exponent) if strengths else None
            return Dose(name, found.folder, asked.exponent, strength)
        strength = asked.strength if isinstance(asked, StrengthDose) else asked
        if strength == 0:
            return Dose(name, found.folder, 0.0, 0.0)
        strengths = strengths or self.strengths(found.folder)
        exponent = strengths.exponent(strength)
        if abs(exponent) > LARGEST_EXPONENT:
            raise InputError(f"factor {name!r} would need an exponent of {exponent:.3g} for {strength:g}; take less")
        return Dose(name, found.folder, exponent, strength)


def recipe_of(body: Composition, shelves: Shelves, language: tuple[str, str] | None = None) -> Recipe:
    """What a body composes.

    Raises:
        RefusedError: naming the field that cannot be used.
    """
    most = shelves.limits.factors
    for field, wanted in (("factors", body.factors), ("guides", body.guides), ("memory", body.memory)):
        within(len(wanted), most, field, f"{field} of a request")
    doses = [_about("factors", shelves.dose, name, asked) for name, asked in body.factors.items()]
    memories = []
    for name, number in body.memory.items():
        if body.memory_mode == "interpolate" and not 0 <= number <= 1:
            message = f"a memory that is mixed in has a weight from 0 to 1, got {number:g} for {name!r}"
            raise RefusedError(400, message, param="memory")
        memories.append((name, _about("memory", _registered, "memory", name, shelves.settings.memories), number))
    prior = None
    if body.prior is not None:
        choice = PriorChoice(name=body.prior) if isinstance(body.prior, str) else body.prior
        prior = (choice.name, _about("prior", _registered, "prior", choice.name, shelves.settings.priors), choice.mode)
    return Recipe(tuple(doses), language, tuple(memories), body.memory_mode, tuple(body.guides.items()), prior)


def completion_job(body: CompletionBody, engine: Engine, shelves: Shelves) -> Job:
    """What a body asks of the engine.

    Raises:
        FactorlmError: naming what cannot be done.
    """
    texts = [body.prompt] if isinstance(body.prompt, str) else list(body.prompt)
    within(len(texts), shelves.limits.prompts, "prompt", "prompts of a request")
    prompts = [_about("prompt", engine.encode, text) for text in texts]
    return _job(body, engine, shelves, "prompt", prompts, texts)


def chat_job(body: ChatBody, engine: Engine, shelves: Shelves) -> Job:
    """What a body asks of the engine.

    Raises:
        FactorlmError: naming what cannot be done.
    """
    turns = [{"role": ROLES.get(turn.role, turn.role), "content": turn.text} for turn in body.messages]
    prompt = _about("messages", engine.encode_chat, turns)
    said = next((turn["content"] for turn in reversed(turns) if turn["role"] == "user"), turns[-1]["content"])
    return _job(body, engine, shelves, "messages", [prompt], [said])


def language_of(body: Writing, limits: Limits) -> tuple[str, str] | None:
    """The formal language that texts must be of, as a kind and its content; None for any text."""
    found: tuple[str, str] | None = None
    field = "response_format"
    if body.regex is not None:
        field, found = "regex", ("regex", body.regex)
    elif body.grammar is not None:
        field, found = "grammar", ("grammar", body.grammar)
    elif body.choice is not None:
        within(len(body.choice), limits.choices, "choice", "choices")
        field, found = "choice", ("choice", json.dumps(body.choice))
    elif isinstance(body.response_format, JsonSchemaFormat):
        found = "json_schema", json.dumps(body.response_format.json_schema.definition)
    elif body.response_format is not None and body.response_format.type == "json_object":
        found = "json_schema", json.dumps({"type": "object"})
    if found is not None:
        within(len(found[1]), limits.language_characters, field, f"characters of {field}")
    return found


def sampling_of(body: Writing, limits: Limits) -> Sampling:
    """How tokens are drawn."""
    stop = [body.stop] if isinstance(body.stop, str) else body.stop or []
    within(len(stop), limits.stop_strings, "stop", "stop strings")
    within(max(map(len, stop), default=0), limits.stop_characters, "stop", "characters of a stop string")
    chosen = body.sampler.model_dump(exclude={"kind", "particles", "resampling", "ess", "limit"})
    return Sampling(
        temperature=1.0 if body.temperature is None else body.temperature,
        top_p=1.0 if body.top_p is None else body.top_p,
        stop=tuple(stop),
        **chosen,
    )


def within(value: int, most: int, field: str, what: str) -> None:
    """Raise RefusedError for more than there may be."""
    if value > most:
        raise RefusedError(
            400, f"at most {most} {what} are taken, got {value}; ask for less", param=field, code="limit"
        )


def _job(
    body: CompletionBody | ChatBody,
    engine: Engine,
    shelves: Shelves,
    field: str,
    prompts: Sequence[Sequence[int]],
    texts: Sequence[str],
) -> Job:
    limits, num_alternatives = shelves.limits, body.num_alternatives
    n = body.n or 1
    within(n, limits.n, "n", "texts for a prompt")
    within(n * len(prompts), limits.texts, "n", "texts of a request")
    longest = max(map(len, prompts))
    within(longest, limits.prompt_tokens, field, "tokens of a prompt")
    particles = None
    asked = body.sampler
    if asked.kind != "local":
        within(n * len(prompts) * asked.particles, limits.particles, "sampler", "particles of a request")
        particles = Particles(
            method=asked.kind, number=asked.particles, scheme=asked.resampling, threshold=asked.ess, limit=asked.limit
        )
    job = Job(
        prompts=tuple(tuple(prompt) for prompt in prompts),
        prompt_texts=tuple(texts),
        n=n,
        max_tokens=_max_tokens(body, limits, engine.max_tokens - longest, field, engine.max_tokens),
        seed=secrets.randbelow(2**31) if body.seed is None else body.seed,
        sampling=sampling_of(body, limits),
        recipe=recipe_of(body, shelves, language_of(body, limits)),
        particles=particles,
        top=max(num_alternatives or 0, TOLD_ALTERNATIVES if body.explain else 0),
        explain=body.explain,
    )
    if num_alternatives is not None and _is_whole(job):
        message = "log probabilities of tokens need the local sampler without guides or a component of a prior"
        raise RefusedError(400, f"{message}; leave out logprobs", param="logprobs")
    engine.check(job)
    return job


def _is_whole(job: Job) -> bool:
    """Whether its texts are drawn as a whole, so that their tokens have no distributions of their own."""
    prior = job.recipe.prior
    return job.particles is not None or bool(job.recipe.guides) or (prior is not None and prior[2] == "response")


def _max_tokens(body: CompletionBody | ChatBody, limits: Limits, room: int, field: str, context: int) -> int:
    """New tokens of a text, of which there is room for so many behind the prompt."""
    asked, name = body.max_tokens, "max_tokens"
    if asked is None and isinstance(body, ChatBody):
        asked, name = body.max_completion_tokens, "max_completion_tokens"
    if asked is not None:
        within(asked, limits.max_tokens, name, "new tokens of a text")
    if room < max(1, asked or 0):
        raise RefusedError(
            400,
            f"the model reads at most {context} tokens, got {context - room} in {field} and {asked or 1} new ones; "
            "shorten it or ask for fewer",
            param=name if asked is not None and room > 0 else field,
            code="context_length_exceeded",
        )
    return asked or min(room, limits.max_tokens if isinstance(body, ChatBody) else FEW_TOKENS)


def _registered(what: str, name: str, known: Mapping[str, Path]) -> Path:
    if name not in known:
        raise UnknownNameError.of(what, name, known, f"the server is started with --{what} NAME=PATH")
    return known[name]


def _about(field: str, function: Callable[..., Result], *arguments: Any) -> Result:
    """What a function gives; of what it complains about, the field is named."""
    try:
        return function(*arguments)
    except RefusedError as error:
        status = 400 if error.status == 404 else error.status  # it is the body that names something, not the path
        raise RefusedError(status, str(error), param=error.param or field, code=error.code) from None
    except FactorlmError as error:
        code = "unknown_name" if isinstance(error, UnknownNameError) else None
        raise RefusedError(400, str(error), param=field, code=code) from None
