"""Shared stores on a hub, through its own client, against a small hub of our own on a socket."""

import base64
import hashlib
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from factorlm.errors import FetchError, InputError, IntegrityError
from factorlm.factors.remotes.place import place_of
from factorlm.factors.remotes.transfer import Checked, listing, pull, push, verify_place
from factorlm.factors.store import MANIFEST, WEIGHTS, Store

Save = Callable[..., Path]
Tree = dict[str, bytes]
REPOSITORY = "ann/factors"
ADDRESS = f"hf://{REPOSITORY}"
NOT_THERE = {"X-Error-Code": "RepoNotFound"}


@dataclass
class Hub:
    """Repositories with branches of commits; just the routes that reading and one-commit pushes need."""

    trees: dict[str, Tree] = field(default_factory=dict)  # by commit
    branches: dict[str, dict[str, str]] = field(default_factory=dict)  # repository -> branch -> commit
    large: Tree = field(default_factory=dict)  # large files that were uploaded, by sha256
    has_large: bool = False  # whether weights are uploaded apart, as on the public hub
    announced: dict[str, str] = field(default_factory=dict)  # path -> length to announce
    refuses: tuple[str, int] | None = None  # a part of a route, and its status
    meanwhile: list[Callable[[], object]] = field(default_factory=list)  # what others do before the next commit
    messages: list[str] = field(default_factory=list)
    url: str = ""

    def commit(self, repository: str, branch: str, tree: Tree) -> str:
        content = json.dumps([repository, branch, len(self.trees), sorted(tree)])
        number = hashlib.sha1(f"{self.url}{content}".encode()).hexdigest()
        self.trees[number] = tree
        self.branches.setdefault(repository, {})[branch] = number
        return number

    def head(self, repository: str, revision: str) -> str | None:
        found = self.branches.get(repository, {}).get(revision)
        return found or (revision if revision in self.trees else None)


