"""Recipes: how a factor of the shelf is made, as a file that anybody can rerun, change, or write anew."""

from __future__ import annotations

import hashlib
import json
import re
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError

from factorlm.errors import InputError, UnknownNameError
from factorlm.factors.examples import Example, evenly
from factorlm.factors.manifest import NAME_PATTERN, VERSION_PATTERN, LexiconSettings
from factorlm.factors.passages import passages, plain, untokenised
from factorlm.factors.training import Description
from factorlm.settings import Config, explain_validation

FOLDER = Path(__file__).parent / "recipes"
OWN_TEXTS = 4096
Row = Mapping[str, Any]
Rows = Callable[[str], Sequence[Row]]  # "set/part" -> its rows; plain text has a row for each line, with `text`
Value = str | int | float | bool

WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")


def _expression(text: str) -> str:
    """The text, if it is a regular expression."""
    try:
        re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"not a regular expression ({error})") from None
    return text


class Words(Config):
    """A list of words: written out, or of a data set.

    Attributes:
        words: written out.
        part: a data set whose rows have a list `words`.
        where: which of its rows.
    """

    words: tuple[str, ...] = ()
    part: str = ""
    where: dict[str, tuple[Value, ...]] = Field(default_factory=dict)

    def read(self, rows: Rows) -> frozenset[str]:
        """The words, in small letters.

        Raises:
            InputError: if there are none, or a row has no list of them.
        """
        found = list(self.words)
        for number, row in enumerate(rows(self.part) if self.part else (), 1):
            if not _chosen(row, self.where):
                continue
            words = row.get("words")
            if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
                raise InputError(f"row {number} of {self.part} needs a list `words`; mend the data set")
            found += words
        if not found:
            raise InputError(f"a list of words is needed, got none from {self.part or 'the recipe'}; mend the recipe")
        return frozenset(word.lower() for word in found)


class Texts(Config):
    """Texts of a data set.

    Attributes:
        part: set and part, such as "paradetox/train".
        column: where the text stands; of a list, the first is taken.
        where: the values that a row must have, by column.
        rows: the first row and the one after the last, as in a slice, or only the first; counted after `where`.
        sentences: cut texts into passages of this many sentences; 0 leaves them whole.
        containing: keep texts with at least `at_least` of these words.
        at_least: how many different ones.
        without: drop texts with any of these words.
        matching: keep texts in which this regular expression is found.
        not_matching: drop texts in which this one is found.
        shortest: characters of a text, at least.
        longest: characters of a text, at most.
        most: texts, taken evenly; 0 takes all.
        is_tokenised: whether blanks stand around punctuation, which are then taken out.
    """

    part: str
    column: str = "text"
    where: dict[str, tuple[Value, ...]] = Field(default_factory=dict)
    rows: Annotated[tuple[int, ...], Field(max_length=2)] = ()
    sentences: Annotated[int, Field(ge=0)] = 0
    containing: Words | None = None
    at_least: Annotated[int, Field(ge=1)] = 1
    without: Words | None = None
    matching: Annotated[str, AfterValidator(_expression)] = ""
    not_matching: Annotated[str, AfterValidator(_expression)] = ""
    shortest: int = 10
    longest: int = 600
    most: int = 0
    is_tokenised: bool = False

    def read(self, rows: Rows) -> list[str]:
        """The texts.

        Raises:
            InputError: if a row of the set lacks the column, or has no text there.
        """
        chosen = [row for row in rows(self.part) if _chosen(row, self.where)][
            slice(self.rows[0], *self.rows[1:2] or [None]) if self.rows else slice(None)
        ]
        for row in chosen:
            if self.column not in row:
                raise InputError(f"{self.part} has columns {', '.join(row)}, got {self.column!r}; mend the recipe")
            if row[self.column] == []:
                raise InputError(
                    f"{self.part} has an empty list as {self.column!r} in a row; leave it out with `where`"
                )
        cells = [row[self.column] for row in chosen]
        whole = [str(cell[0] if isinstance(cell, list) else cell) for cell in cells]
        if self.is_tokenised:
            whole = [untokenised(text) for text in whole]
        texts = [text for one in whole for text in (passages(one, self.sentences) if self.sentences else [one])]
        wanted = self.containing.read(rows) if self.containing else frozenset()
        unwanted = self.without.read(rows) if self.without else frozenset()
        kept = []
        for text in map(str.strip, texts):
            if not self.shortest <= len(text) <= self.longest:
                continue
            words = {word.lower() for word in WORD.findall(text)} if wanted or unwanted else set()
            if (wanted and len(words & wanted) < self.at_least) or words & unwanted:
                continue
            if self.matching and not re.search(self.matching, text):
                continue
            if self.not_matching and re.search(self.not_matching, text):
                continue
            kept.append(text)
        return evenly(kept, self.most or len(kept))


