"""Cards on the command line: nothing is fetched for them, what is damaged is told, what is measured is a version."""

import json
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch

from factorlm.factors.head import EncoderCard
from factorlm.factors.manifest import ContrastSettings, HeadSettings, LexiconSettings, Manifest
from factorlm.factors.remotes.inspection import inspect
from factorlm.factors.store import MANIFEST, WEIGHTS, Store, default_stores, read_manifest
from factorlm.factors.strength import StrengthMap
from factorlm.factors.versions import kept_versions
from factorlm.models import CausalLM

from .conftest import Run

STRANGER = "nobody/no-such-model"


def save_head(lm: CausalLM, encoder: str, name: str = "mild", label: str = "") -> Path:
    card = EncoderCard(name=encoder, fingerprint=lm.fingerprint, width=lm.width)
    bias_D = 0.5 * torch.randn(lm.width, generator=torch.Generator().manual_seed(3))
    empty = torch.zeros(lm.width, 0)
    head = Manifest(
        name=name,
        label=label,
        settings=HeadSettings(rank=0),
        encoder=card,
        effect={"[b]what": 1.0},
        strengths=StrengthMap(points=((-0.6, -1.0), (0.0, 0.0), (0.6, 1.0))),
    )
    tensors = {"bias": bias_D, "up": empty, "down": empty.T.contiguous()}
    return default_stores()[0].save(head, tensors)


def one_line(text: str) -> str:
    [line] = [line for line in text.splitlines() if line.startswith("factorlm: ")]
    return line


def test_a_card_is_shown_without_its_encoder(run: Run, tiny_lm: CausalLM) -> None:
    save_head(tiny_lm, STRANGER, label="[red]mild[/red] texts")
    ran = run("factor", "show", "mild")
    assert ran.status == 0, ran.err
    assert "[red]mild[/red] texts" in ran.out
    assert "[b]what" in ran.out
    assert "left out" in ran.err


def test_a_card_with_its_encoder_has_tokens_and_costs(run: Run, tiny_lm: CausalLM, tiny_folder: Path) -> None:
    save_head(tiny_lm, str(tiny_folder))
    ran = run("factor", "show", "mild", "--tokens", "3")
    assert ran.status == 0, ran.err
    assert "pushes (nats at exponent 1)" in ran.out
    assert f"of the encoder's multiply-adds for each token ({tiny_lm.width})" in " ".join(ran.out.split())
    assert f"of its memory ({4 * tiny_lm.width} bytes)" in " ".join(ran.out.split())


