"""Claims about markers of certainty and doubt, which rest on the record of the suite `markers`."""

from __future__ import annotations

import functools
from typing import Any

from factorlm.evaluation.claims.claim import Verdict, all_of, decide
from factorlm.evaluation.claims.recorded import on_record
from factorlm.evaluation.intervals import Estimate

RECORD = "markers/report.json"
MADE_BY = "factorlm eval markers --out benchmarks/records/markers"
ZHOU = "Zhou et al. 2023, Navigating the grey area, arXiv:2302.13439"
LEAST_GAP, LEAST_SENSITIVITY, RARE = 0.10, 0.10, 0.05
Found = dict[str, dict[str, Estimate]]
Decided = tuple[str, dict[str, Any], Verdict]

_claim = functools.partial(on_record, RECORD, MADE_BY)


def _mimicry(found: Found) -> Decided:
    planted, swapped = (
        found[f"accuracy of drawn answers, {model}"]["first less second"] for model in ("as planted", "swapped")
    )
    said = f"accuracy of drawn answers after the first marker less after the second: {planted}; swapped {swapped}"
    verdict = all_of([decide(planted, LEAST_GAP, above=True), decide(swapped, -LEAST_GAP, above=False)])
    return said, {"planted": planted.value, "swapped": swapped.value}, verdict


def _sensitivity(found: Found) -> Decided:
    names = [name.removeprefix("sensitivity/") for name in found if name.startswith("sensitivity/")]
    name = "all" if "all" in names else names[0]
    by = found[f"sensitivity/{name}"]
    certain = found[f"certain less doubtful/{name}"]["accuracy"]
    seen, p_value = by["max less min"].value or 0.0, by["p-value"].value
    is_rare = p_value is not None and p_value < RARE
    said = (
        f"accuracy of the best marker less that of the worst: {seen:.3f}; by chance {by['by chance']}, p = "
        f"{p_value:.3g}; after certainty less after doubt: {certain}"
    )
    verdict: Verdict = "holds" if is_rare and seen >= LEAST_SENSITIVITY else "not shown"
    if is_rare and seen < LEAST_SENSITIVITY:
        verdict = "does not hold here"
    numbers = {"sensitivity": seen, "p_value": p_value, "certain less doubtful": certain.value}
    return said, numbers, verdict


MIMICRY = _claim(
    "markers-are-mimicry",
    "What a marker does to accuracy follows how often it stood before right answers in training, whatever it says",
    ZHOU,
    "certainty lowers accuracy, since it stands by questions rather than answers in texts",
    "In a small model of planted texts: holds if the interval of accuracy after the marker that is mostly right less "
    f"that after the other is above {LEAST_GAP}, and with the texts swapped below -{LEAST_GAP}; does not hold if one "
    "lies wholly on the other side of its line; else it is not shown.",
    _mimicry,
)
ACCURACY = _claim(
    "markers-change-accuracy",
    "Words of certainty or doubt before the answer change a model's accuracy by 10 points or more",
    ZHOU,
    "more than 80 % between markers; 7 % lower after certainty than after doubt (GPT-3)",
    f"Holds if over all questions the best marker is at least {LEAST_SENSITIVITY} above the worst and the permutation "
    f"test has p < {RARE}; does not hold if p < {RARE} and the difference is smaller; else it is not shown. The sign "
    "of certainty is reported, not required.",
    _sensitivity,
)
