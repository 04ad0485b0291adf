"""Stores: what is read is checked, what is written appears whole or not at all."""

import io
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import factorlm as fl
from factorlm.errors import FactorlmError, InputError, IntegrityError, UnknownNameError
from factorlm.factors import store
from factorlm.factors.contrast import UnboundContrast
from factorlm.factors.head import EncoderCard, UnboundHead
from factorlm.factors.manifest import (
    ContrastSettings,
    DataCard,
    HeadSettings,
    LexiconSettings,
    Manifest,
    PromptSettings,
    Source,
)
from factorlm.factors.prompt import UnboundPrompt
from factorlm.factors.store import Store
from factorlm.factors.strength import StrengthMap
from factorlm.factors.wordlist import UnboundLexicon

WIDTH, RANK = 6, 2
CARD = EncoderCard(name="tiny", fingerprint="0123456789abcdef", width=WIDTH)
STRENGTHS = StrengthMap(points=((-0.1, -1.0 / 3), (0.0, 0.0), (0.2, 1e-7)))


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The user's own store, empty."""
    monkeypatch.setenv("FACTORLM_STORE", str(tmp_path / "own"))
    return Store(tmp_path / "own")


def head_tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"bias": (WIDTH,), "up": (WIDTH, RANK), "down": (RANK, WIDTH)}
    return {name: torch.randn(*shape, generator=generator) for name, shape in shapes.items()}


def head_manifest(name: str = "kind", **changes: Any) -> Manifest:
    source = Source(name="letters", licence="CC0-1.0", num_texts=3, fingerprint="ff")
    known = {"settings": HeadSettings(rank=RANK), "encoder": CARD, "strengths": STRENGTHS}
    return Manifest(name=name, data=DataCard(train=(source,)), **{**known, **changes})