class Labelled(Config):
    """Texts that have the attribute and texts that do not."""

    positive: tuple[Texts, ...]
    negative: tuple[Texts, ...]

    def read(self, rows: Rows) -> list[Example]:
        """The examples, those with the attribute first."""
        return [
            Example(text, is_positive)
            for side, is_positive in ((self.positive, True), (self.negative, False))
            for texts in side
            for text in texts.read(rows)
        ]


class Phrases(Config):
    """Words and phrases of a lexicon with one boost.

    Attributes:
        boost: in nats; left out, they are banned.
        phrases: which.
    """

    boost: float | None = None
    phrases: tuple[str, ...]


class Credit(Config):
    """A set that a factor learns from, and whom to thank for it."""

    name: str
    licence: str
    credit: str


class Recipe(Config):
    """How a factor is made.

    Attributes:
        name: of the factor.
        version: of the factor.
        description: one line for lists.
        label: what positive and negative mean.
        licence: of the factor, as the licences of the texts demand.
        sources: what it learns from.
        train: labelled texts that a head learns from.
        tests: labelled texts of other origin, by name.
        own_texts: how many texts of the encoder itself a head learns from besides.
        lexicon: instead of all that: the words of a lexicon.
    """

    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    version: Annotated[str, Field(pattern=VERSION_PATTERN)] = "1.0.0"
    description: str
    label: str = ""
    licence: str
    sources: tuple[Credit, ...] = ()
    train: Labelled | None = None
    tests: dict[str, Labelled] = Field(default_factory=dict)
    own_texts: Annotated[int, Field(ge=0)] = OWN_TEXTS
    lexicon: tuple[Phrases, ...] = ()

    @property
    def kind(self) -> Literal["head", "lexicon"]:
        """What is made."""
        return "lexicon" if self.lexicon else "head"

    @property
    def settings(self) -> LexiconSettings:
        """Of a lexicon."""
        return LexiconSettings(phrases={phrase: group.boost for group in self.lexicon for phrase in group.phrases})

    @property
    def parts(self) -> frozenset[str]:
        """The data sets that it needs."""
        sides = [*([self.train] if self.train else []), *self.tests.values()]
        texts = [t for labelled in sides for t in (*labelled.positive, *labelled.negative)]
        lists = [w for t in texts for w in (t.containing, t.without) if w and w.part]
        return frozenset(t.part for t in texts) | frozenset(w.part for w in lists)

    @property
    def digest(self) -> str:
        """Hash of the recipe: a factor made by another one is made anew."""
        content = json.dumps(self.model_dump(mode="json"), sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    @property
    def command(self) -> str:
        """What makes the factor."""
        return f"factorlm factor build {self.name}"

    @property
    def about(self) -> Description:
        """What the card shall say."""
        return Description(
            name=self.name,
            description=self.description,
            label=self.label,
            licence=self.licence,
            sources=tuple((s.name, s.licence, s.credit) for s in self.sources),
            recipe=self.command,
        )

    def examples(self, rows: Rows) -> list[Example]:
        """What the head learns from.

        Raises:
            InputError: if it is not learned from texts.
        """
        if self.train is None:
            raise InputError(f"{self.name} is a {self.kind}, which learns from no texts; take a head")
        return self.train.read(rows)

    def held_out(self, rows: Rows) -> dict[str, list[Example]]:
        """The labelled texts of each test, without any that the head learns from."""
        learned = {plain(e.text) for e in self.train.read(rows)} if self.train else set()
        return {
            name: [e for e in labelled.read(rows) if plain(e.text) not in learned]
            for name, labelled in self.tests.items()
        }


def names() -> list[str]:
    """Names of the recipes that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def load_recipe(name: str) -> Recipe:
    """A recipe by name, or from a file of one's own.

    Raises:
        UnknownNameError: if there is none; near names are listed.
        InputError: if it cannot be read as a recipe.
    """
    path = Path(name)
    if path.suffix != ".toml":
        if name not in names():
            raise UnknownNameError.of("recipe", name, names(), "a file of your own ends in .toml")
        path = FOLDER / f"{name}.toml"
    try:
        recipe = Recipe.model_validate_json(json.dumps(tomllib.loads(path.read_text(encoding="utf-8"))))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(
            f"a recipe in TOML is needed, got {path}: {getattr(error, 'strerror', None) or error}"
        ) from None
    except ValidationError as error:
        raise explain_validation(error, str(path)) from None
    if (recipe.train is None) == (not recipe.lexicon):
        raise InputError(f"{path}: either [train] or [[lexicon]] is needed; give one of them")
    return recipe


def _chosen(row: Row, where: Mapping[str, tuple[Value, ...]]) -> bool:
    return all(row.get(column) in values for column, values in where.items())
