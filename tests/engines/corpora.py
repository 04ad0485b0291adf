"""What the tests of corpora share."""

import json
import random
from pathlib import Path

from factorlm.factors.manifest import LexiconSettings, Manifest
from factorlm.factors.store import Store

WORDS = ["the", "good", "bad", "in", "tooth", "cat", "é"]


def write_documents(folder: Path, num_documents: int, *, num_words: int = 30, seed: int = 0) -> Path:
    """Objects in .jsonl, and one file of paragraphs, of up to so many words each; a few lines are broken."""
    draw = random.Random(seed)

    def text() -> str:
        return " ".join(draw.choice(WORDS) for _ in range(draw.randint(1, num_words)))

    folder.mkdir(parents=True, exist_ok=True)
    rows = [json.dumps({"text": text(), "n": n}) for n in range(num_documents)]
    rows[3:3] = ["{broken", '{"text": 3}']
    (folder / "a.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (folder / "b.txt").write_text("\n\n".join(text() for _ in range(num_documents // 4)), encoding="utf-8")
    return folder


def found_in(out: Path) -> list[dict]:
    """The objects of all parts, in order."""
    return [json.loads(line) for part in sorted(out.glob("part-*.jsonl")) for line in part.read_text().splitlines()]


def contents(out: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}


def save_lexicon(store: Path, boost: float) -> None:
    """The factor "kind", of one word."""
    Store(store).save(Manifest(name="kind", settings=LexiconSettings(phrases={"good": boost})), replace=True)
