"""Shared stores in folders and behind http: every byte comes back, every version stays, every failure has its line."""

import http.client
import json
import shutil
import socket
from base64 import b64encode
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.request import Request

import pytest

import factorlm as fl
from factorlm.errors import FactorlmError, FetchError, InputError, IntegrityError, UnknownNameError
from factorlm.factors.head import EncoderCard, UnboundHead
from factorlm.factors.remotes import transfer, web
from factorlm.factors.remotes.inspection import inspect
from factorlm.factors.remotes.place import place_of
from factorlm.factors.remotes.transfer import Checked, listing, pull, push, verify_place
from factorlm.factors.seal import seal
from factorlm.factors.store import MANIFEST, SHELF, WEIGHTS, Store, read_manifest
from factorlm.factors.versions import kept_versions

Save = Callable[..., Path]
FINGERPRINT = "0123456789abcdef"  # of the encoder of save_head's heads


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.fixture(params=["folder", "web", "webdav"])
def shared(request: pytest.FixtureRequest, tmp_path: Path, server: Any) -> str:
    """The address of a shared store that nobody has pushed to."""
    server.makes_folders = request.param == "web"
    return str(tmp_path / "disk" / "shared") if request.param == "folder" else server.url


def test_what_is_pushed_comes_back_bit_identical(
    shared: str, own: Store, tmp_path: Path, save_head: Save, save_words: Save
) -> None:
    folders = [save_head(), save_words()]
    for name in Store(SHELF).names():
        shutil.copytree(SHELF / name, own.folder / name)
        seal(own.folder / name)
        folders.append(own.folder / name)
    push([folder.name for folder in folders], place_of(shared))
    other = Store(tmp_path / "other")
    moved = pull([folder.name for folder in folders], place_of(shared), other)
    assert [(m.name, m.was_there) for m in moved] == [(folder.name, False) for folder in folders]
    for folder in folders:
        assert content(other.folder / folder.name) == content(folder)
        assert inspect(other.folder / folder.name) == inspect(folder)
    assert sorted(path.name for path in other.folder.iterdir()) == sorted(f.name for f in folders), "no remains"
    assert list(verify_place(place_of(shared))) == [
        Checked(folder.name, read_manifest(folder).version) for folder in sorted(folders, key=lambda f: f.name)
    ]
    loaded = fl.factor(str(other.folder / "kind"))
    assert isinstance(loaded, UnboundHead)
    assert loaded.encoder.fingerprint == FINGERPRINT


def test_every_version_stays_and_the_newest_is_by_number(
    shared: str, own: Store, tmp_path: Path, save_head: Save
) -> None:
    contents = {}
    for seed, version in enumerate(["0.9.0", "0.10.0", "0.2.11"]):
        contents[version] = content(save_head(version=version, seed=seed))
        push(["kind"], place_of(shared))
    [listed] = listing(place_of(shared))
    assert listed.versions == ("0.10.0", "0.9.0", "0.2.11")
    assert (listed.entry.kind, listed.entry.encoder, listed.entry.description) == (
        "head",
        FINGERPRINT,
        "Kind [words].",
    )
    assert listed.entry.num_bytes == sum(len(contents["0.10.0"][name]) for name in (MANIFEST, WEIGHTS))
    other = Store(tmp_path / "other")
    assert [m.version for m in pull(["kind"], place_of(shared), other)] == ["0.10.0"]
    for version, want in contents.items():
        pull(["kind"], place_of(shared), other, version=version, replace=True)
        assert content(other.folder / "kind") == want


def test_pushing_again_writes_nothing_and_other_bytes_are_refused(
    shared: str, own: Store, tmp_path: Path, save_head: Save, save_words: Save
) -> None:
    save_head()
    assert [m.was_there for m in push(["kind"], place_of(shared))] == [False]
    before = content_of_all(tmp_path)
    assert [m.was_there for m in push(["kind"], place_of(shared))] == [True]
    assert content_of_all(tmp_path) == before
    save_head(seed=1)
    save_words()
    with pytest.raises(InputError, match=r"another kind 0\.1\.0.*higher version"):
        push(["words", "kind"], place_of(shared))
    assert [listed.name for listed in listing(place_of(shared))] == ["kind"], "all or none"
    push(["kind"], place_of(shared), replace=True)
    other = Store(tmp_path / "other")
    pull(["kind"], place_of(shared), other)
    assert content(other.folder / "kind") == content(own.folder / "kind")


