"""One fine-tuned model for several constraints: what factors are held against.

Its texts are a mixture: as many of each constraint, each of which meets its own constraint and was not chosen for the
others. Texts known to meet all constraints at once do not exist in such data.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from factorlm.algebra import Factor
from factorlm.errors import InputError
from factorlm.evaluation.constrained.constraints import Constraint, ExamplesOf, split_of
from factorlm.evaluation.lora import train_lora
from factorlm.evaluation.workbench import Workbench
from factorlm.factors.contrast import contrast
from factorlm.factors.features import LONGEST_TEXT
from factorlm.models import CausalLM
from factorlm.models.fetch import cache_folder
from factorlm.models.lora import Adapter, LoraSettings, merged, notes_of


@dataclass(frozen=True, eq=False)
class Monolith:
    """A model fine-tuned towards all constraints at once.

    Attributes:
        adapter: what was trained.
        seconds: that it took when it was trained.
        num_texts: that it learned from.
        fingerprint: of all that it depends on.
    """

    adapter: Adapter
    seconds: float
    num_texts: int
    fingerprint: str

    def ratio(self, lm: CausalLM) -> Factor:
        """The factor tuned / base: at exponent one the tuned model, between zero and one on the way to it."""
        return contrast("monolithic", merged(lm, self.adapter), lm)


def mixture(constraints: Sequence[Constraint], examples_of: ExamplesOf, most: int) -> list[str]:
    """At most this many texts of each constraint, none of which is held out for judges.

    Raises:
        InputError: if there are none of a constraint.
    """
    texts = []
    for constraint in constraints:
        mine = constraint.meeting(split_of(examples_of, constraint).train)
        texts += mine[:most]  # they are sorted by a hash, so the first are as good as any
    return texts


def fine_tuned(
    bench: Workbench,
    lm: CausalLM,
    constraints: Sequence[Constraint],
    examples_of: ExamplesOf,
    settings: LoraSettings,
    *,
    most: int,
) -> Monolith:
    """The base fine-tuned towards constraints, or the one that was trained before with the same texts and settings.

    Args:
        bench: seed and progress; without a cache it is trained anew and not kept.
        lm: the base.
        constraints: all at once.
        examples_of: labelled texts of an attribute.
        settings: of the adapter and its training.
        most: texts of each constraint.
    """
    texts = mixture(constraints, examples_of, most)
    content = [lm.fingerprint, str(lm.model.dtype), settings.model_dump(mode="json"), bench.seed, LONGEST_TEXT, texts]
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:24]
    path = cache_folder() / "monolithic" / f"{digest}.safetensors"
    if bench.cache.folder is not None and path.is_file():
        return Monolith(Adapter.load(path), float(notes_of(path)["seconds"]), len(texts), digest)
    stage = "fine-tuning: " + ", ".join(c.title for c in constraints)
    tuned = train_lora(lm, texts, settings, seed=bench.seed, stage=stage, report=bench.report)
    if bench.cache.folder is not None:
        _keep(tuned.adapter, path, tuned.seconds)
    return Monolith(tuned.adapter, tuned.seconds, len(texts), digest)


def _keep(adapter: Adapter, path: Path, seconds: float) -> None:
    try:
        adapter.save(path, seconds=repr(seconds))
    except OSError as error:
        raise InputError(
            f"{path.parent} cannot be written: {error.strerror or error}; set FACTORLM_CACHE, or use --no-cache"
        ) from None
