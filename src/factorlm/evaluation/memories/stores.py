"""Memories built for an evaluation, kept in its cache: what was built once is opened."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path

from factorlm.evaluation.priors.kept import titled
from factorlm.evaluation.workbench import Workbench
from factorlm.memory.building import BuildSettings, build
from factorlm.memory.card import is_memory, mark_of
from factorlm.memory.corpus import Document, Troubles
from factorlm.memory.datastore import NeighbourSettings
from factorlm.memory.kinds import open_infini
from factorlm.memory.longest_suffix import InfiniGram
from factorlm.memory.mlp import MlpMemory, MlpSettings, open_mlp
from factorlm.memory.mlp_training import train_mlp
from factorlm.memory.neighbour_building import build_neighbours
from factorlm.memory.neighbours import NeighbourMemory, open_neighbours
from factorlm.models import CausalLM


def infini_of(bench: Workbench, lm: CausalLM, name: str, texts: Sequence[str]) -> InfiniGram:
    """An ∞-gram memory of some texts."""
    place = place_of(bench, "infini", [lm.vocabulary.fingerprint, list(texts)])
    if not is_memory(place):
        file = place.with_name(f"{place.name}.jsonl")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
        build(
            [file], place, lm.encode_texts, mark_of(lm, with_encoder=False), lm.vocabulary.size, BuildSettings(),
            report=titled(bench.report, f"{name}, ∞-gram"),
        )  # fmt: skip
        file.unlink()
    return open_infini(place, lm)


def neighbours_of(
    bench: Workbench, lm: CausalLM, name: str, texts: Sequence[str], settings: NeighbourSettings
) -> NeighbourMemory:
    """A memory of neighbours of some texts."""
    place = neighboursplace_of(bench, lm, texts, settings)
    if not is_memory(place):
        documents = (Document(text, name, number) for number, text in enumerate(texts, 1))
        place.parent.mkdir(parents=True, exist_ok=True)
        build_neighbours(
            lm, documents, place, settings, troubles=Troubles(), report=titled(bench.report, f"{name}, kNN")
        )
    return open_neighbours(place, lm)


def neighboursplace_of(bench: Workbench, lm: CausalLM, texts: Sequence[str], settings: NeighbourSettings) -> Path:
    """Where the datastore of some texts is, or shall be."""
    content = [lm.fingerprint, str(lm.model.dtype), settings.model_dump_json(), list(texts)]
    return place_of(bench, "knn", content)


def mlp_of(bench: Workbench, lm: CausalLM, name: str, store: Path, settings: MlpSettings) -> MlpMemory:
    """A memory that imitates the neighbours of a datastore."""
    place = place_of(bench, "mlp", [store.name, settings.model_dump_json()])
    if not is_memory(place):
        train_mlp(lm, store, place, settings, report=titled(bench.report, f"{name}, MLP"))
    return open_mlp(place, lm)


def place_of(bench: Workbench, kind: str, content: Sequence[object]) -> Path:
    """Where a memory of this content is kept, or shall be; without a cache, in a folder of its own."""
    folder = bench.cache.folder or Path(tempfile.mkdtemp(prefix="factorlm-"))
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()[:24]
    return Path(folder) / "memories" / f"{kind}-{digest}"