def content_of_all(tmp_path: Path) -> dict[Path, tuple[int, bytes]]:
    files = [path for top in ("disk", "www") for path in (tmp_path / top).rglob("*") if path.is_file()]
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files if path.name != ".push.lock"}


def test_pulling_again_does_nothing_and_another_version_needs_leave(
    shared: str, own: Store, tmp_path: Path, save_head: Save
) -> None:
    save_head()
    push(["kind"], place_of(shared))
    other = Store(tmp_path / "other")
    pull(["kind"], place_of(shared), other)
    before = (other.folder / "kind").stat().st_ino
    assert [m.was_there for m in pull(["kind"], place_of(shared), other)] == [True]
    assert (other.folder / "kind").stat().st_ino == before
    old = content(other.folder / "kind")
    save_head(version="0.2.0", seed=1)
    push(["kind"], place_of(shared))
    with pytest.raises(InputError, match="--replace"):
        pull(["kind"], place_of(shared), other)
    assert content(other.folder / "kind") == old
    pull(["kind"], place_of(shared), other, replace=True)
    assert content(other.folder / "kind") == content(own.folder / "kind")


def test_an_encoder_other_than_that_of_the_default_model_is_noted(
    own: Store, tmp_path: Path, save_head: Save, save_words: Save
) -> None:
    default = transfer.default_encoder()
    assert default is not None
    save_head("ours", encoder=EncoderCard(name=default.name, fingerprint=default.fingerprint, width=6))
    save_head("theirs")
    save_words()
    shared = place_of(str(tmp_path / "shared"))
    push(["ours", "theirs", "words"], shared)
    ours, theirs, words = pull(["ours", "theirs", "words"], shared, Store(tmp_path / "other"))
    assert (ours.notes, words.notes) == ((), ())
    [note] = theirs.notes
    assert f"tiny ({FINGERPRINT}), not for the default model {default.name}" in note


# Failures of a web server


def test_a_connection_that_breaks_is_tried_once_more(server: Any, own: Store, save_head: Save) -> None:
    want = content(save_head())
    push(["kind"], place_of(server.url))
    shutil.rmtree(own.folder)
    server.resets = {"shared/index.json": 1, f"shared/kind/0.1.0/{WEIGHTS}": 1}
    server.cuts = {f"shared/kind/0.1.0/{MANIFEST}": 1}
    pull(["kind"], place_of(server.url), own)
    assert content(own.folder / "kind") == want
    assert not any([*server.resets.values(), *server.cuts.values()])


@pytest.mark.parametrize("way", ["resets", "cuts"])
@pytest.mark.parametrize("path", ["index.json", f"kind/0.1.0/{MANIFEST}", f"kind/0.1.0/{WEIGHTS}"])
def test_a_connection_that_breaks_twice_leaves_nothing(
    server: Any, own: Store, save_head: Save, way: str, path: str
) -> None:
    save_head()
    push(["kind"], place_of(server.url))
    shutil.rmtree(own.folder)
    setattr(server, way, {f"shared/{path}": 2})
    with pytest.raises(FetchError, match="broke off twice"):
        pull(["kind"], place_of(server.url), own)
    assert not own.folder.exists() or not any(own.folder.iterdir())


def test_a_failed_pull_leaves_the_old_factor(server: Any, own: Store, save_head: Save) -> None:
    save_head(version="0.2.0", seed=1)
    push(["kind"], place_of(server.url))
    old = content(save_head())
    server.cuts = {f"shared/kind/0.2.0/{WEIGHTS}": 2}
    with pytest.raises(FetchError, match="broke off twice"):
        pull(["kind"], place_of(server.url), own, replace=True)
    assert content(own.folder / "kind") == old
    assert [path.name for path in own.folder.iterdir()] == ["kind"]


