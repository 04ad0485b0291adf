"""Answers that are sent while they are written, and what happens when nobody waits for them any more."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any, Protocol

from pydantic import BaseModel
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from factorlm.errors import FactorlmError
from factorlm.serving.answers import Answer
from factorlm.serving.complaints import RefusedError, as_object, complaint_of, log
from factorlm.serving.jobs import Piece


class Account(Protocol):
    """Who is told how an answer comes about: the log, the numbers of the server, the rates of keys."""

    def note(self, piece: Piece) -> None:
        """A token came."""

    def close(self, answer: Answer, how: str) -> None:
        """Nothing more comes: all is "done", the client is "gone", it is "late", or it "failed"."""


class ClientGoneError(RefusedError):
    """Nobody waits for the answer any more; the status is for the log."""

    def __init__(self) -> None:
        super().__init__(499, "the client has gone")


@asynccontextmanager
async def attended(receive: Receive, timeout_s: float) -> AsyncIterator[None]:
    """The block is cancelled at once when the client goes or the time is over.

    Args:
        receive: of a request whose body was read.
        timeout_s: seconds that the block may take.

    Raises:
        ClientGoneError: if the client has gone.
        RefusedError: with status 504, if the time is over.
    """
    block, is_gone = asyncio.current_task(), False
    assert block is not None

    async def watch() -> None:
        nonlocal is_gone
        while (await receive())["type"] != "http.disconnect":
            pass
        is_gone = True
        block.cancel()

    watcher = asyncio.create_task(watch())
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except asyncio.CancelledError:
        if not is_gone:
            raise
        block.uncancel()
        raise ClientGoneError from None
    except TimeoutError:
        message = f"the answer took more than {timeout_s:g} s; ask for fewer tokens or try again later"
        raise RefusedError(504, message, code="timeout") from None
    finally:
        watcher.cancel()


class Pieces:
    """The tokens of an answer, from the engine until somebody stops asking for them."""

    def __init__(self, answer: Answer, drawn: AsyncIterator[Piece], timeout_s: float, account: Account) -> None:
        self.answer, self.timeout_s = answer, timeout_s
        self._drawn, self._account = drawn, account

    async def whole(self, receive: Receive) -> Answer:
        """The answer when all is written.

        Raises:
            ClientGoneError: if nobody waits for it any more; the engine's rows are free then.
            FactorlmError: if it could not be written.
        """
        async with self.watched(receive):
            async for piece in self:
                self.answer.add(piece)
        return self.answer

    def __aiter__(self) -> Pieces:
        return self

    async def __anext__(self) -> Piece:
        piece = await anext(self._drawn)
        self._account.note(piece)
        return piece

    @asynccontextmanager
    async def watched(self, receive: Receive) -> AsyncIterator[None]:
        """Within it tokens may be asked for; when it is left, in whatever way, the engine's rows are free."""
        how = "failed"
        try:
            async with attended(receive, self.timeout_s), aclosing(self._drawn):  # type: ignore[type-var]
                yield
            how = "done"
        except ClientGoneError:
            how = "gone"
            raise
        except RefusedError as error:
            how = "late" if error.status == 504 else how
            raise
        finally:
            self._account.close(self.answer, how)


class EventStream(Response):
    """Chunks as server-sent events. A complaint before the first token is an answer of its own, with its status."""

    media_type = "text/event-stream"

    def __init__(self, pieces: Pieces) -> None:
        super().__init__(headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self.pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        is_begun = False

        async def begin() -> None:
            nonlocal is_begun
            is_begun = True
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})

        async def write(event: BaseModel | dict[str, Any] | str) -> None:
            await send({"type": "http.response.body", "body": _event(event), "more_body": True})

        answer = self.pieces.answer
        try:
            async with self.pieces.watched(receive):
                async for piece in self.pieces:
                    if not is_begun:
                        await begin()
                        for opening in answer.opening():
                            await write(opening)
                    if (chunk := answer.chunk(piece)) is not None:
                        await write(chunk)
                if not is_begun:
                    await begin()
                for closing in answer.closing():
                    await write(closing)
                await write("[DONE]")
        except ClientGoneError:
            return
        except FactorlmError as error:
            if not is_begun:
                raise
            await write(json.loads(bytes(complaint_of(error, scope["app"].state.hidden).body)))
        except Exception as error:
            if not is_begun:
                raise
            log.error("a stream failed: %s", type(error).__name__, exc_info=error)
            await write(as_object(500, "something went wrong in the server; its log has more"))
        await send({"type": "http.response.body", "body": b"", "more_body": False})


def _event(event: BaseModel | dict[str, Any] | str) -> bytes:
    match event:
        case BaseModel():
            text = event.model_dump_json()
        case str():
            text = event
        case _:
            text = json.dumps(event)
    return f"data: {text}\n\n".encode()
