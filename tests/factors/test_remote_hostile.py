"""What a shared store could do to us, and what comes of it: nothing is installed, nothing is unpickled."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from hashlib import sha256 as digest
from pathlib import Path
from typing import Any

import pytest

from factorlm.errors import FactorlmError, IntegrityError
from factorlm.factors.remotes.index import Index
from factorlm.factors.remotes.place import place_of
from factorlm.factors.remotes.transfer import pull, push, verify_place
from factorlm.factors.store import MANIFEST, WEIGHTS, Store

Save = Callable[..., Path]


def sha256(content: bytes) -> str:
    return digest(content).hexdigest()


def put(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


@pytest.fixture
def published(own: Store, server: Any, save_head: Save) -> Path:
    """The folder, behind the server, of a shared store with one version."""
    save_head()
    push(["kind"], place_of(str(server.folder / "shared")))
    shutil.rmtree(own.folder)
    return server.folder / "shared"


def reindexed(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def damage(shared: Path) -> None:
        index = json.loads((shared / "index.json").read_text())
        change(index)
        (shared / "index.json").write_text(json.dumps(index))

    return damage


def recarded(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    """Another factor.json, with an index that vouches for it."""

    def damage(shared: Path) -> None:
        path = shared / "kind/0.1.0" / MANIFEST
        card = json.loads(path.read_text())
        change(card)
        path.write_text(json.dumps(card))
        entry = {"sha256": sha256(path.read_bytes()), "num_bytes": 10**6}
        reindexed(lambda index: index["factors"]["kind"]["0.1.0"].update(entry))(shared)

    return damage


def renamed(name: str) -> Callable[[Path], None]:
    return reindexed(lambda index: index["factors"].update({name: index["factors"].pop("kind")}))


def reversioned(version: str) -> Callable[[Path], None]:
    return reindexed(lambda index: index["factors"]["kind"].update({version: index["factors"]["kind"]["0.1.0"]}))


def entry_with(**changes: object) -> Callable[[Path], None]:
    return reindexed(lambda index: index["factors"]["kind"]["0.1.0"].update(changes))


def names_file(name: str) -> Callable[[Path], None]:
    return recarded(lambda card: card.update(files={name: card["files"][WEIGHTS]}))


def in_kind(damage: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda shared: damage(shared / "kind/0.1.0")


HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a name upwards": (renamed("../up"), "index.json cannot be used"),
    "an absolute name": (renamed("/etc/up"), "index.json cannot be used"),
    "a name with a separator": (renamed("a/b"), "index.json cannot be used"),
    "a drive": (renamed("c:up"), "index.json cannot be used"),
    "a backslash": (renamed("a\\b"), "index.json cannot be used"),
    "a line break": (renamed("kind\n"), "index.json cannot be used"),
    "a version upwards": (reversioned("0.1.0/../../up"), "index.json cannot be used"),
    "a version of dots": (reversioned(".."), "index.json cannot be used"),
    "a version in other digits": (reversioned("٠.1.0"), "index.json cannot be used"),
    "a version with zeros": (reversioned("00.1.0"), "index.json cannot be used"),
    "an unknown field": (entry_with(url="http://elsewhere"), "extra inputs"),
    "a short checksum": (entry_with(sha256="00"), "sha256"),
    "a later format": (reindexed(lambda index: index.update(format=2)), "format"),
    "no JSON": (lambda shared: (shared / "index.json").write_bytes(b"\x80\x04K\x01."), "index.json cannot be used"),
    "deep JSON": (lambda shared: (shared / "index.json").write_text("[" * 10**5), "index.json cannot be used"),
    "another checksum": (entry_with(sha256="0" * 64), "factor.json is corrupted: sha256"),
    "another description": (entry_with(description="Rude."), "is not what index.json says"),
    "another encoder": (entry_with(encoder="f" * 16), "is not what index.json says"),
    "another kind": (entry_with(kind="lexicon"), "is not what index.json says"),
    "more bytes than announced": (entry_with(num_bytes=100), "too large: at most 100 bytes"),
    "fewer bytes than announced": (entry_with(num_bytes=10**5), "is not what index.json says"),
    "too many bytes": (entry_with(num_bytes=300 * 2**20), "too large: at most 268,435,456"),
    "another name inside": (recarded(lambda card: card.update(name="cruel")), "holds cruel 0.1.0"),
    "another version inside": (recarded(lambda card: card.update(version="0.2.0")), "holds kind 0.2.0"),
    "a file upwards": (names_file("../../../up.safetensors"), "not fetched"),
    "an absolute file": (names_file("/etc/passwd"), "not fetched"),
    "a pickle by name": (names_file("weights.pkl"), "not fetched"),
    "torch by name": (names_file("weights.pt"), "not fetched"),
    "a .bin": (names_file("pytorch_model.bin"), "not fetched"),
    "other weights by name": (names_file("other.safetensors"), "not fetched"),
    "no weights in the manifest": (recarded(lambda card: card.update(files={})), "not what index.json says"),
    "changed weights": (in_kind(put(WEIGHTS, b"x" * 200)), "weights.safetensors is corrupted"),
    "a pickle as weights": (in_kind(put(WEIGHTS, pickle.dumps([1.0]))), "is a pickle"),
    "a missing file": (in_kind(lambda folder: (folder / WEIGHTS).unlink()), r"has no kind/0\.1\.0/weights"),
    "a missing manifest": (in_kind(lambda folder: (folder / MANIFEST).unlink()), r"has no kind/0\.1\.0/factor"),
}


def complain(address: str) -> None:
    for checked in verify_place(place_of(address)):
        raise IntegrityError(checked.problem)


@pytest.mark.parametrize("case", HOSTILE)
def test_a_bad_store_installs_nothing(published: Path, server: Any, own: Store, case: str) -> None:
    damage, message = HOSTILE[case]
    damage(published)
    for address in (str(published), server.url):
        with pytest.raises(IntegrityError, match=message) as caught:
            pull(["kind"], place_of(address), own)
        assert "partial" not in str(caught.value), "a folder that is gone is not shown"
        assert not own.folder.exists() or not any(own.folder.iterdir())
        assert not any("up" in path for _, path, _ in server.seen)
        with pytest.raises(IntegrityError, match=message):
            complain(address)


def test_links_out_of_a_folder_store_are_not_followed(
    published: Path, own: Store, tmp_path: Path, save_head: Save
) -> None:
    secret = tmp_path / "secret"
    shutil.copytree(published / "kind", secret)
    shutil.rmtree(published / "kind")
    (published / "kind").symlink_to(secret)
    with pytest.raises(IntegrityError, match="leads out of the store"):
        pull(["kind"], place_of(str(published)), own)
    save_head(version="0.2.0")
    with pytest.raises(IntegrityError, match="leads out of the store"):
        push(["kind"], place_of(str(published)))
    assert sorted(path.name for path in secret.iterdir()) == ["0.1.0"]


def test_what_is_no_file_is_not_waited_for(published: Path, own: Store) -> None:
    (published / "kind/0.1.0" / WEIGHTS).unlink()
    os.mkfifo(published / "kind/0.1.0" / WEIGHTS)
    with pytest.raises(IntegrityError, match="not a plain file"):
        pull(["kind"], place_of(str(published)), own)


def test_a_stranger_in_a_shared_folder_is_found(published: Path) -> None:
    (published / "kind/0.1.0/evil.pkl").write_bytes(pickle.dumps([1]))
    [checked] = verify_place(place_of(str(published)))
    assert "a pickle, which can run code, that its manifest does not name: evil.pkl" in checked.problem


def test_every_flipped_byte_of_an_index_is_found_or_changes_nothing(published: Path) -> None:
    path = published / "index.json"
    sound = path.read_bytes()
    want = Index.read(sound, "")
    num_silent = 0
    for at in range(len(sound)):
        path.write_bytes(sound[:at] + bytes([sound[at] ^ 1 << at % 8]) + sound[at + 1 :])
        try:
            problems = [checked.problem for checked in verify_place(place_of(str(published)))]
        except FactorlmError:
            continue
        if not all(problems):
            assert Index.read(path.read_bytes(), "") == want
            num_silent += 1
    assert num_silent < 0.02 * len(sound), "a blank may become a line break, hardly more"
