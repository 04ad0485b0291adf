"""Factors that strangers send: read no further than allowed, checked to the last number, and kept whole or not at all.

Nothing that comes in is ever unpickled, unzipped or taken as a path. A factor is checked in a folder outside every
store; only then does it take its place in its tenant's store, and what was there before is kept among the versions.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect

from factorlm.errors import FactorlmError, IncompatibleError, InputError, IntegrityError
from factorlm.factors.manifest import ContrastSettings, HeadSettings, LexiconSettings, Manifest, PromptSettings
from factorlm.factors.remotes.inspection import check_files, check_wanted, inspect
from factorlm.factors.seal import digest_of, seal
from factorlm.factors.store import MANIFEST, MAX_CARD_BYTES, WEIGHTS, Store, read_manifest
from factorlm.factors.versions import keep
from factorlm.files import write_whole_folder
from factorlm.serving.complaints import RefusedError
from factorlm.serving.stores import RESERVED, Stores

if TYPE_CHECKING:
    from factorlm.factors.head import EncoderCard

Served = Callable[[], "EncoderCard"]

PARTS = (MANIFEST, WEIGHTS)
MOST_HEADER_BYTES = 1 << 16  # of a safetensors file: three tensors need some hundred
NUMBERS = {"F32": 4, "F16": 2, "BF16": 2}  # formats of weights, and bytes of each number
LARGEST_WEIGHT = 1e6  # beyond that a step of the engine could overflow, and no trained head comes near
LONGEST_INSTRUCTION = 16_384  # characters
SIGNS = {
    b"PK": "a zip archive",
    b"\x80": "a pickle, which can run code",
    b"\x1f\x8b": "a gzip archive",
    b"BZh": "a bzip2 archive",
    b"\xfd7zXZ": "an xz archive",
    b"\x28\xb5\x2f\xfd": "a zstd archive",
    b"7z\xbc\xaf": "a 7z archive",
    b"Rar!": "a rar archive",
    b"\x89HDF": "an HDF5 file",
    b"GGUF": "a GGUF file",
    b"\x93NUMPY": "a numpy array",
}


@dataclass(frozen=True)
class Kept:
    """A factor that has its place now.

    Attributes:
        manifest: its card.
        sha256: of its factor.json.
        before: the version that it took the place of, which is kept; empty if there was none.
        is_new: whether there was nothing, or something else, of that name.
    """

    manifest: Manifest
    sha256: str
    before: str
    is_new: bool


async def read_parts(headers: Headers, stream: AsyncIterator[bytes], most_bytes: int) -> dict[str, UploadFile]:
    """The files of a multipart body, each kept on disk once it is large.

    Args:
        headers: of the request.
        stream: its body.
        most_bytes: of the body.

    Raises:
        RefusedError: 415 for another kind of body, 413 for one that is too large, 400 for other parts than PARTS.
    """
    if headers.get("content-encoding", "identity").lower() not in ("", "identity"):
        raise RefusedError(415, f"a body that is not compressed is needed, got {headers['content-encoding'][:40]!r}")
    kind = headers.get("content-type", "")
    if kind.partition(";")[0].strip().lower() != "multipart/form-data" or "boundary=" not in kind.lower():
        raise RefusedError(
            415, f"multipart/form-data with {' and '.join(PARTS)} is needed, got {kind[:40]!r}; curl -F sends it"
        )

    async def bounded() -> AsyncIterator[bytes]:
        size = 0
        async for chunk in stream:
            size += len(chunk)
            if size > most_bytes:
                raise RefusedError(413, f"an upload has at most {most_bytes:,} bytes, got more; send less")
            yield chunk

    parser = MultiPartParser(headers, bounded(), max_files=len(PARTS), max_fields=0)  # type: ignore[arg-type]
    try:
        form = await parser.parse()
    except ClientDisconnect:  # or the gate hung up on it
        raise RefusedError(413, f"an upload has at most {most_bytes:,} bytes, or was cut off; send it again") from None
    except (MultiPartException, KeyError, UnicodeDecodeError) as error:
        said = getattr(error, "message", None) or str(error)
        raise RefusedError(
            400, f"two files, {' and '.join(PARTS)}, are needed as multipart/form-data: {said}"
        ) from None
    found: dict[str, UploadFile] = {}
    # The parser leaves out of the form what the body breaks off in, and leaves its file open.
    opened = list(getattr(parser, "_files_to_close_on_error", ()))
    try:
        if len(opened) > len(form.multi_items()):
            raise RefusedError(400, "the body ends in the middle of a file; send it again")
        for name, part in form.multi_items():
            if name not in PARTS or name in found or not isinstance(part, UploadFile):
                raise RefusedError(400, f"each of {' and '.join(PARTS)} is sent once, as a file, got {name[:80]!r}")
            found[name] = part
        if MANIFEST not in found:
            raise RefusedError(400, f"{MANIFEST} is needed, got none; send it as a file of that name")
    except RefusedError:
        await form.close()
        for file in opened:
            file.close()
        raise
    return found


def keep_upload(stores: Stores, tenant: str, name: str, parts: Mapping[str, IO[bytes]], served: Served) -> Kept:
    """Check a factor and give it its place in a tenant's store.

    Args:
        stores: of the server.
        tenant: whose it is.
        name: that it is sent to.
        parts: its files by name, of PARTS.
        served: gives the card of the served model, for which heads must be made.

    Raises:
        FactorlmError: in one line, if anything is not as it must be; nothing is left of it then.
    """
    if name in RESERVED:
        raise InputError(f"a factor cannot be named {name!r}, which has a meaning in paths; choose another name")
    with stores.incoming() as folder:
        try:
            manifest = _checked(folder, name, parts, served)
        except FactorlmError as error:  # the folder is gone when this is read
            said = str(error).replace(f"{folder}/", "").replace(str(folder), name)
            error.args = (said.replace("install the factor again", "send it again"),)
            raise
        with stores.changing(tenant) as store:
            return _place(stores, tenant, store, manifest, folder)


def _checked(folder: Path, name: str, parts: Mapping[str, IO[bytes]], served: Served) -> Manifest:
    """The card of a factor whose files now lie in an empty folder, sealed."""
    _copy(parts[MANIFEST], folder / MANIFEST, MAX_CARD_BYTES)
    refuse_signs(folder / MANIFEST)
    manifest = read_manifest(folder)
    if manifest.name != name:
        raise InputError(f"the factor is sent to {name!r}, and its {MANIFEST} says {manifest.name!r}; make them one")
    check_wanted(MANIFEST, manifest)
    if (WEIGHTS in manifest.files) != (WEIGHTS in parts):
        has = "has" if WEIGHTS in manifest.files else "does not have"
        raise InputError(f"{MANIFEST} {has} the sha256 of {WEIGHTS}, got {len(parts)} files; send what it names")
    _check_settings(manifest, served)
    if WEIGHTS in parts:
        _copy(parts[WEIGHTS], folder / WEIGHTS, None)
        refuse_signs(folder / WEIGHTS)
        check_header(folder / WEIGHTS, _shapes(manifest))
    check_files(folder, manifest)
    seal(folder)
    inspect(folder)
    if WEIGHTS in parts:
        _check_numbers(folder / WEIGHTS)
    return manifest


def _check_settings(manifest: Manifest, served: Served) -> None:
    """What the kind of a factor must have before its numbers are looked at."""
    match manifest.settings:
        case HeadSettings(rank=rank):
            card, encoder = manifest.encoder, served()
            if card is None or card.fingerprint != encoder.fingerprint or card.width != encoder.width:
                made_for = "none" if card is None else f"{card.name} ({card.fingerprint}), {card.width} wide"
                raise IncompatibleError(
                    f"a head for the served encoder {encoder.name} ({encoder.fingerprint}), {encoder.width} wide, is "
                    f"needed, got one for {made_for}; train it for this one"
                )
            if rank > encoder.width:
                raise InputError(f"a rank of at most the width {encoder.width} is needed, got {rank}")
            if WEIGHTS not in manifest.files:
                raise IntegrityError(f"{MANIFEST} has no sha256 of {WEIGHTS}, which a head needs; add it")
        case LexiconSettings(phrases=phrases):
            for phrase, nats in phrases.items():
                if nats is not None and not abs(nats) <= LARGEST_WEIGHT:
                    raise InputError(
                        f"boosts up to {LARGEST_WEIGHT:,.0f} nats are needed, got {nats:g} for {phrase[:40]!r}"
                    )
        case ContrastSettings():
            raise InputError(
                f"{manifest.name} names other models, which are not loaded on a stranger's word; whoever runs the "
                "server can install it"
            )
        case PromptSettings(instruction=instruction) if len(instruction) > LONGEST_INSTRUCTION:
            raise InputError(
                f"an instruction has at most {LONGEST_INSTRUCTION:,} characters, got {len(instruction):,}; shorten it"
            )
    if manifest.kind != "head" and manifest.files:
        raise InputError(f"a {manifest.kind} has no weights, got {', '.join(manifest.files)}; leave them out")


def _shapes(manifest: Manifest) -> dict[str, tuple[int, ...]]:
    """What the weights of a head must be."""
    assert manifest.encoder is not None
    assert isinstance(manifest.settings, HeadSettings)
    width, rank = manifest.encoder.width, manifest.settings.rank
    return {"bias": (width,), "up": (width, rank), "down": (rank, width)}


def refuse_signs(path: Path) -> None:
    """Raise IntegrityError for a file that begins like something that can be unpacked or can run."""
    with path.open("rb") as file:
        start = file.read(264)
    kind = next((what for sign, what in SIGNS.items() if start.startswith(sign)), None)
    if kind is None and start[257:262] == b"ustar":
        kind = "a tar archive"
    if kind is not None:
        wanted = "JSON" if path.name == MANIFEST else "safetensors"
        raise IntegrityError(f"{path.name} must be {wanted}, got {kind}; not read")


def check_header(path: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """Check what a safetensors file says it holds against what it must hold, before any number is read.

    Raises:
        IntegrityError: for other tensors, shapes or formats of numbers, or a file that is too short or too long.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        num_bytes = int.from_bytes(file.read(8), "little")
        if size < 8 or not 2 <= num_bytes <= min(MOST_HEADER_BYTES, size - 8):
            raise IntegrityError(f"{path.name} is no safetensors file of a factor, or was cut off; send it again")
        raw = file.read(num_bytes)
    try:
        header = json.loads(raw.decode("utf-8"))
        tensors = {name: said for name, said in header.items() if name != "__metadata__"}
        formats = {name: str(said["dtype"]) for name, said in tensors.items()}
        found = {name: tuple(said["shape"]) for name, said in tensors.items()}
        spans = sorted(tuple(said["data_offsets"]) for said in tensors.values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise IntegrityError(f"{path.name} has no header that safetensors could have; write it again") from None
    if found != shapes:
        raise IntegrityError(f"{path.name} must hold {_shown(shapes)}, got {_shown(found)}; write it again")
    if other := sorted(set(formats.values()) - set(NUMBERS)):
        raise IntegrityError(f"{path.name} must hold {', '.join(NUMBERS)}, got {other[0][:20]}; convert it")
    want = sum(NUMBERS[formats[name]] * math.prod(shape) for name, shape in shapes.items())
    if spans[-1][-1] != want or size != 8 + num_bytes + want:
        raise IntegrityError(f"{path.name} must have {8 + num_bytes + want:,} bytes, got {size:,}; send it again")


def _check_numbers(path: Path) -> None:
    """Every weight as the engine will see it: finite, and not so large that a step could overflow."""
    import safetensors.torch
    import torch

    for name, tensor in safetensors.torch.load_file(path).items():
        numbers = tensor.to(torch.float32)
        if not bool(numbers.isfinite().all()) or float(numbers.abs().amax() if numbers.numel() else 0) > LARGEST_WEIGHT:
            raise IntegrityError(
                f"{path.name}: finite numbers up to {LARGEST_WEIGHT:,.0f} are needed, got others in {name}"
            )


def _place(stores: Stores, tenant: str, store: Store, manifest: Manifest, folder: Path) -> Kept:
    """From a checked folder into the store, in one step; the same content again changes nothing."""
    name, digest = manifest.name, digest_of(folder)
    before, is_there = "", name in store.names()
    if is_there:
        try:
            if inspect(store.folder / name) == manifest and digest_of(store.folder / name) == digest:
                return Kept(manifest, digest, "", is_new=False)
            before = read_manifest(store.folder / name).version
        except IntegrityError:
            before = ""
    stores.check_room(tenant, name, sum(path.stat().st_size for path in folder.iterdir()))
    store.check_name(name, replace=True)
    keep(store, name)

    def write(target: Path) -> None:
        for path in folder.iterdir():
            shutil.copyfile(path, target / path.name)

    write_whole_folder(store.folder / name, write, is_durable=True)
    return Kept(manifest, digest, before, is_new=not is_there)


def _copy(source: IO[bytes], target: Path, most_bytes: int | None) -> None:
    source.seek(0)
    with target.open("xb") as file:
        if most_bytes is None:
            shutil.copyfileobj(source, file)
            return
        content = source.read(most_bytes + 1)
        if len(content) > most_bytes:
            raise RefusedError(413, f"{target.name} is too large: at most {most_bytes:,} bytes are read; shorten it")
        file.write(content)


def _shown(shapes: dict[str, tuple[int, ...]]) -> str:
    items: Iterable[str] = (f"{name[:20]} {list(shape)}" for name, shape in sorted(shapes.items())[:4])
    return ", ".join(items) or "nothing"
