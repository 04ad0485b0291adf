"""From vLLM's news of its batch to ours: which row wants which factors. Runs in the worker process.

Written against the logits processors of vLLM 0.32's first model runner: `update_state` before each forward pass.
"""

# Axes: B rows of the batch, V vocabulary.

from __future__ import annotations

import logging
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality

from factorlm.engines.vllm.batch import Batch, Row, row_of
from factorlm.engines.vllm.layer import await_model
from factorlm.engines.vllm.orders import read_orders, sha256_of
from factorlm.engines.vllm.reading import Reader, find, load
from factorlm.engines.vllm.served import Served
from factorlm.engines.vllm.versions import require_validated
from factorlm.errors import FactorlmError, IncompatibleError

log = logging.getLogger("vllm.factorlm")


class FactorRows(LogitsProcessor):
    """Keeps the table of rows; the steering itself is done by the logits layer.

    Give it to vLLM by name: `--logits-processors factorlm.engines.vllm.rows:FactorRows`.
    """

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        """Complain of a request before it is taken, in the front end's process.

        Raises:
            ValueError: naming the factor that cannot be had.
        """
        for order in read_orders(sampling_params.extra_args):
            try:
                folder = find(order)
                _check(folder, sha256_of(folder))
            except FactorlmError as error:
                raise ValueError(str(error)) from None

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        """Called by vLLM, before it builds the model.

        Raises:
            IncompatibleError: if factors could not be right under this configuration.
        """
        require_validated()
        if vllm_config.speculative_config is not None:
            raise IncompatibleError("factors do not go with speculative decoding in vLLM; serve without a draft")
        self._is_async = bool(vllm_config.scheduler_config.async_scheduling)
        self._batch = Batch(device, with_lexica=not self._is_async)
        self._reader = Reader(Served.of(vllm_config.model_config.model))
        await_model(self._batch)

    def is_argmax_invariant(self) -> bool:
        """No: lexica change the most probable token, and `apply` has to be called for greedy rows too."""
        return False

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow the batch; a step begins."""
        if batch_update is not None:
            self._batch.change(
                removed=batch_update.removed,
                added=[(place, self._row(*about)) for place, *about in batch_update.added],
                moved=[(a, b, how == MoveDirectionality.SWAP) for a, b, how in batch_update.moved],
                size=batch_update.batch_size,
            )
        self._batch.arm()

    def apply(self, logits: Tensor) -> Tensor:
        """Logits [B, V] as they are, for the layer did the work; lexica where tokens were not known to it in time.

        Raises:
            RuntimeError: if the layer did not do its work.
        """
        if self._batch.is_armed and self._batch.rows:
            raise RuntimeError("the logits layer that steers was not called in this step; this model cannot be steered")
        return self._batch.with_lexica_added(logits) if self._is_async else logits

    def _row(self, params: SamplingParams, prompt_ids: list[int] | None, output_ids: list[int]) -> Row | None:
        try:
            orders = read_orders(params.extra_args)
            parts = [(self._reader.part(order), order.exponent) for order in orders]
        except FactorlmError as error:  # the front end found nothing wrong: it sees other files than we do
            log.error("factorlm: a request gets nan for log probabilities: %s", error)
            return Row(is_broken=True)
        return row_of(parts, prompt_ids or [], output_ids) if parts else None


@lru_cache(maxsize=1024)
def _check(folder: Path, sha256: str) -> None:
    load(folder)
