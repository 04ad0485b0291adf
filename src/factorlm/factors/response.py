"""Dose and response: what a factor used alone does to texts at each strength, in the eyes of a judge."""

# Axes: B texts, C conditions, K tokens in order, O openings, S samples of an opening, V vocabulary.

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from factorlm.algebra import pad_left
from factorlm.factors.calibration import OPENINGS
from factorlm.factors.examples import Example
from factorlm.factors.head import Head
from factorlm.factors.headed import HeadedModel
from factorlm.factors.manifest import Dose, Response
from factorlm.factors.nucleus import draw_nucleus
from factorlm.models import CausalLM
from factorlm.models.progress import Report, quiet

Judge = Callable[[list[str]], Sequence[bool]]  # whether each text has the attribute

STRENGTHS = (-0.4, 0.0, 0.2, 0.4, 0.6)
# More neutral openings of ours beside those where strengths are measured.
MORE_OPENINGS = (
    "Yesterday evening", "The man at the station", "It was about five when", "The first thing I noticed was",
    "Our teacher explained that", "The garden behind the house", "They had been waiting for", "A friend of mine once",
    "The letter began with", "The bus to the airport", "People often ask me about", "The second part of the book",
    "In my opinion the hotel", "Last summer my family", "The old woman and her son", "The museum in the city",
)  # fmt: skip
NUM_SAMPLES, NUM_TOKENS, TOP_P = 4, 20, 0.9
LARGEST_BATCH = 256
FOLDS = 5


@dataclass(frozen=True, eq=False)
class Continued:
    """Continuations under one exponent.

    Attributes:
        token_BT: what was drawn.
        hidden_BTD: the encoder's states from which each token was predicted; heads do not change them.
    """

    token_BT: Tensor
    hidden_BTD: Tensor

    @property
    def token_ids(self) -> list[list[int]]:
        """The tokens of each text."""
        return self.token_BT.tolist()

    def base_nats(self, lm: CausalLM) -> Tensor:
        """Nats per token of each text under the model alone, [B], without reading it again."""
        log_prob_N = lm.log_prob_of(self.hidden_BTD.flatten(0, 1), self.token_BT.flatten().to(lm.device))
        return -log_prob_N.view(self.token_BT.shape).mean(1).cpu()


