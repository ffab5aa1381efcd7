"""What every design can do."""

from abc import ABC, abstractmethod
from typing import ClassVar

from vitalfew._arrays import namespace, precision, take
from vitalfew.contracts import Array, Ints

Run = slice  # of consecutive columns
WHOLE = slice(None)


class Design(ABC):
    """A linear map from coefficients (p,) or (p, q) to predictions (n,) or (n, q).

    Products of columns are taken under row weights `w` and, with `center` (the weighted
    means of the columns), around these means: ``sum_i w_i (a_i - c_a)(x_i - c)``;
    those of a column that is constant but for rounding are exactly zero.

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

    def around_means(self, w: Array) -> tuple[Array, Array]:
        """Return all numbers less the columns' weighted means, and the means.

        Constant columns become exactly zero. For a few columns only.
        """
        xp = namespace(w)
        means = self.rmatvec(w) / xp.sum(w)
        varies = self.squared_norms(w, means) > 0
        moved = self.dense() - means[None, :]
        return xp.where(varies[None, :], moved, xp.zeros_like(moved)), means

    @property
    def noise(self) -> float:
        """Rounding in a sum of squares around the mean, in squares of the mean."""
        return float((1000 * precision(self.like)) ** 2)

    def _constant(self, squares: Array, w: Array, center: Array) -> Array:
        """Which columns are constant but for rounding, by their sum of squares."""
        return squares <= self.noise * namespace(w).sum(w) * center * center

    def _without_noise(
        self, C: Array, squares: Array, w: Array, center: Array
    ) -> Array:
        """Products (k, p) of some columns, zero for those that are constant.

        `squares` are their products with themselves, `center` their means.
        """
        constant = self._constant(squares, w, center)
        xp = namespace(C)
        if not bool(xp.any(constant)):
            return C
        return xp.where(constant[:, None], xp.zeros_like(C), C)

    def _clean(self, blocks: Array, table: Ints, w: Array, center: Array) -> Array:
        """Products within groups, zero for the columns that are constant."""
        xp = namespace(blocks)
        means = xp.reshape(take(center, table.ravel()), table.shape)
        constant = self._constant(xp.linalg.diagonal(blocks), w, means)
        pairs = constant[:, :, None] | constant[:, None, :]
        return xp.where(pairs, xp.zeros_like(blocks), blocks)

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
    def cross_and_norms(
        self, ids: Ints, w: Array, center: Array | None = None, part: Run = WHOLE
    ) -> tuple[Array, Array]:
        """Return `cross` and `squared_norms` of a run of columns, in one pass."""

    @abstractmethod
    def block_grams(self, table: Ints, w: Array, center: Array | None = None) -> Array:
        """Return products within groups of columns: (N, m, m) for a (N, m) table.

        Entries of the table that are negative stand for no column; what is computed
        there has no meaning.
        """
