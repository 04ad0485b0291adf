"""Rounds with a planted taste: promoted if better, blocked if not, undone bit for bit, forgotten for good."""

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from factorlm.errors import InputError, IntegrityError
from factorlm.factors.calibration import head_strengths
from factorlm.factors.head import EncoderCard, Head
from factorlm.factors.manifest import HeadSettings, LexiconSettings, Manifest
from factorlm.factors.store import Store, read_manifest
from factorlm.models import CausalLM
from factorlm.serving.database import Database, Feedback
from factorlm.serving.flywheel.events import collect
from factorlm.serving.flywheel.forget import forget, gone, replay, trace
from factorlm.serving.flywheel.ledger import FlywheelSettings, Ledger, digest_of_keys
from factorlm.serving.flywheel.report import write_card
from factorlm.serving.flywheel.wheel import Flywheel, bound_head, is_reserved, without_leaks

MakeHead = Callable[..., Head]
LETTERS = "abcdefghijklmnopqrsuvwxy"
# Guards are loose here: the tiny model has one word in twenty at its disposal, and writes nothing but letters.
LOOSE = FlywheelSettings(
    most_divergence=50.0, most_neutral_cost=50.0, most_fluency_cost=5.0, most_loops=0.99, most_toxic=0.99, strength=0.2
)


def words(num: int, chance: random.Random, length: int = 8) -> list[str]:
    return [" ".join(chance.choices(LETTERS, k=length)) for _ in range(num)]


def liking(head: Head, texts: Sequence[str]) -> list[float]:
    """What a head adds to each text, beyond what it adds to the mean token."""
    potential_V = head.lm.unembed(head.weights.bias_D)
    potential_V = potential_V - potential_V[torch.tensor(head.lm.encode_text(" " + " ".join(LETTERS)))].mean()
    return [float(potential_V[torch.tensor(head.lm.encode_text(" " + text))].sum()) for text in texts]


def send(database: Database, head: Head, num: int, seed: int, *, flip: bool = False, noise: float = 0.0) -> list[int]:
    """So many prompts with two texts each, one liked and the other not; the numbers of the rows."""
    chance = random.Random(seed)
    found = []
    for n in range(num):
        prompt = " ".join(chance.choices(LETTERS, k=6))
        one, other = sorted(words(2, chance), key=lambda text: liking(head, [text])[0])
        up, down = (one, other) if flip != (chance.random() < noise) else (other, one)
        for thumb, text in (("up", up), ("down", down)):
            row = Feedback(response_id=f"{seed}-{n}-{thumb}", prompt=prompt, text=text, thumb=thumb)
            found.append(database.add_feedback(row))
    return found


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with Database(tmp_path / "server.sqlite") as found:
        yield found


@pytest.fixture
def flywheel(tmp_path: Path, database: Database, monkeypatch: pytest.MonkeyPatch) -> Flywheel:
    monkeypatch.setenv("FACTORLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FACTORLM_STORE", str(tmp_path / "own"))
    store = Store(tmp_path / "factors")
    return Flywheel("liked", database, store, Ledger.of(tmp_path, "liked"), settings=LOOSE, command="factorlm test")


def save_opposite(store: Store, head: Head) -> None:
    """A factor that somebody had before: of the opposite taste."""
    weights, lm = head.weights.scaled(-1.0), head.lm
    manifest = Manifest(
        name="liked", settings=HeadSettings(rank=0), strengths=head_strengths(lm, weights),
        encoder=EncoderCard(name=lm.name, fingerprint=lm.fingerprint, width=lm.width),
    )  # fmt: skip
    store.save(manifest, {"bias": weights.bias_D, "up": weights.up_DR, "down": weights.down_RD})


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_round_waits_learns_promotes_and_waits_again(
    flywheel: Flywheel, database: Database, tiny_lm: CausalLM, make_head: MakeHead, tmp_path: Path
) -> None:
    send(database, make_head(0, 1), 5, seed=0)
    card = flywheel.turn(tiny_lm)
    assert (card.decision, card.rows) == ("waiting", 10)
    assert "held-out prompts is needed" in card.reason
    assert flywheel.ledger.cards() == []
    send(database, make_head(0, 1), 160, seed=1)
    card = flywheel.turn(tiny_lm)
    assert card.decision == "promoted", card.reason
    assert (card.round, card.before, card.version) == (1, "", "0.2.0")
    found = card.evaluation
    assert found is not None
    assert found.accuracy["candidate"].value > 0.65
    assert found.accuracy["in use"].value == 0.5
    assert found.loss["in use"].value == pytest.approx(0.6931, abs=1e-4)
    manifest = read_manifest(flywheel.store.folder / "liked")
    assert manifest.data.train[0].fingerprint == card.events_digest == digest_of_keys(e.key for e in card.events)
    held = {event.id for event in (flywheel.ledger.holdout() or pytest.fail("no holdout")).events}
    assert held.isdisjoint(event.id for event in card.events)
    assert found.num_prompts == len(held) // 2
    assert flywheel.turn(tiny_lm).reason == "nothing new to learn from since a round with these settings"
    assert flywheel.ledger.cards() == [card]
    paths = write_card(flywheel.ledger.cards(), tmp_path / "report")
    assert {"report.json", "report.md", "report.html"} <= {path.name for path in paths}
    report = json.loads(paths[0].read_text())
    assert report["title"] == "liked, round 1: promoted"
    assert "Gain by round" in paths[2].read_text()


