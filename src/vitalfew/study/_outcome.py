"""What is to be predicted: its task, found from its values, and its objective."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitalfew.objectives import (
    Cox,
    LeastSquares,
    Logistic,
    Multinomial,
    Ordinal,
    Poisson,
)
from vitalfew.study._columns import Coded, Columns
from vitalfew.study._hints import data_error, no_column

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

TASKS = ("regression", "binary", "multiclass", "ordered", "count", "survival")
FEW_LEVELS = 10  # whole numbers with at most this many values may be ordered labels
FEWEST_ROWS = 10
LARGEST = 1e150  # whose square, summed over rows, is still a number
FEWEST_OF_A_CLASS = 4  # so that inner folds of outer folds see every class
HAPPENED = {"1", "true", "t", "yes", "y", "dead", "died", "death", "deceased", "event"}


@dataclass(frozen=True, eq=False)
class Outcome:
    """A target that was understood.

    Attributes
    ----------
    task : str
        One of `TASKS`.
    name : str
        Of the target, or of time and event.
    y : array of shape (n,)
        Numbers, codes of classes, counts or times.
    event : array of shape (n,) or None
        1 where the event happened.
    classes : tuple of str or None
        What the codes mean; the lowest first where they are ordered.
    """

    task: str
    name: str
    y: Floats
    event: Floats | None = None
    classes: tuple[str, ...] | None = None

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return len(self.y)

    @property
    def strata(self) -> Ints | None:
        """What folds must hold in equal shares: classes, or whether events happened."""
        if self.classes is not None:
            return self.y.astype(np.int64)
        return None if self.event is None else self.event.astype(np.int64)

    @property
    def n_telling(self) -> int:
        """Rows that limit how many columns can be told apart.

        All of them for numbers; those outside the largest class; events.
        """
        if self.event is not None:
            return int(self.event.sum())
        if self.classes is not None:
            return self.n_rows - int(np.bincount(self.y.astype(np.int64)).max())
        return self.n_rows

    def take(self, rows: Ints) -> "Outcome":
        """Return some of the rows."""
        event = None if self.event is None else self.event[rows]
        return Outcome(self.task, self.name, self.y[rows], event, self.classes)

    def objective(self, design: Any, l2: float) -> Any:
        """Return what is minimised: the task's loss on a design, with a ridge."""
        if self.event is not None:
            return Cox(design, self.y, self.event, l2=l2)
        if self.task == "ordered":
            return Ordinal(design, self.y, l2=l2)
        losses = {
            "regression": LeastSquares,
            "binary": Logistic,
            "multiclass": Multinomial,
            "count": Poisson,
        }
        return losses[self.task](design, self.y, l2=l2, fit_intercept=True)


