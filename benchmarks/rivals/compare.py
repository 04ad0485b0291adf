"""Time per token of factorlm and of other libraries, in turn on one machine, each in an environment of its own.

    benchmarks/rivals/install.sh
    python benchmarks/rivals/compare.py [--rivals .rivals] [--repeats 5]

Terms are instructions to one model (N prompts, one product), heads of rank 16 (ours; LM-Steer's adaptors), or 16
particles over a product of a model and 2 instructions. Written into benchmarks/records/rivals_speed.json, which
benchmarks/report.py shows. Only decoding is timed, prompt included; ratios are medians over rounds, in which every
library has its turn.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RECORD = HERE.parent / "records" / "rivals_speed.json"
LIBRARIES = {"factorlm": "our_way.py", "loop": "loop_way.py", "language-model-arithmetic": "arithmetic_way.py",
             "genlm-control": "genlm_way.py", "LM-Steer": "steer_way.py"}  # fmt: skip
PLANS = {
    "prompts": (("factorlm", "loop", "language-model-arithmetic", "genlm-control"), (0, 1, 2, 4, 8, 16, 32)),
    "heads": (("factorlm", "LM-Steer"), (0, 1, 2, 4, 8, 16, 32)),
    "samples": (("factorlm",), (2,)),
    "particles": (("factorlm", "genlm-control"), (2,)),
}


class Process:
    """One library at work."""

    def __init__(self, library: str, rivals: Path, folder: str) -> None:
        environment = "arithmetic" if library == "language-model-arithmetic" else "main"
        python = sys.executable if library == "factorlm" else str(rivals / environment / "bin" / "python")
        self.process = subprocess.Popen(
            [python, str(HERE / LIBRARIES[library]), folder], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"},
        )  # fmt: skip

    def seconds_per_token(self, kind: str, terms: int, tokens: int) -> float:
        """Do one job."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps({"kind": kind, "terms": terms, "tokens": tokens}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("it stopped")
        found = json.loads(line)
        return float(found["seconds"]) / int(found["tokens"])

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()


def measure(kind: str, terms: int, processes: dict[str, Process], repeats: int, tokens: int) -> list[dict[str, Any]]:
    """One row for each library that does this job."""
    seconds: dict[str, list[float]] = {library: [] for library in processes}
    for repeat in range(-1, repeats):
        order = list(processes) if repeat % 2 else list(processes)[::-1]
        for library in order:
            if library not in seconds:
                continue
            try:
                found = processes[library].seconds_per_token(kind, terms, tokens)
            except (RuntimeError, BrokenPipeError, ValueError, ZeroDivisionError) as error:
                print(f"{library} cannot do {terms} {kind}: {error}", file=sys.stderr)
                del seconds[library]
                continue
            if repeat >= 0:
                seconds[library].append(found)
    ours = seconds["factorlm"]
    rows = []
    for library, theirs in seconds.items():
        ratios = [b / a for a, b in zip(ours, theirs, strict=True)]
        row = {"kind": kind, "terms": terms, "library": library, "ms_per_token": 1e3 * statistics.median(theirs),
               "ratio": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios),
               "tokens": tokens, "rounds": len(theirs)}  # fmt: skip
        print(json.dumps({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}), flush=True)
        rows.append(row)
    return rows


def main() -> None:
    from factorlm.evaluation.provenance import machine
    from factorlm.models.fetch import fetch

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rivals", type=Path, default=Path(".rivals"))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", choices=list(PLANS), action="append")
    parser.add_argument("--out", type=Path, default=RECORD)
    asked = parser.parse_args()
    folder = str(fetch("smollm2"))
    rows: list[dict[str, Any]] = []
    for kind in asked.only or PLANS:
        libraries, counts = PLANS[kind]
        processes = {library: Process(library, asked.rivals.absolute(), folder) for library in libraries}
        for terms in counts:
            few = terms > 8 or kind in ("particles", "samples")
            rows += measure(kind, terms, processes, 3 if few else asked.repeats, 8 if few else 16)
        for process in processes.values():
            process.close()
    record = {"command": "python benchmarks/rivals/compare.py", "machine": machine(), "number_format": "bfloat16",
              "model": "smollm2", "rows": rows}  # fmt: skip
    asked.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
