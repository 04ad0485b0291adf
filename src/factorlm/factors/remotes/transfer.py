"""Push, pull, list and verify: what is done with a shared store, wherever it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

from factorlm.errors import FactorlmError, InputError, IntegrityError
from factorlm.factors.head import EncoderCard
from factorlm.factors.manifest import Manifest
from factorlm.factors.remotes.index import INDEX, Entry, Index, newest_first
from factorlm.factors.remotes.inspection import check_files, check_name, check_wanted, inspect
from factorlm.factors.remotes.place import MAX_BYTES, MAX_INDEX_BYTES, Place, Publication, check_size
from factorlm.factors.seal import digest_of, seal
from factorlm.factors.store import MANIFEST, SHELF, Store, folder_of, load, read_manifest, verify
from factorlm.factors.versions import keep
from factorlm.files import write_whole_folder

Report = Callable[[str, int, int], None]  # stage, done, total


@dataclass(frozen=True)
class Moved:
    """A factor that was pushed or pulled.

    Attributes:
        name: of the factor.
        version: of the factor.
        num_bytes: of its files.
        was_there: the same bytes were there before, so that nothing was done.
        notes: what the user should know, one line each.
    """

    name: str
    version: str
    num_bytes: int
    was_there: bool
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Listed:
    """A factor of a shared store.

    Attributes:
        name: of the factor.
        versions: all that there are, the newest first.
        entry: what the index says of the newest.
    """

    name: str
    versions: tuple[str, ...]
    entry: Entry


@dataclass(frozen=True)
class Checked:
    """The outcome of a check; `problem` is empty if every byte is as it should be."""

    name: str
    version: str
    problem: str = ""


def push(sources: Sequence[str], place: Place, *, replace: bool = False) -> list[Moved]:
    """Publish factors, all of them or none.

    Args:
        sources: names or folders of factors.
        place: the shared store.
        replace: write even what is there, whether it is the same or not.

    Raises:
        InputError: if a version is there with other bytes and `replace` is not set, or the place cannot be written.
        IntegrityError: if a factor is not what its seal says.
        FetchError: if the place cannot be reached.
    """
    offers = {offer.name: offer for offer in map(_offer, sources)}
    if len(offers) < len(sources):
        raise InputError(f"each factor can be pushed once at a time, got {', '.join(sources)}; name each once")
    was_there: set[str] = set()

    def plan(content: bytes | None) -> Publication | None:
        was_there.clear()
        index = Index() if content is None else Index.read(content, place.address)
        folders = {}
        for offer in offers.values():
            known = index.entry(offer.name, offer.version)
            if known is not None and not replace:
                if known.sha256 != offer.entry.sha256:
                    raise InputError(
                        f"{place.address} has another {offer.name} {offer.version}, and a version stands for one "
                        "content; push it under a higher version, or --replace the one there"
                    )
                was_there.add(offer.name)
                continue
            folders[f"{offer.name}/{offer.version}"] = offer.files
            index = index.with_entry(offer.name, offer.version, offer.entry)
        message = f"Push {', '.join(sorted(folders))}"
        return Publication(folders, index.content(), message, replace) if folders else None

    place.publish(plan)
    return [Moved(o.name, o.version, o.entry.num_bytes, o.name in was_there) for o in offers.values()]


def pull(
    names: Sequence[str],
    place: Place,
    store: Store,
    *,
    version: str | None = None,
    replace: bool = False,
    report: Report | None = None,
) -> list[Moved]:
    """Install factors from a shared store; each appears whole or not at all.

    Args:
        names: of factors there.
        place: the shared store.
        store: that takes them.
        version: that is wanted, else the newest of each.
        replace: supersede factors of these names, and keep them among their versions.
        report: called with (stage, done, total).

    Raises:
        UnknownNameError: if there is no such factor or version.
        InputError: if one of that name is installed and `replace` is not set; nothing is fetched then.
        IntegrityError: if what came is not what the index says.
        FetchError: if the place cannot be reached.
    """
    index = read_index(place)
    chosen = {name: index.choose(name, version, place.address) for name in names}
    wanted = {name: found for name, found in chosen.items() if not _has(store, name, found[1])}
    for name in wanted:
        store.check_name(name, replace=replace)
    default = default_encoder()
    moved = []
    for done, (name, (number, entry)) in enumerate(chosen.items()):
        if report:
            report("pulling", done, len(chosen))
        if name in wanted:
            _install(place, name, number, entry, store)
        notes = _notes(read_manifest(store.folder / name), default)
        moved.append(Moved(name, number, entry.num_bytes, name not in wanted, notes))
    if report:
        report("pulling", len(chosen), len(chosen))
    return moved


def listing(place: Place) -> list[Listed]:
    """What a shared store has, without fetching any of it."""
    index = read_index(place)
    found = []
    for name, versions in sorted(index.factors.items()):
        if numbers := newest_first(versions):
            found.append(Listed(name, tuple(numbers), versions[numbers[0]]))
    return found


def verify_place(place: Place, names: Sequence[str] = ()) -> Iterator[Checked]:
    """Fetch and check every version of these factors, or of all, and say of each what is wrong.

    Raises:
        UnknownNameError: if there is no such factor.
        FetchError: if the place cannot be reached.
        IntegrityError: if the index itself cannot be read.
    """
    index = read_index(place)
    for name in names:
        index.choose(name, None, place.address)
    for name in names or sorted(index.factors):
        for version in newest_first(index.factors[name]):
            try:
                with TemporaryDirectory() as folder:
                    manifest = _download(place, name, version, index.factors[name][version], Path(folder))
                where = f"{place.address}/{name}/{version}"
                for found in place.names(f"{name}/{version}") or ():
                    check_name(where, found, manifest)
            except IntegrityError as error:
                yield Checked(name, version, str(error))
            else:
                yield Checked(name, version)


def read_index(place: Place) -> Index:
    """The index of a shared store.

    Raises:
        InputError: if there is none.
        IntegrityError: if it is broken.
        FetchError: if the place cannot be reached.
    """
    content = BytesIO()
    if not place.get(INDEX, content, MAX_INDEX_BYTES):
        raise InputError(
            f"{place.address} is no shared store that can be read: it has no {INDEX}; check the address, or push there"
        )
    return Index.read(content.getvalue(), place.address)


def default_encoder() -> EncoderCard | None:
    """The card of the default model, as the package's own factors have it, so that no model need be read."""
    from factorlm.models.loading import DEFAULT_MODEL

    shelf = Store(SHELF)
    cards = (read_manifest(shelf.folder / name).encoder for name in shelf.names())
    return next((card for card in cards if card is not None and card.name == DEFAULT_MODEL), None)


