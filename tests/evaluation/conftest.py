"""What tests of suites share: the data folder, where it is there, and a bench."""

import gzip
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from factorlm.evaluation.corpora import DEFAULT, DataFolder
from factorlm.evaluation.workbench import Cache, Workbench
from factorlm.inference import Model
from factorlm.inference.expression import Composed
from factorlm.models import CausalLM

HOUSE = Path(__file__).parents[2]


@pytest.fixture(scope="session")
def data() -> DataFolder:
    """The data sets; tests that need them are skipped where they are absent."""
    folder = Path(os.environ.get("FACTORLM_DATA") or HOUSE / DEFAULT)
    if not folder.is_dir():
        pytest.skip(f"the data sets are not here ({folder}); set FACTORLM_DATA")
    return DataFolder(folder)


Bench = Callable[..., Workbench]


@pytest.fixture
def bench(data: DataFolder, tmp_path: Path) -> Bench:
    """A bench of these compositions with a cache of its own."""

    def make(*models: Composed, seed: int = 0) -> Workbench:
        return Workbench(models, data, Cache(tmp_path / "cache"), lambda stage, done, total: None, seed)

    return make


Compose = Callable[[str], Composed]
Put = Callable[[str, list[dict[str, Any]]], DataFolder]


@pytest.fixture
def tiny(tiny_lm: CausalLM, make_head: Callable[..., Any]) -> Compose:
    """Any expression is the tiny model; one with a factor has a head called positive."""

    def compose(expression: str) -> Composed:
        factor = tiny_lm * make_head(0, name="positive") ** 0.0 if "positive" in expression else tiny_lm
        return Composed(expression, Model(factor, tiny_lm), (), expression)

    return compose


@pytest.fixture
def put(tmp_path: Path) -> Put:
    """A function that writes rows as a part of a folder of data."""

    def write(part: str, rows: list[dict[str, Any]]) -> DataFolder:
        path = tmp_path / f"{part}.jsonl.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
        return DataFolder(tmp_path)

    return write
