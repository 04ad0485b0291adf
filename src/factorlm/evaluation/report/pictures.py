"""Pictures of a report as SVG, for any width: curves, planes, intervals; heat maps are in matrix.py."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from factorlm.evaluation.document import Curve, Intervals, Matrix, Scatter, Series
from factorlm.evaluation.intervals import Estimate
from factorlm.evaluation.report.canvas import (
    Canvas,
    Point,
    Scale,
    colour_of,
    dash,
    fitted,
    place,
    text_width,
    tip,
    wrapped,
)
from factorlm.evaluation.report.labels import Labels, spread
from factorlm.evaluation.report.matrix import matrix
from factorlm.evaluation.report.writing import cell_text, interval

Picture = Curve | Scatter | Intervals | Matrix
WIDE, NARROW = 720, 340
MARKED = 40  # points of a line; with more, only the line is drawn


@dataclass(frozen=True)
class Dot:
    """A point that can be drawn, with the ends of its intervals."""

    x: float
    y: float
    ends_x: tuple[float, float] | None
    ends_y: tuple[float, float] | None
    label: str
    index: int


def draw(picture: Picture, width: int, models: Sequence[str] = ()) -> Canvas:
    """A picture of at least this width; the models have the same colours in all of them."""
    match picture:
        case Curve():
            return curve(picture, width, models)
        case Scatter():
            return scatter(picture, width, models)
        case Intervals():
            return intervals(picture, width, models)
        case Matrix():
            return matrix(picture, width)


def summary(picture: Picture) -> str:
    """What stands for the picture where it cannot be seen."""
    match picture:
        case Matrix():
            return f"{picture.title}: {len(picture.rows)} rows of {len(picture.columns)} coloured numbers"
        case Intervals():
            return (
                f"{picture.title}: {picture.x_label} with intervals, for {', '.join(bar.label for bar in picture.bars)}"
            )
        case _:
            names = ", ".join(series.name for series in picture.series)
            return f"{picture.title}: {picture.y_label} against {picture.x_label}, for {names}"


def colours(names: Sequence[str], models: Sequence[str], yardsticks: Sequence[bool]) -> list[int | None]:
    """A colour for each series: models have their own, others take those that are left; yardsticks have none."""
    known = {name: k for k, name in enumerate(models)}
    taken = {known[name] for name in names if name in known}
    free = (k for k in range(len(names) + len(models)) if k not in taken)
    return [
        None if is_yardstick else known[name] if name in known else next(free)
        for name, is_yardstick in zip(names, yardsticks, strict=True)
    ]


def curve(picture: Curve, width: float, models: Sequence[str] = ()) -> Canvas:
    """Lines with bands."""
    found = [(series, dots(series)) for series in picture.series]
    hues = colours([s.name for s in picture.series], models, [s.is_reference for s in picture.series])
    xs = [dot.x for series, line in found if not is_level(series) for dot in line] or [0.0, 1.0]
    ys = [y for _, line in found for dot in line for y in (dot.y, *(dot.ends_y or ()))]
    canvas = Canvas(width)
    names = [series.name for series in picture.series]
    last = max(xs)
    beside = (
        width >= WIDE
        and 1 < len(found) <= 6
        and all(line and (is_level(s) or line[-1].x == last) for s, line in found)
        and max(map(text_width, names)) <= 0.3 * width
    )
    right = width - (max(map(text_width, names)) + 34 if beside else 10)
    if not beside:
        canvas.legend(list(zip(names, hues, strict=True)), 0, width, joined=True)
    x_scale, y_scale = _axes(canvas, picture.x_label, picture.y_label, xs, ys, right,
                             y_is_percent=picture.is_percent, round_x=False)  # fmt: skip
    labels = Labels(x_scale.start, right, y_scale.end, y_scale.start)
    order = sorted(range(len(found)), key=lambda i: (hues[i] is not None, -i))  # the model is drawn last, on top
    for i in order:
        series, line = found[i]
        if is_level(series) and line:
            y = y_scale(line[0].y)
            canvas.lines([(x_scale.start, y), (right, y)], stroke="ref", width=1.6, more=dash(None))
            continue
        _line(canvas, line, hues[i], x_scale, y_scale, opacity=0.16 if len(found) < 5 else 0.1)
        for dot in line if len(line) <= MARKED else ():
            x, y = x_scale(dot.x), y_scale(dot.y)
            canvas.marker(x, y, hues[i], _tip(picture, series, dot))
            labels.block(x, y, x, y)
    for _, line in found:
        for dot in line:
            labels.write(canvas, dot.label, x_scale(dot.x), y_scale(dot.y))
    if beside:
        heights = spread([y_scale(line[-1].y) for _, line in found], 16, y_scale.end, y_scale.start)
        for (series, line), hue, height in zip(found, hues, heights, strict=True):
            ends = [(right + 5, y_scale(line[-1].y)), (right + 20, height)]
            canvas.lines(ends, stroke=colour_of(hue), width=1.4, more=dash(hue))
            canvas.text(right + 25, height + 4, series.name)
    return canvas


def scatter(picture: Scatter, width: float, models: Sequence[str] = ()) -> Canvas:
    """Points with intervals both ways, joined in order."""
    found = [(series, dots(series)) for series in picture.series]
    hues = colours([s.name for s in picture.series], models, [s.is_reference for s in picture.series])
    canvas = Canvas(width)
    canvas.legend([(s.name, hue) for s, hue in zip(picture.series, hues, strict=True)], 0, width, joined=False)
    x_values = [x for _, line in found for dot in line for x in (dot.x, *(dot.ends_x or ()))]
    y_values = [y for _, line in found for dot in line for y in (dot.y, *(dot.ends_y or ()))]
    x_scale, y_scale = _axes(canvas, picture.x_label, picture.y_label, x_values, y_values, width - 14,
                             x_is_percent=picture.x_is_percent, y_is_percent=picture.y_is_percent)  # fmt: skip
    labels = Labels(x_scale.start, width, y_scale.end - 8, y_scale.start)
    if picture.best:
        _best(canvas, picture.best, x_scale, y_scale, labels)
    places = [[(x_scale(dot.x), y_scale(dot.y)) for dot in line] for _, line in found]
    for (_, line), hue, spots in zip(found, hues, places, strict=True):
        if len(spots) > 1:
            canvas.lines(spots, stroke=colour_of(hue), width=1.6, more=f'opacity=".55" {dash(hue)}')
            for start, end in pairwise(spots):
                labels.block_line(start, end)
        for dot, (x, y) in zip(line, spots, strict=True):
            across = [(x_scale(v), y) for v in dot.ends_x or ()]
            down = [(x, y_scale(v)) for v in reversed(dot.ends_y or ())]
            for ends in filter(None, (across, down)):
                _whisker(canvas, ends, hue)
                labels.block(*ends[0], *ends[1])
    for (series, line), hue, spots in zip(found, hues, places, strict=True):
        for dot, (x, y) in zip(line, spots, strict=True):
            canvas.marker(x, y, hue, _tip(picture, series, dot))
            labels.block(x, y, x, y)
    for (_, line), spots in zip(found, places, strict=True):
        for dot, (x, y) in zip(line, spots, strict=True):
            labels.write(canvas, dot.label, x, y)
    return canvas


def intervals(picture: Intervals, width: float, models: Sequence[str] = ()) -> Canvas:
    """Dots with whiskers, one row of them for each bar and series."""
    hues = colours(picture.series, models, [False] * len(picture.series))
    canvas = Canvas(width)
    if len(picture.series) > 1:
        canvas.legend(list(zip(picture.series, hues, strict=True)), 0, width, joined=False)
    form = ".1%" if picture.is_percent else ".3g"
    widest = max((text_width(bar.label) for bar in picture.bars), default=0)
    above = widest > 0.38 * width  # long labels stand above their rows
    numbers = {v: _words(v, form) for bar in picture.bars for v in bar.values}
    with_numbers = width >= WIDE
    left = 8.0 if above else widest + 16
    right = width - (max(map(text_width, numbers.values()), default=0) + 20 if with_numbers else 10)
    values = [v for e in numbers for v in (e.value, e.low, e.high) if v is not None and math.isfinite(v)]
    count = max(2, int((right - left) / 80))
    scale = Scale.of([*values, *([picture.zero] if picture.zero is not None else [])], left, right, count,
                     is_percent=picture.is_percent, round_up=True)  # fmt: skip
    top = canvas.height + 6
    height = 16 * len(picture.series) + 12 + (18 if above else 0)
    bottom = top + height * len(picture.bars)
    for value in scale.ticks.values:
        canvas.lines([(scale(value), top), (scale(value), bottom)], stroke="grid")
    if picture.zero is not None:
        canvas.lines([(scale(picture.zero), top), (scale(picture.zero), bottom)], stroke="axis", width=1.4)
    for row, bar in enumerate(picture.bars):
        start = top + row * height
        if row:
            canvas.lines([(0, start), (width, start)], stroke="grid")
        middle = start + height / 2
        canvas.text(0, start + 17 if above else middle + 4, fitted(bar.label, width if above else left))
        for i, (estimate, hue, name) in enumerate(zip(bar.values, hues, picture.series, strict=True)):
            y = start + (18 if above else 0) + 14 + 16 * i
            if estimate.low is not None and estimate.high is not None:
                ends = [(scale(estimate.low), y), (scale(estimate.high), y)]
                canvas.lines(ends, stroke=colour_of(hue), width=2.4, more='stroke-linecap="round" opacity=".55"')
            if estimate.value is not None:
                canvas.marker(scale(estimate.value), y, hue, tip(f"{bar.label}, {name}", ("", estimate), form=form))
            else:
                canvas.text(left, y + 4, "not measured", fill="dim", size=11)
            if with_numbers and estimate.value is not None:
                canvas.text(width, y + 4, numbers[estimate], anchor="end", fill="dim", size=11.5)
    canvas.height = bottom
    _x_axis(canvas, scale, bottom, picture.x_label)
    return canvas


def dots(series: Series) -> list[Dot]:
    """The points of a series that have a place; what was not measured, or is infinite, has none."""
    found = []
    labels = series.labels or ("",) * len(series.x)
    for i, (x, y, label) in enumerate(zip(series.x, series.y, labels, strict=True)):
        place_x, place_y = _value(x), _value(y)
        if place_x is not None and place_y is not None:
            found.append(Dot(place_x, place_y, _ends(x), _ends(y), label, i))
    return found


def is_level(series: Series) -> bool:
    """Whether a yardstick is one point: a level over the whole width of a curve."""
    return series.is_reference and len(series.x) == 1


def _value(quantity: float | Estimate | None) -> float | None:
    value = quantity.value if isinstance(quantity, Estimate) else quantity
    return value if value is not None and math.isfinite(value) else None


def _ends(quantity: float | Estimate | None) -> tuple[float, float] | None:
    if not isinstance(quantity, Estimate) or quantity.low is None or quantity.high is None:
        return None
    return (quantity.low, quantity.high) if math.isfinite(quantity.low) and math.isfinite(quantity.high) else None


def _words(estimate: Estimate, form: str) -> str:
    between = interval(estimate, form)
    return cell_text(estimate, form) + (f"  ({between})" if between else "")


def _tip(picture: Curve | Scatter, series: Series, dot: Dot) -> str:
    y_percent = picture.is_percent if isinstance(picture, Curve) else picture.y_is_percent
    form = ".1%" if y_percent else ".3g"
    lead = f"{series.name}, {dot.label}" if dot.label else series.name
    x_form = ".1%" if isinstance(picture, Scatter) and picture.x_is_percent else ".3g"
    return f"{tip(lead, (picture.x_label, series.x[dot.index]), form=x_form)}; " + tip(
        "", (picture.y_label, series.y[dot.index]), form=form
    ).removeprefix(": ")


def _axes(
    canvas: Canvas, x_label: str, y_label: str, xs: Sequence[float], ys: Sequence[float], right: float, *,
    x_is_percent: bool = False, y_is_percent: bool = False, round_x: bool = True,
) -> tuple[Scale, Scale]:  # fmt: skip
    """Draw the frame of a plane below what is there, and give its scales."""
    for line in wrapped(y_label, canvas.width):
        canvas.height += 15
        canvas.text(0, canvas.height - 1, line, fill="dim")
    top = canvas.height + 13
    bottom = top + (270 if canvas.width >= WIDE else 220)
    y_scale = Scale.of(ys, bottom, top, 5, is_percent=y_is_percent, round_up=True)
    left = max(text_width(y_scale.ticks.text(v), 11.5) for v in y_scale.ticks.values) + 10
    count = max(2, int((right - left) / 85))
    x_scale = Scale.of(xs, left, right, count, is_percent=x_is_percent, round_up=round_x)
    for value in y_scale.ticks.values:
        y = y_scale(value)
        canvas.lines([(left, y), (right, y)], stroke="grid" if value or y == bottom else "axis")
        canvas.text(left - 8, y + 4, y_scale.ticks.text(value), anchor="end", fill="dim", size=11.5)
    canvas.height = bottom
    _x_axis(canvas, x_scale, bottom, x_label)
    return x_scale, y_scale


def _x_axis(canvas: Canvas, scale: Scale, y: float, label: str) -> None:
    """The axis below, with ticks and its label; the canvas grows by it."""
    canvas.lines([(scale.start, y), (scale.end, y)], stroke="axis")
    for value in scale.ticks.values:
        x, text = scale(value), scale.ticks.text(value)
        canvas.lines([(x, y), (x, y + 4)], stroke="axis")
        half = text_width(text, 11.5) / 2
        canvas.text(min(x, canvas.width - half), y + 18, text, anchor="middle", fill="dim", size=11.5)
    lines = wrapped(label, canvas.width)
    for i, line in enumerate(lines):
        middle, half = (scale.start + scale.end) / 2, text_width(line) / 2
        inside = min(max(middle, half), canvas.width - half)  # a long label leaves the middle, not the picture
        canvas.text(inside, y + 37 + 15 * i, line, anchor="middle", fill="dim")
    canvas.height = y + 29 + 15 * len(lines)


def _line(canvas: Canvas, line: Sequence[Dot], hue: int | None, x: Scale, y: Scale, opacity: float) -> None:
    """A line with its band, broken where points are missing."""
    for _, group in groupby(enumerate(line), key=lambda pair: pair[1].index - pair[0]):
        run = [dot for _, dot in group]
        banded = [dot for dot in run if dot.ends_y]
        if len(banded) == len(run) > 1:
            low = [(x(dot.x), y(dot.ends_y[0])) for dot in run if dot.ends_y]
            high = [(x(dot.x), y(dot.ends_y[1])) for dot in run if dot.ends_y]
            outline = "L".join(f"{place(a)} {place(b)}" for a, b in [*low, *reversed(high)])
            canvas.path(f"M{outline}z", fill=colour_of(hue), more=f'fill-opacity="{opacity:g}"')
        else:
            for dot in banded:
                _whisker(canvas, [(x(dot.x), y(v)) for v in dot.ends_y or ()], hue)
        if len(run) > 1:
            spots = [(x(dot.x), y(dot.y)) for dot in run]
            canvas.lines(spots, stroke=colour_of(hue), width=2.2, more=f'stroke-linejoin="round" {dash(hue)}'.strip())


def _whisker(canvas: Canvas, ends: Sequence[Point], hue: int | None) -> None:
    canvas.lines(ends, stroke=colour_of(hue), width=1.6, more='opacity=".5"')


def _best(canvas: Canvas, corner: str, x_scale: Scale, y_scale: Scale, labels: Labels) -> None:
    """Mark the corner that is best with a word and an arrow, on a soft ground."""
    arrow = {"upper left": "↖", "upper right": "↗", "lower left": "↙", "lower right": "↘"}[corner]
    to_right, to_top = corner.endswith("right"), corner.startswith("upper")
    x = x_scale.end if to_right else x_scale.start
    y = y_scale.end if to_top else y_scale.start
    across, down = (-64 if to_right else 64), (48 if to_top else -48)
    sweep = int(to_right != to_top)
    canvas.path(f"M{place(x)} {place(y)}h{across}A64 48 0 0 {sweep} {place(x)} {place(y + down)}z",
                fill="s2", more='fill-opacity=".1"')  # fmt: skip
    text = f"better {arrow}" if to_right else f"{arrow} better"
    where = x - 6 if to_right else x + 6
    canvas.text(where, y + (15 if to_top else -7), text, anchor="end" if to_right else "start", fill="dim", size=11.5)
    labels.reserve(min(x, x + across), min(y, y + down), max(x, x + across), max(y, y + down))