def continuations(
    lm: CausalLM,
    head: Head,
    exponents: Sequence[float],
    openings: Sequence[str],
    *,
    num_samples: int,
    num_tokens: int,
    seed: int,
    report: Report = quiet,
    stage: str = "writing texts",
) -> list[Continued]:
    """Continuations of the openings under each exponent, all of one length, without end tokens.

    Texts are listed under each exponent opening by opening; the same seed gives each exponent other draws.
    """
    prompts = [[*lm.start_ids, *lm.encode_text(opening)] for opening in openings for _ in range(num_samples)]
    rows = [prompt for _ in exponents for prompt in prompts]
    exponent_B = torch.tensor(exponents).repeat_interleave(len(prompts))
    generator = torch.Generator().manual_seed(seed)
    num_batches = -(-len(rows) // LARGEST_BATCH)
    tokens, hidden = [], []
    for number in range(num_batches):
        batch = slice(number * LARGEST_BATCH, (number + 1) * LARGEST_BATCH)
        model = HeadedModel(lm, (head,), (exponent_B[batch],))
        state = model.start(pad_left(rows[batch]))
        written: list[Tensor] = []
        states: list[Tensor] = []
        for step in range(num_tokens):
            log_prob_BV = state.log_weight_BV.clone()
            log_prob_BV[:, list(lm.vocabulary.end_ids)] = -torch.inf
            written.append(draw_nucleus(log_prob_BV.softmax(-1), TOP_P, generator).cpu())
            states.append(state.memory[0].hidden_BD)
            if step + 1 < num_tokens:
                state = model.extend(state, written[-1].to(lm.device))
            report(stage, number * num_tokens + step + 1, num_batches * num_tokens)
        tokens.append(torch.stack(written, 1))
        hidden.append(torch.stack(states, 1))
    token_BT, hidden_BTD = torch.cat(tokens), torch.cat(hidden)
    parts = zip(token_BT.split(len(prompts)), hidden_BTD.split(len(prompts)), strict=True)
    return [Continued(token_PT, hidden_PTD) for token_PT, hidden_PTD in parts]


def decoded(lm: CausalLM, token_ids: Sequence[int]) -> str:
    """The text of some tokens; bytes that are no character are replaced."""
    return lm.vocabulary.text(token_ids).strip()


@torch.no_grad()
def measure_response(
    lm: CausalLM,
    head: Head,
    judge: Judge,
    *,
    judge_name: str,
    accuracy: float,
    strengths: Sequence[float] = STRENGTHS,
    num_samples: int = NUM_SAMPLES,
    seed: int = 0,
    report: Report = quiet,
) -> Response | None:
    """Continue neutral openings at each strength; judge the continuations and price them under the base model.

    Args:
        lm: the encoder of the head.
        head: with its strength map.
        judge: reads continuations without their openings.
        judge_name: for the card.
        accuracy: of the judge on texts held out from it.
        strengths: in signed nats per token; those that the head cannot reach are left out, 0 is always measured.
        num_samples: of each opening.
        seed: of the draws.
        report: told of progress.

    Returns:
        Doses by rising strength, or None for a head without a strength map, which moves nothing.
    """
    if head.strengths is None:
        return None
    reached = [0.0, *(s for s, _ in head.strengths.points if s)]
    chosen = sorted(s for s in {0.0, *strengths} if min(reached) <= s <= max(reached))
    openings = (*OPENINGS, *MORE_OPENINGS)
    base, base_nats_B = _base_texts(lm, openings, num_samples, seed)
    steered = [s for s in chosen if s]
    written = continuations(
        lm, head, [head.strengths.exponent(s) for s in steered], openings,
        num_samples=num_samples, num_tokens=NUM_TOKENS, seed=seed + 1, report=report, stage="dose and response",
    )  # fmt: skip
    by_strength = dict(zip(steered, written, strict=True)) | {0.0: base}
    texts = [decoded(lm, row) for s in chosen for row in by_strength[s].token_ids]
    verdict_COS = torch.tensor([float(v) for v in judge(texts)]).reshape(len(chosen), len(openings), num_samples)
    doses = []
    for c, strength in enumerate(chosen):
        rate_O = verdict_COS[c].mean(1)
        nats_B = by_strength[strength].base_nats(lm) if strength else base_nats_B
        doses.append(
            Dose(
                strength=strength,
                rate=round(float(rate_O.mean()), 4),
                rate_error=round(float(rate_O.std() / len(openings) ** 0.5), 4),
                perplexity_ratio=round(float((nats_B.mean() - base_nats_B.mean()).exp()), 4),
                distinct=round(_distinct(by_strength[strength].token_ids), 4),
            )
        )
    return Response(
        judge=judge_name,
        accuracy=round(accuracy, 4),
        num_texts=len(openings) * num_samples,
        num_tokens=NUM_TOKENS,
        doses=tuple(doses),
    )


def sentence_judge(examples: Sequence[Example]) -> tuple[Judge, float]:
    """Logistic regression on sentence embeddings, learned from these texts, and its accuracy by cross-validation.

    Take texts that the head did not learn from; then the two share neither an encoder nor a text. The accuracy is the
    mean over both classes.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_score

    from factorlm.models.sentences import load_sentence_encoder

    encoder = load_sentence_encoder()
    fit = LogisticRegression(class_weight="balanced", max_iter=2000)
    vectors, labels = encoder.encode([e.text for e in examples]).numpy(), [e.is_positive for e in examples]
    folds = min(FOLDS, sum(labels), len(labels) - sum(labels))
    accuracy = float(cross_val_score(fit, vectors, labels, cv=folds, scoring="balanced_accuracy").mean())
    fit.fit(vectors, labels)
    return lambda texts: [bool(verdict) for verdict in fit.predict(encoder.encode(texts).numpy())], accuracy


@functools.lru_cache(maxsize=2)
def _base_texts(lm: CausalLM, openings: tuple[str, ...], num_samples: int, seed: int) -> tuple[Continued, Tensor]:
    """What the model writes unsteered, the same for every factor, and its nats per token."""
    from factorlm.factors.head import HeadWeights

    nothing = Head("nothing", HeadWeights.shift(torch.zeros(lm.width, device=lm.device)), lm)
    (base,) = continuations(
        lm, nothing, [0.0], openings, num_samples=num_samples, num_tokens=NUM_TOKENS, seed=seed
    )  # fmt: skip
    return base, base.base_nats(lm)


def _distinct(ids: list[list[int]]) -> float:
    """Share of different trigrams among those of all texts together."""
    trigrams = [tuple(row[t : t + 3]) for row in ids for t in range(len(row) - 2)]
    return len(set(trigrams)) / max(1, len(trigrams))
