"""What every rival has: a preparation from labelled texts, and a factor for each setting of its dial."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from factorlm.algebra import Factor, Product
from factorlm.evaluation.rivals.kept import Kept
from factorlm.factors.examples import Example, Split, evenly
from factorlm.inference.expression import Composed
from factorlm.inference.model import Model
from factorlm.models import CausalLM
from factorlm.models.progress import Report


class Rival(Protocol):
    """Another way of steering the same language model."""

    @property
    def name(self) -> str:
        """What tables and pictures call it."""

    @property
    def dial(self) -> str:
        """What its dial turns, in a few words."""

    @property
    def source(self) -> str:
        """Who published it, and what we do otherwise."""

    def prepare(self, lm: CausalLM, parts: Split, kept: Kept, report: Report) -> Prepared:
        """Learn what it needs from labelled texts, or find it learned already."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """A rival that is ready to steer.

    Attributes:
        name: of the rival.
        lm: the language model that it steers, which it leaves as it was.
        factor: from the dial to a factor beside the model; a negative dial steers away from the attribute. It must not
            come apart as a product, so that the model stays its own base: wrap it in Named.
        num_parameters: numbers that were learned.
        seconds: that learning took when it was done.
        settings: all that its numbers depend on beside the model.
        note: what the preparation chose, for the report.
    """

    name: str
    lm: CausalLM
    factor: Callable[[float], Factor]
    num_parameters: int
    seconds: float
    settings: str
    note: str = ""

    def composed(self, dial: float) -> Composed:
        """The steered model as a composition that suites can write with; dial 0 is the model as it is."""
        lm = self.lm
        parts = ({"name": lm.name, "kind": "model", "version": str(lm.model.dtype), "fingerprint": lm.fingerprint},)
        mine = {"name": self.name, "kind": "rival", "version": f"{dial:g}", "fingerprint": digest(self.settings)}
        steered = Product((lm, self.factor(dial))) if dial else lm
        fingerprint = digest([lm.fingerprint, str(lm.model.dtype), lm.device.type, self.name, self.settings, dial])
        return Composed(f"{lm.name} * {self.name}({dial:g})", Model(steered, lm), (*parts, mine), fingerprint)


def digest(value: object) -> str:
    """Hash of anything that JSON can hold."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()[:16]


def digest_of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Hash of numbers by name."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(name.encode() + tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()[:16]


def bounded(parts: Split, most: int) -> Split:
    """At most this many texts of each class to learn from, and a fifth of that to choose by, evenly taken."""
    return Split(_spread(parts.train, most), _spread(parts.dev, max(1, most // 5)))


def _spread(examples: Sequence[Example], most: int) -> tuple[Example, ...]:
    kept: list[Example] = []
    for is_positive in (True, False):
        mine = [e for e in examples if e.is_positive == is_positive]
        kept += evenly(mine, most)
    return tuple(kept)
