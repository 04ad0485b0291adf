"""The log probability of every token of documents of any length, read in sliding windows.

The protocol: documents are never joined; a start token stands before each; a window holds the `window` tokens that
the model reads at once, and moves on by `stride` tokens. Each token is counted once, in the first window that reaches
it, so behind the first window every token has between `window - stride + 1` and `window` tokens of context, and in the
first one all there are. With `stride = window` the windows share one token only: cheapest, and unfair to the model.

Source: rolling windows of Gao et al., "A framework for few-shot language model evaluation".
"""

# Axes: T time (tokens of a document).

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from factorlm.algebra import Factor, LocalProduct, Mixture, Named, Power, leaves, pad_left, pad_right
from factorlm.algebra.operators import Combination
from factorlm.errors import InputError
from factorlm.factors.head import Head
from factorlm.factors.headed import HeadedModel
from factorlm.factors.prompt import Conditioned
from factorlm.inference import Model, Reading, read
from factorlm.models import CausalLM

Array = NDArray[np.float64]
WINDOW = 512
BATCH_TOKENS = 4096  # read at once, padding included
BATCH_ROWS = 64  # keeps the log probabilities of a block of short texts small


@dataclass(frozen=True)
class Window:
    """A stretch of a document: its tokens from `first` on are context, those from `start` to `end` are counted."""

    first: int
    start: int
    end: int


def windows(num_tokens: int, window: int, stride: int, num_given: int = 1) -> list[Window]:
    """How a document is read: every token but the first num_given is counted once.

    Args:
        num_tokens: of the document, start tokens included.
        window: most tokens that the model reads at once.
        stride: tokens that a window counts, behind the first, which counts all it has.
        num_given: tokens at the start that are only read.

    Raises:
        InputError: if a token would have no context.
    """
    if num_given < 1 or not 1 <= stride <= window or window < num_given:
        raise InputError(
            f"a stride from 1 to the window and at least one token before the first are needed, got stride {stride}, "
            f"window {window} and {num_given} tokens before"
        )
    found: list[Window] = []
    start = num_given
    while start < num_tokens:
        # The last token counted is not read: nothing is predicted from it.
        end = min(num_tokens, start + stride if found else window + 1)
        found.append(Window(max(0, end - 1 - window), start, end))
        start = end
    return found


def longest_window(factor: Factor) -> int:
    """Most tokens of a document that every language model of a composition can read at once."""
    longest = 1 << 30
    for leaf in leaves(factor):
        lm = leaf if isinstance(leaf, CausalLM) else getattr(leaf, "lm", None)
        if isinstance(lm, CausalLM):
            taken = len(lm.start_ids) + len(leaf.condition) if isinstance(leaf, Conditioned) else 0
            longest = min(longest, lm.max_tokens - taken)
    return longest


def default_window(factors: Sequence[Factor]) -> int:
    """The window that all these compositions can read, at most 512 tokens."""
    return min([WINDOW, *map(longest_window, factors)])


def learns_from_text(factor: Factor) -> bool:
    """Whether a composition weighs a text otherwise when its beginning is given as the prefix.

    A mixture learns which part wrote the text, but not from a prefix; a lexicon counts only what ends in the text. Only
    language models, prompted or not, and heads on them are known to read both alike.
    """
    if isinstance(factor, Combination):
        return any(map(learns_from_text, factor.parts))
    if isinstance(factor, (Power, LocalProduct, Named)):
        return learns_from_text(factor.base)
    return not isinstance(factor, (CausalLM, Conditioned, Head, HeadedModel))


def holds_mixture(factor: Factor) -> bool:
    """Whether a composition holds a mixture, whose posterior begins anew in every window."""
    if isinstance(factor, Combination):
        return any(map(holds_mixture, factor.parts))
    return isinstance(factor, Mixture) or (
        isinstance(factor, (Power, LocalProduct, Named)) and holds_mixture(factor.base)
    )


