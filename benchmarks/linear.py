"""Packed weights against torch's own product, and float32 against bfloat16, on this processor.

    python benchmarks/linear.py

The first table is why factorlm/models/linear.py exists; the second why float32 is the default where a processor does
not multiply bfloat16 natively. Ratios are medians of pairs run in turn.
"""

import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch.nn.functional import linear

from factorlm.models.causal import CausalLM
from factorlm.models.linear import Packed
from factorlm.models.loading import load_model

RECORD = Path(__file__).resolve().parent / "records" / "linear.json"
ROWS = (1, 2, 4, 8, 16, 32, 64, 256)
SHAPES = ((49152, 576), (3072, 576), (576, 1536))
REPEATS = 15


def ratio(first: Callable[[], object], second: Callable[[], object], repeats: int = REPEATS) -> float:
    """Median over pairs of the first time over the second."""
    found = []
    for repeat in range(-2, repeats):
        seconds = [0.0, 0.0]
        for way in (0, 1) if repeat % 2 else (1, 0):
            start = time.perf_counter()
            (first, second)[way]()
            seconds[way] = time.perf_counter() - start
        if repeat >= 0:
            found.append(seconds[0] / seconds[1])
    return statistics.median(found)


def products(dtype: torch.dtype) -> list[dict[str, object]]:
    """Time of torch's product over that with a packed weight; above one, the packed is faster."""
    table = []
    for out, width in SHAPES:
        copies = [torch.randn(out, width).to(dtype) for _ in range(1 if out > 10_000 else 20)]  # more than caches hold
        packed = [Packed([w]) for w in copies]
        for rows in ROWS:
            x = torch.randn(rows, width).to(dtype)
            found = ratio(lambda: [linear(x, w) for w in copies], lambda: [product(x) for product in packed])  # noqa: B023
            table.append({"out": out, "width": width, "rows": rows, "ratio": round(found, 3)})
    return table


def formats() -> list[dict[str, object]]:
    """Time in bfloat16 over time in float32; above one, float32 is faster."""
    single, half = load_model(dtype="float32", device="cpu"), load_model(dtype="bfloat16", device="cpu")
    table: list[dict[str, object]] = []

    def decode(lm: CausalLM, batch: int) -> None:
        state = lm.start(torch.full((batch, 8), 500 + batch))
        for _ in range(8):
            state = lm.extend(state, state.log_weight_BV.argmax(-1))

    def read(lm: CausalLM) -> None:
        lm.hidden_before(torch.zeros(8, 1, dtype=torch.long), torch.full((8, 64), 500))

    with torch.inference_mode():
        for batch in (1, 8):
            found = ratio(lambda: decode(half, batch), lambda: decode(single, batch), 7)  # noqa: B023
            table.append({"what": f"decoding, batch {batch}", "ratio": round(found, 3)})
        found = ratio(lambda: read(half), lambda: read(single), 5)
        table.append({"what": "reading 8 texts of 64 tokens", "ratio": round(found, 3)})
    return table


def main() -> None:
    record = {
        "command": "python benchmarks/linear.py",
        "cores": os.cpu_count(),
        "native_bfloat16": torch.cpu._is_avx512_bf16_supported(),
        "torch": torch.__version__,
        "products": {str(dtype).removeprefix("torch."): products(dtype) for dtype in (torch.float32, torch.bfloat16)},
        "formats": formats(),
    }
    RECORD.parent.mkdir(exist_ok=True)
    RECORD.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    main()
