"""Scores shards: loads the composition once, then turns one shard after the other into a file and a receipt."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from factorlm.engines.corpus_job import Job, Part
from factorlm.engines.corpus_keep import Comparison, parse_keep
from factorlm.engines.corpus_output import (
    Receipt,
    Scored,
    content_of,
    fingerprint_of,
    part_name,
    receipt_of,
    write_part,
)
from factorlm.engines.corpus_scores import Reach, reach_of, score_texts
from factorlm.engines.corpus_shards import Shard, read_shard
from factorlm.errors import FactorlmError, IncompatibleError
from factorlm.inference.results import Score
from factorlm.memory.corpus import Document, Troubles

GROUP_CHARACTERS = 1 << 20  # of documents that are scored together
UNSCORED = "documents that could not be scored, left out"


@dataclass
class Scorer:
    """Scores shards of one job.

    Attributes:
        root: folder that names of files stand below.
        out: folder that is written to.
        job: what is asked.
        device: of the models.
    """

    root: Path
    out: Path
    job: Job
    device: str

    def load(self) -> None:
        """Read the models and factors.

        Raises:
            FactorlmError: if they cannot be read, or are not those of the job.
        """
        from factorlm.algebra import names_of
        from factorlm.inference.expression import compose

        composed = compose(self.job.expression, dtype=self.job.dtype, device=self.device)
        here = tuple(Part(**part) for part in composed.parts)
        for wanted, found in zip(self.job.parts, here, strict=True):
            if wanted != found:
                raise IncompatibleError(
                    f"every machine needs the same {wanted.kind} {wanted.name!r} ({wanted.fingerprint}), got "
                    f"{found.fingerprint} on one; copy it there"
                )
        self.model = composed.model
        self.names = names_of(composed.model.terms[1:])

    @cached_property
    def _reach(self) -> Reach:
        return reach_of(self.model, self.job.window, self.job.stride)

    @cached_property
    def _keep(self) -> tuple[Comparison, ...]:
        return parse_keep(self.job.keep, self.names)

    def score(self, shard: Shard, told: Callable[[int], None] = lambda num_bytes: None) -> Receipt:
        """Write the scores of a shard, unless somebody has.

        Args:
            shard: of the corpus.
            told: of the bytes of text that were scored since last told.

        Raises:
            InputError: if its text has changed.
        """
        fingerprint = fingerprint_of(self.job.fingerprint, shard)
        known = receipt_of(self.out, shard, fingerprint)
        if known is not None:
            return known
        troubles = Troubles()
        kept: list[Scored] = []
        scores: list[Score] = []
        for group in _groups(read_shard(self.root, shard, self.job.texts, troubles)):
            found = list(self._scores(group, troubles))
            kept += [scored for scored in found if all(comparison.holds(scored.score) for comparison in self._keep)]
            scores += [replace(scored.score, text="") for scored in found]
            told(sum(scored.score.num_bytes for scored in found))
        content = content_of(kept, self.job.format, self.names, with_text=self.job.with_text, fingerprint=fingerprint)
        possible = [score for score in scores if score.log_prob > -math.inf]
        receipt = Receipt(
            shard=shard.index,
            fingerprint=fingerprint,
            file=part_name(shard, self.job.format),
            file_bytes=len(content),
            sha256=hashlib.sha256(content).hexdigest(),
            num_documents=len(scores),
            num_kept=len(kept),
            num_tokens=sum(score.num_tokens for score in scores),
            num_bytes=sum(score.num_bytes for score in scores),
            log_prob=sum(score.log_prob for score in possible),
            num_impossible=len(scores) - len(possible),
            num_possible_bytes=sum(score.num_bytes for score in possible),
            troubles=troubles.counts,
            first_troubles=troubles.first,
        )
        write_part(self.out, content, receipt)
        return receipt

    def _scores(self, group: Sequence[tuple[Document, int]], troubles: Troubles) -> Iterator[Scored]:
        """The scores of some documents; those that cannot be scored are counted."""
        try:
            found = score_texts(self.model, [document.text for document, _ in group], self._reach)
        except (FactorlmError, ValueError) as error:  # of a text; what is wrong with the machine stops the run
            if len(group) > 1:
                half = len(group) // 2
                yield from self._scores(group[:half], troubles)
                yield from self._scores(group[half:], troubles)
            else:
                document = group[0][0]
                troubles.note(UNSCORED, f"{document.source}:{document.line}: {error}")
            return
        for (document, part), (score, num_windows) in zip(group, found, strict=True):
            if math.isnan(score.log_prob):
                troubles.note(UNSCORED, f"{document.source}:{document.line}: its log probability is not a number")
                continue
            yield Scored(document.source, document.line, part, score, num_windows)


def _groups(documents: Iterator[Document]) -> Iterator[list[tuple[Document, int]]]:
    """Documents, and which part of a longer one each is, as many at once as are scored together."""
    group: list[tuple[Document, int]] = []
    size, place, part = 0, ("", 0), 0
    for document in documents:
        here = (document.source, document.line)
        part = part + 1 if here == place else 0
        place = here
        group.append((document, part))
        size += len(document.text)
        if size >= GROUP_CHARACTERS:
            yield group
            group, size = [], 0
    if group:
        yield group
