"""The plot of held-out error against the number of columns: where its marks lie."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from vitalfew.report._numbers import count, counted, number, spreads
from vitalfew.report._scales import (
    LARGEST,
    Scale,
    Tick,
    around,
    count_ticks,
    value_ticks,
)

_BARS = 30  # with more points than this, their spread is a band
_DOTS = 80  # with more points than this, the line carries no dots
_LETTER = 8.6  # generous width of a letter of a label


@dataclass(frozen=True)
class PathPoint:
    """One number of columns and what it gave."""

    n: int
    mean: float
    se: float | None
    train: float | None


@dataclass(frozen=True)
class Mark:
    """A dot of the curve with its error bar."""

    x: float
    y: float
    low: float
    high: float
    text: str


@dataclass(frozen=True)
class Flag:
    """A number of columns pointed out: a guide line with its label above the plot."""

    x: float
    y: float
    top: float
    label: str
    label_x: float
    label_y: float
    anchor: str
    chosen: bool

    def covers(self, x: float) -> bool:
        """Whether the label lies over a place on the axis."""
        reach = _LETTER * len(self.label)
        start = self.label_x - (reach if self.anchor == "end" else 0)
        return start < x < start + reach


@dataclass(frozen=True)
class PathChart:
    """Everything the template draws, in its own units."""

    key: str
    width: int
    height: int
    left: float
    right: float
    top: float
    bottom: float
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    line: str
    band: str
    train: str
    marks: list[Mark]
    bars: bool
    flags: list[Flag]
    title: str
    description: str


def drawable(points: Sequence[PathPoint]) -> list[PathPoint]:
    """Return the points that have a place on a page, one for each number, in order."""
    found = {p.n: p for p in points if abs(p.mean) < LARGEST and p.n <= 10**9}
    return [found[n] for n in sorted(found)]


def path_chart(
    points: Sequence[PathPoint],
    n_chosen: int | None,
    measure: str,
    frame: tuple[str, int, int],
) -> PathChart:
    """Lay out the plot of drawable points, at least one.

    The measure is the name of what was measured, as in ``"held-out loss"``; the frame
    is a key for the plot's own identifiers, its width and its height.
    """
    key, width, height = frame
    heights = [v for p in points for v in (p.mean, _low(p), _high(p), p.train)]
    known = [v for v in heights if v is not None and abs(v) < LARGEST]
    top, bottom = 52.0, height - 46.0
    y = Scale(*around(known), bottom, top)
    y_ticks = value_ticks(y)
    left = round(16 + _LETTER * max((len(t.label) for t in y_ticks), default=1))
    x = _across(points, left + 14, width - 18.0)
    marks = [_mark(p, x, y) for p in points]
    lows = [f"{m.x},{m.low}" for m in reversed(marks)]
    return PathChart(
        key=key,
        width=width,
        height=height,
        left=left,
        right=width - 4.0,
        top=top,
        bottom=bottom,
        x_ticks=count_ticks(x, room=26 if width < 500 else 34),
        y_ticks=y_ticks,
        line=" ".join(f"{m.x},{m.y}" for m in marks),
        band=" ".join([f"{m.x},{m.high}" for m in marks] + lows)
        if len(points) > _BARS
        else "",
        train=" ".join(
            f"{x(p.n)},{y(p.train)}"
            for p in points
            if p.train is not None and abs(p.train) < LARGEST
        ),
        marks=marks if len(points) <= _DOTS else [],
        bars=len(points) <= _BARS,
        flags=_flags(points, n_chosen, x, y, width),
        title=f"{measure[:1].upper()}{measure[1:]} against the number of columns",
        description=_description(points, n_chosen, measure),
    )


def _low(p: PathPoint) -> float:
    return p.mean - (p.se or 0.0)


def _high(p: PathPoint) -> float:
    return p.mean + (p.se or 0.0)


def _across(points: Sequence[PathPoint], start: float, end: float) -> Scale:
    low, high = points[0].n, points[-1].n
    if low == high:
        return Scale(max(0, low - 1), high + 1, start, end)
    return Scale(low, high, start, end, logarithmic=high > 25 * max(low, 1))


def _mark(p: PathPoint, x: Scale, y: Scale) -> Mark:
    text = f"{counted(p.n, 'column')}: {spreads([(p.mean, p.se)])[0]}"
    return Mark(x(p.n), y(p.mean), y(_low(p)), y(_high(p)), text)


def _best(points: Sequence[PathPoint]) -> PathPoint:
    return min(points, key=lambda p: p.mean)


def _flags(
    points: Sequence[PathPoint], n_chosen: int | None, x: Scale, y: Scale, width: int
) -> list[Flag]:
    """Point out the chosen number and, where it is another, the lowest error."""
    best = _best(points)
    picked = [(p, "chosen") for p in points if p.n == n_chosen]
    if best.n != n_chosen and len(points) > 1:
        picked.append((best, "lowest"))
    last = max((p.n for p, _ in picked), default=0)
    flags = []
    for p, word in picked:
        label = f"{word}: {counted(p.n, 'column')}, {number(p.mean)}"
        # Away from the other guide, unless the label would leave the page.
        here, reach = x(p.n), 8 + _LETTER * len(label)
        right = here + reach <= width and (p.n == last or here < reach)
        anchor, at = (
            ("start", here + 8) if right else ("end", min(max(here, reach), width) - 8)
        )
        chosen = word == "chosen"
        flags.append(Flag(here, y(p.mean), 0, label, round(at, 1), 0, anchor, chosen))
    return _apart(flags)


def _apart(flags: list[Flag]) -> list[Flag]:
    """Put the labels on lines of their own, no guide through the label below it."""
    flags.sort(key=lambda f: f.x, reverse=all(f.anchor == "end" for f in flags))
    placed: list[Flag] = []
    for i, flag in enumerate(flags):
        crosses = any(below.covers(flag.x) for below in flags[i + 1 :])
        line = 16 + 20 * i
        top = line + 26 if crosses else line - 10
        placed.append(replace(flag, label_y=line, top=top))
    return placed


def _description(
    points: Sequence[PathPoint], n_chosen: int | None, measure: str
) -> str:
    best = _best(points)
    said = (
        f"{counted(len(points), 'number')} of columns, from {count(points[0].n)} to "
        f"{count(points[-1].n)}. The {measure} is lowest, {number(best.mean)}, "
        f"with {counted(best.n, 'column')}."
    )
    for p in points:
        if p.n == n_chosen:
            error = spreads([(p.mean, p.se)])[0]
            said += f" Chosen: {counted(p.n, 'column')}, {error}."
    return said
