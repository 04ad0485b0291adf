"""The data flywheel: what people sent becomes a candidate, which takes the place of the version in use if it is better.

A round collects feedback, keeps a share of the prompts for judging alone, learns a head from the rest, compares it with
the version in use, and promotes it in one step if it is better and no guard fails. Every round leaves a card. What was
learned from whom is written down by hash, so that a version can be made again without somebody's feedback, or, with all
of it, bit for bit.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from factorlm.errors import InputError
from factorlm.evaluation.diversity import words_of
from factorlm.factors.feedback import Preferences, of_thumbs, split_preferences
from factorlm.factors.head import Head, UnboundHead
from factorlm.factors.manifest import Change, Manifest, Source
from factorlm.factors.preferences import train_preferences
from factorlm.factors.seal import digest_of
from factorlm.factors.store import KINDS, Store, default_stores, read_manifest, verify
from factorlm.factors.training import Description, Trained
from factorlm.factors.versions import keep, next_version, save_edit, supersede, undo
from factorlm.files import remove_folder
from factorlm.models import CausalLM
from factorlm.models.progress import Report, quiet
from factorlm.serving.flywheel.events import Event, Feedbacks, collect, event_of, firsts
from factorlm.serving.flywheel.gate import contradicts, evaluate, verdict
from factorlm.serving.flywheel.ledger import (
    Card,
    FlywheelSettings,
    Holdout,
    Ledger,
    Named,
    digest_of_keys,
    named,
)

SOURCE = "feedback"


@dataclass(frozen=True, eq=False)
class Flywheel:
    """What one factor learns from feedback.

    Attributes:
        name: of the factor.
        source: where feedback is.
        store: that the factor is used from.
        ledger: of its rounds.
        tenant: whose feedback counts; None takes that of all.
        settings: of rounds to come.
        command: that runs a round, for cards.
    """

    name: str
    source: Feedbacks
    store: Store
    ledger: Ledger
    tenant: str | None = None
    settings: FlywheelSettings = field(default_factory=FlywheelSettings)
    command: str = ""

    def turn(self, lm: CausalLM, *, report: Report = quiet) -> Card:
        """One round.

        Returns:
            Its card; "waiting" if there is nothing new, or too little yet, which leaves no trace in the ledger.

        Raises:
            InputError: if another round runs, or the factor of that name is no head.
            IncompatibleError: if it is one of another model.
        """
        with self.ledger.locked():
            self.finish()
            return self._turn(lm, report)

    def finish(self) -> None:
        """Bring a promotion to its end that was interrupted: the card says what was meant."""
        cards = self.ledger.cards()
        if not cards or cards[-1].decision != "promoting":
            return
        card = cards[-1]
        candidate = self.ledger.candidates(card.round).folder / self.name
        in_use = self.in_use()
        if in_use is None or read_manifest(in_use).version != card.version:
            self._promote(candidate, in_use)
        self._promoted(card)

    def in_use(self) -> Path | None:
        """The folder of the version in use: in the store, else on the shelf of the package; None if there is none."""
        for store in (self.store, *default_stores()[1:]):
            if self.name in store.names():
                return store.folder / self.name
        return None

    def events(self) -> tuple[list[Event], list[Event], dict[str, int], int]:
        """What may be learned from, what is reserved, numbers left out by reason, and of all rows."""
        rows = self.source.feedback(self.tenant)
        found = collect(rows, near=self.settings.near)
        learn: list[Event] = []
        reserved: list[Event] = []
        for event in found.events:
            (reserved if is_reserved(event, self.name, self.settings.reserve) else learn).append(event)
        return learn, reserved, dict(found.left_out), len(rows)

    def _turn(self, lm: CausalLM, report: Report) -> Card:
        start = time.monotonic()
        earlier = [card for card in self.ledger.cards() if card.version]
        learn, reserved, left_out, num_rows = self.events()
        card = Card(name=self.name, round=len(self.ledger.cards()) + 1, decision="waiting", settings=self.settings,
                    rows=num_rows, left_out=left_out, command=self.command)  # fmt: skip
        holdout = self.ledger.holdout() or self._freeze(reserved)
        if holdout is None:
            have = len({event.prompt or event.text for event in reserved if event.is_unbiased and event.thumb})
            return card.model_copy(update={"reason": (
                f"feedback of both thumbs on {self.settings.fewest_held} held-out prompts is needed to judge by, got "
                f"{have}; collect more")})  # fmt: skip
        held = self.held(holdout)
        learn = [event for event in learn if event.id not in self.ledger.quarantined()]
        learn, num_leaks = without_leaks(learn, held, self.settings.near)
        if num_leaks:
            left_out["like a held-out text"] = num_leaks
        digest = digest_of_keys(event.key for event in learn)
        card = card.model_copy(update={"left_out": left_out, "holdout_digest": holdout.digest})
        if any((old.events_digest, old.settings) == (digest, self.settings) for old in earlier):
            return card.model_copy(update={"reason": "nothing new to learn from since a round with these settings"})
        preferences = preferences_of(learn, reweight=self.settings.reweight)
        try:
            split_preferences(preferences)
        except InputError as error:
            return card.model_copy(update={"reason": f"too little to learn from: {error}"})
        seen = {event.id for old in earlier for event in old.events} | self.ledger.quarantined()
        new = [event for event in learn if event.id not in seen]
        source = self.in_use()
        in_use = None if source is None else bound_head(source, lm)
        trained = learn_head(self.name, lm, preferences, learn, self.settings, report)
        trained = replace(trained, manifest=self._versioned(trained.manifest, source, len(learn), card.round))
        folder = self.ledger.candidates(card.round).save(trained.manifest, trained.tensors, replace=True)
        candidate = Head(self.name, trained.weights.to(lm.device), lm, trained.manifest.strengths)
        before = "" if source is None else read_manifest(source).version
        has_learned = any(old.version == before and old.decision in ("promoted", "retrained") for old in earlier)
        told = self._unbiased(new) if has_learned else []  # a factor from elsewhere may be of another taste
        found = evaluate(
            lm, in_use, candidate, preferences_of(held), preferences_of(told), self.settings, report=report
        )
        is_better, reason = verdict(found, self.settings)
        is_bad = has_learned and not is_better and contradicts(found, self.settings)
        card = card.model_copy(
            update={
                "decision": "promoting" if is_better else "blocked",
                "reason": reason,
                "finished": now(),
                "events": named(learn),
                "new": tuple(event.id for event in new),
                "quarantined": tuple(event.id for event in new) if is_bad else (),
                "events_digest": digest,
                "before": before,
                "version": trained.manifest.version,
                "sha256": digest_of(folder),
                "evaluation": found,
                "seconds": round(time.monotonic() - start, 1),
            }
        )
        self.ledger.write(card)  # says what is meant, before it is done
        if is_better:
            self._promote(folder, source)
            card = self._promoted(card)
        return card

    def _unbiased(self, events: Sequence[Event]) -> list[Event]:
        """Those that stand for all, unless they are too few to tell anything."""
        found = [event for event in events if event.is_unbiased]
        return found if len({event.prompt for event in found}) >= self.settings.fewest_held else list(events)

    def _freeze(self, reserved: Sequence[Event]) -> Holdout | None:
        """Freeze the holdout if there is enough to judge by: only what was not asked for because it was uncertain."""
        usable = [event for event in reserved if event.is_unbiased]
        preferences = preferences_of(usable)
        up = {rated.prompt or rated.text for rated in preferences.rated if rated.is_positive}
        down = {rated.prompt or rated.text for rated in preferences.rated if not rated.is_positive}
        paired = {pair.prompt or pair.chosen for pair in preferences.pairs}
        comparable = paired | (up | down if up and down else set())
        if len(comparable) < self.settings.fewest_held:
            return None
        holdout = Holdout(events=named(usable), frozen=now())
        self.ledger.freeze(holdout)
        return holdout

    def held(self, holdout: Holdout) -> list[Event]:
        """The held-out events that are still there and as they were."""
        frozen = {event.id: event.key for event in holdout.events}
        rows = [row for row in self.source.feedback(self.tenant) if row.id in frozen]
        return [event for event in map(event_of, rows) if event.key == frozen[event.id]]

    def _versioned(self, manifest: Manifest, source: Path | None, num: int, number: int) -> Manifest:
        """The candidate's card as the successor of the version in use."""
        if source is None:
            return manifest.model_copy(update={"version": self.next_version(manifest)})
        old = read_manifest(source)
        what = f"learned anew from {num} pieces of feedback, round {number}"
        change = Change(version=old.version, what=what, sha256=digest_of(source))
        about = {"description": old.description, "licence": old.licence} if old.description else {}
        return manifest.model_copy(
            update={"version": self.next_version(old), "changes": (*old.changes, change), **about}
        )

    def next_version(self, manifest: Manifest) -> str:
        """A version above all in the store and of all candidates, so that no number stands for two contents."""
        made = {card.version for card in self.ledger.cards()}
        version = next_version(self.store, manifest)
        while version in made:
            version = next_version(self.store, manifest.model_copy(update={"version": version}))
        return version

    def _promote(self, candidate: Path, source: Path | None) -> Path:
        """Put the candidate in the place of the version in use, which is kept."""
        import safetensors.torch

        manifest = read_manifest(candidate)
        verify(candidate, manifest)
        tensors = {key: value for name in manifest.files
                   for key, value in safetensors.torch.load_file(candidate / name).items()}  # fmt: skip
        if source is None:
            return supersede(self.store, manifest, tensors)
        return save_edit(source, manifest, tensors, store=self.store)

    def _promoted(self, card: Card) -> Card:
        card = card.model_copy(update={"decision": "promoted"})
        self.ledger.write(card)
        return card

    def roll_back(self) -> Card:
        """Bring back, bit for bit, what was in use before the last promotion; what goes is kept among the versions.

        Raises:
            InputError: if nothing was promoted that is in use.
        """
        with self.ledger.locked():
            self.finish()
            own = self.store.folder / self.name
            promoted = {
                card.version: card for card in self.ledger.cards() if card.decision in ("promoted", "retrained")
            }
            version = read_manifest(own).version if self.name in self.store.names() else ""
            if version not in promoted:
                raise InputError(
                    f"a version of {self.name} that a round promoted is needed to roll back from, got "
                    f"{version or 'none'} in use; factorlm flywheel show lists rounds"
                )
            if read_manifest(own).changes:
                before = undo(self.name, self.store).manifest.version
            else:
                keep(self.store, self.name)
                remove_folder(own)
                before = ""
            card = Card(
                name=self.name, round=len(self.ledger.cards()) + 1, decision="rolled back", finished=now(),
                reason=f"asked for: {before or 'the base alone'} is in use again", before=version,
                settings=self.settings, command=self.command,
            )  # fmt: skip
            self.ledger.write(card)
            return card


