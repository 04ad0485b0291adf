"""Measure what a factor does at each strength: the share of texts with its attribute, and what that costs.

    python benchmarks/effect.py --factor positive [--seed 0 1 2] [--data ../shared/data]
    python benchmarks/effect.py --factor positive --from-record

Question: how do the share of texts with the attribute and the perplexity of texts move with the strength?
Design: the first distinct neutral prompts, continued once per seed at every strength; nothing is tuned and nothing
stops early. Every strength uses the same seeds, so changes are paired by prompt.
Judge: logistic regression on sentence embeddings of another encoder, learned from other texts than the factor. It
reads the continuation alone (the headline); prompt and continuation together stand beside it.
Intervals: 95 %, percentile bootstrap over prompts; all seeds of a prompt stay together. Corrected shares (Rogan and
Gladen, 1978) undo the judge's error rates, measured on its test texts, and carry their uncertainty.
"""

# Axes: B texts, K seeds, P prompts, R resamples.

import argparse
import gzip
import hashlib
import io
import itertools
import json
import os
import platform
import re
import shlex
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from factorlm.cli.terminal import notes, progress
from factorlm.factors.examples import Example
from factorlm.factors.store import folder_of, read_manifest
from factorlm.inference import Response, Sampling
from factorlm.inference.model import load
from factorlm.models.fetch import MODELS, cache_folder
from factorlm.models.sentences import load_sentence_encoder

HERE = Path(__file__).resolve().parent
PROMPTS = "sentiment_prompts/neutral"
STRENGTHS = (-0.8, -0.6, -0.4, -0.2, 0.0, 0.2, 0.4, 0.6, 0.8)
BATCH_PROMPTS, RESAMPLES = 50, 4000
PENALTIES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)  # inverse regularisation tried on the judge's dev texts
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#555555"  # of Okabe and Ito, told apart by all eyes

Rows = Callable[[str], Iterator[dict[str, Any]]]  # "set/part" -> its rows
Report = Callable[[str, int, int], None]


USES = ("train", "dev", "test", "elsewhere")  # dev chooses the penalty; elsewhere is a test on another origin
JUDGES = {
    "positive": ("sst2/train", "sst2/dev", "sst2/test", "review_sentiment_transfer/yelp_test"),
    "toxic": ("jigsaw_toxic/train", "jigsaw_toxic/dev", "jigsaw_toxic/test", "surge_toxicity/all"),
}
MOST_CHARACTERS = {"jigsaw_toxic": 200}  # of longer comments a judge would learn that toxic ones are shorter


def labelled(part: str, rows: Rows) -> list[Example]:
    """A labelled part of the data, with contractions that its tokenizer cut joined again."""
    most = MOST_CHARACTERS.get(part.split("/")[0], 10**9)
    texts = [(re.sub(r" (n't|'(?:s|ve|re|ll|d|m)\b)", r"\1", row["text"]), row["label"]) for row in rows(part)]
    return [Example(text, label == 1) for text, label in texts if len(text) <= most]


