"""The texts of one job, as vLLM writes them."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

from factorlm.errors import FactorlmError, IncompatibleError

if TYPE_CHECKING:
    from factorlm.engines.vllm.engine import VllmEngine
    from factorlm.serving.jobs import Job, Piece


class Ticket(AsyncIterator["Piece"]):
    """The tokens of one job as they come; closing it frees its places at once."""

    def __init__(self, engine: VllmEngine, job: Job) -> None:
        self.job, self.is_closed = job, False
        self._engine = engine
        self._arrived: asyncio.Queue[Piece | Exception] = asyncio.Queue()
        self._unfinished = len(job.prompts) * job.n
        self._tasks: list[asyncio.Task[None]] = []
        engine.num_rows += self._unfinished
        engine._tickets.add(self)

    async def __anext__(self) -> Piece:
        if self.is_closed:
            raise StopAsyncIteration
        if not self._tasks:
            self._begin()
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
        self._unfinished -= bool(found.finish_reason)
        return found

    async def aclose(self) -> None:
        """Take nothing more of it; what is not written yet is not written."""
        if self.is_closed:
            return
        self.is_closed = True
        self._engine._tickets.discard(self)
        if not self._tasks:
            self._engine.num_rows -= len(self.job.prompts) * self.job.n
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def fail(self, error: Exception) -> None:
        """Have whoever reads it hear this next."""
        self._arrived.put_nowait(error)
        for task in self._tasks:
            task.cancel()

    def _begin(self) -> None:
        for number, prompt_ids in enumerate(self.job.prompts):
            for sample in range(self.job.n):
                writing = self._write(number * self.job.n + sample, prompt_ids, sample)
                self._tasks.append(asyncio.ensure_future(writing))

    async def _write(self, number: int, prompt_ids: Sequence[int], sample: int) -> None:
        from vllm.inputs.engine import tokens_input

        engine, job = self._engine, self.job
        row = engine.row(prompt_ids, job.sampling.stop)
        try:
            written = engine.llm.generate(
                tokens_input(list(prompt_ids)), engine.parameters(job, prompt_ids, sample), uuid.uuid4().hex
            )
            engine.num_read += len(prompt_ids)
            try:
                async for output in written:
                    (part,) = output.outputs
                    for token, position in zip(part.token_ids, part.logprobs or (), strict=True):
                        self._arrived.put_nowait(engine.take(job, row, number, token, position))
                        if row.finish_reason:
                            return
            finally:
                await written.aclose()
            raise IncompatibleError("vLLM ended a text without an end token; this is a bug: report it with the request")
        except Exception as error:
            self._arrived.put_nowait(_plain(error))
        finally:
            engine.num_rows -= 1


def _plain(error: Exception) -> Exception:
    """What a client may be told of: our complaints as they are, anything else by its kind."""
    if isinstance(error, FactorlmError):
        return error
    return RuntimeError(f"writing failed: {type(error).__name__}")
