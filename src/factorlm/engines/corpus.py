"""Corpora of any size scored and filtered, here or on a cluster; a run that was broken off goes on where it was.

The corpus is cut into shards, the same ones every time. Each shard is scored by itself, and its scores are written
whole, so it does not matter who scores it, in which order, or how often: the same shard has the same scores, in the
same file, once.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from pydantic import ValidationError

from factorlm.engines.corpus_job import CorpusOrder, Job, job_of
from factorlm.engines.corpus_output import JOB, MANIFEST, RECEIPTS, SHARDS, Receipt, fingerprint_of, receipt_of
from factorlm.engines.corpus_scorer import Scorer
from factorlm.engines.corpus_shards import Shard, Source, cut, sources_of
from factorlm.errors import InputError
from factorlm.files import sweep_folders, write_whole
from factorlm.memory.corpus import Troubles
from factorlm.models.progress import Report, quiet
from factorlm.settings import Config

Told = Callable[[int], None]  # bytes of text that were scored since last told


class Engine(Protocol):
    """Has shards scored."""

    @property
    def device(self) -> str:
        """Of the models that score."""

    @property
    def asked_on(self) -> str:
        """Device of the models in this process, that are asked what they are."""

    def run(self, scorer: Scorer, shards: Sequence[Shard], told: Told) -> None:
        """Score these shards; raises FactorlmError if one cannot be, and leaves what is done."""


@dataclass(frozen=True)
class LocalEngine:
    """Scores shards in this process, one after the other.

    Attributes:
        device: of the models.
        cores: that are used; None takes all.
    """

    device: str = "auto"
    cores: int | None = None

    @property
    def asked_on(self) -> str:
        """The same models."""
        return self.device

    def run(self, scorer: Scorer, shards: Sequence[Shard], told: Told) -> None:
        """Score these shards."""
        import torch

        before = torch.get_num_threads()
        torch.set_num_threads(self.cores or before)
        try:
            scorer.load()
            for shard in shards:
                left = _Left(shard.num_bytes, told)
                scorer.score(shard, left.tell)
                left.tell(shard.num_bytes)
        finally:
            torch.set_num_threads(before)


@dataclass
class _Left:
    """Bytes of a shard that nobody was told of; what is not text in its files is told at the end."""

    num_bytes: int
    told: Told

    def tell(self, num_bytes: int) -> None:
        """Of some bytes of text, at most those that are left."""
        num_bytes = min(num_bytes, self.num_bytes)
        self.num_bytes -= num_bytes
        self.told(num_bytes)


class Undertaking(Config):
    """What stands in job.json: what was asked of which text.

    Attributes:
        job: what was asked.
        sources: the files.
        num_shards: into which they were cut.
        shards_sha256: of the list of shards.
        troubles: what was wrong with the files, and how often.
        first_troubles: where each was first.
    """

    job: Job
    sources: tuple[Source, ...]
    num_shards: int
    shards_sha256: str
    troubles: dict[str, int]
    first_troubles: dict[str, str]


class Written(Config):
    """One part, in the manifest."""

    file: str
    fingerprint: str
    sha256: str
    num_documents: int
    num_kept: int


class Manifest(Config):
    """What a finished run says of itself.

    Attributes:
        job: what was asked.
        num_documents: that were scored.
        num_kept: that were written.
        num_tokens: of the documents scored.
        num_bytes: of the documents scored.
        num_impossible: documents of probability zero.
        bits_per_byte: of all possible documents together; None if there are none.
        troubles: what was wrong with files and documents, and how often.
        first_troubles: where each was first.
        parts: the files.
    """

    job: Job
    num_documents: int
    num_kept: int
    num_tokens: int
    num_bytes: int
    num_impossible: int
    bits_per_byte: float | None
    troubles: dict[str, int]
    first_troubles: dict[str, str]
    parts: tuple[Written, ...]


def score_corpus(
    source: Path, out: Path, order: CorpusOrder, engine: Engine | None = None, *, report: Report = quiet
) -> Manifest:
    """Score a corpus; asked the same again, only what is missing is done.

    Args:
        source: a file, or a folder that is searched through and through.
        out: a folder, new or of a run that was broken off.
        order: what is asked.
        engine: has shards scored; None does it here.
        report: told of kilobytes of text.

    Raises:
        InputError: if the corpus cannot be read, or the folder holds a run that was asked something else.
    """
    engine = engine or LocalEngine()
    source, out = source.absolute(), out.absolute()
    root, sources = sources_of(source)
    if out.resolve().is_relative_to(source.resolve()):
        raise InputError(f"scores of {source} cannot be written into it, got {out}; choose a folder outside")
    known = _known(out)
    job = job_of(order, engine.asked_on)
    if known is not None:
        _refuse_other(known.job, job, out)
    undertaking, shards = _undertaking(root, sources, job, known, out, report)
    prints = [fingerprint_of(job.fingerprint, shard) for shard in shards]
    receipts = [receipt_of(out, shard, mark) for shard, mark in zip(shards, prints, strict=True)]
    missing = [shard for shard, receipt in zip(shards, receipts, strict=True) if receipt is None]
    if missing:
        with _writing(out):
            _run(engine, Scorer(root, out, job, engine.device), missing, sum(s.num_bytes for s in shards), report)
        receipts = [receipt_of(out, shard, mark) for shard, mark in zip(shards, prints, strict=True)]
    done = [receipt for receipt in receipts if receipt is not None]
    if len(done) < len(shards):
        raise InputError(f"{len(shards) - len(done)} of {len(shards)} shards are not done; ask the same again")
    manifest = _manifest(undertaking, done)
    with _writing(out):
        write_whole(out / MANIFEST, manifest.model_dump_json(indent=1) + "\n")
        for folder in (out, out / RECEIPTS):
            sweep_folders(folder)
    return manifest


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"{out} cannot be written: {error.strerror or error}; see to it, and ask again") from None


def _known(out: Path) -> Undertaking | None:
    """What was asked before of this folder.

    Raises:
        InputError: if it holds something else.
    """
    if not out.exists():
        return None
    if not out.is_dir():
        raise InputError(f"a folder to write to is needed, got the file {out}; choose another place")
    try:
        return Undertaking.model_validate_json((out / JOB).read_bytes())
    except FileNotFoundError:
        if any(path.name != SHARDS and not path.name.startswith(".") for path in out.iterdir()):
            raise InputError(f"{out} holds something else than a run; choose a new folder") from None
        return None
    except (OSError, ValidationError):
        raise InputError(f"{out / JOB} cannot be read as that of a run; choose a new folder") from None


def _refuse_other(before: Job, now: Job, out: Path) -> None:
    was, wanted = json.loads(before.model_dump_json()), json.loads(now.model_dump_json())
    for name, value in wanted.items():
        if was[name] != value:
            shown = [f"{v}"[:100] for v in (was[name], value)]
            raise InputError(
                f"{out} holds a run with another {name}: {shown[0]}, now {shown[1]}; choose another folder, or ask as "
                "before"
            )


def _undertaking(
    root: Path, sources: tuple[Source, ...], job: Job, known: Undertaking | None, out: Path, report: Report
) -> tuple[Undertaking, list[Shard]]:
    """The shards of the corpus: as it was cut before, if no file seems changed, else cut anew.

    Raises:
        InputError: if the text is another than before.
    """
    if known is not None and known.sources == sources:
        content = (out / SHARDS).read_bytes()
        if hashlib.sha256(content).hexdigest() == known.shards_sha256:
            return known, [Shard.model_validate_json(line) for line in content.splitlines()]
    troubles = Troubles()
    shards = cut(root, sources, job.texts, job.shard_bytes, troubles, report)
    if not shards:
        wrong = "; ".join(troubles.sentences()) or "they are empty"
        raise InputError(f"a corpus needs text, got none in {len(sources)} files of {root}: {wrong}")
    content = "".join(shard.model_dump_json() + "\n" for shard in shards).encode()
    found = Undertaking(
        job=job,
        sources=sources,
        num_shards=len(shards),
        shards_sha256=hashlib.sha256(content).hexdigest(),
        troubles=troubles.counts,
        first_troubles=troubles.first,
    )
    if known is not None and known.shards_sha256 != found.shards_sha256:
        raise InputError(f"{out} holds a run over another text than {root} has now; choose another folder")
    with _writing(out):
        write_whole(out / SHARDS, content)
        write_whole(out / JOB, found.model_dump_json(indent=1) + "\n")
    return found, shards


def _run(engine: Engine, scorer: Scorer, missing: Sequence[Shard], total: int, report: Report) -> None:
    done = total - sum(shard.num_bytes for shard in missing)

    def told(num_bytes: int) -> None:
        nonlocal done
        done += num_bytes
        report("scoring (kB)", -(-done // 1000), -(-total // 1000))

    told(0)
    engine.run(scorer, missing, told)


def _manifest(undertaking: Undertaking, receipts: Sequence[Receipt]) -> Manifest:
    counts, first = dict(undertaking.troubles), dict(undertaking.first_troubles)
    for receipt in receipts:
        for what, number in receipt.troubles.items():
            counts[what] = counts.get(what, 0) + number
            first.setdefault(what, receipt.first_troubles[what])
    num_bytes = sum(receipt.num_possible_bytes for receipt in receipts)
    nats = sum(receipt.log_prob for receipt in receipts)
    return Manifest(
        job=undertaking.job,
        num_documents=sum(receipt.num_documents for receipt in receipts),
        num_kept=sum(receipt.num_kept for receipt in receipts),
        num_tokens=sum(receipt.num_tokens for receipt in receipts),
        num_bytes=sum(receipt.num_bytes for receipt in receipts),
        num_impossible=sum(receipt.num_impossible for receipt in receipts),
        bits_per_byte=-nats / math.log(2) / num_bytes if num_bytes else None,
        troubles=counts,
        first_troubles=first,
        parts=tuple(
            Written(
                file=receipt.file,
                fingerprint=receipt.fingerprint,
                sha256=receipt.sha256,
                num_documents=receipt.num_documents,
                num_kept=receipt.num_kept,
            )
            for receipt in receipts
        ),
    )
