"""The plot of how often each column is chosen across resamples."""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from vitalfew.report._numbers import clipped, percent
from vitalfew.report._scales import Scale, Tick

ROWS = 40  # as many as fit a page


@dataclass(frozen=True)
class Often:
    """A column and the share of resamples that chose it."""

    column: str
    share: float
    chosen: bool


@dataclass(frozen=True)
class Row:
    """One line of the plot."""

    column: str
    label: str
    label_x: float
    label_y: float
    y: float
    x: float
    value: str
    value_x: float
    value_anchor: str
    chosen: bool


@dataclass(frozen=True)
class StabilityChart:
    """Everything the template draws, in its own units."""

    key: str
    width: int
    height: int
    left: float
    right: float
    top: float
    bottom: float
    ticks: list[Tick]
    rows: list[Row]
    label_anchor: str
    title: str
    description: str


def stability_chart(
    columns: Sequence[Often], key: str, width: int, *, narrow: bool
) -> StabilityChart:
    """Lay out the plot of the given columns, at least one and at most `ROWS`.

    A narrow plot has each name above its line, a wide one beside it.
    """
    pitch, top = (44, 30.0) if narrow else (27, 30.0)
    letters = 44 if narrow else 34
    labels = [_fitted(c.column, letters) for c in columns]
    left = 8.0 if narrow else round(18 + 7.4 * max(map(_letters, labels)))
    scale = Scale(0, 1, left, width - 52.0)
    rows = []
    for i, (column, label) in enumerate(zip(columns, labels, strict=True)):
        y = top + pitch * i + (30 if narrow else 14)
        rows.append(_row(column, label, y, scale, narrow))
    return StabilityChart(
        key=key,
        width=width,
        height=round(top + pitch * len(columns) + 12),
        left=left,
        right=width - 52.0,
        top=top,
        bottom=top + pitch * len(columns) + 4,
        ticks=[Tick(scale(s), percent(s)) for s in (0, 0.25, 0.5, 0.75, 1)],
        rows=rows,
        label_anchor="start" if narrow else "end",
        title="How often each column is chosen across resamples",
        description=_description(columns),
    )


def _row(column: Often, label: str, y: float, scale: Scale, narrow: bool) -> Row:
    x = scale(column.share)
    return Row(
        column=column.column,
        label=label,
        label_x=scale.start if narrow else scale.start - 10,
        label_y=y - 12 if narrow else y + 4.5,
        y=y,
        x=x,
        value=percent(column.share),
        value_x=x + 11,
        value_anchor="start",
        chosen=column.chosen,
    )


def _letters(text: str) -> int:
    """Return the width of a text in letters; those of Chinese and kin count twice."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _fitted(text: str, letters: int) -> str:
    text = " ".join(text.split())
    length = letters
    while _letters(clipped(text, length)) > letters and length > 2:
        length -= 1
    return clipped(text, length)


def _description(columns: Sequence[Often]) -> str:
    chosen = [c for c in columns if c.chosen]
    others = [c for c in columns if not c.chosen]
    said = [f"{len(columns)} columns, the most often chosen first."]
    if chosen:
        least = min(chosen, key=lambda c: c.share)
        said.append(
            f"Of the chosen ones the least steady is {clipped(least.column, 80)}, "
            f"in {percent(least.share)} of resamples."
        )
    if others:
        most = max(others, key=lambda c: c.share)
        said.append(
            f"Of the others the nearest is {clipped(most.column, 80)}, "
            f"in {percent(most.share)}."
        )
    return " ".join(said)
