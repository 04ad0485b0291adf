"""Write docs/shelf.md, docs/benchmarks.md and docs/claims.md from cards and records; no number in them is typed.

python benchmarks/report.py
"""

import json
from pathlib import Path
from typing import Any

from factorlm.evaluation.claims import CLAIMS, is_current, read_records
from factorlm.factors.doses import is_monotone
from factorlm.factors.store import SHELF, Store, read_manifest

HERE = Path(__file__).resolve().parent
# Records of suites: folder, title, pictures shown, note.
SUITES = (
    (
        "control", "Control", 4,
        "The correction for a judge's errors assumes that they are the same on a model's texts as on its test texts; "
        "the share as judged is the number to compare.",
    ),
    ("rivals", "Rivals: positive", 2, "What these numbers cannot bear stands at the report's end."),
    ("rivals-toxic", "Rivals: less toxic", 2, "What these numbers cannot bear stands at the report's end."),
    ("factorised", "Factorised", 2, "What these numbers cannot bear stands at the report's end."),
    ("prior", "Distributions over models", 3, "What these numbers cannot bear stands at the report's end."),
    ("prior-text", "Components of real text", 2, "What these numbers cannot bear stands at the report's end."),
    ("guided", "Guiding by meaning", 3, "What these numbers cannot bear stands at the report's end."),
    ("memory", "Memories", 3, "What these numbers cannot bear stands at the report's end."),
    ("redteam", "Red teaming", 3, "What these numbers cannot bear stands at the report's end."),
    ("flywheel", "The flywheel with simulated users", 1, "Users are simulated."),
)  # fmt: skip
RIVALS = {
    "prompts": "A model and N instructions to it, multiplied; one text.",
    "heads": "A model and N heads of rank 16; one text. LM-Steer's are its adaptors.",
    "particles": "16 particles over the product of a model and N instructions, for a token of all.",
}
LOW_AUC = 0.8
RECORDS, DOCS = HERE / "records", HERE.parent / "docs"


def lines(name: str) -> list[dict[str, Any]]:
    path = RECORDS / name
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def record(name: str) -> dict[str, Any] | None:
    path = RECORDS / name
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def speed_table(rows: list[dict[str, Any]]) -> str:
    heads = ("ratio", "95 %", "pairs", "what", "heads", "rank", "batch", "ms a token", "other way", "n")
    cells = [heads, ("---:", "---", "---", "---", "---:", "---:", "---:", "---:", "---:", "---:")]
    for row in rows:
        low, high = row.get("low"), row.get("high")  # older records have none
        cells.append(
            (
                f"**{row['ratio']:.3f}**",
                "—" if low is None else f"{low:.3f} to {high:.3f}" + ", none shown" * (low <= 1 <= high),
                f"{row['lowest']:.3f} to {row['highest']:.3f}",
                row["benchmark"],
                str(row["num_heads"]),
                str(row["rank"]),
                str(row["batch_size"]),
                f"{row['ms_per_token']:.1f}",
                f"{row['other_ms_per_token']:.1f}",
                str(row["num_repeats"]),
            )
        )
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def products_table(rows: list[dict[str, Any]]) -> str:
    counts = sorted({row["rows"] for row in rows})
    shapes = sorted({(row["out"], row["width"]) for row in rows}, reverse=True)
    ratio = {(row["out"], row["width"], row["rows"]): f"{row['ratio']:.2f}" for row in rows}
    cells = [("W", *map(str, counts)), ("---", *["---:"] * len(counts))]
    cells += [(f"{out} x {width}", *(ratio[out, width, n] for n in counts)) for out, width in shapes]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def rivals_table(rows: list[dict[str, Any]], kind: str) -> str:
    some = [row for row in rows if row["kind"] == kind]
    libraries, counts = list(dict.fromkeys(r["library"] for r in some)), sorted({r["terms"] for r in some})
    found = {(row["library"], row["terms"]): row for row in some}
    cells = [("N", *libraries), ("---:", *["---:"] * len(libraries))]
    for count in counts:
        values = [found.get((library, count)) for library in libraries]
        cells.append((str(count), *("" if v is None else _beside(v) for v in values)))
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def _beside(row: dict[str, Any]) -> str:
    ratio = "" if row["library"] == "factorlm" else f" ({row['ratio']:.1f})"
    return f"{row['ms_per_token']:.0f}{ratio}"


def training_text(found: dict[str, Any]) -> str:
    heads = "; ".join(
        f"{h['head']} head {h['seconds']:.0f} s (held-out AUC {h['dev_auc']:.3f}; "
        + ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in h["stages"].items() if seconds >= 0.05)
        + ")"
        for h in found["heads"]
    )
    return f"`{found['command']}`: {found['num_texts']} sentences of {found['data']}, {found['cores']} cores: {heads}."