INDEX = "shared/index.json"
ANSWERS: dict[str, tuple[tuple[int, dict[str, str], bytes], type[FactorlmError], str]] = {
    "nothing there": ((404, {}, b""), InputError, "has no index.json; check the address"),
    "gone": ((410, {}, b""), InputError, "has no index.json"),
    "a broken server": ((500, {}, b"oops"), FetchError, "answers 500"),
    "who are you": (
        (401, {"WWW-Authenticate": "Basic"}, b""),
        InputError,
        "answers 401: not allowed; give https://user",
    ),
    "not for you": ((403, {}, b""), InputError, "answers 403: not allowed"),
    "to a file": ((302, {"Location": "file:///etc/passwd"}, b""), IntegrityError, "redirects to file://"),
    "to ftp": ((301, {"Location": "ftp://127.0.0.1/x"}, b""), IntegrityError, "redirects to ftp://"),
    "to data": ((307, {"Location": "data:,{}"}, b""), IntegrityError, "redirects to data://"),
    "in a circle": ((302, {"Location": "/shared/index.json"}, b""), InputError, "has moved to"),
    "to nowhere": ((302, {"Location": "http://127.0.0.1:1/"}, b""), FetchError, "cannot be reached"),
    "a page": ((200, {}, b"<html>"), IntegrityError, "index.json cannot be used"),
    "a long page": ((200, {}, b"x" * 2000), IntegrityError, "at most 1,000 bytes are read, got 2,000"),
    "a page without end": ((200, {"Content-Length": ""}, b"x" * 9000), IntegrityError, "at most 1,000 bytes are read"),
    "an odd length": ((200, {"Content-Length": "-1"}, b""), IntegrityError, "index.json cannot be used"),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_odd_answers_end_in_one_line(server: Any, own: Store, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    answer, kind, message = ANSWERS[case]
    server.answers[INDEX] = answer
    monkeypatch.setattr(transfer, "MAX_INDEX_BYTES", 1000)
    for go in (lambda: listing(place_of(server.url)), lambda: pull(["kind"], place_of(server.url), own)):
        with pytest.raises(kind, match=message) as caught:
            go()
        assert "\n" not in str(caught.value)
    assert not own.folder.exists()


def test_redirects_to_the_web_are_followed(server: Any, own: Store, save_head: Save) -> None:
    save_head()
    push(["kind"], place_of(server.url))
    (server.folder / "shared/index.json").rename(server.folder / "moved.json")
    server.answers[INDEX] = (302, {"Location": "/moved.json"}, b"")
    assert [listed.name for listed in listing(place_of(server.url))] == ["kind"]


def test_encryption_is_never_dropped_on_the_way() -> None:
    headers = http.client.HTTPMessage()
    headers["Location"] = "http://example.org/index.json"
    with pytest.raises(IntegrityError, match="redirects to http://, which is not followed"):
        web._Redirects().http_error_302(Request("https://example.org/index.json"), BytesIO(), 302, "", headers)


UPLOADS = {
    "read only": (405, InputError, "takes no uploads; push to a folder"),
    "unheard of": (501, InputError, "takes no uploads"),
    "not for you": (403, InputError, "not allowed"),
    "full": (507, FetchError, "answers 507"),
    "moved": (301, InputError, "has moved to http://elsewhere/"),
}


@pytest.mark.parametrize("case", UPLOADS)
@pytest.mark.parametrize("path", [f"kind/0.1.0/{WEIGHTS}", "index.json"])
def test_a_push_that_fails_publishes_nothing(server: Any, save_head: Save, case: str, path: str) -> None:
    status, kind, message = UPLOADS[case]
    save_head()
    server.refuses_put[f"shared/{path}"] = (status, {"Location": "http://elsewhere/"} if status == 301 else {})
    with pytest.raises(kind, match=message):
        push(["kind"], place_of(server.url))
    assert not (server.folder / "shared/index.json").exists()


@pytest.mark.parametrize("is_first", [True, False])
def test_a_push_of_somebody_else_in_between_is_kept(
    server: Any, save_head: Save, save_words: Save, is_first: bool
) -> None:
    save_head()
    save_words()
    if not is_first:
        push(["kind"], place_of(server.url))
        save_head(version="0.2.0", seed=1)
    server.meanwhile.append(lambda: push(["words"], place_of(server.url)))
    push(["kind"], place_of(server.url))
    assert [listed.name for listed in listing(place_of(server.url))] == ["kind", "words"]
    assert all(not checked.problem for checked in verify_place(place_of(server.url)))


def test_pushing_ends_where_the_index_never_rests(server: Any, save_head: Save, save_words: Save) -> None:
    save_head()
    for number in range(3):
        save_words(f"words{number}")
        server.meanwhile.insert(0, lambda name=f"words{number}": push([name], place_of(str(server.folder / "shared"))))
    with pytest.raises(FetchError, match="changed by others 3 times"):
        push(["kind"], place_of(server.url))
    assert [listed.name for listed in listing(place_of(server.url))] == ["words0", "words1", "words2"]


def test_pushes_to_a_folder_wait_for_each_other(tmp_path: Path, own: Store, save_words: Save) -> None:
    from concurrent.futures import ThreadPoolExecutor

    names = [f"words{number}" for number in range(8)]
    for name in names:
        save_words(name)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda name: push([name], place_of(str(tmp_path / "shared"))), names))
    assert [listed.name for listed in listing(place_of(str(tmp_path / "shared")))] == names


