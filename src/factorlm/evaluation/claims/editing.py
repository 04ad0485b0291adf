"""Claims about facts written into weights, which rest on the record of the suite `editing`."""

from __future__ import annotations

import functools
from typing import Any

from factorlm.errors import InputError
from factorlm.evaluation.claims.claim import Verdict, decide
from factorlm.evaluation.claims.recorded import on_record
from factorlm.evaluation.edited.hard import BARE, HARD
from factorlm.evaluation.edited.ways import BESIDE, C_ROME, MEMIT, ROME
from factorlm.evaluation.intervals import Estimate
from factorlm.models.editing.guard import WARN

RECORD = "editing/report.json"
MADE_BY = "factorlm eval editing --set model.singles=12 --set hard.cases=8 --out benchmarks/records/editing"
WORLD, REAL = "fact world", "smollm2"
MENG = "Meng et al. 2022, ROME, arXiv:2202.05262"
YANG = "Yang et al. 2024, The butterfly effect of model editing, arXiv:2402.09656"
FALL = "Yang et al. 2024, The fall of ROME, arXiv:2406.11263"
LEAST_EFFICACY, LEAST_PARAPHRASE, MOST_LOST = 0.95, 0.8, 0.1
KEPT_EFFICACY, KEPT_RATIO = 0.9, 1.1  # of many facts at once
LEAST_CORRELATION = -0.8
LEAST_CAUGHT = 0.95
FEWEST_FLAGS = 5
Found = dict[str, dict[str, Estimate]]
Decided = tuple[str, dict[str, Any], Verdict]

_claim = functools.partial(on_record, RECORD, MADE_BY)


def _measure(found: Found, name: str) -> dict[str, Estimate]:
    if name not in found:
        raise InputError(f"{RECORD} has no measure {name!r}; make it with {MADE_BY}, all parts of it")
    return found[name]


def _value(estimate: Estimate) -> float:
    return float("nan") if estimate.value is None else estimate.value


def _writes(place: str, found: Found) -> Decided:
    efficacy, paraphrase, lost = (
        _measure(found, f"{place}/{name}")[ROME] for name in ("efficacy", "paraphrase", "neighbourhood lost")
    )
    is_reached = (
        _value(efficacy) >= LEAST_EFFICACY and _value(paraphrase) >= LEAST_PARAPHRASE and _value(lost) <= MOST_LOST
    )
    is_missed = any(
        decide(estimate, line, above=above) == "does not hold here"
        for estimate, line, above in (
            (efficacy, LEAST_EFFICACY, True), (paraphrase, LEAST_PARAPHRASE, True), (lost, MOST_LOST, False))
    )  # fmt: skip
    verdict: Verdict = "holds" if is_reached else "does not hold here" if is_missed else "not shown"
    said = f"efficacy {efficacy}, paraphrases {paraphrase}, neighbours lost {lost}"
    return said, {"efficacy": efficacy.value, "paraphrase": paraphrase.value, "lost": lost.value}, verdict


def _most(by: dict[str, Estimate], way: str) -> tuple[int, Estimate]:
    """The largest number of facts of a way, and what was measured there."""
    numbers = {int(name.rpartition(", ")[2]): value for name, value in by.items() if name.startswith(f"{way}, ")}
    return max(numbers), numbers[max(numbers)]


def _memit_keeps(found: Found) -> Decided:
    efficacy, ratio = (_measure(found, f"{WORLD}/series {name}") for name in ("efficacy", "perplexity ratio"))
    numbers: dict[str, Any] = {}
    keeps = {}
    for way in (MEMIT, ROME):
        number, share = _most(efficacy, way)
        _, times = _most(ratio, way)
        numbers[way] = {"facts": number, "efficacy": share.value, "perplexity ratio": times.value}
        keeps[way] = _value(share) >= KEPT_EFFICACY and _value(times) < KEPT_RATIO
    said = "; ".join(
        f"{way} with {n['facts']} facts: efficacy {n['efficacy']:.2f}, {n['perplexity ratio']:.2f} times the perplexity"
        for way, n in numbers.items()
    )
    return said, numbers, "holds" if keeps[MEMIT] and not keeps[ROME] else "does not hold here"


