"""What every timed process shares: it reads one job a line and answers with one line. See compare.py."""

import contextlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

INSTRUCTIONS = (
    "Write in a calm and friendly tone.", "Write as if for a child.", "Be precise and give numbers.",
    "Write about the sea and ships.", "Avoid any swear words.", "Use short sentences.", "Be a little ironic.",
    "Write as a travel guide would.",
)  # fmt: skip
OPENING = "The old house at the end of the road had been empty for years, and"


def instructions(number: int) -> list[str]:
    """As many different instructions as asked for."""
    rounds = -(-number // len(INSTRUCTIONS))
    return [f"{text} ({n + 1})" if n else text for n in range(rounds) for text in INSTRUCTIONS][:number]


def serve(make: Callable[[str, str, int], Callable[[int], Sequence[int] | int]]) -> None:
    """Answer jobs until the input ends.

    Args:
        make: from a kind of work, the folder of the model and a number of terms, to what writes that many tokens and
            gives how many it wrote. It is made once for each kind and number; only writing is timed.
    """
    folder, made = sys.argv[1], {}
    answer = sys.stdout
    with contextlib.redirect_stdout(sys.stderr):
        for line in sys.stdin:
            job: dict[str, Any] = json.loads(line)
            key = (job["kind"], job["terms"])
            if key not in made:
                made.clear()
                made[key] = make(job["kind"], folder, job["terms"])
                made[key](2)
            start = time.perf_counter()
            written = made[key](job["tokens"])
            seconds = time.perf_counter() - start
            number = written if isinstance(written, int) else len(written)
            print(json.dumps({"seconds": seconds, "tokens": number}), file=answer, flush=True)
