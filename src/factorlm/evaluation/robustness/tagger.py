"""A trained tagger: a small recurrent network over words, read by their letters or by a language model's states."""

# Axes: B utterances, W words, D width of states, T tags.

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import NonNegativeInt, PositiveFloat, PositiveInt
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence, pad_sequence

from factorlm.algebra import pad_left, pad_right
from factorlm.evaluation.robustness.utterances import OUTSIDE, from_tags, to_tags
from factorlm.models import CausalLM
from factorlm.models.progress import Report, quiet
from factorlm.settings import Config
from factorlm.text.perturbations import Marked, Span

BUCKETS = 1 << 14  # of letter groups; several may share one
UNKNOWN = -100  # tag of filling, which the loss leaves out
READ_TOKENS = 1024  # of a batch
LARGEST_GRADIENT = 1.0
Reads = Literal["letters", "states"]


class Learning(Config):
    """The tagger and its training.

    Attributes:
        width: of the recurrent layer, in each direction.
        steps: of training.
        batch: utterances of a step.
        learning_rate: at the start; it falls to zero.
        seed: of first weights and order.
    """

    width: PositiveInt = 64
    steps: PositiveInt = 600
    batch: PositiveInt = 32
    learning_rate: PositiveFloat = 4e-3
    seed: NonNegativeInt = 0


def letter_groups(word: str) -> list[int]:
    """Buckets of a word: itself, and its groups of three letters with its ends marked."""
    marked = f"<{word.lower()}>"
    groups = [marked, *(marked[i : i + 3] for i in range(len(marked) - 2))]
    return [zlib.crc32(group.encode()) % BUCKETS for group in groups]


