"""Facts written one step at a time under a guard: a step that ruins the model is taken back."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from factorlm.models.causal import CausalLM
from factorlm.models.editing.artefact import Edits, StepCard
from factorlm.models.editing.facts import EditFact
from factorlm.models.editing.guard import Harm, harm_of, log_perplexity
from factorlm.models.editing.methods import EditSettings, Written, write_facts
from factorlm.models.editing.moments import moments
from factorlm.models.editing.patching import added, replaced
from factorlm.models.editing.sites import site_of
from factorlm.models.editing.values import drawn_prefixes
from factorlm.models.progress import Report, quiet


@dataclass(frozen=True)
class Tried:
    """A step, and what became of it.

    Attributes:
        step: its card.
        harm: by the guard.
        is_kept: whether it is among the edits now.
    """

    step: StepCard
    harm: Harm
    is_kept: bool


def edit_model(
    edits: Edits,
    facts: Sequence[EditFact],
    settings: EditSettings,
    *,
    texts: Sequence[str],
    guard: Sequence[str],
    is_forced: bool = False,
    max_tokens: int = 20_000,
    folder: Path | None = None,
    report: Report = quiet,
) -> tuple[Edits, list[Tried]]:
    """Write facts behind the edits that there are.

    Args:
        edits: of a base in float32; they stay as they are.
        facts: to be written; by MEMIT in one step, else a step each.
        settings: method and numbers.
        texts: of any kind, to take keys from.
        guard: sentences whose perplexity tells of harm.
        is_forced: keep a step although the model collapsed.
        max_tokens: of the texts.
        folder: where what was taken from texts is kept; None keeps it beside the models.
        report: told of progress.

    Returns:
        The edits with the steps that are kept, and all that were tried.
    """
    base = edits.base
    # The usual layer is written down, so that a card does not depend on what is usual later.
    settings = settings.model_copy(update={"layer": settings.layers(base)[-1]})
    sites = [site_of(base, layer) for layer in settings.layers(base)]
    moment_of = moments(base, sites, texts, max_tokens=max_tokens, folder=folder, report=report)
    prefixes = drawn_prefixes(base, settings.value.prefixes, settings.value.seed)
    before = log_perplexity(base, guard)
    groups = [list(facts)] if settings.method == "memit" else [[fact] for fact in facts]
    tried = []
    for n, group in enumerate(groups):
        start = time.monotonic()
        now = replaced(base, added(edits.changes), base.name) if edits.changes else base
        [written] = write_facts(now, group, settings, moment_of, prefixes=prefixes)
        step = _card(base, group, settings, written, math.exp(log_perplexity(written.lm, guard) - before))
        step = step.model_copy(update={"seconds": round(time.monotonic() - start, 2)})
        harm = harm_of(step.guard_ratio if step.guard_ratio is not None else math.nan)
        is_kept = is_forced or harm != "collapsed"
        if is_kept:
            edits = edits.with_step(step, written.change)
        tried.append(Tried(edits.card.steps[-1] if is_kept else step, harm, is_kept))
        report("editing", n + 1, len(groups))
    return edits, tried


def _card(
    base: CausalLM, facts: Sequence[EditFact], settings: EditSettings, written: Written, ratio: float
) -> StepCard:
    norms = [
        written.change[site.name].norm / float(site.weight_OF.norm())
        for site in (site_of(base, layer) for layer in settings.layers(base))
    ]
    return StepCard(
        facts=tuple(facts),
        settings=settings,
        layers=tuple(settings.layers(base)),
        relative_norms=tuple(norms),
        denominators=written.denominators,
        guard_ratio=ratio if math.isfinite(ratio) else None,
    )
