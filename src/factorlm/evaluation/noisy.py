"""Prompts with errors: every suite that asks what stands in data can be asked it with typos, chatter and so on."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from factorlm.errors import InputError
from factorlm.evaluation.corpora import DataFolder
from factorlm.text.perturbations import Noise

ASKED = ("prompt", "question")  # columns that hold what a model is asked
LEARNT = "train"  # parts with this in their names hold examples and training texts, which stay as they are


@dataclass(frozen=True)
class NoisyData(DataFolder):
    """Data sets whose prompts and questions have errors; answers, passages and training parts stay as they are.

    Attributes:
        noise: what is done to them.
        seed: of the errors.
        asked: how many were read, by whether they were changed.
    """

    noise: Noise = field(default_factory=lambda: Noise(()))
    seed: int = 0
    asked: Counter[bool] = field(default_factory=Counter, compare=False)

    def rows(self, part: str) -> list[dict[str, Any]]:
        """As `DataFolder.rows`, with errors."""
        rows = super().rows(part)
        if LEARNT in part.rpartition("/")[2]:
            return rows
        return [{k: self.asking(v) if k in ASKED and isinstance(v, str) else v for k, v in r.items()} for r in rows]

    def asking(self, text: str) -> str:
        """A prompt with errors."""
        found = self.noise.text(text, self.seed)
        self.asked[found != text] += 1
        return found


def noisy(data: DataFolder, errors: str, seed: int) -> NoisyData:
    """The same data with errors in its prompts.

    Raises:
        InputError: if the errors are of a kind that needs marked stretches, which prompts have not.
    """
    noise = Noise.of(errors)
    if noise.needs_spans:
        raise InputError(
            f"errors that need no marked slots are wanted for prompts, got {noise}; take typos, for example"
        )
    return NoisyData(data.folder, noise, seed)


def told(data: DataFolder, suite: str) -> list[str]:
    """What the report says of errors in prompts; nothing where there are none.

    Raises:
        InputError: if errors were wanted and the suite read no prompts from data, so that its numbers are clean ones.
    """
    if not isinstance(data, NoisyData):
        return []
    total = sum(data.asked.values())
    if not total:
        raise InputError(
            f"the suite {suite} reads no prompts or questions from data, so none could get errors ({data.noise}); "
            "leave --perturb out, or take a suite such as capability or toxicity"
        )
    return [
        f"Prompts have errors made on purpose ({data.noise}, seed {data.seed}); of all prompts in the data read, "
        f"{data.asked[True] / total:.0%} were changed. Examples before a prompt, passages and answers have none."
    ]