def make_handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

        def answer(self, status: int, body: Any = b"", **headers: str) -> None:
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            named = {key.replace("_", "-"): value for key, value in headers.items()}
            self.send_response(status)
            for key, value in {
                "Content-Length": str(len(content)),
                "Content-Type": "application/json",
                **named,
            }.items():
                if value:
                    self.send_header(key, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def body(self) -> bytes:
            return self.rfile.read(int(self.headers["Content-Length"]))

        def route(self) -> list[str]:
            path = urlsplit(self.path).path
            if hub.refuses and hub.refuses[0] in path:
                self.answer(hub.refuses[1])
                return []
            return [unquote(part) for part in path.strip("/").split("/")]

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            match self.route():
                case []:
                    pass
                case ["api", "models", owner, name, *rest]:
                    self.about(f"{owner}/{name}", rest)
                case [owner, name, "resolve", commit, *path]:
                    self.resolve(f"{owner}/{name}", commit, "/".join(path))
                case _:
                    self.answer(404)

        def about(self, repository: str, rest: list[str]) -> None:
            if repository not in hub.branches:
                return self.answer(404, **NOT_THERE)
            commit = hub.head(repository, rest[1] if len(rest) > 1 else "main")
            if commit is None:
                return self.answer(404, X_Error_Code="RevisionNotFound")
            if rest and rest[0] == "tree":
                prefix = "/".join(rest[2:]) + "/"
                found = {path: content for path, content in hub.trees[commit].items() if path.startswith(prefix)}
                if not found:
                    return self.answer(404, X_Error_Code="EntryNotFound")
                return self.answer(
                    200, [{"type": "file", "path": p, "size": len(c), "oid": "0" * 40} for p, c in found.items()]
                )
            return self.answer(200, {"id": repository, "sha": commit})

        def resolve(self, repository: str, commit: str, path: str) -> None:
            content = hub.trees[commit].get(path)
            if content is None:
                return self.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
            length = hub.announced.get(path, str(len(content))) if self.command == "HEAD" else str(len(content))
            tag = '"' + hashlib.sha256(content).hexdigest() + '"'
            return self.answer(200, content, ETag=tag, X_Repo_Commit=commit, Content_Length=length)

        def do_POST(self) -> None:
            match self.route():
                case []:
                    pass
                case ["api", "repos", "create"]:
                    wanted = json.loads(self.body())
                    repository = f"{wanted['organization']}/{wanted['name']}"
                    if repository not in hub.branches:
                        hub.commit(repository, "main", {".gitattributes": b""})
                    self.answer(200, {"url": f"{hub.url}/{repository}"})
                case ["api", "models", _, _, "preupload", _]:
                    paths = [file["path"] for file in json.loads(self.body())["files"]]
                    large = {path: hub.has_large and path.endswith(".safetensors") for path in paths}
                    modes = {path: "lfs" if large[path] else "regular" for path in paths}
                    self.answer(
                        200, {"files": [{"path": p, "uploadMode": m, "shouldIgnore": False} for p, m in modes.items()]}
                    )
                case [_, _, "info", "lfs", "objects", "batch"]:
                    found = json.loads(self.body())["objects"]
                    action = [{**o, "actions": {"upload": {"href": f"{hub.url}/large/{o['oid']}"}}} for o in found]
                    self.answer(200, {"objects": action, "transfer": "basic"})
                case ["api", "models", owner, name, "commit", branch]:
                    self.commit(f"{owner}/{name}", branch, [json.loads(line) for line in self.body().splitlines()])
                case _:
                    self.answer(404)

        def commit(self, repository: str, branch: str, lines: list[dict[str, Any]]) -> None:
            if hub.meanwhile:
                hub.meanwhile.pop()()
            header, *changes = lines
            parent = hub.branches[repository][branch]
            if header["value"]["parentCommit"] != parent:
                return self.answer(412)
            tree = dict(hub.trees[parent])
            for change in changes:
                value = change["value"]
                is_large = change["key"] == "lfsFile"
                tree[value["path"]] = hub.large[value["oid"]] if is_large else base64.b64decode(value["content"])
            hub.messages.append(header["value"]["summary"])
            number = hub.commit(repository, branch, tree)
            return self.answer(200, {"commitUrl": f"{hub.url}/{repository}/commit/{number}", "commitOid": number})

        def do_PUT(self) -> None:
            match self.route():
                case ["large", digest]:
                    hub.large[digest] = self.body()
                    self.answer(200)
                case _:
                    self.answer(404)

    return Handler


@pytest.fixture
def hub(own: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    from huggingface_hub import constants

    found = Hub()
    with ThreadingHTTPServer(("127.0.0.1", 0), make_handler(found)) as httpd:
        found.url = f"http://127.0.0.1:{httpd.server_port}"
        monkeypatch.setenv("HF_ENDPOINT", found.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))  # nobody's token goes to a test
        monkeypatch.delenv("HF_TOKEN", raising=False)
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield found
        httpd.shutdown()
        thread.join()


def content(folder: Path) -> Tree:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # within the hub's client
@pytest.mark.parametrize("has_large", [False, True])
def test_what_is_pushed_comes_back_bit_identical(
    hub: Hub, own: Store, tmp_path: Path, save_head: Save, save_words: Save, has_large: bool
) -> None:
    hub.has_large = has_large
    first = content(save_head())
    words = content(save_words())
    moved = push(["kind", "words"], place_of(ADDRESS))
    assert [(m.name, m.was_there) for m in moved] == [("kind", False), ("words", False)]
    assert hub.messages == ["Push kind/0.1.0, words/0.1.0"], "one commit"
    assert bool(hub.large) == has_large
    second = content(save_head(version="0.2.0", seed=1))
    push(["kind"], place_of(ADDRESS))
    assert [(m.name, m.was_there) for m in push(["kind"], place_of(ADDRESS))] == [("kind", True)]
    assert len(hub.messages) == 2, "the same again is no commit"
    assert {listed.name: listed.versions for listed in listing(place_of(ADDRESS))} == {
        "kind": ("0.2.0", "0.1.0"),
        "words": ("0.1.0",),
    }
    other = Store(tmp_path / "other")
    pull(["kind", "words"], place_of(ADDRESS), other)
    assert (content(other.folder / "kind"), content(other.folder / "words")) == (second, words)
    pull(["kind"], place_of(ADDRESS), other, version="0.1.0", replace=True)
    assert content(other.folder / "kind") == first
    want = [Checked("kind", "0.2.0"), Checked("kind", "0.1.0"), Checked("words", "0.1.0")]
    assert list(verify_place(place_of(ADDRESS))) == want


def test_a_revision_can_be_named(hub: Hub, own: Store, tmp_path: Path, save_head: Save) -> None:
    save_head()
    push(["kind"], place_of(ADDRESS))
    before = hub.branches[REPOSITORY]["main"]
    hub.branches[REPOSITORY]["trial"] = before
    save_head(version="0.2.0", seed=1)
    push(["kind"], place_of(f"{ADDRESS}@trial"))
    versions = {
        revision: listing(place_of(ADDRESS + revision))[0].versions for revision in ("", "@trial", f"@{before}")
    }
    assert versions == {"": ("0.1.0",), "@trial": ("0.2.0", "0.1.0"), f"@{before}": ("0.1.0",)}
    for go in (lambda place: listing(place), lambda place: push(["kind"], place)):
        with pytest.raises(InputError, match="no branch, tag or commit 'no/such'"):
            go(place_of(f"{ADDRESS}@no/such"))


def test_other_bytes_need_leave(hub: Hub, own: Store, tmp_path: Path, save_head: Save) -> None:
    save_head()
    push(["kind"], place_of(ADDRESS))
    want = content(save_head(seed=1))
    with pytest.raises(InputError, match=r"another kind 0\.1\.0"):
        push(["kind"], place_of(ADDRESS))
    push(["kind"], place_of(ADDRESS), replace=True)
    other = Store(tmp_path / "other")
    pull(["kind"], place_of(ADDRESS), other)
    assert content(other.folder / "kind") == want


def test_a_push_of_somebody_else_in_between_is_kept(hub: Hub, save_head: Save, save_words: Save) -> None:
    save_head()
    save_words()
    hub.meanwhile.append(lambda: push(["words"], place_of(ADDRESS)))
    push(["kind"], place_of(ADDRESS))
    assert [listed.name for listed in listing(place_of(ADDRESS))] == ["kind", "words"]


def test_one_reading_sees_one_commit(hub: Hub, own: Store, tmp_path: Path, save_head: Save) -> None:
    want = content(save_head())
    push(["kind"], place_of(ADDRESS))
    reader = place_of(ADDRESS)
    listing(reader)
    save_head(seed=1)
    push(["kind"], place_of(ADDRESS), replace=True)
    other = Store(tmp_path / "other")
    pull(["kind"], reader, other)
    assert content(other.folder / "kind") == want


def changed(hub: Hub, path: str, change: Callable[[bytes], bytes]) -> None:
    tree = hub.trees[hub.branches[REPOSITORY]["main"]]
    tree[path] = change(tree[path])


DAMAGE: dict[str, tuple[Callable[[Hub], object], str]] = {
    "flipped weights": (
        lambda hub: changed(hub, f"kind/0.1.0/{WEIGHTS}", lambda c: c[:-1] + bytes([c[-1] ^ 1])),
        "weights.safetensors is corrupted",
    ),
    "a flipped manifest": (
        lambda hub: changed(hub, f"kind/0.1.0/{MANIFEST}", lambda c: c.replace(b"Kind", b"Rude")),
        "factor.json is corrupted",
    ),
    "an index of nonsense": (lambda hub: changed(hub, "index.json", lambda c: c[:-9]), "index.json cannot be used"),
    "a missing file": (
        lambda hub: hub.trees[hub.branches[REPOSITORY]["main"]].pop(f"kind/0.1.0/{WEIGHTS}"),
        "which its index.json needs",
    ),
    "an index that is too long": (
        lambda hub: hub.announced.update({"index.json": str(10**9)}),
        "too large: at most 16,777,216 bytes are read, got 1,000,000,000",
    ),
    "weights that are too long": (
        lambda hub: hub.announced.update({f"kind/0.1.0/{WEIGHTS}": str(10**9)}),
        "too large: at most .* got 1,000,000,000",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_bad_repository_installs_nothing(hub: Hub, own: Store, save_head: Save, case: str) -> None:
    damage, message = DAMAGE[case]
    save_head()
    push(["kind"], place_of(ADDRESS))
    shutil.rmtree(own.folder)
    damage(hub)
    with pytest.raises(IntegrityError, match=message):
        pull(["kind"], place_of(ADDRESS), own)
    assert not own.folder.exists() or not any(own.folder.iterdir())


def test_a_stranger_in_a_repository_is_found(hub: Hub, save_head: Save) -> None:
    save_head()
    push(["kind"], place_of(ADDRESS))
    hub.trees[hub.branches[REPOSITORY]["main"]]["kind/0.1.0/evil.pkl"] = b"\x80\x04."
    [checked] = verify_place(place_of(ADDRESS))
    assert "does not name: evil.pkl" in checked.problem


REFUSALS: dict[str, tuple[tuple[str, int], type[Exception], str]] = {
    "no leave to commit": (("/commit/", 403), InputError, "answers 403: not allowed; log in with hf auth login"),
    "no leave to make": (("/api/repos/create", 403), InputError, "not allowed; log in"),
    "no leave for large files": (("/large/", 403), InputError, "answers 403: not allowed"),
    "an error": (("/commit/", 500), FetchError, "the hub answers 500"),
}


@pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")  # within the hub's client
@pytest.mark.parametrize("case", REFUSALS)
def test_a_hub_that_refuses_ends_in_one_line(hub: Hub, save_head: Save, case: str) -> None:
    refuses, kind, message = REFUSALS[case]
    hub.refuses, hub.has_large = refuses, True
    save_head()
    with pytest.raises(kind, match=message) as caught:
        push(["kind"], place_of(ADDRESS))
    assert "\n" not in str(caught.value)


def test_a_repository_that_is_not_there(hub: Hub, own: Store) -> None:
    with pytest.raises(InputError, match=r"has no index\.json"):
        pull(["kind"], place_of(ADDRESS), own)
    with pytest.raises(InputError, match="no name of a repository"):
        listing(place_of("hf://ann/fac--tors"))


def test_a_hub_that_cannot_be_reached(hub: Hub, own: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(FetchError, match="cannot be reached") as caught:
        pull(["kind"], place_of(ADDRESS), own)
    assert "\n" not in str(caught.value)


def test_offline_means_offline(own: Store) -> None:
    from huggingface_hub import constants

    assert constants.HF_HUB_OFFLINE
    with pytest.raises(FetchError, match="HF_HUB_OFFLINE is set; unset it"):
        listing(place_of(ADDRESS))


def test_an_endpoint_without_encryption_is_warned_of(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    assert place_of(ADDRESS).warning == ""
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.example.org")
    assert "is not encrypted" in place_of(ADDRESS).warning
