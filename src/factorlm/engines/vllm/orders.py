"""What a request to vLLM says of factors: names, exponents and hashes, never numbers of a factor or paths."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from factorlm.errors import InputError, IntegrityError
from factorlm.factors.manifest import NAME_PATTERN

KEY = "factorlm"  # in SamplingParams.extra_args, and in vllm_xargs over HTTP
MANIFEST = "factor.json"
MOST_FACTORS = 256  # of one request
SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Order:
    """One factor that a request wants.

    Attributes:
        name: of its folder in a store.
        exponent: of its weight on whole texts.
        sha256: of its factor.json, which holds those of its weights; empty takes whatever has that name now.
    """

    name: str
    exponent: float
    sha256: str = ""


def sha256_of(folder: Path) -> str:
    """What tells one version of a factor from another: the hash of its factor.json.

    Raises:
        IntegrityError: if it cannot be read.
    """
    try:
        stamp = (folder / MANIFEST).stat()
        return _hashed(folder / MANIFEST, stamp.st_mtime_ns, stamp.st_size, stamp.st_ino)
    except OSError as error:
        raise IntegrityError(
            f"{folder / MANIFEST} cannot be read: {error.strerror or error}; install it again"
        ) from None


@lru_cache(maxsize=4096)
def _hashed(file: Path, changed_ns: int, size: int, number: int) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def write_orders(orders: Iterable[Order]) -> dict[str, Any]:
    """Extra arguments of a request."""
    written = [[o.name, o.exponent, o.sha256] if o.sha256 else [o.name, o.exponent] for o in orders]
    return {KEY: json.dumps(written)} if written else {}


def read_orders(extra_args: Mapping[str, Any] | None) -> tuple[Order, ...]:
    """What the extra arguments of a request say; nothing said is no factors.

    Both forms are read: a list of [name, exponent] or [name, exponent, sha256], and an object {name: exponent}; over
    HTTP, where vLLM takes only plain values, either is written as a string of JSON.

    Raises:
        InputError: if it is neither.
    """
    said = (extra_args or {}).get(KEY)
    if said is None:
        return ()
    wanted = f'{KEY} is {{"name": exponent}} or [["name", exponent]] as JSON'
    if isinstance(said, str):
        try:
            said = json.loads(said)
        except ValueError:
            raise InputError(f"{wanted}, got {said[:80]!r}; write it as JSON") from None
    items = [list(pair) for pair in said.items()] if isinstance(said, Mapping) else said
    if not isinstance(items, (list, tuple)):
        raise InputError(f"{wanted}, got {type(said).__name__}; write it so")
    if len(items) > MOST_FACTORS:
        raise InputError(f"a request has at most {MOST_FACTORS} factors, got {len(items)}; leave some out")
    orders = tuple(_order(item, wanted) for item in items)
    names = [order.name for order in orders]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"each factor is named once, got {twice!r} twice; add its exponents")
    return orders


def _order(item: Any, wanted: str) -> Order:
    if not isinstance(item, (list, tuple)) or len(item) not in (2, 3):
        raise InputError(f"{wanted}, got {str(item)[:80]!r} in it; write it so")
    name, exponent, sha256 = item[0], item[1], item[2] if len(item) == 3 else ""
    if not isinstance(name, str) or not re.fullmatch(NAME_PATTERN, name):
        raise InputError(f"a factor's name is small letters, digits, - and _, got {str(name)[:80]!r}; check it")
    if isinstance(exponent, bool) or not isinstance(exponent, (int, float)) or not math.isfinite(exponent):
        raise InputError(f"an exponent is a finite number, got {exponent!r} for {name!r}; 1 is one posterior")
    if not isinstance(sha256, str) or not (sha256 == "" or SHA256.fullmatch(sha256)):
        raise InputError(f"a sha256 is 64 hexadecimal digits, got {str(sha256)[:80]!r} for {name!r}; leave it out")
    return Order(name, float(exponent), sha256)
