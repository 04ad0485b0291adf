"""Shards scored on Ray: a pool of actors, each with the models in memory, over a data set of shards.

Ray Data hands out shards, restarts actors whose node is lost and gives their shards to others. A shard that was scored
twice has been written in one place with one content, and one whose receipt is there is not scored again, so a retry
does no harm.

Every node needs factorlm, the models and factors, and the folders of corpus and scores, at the same places.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from factorlm.engines.corpus_scorer import Scorer
from factorlm.engines.corpus_shards import Shard
from factorlm.errors import FactorlmError, InputError

if TYPE_CHECKING:
    from factorlm.engines.corpus import Told

MOST_BLOCKS = 10_000  # of the data set: what is told of, and given to another actor after a loss, at once
LENT = ("FACTORLM_", "HF_", "TRANSFORMERS_")  # beginnings of variables that actors take over from this process


@dataclass(frozen=True)
class RayEngine:
    """Scores shards on a Ray cluster, or on one that is made on this machine for the while.

    Attributes:
        address: of a running cluster; None takes the one of this process or of $RAY_ADDRESS, else makes one here.
        workers: actors; None takes as many as the cluster has cores or GPUs for, and more when it grows.
        cores: of each actor; where it has a GPU they are not reserved.
        gpus: of each actor, also a share of one.
    """

    address: str | None = None
    workers: int | None = None
    cores: int = 1
    gpus: float = 0.0

    @property
    def device(self) -> str:
        """A GPU where actors have one, or a share."""
        return "cuda" if self.gpus else "cpu"

    @property
    def asked_on(self) -> str:
        """This process only looks at the models."""
        return "cpu"

    def run(self, scorer: Scorer, shards: Sequence[Shard], told: Told) -> None:
        """Score these shards.

        Raises:
            InputError: if ray is not installed, or there is no such cluster, or it cannot do it.
        """
        with _cluster(self.address):
            self._run(scorer, shards, told)

    def _run(self, scorer: Scorer, shards: Sequence[Shard], told: Told) -> None:
        import ray

        num_blocks = min(len(shards), MOST_BLOCKS)
        rows = [{"shard": shard.model_dump_json(), "num_bytes": shard.num_bytes} for shard in shards]
        task = ray.data.from_items(rows, override_num_blocks=num_blocks).map_batches(
            ShardScorer,
            batch_size=1,
            compute=self._pool(num_blocks),
            num_cpus=None if self.gpus else self.cores,
            num_gpus=self.gpus or None,
            fn_constructor_args=(scorer, os.getcwd(), _lent(), self.cores),
        )
        try:
            for row in task.iter_rows():
                if row["complaint"]:
                    raise InputError(str(row["complaint"]))
                told(int(row["num_bytes"]))
        except ray.exceptions.RayError as error:
            raise InputError(f"the cluster could not go on: {_line(error)}; what is done stays, ask again") from error

    def _pool(self, num_blocks: int) -> Any:
        import ray

        if self.workers is not None:
            return ray.data.ActorPoolStrategy(size=min(self.workers, num_blocks))
        has = ray.cluster_resources()
        fits = int(has.get("GPU", 0) / self.gpus) if self.gpus else int(has.get("CPU", 0) / self.cores)
        if not fits:
            what = f"{self.gpus:g} GPUs" if self.gpus else f"{self.cores} cores"
            raise InputError(f"{what} are wanted for each worker, got a cluster without; take fewer, or --engine local")
        return ray.data.ActorPoolStrategy(min_size=min(fits, num_blocks), max_size=num_blocks)


class ShardScorer:
    """What an actor runs: the models are read once, then one shard after the other is scored."""

    def __init__(self, scorer: Scorer, folder: str, environment: dict[str, str], cores: int) -> None:
        os.environ.update(environment)
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        if os.path.isdir(folder):
            os.chdir(folder)  # names of folders in an expression may be relative
        import torch

        torch.set_num_threads(cores)
        self.scorer = scorer
        self.complaint = ""
        try:
            if scorer.device == "cuda" and not torch.cuda.is_available():
                raise InputError("a GPU is wanted for each worker, but torch finds none on a node; leave out --gpus")
            scorer.load()
        except FactorlmError as error:  # said in one line by whoever asked, rather than by Ray in fifty
            self.complaint = str(error)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Score the shards of a batch; a complaint ends the run."""
        complaints = [self._score(Shard.model_validate_json(str(text))) for text in batch["shard"]]
        return {"num_bytes": batch["num_bytes"], "complaint": complaints}

    def _score(self, shard: Shard) -> str:
        if self.complaint:
            return self.complaint
        try:
            self.scorer.score(shard)
        except FactorlmError as error:
            return str(error)
        except OSError as error:
            return f"{self.scorer.out} cannot be written: {error.strerror or error}; see to it, and ask again"
        return ""


@contextmanager
def _cluster(address: str | None) -> Iterator[None]:
    """A cluster that this process is joined to; one that was made here is ended."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "error")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # the device of the models is said
    try:
        import ray
        import ray.data
    except ImportError:
        raise InputError("ray is not installed; pip install 'factorlm[ray]', or take --engine local") from None
    was_joined = ray.is_initialized()
    if not was_joined:
        address = address or os.environ.get("RAY_ADDRESS")
        where: dict[str, Any] = {"address": address} if address else {"address": "local", "include_dashboard": False}
        try:
            ray.init(**where, logging_level=logging.ERROR, log_to_driver=False)
        except Exception as error:  # Ray raises all sorts, bare ones too
            raise InputError(
                f"no Ray cluster at {address or 'this machine'}: {_line(error)}; check the address, or leave it out"
            ) from None
    try:
        with _quiet(ray.data.DataContext.get_current()):
            yield
    finally:
        if not was_joined:
            ray.shutdown()


@contextmanager
def _quiet(context: Any) -> Iterator[None]:
    """Without the progress bars and reports of Ray Data: we have a bar of our own."""
    logger = logging.getLogger("ray.data")
    before, level = (context.enable_progress_bars, context.print_on_execution_start), logger.level
    context.enable_progress_bars = context.print_on_execution_start = False
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        context.enable_progress_bars, context.print_on_execution_start = before
        logger.setLevel(level)


def _lent() -> dict[str, str]:
    """No secrets: those are each machine's own."""
    return {name: value for name, value in os.environ.items() if name.startswith(LENT) and "TOKEN" not in name}


def _line(error: Exception) -> str:
    """What an error of Ray says, in its last line: the first ones are of its own stack."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__
