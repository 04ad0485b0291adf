"""What a run leaves in its folder: parts, a receipt for each, the job, and at the end a manifest.

    job.json               what was asked of which text; another question or text is refused
    shards.jsonl           how the text was cut
    part-00000000.jsonl    scores of a shard
    receipts/00000000.json says that the part is whole, and what is in it
    manifest.json          all of it together, once every shard is done

Every file is written under a temporary name and renamed. A shard counts as done once its receipt is there, which comes
after its part; a part without a receipt is written again, with the same content, in the same place.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from factorlm.engines.corpus_job import Format
from factorlm.engines.corpus_shards import Shard
from factorlm.files import sync, write_whole
from factorlm.inference.results import Score
from factorlm.settings import Config

JOB, SHARDS, MANIFEST, RECEIPTS = "job.json", "shards.jsonl", "manifest.json", "receipts"
DECIMALS = 6  # of numbers in nats and bits


@dataclass(frozen=True)
class Scored:
    """A document with its score.

    Attributes:
        source: name of its file.
        line: its first one, or its row, counted from one.
        part: of a document that was too long to be kept whole, counted from zero.
        score: of its text.
        num_windows: in which it was read.
    """

    source: str
    line: int
    part: int
    score: Score
    num_windows: int


class Receipt(Config):
    """What came of a shard.

    Attributes:
        shard: its index.
        fingerprint: of text, settings and composition.
        file: of the scores.
        file_bytes: its size.
        sha256: of the file.
        num_documents: that were scored.
        num_kept: that are in the file.
        num_tokens: of the documents scored.
        num_bytes: of the documents scored, in UTF-8.
        log_prob: of all possible documents together, in nats.
        num_impossible: documents of probability zero.
        num_possible_bytes: of the other documents.
        troubles: how often what was wrong.
        first_troubles: where each was first.
    """

    shard: int
    fingerprint: str
    file: str
    file_bytes: int
    sha256: str
    num_documents: int
    num_kept: int
    num_tokens: int
    num_bytes: int
    log_prob: float
    num_impossible: int
    num_possible_bytes: int
    troubles: dict[str, int]
    first_troubles: dict[str, str]


def fingerprint_of(job: str, shard: Shard) -> str:
    """Of a shard's text, the settings and the composition."""
    return hashlib.sha256(f"{job} {shard.index} {shard.sha256}".encode()).hexdigest()[:16]


def part_name(shard: Shard, kind: Format) -> str:
    """File of a shard's scores."""
    return f"part-{shard.index:08d}.{kind}"


def receipt_path(out: Path, index: int) -> Path:
    """File of a shard's receipt."""
    return out / RECEIPTS / f"{index:08d}.json"


def receipt_of(out: Path, shard: Shard, fingerprint: str) -> Receipt | None:
    """The receipt of a shard; None if it is not done, or was another shard's, or its part is not as it was written."""
    try:
        receipt = Receipt.model_validate_json(receipt_path(out, shard.index).read_bytes())
        is_whole = (out / receipt.file).stat().st_size == receipt.file_bytes
    except (OSError, ValidationError):
        return None
    return receipt if is_whole and receipt.fingerprint == fingerprint else None


def content_of(
    kept: Sequence[Scored], kind: Format, factors: Sequence[str], *, with_text: bool, fingerprint: str
) -> bytes:
    """The file of some documents; the same documents give the same bytes."""
    if kind == "parquet":
        return _parquet(kept, factors, with_text, fingerprint)
    lines = (json.dumps(_object(s, with_text), ensure_ascii=False, allow_nan=False) + "\n" for s in kept)
    content = "".join(lines).encode()
    return gzip.compress(content, mtime=0) if kind == "jsonl.gz" else content


def write_part(out: Path, content: bytes, receipt: Receipt) -> None:
    """Write the part, and once it is on the disk itself its receipt."""
    write_whole(out / receipt.file, content)
    sync(out / receipt.file)
    write_whole(receipt_path(out, receipt.shard), receipt.model_dump_json())


def _object(scored: Scored, with_text: bool) -> dict[str, Any]:
    """As `factorlm score --json` has it, with where the text stands."""
    score = scored.score
    return {
        "source": scored.source,
        "line": scored.line,
        "part": scored.part,
        **({"text": score.text} if with_text else {}),
        "log_prob": _number(score.log_prob),
        "base_log_prob": _number(score.base_log_prob),
        "num_tokens": score.num_tokens,
        "num_bytes": score.num_bytes,
        "bits_per_byte": _number(score.bits_per_byte),
        "factors": {name: _number(nats) for name, nats in score.log_ratios.items()},
        "num_windows": scored.num_windows,
    }


def _parquet(kept: Sequence[Scored], factors: Sequence[str], with_text: bool, fingerprint: str) -> bytes:
    """One column for each quantity, `factor:NAME` for evidence."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    number, count = pa.float64(), pa.int64()
    kinds = {
        "source": pa.string(), "line": count, "part": count, **({"text": pa.string()} if with_text else {}),
        "log_prob": number, "base_log_prob": number, "num_tokens": count, "num_bytes": count, "bits_per_byte": number,
        **{f"factor:{name}": number for name in factors}, "num_windows": count,
    }  # fmt: skip
    rows = []
    for found in (_object(s, with_text) for s in kept):
        evidence = {f"factor:{name}": nats for name, nats in found.pop("factors").items()}
        rows.append(found | evidence)
    schema = pa.schema(list(kinds.items()), metadata={"factorlm.fingerprint": fingerprint})
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema), sink, compression="zstd")
    return sink.getvalue()


def _number(value: float) -> float | None:
    """Rounded; null where there is no finite one, since JSON has no infinity."""
    return round(value, DECIMALS) if math.isfinite(value) else None
