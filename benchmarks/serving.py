"""The server under load, against the same engine offline: throughput, time to the first token, and a long rush.

    python benchmarks/serving.py [--seconds 120] [--streams 64] [--out benchmarks/records/serving.json]

A real `factorlm serve` runs in a process of its own, asked over HTTP by streams of this one, each with factors of its
own. Offline, the same texts are written by `Model.stream` in one batch. Server and client share the machine, and take
turns with the offline runs, so that ratios are of one time. At the end more streams than there are places ask for two
minutes without a pause: what is counted is tokens, times, refusals, and the server's memory.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import torch

import factorlm as fl
from factorlm.evaluation.provenance import commit, machine, versions
from factorlm.inference.strengths import exponent_of

RECORD = Path(__file__).resolve().parent / "records" / "serving.json"
FACTORS = ("positive", "polite", "archaic", "childlike", "confident", "british")
OPENINGS = (
    "The old house on the hill",
    "She opened the letter and",
    "In the morning the crew",
    "The food was",
    "Our town",
)
PLACES = 32  # rows of the server's batch
TOKENS, ROUNDS = 64, 5
FEW_TOKENS = 16  # of texts whose first token is timed


@dataclass
class Heard:
    """One stream as the client saw it."""

    begun: float
    times: list[float] = field(default_factory=list)  # of each token
    status: int = 200

    @property
    def first_s(self) -> float:
        """Seconds to the first token."""
        return self.times[0] - self.begun

    @property
    def gaps_s(self) -> list[float]:
        """Seconds between tokens."""
        return [later - earlier for earlier, later in zip(self.times, self.times[1:], strict=False)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=120.0, help="of the rush at the end")
    parser.add_argument("--streams", type=int, default=64, help="that ask in the rush")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--out", type=Path, default=RECORD)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as state:
        port = free_port()
        server = subprocess.Popen(
            [sys.executable, "-m", "factorlm.cli.app", "serve", "--port", str(port), "--state", state, "--dtype",
             asked.dtype, "--max-rows", str(PLACES)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )  # fmt: skip
        try:
            found = asyncio.run(measured(f"http://127.0.0.1:{port}", server.pid, asked))
        finally:
            server.terminate()
            server.wait(60)
    record = {
        "command": f"python benchmarks/serving.py --seconds {asked.seconds:g} --streams {asked.streams} "
        f"--dtype {asked.dtype}",
        "commit": commit(), "machine": machine(), "versions": versions(), "date": datetime.now(UTC).date().isoformat(),
        **found,
    }  # fmt: skip
    asked.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


async def measured(url: str, pid: int, asked: argparse.Namespace) -> dict[str, Any]:
    model = fl.load(dtype=asked.dtype)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=600, limits=limits) as client:
        await until_up(client)
        await together(client, [body(k, TOKENS) for k in range(16)])  # factors are loaded, pages are warm
        offline(model, 16)
        rounds = []
        for number in range(ROUNDS):
            rounds.append(
                {"offline": offline(model, 16, number), "served": await served(client, 16, number),
                 "lone_first_s": await lone(client, number), "first_of_8_s": await eight(client, number),
                 "first_beside_7_s": await beside(client, number)}
            )  # fmt: skip
            print(rounds[-1], file=sys.stderr)
        rush = await rushed(client, pid, asked.seconds, asked.streams)
    ratio = [r["served"] / r["offline"] for r in rounds]
    return {
        "sixteen": {
            "offline_tokens_per_s": median([r["offline"] for r in rounds]),
            "served_tokens_per_s": median([r["served"] for r in rounds]),
            "ratio": median(ratio), "ratios": ratio,
        },
        "first_token": {
            "lone_s": median([r["lone_first_s"] for r in rounds]),
            "eight_at_once_s": median([r["first_of_8_s"] for r in rounds]),
            "eight_at_once_ratio": median([r["first_of_8_s"] / r["lone_first_s"] for r in rounds]),
            "beside_seven_s": median([r["first_beside_7_s"] for r in rounds]),
            "beside_seven_ratio": median([r["first_beside_7_s"] / r["lone_first_s"] for r in rounds]),
        },
        "rush": rush,
    }  # fmt: skip


def body(number: int, tokens: int) -> dict[str, Any]:
    """A request of its own: prompt, factors and seed by its number."""
    chosen = random.Random(number)
    factors = {name: round(chosen.uniform(-0.4, 0.4), 2) for name in chosen.sample(FACTORS, chosen.randint(1, 4))}
    prompt = f"{chosen.choice(OPENINGS)} number {number}"
    return {"prompt": prompt, "factors": factors, "seed": number, "max_tokens": tokens, "stream": True,
            "regex": None, "logprobs": 0}  # fmt: skip


def offline(model: fl.Model, number: int, round_number: int = 0) -> float:
    """Tokens a second of one batch of texts, each with its own factors."""
    bodies = [body(1000 * round_number + k, TOKENS) for k in range(number)]
    names = sorted({name for b in bodies for name in b["factors"]})
    exponents = {}
    for name in names:
        bound = (model * fl.factor(name)).terms[1].factor
        exponents[name] = [exponent_of(model.lm, bound, b["factors"].get(name, 0.0)) for b in bodies]
    model.lm.forget()
    begun = time.perf_counter()
    run = model.stream([b["prompt"] for b in bodies], max_tokens=TOKENS, seed=round_number, exponents=exponents)
    count = sum(1 for _ in run)
    return count / (time.perf_counter() - begun)


async def served(client: httpx.AsyncClient, number: int, round_number: int) -> float:
    """Tokens a second of as many streams at once."""
    begun = time.perf_counter()
    heard = await together(client, [body(1000 * round_number + k, TOKENS) for k in range(number)])
    return sum(len(h.times) for h in heard) / (time.perf_counter() - begun)


async def lone(client: httpx.AsyncClient, round_number: int) -> float:
    """Seconds to the first token of a request that is alone; median of a few."""
    found = []
    for k in range(5):
        [heard] = await together(client, [body(5000 + 10 * round_number + k, FEW_TOKENS)])
        found.append(heard.first_s)
    return median(found)


async def eight(client: httpx.AsyncClient, round_number: int) -> float:
    """Seconds to the first token of each of eight requests that come at once; median."""
    heard = await together(client, [body(6000 + 10 * round_number + k, FEW_TOKENS) for k in range(8)])
    return median([h.first_s for h in heard])


async def beside(client: httpx.AsyncClient, round_number: int) -> float:
    """Seconds to the first token of a request that comes while seven others are being written; median of a few."""
    others = [asyncio.create_task(listened(client, body(7000 + k, 160))) for k in range(7)]
    await asyncio.sleep(1.5)
    found = []
    for k in range(5):
        found.append((await listened(client, body(8000 + 10 * round_number + k, 4))).first_s)
        await asyncio.sleep(0.13)
    for other in others:
        other.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await asyncio.sleep(0.3)
    return median(found)


async def rushed(client: httpx.AsyncClient, pid: int, seconds: float, streams: int) -> dict[str, Any]:
    """More streams than places, each asking again as soon as it is answered."""
    end = time.perf_counter() + seconds
    heard: list[Heard] = []
    memory: list[float] = []
    numbers = iter(range(20_000, 1_000_000))

    async def client_of_many() -> None:
        while time.perf_counter() < end:
            chosen = body(next(numbers), random.Random(len(heard)).choice((16, 48, 96)))
            one = await listened(client, chosen)
            heard.append(one)
            if one.status != 200:
                await asyncio.sleep(1.0)

    async def watch() -> None:
        while time.perf_counter() < end:
            memory.append(resident_mb(pid))
            await asyncio.sleep(2.0)

    await asyncio.gather(watch(), *(client_of_many() for _ in range(streams)))
    good = [h for h in heard if h.status == 200 and h.times]
    late = [h for h in good if h.begun < end]
    firsts, gaps = [h.first_s for h in late], [gap for h in good for gap in h.gaps_s]
    tokens = sum(sum(t < end for t in h.times) for h in good)
    first, last = memory[len(memory) // 4 : len(memory) // 2], memory[-len(memory) // 4 :]
    return {
        "streams": streams, "places": PLACES, "seconds": seconds, "answered": len(good),
        "refused": sum(h.status == 429 for h in heard), "failed": sum(h.status not in (200, 429) for h in heard),
        "tokens_per_s": tokens / seconds,
        "first_token_s": quantiles(firsts), "between_tokens_s": quantiles(gaps),
        "memory_mb": {"second_quarter": median(first), "last_quarter": median(last), "most": max(memory)},
    }  # fmt: skip


async def together(client: httpx.AsyncClient, bodies: Sequence[dict[str, Any]]) -> list[Heard]:
    return list(await asyncio.gather(*(listened(client, b) for b in bodies)))


async def listened(client: httpx.AsyncClient, asked: dict[str, Any]) -> Heard:
    heard = Heard(time.perf_counter())
    asked = {key: value for key, value in asked.items() if value is not None}
    async with client.stream("POST", "/v1/completions", json=asked) as answer:
        heard.status = answer.status_code
        if answer.status_code == 200:
            async for _ in events(answer):
                heard.times.append(time.perf_counter())
    return heard


async def events(answer: httpx.Response) -> AsyncIterator[str]:
    async for line in answer.aiter_lines():
        if line.startswith("data: ") and line != "data: [DONE]":
            yield line


async def until_up(client: httpx.AsyncClient) -> None:
    for _ in range(600):
        try:
            if (await client.get("/healthz")).status_code == 200:
                return
        except httpx.TransportError:
            pass
        await asyncio.sleep(0.2)
    raise SystemExit("the server did not come up")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def resident_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def median(values: Sequence[float]) -> float:
    return statistics.median(values) if values else float("nan")


def quantiles(values: Sequence[float]) -> dict[str, float]:
    ordered = torch.tensor(sorted(values) or [float("nan")], dtype=torch.float64)
    return {name: float(ordered.quantile(share)) for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))}


if __name__ == "__main__":
    main()
