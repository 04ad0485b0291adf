"""The language of expressions: text to a tree, and a tree to text.

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

import re
from collections.abc import Sequence
from dataclasses import dataclass

from factorlm.errors import InputError

TOKENS = re.compile(
    r"""\s*(?:(?P<name>[A-Za-z_][A-Za-z0-9_.]*(?:-[A-Za-z0-9_.]+)*)
    |(?P<text>"[^"]*"|'[^']*')
    |(?P<number>[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)
    |(?P<sign>\*\*|[*/^=|&(),:]))""",
    re.VERBOSE,
)


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
        shown = [inside(part, self) for part in self.parts]
        return shown[0] + "".join(f" {sign} {part}" for sign, part in zip(self.signs, shown[1:], strict=True))


@dataclass(frozen=True)
class Raised:
    """A part with an exponent (^) or a strength (=)."""

    part: Node
    sign: str
    number: float

    def __str__(self) -> str:
        return f"{inside(self.part, self)}{self.sign}{self.number:g}"


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


def inside(part: Node, whole: Node) -> str:
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
