"""The folder of a memory: `index.json` says what it is, and names every other file with its size and sha256.

Sizes are checked whenever a memory is opened, checksums by `verify`: an index may be many gigabytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import ConfigDict, Field, NonNegativeInt, ValidationError

from factorlm.errors import IncompatibleError, InputError, IntegrityError
from factorlm.files import write_whole, write_whole_folder
from factorlm.memory.corpus import Troubles
from factorlm.memory.gates import Gate
from factorlm.models import CausalLM
from factorlm.settings import Config, explain_validation

CARD = "index.json"
MAX_CARD_BYTES = 2**24
BLOCK = 1 << 22


class FileMark(Config):
    """A file as it was written.

    Attributes:
        size: in bytes.
        sha256: of its bytes.
    """

    size: NonNegativeInt
    sha256: str

    @staticmethod
    def of(path: Path) -> FileMark:
        """Of a file that is there."""
        digest, size = hashlib.sha256(), 0
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
                size += len(block)
        return FileMark(size=size, sha256=digest.hexdigest())


class SourceFile(Config):
    """A file that a memory was built from."""

    path: str
    size: NonNegativeInt


class ModelMark(Config):
    """The language model that a memory was built with.

    Attributes:
        name: of the model.
        vocabulary: fingerprint of its tokens: all that n-grams depend on.
        encoder: fingerprint of its weights, where hidden states are kept; empty where they are not.
    """

    name: str
    vocabulary: str
    encoder: str = ""


class FittedGate(Config):
    """Weights learned on held-out text.

    Attributes:
        gate: the weights.
        model: name of the model that was mixed with.
        text: what they were learned on.
        num_tokens: of that.
        model_nats: mean loss of the model alone there, in nats a token.
        mixed_nats: of the mixture.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    gate: Annotated[Gate, Field(discriminator="kind")]
    model: str
    text: str
    num_tokens: int
    model_nats: float
    mixed_nats: float


class MemoryCard(Config):
    """What is said of every memory; a kind adds what it needs.

    Attributes:
        format: of the folder.
        kind: of memory; see `KINDS`.
        model: that it was built with.
        num_documents: in it.
        num_tokens: in it.
        sources: files that it was built from.
        troubles: what was wrong with them, and how often.
        licence: of the corpus, as its owner states it.
        gates: learned weights by name; "" is what is taken where none is named.
        files: every other file of the folder.
    """

    model_config = ConfigDict(allow_inf_nan=False)

    format: Literal["factorlm-memory/1"] = "factorlm-memory/1"
    kind: str
    model: ModelMark
    num_documents: NonNegativeInt
    num_tokens: NonNegativeInt
    sources: tuple[SourceFile, ...] = ()
    troubles: dict[str, int] = Field(default_factory=dict)
    licence: str = ""
    gates: dict[str, FittedGate] = Field(default_factory=dict)
    files: dict[str, FileMark] = Field(default_factory=dict)


AnyCard = TypeVar("AnyCard", bound=MemoryCard)


class _Kind(Config):
    """The part of a card that says which class reads it."""

    model_config = ConfigDict(extra="ignore")

    kind: str


def is_memory(path: Path | str) -> bool:
    """Whether there is a memory in this folder."""
    return (Path(path) / CARD).is_file()


def kind_of(path: Path | str) -> str:
    """The kind of the memory in a folder; see `read_card` for what can be wrong."""
    return _parsed(Path(path), _Kind).kind


def read_card(path: Path | str, card: type[AnyCard]) -> AnyCard:
    """The card of a memory, whose files are there and have their sizes.

    Raises:
        InputError: if there is none.
        IntegrityError: if the card cannot be used, or a file is missing or has another size.
    """
    folder = Path(path)
    found = _parsed(folder, card)
    for name, mark in found.files.items():
        place = folder / name
        if "/" in name or not place.is_file():
            raise IntegrityError(f"{place} is missing, which {CARD} names; copy the folder again, or build it anew")
        if place.stat().st_size != mark.size:
            raise IntegrityError(
                f"{place} has {place.stat().st_size} bytes, and {CARD} says {mark.size}; copy it again, or build anew"
            )
    return found


