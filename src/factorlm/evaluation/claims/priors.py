"""Claims about distributions over models, which rest on the record of the suite `prior`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from factorlm.evaluation.claims.claim import Claim, ClaimBench, NoSettings, Outcome, Verdict, all_of, decide
from factorlm.evaluation.intervals import Estimate
from factorlm.evaluation.priors.arms import CONSTANT, ENSEMBLE, MU
from factorlm.evaluation.priors.likelihoods import MIXTURE, SINGLE
from factorlm.evaluation.priors.outside import BETWEEN
from factorlm.evaluation.priors.rival_worlds import DELTA, R

RECORD = "prior/report.json"
PRIOR = "factorlm eval prior --out benchmarks/records/prior"
LEAST_PURITY, LEAST_R, LEAST_AUROC = 0.9, 0.5, 0.6
TUNED = f"{CONSTANT}, fine-tuned on it"
SHARES = f"nats per token, {MIXTURE} minus"


def _claim(
    name: str, sentence: str, source: str, reported: str, rule: str,
    decided: Callable[[dict[str, dict[str, Estimate]]], tuple[str, dict[str, Any], Verdict]],
) -> Claim:  # fmt: skip
    """A claim about the measures of the record."""

    def run(bench: ClaimBench, settings: NoSettings) -> Outcome:
        [report] = bench.benchmark(RECORD, PRIOR)
        found = {
            measure: {of: Estimate.model_validate(estimate) for of, estimate in values.items()}
            for measure, values in report["measures"].items()
        }
        measured, numbers, verdict = decided(found)
        made = report["provenance"]
        origin = {"file": RECORD, **{key: made[key] for key in ("commit", "machine", "versions") if key in made}}
        return Outcome(measured=measured, numbers={**numbers, "record": origin}, verdict=verdict)

    return Claim(name, sentence, source, reported, rule, NoSettings(), run, (f"benchmarks/records/{RECORD}",), 0.1,
                 PRIOR)  # fmt: skip


def _value(found: Estimate) -> float:
    return float("nan") if found.value is None else found.value


def _worlds(found: dict[str, dict[str, Estimate]]) -> tuple[str, dict[str, Any], Verdict]:
    purity, ours, others = found["purity of worlds"][MU], found[R][MU], found[R][ENSEMBLE]
    return (
        f"{purity} of held-out documents go to the component of their world; R {ours} under μ, {others} in an "
        f"ensemble, 0 in one model and in a fixed blend",
        {"purity": purity.value, "R": {way: estimate.value for way, estimate in found[R].items()}},
        all_of([
            "holds" if _value(purity) >= LEAST_PURITY else "does not hold here", decide(ours, LEAST_R, above=True)
        ]),
    )  # fmt: skip


def _evidence(found: dict[str, dict[str, Estimate]]) -> tuple[str, dict[str, Any], Verdict]:
    ours, others = found[DELTA][MU], found[DELTA][CONSTANT]
    return (
        f"the negation's log probability changes by {ours} nats under μ, by {others} in one model that reads the "
        "statement first",
        {"μ": ours.value, "one model": others.value},
        decide(ours, 0.0, above=False),
    )


def _revision(found: dict[str, dict[str, Estimate]]) -> tuple[str, dict[str, Any], Verdict]:
    swings = found["change of belief by contrary evidence"]
    ours, tuned = swings[MU], swings[TUNED]
    clear = ours.low is not None and tuned.high is not None and ours.low > tuned.high
    return (
        f"belief in what nobody mentioned changes by {ours} under μ, by {tuned} in one model that is fine-tuned",
        {name: swing.value for name, swing in swings.items()},
        "holds" if clear else "does not hold here" if _value(ours) <= _value(tuned) else "not shown",
    )


def _mixture(found: dict[str, dict[str, Estimate]]) -> tuple[str, dict[str, Any], Verdict]:
    difference = found[SHARES][SINGLE]
    return (
        f"held-out nats a token of the mixture minus those of one model of as many trained numbers: {difference}",
        {way: estimate.value for way, estimate in found[SHARES].items()},
        decide(difference, 0.0, above=False),
    )


def _outside(found: dict[str, dict[str, Estimate]]) -> tuple[str, dict[str, Any], Verdict]:
    whole = found[f"AUROC of {BETWEEN}"]["all"]
    return f"AUROC {whole}", {"auroc": whole.value}, decide(whole, LEAST_AUROC, above=True)


RIVALS_KEPT = _claim(
    "components-hold-rival-worlds",
    "A learned distribution over models holds hypotheses that contradict each other, each whole; one model averages "
    "them",
    "our design, after Qin and Eisner 2021",
    "",
    f"Documents are written under one of several worlds that contradict each other. Holds if at least {LEAST_PURITY} "
    "of the held-out documents go to the component of their world, and the 95 % interval of R, the share of all "
    f"disagreement that lies between components, lies above {LEAST_R}; does not hold if one of them fails; else it is "
    "not shown.",
    _worlds,
)
EVIDENCE_LOWERS = _claim(
    "evidence-lowers-the-negation",
    "Observing a statement makes its negation less likely under a distribution over models",
    "our design",
    "",
    "Holds if the 95 % interval of the mean change of the log probability of the negation, once components are "
    "re-weighed by the statement, lies below zero, does not hold if it lies above; else it is not shown.",
    _evidence,
)
BELIEF_TURNS = _claim(
    "contrary-evidence-turns-belief",
    "Evidence against what was believed changes belief in what it implies more under re-weighed components than in one "
    "model fine-tuned on it",
    "our design",
    "",
    "Belief in facts that no evidence mentions, before and after contrary evidence. Holds if the 95 % interval of the "
    "change under a distribution over models lies above that of one model that is fine-tuned on the evidence with "
    "texts of its own mixed in; does not hold if it changes no more; else it is not shown.",
    _revision,
)
MIXTURE_BEATS_ONE = _claim(
    "mixture-beats-one-model",
    "A mixture of soft prompts makes texts likelier than one soft prompt of as many numbers",
    "Qin and Eisner 2021",
    "mixtures of soft prompts beat single prompts by large margins in probing facts",
    "Texts of several sources. Holds if the 95 % interval (paired bootstrap over texts, adjusted for all rivals "
    "compared) of the difference in held-out nats per token lies below zero, does not hold if it lies above; else it "
    "is not shown.",
    _mixture,
)
BETWEEN_TELLS = _claim(
    "components-disagree-outside",
    "What components disagree in tells texts of other sources from those that were learned from",
    "after Lakshminarayanan et al. 2017, deep ensembles",
    "",
    f"Texts are ranked by the mean mutual information of next token and component. Holds if the 95 % interval of the "
    f"AUROC of outside texts lies above {LEAST_AUROC}, does not hold if it lies below; else it is not shown.",
    _outside,
)
