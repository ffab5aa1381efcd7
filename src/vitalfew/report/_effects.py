"""What each chosen column does, how steadily it is chosen, what could replace it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

from vitalfew.report import _reading as read
from vitalfew.report._numbers import NOTHING, aligned, clipped, fixed, number, percent

_TIES = 5  # near ties named for one column


@dataclass(frozen=True)
class Bar:
    """A bar from start to end of a line 100 long, with zero somewhere on it."""

    start: float
    end: float
    zero: float


@dataclass(frozen=True)
class Tie:
    """A column that could have been chosen instead."""

    column: str
    facts: str


@dataclass(frozen=True)
class ChosenRow:
    """A line of the table of chosen columns."""

    column: str
    kind: str
    effect: str
    parts: int
    bar: Bar | None
    share: str
    share_bar: Bar | None
    ties: list[Tie]
    more_ties: int


@dataclass(frozen=True)
class Cell:
    """A number with its bar."""

    text: str
    bar: Bar | None


@dataclass(frozen=True)
class Parts:
    """The effects inside one column: of its levels, of its being missing, by class."""

    column: str
    rows: list[tuple[str, list[Cell]]]


@dataclass(frozen=True)
class PartsTable:
    """The effects inside columns that have several, one column of cells per class."""

    headers: list[str]
    columns: list[Parts]


@dataclass(frozen=True)
class _BarScale:
    """What all bars of a table share; zero is in the middle if any is negative."""

    largest: float
    zero: float

    @classmethod
    def over(cls, values: Iterable[float]) -> Self:
        known = [0.0, *values]
        largest = max(max(known), -min(known)) or 1.0
        return cls(largest, 50.0 if min(known) < 0 else 0.0)

    def bar(self, ends: tuple[float, float]) -> Bar:
        """Draw one effect from zero, several from the least to the greatest."""
        low, high = ends
        if low == high:
            low, high = min(low, 0.0), max(high, 0.0)
        room = 100.0 - self.zero
        start, end = (self.zero + room * (v / self.largest) for v in (low, high))
        return Bar(round(start, 1), round(end, 1), self.zero)


@dataclass(frozen=True)
class _Part:
    name: str
    of_class: str | None
    value: float | None


@dataclass(frozen=True)
class _Chosen:
    """A chosen column as the record gives it."""

    column: str
    kind: str
    effect: float | None
    parts: list[_Part]
    share: float | None
    ties: list[dict[str, Any]]

    @property
    def ends(self) -> tuple[float, float] | None:
        """The least and the greatest effect of the column."""
        if self.effect is not None:
            return self.effect, self.effect
        values = [p.value for p in self.parts if p.value is not None]
        return (min(values), max(values)) if values else None

    @property
    def strength(self) -> float:
        """The greatest size of an effect; columns without one come last."""
        return max(map(abs, self.ends)) if self.ends else -1.0

    @property
    def has_parts(self) -> bool:
        """Whether one number does not say it all."""
        return len(self.parts) > 1 or (self.effect is None and self.ends is not None)


def chosen_columns(results: dict[str, Any]) -> list[_Chosen]:
    """Return the chosen columns of a record, the strongest first."""
    found = [_chosen(c) for c in read.mappings(results.get("chosen"))]
    return sorted(found, key=lambda c: -c.strength)


def chosen_rows(chosen: Sequence[_Chosen]) -> list[ChosenRow]:
    """Return the lines of the table; all bars share one scale."""
    scale = _BarScale.over(v for c in chosen if c.ends for v in c.ends)
    single = aligned([c.effect for c in chosen])
    told_apart = len({c.kind for c in chosen}) > 1
    rows = []
    for c, text in zip(chosen, single, strict=True):
        rows.append(
            ChosenRow(
                column=c.column,
                kind=c.kind if told_apart else "",
                effect=text if c.effect is not None else _range(c),
                parts=len(c.parts) if c.has_parts else 0,
                bar=scale.bar(c.ends) if c.ends else None,
                share=percent(c.share),
                share_bar=None if c.share is None else Bar(0, round(100 * c.share), 0),
                ties=[_tie(t) for t in c.ties[:_TIES]],
                more_ties=max(0, len(c.ties) - _TIES),
            )
        )
    return rows


def parts_table(chosen: Sequence[_Chosen], classes: Sequence[str]) -> PartsTable | None:
    """Return the table of effects inside columns, None where no column has several."""
    several = [c for c in chosen if c.has_parts]
    if not several:
        return None
    named = [p.of_class for c in several for p in c.parts if p.of_class is not None]
    order = [k for k in classes if k in set(named)]
    headers = list(dict.fromkeys([*order, *named]))
    scale = _BarScale.over(p.value or 0.0 for c in several for p in c.parts)
    keys: list[str | None] = [*headers] if headers else [None]
    return PartsTable(headers, [_parts(c, keys, scale) for c in several])


def _chosen(item: dict[str, Any]) -> _Chosen:
    share = read.number(item.get("stability"))
    return _Chosen(
        column=read.name(item.get("column")),
        kind=clipped(str(item.get("kind") or ""), 40),
        effect=read.number(item.get("effect")),
        parts=[_part(p) for p in read.mappings(item.get("effects"))],
        share=None if share is None else min(1.0, max(0.0, share)),
        ties=read.mappings(item.get("near_ties")),
    )


def _part(item: dict[str, Any]) -> _Part:
    of_class = item.get("class")
    return _Part(
        read.name(item.get("name")),
        None if of_class is None else str(of_class),
        read.number(item.get("value")),
    )


def _parts(c: _Chosen, keys: Sequence[str | None], scale: _BarScale) -> Parts:
    """Return one column's effects, one line per name and one cell per class."""
    texts = aligned([p.value for p in c.parts])
    cells: dict[str, dict[str | None, Cell]] = {}
    for p, text in zip(c.parts, texts, strict=True):
        bar = None if p.value is None else scale.bar((p.value, p.value))
        key = p.of_class if p.of_class in keys else keys[0]
        cells.setdefault(p.name, {})[key] = Cell(text, bar)
    empty = Cell(NOTHING, None)
    return Parts(
        c.column,
        [(n, [by.get(k, empty) for k in keys]) for n, by in cells.items()],
    )


