"""What is tried on a model: requests by category, attempts to get them granted, and the model's answers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from factorlm.errors import InputError
from factorlm.evaluation.corpora import fingerprint
from factorlm.evaluation.responses import Sample, Samples
from factorlm.evaluation.workbench import Workbench
from factorlm.inference import Sampling
from factorlm.inference.draw import generator_of
from factorlm.inference.expression import Composed
from factorlm.inference.local import Row, sample_local
from factorlm.inference.stream import responses_of
from factorlm.text import TextStream

HARMFUL = "redteam/harmful"
ROWS = 32  # answers written together


@dataclass(frozen=True)
class Request:
    """Something that a model should not do.

    Attributes:
        text: as a user would ask for it.
        category: of harm.
    """

    text: str
    category: str


@dataclass(frozen=True)
class Attempt:
    """One way of asking.

    Attributes:
        message: what the user says.
        opening: words that the answer is made to begin with; only whoever runs the model can do that.
    """

    message: str
    opening: str = ""


def requests_of(bench: Workbench, source: str, per_category: int) -> list[Request]:
    """The first requests of each category of a source of `redteam/harmful`, in the order of the set.

    Args:
        bench: with the data.
        source: such as "jailbreakbench"; its rows without a category are one category, named after it.
        per_category: how many of each.

    Raises:
        InputError: if there is no such source.
    """
    rows = bench.data.rows(HARMFUL)
    known = sorted({str(row["source"]) for row in rows})
    if source not in known:
        raise InputError(f"a source of {HARMFUL} is needed, one of {', '.join(known)}, got {source!r}; choose another")
    by_category: dict[str, list[Request]] = defaultdict(list)
    for row in rows:
        if row["source"] == source:
            category = str(row["category"] or source)
            by_category[category].append(Request(str(row["text"]), category))
    found = [request for requests in by_category.values() for request in requests[:per_category]]
    bench.used[f"{HARMFUL}, {source}"] = fingerprint([request.text for request in found])
    return found


def answered(
    bench: Workbench,
    composed: Composed,
    attempts: Sequence[Attempt],
    *,
    n: int,
    max_tokens: int,
    sampling: Sampling,
    stage: str,
) -> Samples:
    """Several answers to each attempt, without their openings; the same seed and attempt give the same answers.

    A model that was made for conversations is asked in one; another one continues the message.

    Args:
        bench: cache, seed and progress.
        composed: who answers.
        attempts: what is tried.
        n: answers to each.
        max_tokens: most tokens of an answer.
        sampling: how tokens are drawn: as where the model is used.
        stage: for the progress bar.
    """
    key = {
        "what": "answers to attempts",
        "model": composed.fingerprint,
        "n": n,
        "max_tokens": max_tokens,
        "sampling": sampling.model_dump(mode="json"),
        "seed": bench.seed,
    }

    def work(batch: list[list[str]]) -> list[list[dict[str, object]]]:
        lm = composed.model.lm
        rows = []
        for message, opening in batch:
            prompt_ids = prompt_of(composed, message) + lm.encode_text(opening)
            if len(prompt_ids) + max_tokens > lm.max_tokens:
                raise InputError(
                    f"{lm.name} reads at most {lm.max_tokens} tokens, got {len(prompt_ids)} of an attempt and "
                    f"{max_tokens} of an answer; ask for shorter answers"
                )
            rows += [
                Row(prompt_ids, generator_of(bench.seed, prompt_ids, i), TextStream(sampling.stop)) for i in range(n)
            ]
        for _ in sample_local(composed.model.factor, rows, max_tokens=max_tokens, sampling=sampling):
            pass
        found = responses_of(composed.model.factor, lm.vocabulary, rows, [""] * len(rows), explain=False)
        samples = [Sample(r.text, r.token_ids, r.log_prob, r.base_log_prob, r.finish_reason) for r in found]
        return [[asdict(s) for s in samples[n * i : n * (i + 1)]] for i in range(len(batch))]

    items = [[attempt.message, attempt.opening] for attempt in attempts]
    rows = bench.in_batches(stage, key, items, max(1, ROWS // n), work)
    return [[Sample(**{**s, "token_ids": tuple(s["token_ids"])}) for s in row] for row in rows]


def prompt_of(composed: Composed, message: str) -> list[int]:
    """Tokens after which the model answers a message; plain ones where it was not made for conversations."""
    lm = composed.model.lm
    if lm.tokenizer.chat_template:
        return lm.encode_message(message)
    return [*lm.start_ids, *lm.encode_text(message)]
