"""A demonstration of the flywheel: simulated users with a hidden taste rate what the model writes, round after round.

Users prefer texts by a utility that nothing but their choices tells of, and err now and then. In each round the current
composition writes a few texts for each of many prompts, and users name the best and the worst of some of them: of those
where that is uncertain and new, and of a random share.
What is measured is hidden from the loop: how often texts of the current composition beat those of the bare model in the
users' eyes, on prompts that occur nowhere else. In one round users say the opposite of what they think.
"""

# Axes: B texts, D width, M comparisons, N sets of texts, P prompts.

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from factorlm.errors import InputError
from factorlm.evaluation.diversity import distinct, words_of
from factorlm.evaluation.intervals import Estimate, mean_interval
from factorlm.evaluation.workbench import Cache
from factorlm.factors.feedback import Pair, Preferences
from factorlm.factors.head import Head
from factorlm.factors.store import Store
from factorlm.files import write_whole
from factorlm.inference import Model, Sampling
from factorlm.models import CausalLM
from factorlm.models.progress import Report, quiet
from factorlm.serving.database import Database, Feedback
from factorlm.serving.flywheel.demo_prompts import prompts_shuffled
from factorlm.serving.flywheel.events import Event
from factorlm.serving.flywheel.gate import Trials
from factorlm.serving.flywheel.ledger import Card, FlywheelSettings, Ledger
from factorlm.serving.flywheel.selection import RANDOM_SHARE, entropy, select
from factorlm.serving.flywheel.wheel import Flywheel, bound_head, is_reserved
from factorlm.settings import Config

Array = NDArray[np.float64]
Numbers = Callable[[Sequence[str]], Array]  # of texts
Arm = Literal["users", "random", "self"]
NAME = "liked"
BATCH_TEXTS = 64
Count = Annotated[int, Field(ge=1)]


class DemoSettings(Config):
    """A demonstration.

    Attributes:
        rounds: of the flywheel.
        pool: prompts that texts are written for in each round.
        budget: prompts of these that users are asked about.
        held: prompts asked about before the first round, to judge by.
        shown: texts for a prompt, of which users name the best and the worst.
        judged: frozen prompts on which the gain is measured.
        samples: texts for each of these.
        max_tokens: of a text.
        noise: share of choices that are errors.
        flipped: the round in which users say the opposite; 0 for none.
        top_p: of sampling.
        seed: of all randomness.
        flywheel: settings of rounds.
    """

    rounds: Count = 5
    pool: Count = 75
    budget: Count = 60
    held: Count = 80
    shown: Annotated[int, Field(ge=2)] = 4
    judged: Count = 40
    samples: Count = 2
    max_tokens: Count = 20
    noise: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    flipped: Annotated[int, Field(ge=0)] = 3
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.9
    seed: int = 0
    flywheel: FlywheelSettings = FlywheelSettings(strength=0.5)


SIZES = {
    "small": DemoSettings(),
    "full": DemoSettings(pool=250, budget=200, held=200, judged=100, samples=4),
}


class Turn(Config):
    """What a round of a demonstration came to.

    Attributes:
        round: number; 0 is the bare model.
        labels: choices that users had made by then, held-out ones included.
        decision: of the gate.
        reason: for it.
        version: in use after the round; empty for the bare model.
        flipped: whether users said the opposite of what they think.
        win_rate: of the composition in use against the bare model, by the hidden utility.
        utility: mean hidden utility of its texts.
        distinct: share of different pairs of words in its texts.
        base_nats: nats per token of its texts under the bare model.
        held_accuracy: of the candidate on held-out choices; None where there was no candidate.
        seconds: that the round took.
    """

    round: int
    labels: int
    decision: str
    reason: str
    version: str
    flipped: bool
    win_rate: Estimate
    utility: Estimate
    distinct: float
    base_nats: float
    held_accuracy: Estimate | None = None
    seconds: float = 0.0


class Turns(Config):
    """All rounds of one arm so far."""

    turns: tuple[Turn, ...] = ()


@dataclass(frozen=True)
class Written:
    """A text of a model: what follows the prompt, and nats per token under the composition and under the base."""

    prompt: str
    text: str
    nats: float
    base_nats: float


