"""Pictures of which weights of a layer stay, as few paths as there are shades."""

from dataclasses import dataclass
from typing import Any

from vitalfew.report import _reading as read
from vitalfew.report._numbers import clipped, count, counted

CELLS = 64  # most rows and columns of a picture
SHADES = 8


@dataclass(frozen=True)
class Shade:
    """All cells that keep about the same share of their weights."""

    opacity: float
    path: str


@dataclass(frozen=True)
class MaskPicture:
    """Everything the template draws, one unit for each cell."""

    key: str
    layer: str
    shape: str
    width: int
    height: int
    shades: list[Shade]
    description: str


def mask_picture(
    layer: dict[str, Any], key: str, kept: str, shape: str
) -> MaskPicture | None:
    """Lay out the picture of a layer, or None where the record has none.

    Neighbouring cells of one shade are one stroke of a path, so that a page with a
    hundred layers stays small.
    """
    rows = [_cells(row) for row in read.items(layer.get("picture"))[:CELLS]]
    width = max((len(row) for row in rows), default=0)
    if not width:
        return None
    paths: dict[int, list[str]] = {}
    empty = full = 0
    for y, row in enumerate(rows):
        row += [0.0] * (width - len(row))
        empty += sum(value <= 0 for value in row)
        full += sum(value >= 100 for value in row)
        start = 0
        shades = [_shade(value) for value in row]
        for x in range(1, width + 1):
            if x == width or shades[x] != shades[start]:
                if shades[start]:
                    run = f"M{start} {y}h{x - start}"
                    paths.setdefault(shades[start], []).append(run)
                start = x
    name = clipped(read.name(layer.get("name")), 80)
    return MaskPicture(
        key=key,
        layer=name,
        shape=shape,
        width=width,
        height=len(rows),
        shades=[Shade(n / SHADES, "".join(runs)) for n, runs in sorted(paths.items())],
        description=(
            f"{kept}, seen in {count(len(rows))} by {counted(width, 'cell')}: "
            f"{count(empty)} empty, {count(full)} full, "
            f"{count(width * len(rows) - empty - full)} in between. "
            "Outputs run down, inputs across."
        ),
    )


def _cells(row: Any) -> list[float]:
    """Percentages of a row, which may be written as one text."""
    values: list[Any] = row.split() if isinstance(row, str) else read.items(row)
    return [_percentage(value) for value in values[:CELLS]]


def _percentage(value: Any) -> float:
    if isinstance(value, str):
        value = int(value) if value.isascii() and value.isdigit() else None
    return min(100.0, max(0.0, read.number(value) or 0.0))


def _shade(percentage: float) -> int:
    return -int(-percentage * SHADES // 100)
