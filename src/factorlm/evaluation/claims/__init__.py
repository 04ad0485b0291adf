"""Claims of papers whose ideas we build, and of our own: a table, and what runs one.

A new claim is a value of `Claim` in a file here, and a line in the table.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from factorlm.errors import UnknownNameError
from factorlm.evaluation.claims import (
    aligned,
    editing,
    fairness,
    guided,
    heads,
    markers,
    measures,
    memories,
    priors,
    products,
    recorded,
    redteam,
    robustness,
    samplers,
    steering,
    truncation,
    uncertain,
)
from factorlm.evaluation.claims.claim import (
    Claim,
    ClaimBench,
    ClaimRecord,
    Outcome,
    in_float32,
    is_current,
    read_records,
    write_record,
)
from factorlm.evaluation.corpora import DataFolder
from factorlm.evaluation.provenance import commit, machine, versions
from factorlm.evaluation.workbench import Cache, Progress, default_cache
from factorlm.inference.expression import Composed
from factorlm.settings import Config

BENCHMARKS = Path("benchmarks/records")

CLAIMS: dict[str, Claim] = {
    claim.name: claim
    for claim in (
        products.LOCAL_IS_NOT_GLOBAL,
        products.UNION_ONLY_PUSHES_DOWN,
        heads.ONE_UNEMBEDDING,
        recorded.HEADS_COST_LITTLE,
        heads.HEADS_FLAT_IN_NUMBER,
        heads.FACTOR_CLASSIFIES,
        recorded.BIAS_STEERS,
        recorded.SHARE_RISES,
        steering.OWN_TEXTS,
        steering.TEN_FACTORS,
        truncation.TYPICAL_REPEATS_LESS,
        measures.DISTINCT_FALLS_WITH_LENGTH,
        measures.ADJUSTED_DISTINCT_STAYS,
        measures.SHORTER_STRIDE,
        recorded.BFLOAT16_ON_PROCESSOR,
        samplers.PARTICLES_REACH_THE_PRODUCT,
        samplers.TWIST_TIGHTENS_BOUND,
        samplers.CONTRASTIVE_REPEATS_LESS,
        samplers.GUESSES_PAY,
        samplers.FASTER_THAN_OTHERS,
        priors.RIVALS_KEPT,
        priors.EVIDENCE_LOWERS,
        priors.BELIEF_TURNS,
        priors.MIXTURE_BEATS_ONE,
        priors.BETWEEN_TELLS,
        priors.TILT_STEERS,
        priors.LAYERS_LEARNED,
        guided.HEEDED,
        guided.PROPOSED,
        guided.NEAR_TILTED,
        guided.STEERS,
        guided.BEATS_HEADS,
        guided.QUICK,
        memories.LOWERS,
        memories.AGREES,
        memories.FEW_GAIN,
        memories.TEXTS_BETTER,
        memories.IMITATES,
        memories.DRAFTS_PAY,
        memories.LEXICAL_BEST,
        memories.UNLIKE,
        memories.ENGINE_FAST,
        memories.MIXING_CHEAP,
        aligned.PRODUCT,
        aligned.BOUND,
        aligned.BEATS_DPO,
        aligned.REALIGNED,
        aligned.OVER,
        aligned.LENGTH,
        aligned.CONFIDENT,
        aligned.BOTH,
        uncertain.INVERSE,
        uncertain.GRADED,
        uncertain.TEMPERATURE,
        uncertain.KNOWS_ITSELF,
        uncertain.HELP_SHOWS,
        uncertain.SMALL_IS_CHANCE,
        uncertain.MEANINGS,
        uncertain.REPAIRS,
        redteam.FINDS,
        redteam.TRADE,
        redteam.CORRECTS,
        redteam.LEARNS,
        redteam.LOWERS,
        redteam.NEGATED,
        redteam.BALANCED,
        *editing.EDITING,
        markers.MIMICRY,
        markers.ACCURACY,
        robustness.TYPOS,
        robustness.MIXED,
        robustness.REPAIRS,
        robustness.DEMONSTRATIONS,
        fairness.PLANTED,
    )
}

__all__ = [
    "BENCHMARKS",
    "CLAIMS",
    "Claim",
    "ClaimBench",
    "ClaimRecord",
    "Outcome",
    "claim_named",
    "is_current",
    "read_records",
    "run_claim",
    "write_record",
]


def claim_named(name: str) -> Claim:
    """The claim of this name.

    Raises:
        UnknownNameError: if there is none; near names are listed.
    """
    if name not in CLAIMS:
        raise UnknownNameError.of("claim", name, CLAIMS, "factorlm eval claim list shows all")
    return CLAIMS[name]


def run_claim(
    name: str,
    *,
    settings: Config | None = None,
    seed: int = 0,
    data: DataFolder | None = None,
    benchmarks: Path = BENCHMARKS,
    cache: Cache | None = None,
    report: Progress = lambda stage, done, total: None,
    compose: Callable[[str], Composed] = in_float32,
) -> ClaimRecord:
    """Run a claim: measure, apply its rule, and record both.

    Args:
        name: of the claim.
        settings: other than the claim's own, such as a smaller size; they are recorded.
        seed: of all randomness.
        data: where data sets are; None takes $FACTORLM_DATA, else ../shared/data.
        benchmarks: folder of the records of benchmarks.
        cache: of finished pieces; None keeps them beside the models. `Cache(None)` keeps nothing.
        report: told of progress: stage, done, total.
        compose: from an expression to a model, instead of the usual one in float32.

    Raises:
        UnknownNameError: for an unknown claim, or data set.
        InputError: if something that the claim needs is not there.
    """
    import torch

    claim = claim_named(name)
    chosen = settings or claim.settings
    bench = ClaimBench(data or DataFolder.default(), cache or default_cache(), report, seed, benchmarks, compose)
    start = time.monotonic()
    outcome = claim.run(bench, chosen)
    return ClaimRecord(
        name=name,
        sentence=claim.sentence,
        source=claim.source,
        reported=claim.reported,
        rule=claim.rule,
        outcome=outcome,
        command=f"factorlm eval claim {name}" + (f" --seed {seed}" if seed else ""),
        made_by=claim.made_by,
        settings=chosen.model_dump(mode="json"),
        seed=seed,
        data=dict(bench.used),
        machine=machine(),
        threads=torch.get_num_threads(),
        versions=versions(),
        commit=commit(),
        seconds=round(time.monotonic() - start, 1),
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
    )