def edit(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    card = json.loads((folder / "factor.json").read_text())
    change(card)
    (folder / "factor.json").write_text(json.dumps(card))


def test_a_head_comes_back_bit_equal(own: Store) -> None:
    tensors = head_tensors()
    tensors["down"] = tensors["down"].T.contiguous().T  # laid out otherwise
    folder = own.save(head_manifest(), tensors)
    loaded = fl.factor("kind")
    assert isinstance(loaded, UnboundHead)
    assert torch.equal(loaded.weights.bias_D, tensors["bias"])
    assert torch.equal(loaded.weights.up_DR, tensors["up"])
    assert torch.equal(loaded.weights.down_RD, tensors["down"])
    assert (loaded.encoder, loaded.strengths, loaded.name) == (CARD, STRENGTHS, "kind")
    want = head_manifest(files={"weights.safetensors": store.file_sha256(folder / "weights.safetensors")})
    assert store.read_manifest(folder) == want
    assert sorted(path.name for path in own.folder.iterdir()) == ["kind"], "no remains of writing"


def test_other_kinds_come_back_too(own: Store) -> None:
    phrases = {"good": 1.5, "naïve é": -2.0, "bad": None}
    own.save(Manifest(name="words", settings=LexiconSettings(phrases=phrases, case_sensitive=True)))
    own.save(Manifest(name="asked", settings=PromptSettings(instruction="Be kind.\n")))
    own.save(Manifest(name="versus", settings=ContrastSettings(expert=None, anti_expert="smollm2")))
    words, asked, versus = fl.factor("words"), fl.factor("asked"), fl.factor("versus")
    assert isinstance(words, UnboundLexicon)
    assert dict(words.phrases) == {"good": 1.5, "naïve é": -2.0, "bad": -torch.inf}
    assert words.case_sensitive
    assert isinstance(asked, UnboundPrompt)
    assert asked.instruction == "Be kind.\n"
    assert isinstance(versus, UnboundContrast)
    assert (versus.expert, versus.anti_expert) == (None, "smollm2")
    assert own.names() == ["asked", "versus", "words"]


def torch_zip() -> bytes:
    buffer = io.BytesIO()
    torch.save(head_tensors(), buffer)
    return buffer.getvalue()


def rewrite(content: bytes) -> Callable[[Path], None]:
    """Other weights, and a manifest that vouches for them."""

    def damage(folder: Path) -> None:
        (folder / store.WEIGHTS).write_bytes(content)
        sha256 = store.file_sha256(folder / store.WEIGHTS)
        edit(folder, lambda card: card["files"].update({store.WEIGHTS: sha256}))

    return damage


def flip_a_bit(folder: Path) -> None:
    content = bytearray((folder / store.WEIGHTS).read_bytes())
    content[-1] ^= 1
    (folder / store.WEIGHTS).write_bytes(content)


def edited(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    return lambda folder: edit(folder, change)


def response(**changes: float) -> dict[str, Any]:
    dose = {"strength": 0.0, "rate": 0.5, "rate_error": 0.1, "perplexity_ratio": 1.0, "distinct": 0.9, **changes}
    return {"judge": "j", "accuracy": 0.9, "num_texts": 1, "num_tokens": 1, "doses": [dose]}


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a flipped bit": (flip_a_bit, "corrupted: sha256"),
    "a missing file": (lambda folder: (folder / store.WEIGHTS).unlink(), "is missing"),
    "torch.save": (rewrite(torch_zip()), "is a pickle, which can run code"),
    "a pickle": (rewrite(pickle.dumps([1.0])), "is a pickle, which can run code"),
    "noise": (rewrite(b"not numbers at all"), "cannot be read as a head"),
    "tensors missing": (rewrite(safetensors.torch.save({"bias": torch.ones(WIDTH)})), "cannot be read as a head"),
    "another width": (
        rewrite(safetensors.torch.save({k: t[:1] for k, t in head_tensors().items()})),
        "width 6 and rank 2",
    ),
    "no manifest": (lambda folder: (folder / store.MANIFEST).unlink(), "no factor"),
    "broken JSON": (lambda folder: (folder / store.MANIFEST).write_text('{"name": "kind",'), "invalid json"),
    "not UTF-8": (lambda folder: (folder / store.MANIFEST).write_bytes(b'{"name": "\xe9"}'), "not readable"),
    "an unknown field": (edited(lambda card: card.update(colour="red")), "colour: extra inputs"),
    "an unknown kind": (edited(lambda card: card["settings"].update(kind="magic")), "settings.*magic"),
    "a wrong type": (edited(lambda card: card["settings"].update(rank="2")), r"settings\.head\.rank"),
    "a wrong name": (edited(lambda card: card.update(name="../up")), "name"),
    "no encoder": (edited(lambda card: card.update(encoder=None)), "which encoder"),
    "a future format": (edited(lambda card: card.update(format=2)), "format"),
    "strengths that fall": (edited(lambda card: card["strengths"].update(points=[[0, 0], [1, -1]])), "must both rise"),
    "strengths without end": (
        edited(lambda card: card["strengths"].update(points=[[0, 0], [1, float("inf")]])),
        "finite",
    ),
    "an effect that is no number": (edited(lambda card: card.update(effect={"x": float("nan")})), "finite"),
    "a rate above one": (edited(lambda card: card.update(response=response(rate=1.2))), "rate"),
    "a price of nothing": (edited(lambda card: card.update(response=response(perplexity_ratio=0))), "perplexity_ratio"),
    "doses without zero": (edited(lambda card: card.update(response=response(strength=0.2))), "doses must rise"),
    "a card of megabytes": (edited(lambda card: card.update(label="x" * 2**20)), "too large"),
    "a path outside": (edited(lambda card: card.update(files={"../x.safetensors": "00"})), "beside factor.json"),
    "weights in a .bin": (edited(lambda card: card.update(files={"x.bin": "00"})), "must be a .safetensors"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_what_is_damaged_is_not_read(own: Store, name: str) -> None:
    damage, message = DAMAGE[name]
    folder = own.save(head_manifest(), head_tensors())
    damage(folder)
    with pytest.raises(IntegrityError, match=message) as caught:
        store.load(str(folder))
    assert "\n" not in str(caught.value)


def test_weights_that_no_manifest_vouches_for_are_not_read(own: Store) -> None:
    folder = own.save(head_manifest(), head_tensors())
    edit(folder, lambda card: card.update(files={}))
    with pytest.raises(IntegrityError):
        store.load(str(folder))


@pytest.mark.parametrize(("part", "shape"), [("up", (WIDTH, 5)), ("down", (RANK, 3)), ("up", (WIDTH,))])
def test_shapes_that_do_not_fit_are_not_read(own: Store, part: str, shape: tuple[int, ...]) -> None:
    folder = own.save(head_manifest(), {**head_tensors(), part: torch.ones(shape)})
    with pytest.raises(IntegrityError):
        store.load(str(folder))


@pytest.mark.parametrize("suffix", [".pkl", ".pt", ".bin"])
def test_a_path_to_a_pickle_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"path{suffix}"
    path.write_bytes(pickle.dumps("code"))
    with pytest.raises(IntegrityError, match="a pickle, which can run code"):
        fl.factor(str(path))


def test_an_unknown_name_lists_near_ones(own: Store) -> None:
    own.save(head_manifest("gentle"), head_tensors())
    with pytest.raises(UnknownNameError, match="did you mean gentle"):
        fl.factor("gentel")
    with pytest.raises(UnknownNameError, match="no factor named"):
        fl.factor("/no/such/folder")


def test_saving_needs_leave_to_replace(own: Store) -> None:
    own.save(head_manifest(), head_tensors(0))
    with pytest.raises(InputError, match="replace"):
        own.save(head_manifest(), head_tensors(1))
    own.save(head_manifest(label="new"), head_tensors(1), replace=True)
    loaded = fl.factor("kind")
    assert isinstance(loaded, UnboundHead)
    assert torch.equal(loaded.weights.bias_D, head_tensors(1)["bias"])
    assert sorted(path.name for path in own.folder.iterdir()) == ["kind"]


@pytest.mark.parametrize("name", ["", "Kind", "../kind", "a b", "1st", "k" * 65, "kind\n"])
def test_a_name_must_be_plain(own: Store, name: str) -> None:
    with pytest.raises(InputError, match="small letters"):
        own.check_name(name)


def test_a_failed_save_leaves_the_old_factor(own: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    own.save(head_manifest(), head_tensors(0))

    def fail(*args: object) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(safetensors.torch, "save_file", fail)
        with pytest.raises(InputError, match="no space"):
            own.save(head_manifest(), head_tensors(1), replace=True)
    loaded = fl.factor("kind")
    assert isinstance(loaded, UnboundHead)
    assert torch.equal(loaded.weights.bias_D, head_tensors(0)["bias"])
    assert sorted(path.name for path in own.folder.iterdir()) == ["kind"]


@pytest.mark.parametrize(
    "change",
    [{"effect": {"x": float("nan")}}, {"version": "1"}, {"label": "x" * 2**20}, {"changes": ("no change",)}],
)
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
def test_a_card_that_could_not_be_read_again_is_not_saved(own: Store, change: dict[str, Any]) -> None:
    own.save(head_manifest(), head_tensors(0))
    with pytest.raises(InputError, match="could not be read again"):
        own.save(head_manifest().model_copy(update=change), head_tensors(1), replace=True)
    assert store.read_manifest(own.folder / "kind").label == ""
    fl.factor("kind")


def test_weights_that_are_no_numbers_are_not_saved(own: Store) -> None:
    tensors = head_tensors()
    tensors["up"][0, 0] = torch.inf
    with pytest.raises(InputError, match="finite numbers are needed as weights, got others in up"):
        own.save(head_manifest(), tensors)
    assert own.names() == []


def test_a_factor_that_a_killed_writer_moved_aside_comes_back(own: Store) -> None:
    folder = own.save(head_manifest(), head_tensors())
    folder.rename(own.folder / f".kind.{'0' * 32}.old")
    assert own.names() == ["kind"]
    own.remove("kind")
    assert own.names() == []


def test_a_store_that_cannot_be_written_keeps_what_is_removed(own: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    own.save(head_manifest(), head_tensors())

    def fail(*args: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(store.os, "replace", fail)
        with pytest.raises(InputError, match="cannot be removed: Permission denied"):
            own.remove("kind")
    assert own.names() == ["kind"]


def test_a_save_that_fails_at_the_last_step_leaves_the_old_factor(own: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    own.save(head_manifest(), head_tensors(0))
    move = store.os.replace

    def fail(source: Path, target: Path) -> None:
        if str(source).endswith(".partial"):
            raise OSError("the machine is on fire")
        move(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(store.os, "replace", fail)
        with pytest.raises(InputError, match="on fire"):
            own.save(head_manifest(), head_tensors(1), replace=True)
    assert own.names() == ["kind"]


def test_remains_of_a_dead_writer_are_no_factors(own: Store) -> None:
    folder = own.save(head_manifest(), head_tensors())
    folder.rename(own.folder / ".kind.0123.partial")
    assert own.names() == []


def test_the_users_own_store_comes_before_the_shelf(own: Store) -> None:
    shelf = {path.name for path, _ in store.manifests()}
    assert "positive" in shelf
    assert store.folder_of("positive").parent == store.SHELF
    own.save(Manifest(name="positive", settings=PromptSettings(instruction="Be kind.")))
    assert isinstance(fl.factor("positive"), UnboundPrompt)
    found = [manifest.kind for path, manifest in store.manifests() if path.name == "positive"]
    assert found == ["prompt"]


def test_everything_on_the_shelf_is_sound(own: Store) -> None:
    for folder, manifest in store.manifests():
        assert folder.name == manifest.name
        try:
            store.load(manifest.name)
        except FactorlmError as error:
            pytest.fail(f"{manifest.name}: {error}")
