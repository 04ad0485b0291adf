"""Corpora scored on Ray: the files of the local engine, also when a node is lost in the middle."""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from factorlm.engines.corpus import LocalEngine, score_corpus
from factorlm.engines.corpus_job import CorpusOrder, Dose
from factorlm.engines.corpus_ray import RayEngine
from factorlm.engines.corpus_scorer import Scorer
from factorlm.engines.corpus_shards import Shard
from factorlm.errors import InputError
from factorlm.memory.corpus import CorpusSettings

from .corpora import contents, found_in, save_lexicon, write_documents

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
os.environ["RAY_BACKEND_LOG_LEVEL"] = "fatal"  # the loss of a node is no news here
ray = pytest.importorskip("ray")
cluster_utils = pytest.importorskip("ray.cluster_utils")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray")  # of settings that Ray itself reads


@pytest.fixture
def order(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> CorpusOrder:
    monkeypatch.setenv("FACTORLM_STORE", str(tmp_path / "store"))
    save_lexicon(tmp_path / "store", 1.5)
    return CorpusOrder(
        expression=str(tiny_folder),
        factors=(Dose(name="kind", exponent=0.5),),
        dtype="float32",
        texts=CorpusSettings(documents="paragraphs"),
        keep=("num_tokens > 5",),
        shard_bytes=4000,
    )


@pytest.fixture
def cluster() -> Iterator[object]:
    """A cluster of one node with one core, quick to notice a loss; none of its processes outlives the test."""
    quick = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 5}
    made = cluster_utils.Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False, "_system_config": quick}
    )
    try:
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


def actors_of(node: object) -> list[int]:
    """Processes of a node that score."""
    raylet = node.all_processes["raylet"][0].process.pid  # type: ignore[attr-defined]
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == raylet and b"ShardScorer" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except (OSError, ValueError):
            continue
    return found


@dataclass
class Loss:
    """Takes nodes away while a corpus is scored, one after so many receipts."""

    cluster: object
    nodes: list[object]
    out: Path
    after: list[int]
    is_over: threading.Event = field(default_factory=threading.Event)
    done: list[int] = field(default_factory=list)  # receipts when each node was taken
    had_actor: list[bool] = field(default_factory=list)

    def __call__(self) -> None:
        for node, wanted in zip(self.nodes, self.after, strict=True):
            while self.num_receipts() < wanted or not actors_of(node):
                if self.is_over.wait(0.005):
                    return
            self.had_actor.append(bool(actors_of(node)))
            self.cluster.remove_node(node, allow_graceful=False)  # type: ignore[attr-defined]
            self.done.append(self.num_receipts())

    def num_receipts(self) -> int:
        return len(list((self.out / "receipts").glob("0*.json")))


@contextmanager
def beside(loss: Loss) -> Iterator[None]:
    """Nodes are lost while the body runs."""
    thread = threading.Thread(target=loss)
    thread.start()
    try:
        yield
    finally:
        loss.is_over.set()
        thread.join()


def check_against_local(corpus: Path, out: Path, order: CorpusOrder) -> None:
    """Every document once, and the files of the local engine."""
    local = out.with_name("local")
    score_corpus(corpus, local, order, LocalEngine("cpu", cores=1))
    places = [(o["source"], o["line"], o["part"]) for o in found_in(out)]
    assert len(places) == len(set(places)) > 500
    assert contents(out) == contents(local)


@pytest.mark.slow
def test_a_lost_node_loses_and_doubles_nothing(cluster: object, order: CorpusOrder, tmp_path: Path) -> None:
    corpus = write_documents(tmp_path / "in", 1000, num_words=80)
    node = cluster.add_node(num_cpus=1)  # type: ignore[attr-defined]
    loss = Loss(cluster, [node], tmp_path / "out", [3])
    engine = RayEngine(cluster.address, workers=2)  # type: ignore[attr-defined]
    with beside(loss):
        manifest = score_corpus(corpus, tmp_path / "out", order, engine)
    assert loss.had_actor == [True]
    assert loss.done[0] < len(manifest.parts), "the node was not lost in the middle"
    check_against_local(corpus, tmp_path / "out", order)


