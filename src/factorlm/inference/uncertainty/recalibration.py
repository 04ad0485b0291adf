"""From an estimator's confidence to a chance of being right: maps that were fitted to one model's graded answers."""

# Axes: B answers.

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field, ValidationError, model_validator

from factorlm.errors import IncompatibleError, InputError
from factorlm.files import write_whole
from factorlm.inference.expression import Composed
from factorlm.inference.uncertainty.estimators import ESTIMATORS
from factorlm.models.fetch import cache_folder
from factorlm.settings import Config, explain_validation

SHELF = Path(__file__).parent / "shelf"  # maps for compositions that many people use
SHARPEST = 1e-6  # raw probabilities are kept this far from 0 and 1 where log odds are taken


class Map(Config):
    """From the confidence of one estimator to the chance that the answer is right.

    Attributes:
        method: temperature: log odds of the raw probability, divided; platt: sigmoid(slope x + offset); isotonic:
            a rising line through points.
        temperature: that log odds are divided by.
        slope: of the confidence.
        offset: of it.
        x: confidences of the points, rising.
        y: chances there, rising.
        error: debiased root of the squared calibration error, cross-fitted; None where it was not measured.
        auroc: of the confidence, on the same answers.
    """

    method: Literal["temperature", "platt", "isotonic"]
    temperature: float = 1.0
    slope: float = 1.0
    offset: float = 0.0
    x: tuple[float, ...] = ()
    y: tuple[float, ...] = ()
    error: float | None = None
    auroc: float | None = None

    @model_validator(mode="after")
    def _rises(self) -> Map:
        if self.method == "isotonic" and (not self.x or len(self.x) != len(self.y)):
            raise ValueError(f"as many chances as confidences are wanted, got {len(self.y)} and {len(self.x)}")
        if any(b < a for found in (self.x, self.y) for a, b in itertools.pairwise(found)):
            raise ValueError("points that rise are wanted")
        return self

    def probability(self, estimator: str, confidence: float) -> float:
        """The chance that an answer of this confidence is right."""
        return float(self.probabilities(estimator, [confidence])[0])

    def probabilities(self, estimator: str, confidence_B: ArrayLike) -> NDArray[np.float64]:
        """The chance for each confidence, [B]."""
        found_B = np.asarray(confidence_B, float)
        if self.method == "isotonic":
            return np.interp(found_B, self.x, self.y)
        if self.method == "platt":
            logit_B = self.slope * found_B + self.offset
        else:
            raw_B = np.array([ESTIMATORS[estimator].raw_probability(c) for c in found_B]).clip(SHARPEST, 1 - SHARPEST)
            logit_B = np.log(raw_B / (1 - raw_B)) / self.temperature
        return np.asarray(1 / (1 + np.exp(-np.clip(logit_B, -700, 700))))


class Recalibration(Config):
    """The maps of one composition.

    Attributes:
        format: of this file.
        expression: the composition.
        identity: of it, see `identity_of`.
        questions: whose graded answers the maps were fitted to, in words.
        number: of answers.
        accuracy: share of them that was right.
        asking: how they were asked; other ways need other maps.
        maps: by estimator.
    """

    format: Literal[1] = 1
    expression: str
    identity: str
    questions: str
    number: int
    accuracy: float
    asking: dict[str, object] = Field(default_factory=dict)
    maps: dict[str, Map]

    def check(self, composed: Composed) -> None:
        """Raise IncompatibleError if it was fitted to another composition."""
        identity = identity_of(composed)
        if identity != self.identity:
            raise IncompatibleError(
                f"this recalibration was fitted to {self.expression} ({self.identity}), got {composed.expression} "
                f"({identity}); fit one with factorlm eval uncertainty --model '{composed.expression}'"
            )

    def save(self, path: Path) -> None:
        """Write the file in one step."""
        write_whole(path, self.model_dump_json(indent=2) + "\n")


def read_recalibration(path: Path) -> Recalibration:
    """Read a file that `Recalibration.save` wrote.

    Raises:
        InputError: if it is not there or not one.
    """
    try:
        return Recalibration.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        raise explain_validation(error, str(path)) from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"a recalibration file is needed, got {path}: {reason}") from None


def identity_of(composed: Composed) -> str:
    """Hash of expression and parts, but not of the number format: numbers move by less than calibration cares."""
    parts = [[part["name"], part["kind"], part["fingerprint"]] for part in composed.parts]
    return hashlib.sha256(json.dumps([composed.expression, parts]).encode()).hexdigest()[:16]


def own_folder() -> Path:
    """Where recalibrations and P(IK) heads of one's own are kept, beside the models."""
    return cache_folder() / "uncertainty"


def found_for(composed: Composed, places: Sequence[Path] | None = None) -> Recalibration | None:
    """The recalibration of a composition: one's own, else one that is shipped, else None."""
    identity = identity_of(composed)
    for folder in places if places is not None else (own_folder(), SHELF):
        path = folder / f"{identity}.json"
        if path.is_file():
            return read_recalibration(path)
    return None
