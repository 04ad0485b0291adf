"""What a head does to texts: how far its two directions part, at equal divergence, in the eyes of a judge."""

# Axes: B texts, O openings, S samples of an opening and sign, V vocabulary.

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from factorlm.algebra import pad_left
from factorlm.factors.calibration import OPENINGS
from factorlm.factors.examples import Example
from factorlm.factors.features import Report, quiet
from factorlm.factors.head import Head
from factorlm.factors.headed import HeadedModel
from factorlm.models import CausalLM

Judge = Callable[[list[str]], Sequence[bool]]  # whether each text has the attribute

STRENGTH = 0.2  # nats per token: clear, and fluent still
NUM_SAMPLES, NUM_TOKENS, TOP_P = 4, 16, 0.9
RESAMPLES = 1000


class Separation(NamedTuple):
    """P(judged positive | +strength) - P(judged positive | -strength), and its standard error over openings."""

    value: float
    standard_error: float

    def exceeds(self, other: Separation) -> bool:
        """Whether this is larger by more than one standard error of the difference (by chance: one time in six)."""
        return self.value - other.value > (self.standard_error**2 + other.standard_error**2) ** 0.5


def separation(
    lm: CausalLM, head: Head, judge: Judge, *, strength: float = STRENGTH, seed: int = 0, report: Report = quiet
) -> Separation:
    """Continue the neutral openings in both directions, ask the judge, and resample the openings for the error.

    Args:
        lm: the encoder of the head.
        head: with its strength map; without one it moves nothing, so it separates nothing.
        judge: reads the continuations alone.
        strength: of both directions, in nats per token.
        seed: of the draws; two heads are compared under the same one.
        report: told of progress.
    """
    if head.strengths is None:
        return Separation(0.0, 0.0)
    generator = torch.Generator().manual_seed(seed)
    texts = _continuations(lm, head, strength, generator, report)
    verdict_2OS = torch.tensor([float(verdict) for verdict in judge(texts)]).reshape(2, len(OPENINGS), NUM_SAMPLES)
    gap_O = (verdict_2OS[0] - verdict_2OS[1]).mean(1)
    drawn = torch.randint(len(OPENINGS), (RESAMPLES, len(OPENINGS)), generator=generator)
    return Separation(float(gap_O.mean()), float(gap_O[drawn].mean(1).std()))


def sentence_judge(examples: Sequence[Example]) -> Judge:
    """Logistic regression on sentence embeddings, learned from these texts.

    Take texts that the head did not learn from; then the two share neither an encoder nor a text.
    """
    from sklearn.linear_model import LogisticRegression

    from factorlm.models.sentences import load_sentence_encoder

    encoder = load_sentence_encoder()
    fit = LogisticRegression(class_weight="balanced", max_iter=2000)
    fit.fit(encoder.encode([e.text for e in examples]).numpy(), [e.is_positive for e in examples])
    return lambda texts: [bool(verdict) for verdict in fit.predict(encoder.encode(texts).numpy())]


@torch.no_grad()
def _continuations(lm: CausalLM, head: Head, strength: float, generator: torch.Generator, report: Report) -> list[str]:
    """Texts in the order [sign, opening, sample], plus first, all of one length."""
    assert head.strengths is not None
    openings = [[*lm.start_ids, *lm.encode_text(opening)] for opening in OPENINGS for _ in range(NUM_SAMPLES)]
    exponents = [head.strengths.exponent(sign * strength) for sign in (1, -1)]
    exponent_B = torch.tensor(exponents).repeat_interleave(len(openings))
    model = HeadedModel(lm, (head,), (exponent_B,))
    state = model.start(pad_left(openings * 2))
    written: list[Tensor] = []
    for step in range(NUM_TOKENS):
        log_prob_BV = state.log_weight_BV.clone()
        log_prob_BV[:, list(lm.vocabulary.end_ids)] = -torch.inf
        written.append(_draw(log_prob_BV.softmax(-1), generator))
        if step + 1 < NUM_TOKENS:
            state = model.extend(state, written[-1].to(lm.device))
        report("comparing at equal divergence", step + 1, NUM_TOKENS)
    token_bytes = lm.vocabulary.token_bytes
    rows = torch.stack(written, 1).tolist()
    return [b"".join(token_bytes[token] for token in row).decode("utf-8", "replace").strip() for row in rows]


def _draw(prob_BV: Tensor, generator: torch.Generator) -> Tensor:
    """A token of each row, from the smallest set with the probability TOP_P."""
    sorted_BV, token_BV = prob_BV.cpu().sort(-1, descending=True)
    before_BV = sorted_BV.cumsum(-1) - sorted_BV
    kept_BV = torch.where(before_BV < TOP_P, sorted_BV, 0.0)
    return token_BV.gather(1, torch.multinomial(kept_BV, 1, generator=generator))[:, 0]