@dataclass(frozen=True, eq=False)
class Demo:
    """One arm of the demonstration, in a folder of its own; run again, it goes on where it was.

    Attributes:
        folder: of its database, store, ledger and texts.
        lm: the model.
        utility: what users think of texts, hidden from the loop.
        vectors: of texts, to tell what is new; of length one.
        settings: of the demonstration.
        arm: "users" asks about what is uncertain and new; "random" at random; "self" asks nobody, and takes the text
            that the composition itself finds more probable as the better one.
        command: that runs it, for cards.
    """

    folder: Path
    lm: CausalLM
    utility: Numbers
    vectors: Numbers
    settings: DemoSettings
    arm: Arm = "users"
    command: str = ""

    def run(self, report: Report = quiet) -> tuple[Turn, ...]:
        """All rounds.

        Raises:
            InputError: if the folder holds another demonstration.
        """
        self._check_folder()
        path = self.folder / "turns.json"
        turns = Turns.model_validate_json(path.read_text(encoding="utf-8")).turns if path.is_file() else ()
        with Database(self.folder / "server.sqlite") as database:
            flywheel = self.flywheel(database)
            if not turns:
                turns = (self._measured(flywheel, 0, 0, None, report),)
            self._ask_held(database, report)
            while len(turns) <= self.settings.rounds:
                number, begun = len(turns), time.monotonic()
                self._ask(flywheel, database, number, report)
                done = len(flywheel.ledger.cards())
                card = flywheel.turn(self.lm, report=report)
                if card.decision == "waiting" and done == number:  # the round was turned before, and then interrupted
                    card = flywheel.ledger.cards()[-1]
                turn = self._measured(flywheel, number, self._labels(database), card, report)
                turns = (*turns, turn.model_copy(update={"seconds": time.monotonic() - begun}))
                write_whole(path, Turns(turns=turns).model_dump_json(indent=1) + "\n")
                report(f"rounds, {self.arm}", number, self.settings.rounds)
        return turns

    def flywheel(self, database: Database) -> Flywheel:
        """The flywheel that is turned."""
        settings = self.settings.flywheel.model_copy(update={"seed": self.settings.seed})
        return Flywheel(NAME, database, Store(self.folder / "factors"), Ledger.of(self.folder, NAME),
                        settings=settings, command=self.command)  # fmt: skip

    def _check_folder(self) -> None:
        wanted = self.settings.model_dump_json() + f" {self.arm} {self.lm.fingerprint}\n"
        path = self.folder / "settings.json"
        if path.is_file() and path.read_text(encoding="utf-8") != wanted:
            raise InputError(
                f"{self.folder} holds a demonstration with other settings; give another --out, or empty it"
            )
        write_whole(path, wanted)

    # What is written

    def write(self, head: Head | None, prompts: Sequence[str], n: int, seed: int, report: Report) -> list[Written]:
        """Texts of the composition in use, prompt by prompt; what was written once is found again."""
        model = Model(self.lm, self.lm)
        digest = ""
        if head is not None:
            assert head.strengths is not None
            exponent = head.strengths.exponent(self.settings.flywheel.strength)
            model = model * head**exponent
            digest = f"{exponent} {head.weights.bias_D.tolist()}"
        cache = Cache(self.folder / "texts")
        size = max(1, BATCH_TEXTS // n)
        found: list[Written] = []
        for start in range(0, len(prompts), size):
            batch = list(prompts[start : start + size])

            def compute(batch: list[str] = batch) -> list[Any]:
                responses = model.generate(
                    batch, n=n, max_tokens=self.settings.max_tokens, seed=seed,
                    sampling=Sampling(top_p=self.settings.top_p),
                )  # fmt: skip
                return [
                    [r.text, -r.log_prob / max(1, len(r.token_ids)), -r.base_log_prob / max(1, len(r.token_ids))]
                    for r in responses
                ]

            key = {"model": self.lm.fingerprint, "head": digest, "prompts": batch, "n": n, "seed": seed,
                   "max_tokens": self.settings.max_tokens, "top_p": self.settings.top_p}  # fmt: skip
            rows = cache.get(key, compute)
            found += [Written(batch[i // n], *row) for i, row in enumerate(rows)]
            report("writing texts", start + len(batch), len(prompts))
        return found

    def _sets(self, head: Head | None, prompts: Sequence[str], seed: int, report: Report) -> list[tuple[Written, ...]]:
        """Different texts for each prompt that has at least two."""
        n = self.settings.shown
        written = self.write(head, prompts, n, seed, report)
        sets = []
        for start in range(0, len(written), n):
            distinct_texts = {one.text.strip(): one for one in written[start : start + n] if one.text.strip()}
            sets.append(tuple(distinct_texts.values()))
        return [found for found in sets if len(found) > 1]

    # Who is asked what

    def _ask_held(self, database: Database, report: Report) -> None:
        """Before the first round: choices on reserved prompts, all of them, of texts of the bare model."""
        prompts = self._prompts(reserved=True)[: self.settings.held]
        if len(prompts) < self.settings.held:
            raise InputError(
                f"at most {len(prompts)} prompts can be held out, got held={self.settings.held}; take less"
            )
        sets = self._sets(None, prompts, self._seed(0), report)
        self._keep(database, 0, sets, [("random", 1.0)] * len(sets))

    def _ask(self, flywheel: Flywheel, database: Database, number: int, report: Report) -> None:
        """Choices of a round."""
        if any(_round(row) == number for row in database.feedback()) and len(flywheel.ledger.cards()) >= number:
            return
        prompts = self._prompts(reserved=False)
        start = (number - 1) * self.settings.pool
        pool = [prompts[(start + i) % len(prompts)] for i in range(self.settings.pool)]
        source = flywheel.in_use()
        head = None if source is None else bound_head(source, self.lm)
        sets = self._sets(head, pool, self._seed(number), report)
        rows = [row for row in database.feedback() if _round(row) < number]
        labelled = [f"{row.prompt} {row.text}" for row in rows]
        vector_ND = np.stack(
            [self.vectors([f"{one.prompt} {one.text.strip()}" for one in found]).mean(0) for found in sets]
        )
        chosen = select(
            self._uncertainty(head, sets, report), _unit(vector_ND), self.vectors(labelled) if labelled else None,
            self.settings.budget, np.random.default_rng(self._seed(number)),
            random_share=1.0 if self.arm == "random" else RANDOM_SHARE,
        )  # fmt: skip
        asked = [("random" if chosen.is_random(k) else "chosen", share) for k, share in enumerate(chosen.propensities)]
        self._keep(database, number, [sets[i] for i in chosen.indices], asked)

    def _uncertainty(self, head: Head | None, sets: Sequence[tuple[Written, ...]], report: Report) -> Array:
        """Entropy of which text the version in use expects to be chosen, [N], in nats."""
        if head is None:
            return np.array([math.log(len(found)) for found in sets])
        pairs = [Pair(found[0].prompt, found[0].text.strip(), one.text.strip()) for found in sets for one in found[1:]]
        trials = Trials.of(Preferences(tuple(pairs)))
        gap_M = iter(trials.gaps(self.lm, head, trials.features(self.lm, report)).tolist())
        return np.array([entropy([0.0, *(-next(gap_M) for _ in found[1:])]) for found in sets])

    def _keep(
        self, database: Database, number: int, sets: Sequence[tuple[Written, ...]], asked: Sequence[tuple[str, float]]
    ) -> None:
        """Users choose, and their thumbs go into the database; those that are in it stay."""
        known = {row.response_id for row in database.feedback()}
        for n, ((how, share), (best, worst)) in enumerate(zip(asked, self._choices(number, sets), strict=True)):
            about = {"flywheel": {"round": number, "how": how, "propensity": share}}
            for thumb, one in (("up", best), ("down", worst)):
                response = f"round {number}, question {n}, {thumb}"
                if response not in known:
                    database.add_feedback(
                        Feedback(response_id=response, prompt=one.prompt, text=one.text.strip(), thumb=thumb,
                                 setting=about, model=self.lm.name)
                    )  # fmt: skip

    def _choices(self, number: int, sets: Sequence[tuple[Written, ...]]) -> list[tuple[Written, Written]]:
        """The best and the worst text of each set, the other way round where users err."""
        if self.arm == "self":
            return [(min(found, key=lambda w: w.nats), max(found, key=lambda w: w.nats)) for found in sets]
        liking = iter(self.utility([one.text for found in sets for one in found]).tolist())
        chance = random.Random(self._seed(number))
        is_flipped = number == self.settings.flipped
        choices = []
        for found in sets:
            order = sorted([(next(liking), n) for n in range(len(found))])
            worst, best = found[order[0][1]], found[order[-1][1]]
            is_wrong = (chance.random() < self.settings.noise) ^ is_flipped
            choices.append((worst, best) if is_wrong else (best, worst))
        return choices

    # What came of it

    def _measured(self, flywheel: Flywheel, number: int, labels: int, card: Card | None, report: Report) -> Turn:
        """The composition in use against the bare model on the frozen prompts."""
        source = flywheel.in_use()
        head = None if source is None else bound_head(source, self.lm)
        prompts = prompts_shuffled(self.settings.seed)[: self.settings.judged]
        n, seed = self.settings.samples, self._seed(-1)
        mine, base = (self.write(which, prompts, n, seed, report) for which in (head, None))
        mine_PS, base_PS = (self.utility([w.text for w in texts]).reshape(-1, n) for texts in (mine, base))
        win_P = ((mine_PS[:, :, None] > base_PS[:, None]) + (mine_PS[:, :, None] == base_PS[:, None]) / 2).mean((1, 2))
        found = card.evaluation if card is not None else None
        return Turn(
            round=number,
            labels=labels,
            decision="" if card is None else card.decision,
            reason="" if card is None else card.reason,
            version="" if source is None else _version(source),
            flipped=number == self.settings.flipped and number > 0 and self.arm != "self",
            win_rate=mean_interval(win_P, seed=self.settings.seed),
            utility=mean_interval(mine_PS.mean(1), seed=self.settings.seed),
            distinct=distinct([words_of(w.text) for w in mine], 2),
            base_nats=float(np.mean([w.base_nats for w in mine])),
            held_accuracy=None if found is None else found.accuracy["candidate"],
        )

    def _prompts(self, *, reserved: bool) -> list[str]:
        """Prompts that are not measured on, of those that are judged by alone or of the others."""
        share = self.settings.flywheel.reserve
        rest = prompts_shuffled(self.settings.seed)[self.settings.judged :]
        return [p for p in rest if is_reserved(Event(0, "", p, p, None), NAME, share) == reserved]

    def _labels(self, database: Database) -> int:
        return 0 if self.arm == "self" else sum(row.thumb == "up" for row in database.feedback())

    def _seed(self, number: int) -> int:
        return 1000 * self.settings.seed + 17 * (number + 2)


def sentiment_utility(label: str = "positive", judge: str = "sentiment") -> Numbers:
    """Log odds of a label in the eyes of a judge of the package; what cannot be read has the lowest."""
    from factorlm.evaluation.judges import load_judge

    found = load_judge(judge)
    column = found.index(label)

    def utility(texts: Sequence[str]) -> Array:
        prob_B = np.clip(np.nan_to_num(found.probabilities(list(texts))[:, column], nan=0.0), 1e-6, 1 - 1e-6)
        return np.asarray(np.log(prob_B) - np.log1p(-prob_B), float)

    return utility


def sentence_vectors() -> Numbers:
    """What texts say, by the package's sentence encoder."""
    from factorlm.models.sentences import load_sentence_encoder

    encoder = load_sentence_encoder()
    return lambda texts: np.asarray(encoder.encode(list(texts)).numpy(), float)


def with_rounds(settings: DemoSettings, rounds: int | None, seed: int) -> DemoSettings:
    """Settings with another number of rounds and another seed; a flipped round that there is not stays away."""
    rounds = settings.rounds if rounds is None else rounds
    flipped = settings.flipped if settings.flipped <= rounds else 0
    return settings.model_copy(update={"rounds": rounds, "seed": seed, "flipped": flipped})


def _round(row: Feedback) -> int:
    return int(row.setting["flywheel"]["round"])


def _unit(vector_ND: Array) -> Array:
    return np.asarray(vector_ND / np.maximum(np.linalg.norm(vector_ND, axis=1, keepdims=True), 1e-9), float)


def _version(folder: Path) -> str:
    from factorlm.factors.store import read_manifest

    return read_manifest(folder).version
