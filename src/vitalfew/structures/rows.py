"""At most k rows of a matrix."""

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np

from vitalfew._arrays import namespace, to_host
from vitalfew.contracts import Array, Shape
from vitalfew.structures._index import IndexStructure, Scores
from vitalfew.supports import Coordinates


@dataclass(frozen=True, eq=False)
class Rows(IndexStructure):
    """At most `n_rows` rows of `x`: columns of the data shared by all outputs.

    The structure for several outputs and for multinomial models, where a column of the
    data is used for all classes or for none. The projection keeps the rows of largest
    Euclidean norm. On a vector it equals `Cardinality`.

    Parameters
    ----------
    n_rows : int, optional
        How many rows may differ from zero.
    density : float, optional
        The same as a fraction of the rows. Exactly one of the two is given.
    keep : tuple of int
        Rows that are always in the support; they count towards the budget.
    shape : tuple of int, optional
        Filled in by `on`; leave it alone.

    Examples
    --------
    >>> import numpy as np
    >>> Rows(1).project(np.array([[1.0, 1.0], [0.0, 3.0]]))
    array([[0., 0.],
           [0., 3.]])
    """

    n_rows: int | None = None
    density: float | None = field(default=None, kw_only=True)

    count_name: ClassVar[str] = "n_rows"

    def __post_init__(self) -> None:
        self._require_one_budget()

    def on(self, shape: Shape) -> Self:
        """Return this structure on arrays of one shape."""
        if not shape:
            raise ValueError("Rows needs an array with at least one dimension")
        return super().on(shape)

    @property
    def n_atoms(self) -> int:
        """Number of rows."""
        return self._shape()[0]

    @property
    def _width(self) -> int:
        return math.prod(self._shape()[1:])

    def support(self, atoms: Any) -> Coordinates:
        """Return the span of some rows."""
        atoms = np.asarray(atoms, np.int64)
        ids = (atoms[:, None] * self._width + np.arange(self._width)).ravel()
        sizes = np.full(len(atoms), self._width)
        return Coordinates(atoms, ids, sizes, self._shape())

    def scores(self, v: Array) -> Scores:
        """Squared length of each row of `v`."""
        rows = namespace(v).reshape(v, (v.shape[0], -1))
        host = to_host(rows).astype(np.float64)
        squares: Scores = np.einsum("ij,ij->i", host, host)
        return squares
