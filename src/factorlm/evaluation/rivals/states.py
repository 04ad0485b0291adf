"""Hidden states of labelled texts with their labels, read once for all rivals that learn from them."""

# Axes: B texts, D width, N tokens laid end to end.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from factorlm.evaluation import clock
from factorlm.evaluation.rivals.kept import Checkpoint, Kept, Learned
from factorlm.evaluation.rivals.rival import digest, digest_of_tensors
from factorlm.factors.examples import Example
from factorlm.factors.features import Features, encode
from factorlm.models import CausalLM
from factorlm.models.progress import Report


@dataclass(frozen=True, eq=False)
class LabelledStates:
    """States before each token of some texts.

    Attributes:
        features: states, tokens and the text that each belongs to.
        label_B: 1 for a text with the attribute, else 0.
        seconds: that reading took when it was done.
    """

    features: Features
    label_B: Tensor
    seconds: float

    @property
    def label_N(self) -> Tensor:
        """The label of each token's text."""
        return self.label_B[self.features.owner_N]

    @property
    def fingerprint(self) -> str:
        """Of the states and labels."""
        return digest_of_tensors({"hidden": self.features.hidden_ND, "label": self.label_B})


def labelled_states(lm: CausalLM, examples: Sequence[Example], kept: Kept, report: Report) -> LabelledStates:
    """Read these texts, or find them read."""
    texts = [e.text for e in examples]
    key = {"what": "states", "model": lm.fingerprint, "dtype": str(lm.model.dtype), "texts": digest(texts)}

    def read(checkpoint: Checkpoint) -> Learned:
        start = clock.seconds(lm.device)
        features = encode(lm, texts, report=report, keep=False)
        found = {"hidden": features.hidden_ND, "token": features.token_N, "owner": features.owner_N}
        return Learned(found, clock.seconds(lm.device) - start)

    learned = kept.get("states", key, read)
    hidden_ND, token_N, owner_N = (learned.tensors[name] for name in ("hidden", "token", "owner"))
    label_B = torch.tensor([float(e.is_positive) for e in examples])
    return LabelledStates(Features(hidden_ND, token_N, owner_N), label_B, learned.seconds)
