"""Where shared factors are kept: what every kind of place can do, and which kind an address means."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol
from urllib.parse import urlsplit

from factorlm.errors import InputError, IntegrityError

MAX_BYTES = 256 * 2**20  # of one version
MAX_INDEX_BYTES = 16 * 2**20
MAX_TRIES = 3  # at an index that others change at the same time


@dataclass(frozen=True)
class Publication:
    """What a push writes.

    Attributes:
        folders: by "NAME/VERSION", the files of that folder: name and content.
        index: the new index.json.
        message: one line for a history.
        replace: whether files that are there may be written over, if they are not the same.
    """

    folders: Mapping[str, Mapping[str, bytes]]
    index: bytes
    message: str
    replace: bool = False


Plan = Callable[[bytes | None], Publication | None]  # from the index.json that is there to what to write, if anything


class Place(Protocol):
    """A shared store. Paths are relative, with /, and made of checked names only."""

    @property
    def address(self) -> str:
        """As shown to people, without secrets."""

    @property
    def warning(self) -> str:
        """What people should know before they trust it; empty if nothing."""

    def get(self, path: str, into: BinaryIO, limit: int) -> bool:
        """Write a file into an empty open file; False where the place has no such file.

        Raises:
            IntegrityError: if it is longer than `limit` bytes, announced or found.
            FetchError: if it cannot be reached or does not answer.
        """

    def names(self, folder: str) -> list[str] | None:
        """What lies in a folder; None where the place cannot tell."""

    def publish(self, plan: Plan) -> None:
        """Write what the plan says, the index last; if the index changes meanwhile, ask the plan again.

        Raises:
            InputError: if the place cannot be written.
            FetchError: if it cannot be reached or does not answer.
        """


def place_of(address: str) -> Place:
    """The shared store at an address.

    Args:
        address: a folder, an http(s) URL, or hf://owner/repository, with @revision or not.

    Raises:
        InputError: if it is nothing of that.
    """
    from factorlm.factors.remotes.folder import FolderPlace
    from factorlm.factors.remotes.hub import HubPlace
    from factorlm.factors.remotes.web import WebPlace

    schemes: dict[str, Callable[[str], Place]] = {
        "http": WebPlace.at,
        "https": WebPlace.at,
        "hf": HubPlace.at,
    }
    scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", address)
    if scheme is None and address.strip():
        return FolderPlace(Path(address).expanduser())
    if scheme is None or scheme[1].lower() not in schemes:
        raise InputError(
            f"a store is a folder, an http(s) URL or hf://owner/repository, got {without_secrets(address)!r}"
        )
    return schemes[scheme[1].lower()](address)


def without_secrets(address: str) -> str:
    """A URL for people: without all that a user name and a password could be, however oddly they are written."""
    scheme, _, rest = address.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"


def insecurity(url: str) -> str:
    """What to say of a URL that is not encrypted; nothing if it is, or if the server is this machine."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        is_local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_local = host == "localhost" or host.endswith(".localhost")
    if parts.scheme == "https" or is_local:
        return ""
    return f"{url} is not encrypted: what goes there or comes back can be changed on the way; use https if you can"


def check_size(num_bytes: int, limit: int, what: str) -> None:
    """Refuse what is longer than allowed.

    Raises:
        IntegrityError: naming it and both sizes.
    """
    if num_bytes > limit:
        raise IntegrityError(f"{what} is too large: at most {limit:,} bytes are read, got {num_bytes:,}; not fetched")


def copy_limited(read: Callable[[int], bytes], into: BinaryIO, limit: int, what: str) -> int:
    """Copy at most `limit` bytes and give their number.

    Raises:
        IntegrityError: as soon as there are more.
    """
    num_bytes = 0
    while piece := read(2**16):
        num_bytes += len(piece)
        check_size(num_bytes, limit, what)
        into.write(piece)
    return num_bytes
