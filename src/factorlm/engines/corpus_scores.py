"""Scores of documents of any length; one that a model cannot read at once is read in sliding windows.

A document that fits into the window is scored as `factorlm score` does. A longer one is read in windows that move on by
`stride` tokens, and each token is counted once, in the first window that reaches it, so that behind the first window
every token has at least `window - stride + 1` tokens of context. Log probabilities and evidence are sums over all
tokens. What follows a text from its beginning (a grammar, the posterior of a mixture) begins anew in each window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from factorlm.algebra import names_of
from factorlm.errors import InputError
from factorlm.evaluation.perplexity import longest_window, read_windows, windows
from factorlm.inference import Model
from factorlm.inference.results import Score


@dataclass(frozen=True)
class Reach:
    """How far a model reads at once, in tokens.

    Attributes:
        window: most tokens read at once, start tokens included.
        stride: tokens by which windows move.
    """

    window: int
    stride: int


def reach_of(model: Model, window: int | None, stride: int | None) -> Reach:
    """The wanted window and stride, or all that the models can read and half of it.

    Raises:
        InputError: if a model cannot read the window, or the stride does not fit it.
    """
    longest = longest_window(model.factor)
    window = longest if window is None else window
    stride = max(1, window // 2) if stride is None else stride
    if not len(model.lm.start_ids) <= window <= longest:
        raise InputError(f"a window of at most {longest} tokens can be read, got {window}; take a smaller one")
    windows(window, window, stride, len(model.lm.start_ids))  # complains of a stride that does not fit
    return Reach(window, stride)


def score_texts(model: Model, texts: Sequence[str], reach: Reach) -> list[tuple[Score, int]]:
    """The score of each text, and the number of windows that it took; the end token is not counted.

    Raises:
        InputError: for a text that cannot be encoded.
    """
    start = list(model.lm.start_ids)
    encoded = [model.lm.encode_text(text) for text in texts]
    names = names_of(model.terms[1:])
    log_prob, base, num_windows = [0.0] * len(texts), [0.0] * len(texts), [0] * len(texts)
    ratios = [[0.0] * len(names) for _ in texts]
    rows = [[*start, *ids] for ids in encoded]
    for counted in read_windows(model, rows, len(start), reach.window, reach.stride, with_ratios=True):
        d, row, tokens, reading = counted.document, counted.row, counted.tokens, counted.reading
        assert reading.log_ratio_BTK is not None
        log_prob[d] += float(reading.log_prob_BT[row, tokens].double().sum())
        base[d] += float(reading.base_log_prob_BT[row, tokens].double().sum())
        found = reading.log_ratio_BTK[row, tokens].double().sum(0).tolist()
        ratios[d] = [a + b for a, b in zip(ratios[d], found, strict=True)]
        num_windows[d] += 1
    return [
        (
            Score(
                text=text,
                log_prob=log_prob[d],
                base_log_prob=base[d],
                num_tokens=len(encoded[d]),
                num_bytes=len(text.encode()),
                log_ratios=dict(zip(names, ratios[d], strict=True)),
            ),
            num_windows[d],
        )
        for d, text in enumerate(texts)
    ]