def test_flipped_feedback_is_blocked_and_quarantined_and_good_feedback_then_still_counts(
    flywheel: Flywheel, database: Database, tiny_lm: CausalLM, make_head: MakeHead
) -> None:
    taste = make_head(0, 1)
    send(database, taste, 120, seed=1)
    first = flywheel.turn(tiny_lm)
    assert first.decision == "promoted", first.reason
    before = content(flywheel.store.folder / "liked")
    bad = send(database, taste, 120, seed=2, flip=True)
    card = flywheel.turn(tiny_lm)
    assert card.decision == "blocked"
    assert set(card.quarantined) == set(card.new) <= set(bad)
    assert content(flywheel.store.folder / "liked") == before
    holdout = flywheel.ledger.holdout()
    assert holdout is not None
    assert holdout.digest == first.holdout_digest == card.holdout_digest  # bad feedback on reserved prompts stays out
    assert flywheel.turn(tiny_lm).reason == "nothing new to learn from since a round with these settings"
    good = send(database, taste, 20, seed=3)
    card = flywheel.turn(tiny_lm)
    learned = {event.id for event in card.events}
    assert not learned & set(bad)
    assert learned & set(good) == set(card.new)
    assert card.version == "0.4.0"  # 0.3.0 was the one that was blocked


def test_rolling_back_brings_the_bytes_back(
    flywheel: Flywheel, database: Database, tiny_lm: CausalLM, make_head: MakeHead
) -> None:
    save_opposite(flywheel.store, make_head(0, 1))
    before = content(flywheel.store.folder / "liked")
    with pytest.raises(InputError, match=r"is needed to roll back from, got 0\.1\.0 in use"):
        flywheel.roll_back()
    send(database, make_head(0, 1), 110, seed=1)
    card = flywheel.turn(tiny_lm)
    assert (card.decision, card.before, card.version) == ("promoted", "0.1.0", "0.2.0"), card.reason
    (change,) = read_manifest(flywheel.store.folder / "liked").changes
    assert change.what.startswith("learned anew from")
    assert flywheel.roll_back().decision == "rolled back"
    assert content(flywheel.store.folder / "liked") == before
    assert flywheel.turn(tiny_lm).decision == "waiting"  # what was rolled back does not come again of itself
    assert [card.decision for card in flywheel.ledger.cards()] == ["promoted", "rolled back"]


def test_rolling_back_the_first_version_leaves_the_base_alone(
    flywheel: Flywheel, database: Database, tiny_lm: CausalLM, make_head: MakeHead
) -> None:
    send(database, make_head(0, 1), 110, seed=1)
    assert flywheel.turn(tiny_lm).decision == "promoted"
    flywheel.roll_back()
    assert flywheel.store.names() == []
    assert flywheel.in_use() is None


def test_a_promotion_that_was_interrupted_is_finished(
    flywheel: Flywheel, database: Database, tiny_lm: CausalLM, make_head: MakeHead, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(database, make_head(0, 1), 100, seed=1)

    def dies(*_: object) -> Path:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Flywheel, "_promote", dies)
        with pytest.raises(KeyboardInterrupt):
            flywheel.turn(tiny_lm)
    assert flywheel.ledger.cards()[-1].decision == "promoting"
    assert flywheel.store.names() == []
    assert flywheel.turn(tiny_lm).decision == "waiting"
    (card,) = flywheel.ledger.cards()
    assert card.decision == "promoted"
    assert read_manifest(flywheel.store.folder / "liked").version == card.version