def put(path: Path, content: bytes) -> None:
    """Write a whole file or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_bytes(content)
    partial.replace(path)


def embedded(examples: list[Example], report: Callable[[int, int], None]) -> tuple[np.ndarray, np.ndarray]:
    """Vectors and labels of texts; vectors are kept in the cache."""
    texts = [example.text for example in examples]
    key = hashlib.sha256(json.dumps([MODELS["minilm"].wheels[0].sha256, texts]).encode()).hexdigest()
    path = cache_folder() / "judges" / f"{key[:24]}.npy"
    if not path.is_file():
        kept = io.BytesIO()
        np.save(kept, load_sentence_encoder().encode(texts, report).numpy())
        put(path, kept.getvalue())
    return np.load(path), np.array([example.is_positive for example in examples])


def learn_judge(name: str, rows: Rows, report: Report) -> tuple[Callable[[list[str]], np.ndarray], dict[str, Any]]:
    """A function from texts to verdicts (nan for an empty text), and how good it is."""
    from sklearn.linear_model import LogisticRegression

    parts = {}
    for use, part in zip(USES, JUDGES[name], strict=True):
        parts[use] = embedded(labelled(part, rows), lambda done, total, u=use: report(f"judge: {u}", done, total))
    fits = [LogisticRegression(C=c, class_weight="balanced", max_iter=2000).fit(*parts["train"]) for c in PENALTIES]
    fit = max(fits, key=lambda f: f.score(*parts["dev"]))

    def verdicts(texts: list[str]) -> np.ndarray:
        vectors = load_sentence_encoder().encode(texts).numpy()
        return np.where([bool(text.strip()) for text in texts], fit.predict(vectors).astype(float), np.nan)

    about = {"method": "logistic regression on minilm", "inverse_penalty": fit.C, "most_characters": MOST_CHARACTERS}
    about |= {use: quality(fit.predict(vectors), truth) for use, (vectors, truth) in parts.items()}
    return verdicts, about | {"parts": dict(zip(USES, JUDGES[name], strict=True))}


def quality(verdict_B: np.ndarray, truth_B: np.ndarray) -> dict[str, Any]:
    """Accuracy, error rates and confusion matrix (rows: truth without and with; columns: verdict)."""
    confusion = [[int(((truth_B == t) & (verdict_B == v)).sum()) for v in (False, True)] for t in (False, True)]
    specificity, sensitivity = (row[t] / sum(row) for t, row in enumerate(confusion))
    accuracy = float((verdict_B == truth_B).mean())
    return {"accuracy": accuracy, "sensitivity": sensitivity, "specificity": specificity, "confusion": confusion}


def numbers(responses_KP: list[list[Response]], verdicts: Callable[[list[str]], np.ndarray]) -> dict[str, np.ndarray]:
    """What is measured of each text of a strength, each [K, P] but `distinct_2` [K]."""
    pairs_K = [[p for r in row for p in itertools.pairwise(r.token_ids)] for row in responses_KP]
    verdict_KP = np.array([verdicts([r.text for r in row]) for row in responses_KP])
    return {
        "is_judged": ~np.isnan(verdict_KP),
        "is_positive": np.nan_to_num(verdict_KP),
        "with_prompt": np.array([verdicts([r.prompt + r.text for r in row]) for row in responses_KP]),
        "num_tokens": np.array([[len(r.token_ids) for r in row] for row in responses_KP]),
        "log_prob": np.array([[r.log_prob for r in row] for row in responses_KP]),
        "base_log_prob": np.array([[r.base_log_prob for r in row] for row in responses_KP]),
        "distinct_2": np.array([len(set(pairs)) / max(1, len(pairs)) for pairs in pairs_K]),
    }


def row_of(seen: dict[str, np.ndarray], plain: dict[str, np.ndarray] | None, test: dict[str, Any]) -> dict[str, Any]:
    """All numbers of one strength, those with sampling error with their interval."""
    rng = np.random.default_rng(0)  # the same resamples for every strength
    num_prompts = seen["is_judged"].shape[1]
    # The first resample is the sample itself, so that it holds the estimate.
    index_RP = np.vstack([np.arange(num_prompts), rng.integers(num_prompts, size=(RESAMPLES, num_prompts))])

    def ratio_R(above_KP: np.ndarray, below_KP: np.ndarray) -> np.ndarray:
        return above_KP.sum(0)[index_RP].sum(1) / below_KP.sum(0)[index_RP].sum(1)

    share_R = ratio_R(seen["is_positive"], seen["is_judged"])
    specificity_R, sensitivity_R = (
        np.append(test[rate], rng.binomial(sum(counts), test[rate], RESAMPLES) / sum(counts))
        for rate, counts in zip(("specificity", "sensitivity"), test["confusion"], strict=True)
    )
    found = {
        "share": share_R,
        "corrected_share": ((share_R + specificity_R - 1) / (sensitivity_R + specificity_R - 1)).clip(0, 1),
        "share_with_prompt": ratio_R(seen["with_prompt"], np.ones_like(seen["with_prompt"])),
        "perplexity": np.exp(ratio_R(-seen["base_log_prob"], seen["num_tokens"])),
        "divergence": ratio_R(seen["log_prob"] - seen["base_log_prob"], seen["num_tokens"]),
    }
    if plain is not None:
        found["change"] = share_R - ratio_R(plain["is_positive"], plain["is_judged"])
    row: dict[str, Any] = {"num_texts": seen["is_judged"].size, "num_empty": int((~seen["is_judged"]).sum())}
    for key, value_R in found.items():
        row |= {key: float(value_R[0]), f"{key}_interval": np.quantile(value_R[1:], (0.025, 0.975)).tolist()}
    by_seed = (seen["is_positive"].sum(1) / seen["is_judged"].sum(1)).tolist()
    return row | {"share_by_seed": by_seed, "distinct_2": float(seen["distinct_2"].mean())}


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Generate, judge, and gather everything into a record."""
    began = time.monotonic()

    def rows(part: str) -> Iterator[dict[str, Any]]:
        with gzip.open(options.data / f"{part}.jsonl.gz", "rt", encoding="utf-8") as file:
            yield from map(json.loads, file)

    name, judge, manifest = options.factor, options.judge or options.factor, read_manifest(folder_of(options.factor))
    prompts = list(dict.fromkeys(row["prompt"] for row in rows(PROMPTS)))[: options.prompts]
    model, sampling = load(), Sampling(top_p=options.top_p)
    jobs = [*itertools.product(options.strengths, options.seed, range(0, len(prompts), BATCH_PROMPTS))]
    responses = defaultdict(list)
    asked = {"max_tokens": options.max_tokens, "sampling": sampling}
    with progress() as report:
        verdicts, judge_report = learn_judge(judge, rows, report)
        report("generating batches", 0, len(jobs))
        for done, (strength, seed, start) in enumerate(jobs, 1):
            batch = prompts[start : start + BATCH_PROMPTS]
            responses[strength, seed] += model.generate(batch, seed=seed, strengths={name: strength}, **asked)
            report("generating batches", done, len(jobs))
    measured = {s: numbers([responses[s, k] for k in options.seed], verdicts) for s in sorted(options.strengths)}
    table = []
    for s, seen in measured.items():
        row = {"strength": s, "exponent": responses[s, options.seed[0]][0].exponents.get(name, 0.0)}
        table.append(row | row_of(seen, measured.get(0.0), judge_report["test"]))
    # Two ways of computing the same log probabilities; what parts them is the rounding of float32.
    assert all(abs(row["divergence"]) < 1e-3 for row in table if row["strength"] == 0), "strength 0 changed the model"
    prompt_file = options.data / f"{PROMPTS}.jsonl.gz"
    return {
        "seeds": options.seed,
        "settings": {"model": model.lm.name, "judge": judge, "prompts": len(prompts), "resamples": RESAMPLES}
        | {"max_tokens": options.max_tokens, "sampling": sampling.model_dump()},
        "factor": {"name": manifest.name, "version": manifest.version, "files": manifest.files}
        | {"trained_on": [source.model_dump() for source in manifest.data.train]},
        "data": {"set": PROMPTS, "sha256": hashlib.sha256(prompt_file.read_bytes()).hexdigest()},
        **circumstances(),
        "seconds": round(time.monotonic() - began),
        "judge": judge_report,
        "rows": table,
    }


