"""factorlm factor edit: what it shows, what it writes, and its one-line errors."""

import json
from pathlib import Path

import pytest
import torch

from factorlm.factors.head import EncoderCard
from factorlm.factors.manifest import HeadSettings, LexiconSettings, Manifest, PromptSettings
from factorlm.factors.store import default_stores
from factorlm.models import CausalLM

from .conftest import Run


@pytest.fixture
def ready(run: Run, tiny_folder: Path, tiny_lm: CausalLM) -> Run:
    """A store with a head of the tiny model, a lexicon and a prompt."""
    store = default_stores()[0]
    card = EncoderCard(name=str(tiny_folder), fingerprint=tiny_lm.fingerprint, width=tiny_lm.width)
    bias_D = 0.5 * torch.randn(tiny_lm.width, generator=torch.Generator().manual_seed(3))
    empty = torch.zeros(tiny_lm.width, 0)
    head = Manifest(name="mild", settings=HeadSettings(rank=0), encoder=card)
    store.save(head, {"bias": bias_D, "up": empty, "down": empty.T.contiguous()})
    store.save(Manifest(name="words", settings=LexiconSettings(phrases={"bad": None, "good": 1.0})))
    store.save(Manifest(name="asked", settings=PromptSettings(instruction="be kind")))
    return run


def test_an_edit_shows_before_and_after_and_comes_undone(ready: Run) -> None:
    words = ["factor", "edit", "mild", "--allow", "good", "--forbid", "bad", "--boost", "the=1.5"]
    contexts = ["--context", "in the", "--context", ""]
    ran = ready(*words, *contexts, "--json")
    assert ran.status == 0, ran.err
    found = json.loads(ran.out)
    assert (found["name"], found["version_before"], found["version"]) == ("mild", "0.1.0", "0.2.0")
    assert found["change"] == "allow 'good'; forbid 'bad'; boost 'the' to 1.5 nats"
    assert [(row["word"], row["context"]) for row in found["effect"]] == [
        (word, context) for word in ("good", "bad", "the") for context in ("in the", "")
    ]
    assert all(0 < row[key] < 1 for row in found["effect"] for key in ("base", "before", "after"))
    assert [round(push["after"], 4) + 0.0 for push in found["pushes"]["bad"]] == [-4, -4]
    assert found["collateral"]["divergence"] > 0
    shown = json.loads(ready("factor", "show", "mild", "--json").out)
    assert (shown["version"], shown["changes"][0]["version"]) == ("0.2.0", "0.1.0")
    ran = ready("factor", "edit", "mild", "--undo")
    assert ran.status == 0
    assert ran.out.startswith("mild is back at 0.1.0")
    assert "allow 'good'" in ran.out


def test_an_edit_for_people(ready: Run) -> None:
    ran = ready("factor", "edit", "mild", "--allow", "good", "--strength", "-0.3")
    assert ran.status == 0, ran.err
    assert ran.out.startswith("mild 0.1.0 is now 0.2.0")
    for wanted in (
        "p(word | context)",
        "before ^-",
        "potentials correlate",
        "to undo: factorlm factor edit mild --undo",
    ):
        assert wanted in ran.out


def test_a_lexicon_for_programs(ready: Run, tiny_folder: Path) -> None:
    model = ["--model", str(tiny_folder)]
    ran = ready("factor", "edit", "words", "--allow", "bad", "--forbid", "ill", "--context", "the", *model, "--json")
    assert ran.status == 0, ran.err
    found = json.loads(ran.out)
    bad, ill = found["effect"]
    assert bad["before"] == 0 < bad["after"]
    assert ill["after"] == 0 < ill["before"]
    assert (found["pushes"], found["collateral"]) == ({}, None)
    undone = json.loads(ready("factor", "edit", "words", "--undo", "--json").out)
    assert (undone["version"], undone["version_before"]) == ("0.1.0", "0.2.0")
    shown = json.loads(ready("factor", "show", "words", "--json").out)
    assert shown["settings"]["phrases"] == {"bad": None, "good": 1.0}


ERRORS = {
    "nothing": (["mild"], "a word to allow, forbid or boost"),
    "unknown factor": (["midl", "--allow", "x"], "did you mean mild"),
    "a prompt": (["asked", "--allow", "x"], "heads and lexica can be edited"),
    "no number": (["mild", "--boost", "good"], "PHRASE=NATS"),
    "no phrase": (["mild", "--boost", "=2"], "PHRASE=NATS"),
    "boosted twice": (["mild", "--boost", "good=2", "--boost", "good=1"], "boosted once"),
    "boost not finite": (["mild", "--boost", "good=-inf"], "forbid it to ban it"),
    "both": (["mild", "--allow", "x", "--forbid", "x"], "once"),
    "empty": (["mild", "--allow", " "], "visible character"),
    "strength of nothing": (["mild", "--allow", "x", "--strength", "0"], "0.2 is clear"),
    "undo and edit": (["mild", "--undo", "--allow", "x"], "one or the other"),
    "nothing to undo": (["mild", "--undo"], "mild 0.1.0 has no edit to undo"),
    "nothing to undo in the package": (["toxic", "--undo"], "has no edit to undo"),
    "a ban inside": (["words", "--allow", "bad day"], "a ban has no exceptions"),
    "not in it": (["words", "--allow", "goods"], "did you mean 'good'"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_bad_edits_end_in_one_line_and_change_nothing(ready: Run, tiny_folder: Path, case: str) -> None:
    words, wanted = ERRORS[case]
    folder = default_stores()[0].folder
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    model = [] if "--undo" in words else ["--model", str(tiny_folder)]
    ran = ready("factor", "edit", *words, *model)
    assert ran.status == 2
    assert ran.out == ""
    [line] = ran.err.splitlines()
    assert line.startswith("factorlm: ")
    assert wanted in line
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
