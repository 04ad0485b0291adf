"""A small writer of SVG: scales with round ticks, text whose width is estimated, markers, legends.

Our own, since pictures are drawn twice, for desks and for phones, in colours that follow the reader's theme, at a few
kilobytes each; matplotlib would need its colours, fonts and ids mended afterwards, and be one more thing to install.
"""

from __future__ import annotations

import html
import math
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from factorlm.evaluation.intervals import Estimate
from factorlm.evaluation.report.writing import cell_text, interval, number, one_line

Point = tuple[float, float]
# Okabe and Ito's hues, each dark enough on white; page.css has the same names for both themes.
LIGHT = {
    **{"paper": "#ffffff", "ink": "#1b1f24", "dim": "#59636e", "grid": "#e4e7eb", "axis": "#8b949e", "ref": "#737b85"},
    **{"s0": "#0072b2", "s1": "#d55e00", "s2": "#008661", "s3": "#b5568f", "s4": "#a87400", "s5": "#2f8fc4"},
    **{"s6": "#7a5cc0", "s7": "#6b6b47", "above": "#0072b2", "below": "#d55e00"},
}
NUM_COLOURS = 8
EDGE = 16  # around a picture in a file of its own
SHAPES = (
    "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",  # disc
    "M-3.6-3.6h7.2v7.2h-7.2z",  # square
    "M0-4.8L4.5 3.4h-9z",  # triangle
    "M0-5.2L5.2 0L0 5.2L-5.2 0z",  # diamond
    "M0 4.8L4.5-3.4h-9z",  # triangle, pointing down
)
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


def colour_of(k: int | None) -> str:
    """The name of the colour of series k; None is a yardstick."""
    return "ref" if k is None else f"s{k % NUM_COLOURS}"


def text_width(text: str, size: float = 12) -> float:
    """About how wide a text is; wide rather than narrow, since fonts differ."""

    def ems(letter: str) -> float:
        if unicodedata.combining(letter):
            return 0
        if unicodedata.east_asian_width(letter) in "WF":
            return 1
        if letter in "iljtfrI.,:;'|!()[]/- ":
            return 0.38
        return 0.92 if letter in "mwMW@%" else 0.7 if letter.isupper() else 0.61

    return size * sum(map(ems, text))


def fitted(text: str, width: float, size: float = 12) -> str:
    """The text on one line, shortened to this width."""
    text = one_line(text)
    if text_width(text, size) <= width:
        return text
    while text and text_width(text, size) > width - size:
        text = text[:-1]
    return text.rstrip() + "…"


def wrapped(text: str, width: float, size: float = 12) -> list[str]:
    """The text on at most two lines of this width; only what does not fit there is left out."""
    words = one_line(text).split(" ")
    first = words.pop(0)
    while words and text_width(f"{first} {words[0]}", size) <= width:
        first += " " + words.pop(0)
    return [fitted(line, width, size) for line in (first, " ".join(words)) if line]


@dataclass(frozen=True)
class Ticks:
    """Round numbers and how they are written."""

    values: tuple[float, ...]
    step: float
    is_percent: bool = False

    @classmethod
    def over(cls, low: float, high: float, count: int, is_percent: bool = False) -> Ticks:
        """About `count` of them from low to high, and at least three: with fewer an axis cannot be read."""
        raw = (high - low) / max(1, count)
        size = 10.0 ** math.floor(math.log10(raw))
        step = next(m * size for m in (1, 2, 2.5, 5, 10) if m * size >= raw * 0.999)
        first, last = math.ceil(low / step - 1e-6), math.floor(high / step + 1e-6)
        if last - first < 2 and count < 12:
            return cls.over(low, high, count + 1, is_percent)
        return cls(tuple(float(f"{i * step:.12g}") for i in range(first, last + 1)), step, is_percent)

    def text(self, value: float) -> str:
        """A tick's number, with as many digits as the step needs."""
        scale = 100 if self.is_percent else 1
        step, shown = self.step * scale, value * scale
        if not 1e-5 <= step < 1e7:
            return number(shown, ".3g") + "%" * self.is_percent
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        if abs(round(step, digits) - step) > step * 1e-6:  # steps of 2.5
            digits += 1
        return number(shown, f",.{digits}f" if abs(shown) >= 10_000 else f".{digits}f") + "%" * self.is_percent


@dataclass(frozen=True)
class Scale:
    """From numbers to places; what lies outside is put at the edge."""

    low: float
    high: float
    start: float
    end: float
    ticks: Ticks

    @classmethod
    def of(
        cls, values: Sequence[float], start: float, end: float, count: int, *, is_percent: bool = False, round_up: bool
    ) -> Scale:
        """Over all these numbers; with `round_up` it ends at ticks, else a little beyond the numbers."""
        found = [v for v in values if math.isfinite(v)] or [0.0, 1.0]
        low, high = min(found), max(found)
        if 0 < low <= high / 3 and round_up:
            low = 0.0  # a base line that is near is shown
        if high - low <= 1e-9 * max(abs(low), abs(high)):
            room = 0.1 if is_percent else abs(high) / 5 or 1.0
            low, high = low - room, high + room
        inside = is_percent and min(found) >= 0 and max(found) <= 1  # shares stay shares
        if round_up:
            step = Ticks.over(low, high, count).step
            low, high = math.floor(low / step + 1e-6) * step, math.ceil(high / step - 1e-6) * step
        else:
            room = (high - low) * 0.03
            low, high = low - room, high + room
        if inside and round_up:
            low, high = max(0.0, low), min(1.0, high)
        return cls(low, high, start, end, Ticks.over(low, high, count, is_percent))

    def __call__(self, value: float) -> float:
        """The place of a number."""
        share = (min(max(value, self.low), self.high) - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)


