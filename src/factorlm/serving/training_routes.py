"""Routes of trainings: begin one, watch it, stop it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Depends, Path, Request
from fastapi.responses import Response, StreamingResponse

from factorlm.errors import InputError
from factorlm.factors.examples import Example, split
from factorlm.serving.complaints import RESPONSES
from factorlm.serving.factor_schemas import TrainingProgress, TrainRequest
from factorlm.serving.keys import Caller
from factorlm.serving.rates import counted
from factorlm.serving.stores import RESERVED, Stores
from factorlm.serving.workshop import Training, Workshop

if TYPE_CHECKING:
    from factorlm.models import CausalLM
    from factorlm.models.progress import Report

LOOK_S, ALIVE_S = 0.1, 15.0  # between looks at progress, and between signs of life

Admin = Annotated[Caller, Depends(counted("admin"))]
Number = Annotated[str, Path(max_length=64, description="Id of a training.")]

router = APIRouter(tags=["factors"], responses={code: RESPONSES[code] for code in (400, 401, 403, 404, 413, 429)})


@router.post("/v1/factors/train", status_code=202, summary="Train a factor from texts")
def train(request: Request, caller: Admin, body: TrainRequest) -> TrainingProgress:
    """Learn a head from texts with and without an attribute; ask for its progress by the id in the answer."""
    stores: Stores = request.app.state.stores
    workshop: Workshop = request.app.state.workshop
    if body.name in RESERVED:
        raise InputError(f"a factor cannot be named {body.name!r}, which has a meaning in paths; choose another name")
    texts = ((body.positive, True), (body.negative, False))
    examples = [Example(text.strip(), is_positive) for group, is_positive in texts for text in group if text.strip()]
    split(examples)  # complain before anything waits
    with stores.changing(caller.tenant) as store:
        store.check_name(body.name, replace=body.replace)
        stores.check_room(caller.tenant, body.name)

    def work(lm: CausalLM, report: Report) -> dict[str, Any]:
        return _trained(lm, stores, caller.tenant, body, examples, report)

    return TrainingProgress.of(workshop.train(caller.tenant, body.name, work))


@router.get(
    "/v1/factors/train/{id}",
    summary="How far a training is",
    response_model=TrainingProgress,
    responses={200: {"content": {"text/event-stream": {}}, "description": "Now, or as events until it has ended."}},
)
async def watch(request: Request, caller: Admin, id: Number) -> TrainingProgress | Response:
    """Its progress as JSON; with `Accept: text/event-stream`, an event at each change until it has ended."""
    workshop: Workshop = request.app.state.workshop
    training = workshop.training(caller.tenant, id)
    if "text/event-stream" in request.headers.get("accept", ""):
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
        return StreamingResponse(_events(training), media_type="text/event-stream", headers=headers)
    return TrainingProgress.of(training)


@router.delete("/v1/factors/train/{id}", summary="Stop a training")
def stop(request: Request, caller: Admin, id: Number) -> TrainingProgress:
    """Stop it at its next step; one that has ended stays as it is."""
    workshop: Workshop = request.app.state.workshop
    training = workshop.training(caller.tenant, id)
    training.cancel()
    return TrainingProgress.of(training)


async def _events(training: Training) -> AsyncIterator[str]:
    last, told = None, time.monotonic()
    while True:
        has_ended, now = training.has_ended, training.progress
        if now is not last:
            last, told = now, time.monotonic()
            yield f"data: {TrainingProgress.of(training).model_dump_json()}\n\n"
        elif time.monotonic() - told > ALIVE_S:
            told = time.monotonic()
            yield ": still here\n\n"
        if has_ended:
            return
        await asyncio.sleep(LOOK_S)


def _trained(
    lm: CausalLM, stores: Stores, tenant: str, body: TrainRequest, examples: list[Example], report: Report
) -> dict[str, Any]:
    """Train, save, and say what came of it."""
    from factorlm.factors.store import Store
    from factorlm.factors.training import Description, train_head
    from factorlm.factors.versions import supersede

    about = Description(
        name=body.name,
        description=body.description,
        label=body.label,
        licence=body.licence,
        sources=(("texts of the user", body.licence, ""),),
    )
    trained = train_head(lm, examples, about, seed=body.seed, report=report)
    with stores.changing(tenant) as store:
        save = supersede if body.replace else Store.save  # what it replaces is kept
        save(store, trained.manifest, trained.tensors)
    calibration = trained.manifest.calibration
    return {
        "name": body.name,
        "version": trained.manifest.version,
        "auc": calibration.dev_auc if calibration else None,
        "seconds": round(sum(trained.seconds.values()), 2),
    }