def test_a_password_is_sent_to_its_server_and_never_shown(server: Any, own: Store, save_head: Save) -> None:
    save_head()
    secret = server.url.replace("http://", "http://ann:s%20cret@")
    push(["kind"], place_of(secret))
    want = "Basic " + b64encode(b"ann:s cret").decode()
    assert {authorization for _, _, authorization in server.seen} == {want}
    server.seen.clear()
    server.answers[INDEX] = (302, {"Location": "/shared/elsewhere.json"}, b"")
    shown = [repr(place_of(secret)), place_of(secret).address]
    with pytest.raises(InputError) as caught:
        listing(place_of(secret))
    assert [authorization for _, _, authorization in server.seen] == [want, ""]
    assert not any("cret" in text for text in [*shown, str(caught.value)])


@pytest.mark.parametrize("secret", ["ann:pa/ss@", "ann:12/ss@", "ann:pa?ss@", "ann:pa#ss@", "ann:ss@x@", "a/b:ss@c/"])
def test_a_password_with_odd_signs_is_not_shown_either(server: Any, secret: str) -> None:
    address = server.url.replace("http://", f"http://{secret}")
    shown = []
    for url in (address, address.replace("http", "ftp")):
        try:
            place = place_of(url)
            shown.append(f"{place!r} {place.address} {place.warning}")
        except InputError as error:
            shown.append(str(error))
    assert not any("ss" in text.replace("password", "").replace("address", "") for text in shown), shown


def test_a_file_that_another_push_wrote_is_not_written_over(server: Any, own: Store, save_head: Save) -> None:
    """Two pushes of one version at once: the second comes between the first's look at the index and its files."""
    save_head()
    theirs = content(save_head(seed=1))
    save_head()

    def others() -> None:
        for name, found in theirs.items():
            path = server.folder / "shared" / "kind" / "0.1.0" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(found)

    server.meanwhile.append(others)
    with pytest.raises(InputError, match=r"another kind/0\.1\.0/factor\.json"):
        push(["kind"], place_of(server.url))
    assert content(server.folder / "shared" / "kind" / "0.1.0") == theirs
    assert not (server.folder / INDEX).exists()
    push(["kind"], place_of(server.url), replace=True)
    assert [checked.problem for checked in verify_place(place_of(server.url))] == [""]


def test_a_push_that_broke_off_is_taken_up(server: Any, own: Store, save_head: Save) -> None:
    save_head()
    server.refuses_put[INDEX] = (507, {})
    with pytest.raises(FetchError):
        push(["kind"], place_of(server.url))
    server.refuses_put.clear()
    push(["kind"], place_of(server.url))
    assert [checked.problem for checked in verify_place(place_of(server.url))] == [""]


def test_what_a_pull_supersedes_is_kept(own: Store, tmp_path: Path, save_head: Save) -> None:
    save_head()
    push(["kind"], place_of(str(tmp_path / "shared")))
    mine = content(save_head(seed=1))
    pull(["kind"], place_of(str(tmp_path / "shared")), own, replace=True)
    assert [content(path) for path in kept_versions(own, "kind").values()] == [mine]


