"""Our ∞-gram engine against the public one, on the same files in the same run; and what mixing costs a token.

    pip install infini-gram
    python benchmarks/infini.py [--data FOLDER] [--smaller]

First both are asked 10,000 random queries, which must agree. Then suffix arrays are built from the same tokens, and
queries are timed one by one, together, and along a text; at a hundredth, a tenth and all of the corpus. Last, tokens
are written with and without a memory, in turn. Times are medians; single queries also have their 99th percentile.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from factorlm.algebra import Backoff
from factorlm.evaluation.provenance import commit, machine, versions
from factorlm.memory.corpus import CorpusSettings, Troubles, corpus_files, read_documents
from factorlm.memory.engine import Engine, Queries
from factorlm.memory.gates import ConstantGate
from factorlm.memory.infini import engine_of
from factorlm.memory.longest_suffix import InfiniGram
from factorlm.memory.shard import ShardWriter
from factorlm.models import CausalLM
from factorlm.models.loading import load_model

RECORD = Path(__file__).resolve().parent / "records" / "infini.json"
WIDTH, FEW = 2, 300
AGREED, TIMED, ALONG, LONGEST = 10_000, 2_000, 1_000, 32
PATIENCE = 5.0  # seconds until a query of theirs counts as never answered
SUPPORT = 50  # tokens of a table of theirs: it starts a thread for each
OURS = """
import sys, time
from pathlib import Path
from factorlm.memory.suffixes import write_table
folder = Path(sys.argv[1])
(folder / "warm").write_bytes(bytes(4000))
write_table(folder / "warm", 2, folder / "warm.table", 1 << 30, lambda *_: None)  # compiled before the clock starts
start = time.perf_counter()
write_table(folder / "tokenized.0", 2, folder / "table.0", 4 << 30, lambda *_: None)
seconds = time.perf_counter() - start
print(seconds, next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
THEIRS = """
import os, resource, sys, time
from types import SimpleNamespace
from infini_gram import indexing
folder, out = sys.argv[1], sys.stdout
args = SimpleNamespace(save_dir=folder, temp_dir=folder, worker_id=0, workers=1, shards=1, mem=4,
                       cpus=os.cpu_count(), token_width=2)
sys.stdout = open(os.devnull, "w")
start = time.perf_counter()
indexing.build_sa(args)
seconds = time.perf_counter() - start
print(seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024, file=out)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--smaller", action="store_true", help="a twentieth of the corpus: to see that it runs")
    wanted = parser.parse_args()
    lm = load_model(dtype="float32", device="cpu")
    os.environ["TOKENIZERS_PARALLELISM"] = "true"
    documents, tokenizing = tokens_of(lm, wanted.data, wanted.smaller)
    total = sum(map(len, documents))
    with tempfile.TemporaryDirectory() as place:
        sizes = []
        for share in (0.01, 0.1, 1.0):
            folder = Path(place) / f"{share:g}"
            write(folder, documents, share * total, lm.vocabulary.size)
            sizes.append(measured(folder, lm.vocabulary.size))
            print(json.dumps(sizes[-1]), flush=True)
        memory = InfiniGram("all", ConstantGate(weight=0.3), 1.0, engine(folder, lm), lm.vocabulary, lm.start_ids)
        mixing = mixing_cost(lm, memory)
    record = {
        "machine": machine(), "threads": torch.get_num_threads(), "versions": versions(), "commit": commit(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": "python benchmarks/infini.py" + " --smaller" * wanted.smaller,
        "tokenizing, tokens a second": tokenizing, "sizes": sizes, "mixing": mixing,
    }  # fmt: skip
    print(json.dumps(record["mixing"]))
    if not wanted.smaller:
        RECORD.write_text(json.dumps(record, indent=1) + "\n")


def tokens_of(lm: CausalLM, data: Path, is_smaller: bool) -> tuple[list[list[int]], float]:
    """The tokens of all texts of a folder, and how fast they were made; rows without `text` are taken as lines."""
    texts = []
    for path in corpus_files([data]):
        found = [d.text for d in read_documents([path], CorpusSettings(documents="lines"), Troubles())]
        texts += found or raw_lines(path)
    texts = texts[:: 20 if is_smaller else 1]
    start = time.perf_counter()
    documents = [row for n in range(0, len(texts), 2000) for row in lm.encode_texts(texts[n : n + 2000])]
    seconds = time.perf_counter() - start
    return documents, sum(map(len, documents)) / seconds


def raw_lines(path: Path) -> list[str]:
    import gzip

    return gzip.decompress(path.read_bytes()).decode("utf-8", errors="replace").split("\n")


def write(folder: Path, documents: list[list[int]], most: float, num_tokens: int) -> None:
    folder.mkdir()
    writer = ShardWriter(folder, 0, WIDTH)
    rng = np.random.default_rng(0)
    for n in rng.permutation(len(documents)):
        writer.add(documents[n], {})
        if writer.num_tokens >= most:
            break
    writer.add([num_tokens - 1, num_tokens - 2], {})  # an end of its own: there, public tables of next tokens go wrong
    writer.close()


def measured(folder: Path, num_tokens: int) -> dict[str, Any]:
    """Building, agreement and query times of one size."""
    theirs_folder = folder.with_name(f"{folder.name}-theirs")
    shutil.copytree(folder, theirs_folder)
    build = {"ours": built(OURS, folder), "theirs": built(THEIRS, theirs_folder)}
    same = (folder / "table.0").read_bytes() == (theirs_folder / "table.0").read_bytes()
    shutil.rmtree(theirs_folder)
    ours = engine_of(folder, 1, WIDTH, num_tokens)
    theirs = Theirs(folder, num_tokens)
    text = np.asarray(ours.shards[0].text_N)
    rng = np.random.default_rng(1)
    agree(ours, theirs, queries(text, rng, AGREED, 8))
    some = queries(text, rng, TIMED, LONGEST)
    single = {
        "count": (
            each(lambda q: timed(lambda: ours.count(q)), some),
            each(lambda q: theirs.ask(lambda e: e.count(input_ids=q))[1], some),
        ),
        "∞-gram probability": (
            each(lambda q: timed(lambda: ours.longest_ratio(q[:-1], q[-1])), some),
            each(lambda q: theirs.ask(lambda e: e.infgram_prob(prompt_ids=q[:-1], cont_id=q[-1]))[1], some[:FEW]),
        ),
    }
    laid = Queries.of(some)
    last = np.array([q[-1] for q in some])
    contexts = Queries(laid.token_Q, laid.begin_B, laid.end_B - 1)
    batched = {
        "count": per_item(lambda: ours.count_many(laid), len(some)),
        "∞-gram probability": per_item(lambda: ours.with_token(ours.longest_many(contexts), last), len(some)),
    }
    along = along_a_text(ours, theirs, text, rng)
    return {
        "tokens": len(text), "build": build, "the same table": same, "queries that agree": AGREED,
        "single, µs": {k: {"ours": a, "theirs": b} for k, (a, b) in single.items()},
        "batched, µs": {k: {"ours": batched[k], "theirs": single[k][1]["median"]} for k in batched},
        "along a text, µs a token": along, "times that theirs never answered": theirs.num_hung,
    }  # fmt: skip


def engine(folder: Path, lm: CausalLM) -> Engine:
    return engine_of(folder, 1, WIDTH, lm.vocabulary.size)


def built(program: str, folder: Path) -> dict[str, float]:
    """Seconds and peak memory of a build in a process of its own."""
    found = subprocess.run([sys.executable, "-c", program, str(folder)], capture_output=True, text=True, check=True)
    seconds, peak = map(float, found.stdout.split()[-2:])
    tokens = (folder / "tokenized.0").stat().st_size / WIDTH
    return {"seconds": seconds, "tokens a second": tokens / seconds, "peak MiB": peak}


class Theirs:
    """The public engine, asked from a thread of its own: now and then it never answers, and then another one is."""

    def __init__(self, folder: Path, num_tokens: int) -> None:
        self.folder, self.num_tokens, self.num_hung = folder, num_tokens, 0
        self._open()

    def _open(self) -> None:
        from infini_gram.engine import InfiniGramEngine

        self.engine = InfiniGramEngine(
            index_dir=str(self.folder),
            eos_token_id=0,
            vocab_size=self.num_tokens,
            token_dtype="u16",
            max_support=SUPPORT,
        )

    def ask(self, question: Callable[[Any], Any]) -> tuple[Any, float]:
        """The answer, and the microseconds that it took."""
        found: list[tuple[Any, float]] = []

        def work() -> None:
            start = time.perf_counter()
            answer = question(self.engine)
            found.append((answer, 1e6 * (time.perf_counter() - start)))

        while not found:
            thread = threading.Thread(target=work, daemon=True)
            thread.start()
            thread.join(PATIENCE)
            if not found:
                self.num_hung += 1
                self._open()
        return found[0]


def queries(text: np.ndarray, rng: np.random.Generator, number: int, longest: int) -> list[list[int]]:
    found: list[list[int]] = []
    while len(found) < number:
        place, length = int(rng.integers(len(text) - longest)), int(rng.integers(2, longest + 1))
        query = text[place : place + length].astype(int).tolist()
        if rng.random() < 0.3:
            query[int(rng.integers(length))] = int(rng.integers(49_000))
        if 65535 not in query:
            found.append(query)
    return found


def agree(ours: Engine, theirs: Theirs, some: list[list[int]]) -> None:
    """Stop at the first query that the two answer differently."""
    for n, query in enumerate(some):
        *context, token = query
        count, _ = theirs.ask(lambda e, q=query: e.count(input_ids=q)["count"])
        assert count == ours.count(query), query
        found, _ = theirs.ask(lambda e, c=context, t=token: e.infgram_prob(prompt_ids=c, cont_id=t))
        length, ratio = ours.longest_ratio(context, token)
        assert (found["suffix_len"], found["prompt_cnt"], found["cont_cnt"]) == (length, *ratio), query
        if n % 50:
            continue
        answer, _ = theirs.ask(lambda e, c=context: e.infgram_ntd(prompt_ids=c))
        after = ours.longest_following(context)[1]
        if not answer["approx"]:
            have = {int(t): r["cont_cnt"] for t, r in answer["result_by_token_id"].items()}
            want = dict(zip(after.tokens.tolist(), after.counts.tolist(), strict=True))
            want[0] = want.get(0, 0) + want.pop(65535, 0)  # theirs calls the end of a document its end token
            assert have == {t: c for t, c in want.items() if c}, query


def each(ask: Callable[[list[int]], float], some: Sequence[list[int]]) -> dict[str, float]:
    """Median and 99th percentile of the microseconds of single queries."""
    for query in some[:50]:
        ask(query)
    found = [ask(query) for query in some]
    return {"median": float(np.median(found)), "p99": float(np.quantile(found, 0.99))}


def timed(work: Callable[[], object]) -> float:
    """Microseconds of one call."""
    start = time.perf_counter()
    work()
    return 1e6 * (time.perf_counter() - start)


def per_item(work: Callable[[], object], number: int, repeats: int = 7) -> float:
    """Median microseconds for each of what is done together."""
    found = []
    for repeat in range(-1, repeats):
        start = time.perf_counter()
        work()
        if repeat >= 0:
            found.append(1e6 * (time.perf_counter() - start) / number)
    return statistics.median(found)


def along_a_text(ours: Engine, theirs: Theirs, text: np.ndarray, rng: np.random.Generator) -> dict[str, float]:
    """∞-gram probability of each token of a text behind all before it: ours goes on from the token before."""
    place = int(rng.integers(len(text) - 2 * ALONG))
    row = [int(t) for t in text[place : place + 2 * ALONG] if t != 65535][:ALONG]
    row = [t if n % 7 else int(rng.integers(49_000)) for n, t in enumerate(row)]  # not the stored text itself

    def follow() -> None:
        found = ours.longest_many(Queries.of([[]]))
        for n, token in enumerate(row):
            longer = ours.narrowed(found.range_BS2, found.length_B, np.array([token]))
            if (longer[..., 1] > longer[..., 0]).any():
                found = type(found)(found.length_B + 1, longer)
            else:
                found = ours.longest_many(Queries.of([row[max(0, n - 63) : n + 1]]), found.length_B)

    def ask(n: int) -> float:
        return theirs.ask(lambda e: e.infgram_prob(prompt_ids=row[max(0, n - 63) : n], cont_id=row[n]))[1]

    return {"ours": per_item(follow, len(row), 3), "theirs": statistics.mean(ask(n) for n in range(FEW))}


def mixing_cost(lm: CausalLM, memory: InfiniGram, repeats: int = 9, tokens: int = 24) -> dict[str, Any]:
    """Time of writing a token with the memory over that without, at batch sizes 1 and 8, run in turn."""
    mixed = Backoff((memory, lm))
    found: dict[str, Any] = {}
    for batch in (1, 8):
        prompt = [*lm.start_ids, *lm.encode_text("This Agreement shall be governed by the laws of")]
        prefix_BT = torch.tensor([prompt] * batch)
        token_BT = torch.tensor(
            [lm.encode_text(" the State of New York, and the parties agree that" * 4)[:tokens]] * batch
        )
        seconds: dict[str, list[float]] = {"with": [], "without": []}
        for repeat in range(-1, repeats):
            for name, factor in (
                (("without", lm), ("with", mixed)) if repeat % 2 else (("with", mixed), ("without", lm))
            ):
                lm.forget()
                state = factor.start(prefix_BT)
                start = time.perf_counter()
                for token_B in token_BT.unbind(1):
                    state = factor.extend(state, token_B)
                    _ = state.log_weight_BV.argmax(-1)
                if repeat >= 0:
                    seconds[name].append((time.perf_counter() - start) / tokens)
        ratios = [a / b for a, b in zip(seconds["with"], seconds["without"], strict=True)]
        found[f"batch {batch}"] = {
            "ratio": statistics.median(ratios), "lowest": min(ratios), "highest": max(ratios),
            "ms a token without": 1e3 * statistics.median(seconds["without"]),
        }  # fmt: skip
    return found


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # threads of theirs that never answered would be waited for
