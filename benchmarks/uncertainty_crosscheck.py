"""Our estimators of uncertainty against those of lm-polygraph, on the same answers, log probabilities and clusters.

    python -m venv polygraph && polygraph/bin/pip install --no-deps lm-polygraph==0.7.0
    python benchmarks/uncertainty_crosscheck.py --polygraph polygraph/lib/python3.11/site-packages/lm_polygraph

Its estimators are plain functions of statistics, so their files are loaded without the rest of the package, whose
dependencies are many. A model answers questions once; both sides are given what it answered.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import sys
import types
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from factorlm.algebra import pad_left, pad_right
from factorlm.evaluation.calibration import area_under_risk_coverage, auroc
from factorlm.evaluation.corpora import DataFolder
from factorlm.evaluation.provenance import commit, machine, versions
from factorlm.evaluation.uncertain.graded import asked_of, graded
from factorlm.evaluation.workbench import Workbench, default_cache
from factorlm.files import write_whole
from factorlm.inference.expression import compose
from factorlm.inference.reading import read
from factorlm.inference.uncertainty import Asking, Evidence, Tools
from factorlm.inference.uncertainty.estimators import ESTIMATORS
from factorlm.inference.uncertainty.evidence import prompt_ids_of
from factorlm.inference.uncertainty.meanings import cluster_log_probs

RECORD = Path(__file__).resolve().parent / "records" / "uncertainty_crosscheck.json"
CLOSE = 1e-6


def load(package: Path) -> types.SimpleNamespace:
    """Their estimators and metrics, without what the package's own __init__ imports."""
    for room in ("", ".estimators", ".ue_metrics", ".utils"):
        name, folder = f"lm_polygraph{room}", package / room.removeprefix(".")
        module = types.ModuleType(name)
        module.__path__ = [str(folder)]
        sys.modules[name] = module
    common: Any = types.ModuleType("lm_polygraph.utils.common")  # it needs an image library for other estimators
    common.polygraph_module_init = lambda made: made  # writes down the arguments of what it decorates
    sys.modules["lm_polygraph.utils.common"] = common

    def one(name: str, kind: str) -> Any:
        return getattr(importlib.import_module(f"lm_polygraph.{name}"), kind)

    return types.SimpleNamespace(
        entropy=one("estimators.monte_carlo_sequence_entropy", "MonteCarloSequenceEntropy")(),
        mean_entropy=one("estimators.monte_carlo_normalized_sequence_entropy", "MonteCarloNormalizedSequenceEntropy")(),
        probability=one("estimators.max_probability", "MaximumSequenceProbability")(),
        perplexity=one("estimators.perplexity", "Perplexity")(),
        semantic=one("estimators.semantic_entropy", "SemanticEntropy"),
        area=one("ue_metrics.pred_rej_area", "PredictionRejectionArea")(),
        roc=one("ue_metrics.roc_auc", "ROCAUC")(),
    )


def _plain(value: Any) -> Any:
    """A number of NumPy as one of Python."""
    return value.item()


def classes(clusters: list[list[int]]) -> dict[str, Any]:
    """Clusters as they are told there."""
    members = [[[j for j, c in enumerate(row) if c == k] for k in range(max(row) + 1)] for row in clusters]
    return {"semantic_classes_entail": {"class_to_sample": members, "sample_to_class": clusters}}


def compared(
    theirs: types.SimpleNamespace, found: list[Evidence], token_log_probs: list[list[float]]
) -> dict[str, Any]:
    """Largest difference of each estimator."""
    tools = Tools.default()
    names = (
        "mean-log-prob", "log-prob", "naive-entropy", "mean-entropy", "semantic-entropy", "discrete-semantic-entropy"
    )  # fmt: skip
    ours = {name: np.array([-ESTIMATORS[name].confidence(e, tools) for e in found]) for name in names}
    clusters = [tools.meanings.clusters(e.question, e.texts) for e in found]
    samples = {
        "sample_log_probs": [[a.log_prob for a in e.samples] for e in found],
        "sample_tokens": [[list(range(a.num_tokens)) for a in e.samples] for e in found],
        "sample_texts": [list(e.texts) for e in found],
        "greedy_log_likelihoods": token_log_probs,
    }
    # One sample for each meaning, with the meaning's log probability: there "direct" is the entropy over meanings.
    meaning = [cluster_log_probs(c, [a.mean_log_prob for a in e.samples]).tolist()
               for c, e in zip(clusters, found, strict=True)]  # fmt: skip
    single = {"sample_log_probs": meaning, "sample_texts": [[str(k) for k in range(len(m))] for m in meaning],
              **classes([list(range(len(m))) for m in meaning])}  # fmt: skip
    told = {
        "mean-log-prob": theirs.perplexity(samples),
        "log-prob": theirs.probability(samples),
        "naive-entropy": theirs.entropy(samples),
        "mean-entropy": theirs.mean_entropy(samples),
        "discrete-semantic-entropy": theirs.semantic(class_probability_estimation="frequency")(
            {**samples, **classes(clusters)}
        ),
        "semantic-entropy": theirs.semantic(entropy_estimation="direct")(single),
    }
    return {name: float(np.abs(ours[name] - np.asarray(value, float)).max()) for name, value in told.items()}


