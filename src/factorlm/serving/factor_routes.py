"""Routes of factors: lists, cards, uploads, edits, versions, deletion, dose and response, correlations."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from factorlm.errors import FactorlmError, InputError
from factorlm.factors.manifest import NAME_PATTERN
from factorlm.factors.seal import digest_of
from factorlm.factors.versions import kept_versions, undo
from factorlm.serving.complaints import RESPONSES
from factorlm.serving.factor_schemas import (
    MOST_COMPARED,
    Correlations,
    DoseResponse,
    EditedFactor,
    EditRequest,
    FactorLine,
    FactorList,
    FactorVersion,
    FactorVersions,
    Removed,
    Uploaded,
)
from factorlm.serving.keys import Caller
from factorlm.serving.rates import counted
from factorlm.serving.stores import Found, Stores
from factorlm.serving.uploads import PARTS, keep_upload, read_parts
from factorlm.serving.workshop import Workshop

if TYPE_CHECKING:
    from factorlm.factors.head import EncoderCard
    from factorlm.models import CausalLM

COMPARED_KINDS = ("head", "lexicon")

Result = TypeVar("Result")
Reader = Annotated[Caller, Depends(counted("read"))]
Generator = Annotated[Caller, Depends(counted("generate"))]
Admin = Annotated[Caller, Depends(counted("admin"))]
Name = Annotated[str, Path(pattern=NAME_PATTERN, description="Name of a factor.")]

router = APIRouter(tags=["factors"], responses={code: RESPONSES[code] for code in (400, 401, 403, 404, 413, 429)})


@router.get("/v1/factors", summary="List factors")
def list_factors(request: Request, caller: Reader) -> FactorList:
    """Every factor that can be named in a request: your own, then those of the server."""
    try:
        served = _encoder(request)
    except FactorlmError:  # a list needs no model
        served = None
    return FactorList(data=[_line(found, served) for found in _stores(request).factors(caller.tenant)])


@router.get("/v1/factors/correlations", summary="How factors depend on each other")
async def correlations(
    request: Request,
    caller: Generator,
    names: Annotated[str, Query(description="Names of factors, with commas.", max_length=65 * MOST_COMPARED)],
) -> Correlations:
    """Correlations of heads and lexica at the next token, under the base."""
    chosen = [name.strip() for name in names.split(",") if name.strip()]
    if not 2 <= len(chosen) <= MOST_COMPARED or len(set(chosen)) < len(chosen):
        raise InputError(f"2 to {MOST_COMPARED} different factors are compared, got {len(chosen)}: {names[:80]!r}")
    stores = _stores(request)
    found = [await run_in_threadpool(stores.find, caller.tenant, name) for name in chosen]
    for one in found:
        if one.manifest.kind not in COMPARED_KINDS:
            raise InputError(f"heads and lexica are compared here, got {one.name}, a {one.manifest.kind}; leave it out")
    return await _worked(request, caller, lambda lm: _correlations(lm, found))


@router.get("/v1/factors/{name}", summary="The card of a factor")
def card(request: Request, caller: Reader, name: Name) -> dict[str, Any]:
    """Everything that its factor.json says, with its kind and its owner."""
    stores = _stores(request)
    found = stores.find(caller.tenant, name)
    with stores.told(caller.tenant):
        return {**found.manifest.model_dump(mode="json"), "kind": found.manifest.kind, "owner": found.owner}


@router.put(
    "/v1/factors/{name}",
    summary="Upload a factor",
    responses={
        200: {"description": "It took the place of a version, which is kept; or nothing had to be changed."},
        201: {"model": Uploaded, "description": "There was none of your own of this name."},
        415: {**RESPONSES[400], "description": "Another kind of body is needed."},
    },
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {
                    "schema": {
                        "type": "object",
                        "required": [PARTS[0]],
                        "properties": {
                            part: {"type": "string", "contentMediaType": "application/octet-stream"} for part in PARTS
                        },
                        "additionalProperties": False,
                    }
                }
            },
        }
    },
)
async def upload(request: Request, caller: Admin, name: Name, response: Response) -> Uploaded:
    """Keep a factor: its factor.json and, for a head, its weights.safetensors, as files of these names."""
    stores = _stores(request)
    parts = await read_parts(request.headers, request.stream(), stores.settings.limits.upload_bytes)
    try:
        files = {part: file.file for part, file in parts.items()}
        kept = await run_in_threadpool(keep_upload, stores, caller.tenant, name, files, lambda: _encoder(request))
    finally:
        for file in parts.values():
            await file.close()
    if kept.is_new:
        response.status_code = 201
    return Uploaded(
        name=kept.manifest.name,
        version=kept.manifest.version,
        kind=kept.manifest.kind,
        sha256=kept.sha256,
        version_before=kept.before,
    )


@router.post("/v1/factors/{name}/edit", summary="Edit a factor, or take an edit back")
async def edit(request: Request, caller: Admin, name: Name, body: EditRequest) -> EditedFactor:
    """Change what a factor does to some words. One of the server's is copied into your own store first."""
    stores = _stores(request)
    if body.undo:
        return await run_in_threadpool(_undone, stores, caller.tenant, name)
    found = await run_in_threadpool(stores.find, caller.tenant, name)
    return await _worked(request, caller, lambda lm: _edited(lm, stores, caller.tenant, found, body))


