"""What estimators of uncertainty look at: a question, the answer, samples, what the model says of its answer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from factorlm.algebra import LocalProduct, device_of, pad_left
from factorlm.factors.headed import fuse
from factorlm.inference.draw import Sampling
from factorlm.inference.model import Model
from factorlm.models.causal import common_start
from factorlm.settings import Config

READ_TOKENS = 4096  # read at once, padding included
ALIKE = 0.6  # share of the longest row that all rows of a batch begin with
MOST_REPEATED = 64  # tokens that each row of a batch may read for itself
EXAMPLES = (
    ("How many days are there in a week?", "seven"),
    ("Which planet is nearest to the Sun?", "Mercury"),
    ("What do bees make from nectar?", "honey"),
    ("Who wrote the play Hamlet?", "William Shakespeare"),
)  # ours; they show that an answer is short


@dataclass(frozen=True)
class Query:
    """A question as it is put to a model.

    Attributes:
        question: alone, which estimators compare and perturb.
        before: what the model reads before it.
        after: what it reads behind it; then it answers.
        is_chat: whether all of that is a user's message.
    """

    question: str
    before: str = "Question: "
    after: str = "\nAnswer:"
    is_chat: bool = False

    @property
    def prompt(self) -> str:
        """All that is read."""
        return f"{self.before}{self.question}{self.after}"

    def asked(self, question: str) -> Query:
        """Another question, put in the same way."""
        return Query(question, self.before, self.after, self.is_chat)

    @staticmethod
    def short(question: str, passage: str = "", examples: Sequence[tuple[str, str]] = EXAMPLES) -> Query:
        """A question that wants a short answer, after examples and perhaps a passage."""
        shown = "".join(f"Question: {asked}\nAnswer: {answer}\n\n" for asked, answer in examples)
        return Query(question, shown + (f"Passage: {passage}\n" if passage else "") + "Question: ")


class Asking(Config):
    """How answers are had.

    Attributes:
        samples: answers drawn of each question.
        max_tokens: of an answer.
        temperature: that samples are drawn at.
        stop: strings at which an answer ends.
        seed: of all randomness.
    """

    samples: int = 10
    max_tokens: int = 12
    temperature: float = 0.7
    stop: tuple[str, ...] = ("\n",)
    seed: int = 0


@dataclass(frozen=True)
class Answer:
    """An answer that a model gave.

    Attributes:
        text: without blanks around it.
        log_prob: of its tokens, the end included, under the composed model at temperature one, in nats.
        num_tokens: of these.
    """

    text: str
    log_prob: float
    num_tokens: int

    @property
    def mean_log_prob(self) -> float:
        """Nats per token."""
        return self.log_prob / max(1, self.num_tokens)


@dataclass(frozen=True)
class Variant:
    """The question in other words, with answers to it.

    Attributes:
        question: in these words.
        answers: drawn anew.
    """

    question: str
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class Evidence:
    """All that estimators may look at; what was not asked for is None or empty.

    Attributes:
        question: alone.
        answer: the greedy one, which confidence is about.
        samples: drawn at the temperature.
        true_logit: log odds that the model calls its answer true, less those where no answer stands there.
        known_logit: log odds, by a head on the state behind the question, that the model knows the answer.
        variants: of the question, the question itself first.
        between: mean nats per token of the answer that the components of a prior disagree in.
    """

    question: str
    answer: Answer
    samples: tuple[Answer, ...] = ()
    true_logit: float | None = None
    known_logit: float | None = None
    variants: tuple[Variant, ...] = ()
    between: float | None = None

    @cached_property
    def texts(self) -> tuple[str, ...]:
        """Of the samples."""
        return tuple(answer.text for answer in self.samples)


def greedy_answers(model: Model, queries: Sequence[Query], asking: Asking) -> list[Answer]:
    """The most probable tokens one by one, for each query."""
    sampling = Sampling(temperature=0.0, stop=asking.stop)
    return [row[0] for row in _answers(model, queries, asking, 1, sampling)]


def sampled_answers(model: Model, queries: Sequence[Query], asking: Asking) -> list[tuple[Answer, ...]]:
    """Answers drawn at the temperature, for each query."""
    sampling = Sampling(temperature=asking.temperature, stop=asking.stop)
    return _answers(model, queries, asking, asking.samples, sampling)


def _answers(
    model: Model, queries: Sequence[Query], asking: Asking, n: int, sampling: Sampling
) -> list[tuple[Answer, ...]]:
    found: list[tuple[Answer, ...]] = [()] * len(queries)
    for batch in _asked_together(model, queries, n):
        responses = model.generate(
            [queries[i].prompt for i in batch], n=n, max_tokens=asking.max_tokens, seed=asking.seed, sampling=sampling,
            chat=queries[batch[0]].is_chat,
        )  # fmt: skip
        answers = [Answer(r.text.strip(), r.log_prob, len(r.token_ids)) for r in responses]
        for place, i in enumerate(batch):
            found[i] = tuple(answers[place * n : (place + 1) * n])
    return found


def _asked_together(model: Model, queries: Sequence[Query], n: int) -> list[list[int]]:
    """Numbers of queries, in batches.

    What all rows of a batch begin with is read once, and the rest once a row: where that is long and a question has
    several rows, as behind a passage, it is asked by itself.
    """
    batches = []
    for is_chat in (False, True):
        chosen = [i for i, query in enumerate(queries) if query.is_chat == is_chat]
        if chosen and n > 1 and repeats_much(model, [queries[i] for i in chosen]):
            batches += [[i] for i in chosen]
        elif chosen:
            batches.append(chosen)
    return batches


def repeats_much(model: Model, queries: Sequence[Query]) -> bool:
    """Whether much is left of a prompt behind what all of them begin with."""
    rows = [tuple(prompt_ids_of(model, query)) for query in queries]
    return max(map(len, rows)) - len(common_start(rows)) > MOST_REPEATED


def prompt_ids_of(model: Model, query: Query, max_tokens: int = 0) -> list[int]:
    """The tokens that are read before an answer."""
    return model.encode_prompt(query.prompt, max_tokens, chat=query.is_chat)


@torch.no_grad()
def next_log_odds(model: Model, contexts: Sequence[Sequence[int]], first: int, second: int) -> list[float]:
    """Nats by which one next token is likelier than another behind each context."""
    factor = fuse(LocalProduct.of(model.factor))
    found = [math.nan] * len(contexts)
    for batch in _read_together([tuple(context) for context in contexts]):
        prefix_BT = pad_left([list(contexts[i]) for i in batch]).to(device_of(factor))
        log_prob_BV = factor.start(prefix_BT).log_weight_BV
        odds_B = (log_prob_BV[:, first] - log_prob_BV[:, second]).tolist()
        for i, odds in zip(batch, odds_B, strict=True):
            found[i] = odds
    return found


def _read_together(rows: Sequence[tuple[int, ...]]) -> Iterator[list[int]]:
    """Numbers of rows, in batches that mostly begin alike, so that most of them is read once."""
    order = sorted(range(len(rows)), key=lambda i: rows[i])
    while order:
        size = 1
        while size < len(order):
            tried = [rows[i] for i in order[: size + 1]]
            longest = max(map(len, tried))
            if len(common_start(tried)) < ALIKE * longest or longest * (size + 1) > READ_TOKENS:
                break
            size += 1
        yield order[:size]
        order = order[size:]