def states(lm: CausalLM, rows: Sequence[Sequence[str]], report: Report = quiet) -> list[Tensor]:
    """What a language model knows after each word of some texts, [W, D] of each, in half precision."""
    pieces = [[lm.encode_text(f" {word}") for word in words] for words in rows]
    ids = [[token for piece in row for token in piece] for row in pieces]
    order = sorted(range(len(rows)), key=lambda i: len(ids[i]))
    found: list[Tensor] = [torch.empty(0, lm.width, dtype=torch.float16)] * len(rows)
    done = 0
    while done < len(order):
        batch = order[done : done + max(1, READ_TOKENS // (1 + max(1, len(ids[order[done]]))))]
        # States are those before each token, so one more is put behind, whichever it is.
        text_BT = pad_right([[*ids[i], ids[i][-1]] for i in batch])
        hidden_BTD = lm.hidden_before(pad_left([list(lm.start_ids)] * len(batch)), text_BT)
        for b, i in enumerate(batch):
            end_W = torch.tensor([len(piece) for piece in pieces[i]]).cumsum(0)
            found[i] = hidden_BTD[b, end_W].to("cpu", torch.float16)
        done += len(batch)
        report("reading utterances", done, len(rows))
    return found


class States:
    """States behind the words of texts, read once however often they are asked for.

    Attributes:
        lm: whose states.
    """

    def __init__(self, lm: CausalLM) -> None:
        self.lm = lm
        self._known: dict[tuple[str, ...], Tensor] = {}

    def of(self, rows: Sequence[Sequence[str]], report: Report = quiet) -> list[Tensor]:
        """States of each row of words; see `states`."""
        keys = [tuple(row) for row in rows]
        new = list(dict.fromkeys(key for key in keys if key not in self._known))
        self._known.update(zip(new, states(self.lm, new, report), strict=True))
        return [self._known[key] for key in keys]


class Network(nn.Module):
    """Words to tags."""

    def __init__(self, num_states: int, num_tags: int, width: int) -> None:
        super().__init__()
        self.read: nn.Module = (
            nn.Linear(num_states, 2 * width)
            if num_states
            else nn.EmbeddingBag(BUCKETS, 2 * width, mode="mean", sparse=True)
        )
        self.recurrent = nn.LSTM(2 * width, width, batch_first=True, bidirectional=True)
        self.tags = nn.Linear(2 * width, num_tags)

    def forward(self, inputs: Sequence[Tensor], length_B: Tensor) -> Tensor:
        """Logits of each word's tag, [B, W, T].

        Args:
            inputs: of each utterance its states [W, D], or the buckets of its words laid end to end and, in a second
                row, which word each belongs to.
            length_B: words of each.
        """
        if isinstance(self.read, nn.Linear):
            word_BWD = self.read(pad_sequence([x.float() for x in inputs], batch_first=True))
        else:
            owners = [x[1].bincount(minlength=int(n)) for x, n in zip(inputs, length_B, strict=True)]
            count_N = torch.cat(owners)
            start_N = count_N.cumsum(0) - count_N
            word_ND = self.read(torch.cat([x[0] for x in inputs]), start_N)
            word_BWD = pad_sequence(word_ND.split(length_B.tolist()), batch_first=True)
        packed = pack_padded_sequence(word_BWD, length_B, batch_first=True, enforce_sorted=False)
        hidden_BWD, _ = pad_packed_sequence(self.recurrent(packed)[0], batch_first=True)
        logit_BWT: Tensor = self.tags(hidden_BWD)
        return logit_BWT


class Tagger:
    """A network with its tags.

    Attributes:
        tags: that it knows.
        known: the states that it reads; None reads the letters of words.
    """

    def __init__(self, tags: Sequence[str], known: States | None, width: int) -> None:
        self.tags, self.known = list(tags), known
        self.network = Network(known.lm.width if known else 0, len(self.tags), width)

    def inputs(self, rows: Sequence[Sequence[str]], report: Report = quiet) -> list[Tensor]:
        """What the network reads of each row of words."""
        if self.known is not None:
            return self.known.of(rows, report)
        found = []
        for words in rows:
            groups = [letter_groups(word) for word in words]
            owner = [w for w, group in enumerate(groups) for _ in group]
            found.append(torch.tensor([[bucket for group in groups for bucket in group], owner]))
        return found

    @torch.no_grad()
    def find(self, utterances: Sequence[Marked], report: Report = quiet) -> list[list[Span]]:
        """Slots found in each utterance, from its words alone."""
        rows = [to_tags(u)[0] for u in utterances]
        inputs = self.inputs(rows, report)
        found = []
        for start in range(0, len(rows), 128):
            part = slice(start, start + 128)
            length_B = torch.tensor([len(row) for row in rows[part]])
            best_BW = self.network(inputs[part], length_B).argmax(-1)
            for words, best_W in zip(rows[part], best_BW.tolist(), strict=True):
                tags = [self.tags[t] for t in best_W[: len(words)]]
                found.append(list(from_tags(words, tags).spans))
        return found


def train_tagger(
    utterances: Sequence[Marked],
    settings: Learning = Learning(),  # noqa: B008 - frozen
    *,
    known: States | None = None,
    report: Report = quiet,
) -> Tagger:
    """Learn slots from utterances.

    Args:
        utterances: with the slots that are meant.
        settings: of the network and its training.
        known: states to read; None reads letters.
        report: told of progress.
    """
    pairs = [to_tags(u) for u in utterances]
    tags = sorted({tag for _, row in pairs for tag in row} | {OUTSIDE})
    index = {tag: n for n, tag in enumerate(tags)}
    with torch.random.fork_rng(devices=[]):  # torch draws first weights from the global generator
        torch.manual_seed(settings.seed)
        tagger = Tagger(tags, known, settings.width)
    inputs = tagger.inputs([words for words, _ in pairs], report)
    targets = [torch.tensor([index[tag] for tag in row]) for _, row in pairs]
    network = tagger.network
    # Few rows of the table of letters are met in a step, and only those are moved.
    is_table = isinstance(network.read, nn.EmbeddingBag)
    rest = [x for name, x in network.named_parameters() if not (is_table and name.startswith("read."))]
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(rest, settings.learning_rate, weight_decay=0.01)]
    if is_table:
        optimizers.append(torch.optim.SparseAdam(network.read.parameters(), settings.learning_rate))
    generator = torch.Generator().manual_seed(settings.seed)
    for step in range(1, settings.steps + 1):
        chosen = torch.randint(len(pairs), (settings.batch,), generator=generator).tolist()
        length_B = torch.tensor([len(targets[i]) for i in chosen])
        target_BW = pad_sequence([targets[i] for i in chosen], batch_first=True, padding_value=UNKNOWN)
        logit_BWT = network([inputs[i] for i in chosen], length_B)
        loss = nn.functional.cross_entropy(logit_BWT.flatten(0, 1), target_BW.flatten(), ignore_index=UNKNOWN)
        network.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(rest, LARGEST_GRADIENT)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = settings.learning_rate * (1 - (step - 1) / settings.steps)
            optimizer.step()
        report("training a tagger", step, settings.steps)
    network.eval()
    return tagger
