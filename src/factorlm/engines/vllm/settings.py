"""How vLLM is started."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from factorlm.engines.vllm.reading import STORES
from factorlm.errors import IncompatibleError
from factorlm.models.loading import DEFAULT_MODEL
from factorlm.settings import Config

PROCESSOR = "factorlm.engines.vllm.rows:FactorRows"
RUNNER = "VLLM_USE_V2_MODEL_RUNNER"
MOST_ALTERNATIVES = 20


class VllmSettings(Config):
    """What the engine is told once.

    Attributes:
        model: a model known by name, a folder, or a hub name that is in the cache.
        dtype: number format of the network.
        max_tokens: longest text, prompt included; 0 is what the model was made for.
        most_rows: texts written at once.
        most_waiting: texts that may wait for their turn.
        memory_share: of an accelerator's memory that vLLM may take.
        cache_gib: memory for keys and values where there is no accelerator.
        tensor_parallel: accelerators that share one model.
        eager: whether nothing is compiled before; None compiles where there is an accelerator.
        stores: folders of factor folders that worker processes read, * allowed; none takes the usual ones.
        more: further arguments of vLLM's engine, by their names.
    """

    model: str = DEFAULT_MODEL
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    max_tokens: Annotated[int, Field(ge=0)] = 0
    most_rows: Annotated[int, Field(ge=1)] = 64
    most_waiting: Annotated[int, Field(ge=0)] = 256
    memory_share: Annotated[float, Field(gt=0, le=1)] = 0.9
    cache_gib: Annotated[int, Field(ge=1)] = 2
    tensor_parallel: Annotated[int, Field(ge=1)] = 1
    eager: bool | None = None
    stores: tuple[str, ...] = ()
    more: dict[str, Any] = Field(default_factory=dict)

    def prepare(self) -> None:
        """Set what worker processes find in their environment.

        Raises:
            IncompatibleError: if the environment asks for what we cannot work with.
        """
        if os.environ.get(RUNNER) == "1":
            raise IncompatibleError(f"factors need vLLM's first model runner, got {RUNNER}=1; unset it")
        if self.more.get("speculative_config") is not None:
            raise IncompatibleError("factors do not go with speculative decoding in vLLM; leave speculative_config out")
        os.environ[RUNNER] = "0"
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", str(self.cache_gib))
        os.environ.setdefault("VLLM_WORKER_MULTIPROCESSING_METHOD", "spawn")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        if self.stores:
            os.environ[STORES] = os.pathsep.join(self.stores)

    def arguments(self, folder: Path, max_tokens: int) -> dict[str, Any]:
        """Of vLLM's engine."""
        from vllm.platforms import current_platform

        return {
            "model": str(folder),
            "dtype": self.dtype,
            "max_model_len": max_tokens,
            "max_num_seqs": self.most_rows,
            "gpu_memory_utilization": self.memory_share,
            "tensor_parallel_size": self.tensor_parallel,
            "enforce_eager": current_platform.is_cpu() if self.eager is None else self.eager,
            "async_scheduling": False,  # lexica must know the last token where log probabilities are taken
            "logits_processors": [PROCESSOR],
            "logprobs_mode": "raw_logprobs",  # of the composition: untruncated, at temperature one
            "max_logprobs": MOST_ALTERNATIVES,
            "structured_outputs_config": {"backend": "guidance"},
            "enable_log_requests": False,
            "disable_log_stats": True,
            **self.more,
        }