def write_memory(
    target: Path, card: MemoryCard, fill: Callable[[Path], None], *, replace: bool, known: Sequence[Path] = ()
) -> None:
    """Write a memory's folder, whole or not at all; readers of one that was there are not disturbed.

    Args:
        target: the folder.
        card: without its files, which are added.
        fill: writes the other files.
        replace: whether a memory that is there may go.
        known: files of an old folder whose marks hold for those of the same name, because they are its very files.

    Raises:
        InputError: if there is something already and `replace` is not set, or the place cannot be written.
    """
    check_place(target, replace=replace)
    marks = dict(read_card(known[0].parent, MemoryCardMarks).files) if known else {}
    kept = {path.name for path in known}

    def write(folder: Path) -> None:
        fill(folder)
        files = {p.name: marks[p.name] if p.name in kept else FileMark.of(p) for p in sorted(folder.iterdir())}
        complete = card.model_copy(update={"files": files})
        write_whole(folder / CARD, complete.model_dump_json(indent=1) + "\n")
        read_card(folder, type(card))

    try:
        write_whole_folder(target, write)
    except OSError as error:
        raise InputError(f"{target} cannot be written: {error.strerror or error}; name another place") from None


class MemoryCardMarks(MemoryCard):
    """A card of any kind, of which only what all have is wanted."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)


def keep_gate(path: Path, name: str, gate: FittedGate) -> None:
    """Write learned weights into the card of a memory of any kind, whose other files stay.

    Raises:
        InputError: if there is no memory, or its card cannot be written.
        IntegrityError: if its card cannot be used.
    """
    read_card(path, MemoryCardMarks)
    found = json.loads((path / CARD).read_bytes())
    found["gates"] = {**found.get("gates", {}), name: gate.model_dump(mode="json")}
    _write_card(path, json.dumps(found, indent=1, ensure_ascii=False) + "\n")


def write_card(path: Path, card: MemoryCard) -> None:
    """Put a card to files that are there."""
    _write_card(path, card.model_dump_json(indent=1) + "\n")


def _write_card(path: Path, content: str) -> None:
    try:
        write_whole(path / CARD, content)
    except OSError as error:
        raise InputError(f"{path / CARD} cannot be written: {error.strerror or error}; see to its rights") from None


def check_place(target: Path, *, replace: bool) -> None:
    """Raise InputError if a memory could not be written there."""
    if target.exists() and not replace:
        raise InputError(f"there is something at {target}; name another place with --out, or give --replace")
    if target.exists() and not is_memory(target):
        raise InputError(f"{target} is not a memory, so it is not replaced; name another place with --out")


def changed_files(path: Path, card: MemoryCard, report: Callable[[str, int, int], None]) -> list[str]:
    """Sentences on files that are not what the card says; none is a good answer."""
    found = []
    for number, (name, mark) in enumerate(sorted(card.files.items()), 1):
        report("checksums", number, len(card.files))
        if FileMark.of(path / name) != mark:
            found.append(f"{path / name} is not the file that was written: its sha256 is another one")
    extra = {p.name for p in path.iterdir()} - {CARD, *card.files}
    found += [f"{path / name} does not belong there: {CARD} does not name it" for name in sorted(extra)]
    return found


def mark_of(lm: CausalLM, *, with_encoder: bool) -> ModelMark:
    """The mark of a model."""
    return ModelMark(name=lm.name, vocabulary=lm.vocabulary.fingerprint, encoder=lm.fingerprint if with_encoder else "")


def check_model(path: Path, mark: ModelMark, lm: CausalLM) -> None:
    """Raise IncompatibleError unless a memory can be read with this model."""
    if mark.vocabulary != lm.vocabulary.fingerprint:
        raise IncompatibleError(
            f"{path} holds tokens of {mark.name} ({mark.vocabulary}), and {lm.name} has others "
            f"({lm.vocabulary.fingerprint}); build it anew with --model {lm.name}"
        )
    if mark.encoder and mark.encoder != lm.fingerprint:
        raise IncompatibleError(
            f"{path} holds hidden states of {mark.name} ({mark.encoder}), and {lm.name} has others "
            f"({lm.fingerprint}); build it anew with --model {lm.name}"
        )


def counted(troubles: Troubles) -> dict[str, int]:
    """Troubles for a card."""
    return dict(sorted(troubles.counts.items()))


Parsed = TypeVar("Parsed", bound=Config)


def _parsed(folder: Path, card: type[Parsed]) -> Parsed:
    place = folder / CARD
    if not place.is_file():
        raise InputError(f"a folder with an {CARD} is needed, got {folder}; factorlm index build makes one")
    try:
        content = place.read_bytes()
    except OSError as error:
        raise InputError(f"{place} cannot be read: {error.strerror or error}; see to its rights") from None
    if len(content) > MAX_CARD_BYTES:
        raise IntegrityError(f"{place} is larger than {MAX_CARD_BYTES} bytes; build the memory anew")
    try:
        return card.model_validate_json(content)
    except ValidationError as error:
        raise IntegrityError(str(explain_validation(error, str(place)))) from None