def _range(c: _Chosen) -> str:
    if c.ends is None:
        return NOTHING
    low, high = aligned(c.ends, 2)
    return low if low == high else f"{low} to {high}"


def _tie(item: dict[str, Any]) -> Tie:
    correlation = read.number(item.get("correlation"))
    loss = read.number(item.get("loss_increase"))
    facts = []
    if correlation is not None:
        facts.append(f"correlation {fixed(correlation, 2)}")
    if loss is not None:
        sign = "+" if loss >= 0 else ""  # the record gives it relative to the loss now
        facts.append(f"loss {sign}{number(100 * loss, 2)}%")
    return Tie(read.name(item.get("column")), ", ".join(facts))


def direction(task: str, target: str, classes: Sequence[str]) -> str:
    """Return the sentence that tells what the sign of an effect means."""
    likely = (
        f"{classes[-1]} more likely"
        if len(classes) == 2
        else "the second class more likely"
    )
    return {
        "regression": f"A positive effect raises the predicted {target}; "
        "a negative one lowers it.",
        "binary": f"A positive effect makes {likely}; a negative one less.",
        "multiclass": "A positive effect makes its class more likely; "
        "a negative one less.",
        "ordered": "The classes are ordered: a positive effect makes higher ones more "
        "likely; a negative one lower ones.",
        "count": f"A positive effect raises the expected {target}; "
        "a negative one lowers it.",
        "survival": "A positive effect raises the risk, so that the event comes "
        "sooner; a negative one lowers it.",
    }.get(task, "A positive effect raises the prediction; a negative one lowers it.")
