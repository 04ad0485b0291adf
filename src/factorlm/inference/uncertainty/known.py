"""P(IK): a head that reads the state behind a question and says how likely the model is to answer it rightly.

It is a logistic regression on the shared encoder's last hidden state, learned from the model's own samples, graded:
the target of a question is the share that is right.

Source: Kadavath et al. (2022), arXiv:2207.05221; they fine-tune the whole model with the head, we learn the head alone.
"""

# Axes: B questions, D width.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError

from factorlm.algebra import pad_left
from factorlm.errors import IncompatibleError, InputError, IntegrityError
from factorlm.files import write_whole_folder
from factorlm.inference.model import Model
from factorlm.inference.uncertainty.evidence import READ_TOKENS, Query, prompt_ids_of
from factorlm.models import CausalLM
from factorlm.models.download import file_sha256
from factorlm.settings import Config, explain_validation

Array = NDArray[np.float64]
CARD, WEIGHTS = "known.json", "weights.safetensors"
STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # inverse penalties on standardised states that are tried
FOLDS = 5


class KnownCard(Config):
    """What a head of this kind must tell.

    Attributes:
        format: of this file.
        encoder: name of the language model.
        encoder_fingerprint: of its weights: for another model the head is worthless, and refused.
        expression: the composition whose answers were graded.
        questions: what it learned from, in words.
        number: of questions.
        share_right: of their samples.
        strength: inverse penalty, chosen by cross-validation.
        loss: cross-validated, in nats; that of the constant share is `constant_loss`.
        constant_loss: of saying the share of right samples.
        sha256: of the weights.
    """

    format: Literal[1] = 1
    encoder: str
    encoder_fingerprint: str
    expression: str
    questions: str
    number: int
    share_right: float
    strength: float
    loss: float
    constant_loss: float
    sha256: str = ""


@dataclass(frozen=True, eq=False)
class Known:
    """The head: log odds w . h + b of knowing the answer.

    Attributes:
        weight_D: w.
        offset: b.
        card: where it comes from.
    """

    weight_D: Array
    offset: float
    card: KnownCard

    def logits(self, state_BD: Array) -> Array:
        """Log odds that each question is known, [B]."""
        return np.asarray(state_BD @ self.weight_D + self.offset)

    def check(self, lm: CausalLM) -> None:
        """Raise IncompatibleError if it was learned on another model."""
        if lm.fingerprint != self.card.encoder_fingerprint:
            raise IncompatibleError(
                f"this P(IK) head reads states of {self.card.encoder} ({self.card.encoder_fingerprint}), got "
                f"{lm.name} ({lm.fingerprint}); train one with factorlm eval uncertainty --model {lm.name}"
            )

    def save(self, folder: Path) -> None:
        """Write the folder in one step."""
        from safetensors.torch import save_file

        def write(place: Path) -> None:
            tensors = {
                "weight": torch.tensor(self.weight_D),
                "offset": torch.tensor([self.offset], dtype=torch.float64),
            }
            save_file(tensors, place / WEIGHTS)
            card = self.card.model_copy(update={"sha256": file_sha256(place / WEIGHTS)})
            (place / CARD).write_text(card.model_dump_json(indent=2) + "\n", encoding="utf-8")

        write_whole_folder(folder, write)

    @staticmethod
    def load(folder: Path) -> Known:
        """Read a folder that `save` wrote.

        Raises:
            InputError: if there is none.
            IntegrityError: if the weights are not those of the card.
        """
        from safetensors.torch import load_file

        try:
            card = KnownCard.model_validate_json((folder / CARD).read_text(encoding="utf-8"))
            if file_sha256(folder / WEIGHTS) != card.sha256:
                raise IntegrityError(f"{folder / WEIGHTS} is not what its card says; train the head anew")
            tensors = load_file(folder / WEIGHTS)
        except ValidationError as error:
            raise explain_validation(error, str(folder / CARD)) from None
        except OSError as error:
            raise InputError(f"a folder with a P(IK) head is needed, got {folder}: {error.strerror or error}") from None
        return Known(tensors["weight"].double().numpy(), float(tensors["offset"][0]), card)


