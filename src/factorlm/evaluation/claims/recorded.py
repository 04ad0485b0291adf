"""Claims that rest on the record of a heavier benchmark; running one applies its rule to the record."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from factorlm.errors import InputError
from factorlm.evaluation.claims.claim import Claim, ClaimBench, NoSettings, Outcome, Verdict
from factorlm.evaluation.intervals import Estimate

MOST_TIME = 1.1  # times that without heads
LEAST_SEPARATION = 0.45
MUCH_FASTER = 0.6  # of the time of float32
CONTROL = """factorlm eval control --size full --set 'factors=["positive", "toxic"]' --out benchmarks/records/control"""
CONTROL_RECORD = "control/report.json"
JUDGE = "sentiment"  # on the shelf, so that everybody has it
LINEAR = "python benchmarks/linear.py"
SPEED = "factorlm bench all --json > benchmarks/records/speed.jsonl"


def _origin(file: str, found: dict[str, Any]) -> dict[str, Any]:
    """Which record numbers came from."""
    return {"file": file, **{key: found[key] for key in ("commit", "machine", "versions", "torch") if key in found}}


def on_record(
    record: str, made_by: str, name: str, sentence: str, source: str, reported: str, rule: str,
    decided: Callable[[dict[str, dict[str, Estimate]]], tuple[str, dict[str, Any], Verdict]],
) -> Claim:  # fmt: skip
    """A claim about the measures in the report of a suite.

    Args:
        record: the report, in the folder of records.
        made_by: the command that made it.
        name: of the claim.
        sentence: that can fail.
        source: of the idea.
        reported: what was found there.
        rule: when it holds.
        decided: from the measures to what was measured, numbers and verdict.
    """

    def run(bench: ClaimBench, settings: NoSettings) -> Outcome:
        [report] = bench.benchmark(record, made_by)
        found = {
            measure: {of: Estimate.model_validate(estimate) for of, estimate in values.items()}
            for measure, values in report["measures"].items()
        }
        measured, numbers, verdict = decided(found)
        origin = _origin(record, report["provenance"])
        return Outcome(measured=measured, numbers={**numbers, "record": origin}, verdict=verdict)

    return Claim(name, sentence, source, reported, rule, NoSettings(), run, (f"benchmarks/records/{record}",), 0.1,
                 made_by)  # fmt: skip


def _heads_cost(bench: ClaimBench, settings: NoSettings) -> Outcome:
    rows = bench.benchmark("speed.jsonl", SPEED)
    rows = [row for row in rows if row["benchmark"].startswith("time per token with heads")]
    if not rows:
        raise InputError(f"times with heads are needed in speed.jsonl, got none; make it with {SPEED}")
    worst = max(row["ratio"] for row in rows)
    one = rows[0]
    return Outcome(
        measured=f"{worst:.3f} times with {one['num_heads']} heads of rank {one['rank']}",
        numbers={
            "ratio_by_batch": {str(row["batch_size"]): row["ratio"] for row in rows},
            "record": _origin("speed.jsonl", one),
        },
        verdict="holds" if worst <= MOST_TIME else "does not hold here",
    )


HEADS_COST_LITTLE = Claim(
    name="heads-cost-little",
    sentence="Log-linear heads share one unembedding",
    source="Han et al. 2024, LM-Steer",
    reported="1.24 times the decoding time with one steer",
    rule=f"Holds if the median ratio of the time per token with heads to that without is at most {MOST_TIME} for every "
    "batch size; else it does not hold.",
    settings=NoSettings(),
    run=_heads_cost,
    needs=("benchmarks/records/speed.jsonl",),
    minutes=0.1,
    made_by="factorlm bench heads",
)


def _shares(bench: ClaimBench) -> tuple[dict[float, dict[str, Any]], dict[str, Any]]:
    """Share of texts judged positive, with its interval, at each strength; and where it comes from."""
    [report] = bench.benchmark(CONTROL_RECORD, CONTROL)
    start = "positive "
    shares = {
        float(measure.removeprefix(start)): found[JUDGE]
        for measure, found in report["measures"].items()
        if measure.startswith((f"{start}+", f"{start}-"))
    }
    return dict(sorted(shares.items())), _origin(CONTROL_RECORD, report["provenance"])


def _bias_steers(bench: ClaimBench, settings: NoSettings) -> Outcome:
    shares, origin = _shares(bench)
    low, high = (shares[s]["value"] for s in (-0.2, 0.2))
    return Outcome(
        measured=f"{high - low:.2f} at 0.2 nats: {low:.0%} to {high:.0%} judged positive",
        numbers={"separation": high - low, "record": origin},
        verdict="holds" if high - low >= LEAST_SEPARATION else "does not hold here",
    )


BIAS_STEERS = Claim(
    name="bias-steers",
    sentence="A bias alone, trained on a few thousand sentences, steers sentiment",
    source="factor heads",
    reported="separation 0.67 at 0.2 nats in our prototype",
    rule=f"Holds if the share of texts judged positive at 0.2 nats per token less that at -0.2 is at least "
    f"{LEAST_SEPARATION}; else it does not hold.",
    settings=NoSettings(),
    run=_bias_steers,
    needs=(f"benchmarks/records/{CONTROL_RECORD}",),
    minutes=0.1,
    made_by=CONTROL,
)


def _share_rises(bench: ClaimBench, settings: NoSettings) -> Outcome:
    shares, origin = _shares(bench)
    steps = list(itertools.pairwise(shares.items()))
    falls = [(a, b) for a, b in steps if b[1]["value"] <= a[1]["value"]]
    are_noise = all(b["high"] >= a["low"] for (_, a), (_, b) in falls)
    return Outcome(
        measured=f"{len(steps) - len(falls)} of {len(steps)} steps rise"
        + "".join(
            f"; from {s:+} to {t:+} it goes from {a['value']:.0%} to {b['value']:.0%}" for (s, a), (t, b) in falls
        ),
        numbers={"share": {f"{s:+}": share["value"] for s, share in shares.items()}, "record": origin},
        verdict="holds" if not falls else "not shown" if are_noise else "does not hold here",
        detail=f"the fall is {'inside' if are_noise else 'outside'} the intervals" if falls else "",
    )


SHARE_RISES = Claim(
    name="share-rises-with-strength",
    sentence="The share judged positive rises with the strength all the way",
    source="",
    reported="",
    rule="Holds if the share rises at every step of strength; not shown if it falls somewhere, but the 95 % intervals "
    "of both ends of every fall overlap; else it does not hold.",
    settings=NoSettings(),
    run=_share_rises,
    needs=(f"benchmarks/records/{CONTROL_RECORD}",),
    minutes=0.1,
    made_by=CONTROL,
)


def _bfloat16(bench: ClaimBench, settings: NoSettings) -> Outcome:
    [found] = bench.benchmark("linear.json", LINEAR)
    ratios = {row["what"]: row["ratio"] for row in found["formats"]}
    is_faster = max(ratios.values()) < MUCH_FASTER
    native = "with" if found["native_bfloat16"] else "without"
    return Outcome(
        measured="time over that of float32: "
        + "; ".join(f"{ratio:.2f} {what}" for what, ratio in ratios.items())
        + f"; {native} native bfloat16",
        numbers={"ratios": ratios, "record": _origin("linear.json", found)},
        verdict="holds" if is_faster else "does not hold here",
        detail="" if is_faster or found["native_bfloat16"] else "float32 is the default there",
    )


BFLOAT16_ON_PROCESSOR = Claim(
    name="bfloat16-on-processor",
    sentence="bfloat16 is faster than float32 on a processor",
    source="our design",
    reported="about twice",
    rule=f"Holds if the median time in bfloat16 over that in float32 is below {MUCH_FASTER} in decoding and in "
    "reading; else it does not hold.",
    settings=NoSettings(),
    run=_bfloat16,
    needs=("benchmarks/records/linear.json",),
    minutes=0.1,
    made_by=LINEAR,
)
