"""Factors of tenants: each tenant has a store of its own, and sees those of the server behind it, never another's."""

from __future__ import annotations

import contextlib
import re
import shutil
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp

from factorlm.errors import FactorlmError, InputError, IntegrityError, UnknownNameError
from factorlm.factors.manifest import NAME_PATTERN, Manifest
from factorlm.factors.store import MANIFEST, VERSIONS, Store, default_stores, read_manifest
from factorlm.files import sweep_folders, sync
from factorlm.serving.complaints import RefusedError
from factorlm.serving.jobs import OverloadedError
from factorlm.serving.settings import ServerSettings

TENANTS, INCOMING = "tenants", "incoming"  # folders of the state
RESERVED = ("train", "correlations")  # what stands in a factor's place in paths
MOST_FACTORS = 1000  # of a tenant
MOST_BYTES = 1 << 30  # of a tenant's factors, versions that are kept among them
MOST_INCOMING = 4  # uploads at once
MOST_CARDS = 4096  # that are remembered


@dataclass(frozen=True)
class Found:
    """A factor that a tenant can name.

    Attributes:
        name: that it has.
        folder: where it lies.
        is_own: whether it is the tenant's own, and not the server's.
        card: what its card says, or why that cannot be read.
    """

    name: str
    folder: Path
    is_own: bool
    card: Manifest | IntegrityError

    @property
    def owner(self) -> str:
        """For clients: "you" or "server"."""
        return "you" if self.is_own else "server"

    @property
    def manifest(self) -> Manifest:
        """The card.

        Raises:
            IntegrityError: if it cannot be read.
        """
        if isinstance(self.card, Manifest):
            return self.card
        raise self.card


