"""The engine of one process: a thread writes all texts in one running batch, another what is written as a whole."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from factorlm.errors import FactorlmError, InputError
from factorlm.factors import bind, factor
from factorlm.factors.strength import StrengthMap
from factorlm.inference import Model, Score
from factorlm.inference.continuous import Batcher
from factorlm.inference.draw import generator_of
from factorlm.inference.local import Row
from factorlm.inference.shared_batch import Member
from factorlm.inference.strengths import strength_map
from factorlm.inference.writing import Drawn, Writing
from factorlm.models import CausalLM
from factorlm.serving.composition import Composer, over
from factorlm.serving.jobs import Job, OverloadedError, Piece, Recipe
from factorlm.serving.ticket import Ticket
from factorlm.serving.wholes import Cancelled, written_whole
from factorlm.text import TextStream

LEAST_WAIT_S, MOST_WAIT_S = 1.0, 30.0  # after which it is worth asking again
WHOLE_WAITING = 16  # jobs written as a whole that may wait
GATHER_S = 0.1  # that an idle engine waits at most for requests that come at the same moment


class LocalEngine:
    """See the head of this file and `jobs.Engine`.

    Args:
        served: the composition that requests put their factors onto.
        model_id: its name.
        most_rows: texts written at once.
        most_waiting: texts that may wait for their turn.
        most_places: see Batcher; 0 takes what fits into 2 GiB.
    """

    def __init__(
        self,
        served: Model,
        *,
        model_id: str,
        most_rows: int = 64,
        most_waiting: int = 256,
        most_places: int = 0,
    ) -> None:
        self.lm: CausalLM = served.lm
        self._id = model_id
        self._most_waiting = most_waiting
        self._batcher = Batcher(self.lm, most_rows=most_rows, most_places=most_places)
        self._composer = Composer(served)
        self._beside = Composer(over(served, self.lm.twin()))  # of the thread that writes texts as a whole
        self._measured = self.lm.twin()  # of whoever asks what a strength is
        self._composing, self._measuring = threading.Lock(), threading.Lock()
        self._tokenizing = threading.Lock()  # a tokenizer must not be used from two threads at once
        self._tickets: set[Ticket] = set()
        self._owners: dict[int, tuple[Ticket, int]] = {}  # of writings by id: whose, and number of its first text
        self._wake = threading.Condition()
        self._commands: deque[Callable[[], None]] = deque()
        self._coming: dict[object, float] = {}  # requests on their way to the queue, and since when
        self._is_stopping = self._is_closing = False
        self._thread: threading.Thread | None = None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="factorlm-whole")
        self._num_whole = 0
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def model_id(self) -> str:
        """Name of the served model."""
        return self._id

    @property
    def max_tokens(self) -> int:
        """Longest text, prompt included, in tokens."""
        return min(self.lm.max_tokens, self._batcher.most_places)

    def encode(self, text: str) -> list[int]:
        """Token ids of a prompt, a start token included."""
        if not text:
            raise InputError("a prompt of at least one character is needed, got an empty one")
        with self._tokenizing:
            return [*self.lm.start_ids, *self.lm.encode_text(text)]

    def encode_chat(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Token ids of a conversation that the model is to go on with."""
        if not messages:
            raise InputError("at least one message is needed, got none")
        with self._tokenizing:
            return self.lm.encode_turns(messages)

    def strengths(self, folder: Path) -> StrengthMap:
        """See jobs.Engine."""
        with self._measuring:
            return strength_map(self._measured, bind(factor(str(folder)), self._measured))

    def check(self, job: Job) -> None:
        """See jobs.Engine."""
        longest = max(map(len, job.prompts), default=0) + job.max_tokens
        if longest > self.max_tokens:
            raise InputError(
                f"{self._id} reads at most {self.max_tokens} tokens, got {longest} with those to be written; shorten "
                "the prompt or ask for fewer"
            )
        if job.max_tokens < 1 or job.n < 1 or not job.prompts:
            raise InputError("at least one text of at least one token is needed; ask for more")
        if job.recipe.guides and (job.particles is not None or job.recipe.prior is not None):
            raise InputError("guides continue a text with the local sampler and without a prior; leave out one of both")
        if job.recipe.prior is not None and job.recipe.prior[2] == "response" and job.particles is not None:
            raise InputError("a component of a prior writes with the local sampler; take mode bayes or blend")
        with self._composing:
            composer = self._composer
            model = composer.with_factors(composer.served, job.recipe)
            if job.recipe.language is not None:
                composer.language(*job.recipe.language)
        if self._is_live(job, model):
            for prompt in job.prompts:
                rows = [Row(list(prompt), generator_of(0, prompt, 0), TextStream()) for _ in range(job.n)]
                self._batcher.check(Writing(model.factor, rows, job.max_tokens))

    def expect(self) -> Callable[[], None]:
        """See jobs.Engine."""
        request = object()
        self._coming[request] = time.monotonic()

        def arrive() -> None:
            if self._coming.pop(request, None) is not None:
                with self._wake:
                    self._wake.notify()

        return arrive

    def submit(self, job: Job) -> Ticket:
        """See jobs.Engine."""
        load = self.load()
        if self._is_closing:
            raise OverloadedError("the server is shutting down; ask another one, or later", LEAST_WAIT_S)
        waiting = load["rows_waiting"] + len(job.prompts) * job.n
        free = max(0.0, self._batcher.most_rows - load["rows_active"])
        if waiting > self._most_waiting + free or self._num_whole >= WHOLE_WAITING:
            wait_s = min(MOST_WAIT_S, max(LEAST_WAIT_S, load["rows_waiting"] / max(1, self._batcher.most_rows)))
            raise OverloadedError(f"{load['rows_waiting']:.0f} texts are waiting already; ask again later", wait_s)
        ticket = Ticket(job, self._begin, self._stop_writing, self.expect())
        self._tickets.add(ticket)
        return ticket

    async def score(self, texts: Sequence[str], prompt: str, recipe: Recipe) -> list[Score]:
        """See jobs.Engine."""

        def work() -> list[Score]:
            return self._beside.compose(recipe, prompt).score(list(texts), prompt=prompt)

        return await self._in_the_pool(work)

    def load(self) -> dict[str, float]:
        """See jobs.Engine."""
        batcher = self._batcher
        return {
            "rows_active": float(batcher.num_rows),
            "rows_waiting": float(batcher.num_waiting + sum(ticket.num_coming for ticket in list(self._tickets))),
            "jobs_whole": float(self._num_whole),
            "tokens_drawn": float(batcher.num_drawn),
            "tokens_read": float(self.lm.num_tokens_read),
            "steps": float(batcher.num_steps),
        }

    async def start(self) -> None:
        """See jobs.Engine."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._write_on, name="factorlm-engine", daemon=True)
        self._thread.start()

    async def close(self, drain_s: float) -> None:
        """See jobs.Engine."""
        self._is_closing = True
        deadline = asyncio.get_running_loop().time() + drain_s
        while self._tickets and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.05)
        for ticket in list(self._tickets):
            ticket.put(OverloadedError("the server is shutting down; ask another one, or later", LEAST_WAIT_S))
        with self._wake:
            self._is_stopping = True
            self._wake.notify()
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, 10.0)
        self._pool.shutdown(wait=False, cancel_futures=True)

    # In the thread of the event loop

    def _is_live(self, job: Job, model: Model) -> bool:
        """Whether its texts can be told of token by token."""
        recipe = job.recipe
        if job.particles is not None or recipe.guides or (recipe.prior is not None and recipe.prior[2] == "response"):
            return False
        return not job.explain or Member.of(Writing(model.factor, [], 1), self.lm) is not None

    async def _begin(self, ticket: Ticket) -> None:
        """Compose what a job asks for, and put it into the queue."""
        job = ticket.job

        def compose() -> list[Model]:
            with self._composing:
                return [self._composer.compose(job.recipe, text) for text in job.prompt_texts]

        models = await asyncio.to_thread(compose)
        if ticket.is_closed:
            return
        if not all(self._is_live(job, model) for model in models):
            self._begin_whole(ticket)
            return
        for number, (model, prompt_ids) in enumerate(zip(models, job.prompts, strict=True)):
            rows = [
                Row(list(prompt_ids), generator_of(job.seed, prompt_ids, sample), TextStream(job.sampling.stop))
                for sample in range(job.n)
            ]
            writing = Writing(model.factor, rows, job.max_tokens, job.sampling, job.top, job.explain)
            self._batcher.check(writing)
            self._owners[id(writing)] = (ticket, number * job.n)
            ticket.writings.append(writing)
        self._command(lambda: self._add(ticket))

    def _begin_whole(self, ticket: Ticket) -> None:
        """Write its texts beside the running batch, and tell of them when they are whole."""
        ticket.num_coming = 0

        def stop_if_closed(*_: Any) -> None:
            if ticket.is_closed:
                raise Cancelled

        def work() -> None:
            try:
                stop_if_closed()
                for pieces in written_whole(self._beside, ticket.job, stop_if_closed):
                    self._post([(ticket, pieces)])
            except Cancelled:
                pass
            except Exception as error:
                self._post([(ticket, _plain(error))])

        asyncio.ensure_future(self._in_the_pool(work)).add_done_callback(lambda done: done.exception())

    async def _in_the_pool(self, work: Callable[[], Any]) -> Any:
        if self._num_whole >= WHOLE_WAITING:
            raise OverloadedError("too much is waiting; ask again later", LEAST_WAIT_S)
        self._num_whole += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        finally:
            self._num_whole -= 1

    def _stop_writing(self, ticket: Ticket) -> None:
        """Free the places of a ticket's texts before the next step."""
        self._tickets.discard(ticket)
        writings = [writing for writing in ticket.writings if not writing.is_done]
        for writing in ticket.writings:
            self._owners.pop(id(writing), None)
        if writings:
            self._command(lambda: self._cancel(writings))

    def _command(self, command: Callable[[], Any]) -> None:
        with self._wake:
            self._commands.append(command)
            self._wake.notify()

    def _deliver(self, found: Iterable[tuple[Ticket, list[Piece] | Exception]]) -> None:
        for ticket, pieces in found:
            ticket.put(pieces)

    # In the thread that writes

    def _add(self, ticket: Ticket) -> None:
        for writing in ticket.writings:
            self._batcher.add(writing)
        ticket.num_coming = 0

    def _cancel(self, writings: list[Writing]) -> None:
        for writing in writings:
            self._batcher.cancel(writing)

    def _write_on(self) -> None:
        has_held = False
        while True:
            with self._wake:
                while not self._commands and self._batcher.is_idle and not self._is_stopping:
                    self._wake.wait()
                if not self._batcher.num_rows:
                    self._wake.wait_for(lambda: self._is_stopping or not self._num_coming(), GATHER_S)
                if self._is_stopping:
                    return
                commands = list(self._commands)
                self._commands.clear()
            for command in commands:
                command()
            if not self._batcher.is_idle:
                has_held = bool(self._batcher.num_rows and self._num_coming() and not has_held)
                self._post(self._step(hold=has_held))

    def _num_coming(self) -> int:
        """Requests that will be in the queue in a moment: what comes together is read in one pass."""
        oldest = time.monotonic() - GATHER_S  # one that takes longer is waited for no more
        return sum(begun > oldest for begun in list(self._coming.values()))

    def _step(self, *, hold: bool) -> list[tuple[Ticket, list[Piece] | Exception]]:
        try:
            drawn = self._batcher.step(hold=hold)
        except Exception as error:  # ours; those of factors end only their own texts
            owners = {id(ticket): ticket for ticket, _ in list(self._owners.values())}
            self._batcher = Batcher(self.lm, most_rows=self._batcher.most_rows, most_places=self._batcher.most_places)
            return [(ticket, _plain(error)) for ticket in owners.values()]
        found: dict[int, tuple[Ticket, list[Piece]]] = {}
        failed: list[tuple[Ticket, list[Piece] | Exception]] = []
        for one in drawn:
            owner = self._owners.get(id(one.writing))
            if owner is None:  # closed meanwhile
                continue
            if one.row < 0:
                failed.append((owner[0], _plain(one.writing.error)))
            else:
                found.setdefault(id(owner[0]), (owner[0], []))[1].append(self._piece(one, owner[1]))
        return [*found.values(), *failed]

    def _post(self, found: Sequence[tuple[Ticket, list[Piece] | Exception]]) -> None:
        if found and self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is gone: nobody waits any more
                self._loop.call_soon_threadsafe(self._deliver, found)

    def _piece(self, drawn: Drawn, first_row: int) -> Piece:
        row, pushes = drawn.writing.rows[drawn.row], drawn.pushes
        told: dict[str, Any] = {}
        if pushes is not None:
            told = {
                "base_log_prob": pushes.base_log_prob,
                "pushes": tuple(pushes.contributions.items()),
                "normalizer": pushes.normalizer,
                "without": tuple(
                    (name, tuple((self._text(token), value) for token, value in shown))
                    for name, shown in pushes.without.items()
                ),
            }
        top = tuple((token, self._text(token), value) for token, value in drawn.top)
        return Piece(
            first_row + drawn.row, drawn.token, drawn.text, self._text(drawn.token), drawn.log_prob, top,
            finish_reason=row.finish_reason, **told,
        )  # fmt: skip

    def _text(self, token: int) -> str:
        return self.lm.vocabulary.token_bytes[token].decode("utf-8", errors="replace")


def _plain(error: Exception | None) -> Exception:
    """What a client may be told of: our complaints as they are, anything else by its kind."""
    if isinstance(error, FactorlmError):
        return error
    return RuntimeError(f"writing failed: {type(error).__name__}")