def metrics(theirs: types.SimpleNamespace, confidence_B: np.ndarray, right_B: np.ndarray) -> dict[str, float]:
    """Differences of metrics; scores that tie are parted, since theirs takes ties in any order."""
    parted_B = confidence_B + 1e-9 * np.arange(len(confidence_B))
    area = 1 - theirs.area(-parted_B, right_B)
    roc = theirs.roc(-parted_B, 1 - right_B)  # there what is looked for is uncertain: a wrong answer
    return {
        "AURC": abs(area - area_under_risk_coverage(parted_B, 1 - right_B)),
        "AUROC": abs(roc - auroc(parted_B, right_B)) if not math.isnan(roc) else math.nan,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--polygraph", type=Path, required=True, help="folder lm_polygraph of an installation")
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--set", dest="which", default="nq_open")
    parser.add_argument("--questions", type=int, default=20)
    parser.add_argument("--out", type=Path, default=RECORD)
    args = parser.parse_args()
    theirs = load(args.polygraph)
    composed = compose(args.model, dtype="float32")
    bench = Workbench((composed,), DataFolder.default(), default_cache(), lambda *_: None)
    asked = asked_of(bench, args.which, args.questions)
    found = graded(bench, composed, args.which, asked, ("samples", "true"), Asking())
    queries = [one.query for one in asked]
    answers = composed.model.generate(
        [query.prompt for query in queries], max_tokens=Asking().max_tokens, sampling=_greedy()
    )
    token_log_probs = []
    for query, answer in zip(queries, answers, strict=True):
        prompt_ids = prompt_ids_of(composed.model, query)
        reading = read(composed.model.factor, pad_left([prompt_ids]), pad_right([list(answer.token_ids)]))
        token_log_probs.append(reading.log_prob_BT[0, : len(answer.token_ids)].double().tolist())
    evidence = list(found.evidence)
    differences = compared(theirs, evidence, token_log_probs)
    # Answers are read anew, token by token, so the first two also carry the rounding of another batch.
    limits = {name: 1e-3 if name in ("mean-log-prob", "log-prob") else CLOSE for name in differences}
    confidence_B = np.array([ESTIMATORS["naive-entropy"].confidence(e, Tools.default()) for e in evidence])
    right_B = found.right_B
    if right_B.min() == right_B.max():  # one answer counts as the other kind, so that both sides have something to rank
        right_B = right_B.copy()
        right_B[0] = 1 - right_B[0]
    record = {
        "what": "largest difference of uncertainty or metric between ours and lm-polygraph's, over all questions",
        "polygraph": "0.7.0",
        "model": args.model,
        "questions": f"{len(asked)} of {args.which}",
        "estimators": {name: {"difference": value, "limit": limits[name], "agrees": value <= limits[name]}
                       for name, value in differences.items()},
        "metrics": {name: {"difference": value, "limit": CLOSE, "agrees": value <= CLOSE}
                    for name, value in metrics(theirs, confidence_B, right_B).items()},
        "notes": [
            "Their semantic entropy from likelihoods is a mean over samples of unnormalised log sums (Monte Carlo) or "
            "a sum over samples of each meaning's term; ours is the entropy of normalised meanings, as in the papers' "
            "released code. The two are compared where they are the same: one sample for each meaning.",
            "Their prediction rejection area is the mean quality of kept answers, 1 - AURC; our PRR sums the loss left "
            "over instead (Malinin and Gales), so PRR itself is not comparable and AURC is compared.",
        ],
        "machine": machine(),
        "versions": versions(),
        "commit": commit(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }  # fmt: skip
    write_whole(args.out, json.dumps(record, indent=2, default=_plain) + "\n")
    for kind in ("estimators", "metrics"):
        for name, row in record[kind].items():  # type: ignore[attr-defined]
            print(f"{name:<28} {row['difference']:.2e}  {'agrees' if row['agrees'] else 'DIFFERS'}")


def _greedy() -> Any:
    from factorlm.inference.draw import Sampling

    return Sampling(temperature=0.0, stop=Asking().stop)


if __name__ == "__main__":
    main()
