"""The book of a flywheel: what each round learned from, found and decided; one folder for each factor."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import Field, ValidationError

from factorlm.errors import InputError, IntegrityError
from factorlm.evaluation.intervals import Comparison, Estimate
from factorlm.factors.manifest import NAME_PATTERN
from factorlm.factors.store import Store
from factorlm.files import write_whole
from factorlm.serving.flywheel.events import NEAR, Event
from factorlm.settings import Config, explain_validation

CARD, HOLDOUT, LOCK = "card.json", "holdout.json", ".lock"
Decision = Literal["promoted", "promoting", "blocked", "waiting", "rolled back", "retrained", "removed"]
Share = Annotated[float, Field(gt=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]


class FlywheelSettings(Config):
    """How a round learns and decides.

    Attributes:
        measure: that must be better: accuracy (comparisons in order), or loss (cross-entropy); the other one must not
            be shown to be worse.
        strength: at which versions are compared, in nats per token; also where guards look.
        reserve: share of prompts that are never learned from.
        fewest_held: prompts that the holdout is frozen with.
        confidence: that the candidate is better, in the one-sided paired bootstrap over prompts.
        near: similarity from which texts are near-duplicates.
        reweight: whether what was asked for counts by the inverse of its propensity.
        most_divergence: of the candidate on held-out texts, times the strength.
        most_neutral_cost: nats per token that the base's own neutral texts may cost more, times the strength.
        most_fluency_cost: nats per token by which the candidate's texts may be less likely to the base than those of
            the version in use; beside the base alone, the strength is allowed on top.
        most_loops: by which the share of canaries that end in a loop may rise.
        most_toxic: by which the share of canaries judged toxic may rise.
        canary_samples: texts for each canary prompt.
        seed: of learning, resampling and canaries.
    """

    measure: Literal["accuracy", "loss"] = "accuracy"
    strength: Positive = 0.3
    reserve: Share = 0.25
    fewest_held: Annotated[int, Field(ge=8)] = 20
    confidence: Annotated[float, Field(gt=0.5, lt=1)] = 0.95
    near: Annotated[float, Field(gt=0, le=1)] = NEAR
    reweight: bool = False
    most_divergence: Positive = 2.0
    most_neutral_cost: Positive = 2.0
    most_fluency_cost: Positive = 0.3
    most_loops: Share = 0.15
    most_toxic: Share = 0.1
    canary_samples: Annotated[int, Field(ge=1)] = 4
    seed: int = 0


class Named(Config):
    """A piece of feedback by its number and its hash, without its content."""

    id: int
    key: str


class Guard(Config):
    """A limit that no candidate may cross.

    Attributes:
        name: what is limited.
        value: what was found.
        limit: what is allowed.
        is_kept: whether the limit is kept.
        note: what the number means.
    """

    name: str
    value: float | None
    limit: float
    is_kept: bool
    note: str = ""


class Evaluation(Config):
    """A candidate beside the version in use, on the same held-out prompts.

    Attributes:
        num_prompts: that were held out.
        accuracy: share of held-out comparisons ordered rightly, "in use" and "candidate"; ties count half.
        loss: cross-entropy of held-out comparisons, in nats, each version at its best scale.
        divergence: nats per token on held-out texts at equal strength.
        comparisons: paired, over prompts.
        confidence: share of resamples in which the candidate is better by the measure that decides; ties count half.
        guards: in order.
        samples: (prompt, in use, candidate) of canaries, to read.
    """

    num_prompts: int
    accuracy: dict[str, Estimate]
    loss: dict[str, Estimate]
    divergence: dict[str, Estimate]
    comparisons: tuple[Comparison, ...]
    confidence: float
    guards: tuple[Guard, ...]
    samples: tuple[tuple[str, str, str], ...] = ()


class Card(Config):
    """A round's card.

    Attributes:
        format: of this file.
        name: of the factor.
        round: number, from 1.
        decision: what became of it.
        reason: why, in a sentence.
        finished: date and time, UTC.
        settings: that it ran with.
        rows: of feedback that there were.
        left_out: of these, by reason.
        events: that the candidate learned from.
        new: numbers of those that earlier rounds had not seen.
        quarantined: numbers of those that are not learned from, because they contradict the version in use.
        events_digest: of all hashes of events; the candidate's own card names it as the fingerprint of its data.
        holdout_digest: of the held-out events.
        before: version in use; empty if there was none.
        version: of the candidate; empty if there is none.
        sha256: of the candidate's factor.json; empty if there is none.
        evaluation: of the candidate; None if there is none.
        seconds: that it took.
        command: that runs a round.
    """

    format: Literal[1] = 1
    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    round: int
    decision: Decision
    reason: str = ""
    finished: str = ""
    settings: FlywheelSettings = FlywheelSettings()
    rows: int = 0
    left_out: dict[str, int] = Field(default_factory=dict)
    events: tuple[Named, ...] = ()
    new: tuple[int, ...] = ()
    quarantined: tuple[int, ...] = ()
    events_digest: str = ""
    holdout_digest: str = ""
    before: str = ""
    version: str = ""
    sha256: str = ""
    evaluation: Evaluation | None = None
    seconds: float = 0.0
    command: str = ""


class Holdout(Config):
    """Feedback that candidates are judged by and never learn from; its texts stay in the database alone.

    Attributes:
        format: of this file.
        events: by number and hash.
        frozen: when, UTC.
    """

    format: Literal[1] = 1
    events: tuple[Named, ...]
    frozen: str

    @property
    def digest(self) -> str:
        """Of all hashes."""
        return digest_of_keys(event.key for event in self.events)


def digest_of_keys(keys: Iterable[str]) -> str:
    """One hash of many, whatever their order."""
    return hashlib.sha256("\n".join(sorted(keys)).encode()).hexdigest()[:16]


def named(events: Sequence[Event]) -> tuple[Named, ...]:
    """Events by number and hash."""
    return tuple(Named(id=event.id, key=event.key) for event in events)


@dataclass(frozen=True)
class Ledger:
    """The folder in which the rounds of one factor are kept.

    Attributes:
        folder: of the factor's flywheel.
    """

    folder: Path

    @staticmethod
    def of(state: Path, name: str, tenant: str | None = None) -> Ledger:
        """The ledger of a factor under a server's state folder.

        Raises:
            InputError: for a name or a tenant that cannot name a folder.
        """
        if not re.fullmatch(NAME_PATTERN, name):
            raise InputError(f"a name is small letters, digits, - and _, beginning with a letter, got {name!r}")
        if tenant and not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}", tenant):
            raise InputError(f"a tenant is letters, digits, - and _, got {tenant[:80]!r}; see factorlm serve keys list")
        return Ledger(state / "flywheel" / (f"tenant-{tenant}" if tenant else "all") / name)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Nobody else turns this flywheel meanwhile.

        Raises:
            InputError: if somebody does, or the folder cannot be written.
        """
        from filelock import FileLock, Timeout

        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / LOCK)
            lock.acquire(timeout=0)
        except Timeout:
            raise InputError(f"another round runs in {self.folder}; wait until it is done") from None
        except OSError as error:
            reason = error.strerror or error
            raise InputError(f"{self.folder} cannot be written: {reason}; choose another --state") from None
        try:
            yield
        finally:
            lock.release()

    def place(self, number: int) -> Path:
        """The folder of a round."""
        return self.folder / "rounds" / f"{number:04}"

    def candidates(self, number: int) -> Store:
        """Where the candidate of a round lies, promoted or not."""
        return Store(self.place(number) / "candidate")

    def cards(self) -> list[Card]:
        """Of all rounds, the first one first.

        Raises:
            IntegrityError: if one cannot be read.
        """
        paths = sorted((self.folder / "rounds").glob(f"[0-9]*/{CARD}"))
        return [_read(path, Card) for path in paths]

    def write(self, card: Card) -> None:
        """Write the card of a round, whole or not at all."""
        write_whole(self.place(card.round) / CARD, card.model_dump_json(indent=1) + "\n")

    def holdout(self) -> Holdout | None:
        """The frozen holdout, or None before it is frozen."""
        path = self.folder / HOLDOUT
        return _read(path, Holdout) if path.is_file() else None

    def freeze(self, holdout: Holdout) -> None:
        """Write the holdout down."""
        write_whole(self.folder / HOLDOUT, holdout.model_dump_json(indent=1) + "\n")

    def quarantined(self) -> set[int]:
        """Numbers of events that are not learned from."""
        return {number for card in self.cards() for number in card.quarantined}


CardOrHoldout = TypeVar("CardOrHoldout", Card, Holdout)


def _read(path: Path, kind: type[CardOrHoldout]) -> CardOrHoldout:
    try:
        return kind.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        raise IntegrityError(f"{path}: {explain_validation(error, 'the file')}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise IntegrityError(f"{path} cannot be read ({error}); restore it from a copy, or remove its folder") from None