@dataclass(frozen=True)
class _Offer:
    name: str
    version: str
    entry: Entry
    files: dict[str, bytes]


def _offer(source: str) -> _Offer:
    folder = folder_of(source)
    manifest = inspect(folder)
    check_wanted(str(folder), manifest)
    entry = Entry.of(folder, manifest)
    check_size(entry.num_bytes, MAX_BYTES, str(folder))
    files = {name: (folder / name).read_bytes() for name in (MANIFEST, *manifest.files)}
    return _Offer(manifest.name, manifest.version, entry, files)


def _has(store: Store, name: str, entry: Entry) -> bool:
    """Whether the very same factor is installed, and sound."""
    try:
        inspect(store.folder / name)
        return digest_of(store.folder / name) == entry.sha256
    except FactorlmError:
        return False


def _install(place: Place, name: str, version: str, entry: Entry, store: Store) -> None:
    def write(folder: Path) -> None:
        _download(place, name, version, entry, folder)
        seal(folder)
        keep(store, name)

    target = store.folder / name
    try:
        write_whole_folder(target, write)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{target} cannot be written: {reason}; set FACTORLM_STORE to another folder") from error


def _download(place: Place, name: str, version: str, entry: Entry, folder: Path) -> Manifest:
    """Fetch a version into an empty folder, and check it before the next file is asked for."""
    where = f"{place.address}/{name}/{version}"
    check_size(entry.num_bytes, MAX_BYTES, where)
    _fetch(place, f"{name}/{version}", MANIFEST, folder, entry.num_bytes)
    if (found := digest_of(folder)) != entry.sha256:
        raise IntegrityError(
            f"{where}/{MANIFEST} is corrupted: sha256 should be {entry.sha256[:12]}…, is {found[:12]}…; its owner can "
            "push it again with --replace"
        )
    try:
        manifest = read_manifest(folder)
        if (manifest.name, manifest.version) != (name, version):
            raise IntegrityError(f"{where} holds {manifest.name} {manifest.version}, which is not what was asked for")
        check_wanted(where, manifest)
        for file in manifest.files:
            _fetch(place, f"{name}/{version}", file, folder, entry.num_bytes)
        check_files(folder, manifest)
        verify(folder, manifest)
        if Entry.of(folder, manifest) != entry:
            raise IntegrityError(f"{where} is not what {INDEX} says of it; its owner can push it again with --replace")
        load(str(folder.absolute()))  # shapes
    except IntegrityError as error:  # the folder is gone when this is read
        raise IntegrityError(str(error).replace(str(folder), where)) from None
    return manifest


def _fetch(place: Place, path: str, name: str, folder: Path, limit: int) -> None:
    with (folder / name).open("w+b") as file:
        if not place.get(f"{path}/{name}", file, limit):
            raise IntegrityError(
                f"{place.address} has no {path}/{name}, which its {INDEX} needs; its owner can push it again with "
                "--replace"
            )


def _notes(manifest: Manifest, default: EncoderCard | None) -> tuple[str, ...]:
    """A warning if the factor is for another encoder than the default model."""
    card = manifest.encoder
    if card is None or default is None or card.fingerprint == default.fingerprint:
        return ()
    return (
        f"{manifest.name} was made for the encoder {card.name} ({card.fingerprint}), not for the default model "
        f"{default.name} ({default.fingerprint}); use that model with --model",
    )
