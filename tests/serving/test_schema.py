"""The OpenAPI document is true: what it allows and forbids is answered as it says. By schemathesis."""

import subprocess
import sys
from pathlib import Path

import pytest

from factorlm.factors.manifest import LexiconSettings, Manifest
from factorlm.factors.store import Store

from .conftest import Limits, Serve

SETTINGS = """
[checks]
# Texts of the right form may still be no pattern, no grammar, or longer than the context: valid data may be refused.
positive_data_acceptance.enabled = false
# What breaks the schema by its size is refused by its size.
negative_data_rejection.expected-statuses = ["400", "401", "403", "404", "405", "413", "415", "429"]
"""


@pytest.fixture
def words(store: Store) -> None:
    store.save(Manifest(name="kind", settings=LexiconSettings(phrases={"good": 3.0})))


def test_every_operation_does_what_the_document_says(serve: Serve, words: None, tmp_path: Path) -> None:
    server = serve(limits=Limits(max_tokens=8, n=2, requests_per_minute=0))
    key = server.database.create_key("all", "ann", ["admin"])
    (tmp_path / "schemathesis.toml").write_text(SETTINGS)
    program = "from schemathesis.cli import schemathesis; schemathesis()"
    found = subprocess.run(
        [
            sys.executable, "-c", program, "run", f"{server.url}/openapi.json",
            "--header", f"Authorization: Bearer {key}", "--phases", "examples,coverage,fuzzing",
            "--max-examples", "8", "--seed", "1", "--no-shrink", "--continue-on-failure", "--request-timeout", "60",
            "--suppress-health-check", "all", "--warnings", "off",
        ],
        capture_output=True, text=True, timeout=600, cwd=tmp_path,
    )  # fmt: skip
    assert found.returncode == 0, found.stdout[-8000:] + found.stderr[-2000:]
    assert "Tested: " in found.stdout