def is_reserved(event: Event, name: str, share: float) -> bool:
    """Whether a prompt, or a text without one, is never learned from: decided by a hash of its words."""
    words = " ".join(words_of(event.prompt or event.text)) or event.prompt or event.text
    digest = hashlib.sha256(f"{name}\0{words}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def without_leaks(learn: Sequence[Event], held: Sequence[Event], near: float) -> tuple[list[Event], int]:
    """Events none of whose texts nearly equals a held-out one, and how many others there were."""
    texts = [text for event in held for text in (event.text, event.edit) if text]
    mine = [(n, text) for n, event in enumerate(learn) for text in (event.text, event.edit) if text]
    first = firsts([*texts, *(text for _, text in mine)], near)
    leaky = {n for (n, _), found in zip(mine, first[len(texts) :], strict=True) if found < len(texts)}
    return [event for n, event in enumerate(learn) if n not in leaky], len(leaky)


def preferences_of(events: Sequence[Event], *, reweight: bool = False) -> Preferences:
    """Events as pairs and rated texts, in the way of `factor train --thumbs`."""
    return of_thumbs((f"feedback {event.id}", event.line(reweight=reweight)) for event in events)


def learn_head(
    name: str,
    lm: CausalLM,
    preferences: Preferences,
    events: Sequence[Event],
    settings: FlywheelSettings,
    report: Report = quiet,
) -> Trained:
    """A head from feedback; its card names the events by one hash of theirs, which the round's card resolves.

    The same events, settings and model give the same numbers.
    """
    about = Description(
        name=name, description="what users prefer, learned from their feedback", label="feedback of users",
        licence="unspecified", sources=((SOURCE, "unspecified", ""),),
    )  # fmt: skip
    trained = train_preferences(lm, preferences, about, seed=settings.seed, report=report)
    source = Source(
        name=SOURCE, licence="unspecified", credit="users of this server", num_texts=len(events),
        fingerprint=digest_of_keys(event.key for event in events),
    )  # fmt: skip
    data = trained.manifest.data.model_copy(update={"train": (source,)})
    return replace(trained, manifest=trained.manifest.model_copy(update={"data": data}))


def bound_head(folder: Path, lm: CausalLM) -> Head:
    """The head in a folder, on this model.

    Raises:
        InputError: if it is another kind of factor.
        IncompatibleError: if it is one of another model.
        IntegrityError: if its files are not what its card says.
    """
    manifest = read_manifest(folder)
    verify(folder, manifest)
    unbound = KINDS[manifest.kind](manifest, folder)
    if not isinstance(unbound, UnboundHead):
        raise InputError(
            f"feedback teaches heads, got {manifest.name}, a {manifest.kind}; choose the name of a head, or a new one"
        )
    return unbound.bind(lm)


def now() -> str:
    """Date and time, UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")


__all__ = ["Card", "Flywheel", "FlywheelSettings", "Ledger", "Named"]
