"""Priors learned for an evaluation, kept in its cache: a run that was stopped goes on, one that was done is read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

from factorlm.evaluation.workbench import Workbench
from factorlm.models import CausalLM
from factorlm.models.progress import Report
from factorlm.prior import Fitting, Prior, fit, is_prior


def fitted(bench: Workbench, lm: CausalLM, texts: Sequence[str], settings: Fitting, *, title: str) -> Prior:
    """A prior learned from texts, or the one kept from an equal run.

    Args:
        bench: whose cache and progress bar are used.
        lm: the base.
        texts: to learn from.
        settings: how.
        title: for the progress bar.
    """
    report = titled(bench.report, title)
    if bench.cache.folder is None:
        return fit(lm, texts, settings, corpus=title, report=report)
    content = [lm.fingerprint, str(lm.model.dtype), settings.model_dump_json(), list(texts)]
    place = Path(bench.cache.folder) / "priors" / hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]
    if is_prior(place):
        return Prior.load(place, lm)
    checkpoint = place.with_name(f"{place.name}.checkpoint")
    prior = fit(lm, texts, settings, corpus=title, checkpoint=checkpoint, report=report)
    prior.save(place, replace=True)
    return prior


def titled(report: Report, title: str) -> Callable[[str, int, int], None]:
    """Progress that says of what it is."""
    return lambda stage, done, total: report(f"{title}: {stage}", done, total)
