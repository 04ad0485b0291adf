"""Work on factors beside the serving of texts, one piece at a time: training, edits and correlations."""

from __future__ import annotations

import logging
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from factorlm.errors import FactorlmError
from factorlm.serving.complaints import RefusedError
from factorlm.serving.jobs import OverloadedError

if TYPE_CHECKING:
    from factorlm.models import CausalLM
    from factorlm.models.progress import Report

MOST_WAITING = 8  # pieces of work, the one in hand among them
MOST_WAITING_OF_TENANT = 2  # trainings
MOST_REMEMBERED = 256  # trainings
RETRY_S = 5.0

State = Literal["waiting", "running", "done", "failed", "cancelled"]
ENDED: tuple[State, ...] = ("done", "failed", "cancelled")
Result = TypeVar("Result")

log = logging.getLogger("factorlm.serving")


@dataclass(frozen=True)
class Progress:
    """How far a training is.

    Attributes:
        state: of it.
        stage: what is being done.
        done: of that, so much.
        total: of so much.
        message: why it failed.
        result: what came of it.
    """

    state: State = "waiting"
    stage: str = ""
    done: int = 0
    total: int = 0
    message: str = ""
    result: dict[str, Any] | None = None


@dataclass
class Training:
    """One training of a tenant.

    Attributes:
        id: by which it is asked for.
        tenant: that asks.
        name: of the factor.
        progress: how far it is; replaced as a whole, so that any thread may look.
    """

    id: str
    tenant: str
    name: str
    progress: Progress = Progress()
    _is_cancelled: threading.Event = field(default_factory=threading.Event)

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will come of it."""
        return self.progress.state in ENDED

    def cancel(self) -> None:
        """Stop it at its next step; one that has ended stays as it is."""
        self._is_cancelled.set()

    def report(self, stage: str, done: int, total: int) -> None:
        """As `models.progress.Report`.

        Raises:
            CancelledError: if somebody does not want it any more.
        """
        self.progress = replace(self.progress, state="running", stage=stage, done=done, total=total)
        if self._is_cancelled.is_set():
            raise CancelledError


class Workshop:
    """One worker with a model; what it has no room for is refused at once.

    Args:
        make_lm: gives the model, when it is first needed; nobody else runs it.
    """

    def __init__(self, make_lm: Callable[[], CausalLM]) -> None:
        self._make_lm = make_lm
        self._lm: CausalLM | None = None
        self._making, self._guard = threading.Lock(), threading.Lock()
        self._num_waiting = 0
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="factorlm-workshop")
        self._trainings: OrderedDict[str, Training] = OrderedDict()

    @property
    def lm(self) -> CausalLM:
        """The model; outside the worker, only what is known of it may be asked."""
        with self._making:
            if self._lm is None:
                self._lm = self._make_lm()
            return self._lm

    def submit(self, work: Callable[[CausalLM], Result]) -> Future[Result]:
        """Have something done.

        Raises:
            OverloadedError: if too much is waiting.
        """
        with self._guard:
            if self._num_waiting >= MOST_WAITING:
                raise OverloadedError(f"{self._num_waiting} pieces of work on factors are waiting; try again", RETRY_S)
            try:
                future = self._worker.submit(lambda: work(self.lm))
            except RuntimeError:  # shut down
                raise OverloadedError("the server is stopping; try again", RETRY_S) from None
            self._num_waiting += 1
        future.add_done_callback(self._one_less)
        return future

    def train(self, tenant: str, name: str, work: Callable[[CausalLM, Report], dict[str, Any]]) -> Training:
        """Begin a training.

        Args:
            tenant: whose it is.
            name: of the factor.
            work: does it, and says what came of it.

        Raises:
            OverloadedError: if too much is waiting.
        """
        training = Training(secrets.token_hex(12), tenant, name)
        with self._guard:
            num_mine = sum(t.tenant == tenant and not t.has_ended for t in self._trainings.values())
        if num_mine >= MOST_WAITING_OF_TENANT:
            raise OverloadedError(f"{num_mine} trainings of yours have not ended; wait for one or cancel it", RETRY_S)
        self.submit(lambda lm: _run(training, lm, work))
        with self._guard:
            self._trainings[training.id] = training
            for old in [t.id for t in self._trainings.values() if t.has_ended]:
                if len(self._trainings) <= MOST_REMEMBERED:
                    break
                del self._trainings[old]
        return training

    def training(self, tenant: str, number: str) -> Training:
        """A training of a tenant.

        Raises:
            RefusedError: 404 if it has none of this id.
        """
        with self._guard:
            found = self._trainings.get(number)
        if found is None or found.tenant != tenant:
            raise RefusedError(404, f"there is no training {number[:40]!r} of yours; old ones are forgotten")
        return found

    def close(self) -> None:
        """Take nothing more, and stop what is being done at its next step."""
        self._worker.shutdown(wait=False, cancel_futures=True)
        with self._guard:
            for training in self._trainings.values():
                training.cancel()
                if training.progress.state == "waiting":
                    training.progress = replace(training.progress, state="cancelled")

    def _one_less(self, future: Future[Any]) -> None:
        with self._guard:
            self._num_waiting -= 1


def _run(training: Training, lm: CausalLM, work: Callable[[CausalLM, Report], dict[str, Any]]) -> None:
    def ended(state: State, message: str = "", result: dict[str, Any] | None = None) -> None:
        training.progress = replace(training.progress, state=state, message=message, result=result)

    try:
        training.report("beginning", 0, 1)
        ended("done", result=work(lm, training.report))
    except CancelledError:
        ended("cancelled", "it was cancelled")
    except FactorlmError as error:
        ended("failed", " ".join(str(error).split()))
    except Exception as error:
        log.error("a training failed: %s", type(error).__name__, exc_info=error)
        ended("failed", "something went wrong in the server; its log has more")
