"""What a seal finds: every flipped byte, and whatever was taken away or added."""

import pickle
import shutil
from collections.abc import Callable
from hashlib import sha256 as digest
from pathlib import Path

import pytest

from factorlm.errors import FactorlmError, IntegrityError
from factorlm.factors.remotes.inspection import inspect
from factorlm.factors.remotes.place import place_of
from factorlm.factors.remotes.transfer import push
from factorlm.factors.seal import SEAL, check_seal, digest_of, seal
from factorlm.factors.store import MANIFEST, WEIGHTS, Store

Save = Callable[..., Path]


def is_found(folder: Path) -> bool:
    try:
        inspect(folder)
    except IntegrityError as error:
        return "\n" not in str(error)
    return False


@pytest.mark.parametrize("name", [MANIFEST, SEAL])
def test_every_flipped_byte_of_text_is_found(own: Store, name: str, save_head: Save) -> None:
    path = save_head() / name
    sound = path.read_bytes()
    for at in range(len(sound)):
        path.write_bytes(sound[:at] + bytes([sound[at] ^ 1 << at % 8]) + sound[at + 1 :])
        with pytest.raises(IntegrityError):
            check_seal(path.parent)
        if at % 40 == 0:
            assert is_found(path.parent), at
    path.write_bytes(sound)
    inspect(path.parent)


def test_every_flipped_byte_of_weights_is_found(own: Store, save_head: Save) -> None:
    path = save_head() / WEIGHTS
    sound = path.read_bytes()
    for at in range(len(sound)):
        path.write_bytes(sound[:at] + bytes([sound[at] ^ 1 << at % 8]) + sound[at + 1 :])
        assert is_found(path.parent), at
    for wrong in (sound[:-1], sound[:100], b"", sound + b"\0", sound + sound):
        path.write_bytes(wrong)
        assert is_found(path.parent)


def put(name: str, content: bytes = b"x") -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


def linked(folder: Path) -> None:
    shutil.copy(folder / WEIGHTS, folder.parent / "elsewhere")
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).symlink_to(folder.parent / "elsewhere")


def vouched(content: bytes) -> Callable[[Path], None]:
    """Other weights, with a manifest and a seal that vouch for them."""

    def damage(folder: Path) -> None:
        old = (folder / WEIGHTS).read_bytes()
        (folder / WEIGHTS).write_bytes(content)
        card = (folder / MANIFEST).read_text()
        (folder / MANIFEST).write_text(card.replace(sha256(old), sha256(content)))
        seal(folder)

    return damage


def sha256(content: bytes) -> str:
    return digest(content).hexdigest()


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no weights": (lambda folder: (folder / WEIGHTS).unlink(), "is missing"),
    "no manifest": (lambda folder: (folder / MANIFEST).unlink(), "no factor"),
    "no seal": (lambda folder: (folder / SEAL).unlink(), r"has no factor\.sha256"),
    "a pickle beside": (put("evil.pkl", pickle.dumps([1])), "a pickle, which can run code, that its manifest.*evil"),
    "a file beside": (put("notes.txt"), r"a file that its manifest does not name: notes\.txt"),
    "a folder beside": (lambda folder: (folder / "more").mkdir(), "plain files only"),
    "a link as weights": (linked, "plain files only"),
    "a pickle as weights": (vouched(pickle.dumps([1.0])), "is a pickle"),
    "noise as weights": (vouched(b"not numbers"), "cannot be read as a head"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_other_damage_is_found_and_not_pushed(own: Store, tmp_path: Path, case: str, save_head: Save) -> None:
    damage, message = DAMAGE[case]
    folder = save_head()
    damage(folder)
    with pytest.raises(IntegrityError, match=message):
        inspect(folder)
    with pytest.raises(FactorlmError):
        push([str(folder)], place_of(str(tmp_path / "shared")))
    assert not (tmp_path / "shared").exists()


def test_a_seal_is_what_sha256sum_reads(own: Store, save_head: Save) -> None:
    folder = save_head()
    lines = [line.split("  ") for line in (folder / SEAL).read_text().splitlines()]
    assert lines == [[sha256((folder / name).read_bytes()), name] for name in (MANIFEST, WEIGHTS)]
    assert digest_of(folder) == lines[0][0]
