"""A real server: uvicorn on a free port, in a thread of this process, with the engine of one process."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from factorlm.factors.manifest import LexiconSettings, Manifest
from factorlm.factors.store import Store
from factorlm.inference import Model
from factorlm.models import CausalLM
from factorlm.models.loading import read_model
from factorlm.serving.app import create_app
from factorlm.serving.database import Database
from factorlm.serving.engine import LocalEngine
from factorlm.serving.listening import listen
from factorlm.serving.settings import Limits, ServerSettings

TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)


@dataclass(frozen=True)
class Served:
    """A server that runs.

    Attributes:
        url: where it answers.
        app: of it.
        engine: of it.
        database: of it.
        client: of it, without a key.
    """

    url: str
    app: FastAPI
    engine: LocalEngine
    database: Database
    client: httpx.Client


Serve = Callable[..., Served]


@contextmanager
def running(app: FastAPI) -> Iterator[str]:
    """The address of an application while it runs."""
    listening = listen("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=5))
    thread = threading.Thread(target=lambda: server.run(sockets=[listening]), daemon=True)
    thread.start()
    deadline = time.monotonic() + 300
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        assert time.monotonic() < deadline, "the server did not start in time"
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(300)
        listening.close()
        assert not thread.is_alive(), "the server did not stop"


@pytest.fixture(scope="session")
def chat_lm(tiny_folder: Path) -> CausalLM:
    """The tiny model, which can be talked to; no other test reads with it."""
    lm = read_model(str(tiny_folder), dtype="float32", device="cpu")
    lm.tokenizer.chat_template = TEMPLATE
    return lm


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """The server's own store, empty; factors of the shelf are for another model, but can be named."""
    monkeypatch.setenv("FACTORLM_STORE", str(tmp_path / "store"))
    return Store(tmp_path / "store")


@contextmanager
def started(served: Model, model_id: str, settings: ServerSettings) -> Iterator[Served]:
    """A server of a composition while it runs."""
    limits = settings.limits
    engine = LocalEngine(served, model_id=model_id, most_rows=limits.max_rows, most_waiting=limits.queue)
    with (
        Database(settings.database_path) as database,
        running(app := create_app(settings, engine, database)) as url,
        httpx.Client(base_url=url, timeout=300) as client,
    ):
        yield Served(url, app, engine, database, client)


@pytest.fixture
def serve(chat_lm: CausalLM, store: Store, tmp_path: Path) -> Iterator[Serve]:
    """A function that starts a server: serve(limits=Limits(...), **other settings)."""
    with ExitStack() as stack:

        def start(served: Model | None = None, model_id: str = "tiny", **settings: object) -> Served:
            chosen = ServerSettings.model_validate({"state": tmp_path / "state", "port": 0, **settings})
            return stack.enter_context(started(served or Model(chat_lm, chat_lm), model_id, chosen))

        yield start


@pytest.fixture
def server(serve: Serve) -> Served:
    """A server with limits as they are shipped."""
    return serve()


@pytest.fixture
def words(store: Store) -> Path:
    """A lexicon in the server's store; its card does not say what a strength is."""
    return store.save(Manifest(name="kind", settings=LexiconSettings(phrases={"good": 3.0, "bad": -3.0})))


__all__ = ["Limits", "Serve", "Served", "running", "started"]
