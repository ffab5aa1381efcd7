"""What every design can do."""

from abc import ABC, abstractmethod
from typing import ClassVar

from vitalfew.contracts import Array, Ints


class Design(ABC):
    """A linear map from coefficients (p,) or (p, q) to predictions (n,) or (n, q).

    Products of columns are taken under row weights `w` and, with `center` (the weighted
    means of the columns), around these means: ``sum_i w_i (a_i - c_a)(x_i - c)``.

    Attributes
    ----------
    shape : (int, int)
        Rows and columns.
    like : array
        A small array of the library, dtype and device of the numbers.
    prefetch : int
        How many columns are worth fetching beside one that is needed anyway.
    """

    shape: tuple[int, int]
    like: Array
    prefetch: ClassVar[int] = 0

    @abstractmethod
    def matvec(self, w: Array) -> Array:
        """Return ``X w``."""

    @abstractmethod
    def rmatvec(self, r: Array) -> Array:
        """Return ``X^T r``."""

    @abstractmethod
    def columns(self, ids: Ints) -> "Design":
        """Return some of the columns, as a design."""

    @abstractmethod
    def rows(self, ids: Ints) -> "Design":
        """Return some of the rows, as a design."""

    @abstractmethod
    def dense(self) -> Array:
        """Return all numbers as one (n, p) array: for a few columns only."""

    @abstractmethod
    def cross(self, ids: Ints, w: Array, center: Array | None = None) -> Array:
        """Return the products of columns `ids` with all columns, (k, p)."""

    @abstractmethod
    def gram(self, w: Array, center: Array | None = None) -> Array:
        """Return the products of all columns with all, (p, p): for a few columns."""

    @abstractmethod
    def squared_norms(self, w: Array, center: Array | None = None) -> Array:
        """Return the product of each column with itself, (p,)."""

    @abstractmethod
    def block_grams(self, table: Ints, w: Array, center: Array | None = None) -> Array:
        """Return products within groups of columns: (N, m, m) for a (N, m) table.

        Entries of the table that are negative stand for no column; what is computed
        there has no meaning.
        """