def _tracks(found: Found) -> Decided:
    by = _measure(found, f"{WORLD}/perplexity and accuracy")["rank correlation"]
    said = f"rank correlation {_value(by):.2f} over {by.n} edited models"
    return said, {"correlation": by.value, "models": by.n}, (
        "holds" if _value(by) <= LEAST_CORRELATION else "does not hold here"
    )  # fmt: skip


def _suffices(found: Found) -> Decided:
    by = _measure(found, f"{WORLD}/guard")
    flagged, caught = by["flagged by the large one"], by["of these by the small one"]
    alarms = _value(by["false alarms"])
    said = f"{_value(caught):.0%} of {_value(flagged):.0f} flagged states caught; {alarms:.0f} false alarms"
    numbers = {"flagged": flagged.value, "caught": caught.value, "false alarms": alarms}
    if _value(flagged) < FEWEST_FLAGS or caught.value is None:
        return f"{said}: too few to tell", numbers, "not shown"
    return said, numbers, "holds" if caught.value >= LEAST_CAUGHT else "does not hold here"


def _blow_up(found: Found) -> Decided:
    by = _measure(found, f"first tokens/norm, hard over ordinary, {BARE}")
    said = f"‖ΔW‖ of first-token subjects over that of others, read {BARE}: {by[ROME]} by ROME"
    return said, {"rome": by[ROME].value}, decide(by[ROME], 1.0, above=True)


def _repairs(found: Found) -> Decided:
    by = _measure(found, f"first tokens/norm, hard over ordinary, {BARE}")
    efficacy = _measure(found, f"first tokens/{HARD}, efficacy behind a prefix, {BARE}")[C_ROME]
    said = (
        f"‖ΔW‖ of first-token subjects over that of others: {by[C_ROME]} by C-ROME, {by[ROME]} by ROME; behind a "
        f"prefix {efficacy} of the facts come out"
    )
    numbers = {"c-rome": by[C_ROME].value, "rome": by[ROME].value, "efficacy": efficacy.value}
    rome, repaired = by[ROME], by[C_ROME]
    if repaired.low is None or repaired.high is None or rome.low is None:
        return said, numbers, "not shown"
    is_repaired = repaired.high < rome.low and _value(efficacy) >= LEAST_PARAPHRASE
    return (
        said,
        numbers,
        "holds" if is_repaired else "not shown" if _value(repaired) < rome.low else "does not hold here",
    )


def _restores(found: Found) -> Decided:
    by = _measure(found, f"{WORLD}/removal")["exact"]
    said = f"{_value(by):.0%} of {by.n} removals are exact"
    return said, {"exact": by.value, "removals": by.n}, "holds" if by.value == 1 else "does not hold here"


def _fewer_effects(found: Found) -> Decided:
    lost, ratio = (_measure(found, f"{REAL}/{name}") for name in ("neighbourhood lost", "perplexity ratio"))
    efficacy = _measure(found, f"{REAL}/efficacy")
    able = [way for way in BESIDE if way in efficacy and _value(efficacy[way]) >= _value(efficacy[ROME])]
    numbers = {
        way: {"efficacy": efficacy[way].value, "lost": lost[way].value, "ratio": ratio[way].value}
        for way in (ROME, *(way for way in BESIDE if way in efficacy))
    }
    said = "; ".join(
        f"{way}: efficacy {n['efficacy']:.0%}, neighbours lost {n['lost']:.0%}, {n['ratio']:.2f} times the perplexity"
        for way, n in numbers.items()
    )
    fewer = [
        way for way in able if _value(lost[way]) <= _value(lost[ROME]) and _value(ratio[way]) <= _value(ratio[ROME])
    ]
    return said, numbers, "holds" if fewer else "does not hold here"


