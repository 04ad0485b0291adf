"""Corpora scored in this process: the same numbers as elsewhere, once each, whatever comes between."""

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import factorlm as fl
from factorlm.engines import corpus_scorer
from factorlm.engines.corpus import LocalEngine, Told, score_corpus
from factorlm.engines.corpus_job import CorpusOrder, Dose
from factorlm.engines.corpus_output import receipt_path
from factorlm.engines.corpus_scorer import UNSCORED, Scorer
from factorlm.engines.corpus_shards import Shard
from factorlm.errors import FactorlmError, InputError, UnknownNameError
from factorlm.memory.corpus import CorpusSettings
from factorlm.models import CausalLM

from .corpora import contents, found_in, save_lexicon, write_documents

PARAGRAPHS = CorpusSettings(documents="paragraphs")


class Broken(Exception):
    """Like a loss of power."""


@dataclass(frozen=True)
class Brittle(LocalEngine):
    """Breaks after so many shards."""

    lasts: int = 1

    def run(self, scorer: Scorer, shards: Sequence[Shard], told: Told) -> None:
        super().run(scorer, shards[: self.lasts], told)
        raise Broken


@dataclass(frozen=True)
class Counting(LocalEngine):
    """Notes which shards it was given."""

    seen: tuple[list[int], ...] = ([],)

    def run(self, scorer: Scorer, shards: Sequence[Shard], told: Told) -> None:
        self.seen[0].extend(shard.index for shard in shards)
        super().run(scorer, shards, told)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    return write_documents(tmp_path / "in", 60)


