"""Claims about uncertainty, which rest on the record of the suite `uncertainty`."""

from __future__ import annotations

import functools
from typing import Any

from factorlm.evaluation.claims.claim import Verdict, all_of, decide
from factorlm.evaluation.claims.recorded import on_record
from factorlm.evaluation.intervals import Estimate

RECORD = "uncertainty/report.json"
MADE_BY = (
    "factorlm eval uncertainty --vs 'smollm2 * toxic^-2' --set questions.xquad_en=120 --set perturbed.questions=60 "
    "--set 'questions.folder=\"src/factorlm/inference/uncertainty/shelf\"' --out benchmarks/records/uncertainty"
)
SONG = "Song et al. 2025, Inv-Entropy, arXiv:2506.09684"
KADAVATH = "Kadavath et al. 2022, Language models (mostly) know what they know, arXiv:2207.05221"
FARQUHAR = "Farquhar et al. 2024, Detecting hallucinations with semantic entropy, Nature 630"
GUO = "Guo et al. 2017, On calibration of modern neural networks, arXiv:1706.04599"
LEAST_AUROC, NEAR, STEEP = 0.65, 0.03, -0.8
KNOWS, GAP, ABOVE_CHANCE, TIMES_WORSE = 0.8, 0.1, 0.55, 2.0
HELPS, IDLE = 0.2, 0.05
POINTS = 0.2  # of temperature sensitivity
CHANCE_AT_MOST = 0.7
Found = dict[str, dict[str, Estimate]]
Decided = tuple[str, dict[str, Any], Verdict]

_claim = functools.partial(on_record, RECORD, MADE_BY)


def _value(estimate: Estimate) -> float:
    return 0.0 if estimate.value is None else estimate.value


def _inverse(found: Found) -> Decided:
    auc, rho = found["AUROC, facts"], found["rank correlation with frequency"]["inv-entropy"]
    ours, plain = _value(auc["inv-entropy"]), _value(auc["naive-entropy"])
    said = f"AUROC {auc['inv-entropy']}, of naive entropy {auc['naive-entropy']}; rank correlation of entropy with " \
        f"frequency {-_value(rho):.2f}"  # fmt: skip
    holds = ours >= LEAST_AUROC and ours >= plain - NEAR and -_value(rho) < STEEP
    return said, {"AUROC": ours, "naive": plain, "rho": -_value(rho)}, "holds" if holds else "does not hold here"


def _graded(found: Found) -> Decided:
    rho = _value(found["rank correlation of similarity and generation"]["graded"])
    gain = found.get("AUROC of graded less that of trivial variants", {}).get("inv-entropy")
    if gain is None or gain.low is None:
        return "too few right answers to rank", {"rho": rho}, "not shown"
    said = f"AUROC of graded less that of trivial variants {gain}; similarity falls with generation: {rho:.2f}"
    return said, {"gain": gain.value, "rho": rho}, decide(gain, NEAR, above=True)


def _temperature(found: Found) -> Decided:
    hot, steps = "TSU 0.7 < 1.4", "TSU 0.3 < 0.7 < 1 < 1.4"
    oracle, shuffled = (found[steps][name] for name in ("exact entropy of the first token", "shuffled"))
    inverse, coarse = (_value(found[hot][name]) for name in ("inv-entropy", "discrete-semantic-entropy"))
    exact = oracle.value == 1.0 and shuffled.low is not None and shuffled.high is not None
    exact = exact and (shuffled.low or 0.0) <= 1 / 24 <= (shuffled.high or 0.0)
    said = f"exact entropy {oracle}, shuffled {shuffled} over four temperatures; at 0.7 and 1.4 Inv-Entropy " \
        f"{inverse:.0%}, discrete semantic entropy {coarse:.0%}"  # fmt: skip
    holds = exact and inverse >= coarse + POINTS
    return said, {"inverse": inverse, "discrete": coarse}, "holds" if holds else "does not hold here"


def _knows(found: Found) -> Decided:
    auc, gap = found["AUROC of P(IK)"], found["calibration error of P(IK)"]
    inside, outside = (_value(auc[k]) for k in ("in domain", "out of domain"))
    near, far = (_value(gap[k]) for k in ("in domain", "out of domain"))
    said = f"in domain AUROC {auc['in domain']}, calibration error {gap['in domain']}; out of domain " \
        f"{auc['out of domain']}, {gap['out of domain']}"  # fmt: skip
    holds = inside >= KNOWS and near <= GAP and outside > ABOVE_CHANCE and far >= TIMES_WORSE * near
    return said, {"AUROC": [inside, outside], "error": [near, far]}, "holds" if holds else "does not hold here"


def _helps(found: Found) -> Decided:
    rise = found["rise of P(IK)"]
    gold, other = rise["behind its fact"], rise["behind another fact"]
    said = f"mean P(IK) moves by {gold} behind the sentence that answers, by {other} behind another"
    verdicts = [decide(gold, HELPS, above=True), decide(other, IDLE, above=False)]
    return said, {"gold": gold.value, "other": other.value}, all_of(verdicts)


def _chance(found: Found) -> Decided:
    known = {name: by["p-true"] for name, by in found.items() if name.startswith("AUROC, ") and "p-true" in by}
    if not known:
        return "too few right answers to rank", {}, "not shown"
    said = "AUROC of P(True): " + "; ".join(f"{e} ({name.removeprefix('AUROC, ')})" for name, e in known.items())
    verdict = all_of([decide(estimate, CHANCE_AT_MOST, above=False) for estimate in known.values()])
    return said, {name: e.value for name, e in known.items()}, verdict


