"""Claims about distributions over models, which rest on the record of the suite `prior`."""

from __future__ import annotations

import functools
import itertools
from typing import Any

from factorlm.evaluation.claims.claim import Verdict, all_of, decide
from factorlm.evaluation.claims.recorded import on_record
from factorlm.evaluation.intervals import Estimate
from factorlm.evaluation.priors.arms import CONSTANT, ENSEMBLE, MU
from factorlm.evaluation.priors.evidence import TUNED
from factorlm.evaluation.priors.layer_selection import DROPPED
from factorlm.evaluation.priors.likelihoods import MIXTURE, SINGLE
from factorlm.evaluation.priors.outside import BETWEEN
from factorlm.evaluation.priors.rival_worlds import DELTA, R
from factorlm.evaluation.priors.steering import UNTILTED
from factorlm.evaluation.priors.tilting import COMPONENTS

RECORD = "prior/report.json"
PRIOR = "factorlm eval prior --out benchmarks/records/prior"
TEXT_RECORD = "prior-text/report.json"  # of the full size: components read few texts in the small one
TEXT = (
    "factorlm eval prior --size full --set 'parts=[\"text\"]' --set text.fitting.soft.batch_tokens=128 "
    "--dtype bfloat16 --out benchmarks/records/prior-text"
)
LEAST_PURITY, LEAST_R, LEAST_AUROC = 0.9, 0.5, 0.6
SHARES = f"nats per token, {MIXTURE} minus"
JUDGED, TILTED = "mean probability by ", f"{COMPONENTS}, T="
SAVED = "layers: nats per token saved by the learned order"


_claim = functools.partial(on_record, RECORD, PRIOR)
_of_text = functools.partial(on_record, TEXT_RECORD, TEXT)


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


def _tilt(found: dict[str, dict[str, Estimate]]) -> tuple[str, dict[str, Any], Verdict]:
    judges = [measure for measure in found if measure.startswith(JUDGED)]
    shares, verdicts = {}, list[Verdict]()
    for measure in judges:
        dials = {float(way.removeprefix(TILTED)): e for way, e in found[measure].items() if way.startswith(TILTED)}
        steps = [found[measure][UNTILTED], *(dials[t] for t in sorted(dials, reverse=True))]  # from weak to strong
        shares[measure.removeprefix(JUDGED)] = [step.value for step in steps]
        rises = steps[0].high is not None and steps[-1].low is not None and steps[0].high < steps[-1].low
        falls = any(a.low is not None and b.high is not None and b.high < a.low for a, b in itertools.pairwise(steps))
        verdicts.append("does not hold here" if falls else "holds" if rises else "not shown")
    said = "; ".join(
        f"{judge}: " + " → ".join("—" if v is None else f"{v:.0%}" for v in values) for judge, values in shares.items()
    )
    return f"mean probability of the label, from untilted to the coldest tilt, by {said}", shares, all_of(verdicts)


def _fewer_layers(found: dict[str, dict[str, Estimate]]) -> tuple[str, dict[str, Any], Verdict]:
    saved = found[f"{SAVED}, {DROPPED}"]
    verdicts = [decide(estimate, 0.0, above=True) for estimate in saved.values()]
    said = "; ".join(f"{estimate} with {part}" for part, estimate in saved.items())
    return f"nats per token fewer than random layers: {said}", {p: e.value for p, e in saved.items()}, all_of(verdicts)


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
MIXTURE_BEATS_ONE = _of_text(
    "mixture-beats-one-model",
    "A mixture of soft prompts makes texts likelier than one soft prompt of as many numbers",
    "Qin and Eisner 2021",
    "mixtures of soft prompts beat single prompts by large margins in probing facts",
    "Texts of several sources. Holds if the 95 % interval (paired bootstrap over texts, adjusted for all rivals "
    "compared) of the difference in held-out nats per token lies below zero, does not hold if it lies above; else it "
    "is not shown.",
    _mixture,
)
BETWEEN_TELLS = _of_text(
    "components-disagree-outside",
    "What components disagree in tells texts of other sources from those that were learned from",
    "after Lakshminarayanan et al. 2017, deep ensembles",
    "",
    f"Texts are ranked by the mean mutual information of next token and component. Holds if the 95 % interval of the "
    f"AUROC of outside texts lies above {LEAST_AUROC}, does not hold if it lies below; else it is not shown.",
    _outside,
)
TILT_STEERS = _claim(
    "tilted-components-steer",
    "Re-weighing components by a reward changes what is written, the more the colder the tilt",
    "our design, after Korbak et al. 2022, KL-regularised rewards as Bayesian inference",
    "",
    "The mean probability of the wanted label, by the judge that gave the reward and by an independent one, from no "
    "tilt to the coldest. Holds if for both the 95 % interval at the coldest tilt lies above that without, and no "
    "step falls below the interval before it; does not hold if one falls; else it is not shown.",
    _tilt,
)
LAYERS_LEARNED = _claim(
    "learned-layers-beat-random",
    "Which layers can be left out is learned: a learned choice loses less than a random one of as many layers",
    "after Fan et al. 2020, LayerDrop, and Li et al. 2020, latent depth",
    "",
    "The model is fine-tuned with layers dropped, and the order in which layers go is learned by REINFORCE. Holds if "
    "the 95 % interval of the nats per token saved against random choices of as many layers lies above zero at every "
    "number of layers, does not hold if it lies below at one; else it is not shown.",
    _fewer_layers,
)
