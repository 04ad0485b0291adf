"""What tasks ask of a model: how likely a continuation is, how likely a whole text, and what it would write.

Texts become tokens as in the language model evaluation harness (Gao et al., 2021), so that the same requests get the
same numbers: blanks at the end of a context move to the continuation, which is what is left of the tokens of both
together once the tokens of the context are taken off.
"""

# Axes: B batch, T time.

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from factorlm.algebra import pad_left, pad_right
from factorlm.errors import InputError
from factorlm.inference import Model, Sampling, read
from factorlm.inference.draw import generator_of
from factorlm.inference.local import Row, sample_local
from factorlm.models import CausalLM
from factorlm.text import TextStream

Ids = tuple[int, ...]
Report = Callable[[int, int], None]  # done, total
GREEDY = Sampling(temperature=0.0)
READ_TOKENS = 4096  # read at once, padding included
FEW_TOKENS = 256  # read so quickly that padding is no matter
MOST_PADDED = 1.25  # tokens read for each real one
WRITTEN_ROWS = 32  # texts written at once


class Likelihood(NamedTuple):
    """How likely a continuation is after its context.

    Attributes:
        log_prob: of the continuation, in nats.
        is_greedy: whether each of its tokens is the most probable one, alone or with others.
        num_tokens: of the continuation.
        num_cut: tokens of the context that were cut away on the left because it was too long.
    """

    log_prob: float
    is_greedy: bool
    num_tokens: int
    num_cut: int


class Writing(NamedTuple):
    """What a model wrote after a context.

    Attributes:
        text: without the stop string.
        finish_reason: "end", "stop" or "length".
        num_tokens: drawn, an end token included.
        num_cut: tokens of the context that were cut away on the left because it was too long.
    """

    text: str
    finish_reason: str
    num_tokens: int
    num_cut: int


@dataclass(frozen=True)
class Tokenization:
    """How requests become tokens.

    Attributes:
        encode: tokens of a text, without a start token.
        start_ids: what stands before every text; may be empty.
        empty_ids: what is read where there would be no context at all.
    """

    encode: Callable[[str], list[int]]
    start_ids: Ids
    empty_ids: Ids

    @classmethod
    def of(cls, lm: CausalLM) -> Tokenization:
        """As everywhere in this package: the start token before every text, names of special tokens plain text."""
        return cls(lm.encode_text, lm.start_ids, lm.start_ids)

    def whole(self, text: str) -> Ids:
        """Start token and tokens of a text; a start token that it has already is not doubled."""
        ids = tuple(self.encode(text))
        has_start = ids[: len(self.start_ids)] == self.start_ids
        return ids if has_start else (*self.start_ids, *ids)

    def pair(self, context: str, continuation: str) -> tuple[Ids, Ids]:
        """Tokens of a context, at least one, and of its continuation.

        Raises:
            InputError: if no token is left for the continuation.
        """
        bare = context.rstrip()
        continuation = context[len(bare) :] + continuation
        if bare:
            context_ids = self.whole(bare)
            text_ids = self.whole(bare + continuation)[len(context_ids) :]
        else:
            ids = tuple(self.encode(continuation))
            has_start = ids[: len(self.empty_ids)] == self.empty_ids
            context_ids, text_ids = self.empty_ids, ids[len(self.empty_ids) :] if has_start else ids
        if not text_ids:
            raise InputError(
                f"a continuation of at least one token is needed, got {continuation!r} after a context that ends with "
                f"{bare[-40:]!r}; let it begin with a blank or with more text"
            )
        return context_ids, text_ids


def loglikelihood(
    model: Model,
    requests: Sequence[tuple[str, str]],
    *,
    tokenization: Tokenization | None = None,
    max_length: int | None = None,
    report: Report | None = None,
) -> list[Likelihood]:
    """Log probability of each continuation after its context, in the order given.

    Args:
        model: any composition; it is normalised at each token.
        requests: pairs of context and continuation; the context may be empty.
        tokenization: how they become tokens; None begins every context with the start token.
        max_length: tokens read at most, the last of the continuation not counted; None takes what the model was
            made for.
        report: told of progress: done, total.

    Raises:
        InputError: if a continuation has no token, or more than can be read.
    """
    tokens = tokenization or Tokenization.of(model.lm)
    return score_tokens(model, [tokens.pair(*request) for request in requests], max_length=max_length, report=report)


def rolling(
    model: Model,
    texts: Sequence[str],
    *,
    tokenization: Tokenization | None = None,
    max_length: int | None = None,
    report: Report | None = None,
) -> list[float]:
    """Log probability of each whole text, in nats, in windows where it is longer than the model can read.

    Every token is predicted once. A window begins where the last one ended, and reads one token before that; the last
    window is moved back to full length, so that its tokens have as much context as can be had.

    Args:
        model: any composition; it is normalised at each token.
        texts: what is read.
        tokenization: how they become tokens; the first window of a text begins with what stands for no context.
        max_length: tokens of a window; None takes what the model was made for.
        report: told of progress: windows done, total.
    """
    tokens = tokenization or Tokenization.of(model.lm)
    limit = max_length or model.lm.max_tokens
    windows = [_windows(tuple(tokens.encode(text)), tokens.empty_ids, limit) for text in texts]
    found = iter(score_tokens(model, [pair for row in windows for pair in row], max_length=max_length, report=report))
    return [sum(next(found).log_prob for _ in row) for row in windows]