def engine_text(found: dict[str, Any]) -> str:
    """Our n-gram engine beside the public one, by the size of the corpus."""
    rows = [("tokens", "way", "ours", "public", "times as fast"), ("---:", "---", "---:", "---:", "---:")]
    for size in found["sizes"]:
        ours, theirs = size["build"]["ours"], size["build"]["theirs"]
        made = [("building, million tokens a second", ours["tokens a second"] / 1e6, theirs["tokens a second"] / 1e6)]
        ratio = [made[0][1] / made[0][2]]
        for what, one in size["single, µs"].items():
            for at in ("median", "p99"):
                made.append((f"{what}, single, {at} µs", one["ours"][at], one["theirs"][at]))
        made += [(f"{what}, in batches, µs", one["ours"], one["theirs"]) for what, one in size["batched, µs"].items()]
        along = size["along a text, µs a token"]
        made.append(("∞-gram probability along a text, µs a token", along["ours"], along["theirs"]))
        ratio += [b / a for _, a, b in made[1:]]
        rows += [
            (f"{size['tokens']:,}", what, f"{a:.3g}", f"{b:.3g}", f"{r:.1f}")
            for (what, a, b), r in zip(made, ratio, strict=True)
        ]
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    peak = found["sizes"][-1]["build"]
    mixing = ", ".join(f"{m['ratio']:.2f} ({batch})" for batch, m in found["mixing"].items())
    number = found["sizes"][-1]["queries that agree"]
    return (
        f"`{found['command']}`, {found['machine']}; package infini-gram 2.6. Both read the same files, and agree on "
        f"{number:,} random queries at each size. Batches and texts are asked one by one where the public engine has "
        f"no other way.\n\n{table}\n\nPeak memory of building the largest: {peak['ours']['peak MiB']:.0f} MiB, of "
        f"which about 400 are the libraries of Python, and {peak['theirs']['peak MiB']:.0f} MiB. Mixing the largest "
        f"memory into the default model takes {mixing} times the time of a token without."
    )


def benchmarks() -> str:
    speed = lines("speed.jsonl")
    parts = [
        "# Benchmarks",
        "Written by `python benchmarks/report.py` from the records in `benchmarks/records`. Ratios are medians of "
        "pairs run in turn in one process; which way goes first alternates. An interval holds the true median in 95 % "
        "of cases; where it holds 1, no difference is shown.",
    ]
    if speed:
        one = speed[0]
        share = next(r["head_bytes"] / r["encoder_bytes"] / r["num_heads"] for r in speed if r["num_heads"])
        parts += [
            "## Speed",
            f"`factorlm bench all --json`, {one['number_format']}, {one['machine']}.",
            speed_table(speed),
            f"Memory: 100 heads of rank {one['rank']} take {100 * share:.1%} of the encoder's; a head of rank zero is "
            "one vector.",
            "The first rows compare decoding with heads (another exponent for each head in every row) with decoding "
            "without, on the same engine. The rows against transformers run its own greedy `generate` on the same "
            "weights as transformers loads them; ours differs by packed weights, by projections and attention heads "
            "that are computed together, and by caches that only grow. Scoring with composed log probability runs all "
            "factors at an exponent; the evidence is the exact log-likelihood ratio of each factor, normaliser "
            "included. Instructions apart are read one after the other, as a loop over models would; particles are "
            "compared with as many samples in one batch; guesses come from the text itself, which is written the same "
            "with them, or from the base where a product holds further models.",
        ]
    if rivals := record("rivals_speed.json"):
        parts += [
            "## Beside other libraries",
            f"`{rivals['command']}` in the environments of `benchmarks/rivals/install.sh`, {rivals['model']}, "
            f"{rivals['number_format']}, {rivals['machine']}: milliseconds a token, and in brackets how many times "
            "ours. Each library runs in a process of its own, all in turn; medians over rounds.",
            *(f"{title}\n\n{rivals_table(rivals['rows'], kind)}" for kind, title in RIVALS.items()),
        ]
    if linear := record("linear.json"):
        parts += [
            "## Matrix products",
            f"`{linear['command']}`, {linear['cores']} cores, torch {linear['torch']}: time of torch's product x Wᵀ "
            "over that with a weight that is packed once, by number of rows of x.",
            *(f"{name}:\n\n{products_table(rows)}" for name, rows in linear["products"].items()),
        ]
    if training := record("training.json"):
        parts += ["## Training", training_text(training)]
    if engine := record("infini.json"):
        parts += ["## Beside the public n-gram engine", engine_text(engine)]
    for name, title, most, note in SUITES:
        if found := record(f"{name}/report.json"):
            parts += [f"## {title}", suite_text(found, name, most, note)]
    return "\n\n".join(parts) + "\n"


def suite_text(found: dict[str, Any], name: str, most: int, note: str) -> str:
    """What made a report, its headlines, its first pictures, and where the rest is."""
    made = found["provenance"]
    pictures = sorted((RECORDS / name / "pictures").glob("*.svg"))[:most]
    return "\n\n".join(
        [
            f"`{made['command']}`, {made['machine']}.",
            "\n".join(f"- {line}" for line in found["headlines"]),
            "\n".join(
                f"![{path.stem[3:].replace('-', ' ')}](../benchmarks/records/{name}/pictures/{path.name})"
                for path in pictures
            ),
            f"{note} All tables are in the [report](../benchmarks/records/{name}/report.md).",
        ]
    )