@pytest.fixture
def order(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> CorpusOrder:
    monkeypatch.setenv("FACTORLM_STORE", str(tmp_path / "store"))
    save_lexicon(tmp_path / "store", 1.5)
    return CorpusOrder(
        expression=str(tiny_folder), factors=(Dose(name="kind"),), dtype="float32", texts=PARAGRAPHS, shard_bytes=1500
    )


def test_documents_have_the_scores_of_the_model(corpus: Path, order: CorpusOrder, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    manifest = score_corpus(corpus, tmp_path / "out", order, report=lambda *what: told.append(what))
    found = found_in(tmp_path / "out")
    model = fl.load(order.expression, dtype="float32", device="cpu") * fl.factor("kind") ** 0.0
    texts = [json.loads(line)["text"] for line in (corpus / "a.jsonl").read_text().splitlines() if '"n"' in line]
    texts += (corpus / "b.txt").read_text().split("\n\n")
    assert [o["text"].strip() for o in found] == [text.strip() for text in texts]
    for got, want in zip(found, model.score([o["text"] for o in found]), strict=True):
        assert got["log_prob"] == pytest.approx(want.log_prob, abs=1e-3)
        assert got["base_log_prob"] == pytest.approx(want.base_log_prob, abs=1e-3)
        assert got["bits_per_byte"] == pytest.approx(want.bits_per_byte, abs=1e-3)
        assert got["factors"] == pytest.approx(want.log_ratios, abs=1e-3)
        assert (got["num_tokens"], got["num_bytes"]) == (want.num_tokens, want.num_bytes)
        assert (got["num_windows"], got["part"]) == (1, 0)
    assert any(abs(o["factors"]["kind"]) > 0.5 for o in found)
    assert (found[0]["source"], found[0]["line"]) == ("a.jsonl", 1)
    assert (found[3]["source"], found[3]["line"]) == ("a.jsonl", 6)  # behind two broken lines
    assert manifest.num_documents == manifest.num_kept == len(found) == 75
    assert manifest.num_tokens == sum(o["num_tokens"] for o in found)
    assert manifest.bits_per_byte == pytest.approx(
        sum(o["bits_per_byte"] * o["num_bytes"] for o in found) / sum(o["num_bytes"] for o in found), abs=1e-4
    )
    assert manifest.troubles == {
        "lines that are not JSON, left out": 1,
        "objects without a text in 'text', left out": 1,
    }
    assert len(manifest.parts) > 3
    assert told[-1][1] == told[-1][2]
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)
    assert not list((tmp_path / "out").rglob(".*"))


def test_a_broken_run_goes_on_where_it_was(corpus: Path, order: CorpusOrder, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    manifest = score_corpus(corpus, whole, order)
    with pytest.raises(Broken):
        score_corpus(corpus, out, order, Brittle(lasts=2))
    assert not (out / "manifest.json").exists()
    engine = Counting(seen=([],))
    assert score_corpus(corpus, out, order, engine) == manifest
    assert engine.seen[0] == list(range(2, len(manifest.parts)))
    assert contents(out) == contents(whole)
    engine.seen[0].clear()
    assert score_corpus(corpus, out, order, engine) == manifest
    assert engine.seen[0] == []


def test_only_what_is_not_whole_is_done_again(corpus: Path, order: CorpusOrder, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "out"
    score_corpus(corpus, whole, order)
    shutil.copytree(whole, out)
    (out / "part-00000001.jsonl").write_text("half of i")
    receipt_path(out, 2).unlink()  # as if it had broken off between part and receipt
    receipt_path(out, 3).write_text("{")
    (out / "manifest.json").unlink()
    (out / f".part-00000002.jsonl.{'0' * 32}.partial").write_text("left by a killed one")
    (out / "receipts" / "00000000.json").write_bytes((out / "receipts" / "00000004.json").read_bytes())
    engine = Counting(seen=([],))
    score_corpus(corpus, out, order, engine)
    assert engine.seen[0] == [0, 1, 2, 3]
    assert contents(out) == contents(whole)


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was(order: CorpusOrder, tmp_path: Path) -> None:
    corpus = write_documents(tmp_path / "in", 1500, num_words=60)
    out, whole = tmp_path / "out", tmp_path / "whole"
    program = (
        "import sys; from pathlib import Path; from factorlm.engines.corpus import score_corpus;"
        "from factorlm.engines.corpus_job import CorpusOrder;"
        "score_corpus(Path(sys.argv[1]), Path(sys.argv[2]), CorpusOrder.model_validate_json(sys.argv[3]))"
    )
    words = [sys.executable, "-c", program, str(corpus), str(out), order.model_dump_json()]
    num_done = 0
    for _ in range(2):
        with subprocess.Popen(words) as running:
            while running.poll() is None and len(list((out / "receipts").glob("0*.json"))) < num_done + 3:
                time.sleep(0.002)
            os.kill(running.pid, signal.SIGKILL)
        num_done = len(list((out / "receipts").glob("0*.json")))
    manifest = score_corpus(corpus, whole, order)
    assert 6 <= num_done < len(manifest.parts), "it was not killed in the middle"
    assert score_corpus(corpus, out, order) == manifest
    assert contents(out) == contents(whole)


def test_another_question_is_refused(corpus: Path, order: CorpusOrder, tmp_path: Path) -> None:
    out = tmp_path / "out"
    score_corpus(corpus, out, order)
    before = contents(out)
    for change, what in (
        ({"keep": ("num_tokens > 3",)}, "another keep"),
        ({"factors": ()}, "another expression"),
        ({"factors": (Dose(name="kind", exponent=0.5),)}, "another expression"),
        ({"format": "parquet"}, "another format"),
        ({"shard_bytes": 800}, "another shard_bytes"),
        ({"window": 64}, "another window"),
        ({"texts": CorpusSettings()}, "another texts"),
        ({"with_text": False}, "another with_text"),
    ):
        with pytest.raises(InputError, match=what):
            score_corpus(corpus, out, order.model_copy(update=change))
    save_lexicon(tmp_path / "store", 1.0)  # the same name, another factor
    with pytest.raises(InputError, match="another parts"):
        score_corpus(corpus, out, order)
    assert contents(out) == before


def test_another_text_is_refused(corpus: Path, order: CorpusOrder, tmp_path: Path) -> None:
    out, path = tmp_path / "out", corpus / "b.txt"
    manifest = score_corpus(corpus, out, order)
    os.utime(path, (1, 1))  # touched, but the same
    assert score_corpus(corpus, out, order) == manifest
    before = path.read_text()
    path.write_text(before.replace("good", "bad ", 1))
    with pytest.raises(InputError, match="another text"):
        score_corpus(corpus, out, order)
    path.write_text(before)
    assert score_corpus(corpus, out, order) == manifest
    (corpus / "c.txt").write_text("one more")
    with pytest.raises(InputError, match="another text"):
        score_corpus(corpus, out, order)


def test_places_that_cannot_be_used_are_refused(corpus: Path, order: CorpusOrder, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("mine")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.txt").write_text("")
    for source, out, what in (
        (corpus, corpus / "out", "cannot be written into it"),
        (corpus, tmp_path / "full", "something else"),
        (corpus, tmp_path / "full" / "letter.txt", "a folder to write to"),
        (corpus, Path("/proc/nowhere"), "cannot be written"),
        (tmp_path / "none", tmp_path / "out", "no file or folder"),
        (tmp_path / "empty", tmp_path / "out", "needs text"),
    ):
        with pytest.raises(InputError, match=what) as caught:
            score_corpus(source, out, order)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["letter.txt"]


def test_bad_orders_are_refused_before_anything_is_written(corpus: Path, order: CorpusOrder, tmp_path: Path) -> None:
    for change, error in (
        ({"expression": "kind"}, InputError),
        ({"keep": ("factor:nobody > 1",)}, UnknownNameError),
        ({"factors": (Dose(name="nobody"),)}, UnknownNameError),
        ({"window": 10**6}, InputError),
    ):
        with pytest.raises(error):
            score_corpus(corpus, tmp_path / "out", order.model_copy(update=change))
    assert not (tmp_path / "out").exists()


def test_only_documents_that_pass_are_kept(corpus: Path, order: CorpusOrder, tmp_path: Path) -> None:
    score_corpus(corpus, tmp_path / "all", order)
    keep = ("factor:kind > 0.3 and num_tokens > 10", "bits_per_byte < 5")
    manifest = score_corpus(corpus, tmp_path / "some", order.model_copy(update={"keep": keep}))
    want = [
        o
        for o in found_in(tmp_path / "all")
        if o["factors"]["kind"] > 0.3 and o["num_tokens"] > 10 and o["bits_per_byte"] < 5
    ]
    assert 0 < len(want) < 70
    assert found_in(tmp_path / "some") == want
    assert (manifest.num_kept, manifest.num_documents) == (len(want), 75)


def test_formats_hold_the_same(corpus: Path, order: CorpusOrder, tmp_path: Path) -> None:
    plain = order.model_copy(update={"keep": ("num_tokens > 60",)})
    score_corpus(corpus, tmp_path / "jsonl", plain)
    want = found_in(tmp_path / "jsonl")
    score_corpus(corpus, tmp_path / "gz", plain.model_copy(update={"format": "jsonl.gz"}))
    packed = sorted((tmp_path / "gz").glob("part-*.jsonl.gz"))
    assert [json.loads(line) for path in packed for line in gzip.decompress(path.read_bytes()).splitlines()] == want
    for out in ("a", "b"):
        score_corpus(corpus, tmp_path / out, plain.model_copy(update={"format": "parquet"}))
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    tables = [pq.read_table(path) for path in sorted((tmp_path / "a").glob("part-*.parquet"))]
    rows = [row for table in tables for row in table.to_pylist()]
    assert [{**row, "factors": {"kind": row["factor:kind"]}} for row in rows] == [
        {**o, "factor:kind": o["factors"]["kind"]} for o in want
    ]
    marks = [table.schema.metadata[b"factorlm.fingerprint"].decode() for table in tables]
    parts = json.loads((tmp_path / "a" / "manifest.json").read_text())["parts"]
    assert marks == [part["fingerprint"] for part in parts]
    score_corpus(corpus, tmp_path / "bare", plain.model_copy(update={"with_text": False}))
    assert found_in(tmp_path / "bare") == [{k: v for k, v in o.items() if k != "text"} for o in want]


def test_impossible_documents_are_counted(corpus: Path, order: CorpusOrder, tmp_path: Path) -> None:
    banned = order.model_copy(update={"expression": f'"{order.expression}" * ban("bad")', "factors": ()})
    manifest = score_corpus(corpus, tmp_path / "out", banned)
    found = found_in(tmp_path / "out")
    impossible = [o for o in found if o["log_prob"] is None]
    assert all(("bad" in o["text"]) == (o["log_prob"] is None) for o in found)
    assert manifest.num_impossible == len(impossible) > 10
    possible = [o for o in found if o["log_prob"] is not None]
    nats = sum(o["log_prob"] for o in possible)
    assert manifest.bits_per_byte == pytest.approx(-nats / 0.693147 / sum(o["num_bytes"] for o in possible), rel=1e-4)


def test_a_document_that_cannot_be_scored_is_counted(
    corpus: Path, order: CorpusOrder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score_corpus(corpus, tmp_path / "all", order)
    want = found_in(tmp_path / "all")
    honest = CausalLM.encode_text

    def picky(lm: CausalLM, text: str) -> list[int]:
        if text in (want[5]["text"], want[40]["text"]):
            raise InputError("not this one")
        return honest(lm, text)

    monkeypatch.setattr(CausalLM, "encode_text", picky)
    manifest = score_corpus(corpus, tmp_path / "out", order)
    assert manifest.troubles[UNSCORED] == 2
    assert manifest.first_troubles[UNSCORED].startswith("a.jsonl:8: not this one")
    found = found_in(tmp_path / "out")
    assert [(o["source"], o["line"]) for o in found] == [
        (o["source"], o["line"]) for n, o in enumerate(want) if n not in (5, 40)
    ]


def test_what_is_wrong_with_the_machine_ends_the_run(
    corpus: Path, order: CorpusOrder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(corpus_scorer, "score_texts", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        score_corpus(corpus, tmp_path / "out", order)
    assert not list((tmp_path / "out").glob("part-*"))


def test_strengths_become_exponents(corpus: Path, order: CorpusOrder, tmp_path: Path) -> None:
    steered = order.model_copy(update={"factors": (Dose(name="kind", strength=0.1),)})
    manifest = score_corpus(corpus, tmp_path / "out", steered)
    assert manifest.job.expression.startswith(f'("{order.expression}") * kind^')
    assert float(manifest.job.expression.rpartition("^")[2]) > 0.01
    found = found_in(tmp_path / "out")
    assert any(abs(o["log_prob"] - o["base_log_prob"]) > 0.1 for o in found)


def test_a_machine_with_another_factor_complains(corpus: Path, order: CorpusOrder, tmp_path: Path) -> None:
    manifest = score_corpus(corpus, tmp_path / "out", order)
    save_lexicon(tmp_path / "store", 1.0)
    scorer = Scorer(corpus, tmp_path / "out", manifest.job, "cpu")
    with pytest.raises(FactorlmError, match="same lexicon 'kind'"):
        scorer.load()