@pytest.fixture
def mute() -> Iterator[Callable[[bytes], str]]:
    """The address of a server that accepts, says this much, and leaves it at that."""
    listeners: list[socket.socket] = []

    def open_(said: bytes) -> str:
        import threading

        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def serve() -> None:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                connection.sendall(said)
                connection.recv(2**16)
                if not said:
                    connection.recv(1)  # until the other side gives up

        threading.Thread(target=serve, daemon=True).start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield open_
    for listener in listeners:
        listener.close()


def test_silence_ends(mute: Callable[[bytes], str], own: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "TIMEOUT", 0.2)
    with pytest.raises(FetchError, match=r"no answer within 0\.2 s"):
        listing(place_of(mute(b"")))
    with pytest.raises(FetchError, match="cannot be reached"):
        listing(place_of(mute(b"220 mail.example.org ready\r\n\r\n")))


ADDRESSES = {
    "": "a store is a folder",
    "s3://bucket/x": "a store is a folder",
    "file:///tmp/x": "a store is a folder",
    "ftp://host/x": "a store is a folder",
    "http://": "shorten it",
    "https:///path": "shorten it",
    "https://host/x?y=1": "shorten it",
    "https://host/x#y": "shorten it",
    "http://host:port/": "URL of a store",
    "http://[::1/": "URL of a store",
    "hf://owner": "a hub store is",
    "hf://owner/repo/more": "a hub store is",
    "hf://../repo": "a hub store is",
    "hf://owner/re..po": "a hub store is",
    "hf://owner/repo@../x": "a hub store is",
}


@pytest.mark.parametrize("address", ADDRESSES)
def test_addresses_that_mean_nothing(address: str) -> None:
    with pytest.raises(InputError, match=ADDRESSES[address]):
        place_of(address)


@pytest.mark.parametrize(
    ("address", "is_warned"),
    [
        ("http://example.org/x", True),
        ("http://127.0.0.1.example.org/x", True),
        ("http://localhost:8000/x", False),
        ("http://127.0.0.1/x", False),
        ("http://[::1]/x", False),
        ("https://example.org/x", False),
        ("some/folder", False),
    ],
)
def test_http_to_strangers_is_warned_of(address: str, is_warned: bool) -> None:
    assert ("is not encrypted" in place_of(address).warning) == is_warned


def test_what_is_not_there_is_named(own: Store, tmp_path: Path, save_head: Save) -> None:
    save_head()
    shared = place_of(str(tmp_path / "shared"))
    with pytest.raises(InputError, match=r"has no index\.json"):
        pull(["kind"], shared, own)
    push(["kind"], shared)
    with pytest.raises(UnknownNameError, match="did you mean kind"):
        pull(["kin"], shared, own)
    for name in ("../kind", "/kind", "kind/0.1.0"):
        with pytest.raises(UnknownNameError, match="no factor in"):
            pull([name], shared, own)
    for version in ("0.2.0", "0.1", "../0.1.0"):
        with pytest.raises(UnknownNameError, match=r"there are 0\.1\.0"):
            pull(["kind"], shared, own, version=version)
    with pytest.raises(UnknownNameError, match="did you mean kind"):
        list(verify_place(shared, ["kindd"]))
    with pytest.raises(InputError, match="once"):
        push(["kind", "kind"], shared)


def test_places_that_cannot_be_written(own: Store, tmp_path: Path, save_head: Save) -> None:
    save_head()
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="cannot be written"):
        push(["kind"], place_of(str(tmp_path / "file")))
    with pytest.raises(InputError, match="holds installed factors"):
        push(["kind"], place_of(str(own.folder)))
    push(["kind"], place_of(str(tmp_path / "shared")))
    with pytest.raises(InputError, match="cannot be made"):
        pull(["kind"], place_of(str(tmp_path / "shared")), Store(tmp_path / "file"))


def test_versions_that_would_be_ambiguous_are_not_pushed(own: Store, tmp_path: Path, save_head: Save) -> None:
    card = save_head() / "factor.json"
    for version in ("01.0.0", "1.0", "1.0.0-a", f"{'9' * 5000}.0.0", "١.0.0"):
        card.write_text(json.dumps({**json.loads(card.read_text()), "version": version}))
        with pytest.raises(IntegrityError, match="version"):
            push(["kind"], place_of(str(tmp_path / "shared")))
