"""Claims about slots found under errors, which rest on the record of the suite `robustness`."""

from __future__ import annotations

import functools
from typing import Any

from factorlm.evaluation.claims.claim import Verdict, all_of, decide
from factorlm.evaluation.claims.recorded import on_record
from factorlm.evaluation.intervals import Estimate

RECORD = "robustness/report.json"
MADE_BY = "factorlm eval robustness --out benchmarks/records/robustness"
DONG = "Dong et al. 2023, Noise-LLM, arXiv:2310.06504"
LEAST_REPAIR, MOST_LOST, LEAST_HELP = 0.10, 0.02, 0.05  # of F1
Found = dict[str, dict[str, Estimate]]
Decided = tuple[str, dict[str, Any], Verdict]

_claim = functools.partial(on_record, RECORD, MADE_BY)


def _of(found: Found, start: str, end: str = "") -> Found:
    """Measures whose names begin and end so, by what stands between."""
    names = (name for name in found if name.startswith(start) and name.endswith(end))
    return {name.removeprefix(start).removesuffix(end): found[name] for name in names}


def _told(values: dict[str, Estimate]) -> str:
    return "; ".join(f"{estimate} ({of})" for of, estimate in values.items())


def _typos(found: Found) -> Decided:
    rows = {name: by["F1"] for name, by in _of(found, "next worst less typos/slots/", ", clean").items()}
    said = f"lowest F1 under other errors less that under typos: {_told(rows)}"
    verdicts = [decide(estimate, 0.0, above=True) for estimate in rows.values()]
    return said, {name: e.value for name, e in rows.items()}, all_of(verdicts)


def _mixed(found: Found) -> Decided:
    rows = {
        f"{name}, {mixture}": estimate
        for name, by in _of(found, "worst part less mixture/slots/", ", clean").items()
        for mixture, estimate in by.items()
    }
    milder = [name for name, e in rows.items() if e.high is not None and e.high < 0]
    values = [e.value for e in rows.values() if e.value is not None]
    said = f"F1 under the worst part less that under the mixture: {min(values):.3f} to {max(values):.3f} in {len(rows)}"
    verdict: Verdict = "does not hold here" if milder else "holds" if min(values) >= 0 else "not shown"
    return said + (f"; milder: {', '.join(milder)}" if milder else ""), {n: e.value for n, e in rows.items()}, verdict


def _repairs(found: Found) -> Decided:
    rows = _of(found, "augmentation/slots/")
    gains = {name: by["noisy F1 gained"] for name, by in rows.items()}
    losses = {name: by["clean F1 lost"] for name, by in rows.items()}
    verdicts = [decide(e, LEAST_REPAIR, above=True) for e in gains.values()]
    verdicts += ["holds" if (e.value or 0.0) <= MOST_LOST else "does not hold here" for e in losses.values()]
    recorded = {
        name: (taught["mean"].value or 0.0) - (plain["mean"].value or 0.0)
        for name, taught in _means(found, ", augmented").items()
        for plain in [_means(found, ", clean")[name]]
    }
    extra = "; on recorded errors " + "; ".join(f"{v:+.3f} ({n})" for n, v in recorded.items()) if recorded else ""
    said = f"noisy F1 gained: {_told(gains)}; clean F1 lost: {_told(losses)}{extra}"
    numbers = {name: {"gained": gains[name].value, "lost": losses[name].value} for name in rows} | {
        "recorded": recorded
    }
    return said, numbers, all_of(verdicts)


def _means(found: Found, end: str) -> Found:
    """Mean F1 over recorded errors of each tagger, without an interval."""
    rows = _of(found, "F1/recorded slots/", end)
    return {
        name: {"mean": Estimate(value=sum(values) / len(values))}
        for name, by in rows.items()
        if (values := [e.value for c, e in by.items() if c != "clean" and e.value is not None])
    }


def _demonstrations(found: Found) -> Decided:
    rows = {f"{name}, {way}": e for name, by in _of(found, "demonstrations/prompted/").items() for way, e in by.items()}
    nearest = {name: e for name, e in rows.items() if name.endswith("nearest utterances")}
    said = f"noisy F1 gained over no demonstrations: {_told(rows)}"
    return said, {name: e.value for name, e in rows.items()}, all_of(
        [decide(e, LEAST_HELP, above=True) for e in nearest.values()]
    )  # fmt: skip


TYPOS = _claim(
    "typos-worst-for-taggers",
    "Of typos, misheard words, short forms, simplification, chatter and irrelevant sentences, typos cost a tagger that "
    "was trained on clean utterances most",
    DONG,
    "F1 of a trained tagger 96.4 without errors, 68.3 with typos, 85.7 misheard, 91.5 paraphrased, 89.7 simplified, "
    "85.8 verbose",
    "Holds if for every set and tagger the interval of the lowest F1 under the other errors less that under typos is "
    "above 0; does not hold if one is below; else it is not shown.",
    _typos,
)
MIXED = _claim(
    "mixed-noise-at-least-its-worst-part",
    "Several kinds of errors at once cost a tagger at least as much as the worst of them alone",
    DONG,
    "F1 of ChatGPT 59.7 without errors, 26.1 with three kinds at once",
    "Holds if for every set, tagger trained on clean utterances and mixture F1 is at most that under the worst part; "
    "does not hold if an interval of the worst part less the mixture is below 0; else it is not shown.",
    _mixed,
)
REPAIRS = _claim(
    "augmentation-repairs",
    "Training with errors of letters, words and sentences gains at least 10 points of F1 under errors, and costs at "
    "most 2 without",
    DONG,
    "noise-aware taggers above others; no figure for augmentation alone",
    f"Holds if for every set and tagger the interval of mean F1 under errors gained is above {LEAST_REPAIR} and clean "
    f"F1 falls by at most {MOST_LOST}; does not hold if an interval is below or clean F1 falls by more; else it is not "
    "shown.",
    _repairs,
)
DEMONSTRATIONS = _claim(
    "demonstrations-help-the-prompted-model",
    "The most similar utterances as demonstrations gain a prompted model at least 5 points of F1 under errors",
    DONG,
    "ChatGPT 57.2 overall without, 68.3 with utterances, 71.6 with entities",
    f"Holds if for every set the interval of mean F1 under errors gained is above {LEAST_HELP}; does not hold if one "
    "is below; else it is not shown.",
    _demonstrations,
)
