"""Compositions as text: "smollm2 * positive^2 / toxic" for the command line, presets and servers.

    union        = intersection ("|" intersection)*
    intersection = product ("&" product)*
    product      = power (("*" | "/") power)*
    power        = atom (("^" | "**") number | "=" number)?
    atom         = name | "quoted name or folder" | function "(" arguments ")" | "(" union ")"
    arguments    = argument ("," argument)*
    argument     = union (":" number)?

`^` gives the exponent, as the Python operators do; `=` gives a factor's strength in signed nats per token, as --factor
does. A name is a model's or a factor's.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from factorlm.algebra import Factor, Interpolation, Intersection, LocalProduct, Mixture, Named, Power, Product, Union
from factorlm.errors import InputError, UnknownNameError
from factorlm.factors import bind, factor, lexicon, prompt
from factorlm.factors.store import MANIFEST, default_stores, folder_of, read_manifest
from factorlm.inference.model import Model
from factorlm.inference.strengths import exponent_of
from factorlm.models import CausalLM
from factorlm.models.fetch import MODELS
from factorlm.models.loading import load_model

TOKENS = re.compile(
    r"""\s*(?:(?P<name>[A-Za-z_][A-Za-z0-9_.]*(?:-[A-Za-z0-9_.]+)*)
    |(?P<text>"[^"]*"|'[^']*')
    |(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)
    |(?P<sign>\*\*|[*/^=|&(),:]))""",
    re.VERBOSE,
)


HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True)
class Leaf:
    """A name, or a quoted text."""

    text: str
    is_quoted: bool = False

    def __str__(self) -> str:
        quote = "'" if '"' in self.text else '"'
        return f"{quote}{self.text}{quote}" if self.is_quoted else self.text


@dataclass(frozen=True)
class Operation:
    """Parts joined by signs: one sign before each part but the first."""

    parts: tuple[Node, ...]
    signs: tuple[str, ...]

    def __str__(self) -> str:
        shown = [_inside(part, self) for part in self.parts]
        return shown[0] + "".join(f" {sign} {part}" for sign, part in zip(self.signs, shown[1:], strict=True))


@dataclass(frozen=True)
class Raised:
    """A part with an exponent (^) or a strength (=)."""

    part: Node
    sign: str
    number: float

    def __str__(self) -> str:
        return f"{_inside(self.part, self)}{self.sign}{self.number:g}"


@dataclass(frozen=True)
class Call:
    """A function of parts, each with a number or none."""

    name: str
    parts: tuple[Node, ...]
    numbers: tuple[float | None, ...]

    def __str__(self) -> str:
        shown = (f"{p}" if n is None else f"{p}: {n:g}" for p, n in zip(self.parts, self.numbers, strict=True))
        return f"{self.name}({', '.join(shown)})"


Node = Leaf | Operation | Raised | Call
RANKS = {"|": 0, "&": 1, "*": 2, "/": 2}


def _inside(part: Node, whole: Node) -> str:
    """A part as written inside a whole, in parentheses where it would bind more loosely, or come apart."""
    if isinstance(part, Raised):
        return f"({part})" if isinstance(whole, Raised) else str(part)
    if not isinstance(part, Operation):
        return str(part)
    loose = isinstance(whole, Raised) or (
        isinstance(whole, Operation) and RANKS[part.signs[0]] <= RANKS[whole.signs[0]]
    )
    return f"({part})" if loose else str(part)


def parse(expression: str) -> Node:
    """The tree of an expression.

    Raises:
        InputError: naming the place that cannot be read.
    """
    return _Parser(expression).whole()


class _Parser:
    """Recursive descent over the tokens of an expression."""

    def __init__(self, expression: str) -> None:
        self.expression = expression
        self.tokens: list[tuple[str, str, int]] = []  # kind, text, place
        place = 0
        end = len(expression.rstrip())
        while place < end:
            found = TOKENS.match(expression, place)
            if not found or found.lastgroup is None:
                raise self._unreadable(place + len(expression[place:]) - len(expression[place:].lstrip()))
            self.tokens.append((found.lastgroup, found[found.lastgroup], found.start(found.lastgroup)))
            place = found.end()
        self.next = 0

    def whole(self) -> Node:
        if not self.tokens:
            raise InputError('an expression such as "smollm2 * positive^2" is needed, got an empty one')
        node = self._operation(("|", "&", "*/"))
        if self.next < len(self.tokens):
            raise self._unreadable(self.tokens[self.next][2])
        return node

    def _operation(self, levels: Sequence[str]) -> Node:
        if not levels:
            return self._power()
        parts, signs = [self._operation(levels[1:])], []
        while (sign := self._take_sign(levels[0])) is not None:
            signs.append(sign)
            parts.append(self._operation(levels[1:]))
        return Operation(tuple(parts), tuple(signs)) if signs else parts[0]

    def _power(self) -> Node:
        part = self._atom()
        sign = self._take_sign("^=") or ("^" if self._take_sign(("**",)) else None)
        return Raised(part, sign, self._number()) if sign else part

    def _atom(self) -> Node:
        if self._take_sign("("):
            inner = self._operation(("|", "&", "*/"))
            self._need(")")
            return inner
        kind, text, place = self._peek()
        if kind == "text":
            self.next += 1
            return Leaf(text[1:-1], is_quoted=True)
        if kind != "name":
            raise self._unreadable(place)
        self.next += 1
        if not self._take_sign("("):
            return Leaf(text)
        parts, numbers = [], []
        while True:
            parts.append(self._operation(("|", "&", "*/")))
            numbers.append(self._number() if self._take_sign(":") else None)
            if not self._take_sign(","):
                break
        self._need(")")
        return Call(text, tuple(parts), tuple(numbers))

    def _number(self) -> float:
        kind, text, place = self._peek()
        if kind != "number":
            raise self._unreadable(place, "a number")
        self.next += 1
        return float(text)

    def _need(self, sign: str) -> None:
        if not self._take_sign(sign):
            raise self._unreadable(self._peek()[2], f"{sign!r}")

    def _peek(self) -> tuple[str, str, int]:
        return self.tokens[self.next] if self.next < len(self.tokens) else ("end", "", len(self.expression))

    def _take_sign(self, signs: Sequence[str]) -> str | None:
        kind, text, _ = self._peek()
        if kind != "sign" or text not in tuple(signs):
            return None
        self.next += 1
        return text

    def _unreadable(self, place: int, wanted: str = "a name, number or sign that fits") -> InputError:
        seen = self.expression[place : place + 12]
        return InputError(
            f"the expression {self.expression!r} cannot be read: {wanted} is needed at character {place + 1}, got "
            f"{f'{seen!r}' if seen else 'its end'}; an example is smollm2 * positive^2 / toxic"
        )


@dataclass(frozen=True, eq=False)
class Composed:
    """A composition with its text and everything that its numbers depend on.

    Attributes:
        expression: as it can be typed again.
        model: the composition.
        parts: of each model and factor: name, kind, version (of a model: its number format) and fingerprint.
        fingerprint: of expression, parts and number format; equal fingerprints give equal numbers.
    """

    expression: str
    model: Model
    parts: tuple[dict[str, str], ...]
    fingerprint: str


def compose(expression: str, *, dtype: str = "auto", device: str = "auto") -> Composed:
    """The model that an expression describes.

    Args:
        expression: such as "smollm2 * positive^2 / toxic"; see the head of this file. A folder or a hub name alone
            needs no quotes.
        dtype: of the models; see `factorlm.load`.
        device: of the models.

    Raises:
        InputError: if it cannot be read, or has no language model.
        UnknownNameError: if a name is neither a model nor a factor.
        IncompatibleError: if a factor was made for another model.
    """
    tree = Leaf(expression, is_quoted=True) if _is_place(expression) else parse(expression)
    builder = _Builder(lambda name: load_model(name, dtype=dtype, device=device))
    first = builder.first_model(tree)
    if first is None:
        raise InputError(f"a language model is needed in {expression!r}, got only factors; write smollm2 * {tree}")
    lm = builder.lm = builder.load(first)
    built = builder.build(tree)
    _ = built.vocabulary  # models with other tokens are refused here, not at the first use
    digest = hashlib.sha256(f"{tree} {lm.model.dtype} {lm.device.type}".encode())
    for part in builder.parts.values():
        digest.update(part["fingerprint"].encode())
    return Composed(str(tree), Model(built, lm), tuple(builder.parts.values()), digest.hexdigest()[:16])


def _is_place(text: str) -> bool:
    """Whether this is the folder or hub name of one model, rather than a quotient of two names."""
    owner, _, rest = text.partition("/")
    if os.sep in text and Path(text).is_dir():
        return True
    is_hub_name = HUB_NAME.fullmatch(text) is not None
    return is_hub_name and not (_is_known(owner) or _is_known(re.split(r"[\^=]", rest)[0]))


def _is_known(name: str) -> bool:
    return name in MODELS or any(name in store.names() for store in default_stores())


def written(name: str) -> str:
    """A name as an expression holds it: quoted if it has other signs in it."""
    found = TOKENS.fullmatch(name)
    return str(Leaf(name, is_quoted=not (found and found.lastgroup == "name")))


def factor_part(name: str) -> dict[str, str]:
    """Name, kind, version and fingerprint of a factor of the store."""
    folder = folder_of(name)
    manifest = read_manifest(folder)
    fingerprint = hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()[:16]
    return {"name": name, "kind": manifest.kind, "version": manifest.version, "fingerprint": fingerprint}


@dataclass
class _Builder:
    """Turns a tree into factors over the language model found first."""

    load: Callable[[str], CausalLM]
    lm: CausalLM | None = None
    parts: dict[str, dict[str, str]] = field(default_factory=dict)

    def first_model(self, node: Node) -> str | None:
        """The name of the first language model in reading order, checking every name on the way."""
        if isinstance(node, Leaf):
            return node.text if _kind_of(node.text) == "model" else None
        if isinstance(node, Raised):
            return self.first_model(node.part)
        if isinstance(node, Call) and node.name not in FUNCTIONS:
            raise UnknownNameError.of("function", node.name, FUNCTIONS)
        if isinstance(node, Call) and node.name in TEXT_FUNCTIONS:
            return None
        found = [self.first_model(part) for part in node.parts]
        return next((name for name in found if name is not None), None)

    def build(self, node: Node) -> Factor:
        assert self.lm is not None
        if isinstance(node, Leaf):
            return self._leaf(node.text)
        if isinstance(node, Call):
            return FUNCTIONS[node.name](self, node)
        if isinstance(node, Raised):
            part = self.build(node.part)
            if node.sign == "^":
                return Power(part, node.number)
            if self.first_model(node.part) is not None:
                raise InputError(f"only a factor has a strength, got {node}; write {_inside(node.part, node)}^...")
            return Power(part, exponent_of(self.lm, part, node.number))
        parts = [self.build(part) for part in node.parts]
        if node.signs[0] in "|&":
            return (Union if node.signs[0] == "|" else Intersection)(tuple(parts))
        terms = [
            part if sign == "*" else Power(part, -1.0) for part, sign in zip(parts, ("*", *node.signs), strict=True)
        ]
        # The first term of a product is its base, whose distribution the others change.
        is_base = [
            sign == "*" and self.first_model(part) is not None
            for part, sign in zip(node.parts, ("*", *node.signs), strict=True)
        ]
        if any(is_base):
            first = is_base.index(True)
            terms = [terms[first], *terms[:first], *terms[first + 1 :]]
        return Product(tuple(terms))

    def _leaf(self, name: str) -> Factor:
        assert self.lm is not None
        if _kind_of(name) == "model":
            lm = self.load(name)
            number = str(lm.model.dtype).removeprefix("torch.")
            self.parts[name] = {"name": name, "kind": "model", "version": number, "fingerprint": lm.fingerprint}
            return lm
        self.parts[name] = factor_part(name)
        return bind(factor(name), self.lm)

    def mean(self, node: Call) -> Factor:
        """A mixture or an interpolation."""
        weights = [1.0 if number is None else number for number in node.numbers]
        if any(not (0 <= w < math.inf) for w in weights) or sum(weights) == 0:
            raise InputError(f"weights are positive numbers, got {node}")
        built = tuple(self.build(part) for part in node.parts)
        models = tuple(b if isinstance(b, LocalProduct) else LocalProduct(b) for b in built)
        shares = tuple(w / sum(weights) for w in weights)
        if node.name == "mix":
            return Named("mixture", Mixture(models, shares))
        return Named("interpolation", Interpolation(models, shares))

    def words(self, node: Call) -> Factor:
        """A lexicon made on the spot: words with boosts in nats, or banned."""
        assert self.lm is not None
        ban = node.name == "ban"
        phrases = _texts(node)
        if ban and any(number is not None for number in node.numbers):
            raise InputError(f"a ban has no boosts, got {node}")
        boosts = {p: 2.0 if number is None else number for p, number in zip(phrases, node.numbers, strict=True)}
        return bind(lexicon(phrases, ban=True) if ban else lexicon(boosts), self.lm)

    def instruction(self, node: Call) -> Factor:
        """What reading an instruction first changes."""
        assert self.lm is not None
        texts = _texts(node)
        if len(texts) != 1 or node.numbers != (None,):
            raise InputError(f"one instruction is needed, got {node}")
        return bind(prompt(texts[0]), self.lm)

    def local(self, node: Call) -> Factor:
        """A product normalised at each token."""
        if len(node.parts) != 1:
            raise InputError(f"one composition is needed, got {node}")
        return LocalProduct(self.build(node.parts[0]))


FUNCTIONS: dict[str, Callable[[_Builder, Call], Factor]] = {
    "mix": _Builder.mean,
    "interpolate": _Builder.mean,
    "local": _Builder.local,
    "lexicon": _Builder.words,
    "ban": _Builder.words,
    "prompt": _Builder.instruction,
}
TEXT_FUNCTIONS = ("lexicon", "ban", "prompt")  # their arguments are texts, not names


def _texts(node: Call) -> list[str]:
    if not all(isinstance(part, Leaf) for part in node.parts):
        raise InputError(f"{node.name} takes quoted texts, got {node}")
    return [part.text for part in node.parts if isinstance(part, Leaf)]


def _kind_of(name: str) -> str:
    """Whether a name or folder is a model or a factor.

    Raises:
        UnknownNameError: if it is neither.
    """
    factors = {n for store in default_stores() for n in store.names()}
    if name in MODELS:
        return "model"
    if name in factors or (Path(name) / MANIFEST).is_file():
        return "factor"
    if Path(name).is_dir() or (name.count("/") == 1 and not name.startswith((".", "/", "~"))):
        return "model"
    raise UnknownNameError.of(
        "model or factor", name, {*MODELS, *factors}, "factorlm factor list and factorlm models list show all"
    )
