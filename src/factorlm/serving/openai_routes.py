"""What OpenAI's clients ask for: completions, chat completions, models; and the score of whole texts."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from starlette.concurrency import run_in_threadpool

from factorlm.errors import UnknownNameError
from factorlm.inference import Score
from factorlm.serving.answers import Answer, plain
from factorlm.serving.complaints import RefusedError, log
from factorlm.serving.composing import Shelves, chat_job, completion_job, recipe_of, within
from factorlm.serving.jobs import Engine, Job, OverloadedError, Recipe
from factorlm.serving.keys import Caller, require
from factorlm.serving.ledger import Ledger
from factorlm.serving.rates import counted
from factorlm.serving.schemas import ChatBody, CompletionBody, ScoreBody
from factorlm.serving.settings import ServerSettings
from factorlm.serving.shapes import (
    ChatCompletion,
    Completion,
    Scores,
    ServedAbilities,
    ServedModel,
    ServedModels,
    Usage,
    Weighed,
)
from factorlm.serving.streams import EventStream, Pieces, attended

STARTED = int(time.time())
SAMPLERS = ["local", "smc", "importance", "metropolis"]

router = APIRouter(prefix="/v1", tags=["openai"])


async def _expected(request: Request) -> AsyncIterator[Callable[[], None]]:
    arrive = request.app.state.engine.expect()
    try:
        yield arrive
    finally:
        arrive()


Arrive = Annotated[Callable[[], None], Depends(_expected)]
Reader = Annotated[Caller, Depends(counted("read"))]
Writer = Annotated[Caller, Depends(require("generate"))]  # counted when it is known how much it asks for


def _with_stream(whole: type, chunk: str) -> dict[int | str, dict[str, Any]]:
    """What the OpenAPI document says of an answer that may be a stream."""
    told = f"Server-sent events with {chunk} in JSON each, and [DONE] at the end."
    stream = {"text/event-stream": {"schema": {"type": "string", "description": told}}}
    return {200: {"model": whole, "description": "The texts; with stream, as they grow.", "content": stream}}


@router.post("/completions", responses=_with_stream(Completion, "a Completion"))
async def completions(body: CompletionBody, request: Request, arrive: Arrive, caller: Writer) -> Response:
    """Continue one prompt or several."""
    return await _written(request, caller, body, completion_job, arrive)


@router.post("/chat/completions", responses=_with_stream(ChatCompletion, "a ChatChunk"))
async def chat_completions(body: ChatBody, request: Request, arrive: Arrive, caller: Writer) -> Response:
    """Go on with a conversation."""
    return await _written(request, caller, body, chat_job, arrive)


@router.get("/models")
async def models(request: Request, caller: Reader) -> ServedModels:
    """The models that can be asked: the one that the server was started with."""
    return ServedModels(data=[await run_in_threadpool(_served, request)])


@router.get("/models/{model:path}")
async def model(model: str, request: Request, caller: Reader) -> ServedModel:
    """What can be asked of a model."""
    _check_model(model, request.app.state.engine)
    return await run_in_threadpool(_served, request)


@router.post("/score", tags=["factorlm"])
async def score(body: ScoreBody, request: Request, caller: Writer) -> Scores:
    """Log probability of whole texts, and the evidence of each factor; exponent 0 measures and does not steer."""
    state = request.app.state
    engine: Engine = state.engine
    settings: ServerSettings = state.settings
    _check_model(body.model, engine)

    def prepare() -> tuple[Recipe, int]:
        within(len(body.texts), settings.limits.score_texts, "texts", "texts of a request")
        with state.stores.told(caller.tenant):
            recipe = recipe_of(body, Shelves(settings, state.stores, engine.strengths, caller.tenant))
        before = len(engine.encode(body.prompt)) if body.prompt else 0
        return recipe, sum(before + len(engine.encode(text)) for text in body.texts)

    recipe, total = await run_in_threadpool(prepare)
    state.rates.spend(caller, total)
    async with attended(request.receive, settings.limits.timeout_s):
        scores = await engine.score(body.texts, body.prompt, recipe)
    log.info("score of %d texts for %s: %d tokens", len(scores), caller.tenant, total)
    usage = Usage(prompt_tokens=total, completion_tokens=0, total_tokens=total)
    return Scores(model=engine.model_id, data=[_weighed(score) for score in scores], usage=usage)


async def _written(
    request: Request,
    caller: Caller,
    body: CompletionBody | ChatBody,
    job_of: Callable[[Any, Engine, Shelves], Job],
    arrive: Callable[[], None],
) -> Response:
    state = request.app.state
    engine: Engine = state.engine
    settings: ServerSettings = state.settings
    _check_model(body.model, engine)

    def prepare() -> Job:
        with state.stores.told(caller.tenant):
            return job_of(body, engine, Shelves(settings, state.stores, engine.strengths, caller.tenant))

    job = await run_in_threadpool(prepare)
    num_texts = len(job.prompts) * job.n
    most = sum(map(len, job.prompts)) + num_texts * job.max_tokens
    state.rates.spend(caller, most)  # what is left of it is given back at the end
    ledger = Ledger(request, caller, most)
    answer = Answer(
        job=job,
        model=engine.model_id,
        is_chat=isinstance(body, ChatBody),
        num_alternatives=body.num_alternatives,
        with_usage=bool(body.stream_options and body.stream_options.include_usage),
    )
    try:
        drawn = engine.submit(job)
    except OverloadedError:
        ledger.give_back()
        raise
    arrive()
    pieces = Pieces(answer, drawn, settings.limits.timeout_s, ledger)
    if body.stream:
        return EventStream(pieces)
    await pieces.whole(request.receive)
    return Response(answer.whole().model_dump_json(), media_type="application/json")


def _check_model(name: str | None, engine: Engine) -> None:
    if name is not None and name != engine.model_id:
        message = str(UnknownNameError.of("model", name[:80], [engine.model_id]))
        raise RefusedError(404, message, param="model", code="model_not_found")


def _served(request: Request) -> ServedModel:
    from factorlm.inference.guide_names import all_guides

    engine: Engine = request.app.state.engine
    settings: ServerSettings = request.app.state.settings
    abilities = ServedAbilities(
        max_tokens=engine.max_tokens,
        memories=sorted(settings.memories),
        priors=sorted(settings.priors),
        guides=all_guides().names(),
        samplers=SAMPLERS,
        limits=settings.limits.model_dump(),
    )
    return ServedModel(id=engine.model_id, created=STARTED, factorlm=abilities)


def _weighed(score: Score) -> Weighed:
    return Weighed(
        text=score.text,
        log_prob=plain(score.log_prob),
        base_log_prob=plain(score.base_log_prob),
        num_tokens=score.num_tokens,
        num_bytes=score.num_bytes,
        bits_per_byte=plain(score.bits_per_byte),
        factors=plain(score.log_ratios),
    )
