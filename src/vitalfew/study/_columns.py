"""Columns of a table, held so that rows of 10⁵ of them can be encoded quickly."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from vitalfew.exceptions import DataError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Coded:
    """A column of categories: a code for each row, and what the codes mean.

    Attributes
    ----------
    codes : integer array of shape (n,)
        Numbers of levels; -1 where missing.
    levels : tuple of str
        Ascending, or in their own order; each occurs.
    ordered : bool
        Whether the table gives the levels an order of their own.
    """

    codes: NDArray[np.int32]
    levels: tuple[str, ...]
    ordered: bool = False

    @classmethod
    def of(cls, values: Iterable[Any]) -> Self:
        """Code a column of objects.

        Parameters
        ----------
        values : iterable
            Text, or anything with a `str`; None and NaN are missing.

        Returns
        -------
        Coded
            Its codes and levels.
        """
        texts = [None if v is None or v != v else str(v) for v in values]
        levels = tuple(sorted({t for t in texts if t is not None}))
        number: dict[str | None, int] = {t: i for i, t in enumerate(levels)}
        codes = np.fromiter((number.get(t, -1) for t in texts), np.int32, len(texts))
        return cls(codes, levels)


@dataclass(frozen=True, eq=False)
class Columns:
    """Columns of one table: numbers in one matrix, categories coded.

    Attributes
    ----------
    names : tuple of str
        In the table's order.
    n_rows : int
        Number of rows.
    numeric : tuple of str
        Names of the columns of numbers, in the order of `numbers`.
    numbers : array of shape (n_rows, number of numeric columns)
        NaN where missing.
    coded : mapping of str to Coded
        The columns of categories.
    """

    names: tuple[str, ...]
    n_rows: int
    numeric: tuple[str, ...]
    numbers: Floats
    coded: Mapping[str, Coded]

    @classmethod
    def of(cls, table: Any) -> "Columns":
        """Gather the columns of a table.

        Parameters
        ----------
        table : Columns or mapping of str to array
            Arrays of numbers and booleans are numeric; arrays of objects and text, and
            `Coded` columns, hold categories.

        Returns
        -------
        Columns
            The same columns.

        Raises
        ------
        DataError
            If there are no columns, or their lengths differ.
        """
        if isinstance(table, Columns):
            return table
        if not table:
            raise DataError("the table has no columns")
        numeric: dict[str, Any] = {}
        coded: dict[str, Coded] = {}
        lengths = {}
        for key, values in table.items():
            name = str(key)
            if isinstance(values, Coded):
                coded[name] = values
                lengths[name] = len(values.codes)
                continue
            values = np.asarray(values)
            lengths[name] = len(values)
            if values.dtype.kind in "biuf":
                numeric[name] = values
            else:
                coded[name] = Coded.of(values.tolist())
        first, n = next(iter(lengths.items()))
        for name, length in lengths.items():
            if length != n:
                raise DataError(
                    f"all columns must have one length, but {first!r} has {n} rows "
                    f"and {name!r} has {length}"
                )
        numbers = np.empty((n, len(numeric)))
        for j, values in enumerate(numeric.values()):
            numbers[:, j] = values
        return cls(tuple(lengths), n, tuple(numeric), numbers, coded)

    @cached_property
    def place(self) -> dict[str, int]:
        """Where each column of numbers stands in `numbers`."""
        return {name: j for j, name in enumerate(self.numeric)}

    def __contains__(self, name: object) -> bool:
        return name in self.place or name in self.coded

    def column(self, name: str) -> Floats | Coded:
        """Return one column.

        Parameters
        ----------
        name : str
            Which.

        Returns
        -------
        array of shape (n_rows,) or Coded
            Numbers or categories.
        """
        if name in self.coded:
            return self.coded[name]
        return self.numbers[:, self.place[name]]

    def select(self, names: Sequence[str]) -> "Columns":
        """Return some of the columns, in the given order.

        Parameters
        ----------
        names : sequence of str
            Which.

        Returns
        -------
        Columns
            Those columns.
        """
        numeric = tuple(name for name in names if name not in self.coded)
        numbers = self.numbers
        if numeric != self.numeric:
            numbers = numbers[:, [self.place[name] for name in numeric]]
        coded = {name: self.coded[name] for name in names if name in self.coded}
        return Columns(tuple(names), self.n_rows, numeric, numbers, coded)

    def take(self, rows: Ints) -> "Columns":
        """Return some of the rows; levels that no longer occur are forgotten.

        Parameters
        ----------
        rows : integer array
            Which.

        Returns
        -------
        Columns
            Those rows.
        """
        coded = {name: _taken(column, rows) for name, column in self.coded.items()}
        return Columns(self.names, len(rows), self.numeric, self.numbers[rows], coded)


def _taken(column: Coded, rows: Ints) -> Coded:
    codes = column.codes[rows]
    present = np.bincount(codes[codes >= 0], minlength=len(column.levels)) > 0
    if present.all():
        return Coded(codes, column.levels, column.ordered)
    renumber = np.append(np.cumsum(present) - 1, -1).astype(np.int32)
    levels = tuple(t for t, p in zip(column.levels, present, strict=True) if p)
    return Coded(renumber[codes], levels, column.ordered)
