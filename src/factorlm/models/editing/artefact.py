"""Edits on disk: a folder of a card and low-rank changes, which names its base and is loaded as a model.

The base is never changed: what an edited model is, is the base's weights plus the sum of the changes, added in float64
and rounded once. Taking an edit away builds the sum anew, so what stood before comes back to the bit.
"""

# Axes: F width of keys, N rank, O width of values.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from torch import Tensor

from factorlm.errors import IncompatibleError, InputError
from factorlm.models.card_folder import Card, CardFolder
from factorlm.models.causal import CausalLM
from factorlm.models.editing.algebra import LowRank
from factorlm.models.editing.facts import EditFact
from factorlm.models.editing.methods import EditSettings
from factorlm.models.editing.patching import Change, added, replaced, weights_hash
from factorlm.settings import Config


class StepCard(Config):
    """One application of a method.

    Attributes:
        facts: that it wrote.
        settings: it was done with.
        layers: that it changed.
        relative_norms: ‖ΔW‖ / ‖W‖ of each matrix, W being that of the base.
        denominators: of ROME's change.
        guard_ratio: perplexity of the guard's sentences behind this step, over that of the base.
        seconds: that it took.
        hash_before: of the matrices of the whole edit, before.
        hash_after: of the same, after.
    """

    facts: tuple[EditFact, ...]
    settings: EditSettings
    layers: tuple[int, ...]
    relative_norms: tuple[float, ...]
    denominators: tuple[float, ...] = ()
    guard_ratio: float | None = None
    seconds: float = 0.0
    hash_before: str = ""
    hash_after: str = ""


class EditCard(Card):
    """What is said of an edited model.

    Attributes:
        format: of this file.
        base: name of the model that is edited, as it can be loaded.
        base_fingerprint: of its weights.
        steps: in order.
    """

    format: Literal[1] = 1
    base: str
    base_fingerprint: str
    steps: tuple[StepCard, ...]


EDITS = CardFolder("edited model", "edit.json", EditCard, "factorlm models edit", "edit the model anew")


@dataclass(frozen=True, eq=False)
class Edits:
    """Edits of a model.

    Attributes:
        base: the model they are for.
        card: what is said of them.
        changes: of each step.
    """

    base: CausalLM
    card: EditCard
    changes: tuple[Change, ...]

    @classmethod
    def none(cls, base: CausalLM) -> Edits:
        """No edit yet."""
        return cls(base, EditCard(base=base.name, base_fingerprint=base.fingerprint, steps=()), ())

    def model(self, name: str) -> CausalLM:
        """The base with all changes beside its weights.

        Raises:
            IncompatibleError: if the base is another model than the card names.
        """
        if self.base.fingerprint != self.card.base_fingerprint:
            raise IncompatibleError(
                f"the edits are for {self.card.base} ({self.card.base_fingerprint}), got {self.base.name} "
                f"({self.base.fingerprint}); use that model or edit this one"
            )
        return replaced(self.base, added(self.changes), name) if self.changes else self.base

    def with_step(self, step: StepCard, change: Change) -> Edits:
        """One step more; its hashes are filled in."""
        return self._hashed([*self.card.steps, step], [*self.changes, change])

    def without(self, number: int) -> Edits:
        """All steps but one, the others as they were.

        Raises:
            InputError: if there is no such step.
        """
        if not 0 <= number < len(self.changes):
            known = f"edits 1 to {len(self.changes)}" if self.changes else "no edits"
            raise InputError(f"there are {known}, got {number + 1}; factorlm models edits lists them")
        steps, changes = list(self.card.steps), list(self.changes)
        del steps[number], changes[number]
        return self._hashed(steps, changes)

    def restores(self, smaller: Edits) -> bool:
        """Whether the matrices under fewer edits are, bit for bit, what they were before the others came.

        The first steps of both must be the same.
        """
        names = sorted({name for change in self.changes for name in change})
        then = self.card.steps[len(smaller.changes)].hash_before
        return weights_hash(smaller.model("restored"), names) == then

    def _hashed(self, steps: Sequence[StepCard], changes: Sequence[Change]) -> Edits:
        """With the hashes of these steps: those of all matrices that any of them changes."""
        names = sorted({name for change in changes for name in change})
        hashes = [
            weights_hash(replaced(self.base, added(changes[:n]), "step") if n else self.base, names)
            for n in range(len(changes) + 1)
        ]
        cards = tuple(
            step.model_copy(update={"hash_before": hashes[n], "hash_after": hashes[n + 1]})
            for n, step in enumerate(steps)
        )
        return replace(self, card=self.card.model_copy(update={"steps": cards}), changes=tuple(changes))

    def save(self, path: Path | str, *, replace: bool = False) -> None:
        """Write them as a folder.

        Raises:
            InputError: if there is something already and `replace` is not set, or the place cannot be written.
        """
        tensors: dict[str, Tensor] = {}
        for n, change in enumerate(self.changes):
            for where, part in change.items():
                tensors[f"{n}.up.{where}"], tensors[f"{n}.down.{where}"] = part.up_ON, part.down_NF
        EDITS.write(path, self.card, tensors, replace=replace)

    @classmethod
    def load(cls, path: Path | str, base: CausalLM) -> Edits:
        """Read edits for a base.

        Raises:
            InputError: if there are none.
            IntegrityError: if a file is not what the card says.
        """
        card, tensors = EDITS.read(path)
        changes: list[dict[str, LowRank]] = [{} for _ in card.steps]
        for name, up_ON in tensors.items():
            number, side, where = name.split(".", 2)
            if side == "up":
                down_NF = tensors[f"{number}.down.{where}"]
                changes[int(number)][where] = LowRank(up_ON.to(base.device), down_NF.to(base.device))
        return cls(base, card, tuple(changes))