def test_a_round_can_be_replayed_bit_for_bit(
    flywheel: Flywheel, database: Database, tiny_lm: CausalLM, make_head: MakeHead
) -> None:
    send(database, make_head(0, 1), 100, seed=1)
    card = flywheel.turn(tiny_lm)
    again = replay(flywheel, card, tiny_lm, set())
    weights = [flywheel.ledger.candidates(c.round).folder / "liked" / "weights.safetensors" for c in (card, again)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    assert again.events_digest == card.events_digest
    less = replay(flywheel, card, tiny_lm, {card.events[0].id, card.events[1].id})
    assert (
        weights[0].read_bytes()
        != (flywheel.ledger.candidates(less.round).folder / "liked" / "weights.safetensors").read_bytes()
    )
    database.delete_feedback([card.events[0].id])
    with pytest.raises(InputError, match="are needed as they were, got"):
        replay(flywheel, card, tiny_lm, set())


def test_forgetting_leaves_no_version_that_knew(
    flywheel: Flywheel, database: Database, tiny_lm: CausalLM, make_head: MakeHead
) -> None:
    save_opposite(flywheel.store, make_head(0, 1))
    before = content(flywheel.store.folder / "liked")
    send(database, make_head(0, 1), 110, seed=1)
    first = flywheel.turn(tiny_lm)
    assert first.decision == "promoted", first.reason
    held = (flywheel.ledger.holdout() or pytest.fail("no holdout")).events[0].id
    ids = [first.new[0], first.new[5], held, 10**6]
    found, card = forget(flywheel, database, ids, None)
    assert found == trace(flywheel, ids)
    assert (found.rounds, found.versions, found.in_use, found.num_held, card) == ((1,), ("0.2.0",), True, 1, None)
    assert {row.id for row in database.feedback()} >= set(ids[:3])  # nothing was changed yet
    assert gone(flywheel) == []
    database.delete_feedback([ids[1]])  # by somebody who knows nothing of the flywheel
    assert gone(flywheel) == [ids[1]]
    found, card = forget(flywheel, database, ids, tiny_lm)
    assert card is not None
    assert card.decision == "retrained"
    assert {row.id for row in database.feedback()}.isdisjoint(ids)
    assert {event.id for event in card.events} == {event.id for event in first.events} - set(ids)
    assert gone(flywheel) == []
    now = read_manifest(flywheel.store.folder / "liked")
    assert now.version == card.version == "0.3.0"
    assert now.data.train[0].fingerprint == card.events_digest
    assert not flywheel.ledger.candidates(1).folder.exists()
    assert held not in {event.id for event in (flywheel.ledger.holdout() or pytest.fail("no holdout")).events}
    kept = {path.name for path in (flywheel.store.folder / ".versions" / "liked").iterdir()}
    assert kept == {"0.1.0"}  # it did not know them
    flywheel.roll_back()
    assert content(flywheel.store.folder / "liked") == before
    assert trace(flywheel, ids).in_use is False


def test_forgetting_nearly_everything_takes_the_factor_away(
    flywheel: Flywheel, database: Database, tiny_lm: CausalLM, make_head: MakeHead
) -> None:
    send(database, make_head(0, 1), 110, seed=1)
    card = flywheel.turn(tiny_lm)
    _, after = forget(flywheel, database, [event.id for event in card.events[8:]], tiny_lm)
    assert after is not None
    assert after.decision == "removed"
    assert flywheel.store.names() == []


def test_one_round_at_a_time(flywheel: Flywheel, tiny_lm: CausalLM) -> None:
    with flywheel.ledger.locked(), pytest.raises(InputError, match="another round runs"):
        flywheel.turn(tiny_lm)


def test_only_heads_learn_and_a_broken_card_is_named(
    flywheel: Flywheel, database: Database, tiny_lm: CausalLM, make_head: MakeHead
) -> None:
    flywheel.store.save(Manifest(name="liked", settings=LexiconSettings(phrases={"good": 1.0})))
    with pytest.raises(InputError, match="feedback teaches heads, got liked, a lexicon"):
        bound_head(flywheel.store.folder / "liked", tiny_lm)
    place = flywheel.ledger.place(1) / "card.json"
    place.parent.mkdir(parents=True)
    place.write_text("{}")
    with pytest.raises(IntegrityError, match=r"card\.json"):
        flywheel.ledger.cards()
    with pytest.raises(InputError, match="a tenant is"):
        Ledger.of(Path("x"), "liked", "../up")
    with pytest.raises(InputError, match="a name is"):
        Ledger.of(Path("x"), "../liked")


def test_what_is_held_out_does_not_leak(database: Database, make_head: MakeHead) -> None:
    send(database, make_head(0, 1), 200, seed=5)
    events = collect(database.feedback()).events
    reserved = [event for event in events if is_reserved(event, "liked", 0.25)]
    assert 0.15 < len(reserved) / len(events) < 0.35
    other_case = [replace(event, prompt=f"  {event.prompt.upper()}!") for event in reserved]
    assert all(is_reserved(event, "liked", 0.25) for event in other_case)
    learn = [event for event in events if event not in reserved]
    copy = replace(learn[0], text=reserved[3].text.upper())
    assert without_leaks([copy, *learn[1:]], reserved, 0.8) == (learn[1:], 1)
