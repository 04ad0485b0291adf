"""What tests of stores share: factors that are quickly made, and a web server that can be told to misbehave."""

import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch

from factorlm.factors.head import EncoderCard
from factorlm.factors.manifest import HeadSettings, LexiconSettings, Manifest
from factorlm.factors.seal import seal
from factorlm.factors.store import Store

WIDTH, RANK = 6, 2


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The user's own store, empty."""
    monkeypatch.setenv("FACTORLM_STORE", str(tmp_path / "own"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    return Store(tmp_path / "own")


@pytest.fixture
def save_head(own: Store) -> Callable[..., Path]:
    """A function that puts a sealed head into the user's own store: save_head(name, version, seed, encoder=...)."""

    def save(name: str = "kind", version: str = "0.1.0", seed: int = 0, **changes: Any) -> Path:
        generator = torch.Generator().manual_seed(seed)
        shapes = {"bias": (WIDTH,), "up": (WIDTH, RANK), "down": (RANK, WIDTH)}
        card = EncoderCard(name="tiny", fingerprint="0123456789abcdef", width=WIDTH)
        known = {"settings": HeadSettings(rank=RANK), "encoder": card, "description": "Kind [words]."}
        tensors = {key: torch.randn(*shape, generator=generator) for key, shape in shapes.items()}
        folder = own.save(Manifest(name=name, version=version, **{**known, **changes}), tensors, replace=True)
        seal(folder)
        return folder

    return save


@pytest.fixture
def save_words(own: Store) -> Callable[..., Path]:
    """A function that puts a sealed lexicon into the user's own store."""

    def save(name: str = "words", **phrases: float | None) -> Path:
        settings = LexiconSettings(phrases=phrases or {"good": 1.5, "bad": None})
        folder = own.save(Manifest(name=name, settings=settings), replace=True)
        seal(folder)
        return folder

    return save


@dataclass
class Server:
    """A web server over a folder, which can be told to misbehave."""

    folder: Path
    makes_folders: bool = True  # as nginx does; WebDAV wants MKCOL
    resets: dict[str, int] = field(default_factory=dict)  # path -> how many connections to break
    cuts: dict[str, int] = field(default_factory=dict)  # path -> how many answers to cut short
    answers: dict[str, tuple[int, dict[str, str], bytes]] = field(default_factory=dict)  # path -> an odd answer
    refuses_put: dict[str, tuple[int, dict[str, str]]] = field(default_factory=dict)
    meanwhile: list[Callable[[], object]] = field(default_factory=list)  # what others do after the index was read
    seen: list[tuple[str, str, str]] = field(default_factory=list)  # method, path, authorization
    url: str = ""


def make_handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

        def answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
                if value:
                    self.send_header(key, value)
            self.end_headers()
            self.wfile.write(body)

        def note(self) -> str:
            path = self.path.strip("/")
            server.seen.append((self.command, path, self.headers.get("Authorization", "")))
            return path

        def break_off(self) -> None:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # close is a reset
            self.close_connection = True
            self.connection.close()

        def do_GET(self) -> None:
            path = self.note()
            if server.resets.get(path, 0):
                server.resets[path] -= 1
                return self.break_off()
            if path in server.answers:
                status, headers, body = server.answers[path]
                return self.answer(status, body, headers)
            found = server.folder / path
            body = found.read_bytes() if found.is_file() else None
            if path.endswith("index.json") and server.meanwhile:
                server.meanwhile.pop()()
            if body is None:
                return self.answer(404)
            tag = {"ETag": tag_of(body)}
            if server.cuts.get(path, 0):
                server.cuts[path] -= 1
                return self.answer(200, body[:-7], {**tag, "Content-Length": str(len(body))})
            self.answer(200, body, tag)

        def do_PUT(self) -> None:
            path, body = self.note(), self.rfile.read(int(self.headers["Content-Length"]))
            found = server.folder / path
            was = tag_of(found.read_bytes()) if found.is_file() else None
            if path in server.refuses_put:
                status, headers = server.refuses_put[path]
                return self.answer(status, b"", headers)
            if self.headers.get("If-Match", was) != was or (was and self.headers.get("If-None-Match")):
                return self.answer(412)
            if not server.makes_folders and not found.parent.is_dir():
                return self.answer(409)
            found.parent.mkdir(parents=True, exist_ok=True)
            found.write_bytes(body)
            self.answer(201)

        def do_MKCOL(self) -> None:
            found = server.folder / self.note()
            if found.is_dir() or not found.parent.is_dir():
                return self.answer(405 if found.is_dir() else 409)
            found.mkdir()
            self.answer(201)

    return Handler


def tag_of(body: bytes) -> str:
    return f'"{md5(body).hexdigest()}"'


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    (tmp_path / "www").mkdir()
    found = Server(tmp_path / "www")
    with ThreadingHTTPServer(("127.0.0.1", 0), make_handler(found)) as httpd:
        httpd.daemon_threads = False
        found.url = f"http://127.0.0.1:{httpd.server_port}/shared"
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield found
        httpd.shutdown()
        thread.join()
