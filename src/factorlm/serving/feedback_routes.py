"""POST, GET and DELETE /v1/feedback. What was acknowledged is on the disk."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request

from factorlm.serving.complaints import RESPONSES
from factorlm.serving.database import Database
from factorlm.serving.feedback import (
    LARGEST,
    MOST_GIVEN,
    Deleted,
    FeedbackItem,
    FeedbackList,
    FeedbackRequest,
    Id,
    Kept,
)
from factorlm.serving.keys import Caller
from factorlm.serving.rates import counted

router = APIRouter(tags=["feedback"], responses={status: RESPONSES[status] for status in (400, 401, 403, 413, 429)})

Giver = Annotated[Caller, Depends(counted("generate"))]
Admin = Annotated[Caller, Depends(counted("admin"))]


@router.post("/v1/feedback", summary="Say what a response was worth")
def give(request: Request, caller: Giver, body: FeedbackRequest) -> Kept:
    """Keep a thumb, an edit or a comment; it is on the disk when this is answered."""
    return Kept(id=_database(request).add_feedback(body.of(caller.tenant)))


@router.get("/v1/feedback", summary="Read feedback")
def read(
    request: Request,
    caller: Admin,
    after: Annotated[int, Query(ge=0, le=LARGEST, description="Only what has a greater number.")] = 0,
    limit: Annotated[int, Query(ge=1, le=MOST_GIVEN)] = 100,
) -> FeedbackList:
    """What your tenant said, the oldest first."""
    found = _database(request).feedback(caller.tenant, after, limit + 1)
    is_more = len(found) > limit
    items = [FeedbackItem.of(one) for one in found[:limit]]
    return FeedbackList(data=items, after=items[-1].id if is_more else None)


@router.delete("/v1/feedback", summary="Forget feedback")
def forget(
    request: Request, caller: Admin, ids: Annotated[list[Id], Query(min_length=1, max_length=MOST_GIVEN)]
) -> Deleted:
    """Delete feedback of your tenant by its numbers; numbers that there are not are passed over."""
    return Deleted(deleted=_database(request).delete_feedback(ids, caller.tenant))


def _database(request: Request) -> Database:
    found: Database = request.app.state.database
    return found