def find_outcome(
    columns: Columns, target: str, task: str, order: Sequence[str] | None = None
) -> tuple[Outcome, Ints, list[str]]:
    """Understand a target.

    Parameters
    ----------
    columns : Columns
        The table.
    target : str
        Name of the column.
    task : str
        One of `TASKS` but survival, or "auto".
    order : sequence of str, optional
        Labels of the target, the lowest first.

    Returns
    -------
    outcome : Outcome
        On the rows that have the target.
    rows : integer array
        Those rows.
    notes : list of str
        What was assumed.

    Raises
    ------
    DataError
        If the column is absent, constant or does not suit the task.
    """
    if target not in columns:
        raise no_column(target, columns.names, "--target")
    column = columns.column(target)
    missing = column.codes < 0 if isinstance(column, Coded) else np.isnan(column)
    rows = np.flatnonzero(~missing)
    notes = []
    if missing.any():
        notes.append(
            f"{int(missing.sum())} rows without {target} were left out: nothing can be "
            "learned from them"
        )
    _check_enough(len(rows), f"with a value of {target}")
    levels: tuple[str, ...] | None = None
    if isinstance(column, Coded):
        levels, values = column.levels, column.codes[rows].astype(np.float64)
    else:
        values = column[rows]
        if not np.all(np.isfinite(values)):
            where = rows[np.flatnonzero(~np.isfinite(values))[0]]
            raise data_error(
                f"target {target} must be finite, but is infinite in row {where + 1}",
                "correct it, or leave the cell empty to leave the row out",
            )
        if np.abs(values).max() > LARGEST or 0 < np.ptp(values) < 1 / LARGEST:
            raise data_error(
                f"target {target} lies between {values.min():g} and {values.max():g}: "
                "squares of such numbers are beyond what computers hold",
                "give it in other units",
            )
    if len(np.unique(values)) < 2:
        raise data_error(
            f"target {target} has the same value in all {len(rows)} rows",
            "choose another column as the target",
        )
    ordered = isinstance(column, Coded) and column.ordered
    if order is not None:
        values, levels = _in_order(values, levels, order, target, notes)
        task, ordered = "ordered", True
    if task == "auto":
        task = _guess(values, levels is not None, ordered, target, notes)
    if task == "ordered" and levels is not None and not ordered:
        raise data_error(
            f"target {target} holds text such as {levels[0]!r}, in no known order",
            "give it, the lowest first, as in `--order low,medium,high`",
        )
    if task in ("binary", "multiclass", "ordered"):
        return _classes(values, levels, task, target), rows, notes
    if levels is not None:
        raise data_error(
            f"target {target} holds text such as {levels[0]!r}, no use for {task}",
            "use `--task multiclass`, or give a column of numbers",
        )
    if task == "count" and (values.min() < 0 or np.any(values != np.round(values))):
        bad = np.flatnonzero((values < 0) | (values != np.round(values)))[0]
        raise data_error(
            f"counts must be whole numbers >= 0, but {target} is {values[bad]:g} in "
            f"row {rows[bad] + 1}",
            "use `--task regression`",
        )
    if task == "count" and np.count_nonzero(values) < FEWEST_OF_A_CLASS:
        raise data_error(
            f"target {target} counts more than 0 in {np.count_nonzero(values)} rows; "
            f"at least {FEWEST_OF_A_CLASS} are needed",
            "choose another target, or use `--task regression`",
        )
    return Outcome(task, target, values), rows, notes


def _check_enough(n: int, which: str) -> None:
    if n < FEWEST_ROWS:
        raise data_error(
            f"at least {FEWEST_ROWS} rows are needed to choose columns and judge the "
            f"choice, and there are {n} {which}",
            "give more rows",
        )


def _guess(
    values: Floats, text: bool, ordered: bool, target: str, notes: list[str]
) -> str:
    """Tell the task from the values."""
    n_levels = len(np.unique(values))
    if n_levels == 2:
        return "binary"
    if text:
        return "ordered" if ordered else "multiclass"
    if np.any(values != np.round(values)):
        return "regression"
    if n_levels <= FEW_LEVELS:
        notes.append(
            f"target {target} has {n_levels} levels and is taken as a number (if only "
            "their order means something: --task ordered)"
        )
        return "regression"
    mean, spread = values.mean(), values.std()
    skewness = np.mean(((values - mean) / spread) ** 3)
    if 0 <= values.min() <= 1 and spread**2 > mean and skewness > 0.5:
        notes.append(f"target {target} looks like a count (if not: --task regression)")
        return "count"
    return "regression"


def _in_order(
    values: Floats,
    levels: tuple[str, ...] | None,
    order: Sequence[str],
    target: str,
    notes: list[str],
) -> tuple[Floats, tuple[str, ...]]:
    """Number labels in the order the user gives."""
    found, codes = np.unique(values, return_inverse=True)
    names = [_label(v) if levels is None else levels[int(v)] for v in found]
    place = {name: i for i, name in enumerate(order)}
    if len(place) < len(order):
        twice = next(name for i, name in enumerate(order) if place[name] != i)
        raise data_error(f"--order names {twice!r} twice", "name every label once")
    strange = [name for name in names if name not in place]
    if strange:
        raise data_error(
            f"--order does not name {strange[0]!r}, which target {target} holds",
            f"the labels are {', '.join(names[:8])}{' ...' if names[8:] else ''}",
        )
    unused = [name for name in order if name not in names]
    if unused:
        notes.append(f"no row has a {target} of {', '.join(unused)}")
    ranks = np.array([place[name] for name in names], np.float64)
    return ranks[codes], tuple(order)


def _label(value: float) -> str:
    return f"{value:.12g}"