@dataclass
class Canvas:
    """SVG elements of a picture, in the order drawn; colours are names that a theme fills in."""

    width: float
    height: float = 0
    parts: list[str] = field(default_factory=list)

    def path(self, d: str, *, stroke: str = "none", fill: str = "none", width: float = 1, more: str = "") -> None:
        """A path in SVG's own notation."""
        line = f' stroke="var(--{stroke})" stroke-width="{width:g}"' if stroke != "none" else ""
        self.parts.append(
            f'<path d="{d}" fill="{f"var(--{fill})" if fill != "none" else fill}"{line}{" " * bool(more)}{more}/>'
        )

    def lines(self, points: Iterable[Point], **look: object) -> None:
        """Points joined by straight lines."""
        self.path("M" + "L".join(f"{place(x)} {place(y)}" for x, y in points), **look)  # type: ignore[arg-type]

    def text(
        self,
        x: float,
        y: float,
        text: str,
        *,
        anchor: str = "start",
        fill: str = "ink",
        size: float = 12,
        more: str = "",
    ) -> None:
        """A line of text whose base line begins, has its middle or ends at x."""
        where = "" if anchor == "start" else f' text-anchor="{anchor}"'
        self.parts.append(
            f'<text x="{place(x)}" y="{place(y)}" font-size="{size:g}" fill="var(--{fill})"{where}'
            f"{' ' * bool(more)}{more}>{html.escape(one_line(text))}</text>"
        )

    def marker(self, x: float, y: float, k: int | None, tip: str = "") -> None:
        """The point of series k, with what a pointer shows; a yardstick's is hollow."""
        colour = colour_of(k)
        look = f'fill="var(--paper)" stroke="var(--{colour})" stroke-width="1.6"' if k is None else (
            f'fill="var(--{colour})" stroke="var(--paper)"'
        )  # fmt: skip
        shape = SHAPES[0 if k is None else k % len(SHAPES)]
        title = f"<title>{html.escape(one_line(tip))}</title>" if tip else ""
        self.parts.append(f'<path transform="translate({place(x)} {place(y)})" d="{shape}" {look}>{title}</path>')

    def cell(self, x: float, y: float, width: float, height: float, fill: str, opacity: float) -> None:
        """A coloured rectangle."""
        box = f'x="{place(x)}" y="{place(y)}" width="{place(width)}" height="{place(height)}"'
        self.parts.append(f'<rect {box} rx="3" fill="var(--{fill})" fill-opacity="{opacity:.2f}"/>')

    def legend(self, names: Sequence[tuple[str, int | None]], left: float, right: float, *, joined: bool) -> None:
        """Names with their markers, in as many rows as they need."""
        x, y = left, 14.0
        for name, k in names:
            lead = 24 if joined else 16
            shown = fitted(name, right - left - lead)
            width = lead + text_width(shown) + 18
            if x > left and x + width - 18 > right:
                x, y = left, y + 19
            if joined:
                self.lines([(x, y - 4), (x + 18, y - 4)], stroke=colour_of(k), width=2, more=dash(k))
            if not joined or k is not None:
                self.marker(x + (9 if joined else 5), y - 4, k)
            self.text(x + lead, y, shown)
            x += width
        self.height = max(self.height, y + 10)

    def svg(self, label: str, *, standalone: bool = False, classes: str = "") -> str:
        """The picture; standalone ones have light colours and a ground of their own."""
        body = "".join(self.parts)
        box = f'viewBox="0 0 {place(self.width)} {place(self.height)}"'
        named = f'role="img" aria-label="{html.escape(one_line(label))}"'
        if not standalone:
            return f'<svg {box} {named} class="{classes}" style="--w:{place(self.width)}px">{body}</svg>'
        width, height = place(self.width + 2 * EDGE), place(self.height + 2 * EDGE)
        box = f'width="{width}" height="{height}" viewBox="-{EDGE} -{EDGE} {width} {height}"'
        ground = f'<rect x="-{EDGE}" y="-{EDGE}" width="{width}" height="{height}" fill="var(--paper)"/>'
        return re.sub(
            r"var\(--(\w+)\)",
            lambda found: LIGHT[found[1]],
            f'<svg xmlns="http://www.w3.org/2000/svg" {box} {named} font-family="{FONT}">{ground}{body}</svg>\n',
        )


def dash(k: int | None) -> str:
    """Yardsticks are dashed."""
    return 'stroke-dasharray="5 4"' if k is None else ""


def place(value: float) -> str:
    """A coordinate, to a tenth."""
    text = f"{value:.1f}".removesuffix(".0")
    return "0" if text == "-0" else text


def tip(name: str, *values: tuple[str, float | Estimate | None], form: str = ".3g") -> str:
    """What a pointer shows: the name and each quantity with its interval."""
    words = []
    for what, value in values:
        if isinstance(value, Estimate):
            between = interval(value, form)
            units = f", n = {value.n}" if value.n else ""
            words.append(f"{what} {cell_text(value, form)}{f' ({between})' if between else ''}{units}")
        else:
            words.append(f"{what} {number(value, form)}")
    return f"{name}: {'; '.join(words)}"
