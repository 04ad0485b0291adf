"""How the server is set up, and how much one client may ask of it."""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Annotated

import platformdirs
from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from factorlm.errors import InputError
from factorlm.settings import Config

PLACE_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$"  # names of memories and priors
TENANT_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,63}$"  # it names a folder


class Limits(Config):
    """What is too much.

    Attributes:
        body_bytes: of a request in JSON.
        upload_bytes: of an uploaded factor.
        prompts: of one request.
        prompt_tokens: of one prompt.
        max_tokens: new tokens of one text.
        n: texts for each prompt.
        texts: of one request, over all its prompts.
        particles: of one request, over all its texts.
        factors: of one request; as many guides and memories.
        stop_strings: of one request.
        stop_characters: of a stop string.
        choices: that a text may be one of.
        language_characters: of a schema, a pattern, a grammar, or all choices.
        score_texts: of one request.
        requests_per_minute: of one key; 0 for as many as it likes.
        tokens_per_minute: read or written, of one key; 0 for as many as it likes.
        timeout_s: of one request, in seconds; what is still being written then is dropped.
        queue: texts that wait for a place before others are refused.
        max_rows: texts that are written at once.
        drain_s: seconds that requests have to finish in when the server stops.
    """

    body_bytes: PositiveInt = 1 << 20
    upload_bytes: PositiveInt = 64 << 20
    prompts: PositiveInt = 16
    prompt_tokens: PositiveInt = 8192
    max_tokens: PositiveInt = 2048
    n: PositiveInt = 16
    texts: PositiveInt = 32
    particles: PositiveInt = 256
    factors: PositiveInt = 64
    stop_strings: PositiveInt = 4
    stop_characters: PositiveInt = 256
    choices: PositiveInt = 256
    language_characters: PositiveInt = 1 << 16
    score_texts: PositiveInt = 256
    requests_per_minute: NonNegativeInt = 6000
    tokens_per_minute: NonNegativeInt = 0
    timeout_s: PositiveFloat = 600.0
    queue: NonNegativeInt = 256
    max_rows: PositiveInt = 32
    drain_s: Annotated[float, Field(ge=0)] = 30.0


class ServerSettings(Config):
    """One server.

    Attributes:
        host: address that it listens at.
        port: of that.
        state: folder of its database and of the factors of its tenants.
        memories: folders of memories that requests may name.
        priors: folders of priors that requests may name.
        log_texts: whether prompts and texts go into the log.
        limits: what is too much.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    state: Path = Field(default_factory=lambda: platformdirs.user_data_path("factorlm") / "server")
    memories: dict[str, Path] = Field(default_factory=dict)
    priors: dict[str, Path] = Field(default_factory=dict)
    log_texts: bool = False
    limits: Limits = Limits()

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the server."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @property
    def database_path(self) -> Path:
        """Where keys and feedback are kept."""
        return self.state / "server.sqlite"

    def store_folder(self, tenant: str) -> Path:
        """Where the factors of a tenant are kept.

        Raises:
            InputError: for a name that is none.
        """
        if not re.fullmatch(TENANT_PATTERN, tenant):
            raise InputError(f"a tenant is small letters, digits, - and _, got {tenant[:80]!r}; rename it")
        return self.state / "tenants" / tenant / "factors"
