"""One job of an engine, as whoever asked for it sees it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable

from factorlm.inference.writing import Writing
from factorlm.serving.jobs import Job, Piece


class Ticket(AsyncIterator[Piece]):
    """The tokens of one job as they come; closing it frees its places at once.

    Args:
        job: what is written.
        begin: called before the first token is waited for.
        stop: called once, when nothing more is taken of it.
        arrive: called when it has begun or never will; see jobs.Engine.expect.

    Attributes:
        writings: its texts in the batcher.
        num_coming: texts that are not in the batcher's queue yet.
        is_closed: whether nothing more is taken of it.
    """

    def __init__(
        self,
        job: Job,
        begin: Callable[[Ticket], Awaitable[None]],
        stop: Callable[[Ticket], None],
        arrive: Callable[[], None],
    ) -> None:
        self.job = job
        self.writings: list[Writing] = []
        self.num_coming = len(job.prompts) * job.n
        self.is_closed = False
        self._begin, self._stop, self._arrive = begin, stop, arrive
        self._arrived: asyncio.Queue[list[Piece] | Exception | None] = asyncio.Queue()
        self._ready: deque[Piece] = deque()
        self._unfinished = self.num_coming
        self._is_begun = False

    async def __anext__(self) -> Piece:
        if self.is_closed:
            raise StopAsyncIteration
        if not self._is_begun:
            self._is_begun = True
            try:
                await self._begin(self)
            except BaseException:
                await self.aclose()
                raise
            self._arrive()
        while not self._ready:
            if self._unfinished <= 0:
                await self.aclose()
                raise StopAsyncIteration
            try:
                found = await self._arrived.get()
            except asyncio.CancelledError:
                await self.aclose()
                raise
            if isinstance(found, Exception):
                await self.aclose()
                raise found
            self._ready.extend(found or ())
        piece = self._ready.popleft()
        self._unfinished -= bool(piece.finish_reason)
        return piece

    async def aclose(self) -> None:
        """Take nothing more of it; what is not written yet is not written."""
        if not self.is_closed:
            self.is_closed = True
            self._arrive()
            self._stop(self)

    def put(self, found: list[Piece] | Exception) -> None:
        """Give what came; from the thread of the event loop."""
        self._arrived.put_nowait(found)
