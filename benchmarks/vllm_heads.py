"""What factors cost inside vLLM: plain vLLM against vLLM with 32 heads on every request, in one run, turn by turn.

    $FACTORLM_VLLM_PYTHON benchmarks/vllm_heads.py [--rounds 7] [--smaller]

Two engines are started, each in a process of its own: one without our plug-in, one with it. Each round asks both for
the same texts, in an order that changes from round to round: plain; with the plug-in but no factors; with 32 heads of
rank 0, as the package ships them; with 32 heads of rank 16. Exponents differ from request to request. Every text has
the same number of tokens. A ratio is that of a round, tokens/s over plain tokens/s; its median over rounds is given.
Beside it stands the same ratio for tokens per second of processor time, all processes of an engine together, which
says more where the machine has other work.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import torch

from factorlm.engines.vllm.orders import Order, sha256_of, write_orders
from factorlm.engines.vllm.reading import STORES
from factorlm.engines.vllm.served import Served
from factorlm.engines.vllm.settings import PROCESSOR
from factorlm.engines.vllm.versions import installed_version
from factorlm.evaluation.provenance import commit, machine, versions
from factorlm.factors.head import EncoderCard
from factorlm.factors.manifest import HeadSettings, Manifest
from factorlm.factors.store import Store

RECORD = Path(__file__).resolve().parent / "records" / "vllm.json"
NUM_HEADS, RANK = 32, 16
BATCHES = (1, 8, 32)
KINDS = ("plain", "no factors", f"{NUM_HEADS} heads of rank 0", f"{NUM_HEADS} heads of rank {RANK}")
PROMPT = "The committee met in the old town hall on a rainy morning, and after a long debate it decided that"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--beside", default="", help="what else the machine was doing, for the record")
    parser.add_argument("--smaller", action="store_true", help="two rounds of 16 tokens: to see that it runs")
    wanted = parser.parse_args()
    rounds, tokens = (2, 16) if wanted.smaller else (wanted.rounds, wanted.tokens)
    with tempfile.TemporaryDirectory() as place:
        store = Store(Path(place))
        os.environ[STORES] = place
        served = Served.of(wanted.model)
        make_heads(store, served)
        engines = start(served)
        found = {str(size): measure(engines, store, served, size, rounds, tokens) for size in BATCHES}
    for size, by_kind in found.items():
        for kind, numbers in by_kind.items():
            print(
                f"batch {size:>2}  {kind:<22} {numbers['tokens_per_s']:7.1f} tokens/s  ratio {numbers['ratio']:.3f}  "
                f"of processor time {numbers['processor_ratio']:.3f}"
            )
    if not wanted.smaller:
        record = {
            "command": "python benchmarks/vllm_heads.py", "machine": machine(), "commit": commit(),
            "finished": datetime.now(UTC).isoformat(timespec="seconds"), "beside": wanted.beside,
            "versions": {**versions(), "vllm": installed_version()}, "rounds": rounds, "tokens": tokens,
            "batches": found,
        }  # fmt: skip
        RECORD.write_text(json.dumps(record, indent=1) + "\n")


def make_heads(store: Store, served: Served) -> None:
    """Random heads, small enough not to matter to the texts."""
    generator = torch.Generator().manual_seed(0)
    width = int(served.config.hidden_size)
    encoder = EncoderCard(name=served.name, fingerprint=served.fingerprint, width=width)
    for rank in (0, RANK):
        for n in range(NUM_HEADS):
            numbers = {
                "bias": 0.01 * torch.randn(width, generator=generator),
                "up": 0.01 * torch.randn(width, rank, generator=generator),
                "down": 0.01 * torch.randn(rank, width, generator=generator),
            }
            store.save(Manifest(name=f"r{rank}-{n}", settings=HeadSettings(rank=rank), encoder=encoder), numbers)


def start(served: Served) -> dict[bool, Any]:
    """Plain vLLM, and vLLM with our plug-in."""
    from vllm import LLM

    usual = {
        "model": str(served.folder), "dtype": "bfloat16", "enforce_eager": True, "max_model_len": 1024,
        "max_num_seqs": max(BATCHES), "enable_prefix_caching": False, "async_scheduling": False,
    }  # fmt: skip
    os.environ["VLLM_PLUGINS"] = ""
    engines = {False: LLM(**usual)}
    del os.environ["VLLM_PLUGINS"]
    engines[True] = LLM(**usual, logits_processors=[PROCESSOR])
    return engines


def measure(
    engines: dict[bool, Any], store: Store, served: Served, size: int, rounds: int, tokens: int
) -> dict[str, dict[str, float]]:
    """Tokens a second of each kind, and ratios to plain within rounds."""
    from vllm import SamplingParams

    prompts = [{"prompt_token_ids": [*served.start_ids, *served.encode_text(PROMPT)]}] * size

    def params(kind: str, n: int) -> SamplingParams:
        rank = {KINDS[2]: 0, KINDS[3]: RANK}.get(kind)
        names = [] if rank is None else [f"r{rank}-{h}" for h in range(NUM_HEADS)]
        orders = [
            Order(name, (-1) ** h * (0.5 + 0.01 * n + 0.02 * h), sha256_of(store.folder / name))
            for h, name in enumerate(names)
        ]
        return SamplingParams(
            temperature=1.0,
            seed=n,
            max_tokens=tokens,
            ignore_eos=True,
            detokenize=False,
            extra_args=write_orders(orders),
        )

    speed: dict[str, list[float]] = {kind: [] for kind in KINDS}
    thrift: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for number in range(-1, rounds):  # the first only warms up
        for kind in KINDS[number % len(KINDS) :] + KINDS[: number % len(KINDS)]:
            asked = [params(kind, n) for n in range(size)]
            begun, used = time.perf_counter(), processor_s()
            found = engines[kind != "plain"].generate(prompts, asked, use_tqdm=False)
            seconds = time.perf_counter() - begun
            assert all(len(one.outputs[0].token_ids) == tokens for one in found)
            if number >= 0:
                speed[kind].append(size * tokens / seconds)
                thrift[kind].append(size * tokens / (processor_s() - used))
    ratios, thrifts = (
        {kind: [a / b for a, b in zip(found[kind], found["plain"], strict=True)] for kind in KINDS}
        for found in (speed, thrift)
    )
    return {
        kind: {
            "tokens_per_s": statistics.median(speed[kind]),
            "ratio": statistics.median(ratios[kind]),
            "least_ratio": min(ratios[kind]),
            "most_ratio": max(ratios[kind]),
            "processor_ratio": statistics.median(thrifts[kind]),
        }
        for kind in KINDS
    }


def processor_s() -> float:
    """Processor time of this process and of all that it started, so far; idle ones add nothing."""
    me = psutil.Process()
    times = [process.cpu_times() for process in (me, *me.children(recursive=True))]
    return sum(one.user + one.system for one in times)


if __name__ == "__main__":
    main()
