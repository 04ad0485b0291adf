"""A process that reads a model once and gives birth to a server at each line of its input, one after the other.

Each server is a process of its own with the real application, engine and database, born in a moment because nothing
need be imported again. What is printed: {"pid": ..., "port": ...} by each server, {"status": ...} after its end.
"""

import json
import os
import socket
import sys
from pathlib import Path

import uvicorn

from factorlm.factors import word_effect  # noqa: F401  # imported once, too
from factorlm.factors.calibration import neutral_states
from factorlm.factors.named import lexicon
from factorlm.inference import Model
from factorlm.models import CausalLM
from factorlm.models.loading import read_model
from factorlm.serving.app import create_app
from factorlm.serving.database import Database
from factorlm.serving.engine import LocalEngine
from factorlm.serving.settings import Limits, ServerSettings


def serve(model: Model, reader: CausalLM, state: Path) -> None:
    settings = ServerSettings(state=state, limits=Limits(requests_per_minute=0))
    listening = socket.create_server(("127.0.0.1", 0))
    with Database(settings.database_path) as database:
        app = create_app(settings, LocalEngine(model, model_id="tiny"), database, lambda: reader)
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False))
        print(json.dumps({"pid": os.getpid(), "port": listening.getsockname()[1]}), flush=True)
        server.run(sockets=[listening])


def main(folder: str, state: str) -> None:
    lm = read_model(folder, dtype="float32", device="cpu")
    reader = lm.twin()
    reader.fingerprint, neutral_states(reader), lexicon(["good"]).bind(reader)  # kept for all that are born
    for _ in sys.stdin:
        pid = os.fork()
        if pid == 0:
            serve(Model(lm, lm), reader, Path(state))
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        print(json.dumps({"status": os.waitstatus_to_exitcode(status)}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