@pytest.mark.long
def test_two_lost_nodes_lose_and_double_nothing(cluster: object, order: CorpusOrder, tmp_path: Path) -> None:
    corpus = write_documents(tmp_path / "in", 3000, num_words=80)
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]  # type: ignore[attr-defined]
    loss = Loss(cluster, nodes, tmp_path / "out", [10, 80])

    engine = RayEngine(cluster.address)  # type: ignore[attr-defined]
    with beside(loss):
        manifest = score_corpus(corpus, tmp_path / "out", order, engine)
    assert loss.had_actor == [True, True]
    assert loss.done[0] < loss.done[1] < len(manifest.parts), "the nodes were not lost in the middle"
    check_against_local(corpus, tmp_path / "out", order)


@pytest.mark.slow
def test_a_cluster_made_for_the_while(order: CorpusOrder, tmp_path: Path) -> None:
    corpus, out, whole = write_documents(tmp_path / "in", 800), tmp_path / "out", tmp_path / "whole"
    manifest = score_corpus(corpus, whole, order, LocalEngine("cpu", cores=1))
    (out / "receipts").mkdir(parents=True)
    for name in ("job.json", "shards.jsonl", "part-00000001.jsonl", "receipts/00000001.json"):  # begun elsewhere
        (out / name).write_bytes((whole / name).read_bytes())
    before = (out / "part-00000001.jsonl").stat()
    told: list[int] = []
    others = daemons()
    engine = RayEngine(workers=1)
    assert score_corpus(corpus, out, order, engine, report=lambda _, done, total: told.append(done)) == manifest
    check_against_local(corpus, out, order)
    assert (out / "part-00000001.jsonl").stat().st_ino == before.st_ino, "what was done was done again"
    assert told == sorted(told)
    assert len(told) > 3
    assert not ray.is_initialized()
    assert daemons() <= others


@pytest.mark.slow
def test_what_is_wrong_on_a_node_is_said_in_one_line(
    cluster: object, order: CorpusOrder, tiny_folder: Path, tmp_path: Path
) -> None:
    corpus, out = write_documents(tmp_path / "in", 100), tmp_path / "out"
    manifest = score_corpus(corpus, tmp_path / "local", order, LocalEngine("cpu", cores=1))
    shards = [Shard.model_validate_json(line) for line in (tmp_path / "local/shards.jsonl").read_text().splitlines()]
    other = manifest.job.parts[0].model_copy(update={"fingerprint": "another"})
    job = manifest.job.model_copy(update={"parts": (other, *manifest.job.parts[1:])})
    ray.init(cluster.address, log_to_driver=False)  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="every machine needs the same model"):
        RayEngine().run(Scorer(corpus, out, job, "cpu"), shards, lambda num_bytes: None)
    with pytest.raises(InputError, match="got a cluster without"):
        RayEngine(gpus=0.5).run(Scorer(corpus, out, manifest.job, "cuda"), shards, lambda num_bytes: None)
    assert ray.is_initialized()  # it was before
    assert not out.exists()


def daemons() -> set[int]:
    """What Ray has running below this process."""
    own = str(os.getpid())
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            name = (folder / "comm").read_text().strip()
        except OSError:
            continue
        if parent == own and name in ("raylet", "gcs_server"):
            found.add(int(folder.name))
    return found


def test_without_ray_one_line_says_what_to_do(
    order: CorpusOrder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = write_documents(tmp_path / "in", 10)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'factorlm\[ray\]'"):
        score_corpus(corpus, tmp_path / "out", order, RayEngine())
    assert not list((tmp_path / "out").glob("part-*"))


def test_no_cluster_at_an_address_is_said_in_one_line(order: CorpusOrder, tmp_path: Path) -> None:
    corpus = write_documents(tmp_path / "in", 10)
    with pytest.raises(InputError, match="no Ray cluster at") as caught:
        score_corpus(corpus, tmp_path / "out", order, RayEngine("not an address"))
    assert "\n" not in str(caught.value)
