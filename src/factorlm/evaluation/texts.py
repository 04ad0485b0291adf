"""Texts to measure: documents cut from parts of data sets, and files of the user's own, by language or domain."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from factorlm.errors import InputError
from factorlm.evaluation.corpora import DataFolder, Document
from factorlm.settings import Config

HEADING = re.compile(r"(?m)^ = [^=\n]+ = *$")  # of a WikiText article; its sections have more signs
Limit = Annotated[int, Field(ge=1)] | None
Groups = dict[str, list[Document]]


class Corpus(Config):
    """A part of a data set, cut into documents.

    Attributes:
        part: such as "wikitext/wikitext2_test".
        name: of the group; empty takes the name of the set.
        documents: what a document is: a row of a part in JSON lines; of a part in plain text an article under a
            heading of WikiText, a line, or the whole.
        fields: of a row, joined to one text.
        joint: between the fields.
        max_documents: the first ones are taken; None takes all.
        max_characters: of a document, which is cut before a white space; None cuts nothing.
    """

    part: str
    name: str = ""
    documents: Literal["rows", "headings", "lines", "whole"] = "rows"
    fields: tuple[str, ...] = ("text",)
    joint: str = "\n"
    max_documents: Limit = 12
    max_characters: Limit = 2000

    @property
    def group(self) -> str:
        """The name of the group."""
        return self.name or self.part.partition("/")[0]

    def load(self, data: DataFolder) -> list[Document]:
        """Its documents, without blank ones.

        Raises:
            InputError: if the part is not there, or has no such field.
        """
        texts = [text for text in self._texts(data) if text.strip()][: self.max_documents]
        return [Document(cut(text, self.max_characters), self.group) for text in texts]

    def _texts(self, data: DataFolder) -> list[str]:
        if self.documents == "rows":
            rows = data.rows(self.part)
            missing = next((f for f in self.fields if rows and f not in rows[0]), None)
            if missing is not None:
                raise InputError(f"{self.part} has the fields {', '.join(rows[0])}, got {missing!r}; name some of them")
            return [self.joint.join(str(row[f]) for f in self.fields) for row in rows]
        text = data.text(self.part)
        if self.documents == "headings":
            starts = [match.start() for match in HEADING.finditer(text)]
            return [text[a:b] for a, b in zip(starts, [*starts[1:], len(text)], strict=True)]
        return text.split("\n") if self.documents == "lines" else [text]


def load_corpora(corpora: Sequence[Corpus], data: DataFolder) -> Groups:
    """The documents of corpora, by group."""
    groups: Groups = {}
    for corpus in corpora:
        groups.setdefault(corpus.group, []).extend(corpus.load(data))
    return groups


def load_own(specs: Sequence[str], max_documents: Limit, max_characters: Limit) -> tuple[Groups, list[str]]:
    """The documents of files, by group; and a sentence for each group that is not measured whole.

    Args:
        specs: each "group=path": plain text with a document on each line, or .jsonl with `text` and, if wanted, `group`
            and `id`, which is equal for translations of one text.
        max_documents: of each group.
        max_characters: of each document.

    Raises:
        InputError: if a file cannot be read, or a group has one id twice.
    """
    groups: Groups = {}
    for spec in specs:
        for document in _own(spec):
            groups.setdefault(document.group, []).append(document)
    sentences = []
    for name, documents in groups.items():
        ids = [d.id for d in documents if d.id]
        if len(set(ids)) < len(ids):
            twice = next(i for i in ids if ids.count(i) > 1)
            raise InputError(f"ids of documents are unique in a group, got {twice!r} twice in {name!r}; rename one")
        kept = [Document(cut(d.text, max_characters), d.group, d.id) for d in documents[:max_documents]]
        num_cut = sum(len(new.text) < len(old.text) for new, old in zip(kept, documents, strict=False))
        if num_cut or len(kept) < len(documents):
            sentences.append(
                f"Of {len(documents)} documents of {name}, {len(kept)} were read, {num_cut} of them cut to "
                f"{max_characters} characters."
            )
        groups[name] = kept
    return groups, sentences


def cut(text: str, max_characters: int | None) -> str:
    """The beginning of a text, up to a white space if there is one."""
    if max_characters is None or len(text) <= max_characters:
        return text
    ends = [match.start() for match in re.finditer(r"\s+", text[: max_characters + 1])]
    return text[: ends[-1] if ends and ends[-1] else max_characters]


def _own(spec: str) -> list[Document]:
    group, _, name = (part.strip() for part in spec.partition("="))
    if not group or not name:
        raise InputError(f"texts are group=path, got {spec!r}; write for example english=texts.txt")
    try:
        lines = Path(name).read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{name} cannot be read as UTF-8 text: {error}; give another file") from None
    if not any(line.strip() for line in lines):
        raise InputError(f"at least one text is needed, got none in {name}; write one document a line")
    if not name.endswith(".jsonl"):
        return [Document(line.rstrip("\r"), group) for line in lines if line.strip()]
    documents = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or not isinstance(row.get("text"), str):
            raise InputError(
                f'{name} needs lines such as {{"text": "..."}}, got {line[:40]!r} in line {number}; mend it'
            )
        documents.append(Document(row["text"], str(row.get("group") or group), str(row.get("id") or "")))
    return [document for document in documents if document.text.strip()]