def circumstances() -> dict[str, Any]:
    """Command, commit, a hash of what differs from it in tracked files (or None), versions and machine."""
    git = [["git", "rev-parse", "HEAD"], ["git", "diff", "HEAD"]]
    head, diff = (subprocess.run(words, cwd=HERE, capture_output=True, check=False).stdout for words in git)
    info = Path("/proc/cpuinfo")
    cpu = re.search(r"model name\s*: (.+)", info.read_text() if info.is_file() else "")
    packages = ("factorlm", "torch", "transformers", "scikit-learn")
    return {
        "command": shlex.join(["python", "benchmarks/effect.py", *sys.argv[1:]]),
        "commit": head.decode().strip() or None,
        "diff": hashlib.sha256(diff).hexdigest()[:16] if diff else None,
        "versions": {"python": platform.python_version()} | {package: version(package) for package in packages},
        "machine": {"cpu": cpu[1] if cpu else platform.machine(), "cores": os.cpu_count()},
    }


def draw(record: dict[str, Any], path: Path) -> None:
    """The figure as PNG and SVG: share of texts with the attribute and perplexity, each against the strength."""
    import matplotlib.pyplot as plt

    plt.switch_backend("agg")
    rows, word = record["rows"], record["settings"]["judge"]
    strengths = [row["strength"] for row in rows]
    with plt.rc_context({"axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "factorlm"}):
        figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
        for axes, key, factor, colour in ((left, "share", 100, BLUE), (right, "perplexity", 1, ORANGE)):
            low, high = (factor * np.array([row[f"{key}_interval"] for row in rows])).T
            axes.fill_between(strengths, low, high, color=colour, alpha=0.18, linewidth=0, label="95 % interval")
            value = [factor * row[key] for row in rows]
            axes.plot(strengths, value, "o-", color=colour, markersize=4, label="continuations as judged")
            axes.set_xlabel(f"strength of {record['factor']['name']} (nats per token)")
            axes.set_xticks(strengths, [f"{s:+.1f}" if s else "0" for s in strengths], fontsize=8)
            axes.axvline(0, color=GREY, linewidth=0.6, zorder=0)
        share = [100 * row["corrected_share"] for row in rows]
        left.plot(strengths, share, "--", color=GREY, linewidth=1.2, label="corrected for the judge's errors")
        left.set(ylabel=f"texts judged {word} (%)", ylim=(-2, 102))
        figure.legend(*left.get_legend_handles_labels(), loc="outside upper left", frameon=False, ncols=3, fontsize=9)
        right.set(ylabel="perplexity under the plain model", ylim=(0, None))
        for suffix, metadata in (("png", None), ("svg", {"Date": None})):  # the same record gives the same file
            picture = io.BytesIO()
            figure.savefig(picture, format=suffix, dpi=160, metadata=metadata)
            put(path.with_suffix(f".{suffix}"), picture.getvalue())
        plt.close(figure)


def table_of(record: dict[str, Any]) -> str:
    """The record as a Markdown table, and how it came about."""
    settings, judge, word = record["settings"], record["judge"], record["settings"]["judge"]
    heads = ("strength", word, "corrected", "with prompt", "perplexity", "divergence", "distinct-2")
    lines = [heads, ("---:",) * len(heads)]
    for row in record["rows"]:
        shares, corrected, perplexity = (
            f"{row[key]:{form}} ({low:{form}} to {high:{form}})"
            for key, form in (("share", ".0%"), ("corrected_share", ".0%"), ("perplexity", ".1f"))
            for low, high in [row[f"{key}_interval"]]
        )
        cells = (f"{row['strength']:+.1f}", shares, corrected, f"{row['share_with_prompt']:.0%}", perplexity)
        lines.append((*cells, f"{row['divergence']:.2f}", f"{row['distinct_2']:.2f}"))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + (
        f"\n\n{settings['prompts']} neutral prompts, {settings['max_tokens']} tokens each, seeds {record['seeds']}, "
        f"top-p {settings['sampling']['top_p']}, {settings['model']}. Strength and divergence in nats per token. "
        f"The judge reads the continuation alone; on its own test texts it is right on {judge['test']['accuracy']:.1%} "
        f"(sensitivity {judge['test']['sensitivity']:.1%}), elsewhere on {judge['elsewhere']['accuracy']:.1%}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--factor", required=True, help="name in the store")
    parser.add_argument("--judge", choices=JUDGES, help="what is judged (default: as the factor)")
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--strengths", type=float, nargs="+", default=STRENGTHS, help="nats per token")
    parser.add_argument("--seed", type=int, nargs="+", default=[0])
    for option, kind, default in (("--max-tokens", int, 20), ("--top-p", float, 0.9), ("--prompts", int, 200)):
        parser.add_argument(option, type=kind, default=default, help="default: %(default)s")
    parser.add_argument("--out", type=Path, default=HERE.parent, help="holds benchmarks/records and docs/pictures")
    parser.add_argument("--from-record", action="store_true", help="draw figure and table again, measure nothing")
    options = parser.parse_args()
    if (options.judge or options.factor) not in JUDGES:
        parser.error(f"no judge for {options.factor!r}; name one with --judge ({', '.join(JUDGES)})")
    path = options.out / "benchmarks" / "records" / f"effect-{options.factor}.json"
    if not options.from_record:
        rounded = json.loads(json.dumps(measure(options)), parse_float=lambda digits: round(float(digits), 5))
        put(path, (json.dumps(rounded, indent=2) + "\n").encode())
    record = json.loads(path.read_text(encoding="utf-8"))
    draw(record, options.out / "docs" / "pictures" / f"effect-{options.factor}.png")
    notes.print(f"wrote {path.name} and its pictures in {options.out}", soft_wrap=True)
    print(table_of(record))


if __name__ == "__main__":
    main()
