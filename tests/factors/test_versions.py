"""Versions: an edit keeps what was there, undoing it brings that back, the package is never touched."""

import hashlib
import shutil
from pathlib import Path

import pytest
import torch

from factorlm.errors import InputError, IntegrityError
from factorlm.factors import store, versions
from factorlm.factors.manifest import Change, LexiconSettings, Manifest
from factorlm.factors.seal import digest_of
from factorlm.factors.store import SHELF, Store


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The user's own store, empty."""
    monkeypatch.setenv("FACTORLM_STORE", str(tmp_path / "own"))
    return Store(tmp_path / "own")


def contents(folder: Path) -> dict[str, str]:
    """The sha256 of every file."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def visible(folder: Path) -> dict[str, str]:
    return {name: sha for name, sha in contents(folder).items() if not name.startswith(".")}


def edited_toxic() -> tuple[Manifest, dict[str, torch.Tensor]]:
    manifest = store.read_manifest(SHELF / "toxic")
    change = Change(version=manifest.version, what="allow 'kill'")
    zeros = {"bias": torch.zeros(576), "up": torch.zeros(576, 0), "down": torch.zeros(0, 576)}
    return manifest.model_copy(update={"version": "9.9.0", "changes": (change,)}), zeros


def test_a_factor_of_the_package_is_edited_in_a_copy(own: Store) -> None:
    shelf = contents(SHELF)
    versions.save_edit(SHELF / "toxic", *edited_toxic())
    assert store.folder_of("toxic") == own.folder / "toxic"
    assert store.read_manifest(store.folder_of("toxic")).version == "9.9.0"
    done = versions.undo("toxic")
    assert (done.folder, done.before) == (SHELF / "toxic", "9.9.0")
    assert store.folder_of("toxic") == SHELF / "toxic"
    assert own.names() == []
    assert contents(SHELF) == shelf
    with pytest.raises(InputError, match="no edit to undo"):
        versions.undo("toxic")


def test_what_the_package_had_comes_back_though_the_package_changed(
    own: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    newer = tmp_path / "newer"
    shutil.copytree(SHELF / "toxic", newer / "toxic")
    card = newer / "toxic" / "factor.json"
    card.write_text(card.read_text() + "\n")
    versions.save_edit(SHELF / "toxic", *edited_toxic())
    monkeypatch.setattr(versions, "default_stores", lambda: [own, Store(newer)])
    assert versions.undo("toxic").folder == own.folder / "toxic"
    assert contents(own.folder / "toxic") == contents(SHELF / "toxic")


def test_a_damaged_kept_version_does_not_come_back(own: Store) -> None:
    versions.save_edit(SHELF / "toxic", *edited_toxic())
    before = visible(own.folder)
    [kept] = versions.kept_versions(own, "toxic").values()
    weights = kept / store.WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(IntegrityError, match="corrupted"):
        versions.undo("toxic")
    shutil.rmtree(kept)
    with pytest.raises(InputError, match="is not kept"):
        versions.undo("toxic")
    assert visible(own.folder) == before


def test_a_kept_card_that_was_changed_does_not_come_back(own: Store) -> None:
    own.save(Manifest(name="words", settings=LexiconSettings(phrases={"bad": -2.0})))
    card = store.read_manifest(own.folder / "words")
    changes = (Change(version=card.version, what="boost 'bad' to -3 nats"),)
    versions.save_edit(own.folder / "words", card.model_copy(update={"version": "0.2.0", "changes": changes}), None)
    before = visible(own.folder)
    [kept] = versions.kept_versions(own, "words").values()
    (kept / store.MANIFEST).write_text((kept / store.MANIFEST).read_text().replace("-2.0", "-2.5"))
    with pytest.raises(IntegrityError, match="not the file that was sealed"):
        versions.undo("words")
    assert visible(own.folder) == before


def test_a_version_that_is_a_path_is_refused(own: Store) -> None:
    manifest, tensors = edited_toxic()
    change = Change(version="../../../elsewhere", what="allow 'kill'")
    own.save(manifest.model_copy(update={"changes": (change,)}), tensors)
    with pytest.raises(IntegrityError, match="three numbers"):
        versions.undo("toxic")


def test_an_edit_that_cannot_be_written_changes_nothing(own: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    versions.save_edit(SHELF / "toxic", *edited_toxic())
    before = visible(own.folder)
    manifest, tensors = edited_toxic()
    again = manifest.model_copy(update={"version": "9.10.0", "changes": (Change(version="9.9.0", what="x"),)})

    def fail(*args: object) -> None:
        raise OSError("no space left on device")

    for target in ("shutil.copyfile", "safetensors.torch.save_file"):
        with monkeypatch.context() as patch:
            patch.setattr(target, fail)
            with pytest.raises(InputError, match="no space"):
                versions.save_edit(own.folder / "toxic", again, tensors)
    assert visible(own.folder) == before
    versions.undo("toxic")
    assert own.names() == []


def words(own: Store, nats: float, version: str = "0.1.0") -> Path:
    settings = LexiconSettings(phrases={"bad": nats})
    return own.save(Manifest(name="words", version=version, settings=settings), replace=True)


def edited_words(folder: Path) -> tuple[Manifest, None]:
    card = store.read_manifest(folder)
    change = Change(version=card.version, what="boost 'good' to 1 nats")
    return card.model_copy(update={"version": "0.2.0", "changes": (change,)}), None


def test_versions_of_one_number_are_both_kept_and_told_apart(own: Store) -> None:
    first = contents(words(own, -1.0))
    versions.save_edit(own.folder / "words", *edited_words(own.folder / "words"))
    second = contents(words(own, -2.0))  # as `create --replace` makes it: the same number, another content
    versions.save_edit(own.folder / "words", *edited_words(own.folder / "words"))
    assert [contents(path) for path in versions.kept_versions(own, "words").values()] == [first, second]
    assert versions.undo("words").before == "0.2.0"
    assert contents(own.folder / "words") == second


def test_another_content_of_the_version_before_does_not_come_back(own: Store) -> None:
    versions.save_edit(words(own, -1.0), *edited_words(own.folder / "words"))
    [kept] = versions.kept_versions(own, "words").values()
    before = visible(own.folder)
    other = contents(words(Store(own.folder.parent / "other"), -2.0))
    shutil.rmtree(kept)
    shutil.copytree(own.folder.parent / "other" / "words", kept)
    with pytest.raises(IntegrityError, match=r"another words 0\.1\.0"):
        versions.undo("words")
    assert visible(own.folder) == before
    assert contents(kept) == other


def test_a_factor_that_changed_during_the_edit_is_not_superseded(own: Store) -> None:
    card, _ = edited_words(words(own, -1.0))
    change = card.changes[0].model_copy(update={"sha256": digest_of(own.folder / "words")})
    before = contents(words(own, -2.0))
    with pytest.raises(InputError, match="changed while it was being edited"):
        versions.save_edit(own.folder / "words", card.model_copy(update={"changes": (change,)}), None)
    assert contents(own.folder / "words") == before


def test_what_is_superseded_is_kept(own: Store) -> None:
    first = contents(words(own, -1.0))
    versions.supersede(own, Manifest(name="words", settings=LexiconSettings(phrases={"ill": -1.0})))
    assert [contents(path) for path in versions.kept_versions(own, "words").values()] == [first]
    (own.folder / "words" / store.MANIFEST).write_text("{")
    versions.supersede(own, Manifest(name="words", settings=LexiconSettings(phrases={"sad": -1.0})))
    assert len(versions.kept_versions(own, "words")) == 1, "nothing can be kept of what cannot be read"


def test_numbers_of_thousands_of_digits_are_no_versions(own: Store) -> None:
    words(own, -1.0)
    folder = own.folder / store.VERSIONS / "words" / f"{'1' * 200}.0.0"
    folder.mkdir(parents=True)
    assert versions.kept_versions(own, "words") == {}
    manifest, tensors = edited_toxic()
    change = Change(version=f"{'1' * 5000}.0.0", what="allow 'kill'")
    own.save(manifest.model_copy(update={"changes": (change,)}), tensors)
    with pytest.raises(IntegrityError, match="three numbers"):
        versions.undo("toxic")


def test_removing_a_factor_removes_its_versions(own: Store) -> None:
    versions.save_edit(SHELF / "toxic", *edited_toxic())
    own.remove("toxic")
    assert contents(own.folder) == {}
    with pytest.raises(InputError, match="no factor of your own"):
        own.remove("toxic")
    with pytest.raises(InputError, match="no factor of your own"):
        own.remove("../own")


def test_a_folder_elsewhere_does_not_supersede_another_factor(own: Store, tmp_path: Path) -> None:
    shutil.copytree(SHELF / "toxic", tmp_path / "toxic")
    own.save(Manifest(name="toxic", settings=LexiconSettings(phrases={"bad": -2.0})))
    with pytest.raises(InputError, match="another factor named 'toxic'"):
        versions.save_edit(tmp_path / "toxic", *edited_toxic())


def test_an_edit_in_another_store_leaves_the_users_own_alone(own: Store, tmp_path: Path) -> None:
    other = Store(tmp_path / "other")
    before = contents(words(own, -1.0))
    versions.save_edit(own.folder / "words", *edited_words(own.folder / "words"), store=other)
    assert contents(own.folder / "words") == before
    assert store.read_manifest(other.folder / "words").version == "0.2.0"
    done = versions.undo("words", other)
    assert (done.folder, other.names()) == (own.folder / "words", []), "the name means the user's own again"
    versions.save_edit(own.folder / "words", *edited_words(own.folder / "words"), store=other)
    words(own, -2.0)
    assert versions.undo("words", other).folder == other.folder / "words", "the user's own is another one now"
    assert contents(other.folder / "words") == before
