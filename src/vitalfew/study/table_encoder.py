"""From a table of numbers and categories to a matrix with groups of columns."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from vitalfew.exceptions import DataError
from vitalfew.study._columns import Coded, Columns

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

OTHER = "other"
MISSING = "missing"


@dataclass(frozen=True, eq=False)
class _Levels:
    """How one column of categories is encoded."""

    of_level: dict[str, int]  # output column of each level, -1 for the reference
    unseen: int  # output column of other levels, or -1
    missing: int  # output column of missing entries, or -1
    names: tuple[str, ...]  # of the output columns
    reference: str


class TableEncoder(BaseEstimator):
    """Encode a table so that each of its columns is a group, kept or dropped whole.

    Numbers: missing ones become the median of the training rows and, where they are not
    rare, an indicator joins the group. Categories: an indicator for each level but the
    first; rare levels are pooled, missing entries are a level of their own. What is new
    at `transform` counts as the pooled level if there is one, else as the first. All is
    learned from the rows given to `fit` only.

    Parameters
    ----------
    min_count : int, default=5
        Levels with fewer training rows are pooled as "other", and missing entries in
        fewer get no indicator: one that marks a few rows only would fit their noise.
    max_levels : int, default=50
        A column with more levels than this, after pooling, is dropped as text.
    groups : mapping of str to str, optional
        Group of some columns, by name; the others are groups of their own.

    Attributes
    ----------
    groups_ : integer array of shape (n_outputs,)
        Group of each output column, from 0 without gaps.
    group_names_ : list of str
        Name of each group: that of its column, or the one given in `groups`.
    group_columns_ : list of list of str
        The table's columns in each group.
    feature_names_ : list of str
        Names of the output columns: ``age``, ``age (missing)``, ``colour=red``.
    sources_ : list of str
        The table's column behind each output column.
    numeric_ : boolean array of shape (n_outputs,)
        Which output columns are numbers, not indicators.
    references_ : dict of str to str
        The level of each category that has no indicator.
    dropped_ : dict of str to str
        Columns that are not encoded, and why.

    Examples
    --------
    >>> import numpy as np
    >>> table = {"age": np.array([30, np.nan, 50]), "sex": np.array(["f", "m", "f"])}
    >>> encoder = TableEncoder(min_count=1).fit(table)
    >>> encoder.feature_names_
    ['age', 'age (missing)', 'sex=m']
    >>> encoder.transform(table)[1]
    array([40.,  1.,  1.])
    """

    def __init__(
        self,
        *,
        min_count: int = 5,
        max_levels: int = 50,
        groups: Mapping[str, str] | None = None,
    ) -> None:
        self.min_count = min_count
        self.max_levels = max_levels
        self.groups = groups

    # -- fit ---------------------------------------------------------------------------

    def fit(self, table: Any, rows: Ints | None = None) -> Self:
        """Learn medians and levels.

        Parameters
        ----------
        table : mapping of str to array
            Arrays of numbers (NaN where missing), or of objects or text (None where
            missing), all of one length.
        rows : integer array, optional
            The training rows; all by default.

        Returns
        -------
        self
            The fitted encoder.

        Raises
        ------
        DataError
            If the table is empty, holds an infinity, or no column is left.
        """
        columns = Columns.of(table)
        self._names, self._numeric = columns.names, columns.numeric
        train = np.arange(columns.n_rows) if rows is None else np.asarray(rows)
        if not len(train):
            raise DataError("the table must have at least one row to learn from")
        self.dropped_: dict[str, str] = {}
        self._fit_numbers(columns, train)
        self._levels: dict[str, _Levels] = {}
        for name, column in columns.coded.items():
            levels = self._fit_levels(column, train)
            if isinstance(levels, str):
                self.dropped_[name] = levels
            else:
                self._levels[name] = levels
        self._lay_out(columns)
        if not self.feature_names_:
            raise DataError(
                f"none of the {len(columns.names)} columns can be used: "
                f"{'; '.join(self.notes())}"
            )
        return self

    def _fit_numbers(self, columns: Columns, train: Ints) -> None:
        names = columns.numeric
        A = columns.numbers if len(train) == columns.n_rows else columns.numbers[train]
        low, high = np.fmin.reduce(A, axis=0), np.fmax.reduce(A, axis=0)
        infinite = np.flatnonzero(np.isinf(low) | np.isinf(high))
        if len(infinite):
            raise DataError(f"column {names[infinite[0]]!r} must not hold infinities")
        n_missing = np.count_nonzero(np.isnan(A), axis=0)
        self._has_missing: NDArray[np.bool_] = n_missing >= self.min_count
        empty = np.isnan(low)
        constant = low == high
        self._varies = ~(empty | constant)
        self._has_missing &= ~empty
        for j in np.flatnonzero(~self._varies & ~self._has_missing):
            self.dropped_[names[j]] = "all missing" if empty[j] else "constant"
        self._median = np.zeros(len(names))
        holes = np.flatnonzero(np.isnan(columns.numbers).any(axis=0) & ~empty)
        self._median[holes] = _medians(A[:, holes])

    def _fit_levels(self, column: Coded, train: Ints) -> _Levels | str:
        """Return the encoding of one column, or why it is dropped."""
        codes = column.codes[train]
        counts = np.bincount(codes[codes >= 0], minlength=len(column.levels))
        seen = np.flatnonzero(counts)
        has_missing = bool(np.count_nonzero(codes < 0) >= self.min_count)
        if not len(seen):
            return "all missing"
        if len(seen) + has_missing == 1:
            return "constant"
        least = min(self.min_count, max(2, counts.max())) if len(seen) > 2 else 1
        common = seen[counts[seen] >= least]
        if not len(common):
            return "text without a repeated value"
        rare = counts[common].sum() < 0.5 * counts.sum()
        if len(common) > self.max_levels or (rare and len(seen) > self.max_levels):
            return f"text with more than {self.max_levels} different values"
        pooled = len(common) < len(seen)
        names = [column.levels[i] for i in common]
        slots = [*names, *([_free(OTHER, names)] if pooled else [])]
        if has_missing:
            slots.append(_free(MISSING, slots))
        if len(slots) == 1:
            return "constant"
        return _Levels(
            of_level={name: i - 1 for i, name in enumerate(names)},
            unseen=len(names) - 1 if pooled else -1,
            missing=len(slots) - 2 if has_missing or pooled else -1,
            names=tuple(slots[1:]),
            reference=slots[0],
        )

    def _lay_out(self, columns: Columns) -> None:
        """Number groups and output columns in the table's order."""
        given = self.groups or {}
        number: dict[tuple[str, bool], int] = {}
        groups: list[int] = []
        self.group_names_: list[str] = []
        self.group_columns_: list[list[str]] = []
        self.feature_names_: list[str] = []
        self.sources_: list[str] = []
        self.references_ = {n: lv.reference for n, lv in self._levels.items()}
        self._first: dict[str, int] = {}
        numeric: list[bool] = []
        for name in columns.names:
            outputs = self._outputs(name, columns)
            if not outputs:
                continue
            key = (given.get(name, name), name in given)
            if key not in number:
                number[key] = len(number)
                self.group_names_.append(key[0])
                self.group_columns_.append([])
            self.group_columns_[number[key]].append(name)
            self._first[name] = len(groups)
            groups.extend([number[key]] * len(outputs))
            self.feature_names_.extend(outputs)
            self.sources_.extend([name] * len(outputs))
            numeric.extend(output == name for output in outputs)
        self.groups_ = np.array(groups, np.int64)
        self.numeric_ = np.array(numeric, bool)
        self.n_features_in_ = len(columns.names)

    def _outputs(self, name: str, columns: Columns) -> list[str]:
        if name in self._levels:
            return [f"{name}={level}" for level in self._levels[name].names]
        if name in self.dropped_:
            return []
        j = columns.place[name]
        outputs = [name] if self._varies[j] else []
        return [*outputs, f"{name} (missing)"] if self._has_missing[j] else outputs

    # -- transform ---------------------------------------------------------------------

    def transform(self, table: Any, rows: Ints | None = None) -> Floats:
        """Encode rows of a table with the same columns.

        Parameters
        ----------
        table : mapping of str to array
            As in `fit`.
        rows : integer array, optional
            Which rows; all by default.

        Returns
        -------
        array of shape (n_rows, n_outputs)
            Finite numbers.

        Raises
        ------
        DataError
            If a column that is needed is absent or of another kind.
        """
        check_is_fitted(self, "groups_")
        columns = self._same_columns(Columns.of(table))
        n = columns.n_rows if rows is None else len(rows)
        out = np.zeros((n, len(self.groups_)))
        self._numbers_into(out, columns, rows)
        for name, levels in self._levels.items():
            column = columns.coded[name]
            at = [levels.of_level.get(t, levels.unseen) for t in column.levels]
            codes = column.codes if rows is None else column.codes[rows]
            hot = np.array([*at, levels.missing])[codes]
            some = np.flatnonzero(hot >= 0)
            out[some, self._first[name] + hot[some]] = 1.0
        return out

    def _same_columns(self, columns: Columns) -> Columns:
        """Return the columns that `fit` saw, in its order."""
        if columns.names == self._names and columns.numeric == self._numeric:
            return columns
        lacking = [name for name in self._names if name not in columns]
        if lacking:
            raise DataError(f"the table lacks the column {lacking[0]!r} seen in fit")
        columns = columns.select(self._names)
        for name in set(columns.numeric) ^ set(self._numeric):
            raise DataError(
                f"column {name!r} must hold numbers or categories as it did in fit"
            )
        return columns

    def _numbers_into(self, out: Floats, columns: Columns, rows: Ints | None) -> None:
        numbers = columns.numbers if rows is None else columns.numbers[rows]
        varies = np.flatnonzero(self._varies)
        first = np.array([self._first[columns.numeric[j]] for j in varies], np.int64)
        values = numbers[:, varies] if len(varies) < numbers.shape[1] else numbers
        holes = np.isnan(values)
        if holes.any():
            values = np.where(holes, self._median[varies], values)
        out[:, first] = values
        for j in np.flatnonzero(self._has_missing):
            at = self._first[columns.numeric[j]] + int(self._varies[j])
            out[:, at] = np.isnan(numbers[:, j])

    def fit_transform(self, table: Any, y: Any = None) -> Floats:
        """Learn from all rows and encode them.

        Parameters
        ----------
        table : mapping of str to array
            As in `fit`.
        y : None
            Ignored.

        Returns
        -------
        array of shape (n_rows, n_outputs)
            Finite numbers.
        """
        del y
        columns = Columns.of(table)
        return self.fit(columns).transform(columns)

    def notes(self) -> list[str]:
        """Say which columns were dropped and why.

        Returns
        -------
        list of str
            One sentence for each reason.
        """
        return _reasons(self.dropped_)


def _free(name: str, taken: list[str]) -> str:
    """Return a name that no level has."""
    while name in taken:
        name += "_"
    return name


def _medians(A: Floats) -> Floats:
    """Median of each column, NaN left out; each has a number."""
    if not A.size:
        return np.zeros(A.shape[1])
    counts = np.count_nonzero(~np.isnan(A), axis=0)
    ordered = np.sort(A, axis=0)  # NaN last
    across = np.arange(A.shape[1])
    middle = ordered[(counts - 1) // 2, across] + ordered[counts // 2, across]
    return np.asarray(middle / 2)


def _reasons(dropped: Mapping[str, str], most: int = 5) -> list[str]:
    """One clause for each reason, naming a few of the columns."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in dropped.items():
        by_reason.setdefault(reason, []).append(name)
    clauses = []
    for reason, names in by_reason.items():
        shown = ", ".join(names[:most])
        more = f" and {len(names) - most} more" if len(names) > most else ""
        noun = "column" if len(names) == 1 else f"{len(names)} columns"
        clauses.append(f"{noun} dropped ({reason}): {shown}{more}")
    return clauses