@router.get("/v1/factors/{name}/versions", summary="Versions of a factor")
def versions(request: Request, caller: Reader, name: Name) -> FactorVersions:
    """What was superseded by edits and uploads, and is kept, and what the name means now."""
    stores = _stores(request)
    found = stores.find(caller.tenant, name)
    with stores.told(caller.tenant):
        kept = kept_versions(stores.own(caller.tenant), name) if found.is_own else {}
        lines = [
            FactorVersion(version=version.partition("+")[0], sha256=digest_of(folder), is_current=False)
            for version, folder in kept.items()
        ]
        now = FactorVersion(version=found.manifest.version, sha256=digest_of(found.folder), is_current=True)
        lines = [line for line in lines if (line.version, line.sha256) != (now.version, now.sha256)]
        return FactorVersions(
            name=name, owner=found.owner, versions=[*lines, now], changes=list(found.manifest.changes)
        )


@router.delete("/v1/factors/{name}", summary="Delete a factor")
def remove(request: Request, caller: Admin, name: Name) -> Removed:
    """Delete one of your own, with every version of it that was kept."""
    stores = _stores(request)
    with stores.changing(caller.tenant) as store:
        stores.find_own(caller.tenant, name)
        store.remove(name)
    return Removed(name=name)


@router.get("/v1/factors/{name}/response", summary="Dose and response of a factor")
def dose_response(request: Request, caller: Reader, name: Name) -> DoseResponse:
    """What it does to texts at each strength, as its card has it, and the exponents of strengths."""
    stores = _stores(request)
    with stores.told(caller.tenant):
        manifest = stores.find(caller.tenant, name).manifest
    points = manifest.strengths.points if manifest.strengths else ()
    return DoseResponse(name=name, response=manifest.response, strengths=list(points))


def _line(found: Found, served: EncoderCard | None) -> FactorLine:
    known: dict[str, Any] = {"id": found.name, "name": found.name, "owner": found.owner}
    card = found.card
    if isinstance(card, Exception):
        return FactorLine(**known, problem=str(card), fits=False)
    ends = [strength for strength, _ in card.strengths.points] if card.strengths else []
    return FactorLine(
        **known,
        version=card.version,
        kind=card.kind,
        description=card.description,
        label=card.label,
        licence=card.licence,
        encoder=card.encoder.fingerprint if card.encoder else None,
        fits=card.encoder is None or served is None or card.encoder.fingerprint == served.fingerprint,
        strengths=(ends[0], ends[-1]) if ends else None,
        has_response=card.response is not None,
    )


def _edited(lm: CausalLM, stores: Stores, tenant: str, found: Found, body: EditRequest) -> EditedFactor:
    from factorlm.factors import editing
    from factorlm.factors.word_effect import word_effect

    with stores.told(tenant):
        done = editing.edit(
            lm,
            str(found.folder.absolute()),
            allow=body.allow,
            forbid=body.forbid,
            boost=body.boost,
            strength=body.strength,
            own=stores.own(tenant),
        )
        effect = word_effect(lm, done, body.context, strength=body.strength)
        with stores.changing(tenant) as store:
            stores.check_room(tenant, found.name)
            done.save(store)
    return EditedFactor(
        name=done.manifest.name,
        kind=done.manifest.kind,
        version=done.manifest.version,
        version_before=done.before.version,
        change=done.manifest.changes[-1].what,
        strength=effect.strength,
        effect=[asdict(row) for row in effect.rows],
        pushes={word: [{**asdict(p), "tokens": list(p.tokens)} for p in ways] for word, ways in done.pushes.items()},
        collateral=asdict(done.collateral) if done.collateral else None,
        notes=list(done.notes),
    )


def _undone(stores: Stores, tenant: str, name: str) -> EditedFactor:
    with stores.changing(tenant) as store:
        stores.find_own(tenant, name)
        done = undo(name, store)
        return EditedFactor(
            name=done.name,
            kind=done.manifest.kind,
            version=done.manifest.version,
            version_before=done.before,
            change=done.change.what,
            undone=True,
            owner=stores.find(tenant, name).owner,
        )


def _correlations(lm: CausalLM, found: list[Found]) -> Correlations:
    from factorlm.factors.dependence import correlation_of, effective_number, warnings_for
    from factorlm.factors.named import factor
    from factorlm.factors.potentials import Potentials

    bound = tuple(factor(str(one.folder.absolute())).bind(lm) for one in found)
    covariance_KK = Potentials(lm, bound).moments().covariance_KK
    correlation_KK = correlation_of(covariance_KK)
    names = [one.name for one in found]
    return Correlations(
        names=names,
        correlation=[[None if math.isnan(value) else value for value in row] for row in correlation_KK.tolist()],
        deviation=covariance_KK.diagonal().clamp(min=0).sqrt().tolist(),
        effective_number=effective_number(correlation_KK),
        warnings=warnings_for(names, correlation_KK, [1.0] * len(names)),
    )


async def _worked(request: Request, caller: Caller, work: Callable[[CausalLM], Result]) -> Result:
    """What the workshop makes of it; given up if nobody waits for it any more and it has not begun."""
    workshop: Workshop = request.app.state.workshop
    with _stores(request).told(caller.tenant):
        return await asyncio.wrap_future(workshop.submit(work))


def _stores(request: Request) -> Stores:
    found: Stores = request.app.state.stores
    return found


def _encoder(request: Request) -> EncoderCard:
    """The card of the served model, for which heads must be made.

    Raises:
        InputError: if the engine keeps its model elsewhere.
    """
    from factorlm.factors.head import EncoderCard

    workshop: Workshop = request.app.state.workshop
    lm = workshop.lm
    return EncoderCard(name=lm.name, fingerprint=lm.fingerprint, width=lm.width)