def claims() -> str:
    recorded = read_records(RECORDS / "claims")
    rows = [("idea", "reported", "measured here", "how", "verdict"), ("---",) * 5]
    for name, claim in CLAIMS.items():
        idea = claim.sentence + (f" ({claim.source})" if claim.source else "")
        found = recorded.get(name)
        made_by = found.made_by if found else claim.made_by  # of the numbers shown
        how = f"`{made_by or f'factorlm eval claim {name}'}`"
        if found is None:
            rows.append((idea, claim.reported or "—", "—", how, "not yet run"))
            continue
        outcome = found.outcome
        verdict = outcome.verdict + (f": {outcome.detail}" if outcome.detail else "")
        if not is_current(found, claim):
            verdict += "; by an earlier rule, size or benchmark: run it again"
        rows.append((idea, claim.reported or "—", outcome.measured, how, verdict))
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    rules = "\n".join(f"- `{name}`: {claim.rule}" for name, claim in CLAIMS.items())
    return (
        "# Claims\n\nWritten by `python benchmarks/report.py` from the records in `benchmarks/records/claims`. A claim "
        "is a sentence that can fail; `factorlm eval claim list` names them all, `factorlm eval claim NAME` runs one, "
        "and `factorlm eval claim all --records benchmarks/records/claims` runs and records all. Intervals are of 95 %."
        f"\n\n{table}\n\n## What decides\nThe rules are fixed before a run and are part of its record.\n\n{rules}\n"
    )


def shelf() -> str:
    manifests = [read_manifest(SHELF / name) for name in Store(SHELF).names()]
    heads = [m for m in manifests if m.kind == "head"]
    rows = [
        ("head", "AUC held out", "AUC elsewhere", "texts that have it", "perplexity", "judge", "licence"),
        ("---",) * 7,
    ]
    for m in heads:
        assert m.calibration is not None
        elsewhere = "; ".join(f"{auc:.2f} {name}" for name, auc in m.calibration.test_auc.items())
        rates, costs, accuracy = "—", "—", "—"
        if m.response:
            by_strength = {d.strength: d for d in m.response.doses}
            doses = [by_strength[s] for s in (0.0, 0.2, 0.4, 0.6) if s in by_strength]
            rates = " → ".join(f"{d.rate:.0%}" for d in doses)
            costs = ", ".join(f"×{d.perplexity_ratio:.2f}" for d in doses if d.strength)
            accuracy = f"{m.response.accuracy:.0%}"
        auc = f"{m.calibration.dev_auc:.2f}"
        rows.append((f"`{m.name}`", auc, elsewhere, rates, costs, accuracy, m.licence))
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    short = [m.name for m in heads if m.calibration and m.calibration.dev_auc < LOW_AUC]
    fallen = [m.name for m in heads if m.response and not is_monotone(m.response)]
    lexica = "\n".join(f"- `{m.name}`: {m.description}" for m in manifests if m.kind == "lexicon")
    what = "\n".join(f"- `{m.name}`: {m.description} Learned from {m.label}." for m in heads)
    honest = [
        f"Below an AUC of {LOW_AUC} on held-out texts: {', '.join(f'`{n}`' for n in short) or 'none'}.",
        f"Rate not rising with every strength, beyond chance: {', '.join(f'`{n}`' for n in fallen) or 'none'}.",
    ]
    return (
        "# The shelf\n\nWritten by `python benchmarks/report.py` from the cards of the factors that the package ships, "
        "which `factorlm factor build-all --out src/factorlm/factors/shelf` makes from their recipes "
        "(`src/factorlm/factors/recipes`). `factorlm factor show NAME` has the whole card. "
        "Heads learn from labelled texts and from 4,096 texts that the encoder writes itself; what that is "
        "worth: claim `own-texts-cost-less` in claims.md.\n\n"
        f"## Heads\n\n{table}\n\n"
        "Texts that have it: the share of 128 continuations of neutral openings (20 tokens each, top-p 0.9) in which a "
        "judge finds the attribute, for the base model and at strengths 0.2, 0.4 and 0.6; the perplexity is that of "
        "those texts under the base, over that of its own texts, at the same strengths. The judge is a classifier of "
        "sentence vectors learned from texts held out of the head's training, right on the given share of such texts; "
        "a share "
        f"near one half is known to ±9 points.\n\n{' '.join(honest)}\n\n{what}\n\n## Lexica\n\n{lexica}\n"
    )


if __name__ == "__main__":
    (DOCS / "shelf.md").write_text(shelf(), encoding="utf-8")
    (DOCS / "benchmarks.md").write_text(benchmarks(), encoding="utf-8")
    (DOCS / "claims.md").write_text(claims(), encoding="utf-8")
