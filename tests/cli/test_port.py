"""`factorlm factor port` on two tiny models of the user's own."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from factorlm.factors.head import EncoderCard, HeadWeights
from factorlm.factors.manifest import HeadSettings, LexiconSettings, Manifest, PromptSettings
from factorlm.factors.porting import CORRELATION
from factorlm.factors.store import Store, read_manifest
from factorlm.models import CausalLM

Run = Callable[..., Any]


@pytest.fixture(scope="session")
def other_folder(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another model of the same tokenizer, 24 wide."""
    folder = tmp_path_factory.mktemp("models") / "Other.Tiny"
    tokenizer = AutoTokenizer.from_pretrained(tiny_folder)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        bos_token_id=0,
        eos_token_id=1,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture
def merry(run: Run, tiny_lm: CausalLM) -> Store:
    """The user's store with a head of the tiny model."""
    store = Store(Path(os.environ["FACTORLM_STORE"]))
    weights = HeadWeights.shift(torch.randn(tiny_lm.width, generator=torch.Generator().manual_seed(0)))
    tensors = {"bias": weights.bias_D, "up": weights.up_DR, "down": weights.down_RD}
    encoder = EncoderCard(name=tiny_lm.name, fingerprint=tiny_lm.fingerprint, width=tiny_lm.width)
    store.save(Manifest(name="merry", licence="MIT", settings=HeadSettings(rank=0), encoder=encoder), tensors)
    return store


def test_a_head_is_ported_and_its_loss_is_told(run: Run, merry: Store, other_folder: Path) -> None:
    ran = run("factor", "port", "merry", "--to", str(other_folder))
    assert ran.status == 0, ran.err
    assert "correlation of potentials" in ran.out
    assert "not calibrated" in ran.out
    assert merry.names() == ["merry", "merry-other-tiny"]
    manifest = read_manifest(merry.folder / "merry-other-tiny")
    assert manifest.encoder is not None
    assert (manifest.encoder.name, manifest.encoder.width, manifest.licence) == (str(other_folder), 24, "MIT")
    words = ("a good", "--model", str(other_folder), "--dtype", "float32", "--factor", "merry-other-tiny=0.2", "--json")
    steered = run("generate", *words, "--max-tokens", "4")
    assert steered.status == 0, steered.err
    assert json.loads(steered.out)["factors"]["merry-other-tiny"]["strength"] == pytest.approx(0.2)


def test_json_is_one_object(run: Run, merry: Store, other_folder: Path) -> None:
    ran = run("factor", "port", "merry", "--to", str(other_folder), "--as", "glad", "--json")
    found = json.loads(ran.out)
    assert (found["name"], found["calibration"]) == ("glad", None)
    assert set(found["effect"]) >= {CORRELATION}
    assert found["folder"] == str(merry.folder / "glad")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (LexiconSettings(phrases={"good": 2.0}), "words, which mean the same"),
        (PromptSettings(instruction="Be glad."), "an instruction"),
    ],
)
def test_what_reads_no_states_needs_no_porting(
    run: Run, merry: Store, settings: LexiconSettings | PromptSettings, said: str
) -> None:
    merry.save(Manifest(name="words", settings=settings))
    ran = run("factor", "port", "words", "--to", "smollm2")
    assert ran.status == 0
    assert said in ran.out
    assert len(ran.out.splitlines()) <= 2
    assert merry.names() == ["merry", "words"]


def test_bad_input_ends_in_one_line(run: Run, merry: Store, other_folder: Path, tiny_folder: Path) -> None:
    other, own = str(other_folder), str(tiny_folder)
    few = merry.folder.parent / "few.txt"
    few.write_text("one\ntwo\n")
    cases = {
        "no factor named 'mery'": ("mery", "--to", other),
        "no model named 'smolm2'": ("merry", "--to", "smolm2"),
        "made for": ("merry", "--to", own),
        "small letters": ("merry", "--to", other, "--as", "Glad"),
        "there is a factor named 'merry'": ("merry", "--to", other, "--as", "merry"),
        "no file absent.txt": ("merry", "--to", other, "--texts", "absent.txt"),
        "one or the other": ("merry", "--to", other, "--positive", str(few)),
        "at least 10": ("merry", "--to", other, "--positive", str(few), "--negative", str(few)),
        "already, so there is nothing to port": ("merry", "--to", own + "/."),
        "needs the encoder": ("merry", "--to", own + "/.", "--from", other),
        "takes its texts from the recipe": ("merry", "--to", other, "--retrain", "--texts", str(few)),
        "no recipe named 'merry'": ("merry", "--to", other, "--retrain"),
    }
    for wanted, words in cases.items():
        ran = run("factor", "port", *words)
        lines = [line for line in ran.err.splitlines() if line.startswith("factorlm: ")]
        assert (ran.status, len(lines)) == (2, 1), (wanted, ran.err)
        assert wanted in lines[0]
    assert merry.names() == ["merry"]


def test_an_encoder_that_is_not_here(run: Run, merry: Store, other_folder: Path, tiny_lm: CausalLM) -> None:
    manifest = read_manifest(merry.folder / "merry")
    assert manifest.encoder is not None
    gone = manifest.encoder.model_copy(update={"name": "/gone/away"})
    path = merry.folder / "merry" / "factor.json"
    path.write_text(manifest.model_copy(update={"encoder": gone}).model_dump_json())
    ran = run("factor", "port", "merry", "--to", str(other_folder))
    assert ran.status == 2
    assert "which is not here; say with --from where it is" in ran.err.replace("\n", " ")
    assert run("factor", "port", "merry", "--to", str(other_folder), "--from", tiny_lm.name).status == 0
