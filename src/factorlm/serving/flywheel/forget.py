"""Forgetting: feedback that somebody wants deleted leaves the database, the holdout and every version that knew it."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Sequence
from dataclasses import dataclass

from factorlm.errors import InputError
from factorlm.factors.manifest import Manifest
from factorlm.factors.seal import digest_of
from factorlm.factors.store import read_manifest
from factorlm.factors.versions import kept_versions
from factorlm.files import remove_folder
from factorlm.models import CausalLM
from factorlm.models.fetch import cache_folder
from factorlm.models.progress import Report, quiet
from factorlm.serving.flywheel.events import Event, Forgettable, event_of
from factorlm.serving.flywheel.gate import evaluate
from factorlm.serving.flywheel.ledger import Card, digest_of_keys, named
from factorlm.serving.flywheel.wheel import Flywheel, bound_head, learn_head, now, preferences_of


@dataclass(frozen=True)
class Trace:
    """Where some feedback has left traces.

    Attributes:
        rounds: whose candidates learned from it.
        versions: of these candidates.
        in_use: whether the version in use is one of them, or was edited from one.
        num_held: pieces of it that are held out.
    """

    rounds: tuple[int, ...]
    versions: tuple[str, ...]
    in_use: bool
    num_held: int


def trace(flywheel: Flywheel, ids: Sequence[int]) -> Trace:
    """Which versions learned from these rows."""
    wanted = set(ids)
    cards = [card for card in flywheel.ledger.cards() if wanted & {event.id for event in card.events}]
    holdout = flywheel.ledger.holdout()
    versions = tuple(dict.fromkeys(card.version for card in cards))
    own = flywheel.store.folder / flywheel.name
    is_own = flywheel.name in flywheel.store.names()
    return Trace(
        rounds=tuple(card.round for card in cards),
        versions=versions,
        in_use=is_own and _origin(flywheel, read_manifest(own)) in versions,
        num_held=0 if holdout is None else sum(event.id in wanted for event in holdout.events),
    )


def gone(flywheel: Flywheel) -> list[int]:
    """Numbers of rows that were deleted from the database, and that something which is still here learned from."""
    here = {row.id for row in flywheel.source.feedback(flywheel.tenant)}
    kept = set(kept_versions(flywheel.store, flywheel.name))
    if flywheel.name in flywheel.store.names():
        kept.add(_origin(flywheel, read_manifest(flywheel.store.folder / flywheel.name)))
    known = {
        event.id
        for card in flywheel.ledger.cards()
        if card.version in kept or flywheel.ledger.candidates(card.round).folder.is_dir()
        for event in card.events
    }
    return sorted(known - here)


def forget(
    flywheel: Flywheel, source: Forgettable, ids: Sequence[int], lm: CausalLM | None, *, report: Report = quiet
) -> tuple[Trace, Card | None]:
    """Delete rows, and everything that was learned from them.

    The version in use, if it knew them, is learned anew from the other events of its round with the settings of then,
    and replaced whether or not the new one is better: this is no question of quality. If the others are too few, the
    factor is taken away. Kept versions and candidates that knew the rows are deleted, and so are cached hidden states.

    Args:
        flywheel: of the factor.
        source: where feedback is, to delete it there.
        ids: numbers of the rows.
        lm: the model; None only tells what is affected and changes nothing.
        report: told of progress.

    Returns:
        What was affected, and the card of the new version if there had to be one.
    """
    with flywheel.ledger.locked():
        flywheel.finish()
        found = trace(flywheel, ids)
        if lm is None:
            return found, None
        rows = {row.id: row for row in flywheel.source.feedback(flywheel.tenant)}
        source.delete_feedback([number for number in ids if number in rows])
        holdout = flywheel.ledger.holdout()
        if holdout is not None and found.num_held:
            left = tuple(event for event in holdout.events if event.id not in set(ids))
            flywheel.ledger.freeze(holdout.model_copy(update={"events": left}))
        card = _retrained(flywheel, set(ids), lm, report) if found.in_use else None
        kept = kept_versions(flywheel.store, flywheel.name)
        doomed = [path for version, path in kept.items() if _origin(flywheel, read_manifest(path)) in found.versions]
        doomed += [flywheel.ledger.candidates(number).folder for number in found.rounds]
        for folder in doomed:
            if folder.is_dir():
                remove_folder(folder)
        with contextlib.suppress(OSError):  # states of texts that were read, whose texts cannot be told any more
            shutil.rmtree(cache_folder() / "features")
        return found, card


def replay(flywheel: Flywheel, card: Card, lm: CausalLM, without: set[int], report: Report = quiet) -> Card:
    """Learn the candidate of a round again, without some events; with none missing it comes out bit for bit.

    Returns:
        A card of the next round, whose candidate lies in the ledger; nothing is promoted.

    Raises:
        InputError: if too few events are left, or any of them is gone or has changed.
    """
    wanted = {event.id: event.key for event in card.events if event.id not in without}
    events: list[Event] = [event_of(row) for row in flywheel.source.feedback(flywheel.tenant) if row.id in wanted]
    changed = [event.id for event in events if event.key != wanted[event.id]]
    if changed or len(events) < len(wanted):
        raise InputError(
            f"the {len(wanted)} events of round {card.round} are needed as they were, got {len(events)}, "
            f"{len(changed)} of them changed; forget the missing ones, too"
        )
    number = len(flywheel.ledger.cards()) + 1
    preferences = preferences_of(events, reweight=card.settings.reweight)
    trained = learn_head(flywheel.name, lm, preferences, events, card.settings, report)
    folder = flywheel.ledger.candidates(number).save(trained.manifest, trained.tensors, replace=True)
    return Card(
        name=flywheel.name, round=number, decision="retrained", finished=now(), settings=card.settings,
        rows=len(events), events=named(events), events_digest=digest_of_keys(event.key for event in events),
        version=trained.manifest.version, sha256=digest_of(folder), command=flywheel.command,
    )  # fmt: skip


def _retrained(flywheel: Flywheel, ids: set[int], lm: CausalLM, report: Report) -> Card:
    """Put a version without these events in the place of the one in use; nothing is kept of that."""
    own = flywheel.store.folder / flywheel.name
    old = read_manifest(own)
    origin = _origin(flywheel, old)
    learned = next(c for c in reversed(flywheel.ledger.cards()) if c.version == origin and c.events)
    try:
        card = replay(flywheel, learned, lm, ids, report)
    except InputError as error:
        remove_folder(own)
        removed = Card(
            name=flywheel.name, round=len(flywheel.ledger.cards()) + 1, decision="removed", finished=now(),
            before=old.version, settings=learned.settings, command=flywheel.command,
            reason=f"it learned from forgotten feedback, and cannot be learned again: {error}",
        )  # fmt: skip
        flywheel.ledger.write(removed)
        return removed
    import safetensors.torch

    place = flywheel.ledger.candidates(card.round)
    candidate = place.folder / flywheel.name
    doomed = {c.version for c in flywheel.ledger.cards() if ids & {event.id for event in c.events}}
    changes = tuple(change for change in old.changes if change.version not in doomed)  # the others can come back
    manifest = read_manifest(candidate).model_copy(
        update={"version": flywheel.next_version(old), "changes": changes, "description": old.description}
    )
    tensors = {key: value for name in manifest.files
               for key, value in safetensors.torch.load_file(candidate / name).items()}  # fmt: skip
    place.save(manifest, tensors, replace=True)
    before = bound_head(own, lm)
    holdout = flywheel.ledger.holdout()
    held = [] if holdout is None else flywheel.held(holdout)
    evaluation = None
    with contextlib.suppress(InputError):  # the holdout may have been forgotten, too
        evaluation = evaluate(lm, before, bound_head(candidate, lm), preferences_of(held), preferences_of([]),
                              learned.settings, report=report)  # fmt: skip
    flywheel.store.save(manifest, tensors, replace=True)
    edited = "" if old.version == origin else f"; the edits made to {origin} since are gone"
    card = card.model_copy(update={
        "version": manifest.version, "before": old.version, "sha256": digest_of(candidate), "evaluation": evaluation,
        "holdout_digest": "" if holdout is None else holdout.digest,
        "reason": f"round {learned.round} learned again without {len(ids)} pieces of feedback{edited}",
    })  # fmt: skip
    flywheel.ledger.write(card)
    return card


def _origin(flywheel: Flywheel, manifest: Manifest) -> str:
    """The version that a round made, of this factor or of what it was edited from."""
    made = {card.version for card in flywheel.ledger.cards() if card.events}
    for version in (manifest.version, *(change.version for change in reversed(manifest.changes))):
        if version in made:
            return version
    return manifest.version
