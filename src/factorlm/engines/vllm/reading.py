"""Factors by name and hash, as a worker process reads them from the stores that it can see."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from glob import glob
from pathlib import Path

from factorlm.engines.vllm.orders import MANIFEST, Order, sha256_of
from factorlm.engines.vllm.served import Served
from factorlm.errors import IncompatibleError, InputError, IntegrityError, UnknownNameError
from factorlm.factors.head import HeadWeights, UnboundHead
from factorlm.factors.lexicon import Lexicon
from factorlm.factors.store import KINDS, VERSIONS, default_stores, read_manifest, verify
from factorlm.factors.unbound import Unbound
from factorlm.factors.wordlist import UnboundLexicon

STORES = "FACTORLM_VLLM_STORES"  # folders of factor folders, * allowed, with os.pathsep between; else the usual ones
KEPT = 512  # factors in memory; a head has some thousand numbers
Part = HeadWeights | Lexicon


def store_folders() -> list[Path]:
    """Where factors are looked for, the first place first."""
    said = os.environ.get(STORES)
    if not said:
        return [store.folder for store in default_stores()]
    return [Path(folder) for pattern in said.split(os.pathsep) for folder in sorted(glob(pattern)) if folder]


@dataclass(eq=False)
class Reader:
    """Reads each factor once, checked and fitted to the served model."""

    served: Served
    _kept: OrderedDict[tuple[str, str], Part] = field(default_factory=OrderedDict)

    def part(self, order: Order) -> Part:
        """The numbers of a factor.

        Raises:
            UnknownNameError: if no store has it, in the version asked for.
            IntegrityError: if its files are not what its manifest says.
            IncompatibleError: if it was made for another model, or is of a kind that cannot be computed here.
        """
        key = order.name, order.sha256
        if not order.sha256 or key not in self._kept:
            folder = find(order)
            key = order.name, sha256_of(folder)
        if key not in self._kept:
            self._kept[key] = fitted(load(folder), self.served)
            if sha256_of(folder) != key[1]:
                del self._kept[key]
                raise IntegrityError(f"{folder} was changed while it was read; ask again")
        self._kept.move_to_end(key)
        if len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return self._kept[key]


def find(order: Order) -> Path:
    """The folder of a factor, an earlier version among those that edits have kept.

    Raises:
        UnknownNameError: if no store has it.
    """
    folders = store_folders()
    for folder in _candidates(order.name, folders):
        if not order.sha256 or sha256_of(folder) == order.sha256:
            return folder
    known = {path.parent.name for folder in folders for path in folder.glob(f"*/{MANIFEST}")}
    if order.name in known:
        raise UnknownNameError(
            f"no factor {order.name!r} with the sha256 {order.sha256[:12]}… in {', '.join(map(str, folders))}; it was "
            "changed since, or this process sees other stores"
        )
    raise UnknownNameError.of("factor", order.name, known, f"set {STORES} where vLLM is started")


def _candidates(name: str, folders: list[Path]) -> Iterator[Path]:
    for folder in folders:
        if (folder / name / MANIFEST).is_file():
            yield folder / name
    for folder in folders:
        for place in sorted((folder / VERSIONS / name).glob("*")):
            if (place / MANIFEST).is_file():
                yield place


def load(folder: Path) -> Unbound:
    """A factor of a kind that can be computed here, checked.

    Raises:
        IntegrityError: if its files are not what its manifest says.
        IncompatibleError: if it is of another kind.
    """
    manifest = read_manifest(folder)
    if manifest.kind not in ("head", "lexicon"):
        raise IncompatibleError(
            f"inside vLLM heads and lexica can be computed, got {manifest.name!r}, a {manifest.kind}; "
            "leave it out, or use the embedded engine"
        )
    verify(folder, manifest)
    return KINDS[manifest.kind](manifest, folder)


def fitted(factor: Unbound, served: Served) -> Part:
    """The numbers of a factor for a served model.

    Raises:
        IncompatibleError: if it was made for another one.
    """
    if isinstance(factor, UnboundHead):
        if factor.encoder.fingerprint != served.fingerprint:
            raise IncompatibleError(
                f"factor {factor.name!r} needs the encoder {factor.encoder.name} ({factor.encoder.fingerprint}), got "
                f"{served.name} ({served.fingerprint}); serve that model or train the factor for this one"
            )
        return factor.weights
    if isinstance(factor, UnboundLexicon):
        return Lexicon.from_tokenizer(
            factor.name,
            factor.phrases,
            served.vocabulary,
            served.encode_text,
            case_sensitive=factor.case_sensitive,
            whole_word=factor.whole_word,
        )
    raise InputError(f"a head or a lexicon is needed, got {type(factor).__name__}")
