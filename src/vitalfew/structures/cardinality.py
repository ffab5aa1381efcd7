"""At most k coordinates."""

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from vitalfew._arrays import namespace, to_host
from vitalfew.contracts import Array
from vitalfew.structures._index import IndexStructure, Scores
from vitalfew.supports import Coordinates


@dataclass(frozen=True, eq=False)
class Cardinality(IndexStructure):
    """At most `n_nonzero` coordinates: ``|x|_0 <= n_nonzero``.

    The projection keeps the coordinates of largest magnitude, the smaller index first
    among equals.

    Parameters
    ----------
    n_nonzero : int, optional
        How many coordinates may differ from zero, from 0 to their number.
    density : float, optional
        The same as a fraction: ``max(1, floor(density * n))`` coordinates. Exactly one
        of the two is given.
    keep : tuple of int
        Coordinates that are always in the support; they count towards the budget.
    shape : tuple of int, optional
        Filled in by `on`; leave it alone.

    Examples
    --------
    >>> import numpy as np
    >>> Cardinality(2).project(np.array([1.0, -3.0, 0.5, 2.0]))
    array([ 0., -3.,  0.,  2.])
    """

    n_nonzero: int | None = None
    density: float | None = field(default=None, kw_only=True)

    count_name: ClassVar[str] = "n_nonzero"

    def __post_init__(self) -> None:
        self._require_one_budget()

    @property
    def n_atoms(self) -> int:
        """Number of coordinates."""
        return math.prod(self._shape())

    def support(self, atoms: Any) -> Coordinates:
        """Return the span of some coordinates."""
        atoms = np.asarray(atoms, np.int64)
        return Coordinates(atoms, atoms, np.ones(len(atoms), np.int64), self._shape())

    def scores(self, v: Array) -> Scores:
        """Squared entries of `v`."""
        host = to_host(namespace(v).reshape(v, (-1,))).astype(np.float64)
        return host * host
