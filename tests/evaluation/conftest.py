"""What tests of suites share: the data folder, where it is there, and a bench."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from factorlm.evaluation.corpora import DEFAULT, DataFolder
from factorlm.evaluation.workbench import Cache, Workbench
from factorlm.inference.expression import Composed

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
