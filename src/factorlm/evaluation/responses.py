"""Texts written by the models under test, cached, so that suites share them and a broken run goes on."""

# Axes: P prompts.

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from factorlm.errors import InputError
from factorlm.evaluation.corpora import fingerprint
from factorlm.evaluation.workbench import Workbench
from factorlm.inference import Sampling
from factorlm.inference.expression import Composed, factor_part

ROWS = 48  # texts written together


@dataclass(frozen=True)
class Sample:
    """A text that a model wrote after a prompt.

    Attributes:
        text: without prompt, end token and stop string.
        token_ids: as drawn, an end token included.
        log_prob: of the drawn tokens under the composed model (untruncated, temperature one), in nats.
        base_log_prob: of the same tokens under the base model alone, in nats.
        finish_reason: "end", "stop" or "length".
    """

    text: str
    token_ids: tuple[int, ...]
    log_prob: float
    base_log_prob: float
    finish_reason: str


Samples = list[list[Sample]]  # of each prompt


def distinct_prompts(bench: Workbench, part: str, number: int) -> list[str]:
    """The first distinct prompts of a data set.

    Raises:
        InputError: if there are fewer.
    """
    found = list(dict.fromkeys(str(row["prompt"]) for row in bench.data.rows(part) if row.get("prompt")))
    if len(found) < number:
        raise InputError(f"{number} different prompts are wanted of {part}, got {len(found)}; ask for fewer")
    bench.used[part] = fingerprint(found[:number])
    return found[:number]


def respond(
    bench: Workbench,
    composed: Composed,
    prompts: Sequence[str],
    *,
    n: int,
    max_tokens: int,
    sampling: Sampling,
    stage: str,
    strengths: Mapping[str, float] | None = None,
    exponents: Mapping[str, float] | None = None,
    chat: bool = False,
) -> Samples:
    """Several samples for each prompt; the same seed, prompt and settings give the same texts whatever else is asked.

    Args:
        bench: cache, seed and progress.
        composed: who writes.
        prompts: what is continued.
        n: samples for each prompt.
        max_tokens: most tokens of a sample.
        sampling: how tokens are drawn.
        stage: for the progress bar.
        strengths: of factors, by name, in signed nats per token.
        exponents: of factors, by name.
        chat: whether a prompt is a user's message.
    """
    key = {
        "what": "responses",
        "model": composed.fingerprint,
        "n": n,
        "max_tokens": max_tokens,
        "sampling": sampling.model_dump(mode="json"),
        "strengths": dict(strengths or {}),
        "exponents": dict(exponents or {}),
        "factors": [factor_part(name) for name in sorted({*(strengths or {}), *(exponents or {})})],
        "chat": chat,
        "seed": bench.seed,
    }

    def work(batch: list[str]) -> list[list[dict[str, object]]]:
        found = composed.model.generate(
            batch, n=n, max_tokens=max_tokens, seed=bench.seed, sampling=sampling, strengths=strengths,
            exponents=exponents, chat=chat,
        )  # fmt: skip
        samples = [Sample(r.text, r.token_ids, r.log_prob, r.base_log_prob, r.finish_reason) for r in found]
        return [[asdict(s) for s in samples[n * i : n * (i + 1)]] for i in range(len(batch))]

    rows = bench.in_batches(stage, key, list(prompts), max(1, ROWS // n), work)
    return [[Sample(**{**s, "token_ids": tuple(s["token_ids"])}) for s in row] for row in rows]


def base_nats(samples: Samples) -> NDArray[np.float64]:
    """Nats under the base model and tokens of each prompt's samples, [P, 2]."""
    return np.array(
        [[-sum(s.base_log_prob for s in row), sum(len(s.token_ids) for s in row)] for row in samples], dtype=float
    )