@dataclass(frozen=True)
class Stores:
    """The stores of all tenants of a server; may be used from several threads."""

    settings: ServerSettings
    _locks: dict[str, threading.RLock] = field(default_factory=dict)
    _cards: OrderedDict[tuple[Path, int, int, int], Manifest] = field(default_factory=OrderedDict)
    _guard: threading.Lock = field(default_factory=threading.Lock)
    _room: threading.Semaphore = field(default_factory=lambda: threading.Semaphore(MOST_INCOMING))

    def own(self, tenant: str) -> Store:
        """The store that a tenant may change.

        Raises:
            InputError: for a name that no tenant can have.
        """
        return Store(self.settings.store_folder(tenant))

    def all_of(self, tenant: str) -> list[Store]:
        """Where the names of a tenant are looked up: its own store, then those of the server."""
        return [self.own(tenant), *default_stores()]

    @contextmanager
    def changing(self, tenant: str) -> Iterator[Store]:
        """A tenant's own store, which nobody else changes meanwhile; what was changed is on the disk afterwards."""
        store = self.own(tenant)
        with self._lock(tenant), self.told(tenant):
            try:
                if not store.folder.is_dir():
                    store.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                    for made in (store.folder.parent, store.folder.parent.parent, self.settings.state):
                        sync(made)
                yield store
                for changed in (store.folder, store.folder / VERSIONS):
                    if changed.is_dir():
                        sync(changed)
            except OSError as error:
                raise InputError(f"your store cannot be written: {error.strerror or error}; tell its keeper") from error

    def find(self, tenant: str, name: str) -> Found:
        """A factor by its name, which is never a path.

        Raises:
            RefusedError: 404 if there is none.
        """
        if re.fullmatch(NAME_PATTERN, name):
            with self._lock(tenant):  # else a new version may just be taking the place of the old one
                for number, store in enumerate(self.all_of(tenant)):
                    if (store.folder / name / MANIFEST).is_file():
                        return self._found(store, name, is_own=number == 0)
        known = {n for store in self.all_of(tenant) for n in store.names()}
        said = UnknownNameError.of("factor", name[:80], known, "GET /v1/factors lists all")
        raise RefusedError(404, str(said), code="unknown_name")

    def find_own(self, tenant: str, name: str) -> Found:
        """As `find`, for a factor that the tenant may change.

        Raises:
            RefusedError: 404 if there is none, 403 if it is the server's.
        """
        found = self.find(tenant, name)
        if not found.is_own:
            raise RefusedError(403, f"{name} is the server's own, and stays; only your own factors can be changed so")
        return found

    def factors(self, tenant: str) -> list[Found]:
        """Every factor that a tenant can name, its own first."""
        found: dict[str, Found] = {}
        with self._lock(tenant):
            for number, store in enumerate(self.all_of(tenant)):
                for name in store.names():
                    if name not in found:
                        found[name] = self._found(store, name, is_own=number == 0)
        return list(found.values())

    def check_room(self, tenant: str, name: str, num_bytes: int = 0) -> None:
        """Check that a tenant may keep a factor, of so many bytes.

        Raises:
            RefusedError: 413 if it has too much already.
        """
        own = self.own(tenant)
        used = sum(path.stat().st_size for path in own.folder.rglob("*") if path.is_file())
        if used + num_bytes > MOST_BYTES:
            raise RefusedError(
                413, f"a tenant keeps at most {MOST_BYTES:,} bytes of factors, got {used + num_bytes:,}; delete some"
            )
        names = own.names()
        if name not in names and len(names) >= MOST_FACTORS:
            raise RefusedError(413, f"a tenant keeps at most {MOST_FACTORS:,} factors; delete some")

    @contextmanager
    def incoming(self) -> Iterator[Path]:
        """A folder outside every store for what has not been checked yet; it is gone afterwards.

        Raises:
            OverloadedError: if too much is coming in at once.
        """
        if not self._room.acquire(blocking=False):
            raise OverloadedError(f"{MOST_INCOMING} factors are coming in at once; try again", 2.0)
        try:
            with self._incoming() as folder:
                yield folder
        finally:
            self._room.release()

    @contextmanager
    def _incoming(self) -> Iterator[Path]:
        place = self.settings.state / INCOMING
        try:
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder = Path(mkdtemp(dir=place))
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
        except OSError as error:
            raise InputError(f"nothing can be taken in now: {error.strerror or error}; tell the keeper") from error

    def recover(self) -> None:
        """Put in order what a killed server left; before anything is served, by the only server of this state."""
        shutil.rmtree(self.settings.state / INCOMING, ignore_errors=True)
        tenants = self.settings.state / TENANTS
        for folder in tenants.glob("*/factors"):
            sweep_folders(folder)
            for versions in (folder / VERSIONS).glob("*"):
                sweep_folders(versions)
            sweep_folders(folder / VERSIONS)

    @contextmanager
    def told(self, tenant: str) -> Iterator[None]:
        """What goes wrong, told without the places of files on this machine."""
        try:
            yield
        except RefusedError:
            raise
        except FactorlmError as error:
            own = str(self.own(tenant).folder)
            message = str(error).replace(f"{own}/", "").replace(own, "your store")
            for store in default_stores():
                message = message.replace(f"{store.folder}/", "").replace(str(store.folder), "the server's store")
            error.args = (message.replace("; set FACTORLM_STORE to another folder", ""),)
            raise

    def _lock(self, tenant: str) -> threading.RLock:
        with self._guard:
            return self._locks.setdefault(tenant, threading.RLock())

    def _found(self, store: Store, name: str, *, is_own: bool) -> Found:
        folder = store.folder / name
        card: Manifest | IntegrityError
        try:
            card = self._card(folder)
        except IntegrityError as error:
            card = IntegrityError(str(error).replace(f"{store.folder}/", ""))
        return Found(name, folder, is_own, card)

    def _card(self, folder: Path) -> Manifest:
        stamp = None
        with contextlib.suppress(OSError):
            seen = (folder / MANIFEST).stat()
            stamp = (folder, seen.st_ino, seen.st_mtime_ns, seen.st_size)
        with self._guard:
            if stamp is not None and stamp in self._cards:
                return self._cards[stamp]
        card = read_manifest(folder)
        if stamp is not None:
            with self._guard:
                self._cards[stamp] = card
                if len(self._cards) > MOST_CARDS:
                    self._cards.popitem(last=False)
        return card