def generate_until(
    model: Model,
    requests: Sequence[tuple[str, Sequence[str], int]],
    *,
    sampling: Sampling = GREEDY,
    seed: int = 0,
    tokenization: Tokenization | None = None,
    max_length: int | None = None,
    report: Report | None = None,
) -> list[Writing]:
    """What the model writes after each context, in the order given.

    Args:
        model: any composition; it is normalised at each token.
        requests: context, strings at which the text stops, and most tokens of it.
        sampling: how tokens are drawn; the default is greedy. Its own stop strings count too.
        seed: of all randomness; the n-th request with the same context is its n-th sample.
        tokenization: how contexts become tokens; None begins each with the start token.
        max_length: tokens of context and text together; None takes what the model was made for.
        report: told of progress: done, total.

    Raises:
        InputError: if no room is left for a context.
    """
    tokens = tokenization or Tokenization.of(model.lm)
    limit = max_length or model.lm.max_tokens
    seen: Counter[Ids] = Counter()
    rows, num_cut, lengths = [], [], []
    for context, stops, max_tokens in requests:
        if max_tokens >= limit:
            raise InputError(
                f"fewer than {limit} new tokens are needed, so that the context has room, got {max_tokens}"
            )
        context_ids = tokens.whole(context) or tokens.empty_ids
        kept_ids = context_ids[-(limit - max_tokens) :]
        stream = TextStream([stop for stop in (*stops, *sampling.stop) if stop])
        rows.append(Row(list(kept_ids), generator_of(seed, kept_ids, seen[kept_ids]), stream))
        seen[kept_ids] += 1
        num_cut.append(len(context_ids) - len(kept_ids))
        lengths.append(max_tokens)
    done = 0
    for max_tokens in sorted(set(lengths)):
        order = sorted((i for i in range(len(rows)) if lengths[i] == max_tokens), key=lambda i: len(rows[i].prompt_ids))
        for start in range(0, len(order), WRITTEN_ROWS):
            batch = order[start : start + WRITTEN_ROWS]
            for _ in sample_local(model.factor, [rows[i] for i in batch], max_tokens=max_tokens, sampling=sampling):
                pass
            done += len(batch)
            if report:
                report(done, len(rows))
    return [
        Writing(row.stream.text, row.finish_reason or "length", len(row.token_ids), cut)
        for row, cut in zip(rows, num_cut, strict=True)
    ]


def score_tokens(
    model: Model,
    pairs: Sequence[tuple[Ids, Ids]],
    *,
    max_length: int | None = None,
    report: Report | None = None,
) -> list[Likelihood]:
    """As `loglikelihood`, for tokens; equal pairs are read once, and continuations of one context together."""
    limit = max_length or model.lm.max_tokens
    fitted = [_fitted(context, text, limit) for context, text in pairs]
    unique = list(dict.fromkeys(fitted))
    found: dict[tuple[Ids, Ids], tuple[float, bool]] = {}
    for batch in _batches(unique):
        reading = read(
            model.factor,
            pad_left([list(context) for context, _ in batch]),
            pad_right([list(text) for _, text in batch]),
            with_shape=True,
        )
        assert reading.is_top_BT is not None
        log_prob_B = reading.log_prob_BT.double().sum(1).tolist()
        for b, pair in enumerate(batch):
            found[pair] = log_prob_B[b], bool(reading.is_top_BT[b, : len(pair[1])].all())
        if report:
            report(len(found), len(unique))
    return [
        Likelihood(*found[kept], len(text), len(context) - len(kept[0]))
        for kept, (context, text) in zip(fitted, pairs, strict=True)
    ]


def _fitted(context: Ids, text: Ids, limit: int) -> tuple[Ids, Ids]:
    """The end of the context that can be read with the text, whose last token is only predicted."""
    if len(text) > limit:
        raise InputError(f"a continuation of at most {limit} tokens is needed, got {len(text)}; shorten it")
    return context[-(limit + 1 - len(text)) :], text


def _batches(pairs: Sequence[tuple[Ids, Ids]]) -> Iterator[list[tuple[Ids, Ids]]]:
    """Pairs by length, those of one context side by side, as many at once as are read quickly with little padding."""
    longest: dict[Ids, int] = {}
    for context, text in pairs:
        longest[context] = max(longest.get(context, 0), len(context) + len(text))
    batch: list[tuple[Ids, Ids]] = []
    for pair in sorted(pairs, key=lambda pair: (longest[pair[0]], pair)):
        tried = [*batch, pair]
        num_read = len(tried) * (max(len(context) for context, _ in tried) + max(len(text) for _, text in tried))
        num_real = sum(len(context) + len(text) for context, text in tried)
        is_wasteful = num_read > max(FEW_TOKENS, MOST_PADDED * num_real)
        if batch and (num_read > READ_TOKENS or (is_wasteful and pair[0] != batch[-1][0])):
            yield batch
            tried = [pair]
        batch = tried
    if batch:
        yield batch


def _windows(ids: Ids, empty_ids: Ids, max_length: int) -> list[tuple[Ids, Ids]]:
    """Context and tokens to predict of each window."""
    windows = [(empty_ids, ids[:max_length])] if ids else []
    for start in range(max_length, len(ids), max_length):
        text = ids[start : start + max_length]
        end = start + len(text)
        windows.append((ids[max(0, end - max_length - 1) : start], text))
    return windows
