"""Taking edits back: whether the weights and every answer are what they were, to the bit."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from factorlm.evaluation.document import Column, Section, Table
from factorlm.evaluation.edited.cases import Case
from factorlm.evaluation.edited.ground import Ground
from factorlm.evaluation.edited.ways import IN_WEIGHTS, TUNED, Doses, written
from factorlm.evaluation.intervals import Estimate
from factorlm.evaluation.part import Part
from factorlm.evaluation.workbench import Workbench
from factorlm.models import CausalLM
from factorlm.models.editing.artefact import Edits, StepCard
from factorlm.models.editing.methods import METHODS
from factorlm.models.editing.patching import weights_hash
from factorlm.models.editing.sites import site_of


def measure_removal(bench: Workbench, ground: Ground, cases: Sequence[Case], doses: Doses) -> Part:
    """Write facts with each closed form, save them, and take them back one by one, the last one first.

    A removal counts as exact if the hash of the matrices is that from before the edit, and the last one only if the
    base answers as it did before all of them.
    """
    key = {"what": "removal", **ground.key, "facts": [case.fact.model_dump() for case in cases]}
    found: dict[str, list[float]] = bench.cache.get(key, lambda: _measured(bench, ground, cases, doses))
    rows = tuple((way, len(exact), sum(exact), sizes) for way, (exact, sizes) in _paired(found).items())
    table = Table(
        title="Edits taken back", rows=rows, columns=tuple(
            Column(title=title, form=form) for title, form in
            (("way", ".0f"), ("removals", ".0f"), ("exact", ".0f"), ("bytes of a saved edit", ".0f"))),
        note="Exact: the hash of the matrices is that from before the edit; after the last removal the base also gives "
        "a sentence the log probabilities that it gave before. Fine-tuning is not of low rank, so it is not saved.",
    )  # fmt: skip
    total = [x for exact, _ in _paired(found).values() for x in exact]
    share = Estimate(value=float(np.mean(total)), n=len(total))
    measures = {f"{ground.name}/removal": {"exact": share}}
    line = f"{ground.name}: {sum(total):.0f} of {len(total)} edits were taken back to the bit."
    return Part((Section(title="Taking edits back", blocks=(table,)),), measures, (line,))


def _paired(found: dict[str, list[float]]) -> dict[str, tuple[list[float], float]]:
    return {way: (values[:-1], values[-1]) for way, values in found.items()}


def _measured(bench: Workbench, ground: Ground, cases: Sequence[Case], doses: Doses) -> dict[str, list[float]]:
    return {way: _of_way(ground, way, cases, doses) for way in IN_WEIGHTS if way != TUNED}


def _of_way(ground: Ground, way: str, cases: Sequence[Case], doses: Doses) -> list[float]:
    base = ground.model.lm
    settings = doses.edit.model_copy(update={"method": METHODS[IN_WEIGHTS.index(way)]})
    names = [site_of(base, layer).name for layer in settings.layers(base)]
    hash_before, answers_before = weights_hash(base, names), _answers(base, ground.guard)
    edits = Edits.none(base)
    for case in cases:
        _, change, _ = written(ground, edits.model("now"), way, [case.fact], doses)
        card = StepCard(facts=(case.fact,), settings=settings, layers=tuple(settings.layers(base)), relative_norms=())
        edits = edits.with_step(card, change)  # type: ignore[arg-type]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "edited"
        edits.save(place)
        size = sum(path.stat().st_size for path in place.iterdir()) / len(cases)
        kept = Edits.load(place, base)
    answers_after = _answers(kept.model("all"), ground.guard)
    exact = []
    for _ in cases:  # the last edit goes first, since the hash from before it is on its card
        less = kept.without(len(kept.changes) - 1)
        exact.append(float(kept.restores(less)))
        kept = less
    is_base = weights_hash(base, names) == hash_before and torch.equal(_answers(base, ground.guard), answers_before)
    exact[-1] *= float(is_base and not torch.equal(answers_before, answers_after))
    return [*exact, size]


def _answers(lm: CausalLM, sentences: Sequence[str]) -> torch.Tensor:
    """Log probabilities of the tokens of a sentence, read anew."""
    row = torch.tensor([lm.encode_text(sentences[0])], device=lm.device)
    return lm.twin().score(torch.tensor([lm.start_ids], device=lm.device), row)