WRITES_WORLD, WRITES_REAL = (
    _claim(
        f"rome-writes-facts-{slug}",
        f"A rank-one change by ROME makes a fact come out, in other wordings too, and keeps its neighbours ({where})",
        MENG,
        "GPT-2 XL on CounterFact: efficacy about 100 %, paraphrases 96 %, neighbourhood 75 %",
        f"Holds if efficacy is at least {LEAST_EFFICACY:.0%}, paraphrases at least {LEAST_PARAPHRASE:.0%} and at most "
        f"{MOST_LOST:.0%} of neighbours are lost; does not hold if the interval of one lies on the wrong side; else it "
        "is not shown.",
        functools.partial(_writes, place),
    )
    for slug, place, where in (
        ("world", WORLD, "in a world of invented facts, written at the end of the prompt"),
        ("smollm2", REAL, "in smollm2"),
    )
)
MEMIT_KEEPS = _claim(
    "memit-keeps-where-sequential-rome-breaks",
    "Many facts written at once by MEMIT come out without harm, where as many by ROME, one after the other, do not",
    "Meng et al. 2023, MEMIT, arXiv:2210.07229",
    "quality kept up to 10,000 edits, where ROME breaks down",
    "In the fact world, at the largest number of facts. Holds if MEMIT has an efficacy of at least "
    f"{KEPT_EFFICACY:.0%} at less than {KEPT_RATIO} times the perplexity, and sequential ROME has not; else it does "
    "not hold.",
    _memit_keeps,
)
TRACKS = _claim(
    "perplexity-tracks-damage",
    "Log perplexity of a few sentences falls and rises with what an edited model can no longer answer",
    YANG,
    "changes of perplexity correlate strongly with downstream scores",
    f"In the fact world, over all models with one fact and with many. Holds if the rank correlation of log perplexity "
    f"and accuracy on facts that were not edited is at most {LEAST_CORRELATION}; else it does not hold.",
    _tracks,
)
SUFFICES = _claim(
    "small-guard-suffices",
    "Fifty sentences raise the alarm wherever many do",
    YANG,
    "the smallest of three sets, of 50 sentences, is the default",
    f"In the fact world. Holds if the small guard flags at least {LEAST_CAUGHT:.0%} of the states that the large one "
    f"flags (perplexity over {WARN} times that before); not shown if those are fewer than {FEWEST_FLAGS}; else it does "
    "not hold.",
    _suffices,
)
BLOWS_UP = _claim(
    "first-token-subjects-blow-up",
    "ROME's change is larger where the subject is the first token of the prompt",
    FALL,
    "all collapse cases of GPT-2 XL have such subjects; their denominators are tiny",
    "Prompts are read without a start token, as in the source. Holds if the 95 % interval of the ratio of geometric "
    "means of ‖ΔW‖, subjects of one token over others, lies above 1; does not hold if below; else it is not shown.",
    _blow_up,
)
REPAIRS = _claim(
    "c-rome-repairs",
    "With one key above and below, first-token subjects are written without a larger change",
    FALL,
    "C-ROME with a prefix at test time removes the collapse",
    f"Holds if the interval of that ratio by C-ROME lies below the interval by ROME, and at least "
    f"{LEAST_PARAPHRASE:.0%} of the facts come out behind a prefix; does not hold if the ratio by C-ROME is not below "
    "the interval by ROME; else it is not shown.",
    _repairs,
)
RESTORES = _claim(
    "removing-an-edit-restores",
    "An edit that is taken back leaves nothing behind",
    "ours",
    "not reported",
    "Holds if every removal gives back the weights from before the edit, bit for bit; else it does not hold.",
    _restores,
)
FEWER_EFFECTS = _claim(
    "factor-edits-have-fewer-side-effects",
    "Some factor, memory or component beside the weights makes facts come out as often as ROME does, at no greater "
    "loss of neighbours and no greater perplexity",
    "ours",
    "not compared there",
    "On smollm2 and CounterFact, facts one by one. Holds if one of the ways beside the weights has at least ROME's "
    "efficacy and at most its loss of neighbours and its mean perplexity; else it does not hold.",
    _fewer_effects,
)
EDITING = (WRITES_WORLD, WRITES_REAL, MEMIT_KEEPS, TRACKS, SUFFICES, BLOWS_UP, REPAIRS, RESTORES, FEWER_EFFECTS)