def _classes(
    values: Floats, levels: tuple[str, ...] | None, task: str, target: str
) -> Outcome:
    """Code classes from 0."""
    found, codes = np.unique(values, return_inverse=True)
    if levels is not None:
        names = tuple(levels[int(i)] for i in found)
    else:
        names = tuple(_label(v) for v in found)
    if task == "binary" and len(names) != 2:
        raise data_error(
            f"target {target} has {len(names)} different values, and binary needs two",
            "use `--task multiclass` or `--task regression`",
        )
    counts = np.bincount(codes)
    rare = int(counts.argmin())
    if counts[rare] < FEWEST_OF_A_CLASS:
        raise data_error(
            f"class {names[rare]!r} of target {target} has {counts[rare]} rows of "
            f"{len(codes)}; every class needs at least {FEWEST_OF_A_CLASS}",
            "merge rare classes, leave their cells empty, or use `--task regression` "
            "if the target is a number",
        )
    if len(names) == 2:
        task = "binary"
    elif task != "ordered":
        task = "multiclass"
    return Outcome(task, target, codes.astype(np.float64), classes=names)


def find_survival(
    columns: Columns, time: str, event: str
) -> tuple[Outcome, Ints, list[str]]:
    """Understand survival times.

    Parameters
    ----------
    columns : Columns
        The table.
    time, event : str
        Names of the columns.

    Returns
    -------
    outcome : Outcome
        On the rows that have both.
    rows : integer array
        Those rows.
    notes : list of str
        What was assumed.

    Raises
    ------
    DataError
        If a column is absent or does not hold times or events.
    """
    if time == event:
        raise data_error(
            f"--time and --event both name {time}",
            "give one column of durations, and one that says if the event came",
        )
    for name, option in ((time, "--time"), (event, "--event")):
        if name not in columns:
            raise no_column(name, columns.names, option)
    times = columns.column(time)
    if isinstance(times, Coded):
        raise data_error(f"--time {time}: the column holds text", "give durations")
    notes: list[str] = []
    happened = _events(columns.column(event), event, notes)
    rows = np.flatnonzero(~np.isnan(times) & ~np.isnan(happened))
    if len(rows) < len(times):
        notes.append(
            f"{len(times) - len(rows)} rows without {time} or {event} were left out"
        )
    _check_enough(len(rows), "with time and event")
    good = np.isfinite(times[rows]) & (times[rows] > 0)
    if not good.all():
        bad = rows[np.flatnonzero(~good)[0]]
        raise data_error(
            f"times must be positive and finite, but {time} is {times[bad]:g} in row "
            f"{bad + 1}",
            "correct it, or leave the cell empty to leave the row out",
        )
    n_events = int(happened[rows].sum())
    if n_events < FEWEST_OF_A_CLASS:
        raise data_error(
            f"{event} happened in {n_events} of {len(rows)} rows; at least "
            f"{FEWEST_OF_A_CLASS} events are needed",
            "check that --event names the column of events and how it is coded",
        )
    outcome = Outcome("survival", f"{time}, {event}", times[rows], happened[rows])
    return outcome, rows, notes


def _events(column: Floats | Coded, name: str, notes: list[str]) -> Floats:
    """Return 1 where an event happened, 0 where it did not, NaN where missing."""
    if isinstance(column, Coded):
        if len(column.levels) > 2:
            raise data_error(
                f"--event {name}: the column has {len(column.levels)} levels, such as "
                f"{', '.join(map(repr, column.levels[:3]))}",
                "code it as 1 where the event happened and 0 where it did not",
            )
        hits = [level.casefold() in HAPPENED for level in column.levels]
        if sum(hits) != 1:
            raise data_error(
                f"--event {name}: it is not clear which of "
                f"{' and '.join(map(repr, column.levels))} is the event",
                "code it as 1 where the event happened and 0 where it did not",
            )
        notes.append(f"the event of {name} is {column.levels[hits.index(True)]!r}")
        return np.append(np.array(hits, np.float64), np.nan)[column.codes]
    found = set(np.unique(column[~np.isnan(column)]).tolist())
    if found == {1.0, 2.0}:
        notes.append(f"{name} holds 1 and 2: 2 is taken as the event, 1 as censored")
        return column - 1
    if not found <= {0.0, 1.0}:
        raise data_error(
            f"--event {name}: the column must hold 0 and 1, and it holds "
            f"{', '.join(f'{v:g}' for v in sorted(found)[:5])}",
            "code it as 1 where the event happened and 0 where it did not",
        )
    return column
