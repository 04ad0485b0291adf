"""factorlm serve: an OpenAI-compatible server with factors, and a page to mix them on."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from factorlm.cli import keys

if TYPE_CHECKING:
    import socket

    from factorlm.models import CausalLM
    from factorlm.serving.jobs import Engine
    from factorlm.serving.settings import ServerSettings

ENGINES = ("local", "vllm")
KEEP_ALIVE_S = 75  # longer than clients keep idle connections: else one is closed just as its next request comes
NEEDED = ("fastapi", "uvicorn", "sqlalchemy", "prometheus_client", "python_multipart")  # the extra "serve"

app = typer.Typer(invoke_without_command=True)
app.add_typer(keys.app, name="keys", help="Make, list and revoke the keys of clients.")


@app.callback()
def serve(
    context: typer.Context,
    model: Annotated[
        str, typer.Option("--model", help="A name, folder or hub name, or an expression such as 'smollm2 / toxic'.")
    ] = "smollm2",
    name: Annotated[str, typer.Option("--name", help="What clients call the model; its own name by default.")] = "",
    host: Annotated[str, typer.Option("--host", help="Address to listen at; others than this machine need keys.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port; 0 takes a free one.")] = 8000,
    state: Annotated[
        Path | None, typer.Option("--state", help="Folder of keys, feedback and factors of clients.")
    ] = None,
    memory: Annotated[list[str], typer.Option("--memory", help="NAME=FOLDER of a memory that may be named.")] = [],  # noqa: B006
    prior: Annotated[list[str], typer.Option("--prior", help="NAME=FOLDER of a prior that may be named.")] = [],  # noqa: B006
    dtype: Annotated[str, typer.Option("--dtype", help="Number format: auto, float32 or bfloat16.")] = "auto",
    max_rows: Annotated[int, typer.Option("--max-rows", min=1, help="Texts written at once.")] = 32,
    queue: Annotated[int, typer.Option("--queue", min=0, help="Texts that may wait; more are refused.")] = 256,
    engine: Annotated[str, typer.Option("--engine", help="What writes: local (this process) or vllm.")] = "local",
    limits: Annotated[
        list[str],
        typer.Option("--set", help="KEY=VALUE of the limits, such as timeout_s=60 or requests_per_minute=60."),
    ] = [],  # noqa: B006
    log_texts: Annotated[bool, typer.Option("--log-texts", help="Write prompts and texts into the log.")] = False,
) -> None:
    """Serve a model to OpenAI's clients, and a page to mix factors on in a browser.

    Example: factorlm serve --port 8000, and then curl http://127.0.0.1:8000/v1/models
    """
    if context.invoked_subcommand is not None:
        return
    from factorlm.errors import InputError, UnknownNameError
    from factorlm.settings import changed

    missing = [module for module in NEEDED if importlib.util.find_spec(module) is None]
    if missing:
        raise InputError(
            f"serving needs the extra \"serve\", of which {missing[0]} is missing; pip install 'factorlm[serve]'"
        )
    if engine not in ENGINES:
        raise UnknownNameError.of("engine", engine, ENGINES)
    from factorlm.serving.database import Database
    from factorlm.serving.listening import listen
    from factorlm.serving.settings import Limits, ServerSettings

    most = changed(Limits(max_rows=max_rows, queue=queue), None, limits)
    settings = ServerSettings(
        host=host,
        port=port,
        memories=_memories(memory),
        priors=_priors(prior),
        log_texts=log_texts,
        limits=most,
        **({} if state is None else {"state": state.absolute()}),
    )
    listening = listen(host, port)
    with listening, Database(settings.database_path) as database:
        if not settings.is_loopback and not database.has_keys():
            raise InputError(
                f"a server that other machines reach needs a key, got --host {host} and none; make one with factorlm "
                "serve keys create, or leave out --host"
            )
        made = _local(model, name, dtype, most) if engine == "local" else _vllm(model, name, dtype, settings)
        writer, make_lm = made
        _run(settings, writer, make_lm, database, listening)


def _run(
    settings: ServerSettings,
    engine: Engine,
    make_lm: Callable[[], CausalLM] | None,
    database: Any,
    listening: socket.socket,
) -> None:
    import logging
    import signal

    import uvicorn

    from factorlm.cli.terminal import notes
    from factorlm.serving.app import create_app
    from factorlm.serving.listening import BACKLOG

    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("factorlm.serving").setLevel(logging.INFO)
    signal.signal(signal.SIGTERM, _end)  # uvicorn raises it again when all is drained
    host, port = listening.getsockname()[:2]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    server = uvicorn.Server(
        uvicorn.Config(
            create_app(settings, engine, database, make_lm),
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=max(1, round(settings.limits.drain_s)),
            backlog=BACKLOG,
        )
    )
    notes.print(f"{engine.model_id} answers at {url}/v1, the page is {url}/", soft_wrap=True, markup=False)
    server.run(sockets=[listening])


def _end(number: int, frame: object) -> None:
    raise SystemExit(0)


def _local(model: str, name: str, dtype: str, limits: Any) -> tuple[Engine, None]:
    from factorlm.inference.expression import compose
    from factorlm.serving.engine import LocalEngine

    composed = compose(model, dtype=dtype)
    served = composed.model
    if Path(model).is_dir():
        served.lm.name = Path(model).resolve().name  # clients need not know where it is
    known_as = name or (served.lm.name if Path(model).is_dir() else composed.expression)
    return LocalEngine(served, model_id=known_as, most_rows=limits.max_rows, most_waiting=limits.queue), None


def _vllm(model: str, name: str, dtype: str, server: ServerSettings) -> tuple[Engine, Callable[[], CausalLM]]:
    from pydantic import ValidationError

    from factorlm.cli.terminal import notes
    from factorlm.engines.vllm.engine import VllmEngine
    from factorlm.engines.vllm.settings import VllmSettings
    from factorlm.factors.store import default_stores
    from factorlm.models.loading import load_model
    from factorlm.serving.jobs import OverloadedError, Piece
    from factorlm.settings import explain_validation

    limits = server.limits
    stores = (str(server.state / "tenants" / "*" / "factors"), *(str(store.folder) for store in default_stores()))
    wanted = {
        "model": model,
        "dtype": dtype,
        "most_rows": limits.max_rows,
        "most_waiting": limits.queue,
        "stores": stores,
    }
    try:
        settings = VllmSettings.model_validate(wanted)
    except ValidationError as error:
        raise explain_validation(error, "vLLM's settings") from None
    notes.print("vLLM is starting, which takes a while")
    known_as = name or (Path(model).resolve().name if Path(model).is_dir() else model)
    made = VllmEngine(settings, make_piece=Piece, overloaded=OverloadedError, model_id=known_as)
    return made, lambda: load_model(model, dtype=dtype).twin()


def _places(option: str, given: list[str]) -> dict[str, Path]:
    """Folders by name."""
    import re

    from factorlm.errors import InputError
    from factorlm.serving.settings import PLACE_PATTERN

    found: dict[str, Path] = {}
    for text in given:
        name, sign, place = text.partition("=")
        if not sign or not place or not re.fullmatch(PLACE_PATTERN, name) or name in found:
            raise InputError(f"each {option} is given once as NAME=FOLDER, got {text!r}; such as wiki=indices/wiki")
        found[name] = Path(place).absolute()
    return found


def _memories(given: list[str]) -> dict[str, Path]:
    from factorlm.inference.memory_names import parted
    from factorlm.memory.card import MemoryCardMarks, read_card

    found = _places("--memory", given)
    for folder in found.values():
        read_card(parted(folder)[0], MemoryCardMarks)
    return found


def _priors(given: list[str]) -> dict[str, Path]:
    from factorlm.prior.files import read_manifest

    found = _places("--prior", given)
    for folder in found.values():
        read_manifest(folder)
    return found
