"""Measures of any composition: suites, judges, reports, claims and speed."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from factorlm.evaluation.corpora import DataFolder
    from factorlm.evaluation.document import Report
    from factorlm.evaluation.intervals import Comparison, Estimate
    from factorlm.evaluation.report import terminal, write_report
    from factorlm.evaluation.run import evaluate
    from factorlm.evaluation.suites import SUITES
    from factorlm.evaluation.workbench import Cache

# Loaded when first used: the command line's help needs only the names of the suites.
_HOMES = {
    "SUITES": "suites",
    "Cache": "workbench",
    "Comparison": "intervals",
    "DataFolder": "corpora",
    "Estimate": "intervals",
    "Report": "document",
    "evaluate": "run",
    "terminal": "report",
    "write_report": "report",
}

__all__ = [
    "SUITES",
    "Cache",
    "Comparison",
    "DataFolder",
    "Estimate",
    "Report",
    "evaluate",
    "terminal",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"factorlm.evaluation.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'factorlm.evaluation' has no attribute {name!r}")