def _meanings(found: Found) -> Decided:
    auc = found["AUROC, wordings"]
    gain = found["AUROC over that of naive entropy, wordings"]["semantic-entropy"]
    said = f"AUROC {auc['semantic-entropy']}, of naive entropy {auc['naive-entropy']}; {gain} more"
    return said, {"gain": gain.value}, decide(gain, 0.0, above=True)


def _repairs(found: Found) -> Decided:
    pairs: dict[str, tuple[Estimate, Estimate]] = {}
    for name, raw in found.items():
        if name.startswith("calibration error, xquad_en") and name.endswith(", raw"):
            mapped = found[name.removesuffix("raw") + "platt"]
            pairs |= {f"{name.split(', ')[2]}: {k}": (raw[k], mapped[k]) for k in ("mean-log-prob", "naive-entropy")}
    if not pairs:
        return "too few right answers to calibrate", {}, "not shown"
    said = "; ".join(f"{k} {a} raw, {b} mapped" for k, (a, b) in pairs.items())
    lower = all(_value(b) < _value(a) for a, b in pairs.values())
    clear = all((b.high or 1.0) < (a.low or 0.0) for a, b in pairs.values())
    verdict: Verdict = "holds" if clear else "not shown" if lower else "does not hold here"
    return said, {k: [a.value, b.value] for k, (a, b) in pairs.items()}, verdict


INVERSE = _claim(
    "inv-entropy-ranks-errors",
    "Inv-Entropy ranks right answers before wrong ones, about as well as naive entropy or better, and falls the "
    "oftener a fact was stated",
    SONG,
    "AUROC 0.66 to 0.79 on five question sets, above ten other measures on most",
    f"Holds if over planted facts its AUROC is at least {LEAST_AUROC} and at least that of naive entropy less "
    f"{NEAR}, and its rank correlation with frequency is below {STEEP}; does not hold otherwise.",
    _inverse,
)
GRADED = _claim(
    "graded-variants-beat-trivial",
    "Variants of graded similarity make Inv-Entropy rank errors better than variants of letters and blanks",
    SONG,
    "a genetic algorithm beats paraphrasing on three sets and two models",
    f"Holds if the interval of the gain in AUROC is above {NEAR}, does not hold if it is below; else it is not shown.",
    _graded,
)
TEMPERATURE = _claim(
    "inv-entropy-follows-temperature",
    "Inv-Entropy rises with the temperature far oftener than the entropy of counted meanings",
    SONG,
    "88.8 % against 20.6 % at 0.7 and 1.4",
    "Holds if exact entropy rises always, shuffled numbers as often as chance by their interval, and Inv-Entropy at "
    f"0.7 and 1.4 oftener than discrete semantic entropy by {POINTS:.0%} or more; does not hold otherwise.",
    _temperature,
)
KNOWS_ITSELF = _claim(
    "models-know-what-they-know",
    "A head on the state behind a question tells whether the model knows the answer; on other kinds of questions it "
    "still ranks, but is not calibrated",
    KADAVATH,
    "AUROC 0.86 in domain, 0.61 to 0.93 out of domain, calibration lost",
    f"Holds if over planted facts AUROC is at least {KNOWS} and the calibration error at most {GAP} for other "
    f"people, and on other kinds of facts AUROC is above {ABOVE_CHANCE} and the error at least {TIMES_WORSE:g} times "
    f"as large; does not hold otherwise.",
    _knows,
)
HELP_SHOWS = _claim(
    "context-raises-p-ik",
    "The sentence that answers a question raises P(IK), another sentence does not",
    KADAVATH,
    "18 % to 78 % in one example",
    f"Holds if the interval of the rise is above {HELPS} behind the answer and below {IDLE} behind another sentence; "
    f"does not hold if one is on the other side; else it is not shown.",
    _helps,
)
SMALL_IS_CHANCE = _claim(
    "p-true-needs-size",
    "A model of 135 million parameters can hardly tell whether its own answer is true when it is asked",
    KADAVATH,
    "P(True) improves with size, from 800 million parameters on",
    f"Holds if the intervals of its AUROC are below {CHANCE_AT_MOST} on all sets that can be ranked; does not hold "
    f"if one is above; else it is not shown.",
    _chance,
)
MEANINGS = _claim(
    "semantic-beats-naive-entropy",
    "Where answers come in several wordings, semantic entropy ranks errors better than naive entropy",
    FARQUHAR,
    "mean AUROC 0.790 against 0.691 over thirty pairs of task and model",
    "Holds if the interval of the gain in AUROC is above 0 over planted facts with one or four wordings, does not "
    "hold if it is below; else it is not shown.",
    _meanings,
)
REPAIRS = _claim(
    "recalibration-repairs",
    "Two numbers fitted on other questions repair most of the calibration error of raw confidences",
    GUO,
    "one temperature repairs most of it",
    "Holds if on questions about passages the intervals of the debiased calibration error of mapped confidences "
    "(mean log probability, naive entropy; cross-fitted) are below those of raw ones; not shown if only the errors "
    "are; else it does not hold.",
    _repairs,
)