@torch.no_grad()
def question_states(model: Model, queries: Sequence[Query]) -> Array:
    """The encoder's last hidden state behind each prompt, [B, D]."""
    rows = [prompt_ids_of(model, query) for query in queries]
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    state_BD = np.zeros((len(rows), model.lm.width))
    while order:
        size = max(1, READ_TOKENS // len(rows[order[-1]]))
        batch, order = order[:size], order[size:]
        state_BD[batch] = model.lm.encode(pad_left([rows[i] for i in batch])).hidden_BD.double().cpu().numpy()
    return state_BD


def train_known(
    state_BD: Array,
    share_B: Array,
    *,
    lm: CausalLM,
    expression: str,
    questions: str,
    groups: Sequence[object] | None = None,
    seed: int = 0,
) -> Known:
    """Learn the head: least cross-entropy between its probability and the share of right samples.

    The penalty is chosen by cross-validation over groups, so that nothing of one entity helps to judge another.

    Args:
        state_BD: see `question_states`.
        share_B: of right samples of each question.
        lm: whose states these are.
        expression: of the composition that answered.
        questions: what they are, for the card.
        groups: questions of one group, such as of one entity, stay together; None takes each by itself.
        seed: of the folds.

    Raises:
        InputError: if there are fewer than FOLDS groups, or all samples are right, or none is.
    """
    share_B = np.asarray(share_B, float)
    fold_B = folds_of(groups if groups is not None else range(len(share_B)), FOLDS, seed)
    if share_B.max(initial=0) == 0 or share_B.min(initial=1) == 1:
        raise InputError(f"right and wrong samples are needed, got {share_B.mean():.0%} right; ask easier questions")
    losses = {}
    for strength in STRENGTHS:
        logit_B = np.zeros(len(share_B))
        for fold in range(FOLDS):
            out_B = fold_B == fold
            weight_D, offset = _fit(state_BD[~out_B], share_B[~out_B], strength)
            logit_B[out_B] = state_BD[out_B] @ weight_D + offset
        losses[strength] = float(np.mean(np.logaddexp(0, logit_B) - share_B * logit_B))
    best = min(losses, key=lambda strength: losses[strength])
    weight_D, offset = _fit(state_BD, share_B, best)
    base = float(share_B.mean())
    card = KnownCard(
        encoder=lm.name,
        encoder_fingerprint=lm.fingerprint,
        expression=expression,
        questions=questions,
        number=len(share_B),
        share_right=base,
        strength=best,
        loss=losses[best],
        constant_loss=float(-(base * np.log(base) + (1 - base) * np.log(1 - base))),
    )
    return Known(weight_D, offset, card)


def folds_of(groups: Sequence[object] | range, folds: int, seed: int) -> Any:
    """The fold of each item; items of one group share theirs.

    Raises:
        InputError: if there are fewer groups than folds.
    """
    _, group_B = np.unique([str(group) for group in groups], return_inverse=True)
    number = int(group_B.max(initial=-1)) + 1
    if number < folds:
        raise InputError(f"{folds} groups of questions or more are needed, got {number}; ask more")
    return np.random.default_rng(seed).permutation(np.arange(number) % folds)[group_B]


def _fit(state_BD: Array, share_B: Array, strength: float) -> tuple[Array, float]:
    """Weights on states as they are, learned on standardised ones."""
    from sklearn.linear_model import LogisticRegression

    mean_D, scale_D = state_BD.mean(0), state_BD.std(0) + 1e-6
    scaled_BD = (state_BD - mean_D) / scale_D
    both_BD = np.concatenate([scaled_BD, scaled_BD])  # each question as right and as wrong, weighed by its share
    label_B = np.concatenate([np.ones(len(share_B)), np.zeros(len(share_B))])
    weight_B = np.concatenate([share_B, 1 - share_B])
    kept_B = weight_B > 0
    if len(set(label_B[kept_B])) < 2:  # a fold with one kind only: the constant
        base = float(np.clip(share_B.mean(), 0.01, 0.99))
        return np.zeros(state_BD.shape[1]), float(np.log(base / (1 - base)))
    fit = LogisticRegression(C=strength, max_iter=2000)
    fit.fit(both_BD[kept_B], label_B[kept_B], sample_weight=weight_B[kept_B])
    weight_D = fit.coef_[0] / scale_D
    return np.asarray(weight_D), float(fit.intercept_[0] - mean_D @ weight_D)