@pytest.mark.parametrize(
    "words",
    [
        ("edit", "mild", "--allow", "good"),
        ("measure", "mild", "--table", "texts.jsonl"),
        ("port", "mild", "--to", "TINY", "--as", "other"),
    ],
)
def test_nothing_is_fetched_on_a_cards_word(
    run: Run, tiny_lm: CausalLM, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str]
) -> None:
    def refuse(*args: object, **options: object) -> None:
        pytest.fail("a model was asked for")

    save_head(tiny_lm, STRANGER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("factorlm.factors.response.sentence_judge", lambda examples: (lambda texts: [], 1.0))
    rows = [{"text": f"text {n}", "label": str(n % 2)} for n in range(40)]
    (tmp_path / "texts.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", refuse)
    ran = run("factor", *(word.replace("TINY", str(tiny_folder)) for word in words))
    assert ran.status == 2
    assert STRANGER in one_line(ran.err)
    assert "is not here" in one_line(ran.err)


def test_a_contrast_fetches_nothing_either(run: Run, tiny_folder: Path) -> None:
    settings = ContrastSettings(expert=STRANGER, anti_expert=None)
    default_stores()[0].save(Manifest(name="versus", settings=settings))
    ran = run("generate", "x", "--model", str(tiny_folder), "--factor", "versus^1", "--max-tokens", "2")
    assert ran.status == 2
    assert f"{STRANGER!r} that the card names is not here" in one_line(ran.err)


def test_a_lexicon_shows_its_phrases(run: Run) -> None:
    phrases: dict[str, float | None] = {f"word{n}": 1.5 for n in range(40)}
    phrases |= {"calm [sea]": -2.0, "damn": None}
    default_stores()[0].save(Manifest(name="words", settings=LexiconSettings(phrases=phrases)))
    lines = run("factor", "show", "words").out.splitlines()
    [boosted] = [line for line in lines if line.startswith("+1.5 nats (40): word0, word1, ")]
    assert boosted.endswith(", and 28 more")
    assert "-2 nats (1): calm [sea]" in lines
    assert "bans (1): damn" in lines
    assert ": dangerous, weapon, " in run("factor", "show", "safe").out


def test_a_damaged_factor_does_not_hide_the_others(run: Run, tiny_lm: CausalLM) -> None:
    folder = save_head(tiny_lm, STRANGER)
    save_head(tiny_lm, STRANGER, name="other")
    (folder / MANIFEST).write_text("{")
    rows = [json.loads(line) for line in run("factor", "list", "--json").out.splitlines()]
    assert [row["name"] for row in rows if "problem" in row] == ["mild"]
    assert {"other", "positive"} <= {row["name"] for row in rows}
    assert "mild is damaged: factorlm factor verify mild tells" in run("factor", "list").out
    ran = run("factor", "verify", "--json")
    assert ran.status == 2
    found = {row["name"]: row["problem"] for row in map(json.loads, ran.out.splitlines())}
    assert found["mild"]
    assert not found["other"]


def test_a_folder_of_another_name_is_told(run: Run, tiny_lm: CausalLM) -> None:
    folder = save_head(tiny_lm, STRANGER)
    shutil.copytree(folder, folder.with_name("wild"))
    ran = run("factor", "verify")
    assert ran.status == 2
    assert "wild holds mild" in one_line(ran.err)


def test_weights_that_cannot_be_opened_are_told_and_the_rest_is_checked(
    run: Run, tiny_lm: CausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = save_head(tiny_lm, STRANGER) / WEIGHTS
    save_head(tiny_lm, STRANGER, name="other")
    opened = Path.open

    def locked(path: Path, *args: object, **options: object) -> object:
        if path == weights:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *args, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", locked)
    ran = run("factor", "verify")
    assert ran.status == 2
    assert "Permission denied" in one_line(ran.err)
    assert "sound other" in ran.out


def test_names_that_no_file_can_have_end_in_one_line(run: Run) -> None:
    for name in ("x" * 5000 + ".pt", "./" + "x" * 5000, "./a\0b"):
        ran = run("factor", "show", name)
        assert ran.status == 2
        assert len(one_line(ran.err)) < 6000


def test_a_measurement_is_a_version_and_comes_undone(
    run: Run, tiny_lm: CausalLM, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_head(tiny_lm, str(tiny_folder))
    own = default_stores()[0]
    before = (own.folder / "mild" / MANIFEST).read_bytes()
    elsewhere = tmp_path / "mild"
    shutil.copytree(own.folder / "mild", elsewhere)
    monkeypatch.setattr(
        "factorlm.factors.response.sentence_judge", lambda examples: (lambda texts: ["a" in t for t in texts], 0.9)
    )
    rows = [{"text": f"text {n}", "label": str(n % 2)} for n in range(40)]
    (tmp_path / "texts.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    options = ("--table", str(tmp_path / "texts.jsonl"), "--samples", "1")
    ran = run("factor", "measure", str(elsewhere), *options)
    assert ran.status == 2
    assert "your store has another factor named 'mild'" in one_line(ran.err)
    assert (own.folder / "mild" / MANIFEST).read_bytes() == before
    ran = run("factor", "measure", "mild", *options)
    assert ran.status == 0, ran.err
    card = inspect(own.folder / "mild")
    assert card.response is not None
    assert (card.version, card.changes[-1].version) == ("0.2.0", "0.1.0")
    assert [(path / MANIFEST).read_bytes() for path in kept_versions(own, "mild").values()] == [before]
    assert run("factor", "edit", "mild", "--undo").status == 0
    assert (own.folder / "mild" / MANIFEST).read_bytes() == before


def test_what_is_created_anew_keeps_the_old_one(run: Run) -> None:
    assert run("factor", "create", "words", "--word", "good").status == 0
    own: Store = default_stores()[0]
    before = (own.folder / "words" / MANIFEST).read_bytes()
    assert run("factor", "create", "words", "--word", "bad", "--replace").status == 0
    assert read_manifest(own.folder / "words").settings == LexiconSettings(phrases={"bad": 2.0})
    assert [(path / MANIFEST).read_bytes() for path in kept_versions(own, "words").values()] == [before]


def test_a_factor_is_trained_anew_by_its_own_recipe_only(
    run: Run, tiny_lm: CausalLM, tiny_folder: Path, tmp_path: Path
) -> None:
    save_head(tiny_lm, STRANGER, name="polite")
    ran = run("factor", "port", "polite", "--to", str(tiny_folder), "--retrain", "--data", str(tmp_path))
    assert ran.status == 2
    assert "was not made by the recipe of that name" in one_line(ran.err)


def test_folders_with_brackets_are_shown_as_they_are(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACTORLM_STORE", str(tmp_path / "[red]"))
    assert "[red]" in run("factor", "create", "words", "--word", "good").out
    ran = run("factor", "show", "words", "--html", str(tmp_path / "[b]card.html"))
    assert "[b]card.html" in ran.err.replace("\n", "")


def test_weights_that_are_not_numbers_are_refused(run: Run, tiny_lm: CausalLM) -> None:
    folder = save_head(tiny_lm, STRANGER)
    tensors = safetensors.torch.load_file(folder / WEIGHTS)
    tensors["bias"][3] = torch.nan
    ran = run("factor", "verify", "mild")
    assert ran.status == 0, ran.err
    old = (folder / WEIGHTS).read_bytes()
    safetensors.torch.save_file(tensors, folder / WEIGHTS)
    from hashlib import sha256

    from factorlm.factors.seal import seal

    digests = [sha256(content).hexdigest() for content in (old, (folder / WEIGHTS).read_bytes())]
    (folder / MANIFEST).write_text((folder / MANIFEST).read_text().replace(*digests))
    seal(folder)
    ran = run("factor", "verify", "mild")
    assert ran.status == 2
    assert "not finite" in one_line(ran.err)
