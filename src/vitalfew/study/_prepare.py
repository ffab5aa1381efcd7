"""From a table to features and outcome: leaks refused, row numbers dropped."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from vitalfew.study._columns import Coded, Columns
from vitalfew.study._hints import data_error, dropping, no_column
from vitalfew.study._outcome import LARGEST, Outcome, find_outcome, find_survival

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SAME = 0.9999  # correlation from which a column repeats the target
FEWEST_BLOCKS = 3
FEWEST_SURE, ROWS_PER_LEVEL = 10, 3  # from which a perfect match is no accident


@dataclass(frozen=True, eq=False)
class Prepared:
    """A table ready for a study.

    Attributes
    ----------
    features : Columns
        What may be chosen, on the rows used.
    outcome : Outcome
        What is predicted, on the same rows.
    blocks : integer array or None
        Rows with one number stay together in folds.
    groups : dict of str to str
        Columns that are chosen together, by the name of their group.
    n_rows : int
        Rows of the table.
    notes : list of str
        What was done and assumed.
    """

    features: Columns
    outcome: Outcome
    blocks: Ints | None
    groups: dict[str, str]
    n_rows: int
    notes: list[str] = field(default_factory=list)


def prepare(
    table: Columns,
    *,
    target: str | None = None,
    time: str | None = None,
    event: str | None = None,
    task: str = "auto",
    order: Sequence[str] | None = None,
    split_by: str | None = None,
    groups: Mapping[str, str] | None = None,
) -> Prepared:
    """Find outcome and features in a table.

    Parameters
    ----------
    table : Columns
        The table.
    target : str, optional
        Name of the target; or give `time` and `event`.
    time, event : str, optional
        Names of the columns of a survival outcome.
    task : str, default="auto"
        "regression", "binary", "multiclass", "ordered", "count", "survival" or "auto".
    order : sequence of str, optional
        Labels of an ordered target, the lowest first.
    split_by : str, optional
        Rows with one value of this column stay together in folds; no feature.
    groups : mapping of str to str, optional
        Group of some columns.

    Returns
    -------
    Prepared
        Features and outcome on the rows that can be used.

    Raises
    ------
    DataError
        If a column is absent or gives the target away.
    """
    survival = time is not None or event is not None
    if task == "survival" or survival:
        if target is not None or time is None or event is None:
            raise data_error(
                "survival needs --time and --event, and no --target",
                "as in `--time days --event died`",
            )
        outcome, rows, notes = find_survival(table, time, event)
        used = {time, event}
    else:
        if target is None:
            raise data_error("there is no target", "use `--target COLUMN`")
        outcome, rows, notes = find_outcome(table, target, task, order)
        used = {target}
    blocks = None
    if split_by is not None:
        if split_by in used:
            raise data_error(
                f"--split-by {split_by}: this column is what is to be predicted",
                "give a column that says which rows belong together",
            )
        blocks, kept = _blocks(table, split_by, rows, notes)
        outcome, rows = outcome.take(kept), rows[kept]
        used.add(split_by)
    groups = dict(groups or {})
    _check_groups(groups, table, used)
    names = [name for name in table.names if name not in used]
    if not names:
        raise data_error(
            "the table has no column left to choose from", "give more columns"
        )
    features = table.select(names)
    if len(rows) < table.n_rows:
        features = features.take(rows)
    _refuse_extremes(features, rows)
    _refuse_leaks(features, outcome)
    ids = _ids(features)
    if ids:
        shown = ", ".join(ids[:5]) + (" ..." if len(ids) > 5 else "")
        notes.append(f"dropped as row numbers or names of rows: {shown}")
        left = [name for name in names if name not in set(ids)]
        if not left:
            raise data_error(
                f"the only columns are row numbers or names of rows: {shown}",
                "give columns that say something about the rows",
            )
        features = features.select(left)
    return Prepared(features, outcome, blocks, groups, table.n_rows, notes)


def _blocks(
    table: Columns, name: str, rows: Ints, notes: list[str]
) -> tuple[Ints, Ints]:
    """Number the blocks of rows; return them and the positions that have one."""
    if name not in table:
        raise no_column(name, table.names, "--split-by")
    column = table.column(name)
    values = column.codes[rows] if isinstance(column, Coded) else column[rows]
    there = values >= 0 if isinstance(column, Coded) else ~np.isnan(values)
    kept = np.flatnonzero(there)
    if len(kept) < len(rows):
        notes.append(f"{len(rows) - len(kept)} rows without {name} were left out")
    found, blocks = np.unique(values[kept], return_inverse=True)
    if len(found) < FEWEST_BLOCKS:
        raise data_error(
            f"--split-by {name}: the column has {len(found)} different values, and at "
            f"least {FEWEST_BLOCKS} are needed to hold some of them out",
            "choose a column with more values, or leave --split-by out",
        )
    return blocks.astype(np.int64), kept


def _check_groups(groups: Mapping[str, str], table: Columns, used: set[str]) -> None:
    for name in groups:
        if name not in table:
            raise no_column(name, table.names, "--groups")
        if name in used:
            raise data_error(
                f"--groups: {name} is no feature and cannot be in a group",
                "take it out of the file",
            )
    for group in set(groups.values()):
        if group in table and group not in groups and group not in used:
            raise data_error(
                f"--groups: {group!r} names a group and also a column outside it",
                "give the group another name",
            )


def _refuse_extremes(features: Columns, rows: Ints) -> None:
    A = features.numbers
    low, high = (f.reduce(A, axis=0, initial=0.0) for f in (np.fmin, np.fmax))
    for j in np.flatnonzero(np.maximum(high, -low) > LARGEST):
        name, column = features.numeric[j], A[:, j]
        at = int(np.nanargmax(np.abs(column)))
        rule = (
            "must not hold infinities"
            if np.isinf(column[at])
            else f"must not hold numbers beyond {LARGEST:g}, whose squares overflow"
        )
        raise data_error(
            f"column {name!r} {rule}, but row {rows[at] + 1} holds {column[at]:g}",
            f"correct it, leave the cell empty, or use {dropping([name])}",
        )


# -- columns that say too much ---------------------------------------------------------


def _refuse_leaks(features: Columns, outcome: Outcome) -> None:
    """Raise if a column gives the target away."""
    leaks = {**_numeric_leaks(features, outcome), **_category_leaks(features, outcome)}
    if not leaks:
        return
    names = [name for name in features.names if name in leaks]
    others = f" ({len(names) - 1} other columns do so too)" if len(names) > 1 else ""
    raise data_error(
        f"column {names[0]!r} {leaks[names[0]]}{others}: with it there is nothing left "
        "to learn",
        f"use {dropping(names[:5])}",
    )


def _answers(outcome: Outcome) -> list[tuple[str, Floats]]:
    if outcome.event is not None:
        time, event = outcome.name.split(", ", 1)
        return [(time, outcome.y), (event, outcome.event)]
    return [(outcome.name, outcome.y)]


def _numeric_leaks(features: Columns, outcome: Outcome) -> dict[str, str]:
    leaks: dict[str, str] = {}
    A = features.numbers
    for name, y in _answers(outcome):
        r = _correlations(A, y)
        for j in np.flatnonzero(np.abs(r) > 0.5):
            column = features.numeric[j]
            if abs(r[j]) > SAME:
                leaks[column] = f"repeats the target {name} (correlation {r[j]:.6f})"
            elif outcome.classes is None and _monotone(A[:, j], y):
                leaks[column] = f"is a monotone function of the target {name}"
    return leaks


def _correlations(A: Floats, y: Floats) -> Floats:
    """Correlation of each column with y over the rows it has; 0 where undefined."""
    there = ~np.isnan(A)
    if there.all():
        n = np.full(A.shape[1], float(len(y)))
        filled, weight = A, None
    else:
        n = there.sum(axis=0).astype(np.float64)
        filled, weight = np.where(there, A, 0.0), there
    n = np.maximum(n, 1.0)
    y = y - y.mean()
    with np.errstate(all="ignore"):
        mean = filled.sum(axis=0) / n
        scale = np.maximum(np.abs(filled).max(axis=0, initial=0.0), 1e-300)
        square = np.einsum("ij,ij->j", filled / scale, filled / scale)
        spread = square - n * (mean / scale) ** 2
        if weight is None:
            y_mean, y_spread = np.zeros(len(n)), np.full(len(n), float(y @ y))
        else:
            y_mean = y @ weight / n
            y_spread = (y * y) @ weight - n * y_mean**2
        product = (y @ (filled / scale)) - n * y_mean * (mean / scale)
        r = product / np.sqrt(spread * y_spread)
    usable = (spread > 1e-12 * square) & (n > 2) & np.isfinite(r)
    return np.where(usable, r, 0.0)


def _monotone(x: Floats, y: Floats) -> bool:
    """Whether x and y, each of many values, have the same order or the opposite one."""
    there = ~np.isnan(x)
    x, y = x[there], y[there]
    if len(np.unique(x)) < max(10, len(x) // 2):
        return False
    rx, ry = rankdata(x), rankdata(y)
    return bool(np.array_equal(rx, ry) or np.array_equal(rx, len(x) + 1 - ry))


def _category_leaks(features: Columns, outcome: Outcome) -> dict[str, str]:
    """Categories with several rows a level, each level of which has one answer."""
    leaks: dict[str, str] = {}
    for name, column in features.coded.items():
        there = column.codes >= 0
        codes = column.codes[there]
        n_levels = len(column.levels)
        few = max(FEWEST_SURE, ROWS_PER_LEVEL * n_levels, len(there) // 2)
        if n_levels < 2 or len(codes) < few:
            continue
        for answer, y in _answers(outcome):
            given = y[there]
            low, high = np.full(n_levels, np.inf), np.full(n_levels, -np.inf)
            np.minimum.at(low, codes, given)
            np.maximum.at(high, codes, given)
            if np.all(low == high) and len(np.unique(low)) > 1:
                leaks[name] = f"determines the target {answer} exactly"
    return leaks


# -- columns that say nothing ----------------------------------------------------------


def _ids(features: Columns) -> list[str]:
    """Columns that only name or number the rows."""
    found = set()
    n = features.n_rows
    for name, column in features.coded.items():
        counts = np.bincount(column.codes[column.codes >= 0])
        if counts.max(initial=0) == 1 and len(counts) > max(2, 0.5 * n):
            found.add(name)
    A = features.numbers
    if A.size:
        whole = np.flatnonzero(np.all(A[:3] == np.round(A[:3]), axis=0))
        whole = whole[np.all(A[:, whole] == np.round(A[:, whole]), axis=0)]
        steps = np.diff(A[:, whole], axis=0)
        ordered = np.all(steps > 0, axis=0) | np.all(steps < 0, axis=0)
        spans = A[:, whole].max(axis=0) - A[:, whole].min(axis=0) == n - 1
        for j in whole[ordered | spans]:
            if len(np.unique(A[:, j])) == n:
                found.add(features.numeric[j])
    return [name for name in features.names if name in found]