def token_log_probs(
    model: Model,
    texts: Sequence[str],
    *,
    window: int | None = None,
    stride: int | None = None,
    count_first: bool = True,
    batch_tokens: int = BATCH_TOKENS,
) -> list[Array]:
    """Log probability of each token of each document under a composition, normalised at each token, [T], in nats.

    Args:
        model: the composition.
        texts: the documents, of any length.
        window: most tokens read at once; None takes 512, or what the models can read.
        stride: tokens by which windows move; None takes half a window.
        count_first: True puts the start token before each document and counts all its tokens; False reads documents
            as they are, and the first token, which then has no context, is nan: not counted.
        batch_tokens: most tokens read at once, padding included; a single window may be longer.

    Raises:
        InputError: if a model cannot read the window, or the stride does not fit it.
    """
    longest = longest_window(model.factor)
    window = default_window([model.factor]) if window is None else window
    stride = max(1, window // 2) if stride is None else stride
    if window > longest:
        raise InputError(f"a window of at most {longest} tokens can be read, got {window}; take a smaller one")
    start = list(model.lm.start_ids) if count_first else []
    encoded = [model.lm.encode_text(text) for text in texts]
    log_prob_T = [np.full(len(ids), np.nan) for ids in encoded]
    rows = [[*start, *ids] for ids in encoded]
    for counted in read_windows(model, rows, max(1, len(start)), window, stride, batch_tokens=batch_tokens):
        found_T = counted.reading.log_prob_BT[counted.row, counted.tokens].double().cpu().numpy()
        plan = counted.window
        log_prob_T[counted.document][plan.start - len(start) : plan.end - len(start)] = found_T
    return log_prob_T


class Counted(NamedTuple):
    """A window that was read.

    Attributes:
        document: its place among the documents.
        window: what was read of it.
        reading: of this window and others.
        row: of the reading.
        tokens: of the row, that are counted.
    """

    document: int
    window: Window
    reading: Reading
    row: int
    tokens: slice


def read_windows(
    model: Model,
    rows: Sequence[list[int]],
    num_given: int,
    window: int,
    stride: int,
    *,
    batch_tokens: int = BATCH_TOKENS,
    with_ratios: bool = False,
) -> Iterator[Counted]:
    """Read documents of any length, several windows at once; which come together depends on the documents alone.

    Args:
        model: the composition.
        rows: tokens of the documents.
        num_given: tokens at the start of each that are only read.
        window: most tokens read at once.
        stride: tokens by which windows move.
        batch_tokens: most tokens read at once, padding included; a single window may be longer.
        with_ratios: whether to find each factor's evidence.
    """
    as_text = learns_from_text(model.factor)

    def split(plan: Window) -> int:
        """Where the prefix ends: before the counted tokens, unless all must be read as text."""
        return max(plan.first + 1, num_given) if as_text else plan.start

    plans = [(d, plan) for d, row in enumerate(rows) for plan in windows(len(row), window, stride, num_given)]
    plans.sort(key=lambda job: (split(job[1]) - job[1].first, job[1].end - split(job[1])))
    sizes = [(split(plan) - plan.first, plan.end - split(plan)) for _, plan in plans]
    for batch in _batches(sizes, batch_tokens, longest_window(model.factor)):
        jobs = plans[batch]
        reading = read(
            model.factor,
            pad_left([rows[d][plan.first : split(plan)] for d, plan in jobs]),
            pad_right([rows[d][split(plan) : plan.end] for d, plan in jobs]),
            with_ratios=with_ratios,
        )
        for row, (d, plan) in enumerate(jobs):
            yield Counted(d, plan, reading, row, slice(plan.start - split(plan), plan.end - split(plan)))


def _batches(sizes: Sequence[tuple[int, int]], batch_tokens: int, longest: int) -> Iterator[slice]:
    """Stretches of windows, in order, of which prefixes and texts, padded, are not too many tokens."""
    first = 0
    while first < len(sizes):
        prefix, text = sizes[first]
        is_full, is_even = prefix + text > longest, True
        last = first + 1
        while last < min(len(sizes), first + BATCH_ROWS):
            wider = max(prefix, sizes[last][0]), max(text, sizes[last][1])
            # Of the longest text of a batch the last token is not read, but of shorter ones it is.
            is_full, is_even = is_full or sum(sizes[last]) > longest, is_even and sizes[last][1] == text
            if (last + 1 - first) * sum(wider) > batch_tokens or (is_full and not is_even):
                break
            (prefix, text), last = wider, last + 1
        yield slice(first, last)
        first = last
