"""How long a steered model takes for a token, in comparison with its base."""

from __future__ import annotations

from collections.abc import Mapping

from factorlm.evaluation import clock
from factorlm.evaluation.provenance import machine
from factorlm.evaluation.workbench import Workbench
from factorlm.factors.calibration import OPENINGS
from factorlm.factors.response import MORE_OPENINGS
from factorlm.inference.expression import Composed

ROWS, TOKENS, REPEATS = 8, 8, 3
PROMPTS = (*OPENINGS, *MORE_OPENINGS)  # every run has its own: what a rival remembers of a text must not help it
LONGEST = 2.0  # seconds; a run that takes longer is not repeated


def milliseconds_per_token(bench: Workbench, composed: Composed, exponents: Mapping[str, float] | None = None) -> float:
    """Milliseconds of a token of one of eight texts written together, the least of some runs; cached for a machine.

    They are of the process, so that a crowded machine looks little slower; see `clock`.

    Args:
        bench: with the cache.
        composed: who writes.
        exponents: of factors of the store.
    """
    key = {"what": "milliseconds of the process", "model": composed.fingerprint, "exponents": dict(exponents or {}),
           "machine": machine(), "rows": ROWS, "tokens": TOKENS, "prompts": PROMPTS}  # fmt: skip

    def measure() -> float:
        seconds = []
        for repeat in range(REPEATS + 1):  # the first warms up
            composed.model.lm.forget()
            prompts = PROMPTS[repeat * ROWS : (repeat + 1) * ROWS]
            run = composed.model.stream(prompts, max_tokens=TOKENS if repeat else 1, seed=repeat, exponents=exponents)
            start = clock.seconds(composed.model.lm.device)
            drawn = sum(1 for _ in run)
            took = clock.seconds(composed.model.lm.device) - start
            seconds.append(took / drawn)
            if repeat and took > LONGEST:
                break
        return 1000 * min(seconds[1:])

    return float(bench.cache.get(key, measure))
