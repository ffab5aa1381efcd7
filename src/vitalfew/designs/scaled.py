"""A view of a design with its columns in other units."""

from typing import Self

from vitalfew._arrays import namespace, take
from vitalfew.contracts import Array, Ints
from vitalfew.designs._base import WHOLE, Design, Run


class Scaled(Design):
    """The columns of a design divided by a scale; nothing is copied.

    Selection by gradients depends on the units of the columns, so estimators work on
    this view with the columns' standard deviations. Centring is not part of it: an
    objective with an intercept centres by itself, and then sparse data stay sparse.

    Parameters
    ----------
    design : Design
        What to view.
    scale : array of shape (p,)
        Positive.
    """

    def __init__(self, design: Design, scale: Array) -> None:
        self.design, self.scale = design, scale
        self.shape, self.like = design.shape, design.like

    @classmethod
    def standard(cls, design: Design, w: Array, center: Array | None) -> Self:
        """View with unit root mean square around `center`; constant columns stay.

        Parameters
        ----------
        design : Design
            What to view.
        w : array of shape (n,)
            Row weights that sum to one.
        center : array of shape (p,) or None
            Weighted means of the columns, or None to measure from zero.
        """
        squares = design.squared_norms(w, center)
        xp = namespace(squares)
        return cls(design, xp.where(squares > 0, squares, xp.ones_like(squares)) ** 0.5)

    @property
    def prefetch(self) -> int:  # type: ignore[override]
        """How many columns are worth fetching beside one that is needed anyway."""
        return self.design.prefetch

    def _divide(self, values: Array) -> Array:
        return values / (self.scale if values.ndim == 1 else self.scale[:, None])

    def matvec(self, w: Array) -> Array:
        """Return ``X w``."""
        return self.design.matvec(self._divide(w))

    def rmatvec(self, r: Array) -> Array:
        """Return ``X^T r``."""
        return self._divide(self.design.rmatvec(r))

    def columns(self, ids: Ints) -> "Scaled":
        """Return some of the columns, as a design."""
        return Scaled(self.design.columns(ids), take(self.scale, ids))

    def rows(self, ids: Ints) -> "Scaled":
        """Return some of the rows, in the same units."""
        return Scaled(self.design.rows(ids), self.scale)

    def dense(self) -> Array:
        """Return all numbers as one (n, p) array."""
        return self.design.dense() / self.scale[None, :]

    def cross_and_norms(
        self, ids: Ints, w: Array, center: Array | None = None, part: Run = WHOLE
    ) -> tuple[Array, Array]:
        """Return `cross` and `squared_norms` of a run of columns, in one pass."""
        C, squares = self.design.cross_and_norms(ids, w, self._raw(center), part)
        scale = self.scale[part]
        return self._divided(C, ids, scale), squares / scale / scale

    def _divided(self, C: Array, ids: Ints, scale: Array) -> Array:
        C /= scale[None, :]
        C /= take(self.scale, ids)[:, None]
        return C

    def _raw(self, center: Array | None) -> Array | None:
        return None if center is None else center * self.scale

    def cross(self, ids: Ints, w: Array, center: Array | None = None) -> Array:
        """Return the products of columns `ids` with all columns, (k, p)."""
        C = self.design.cross(ids, w, self._raw(center))
        return self._divided(C, ids, self.scale)

    def gram(self, w: Array, center: Array | None = None) -> Array:
        """Return the products of all columns with all, (p, p)."""
        G = self.design.gram(w, self._raw(center))
        return G / self.scale[None, :] / self.scale[:, None]

    def squared_norms(self, w: Array, center: Array | None = None) -> Array:
        """Return the product of each column with itself, (p,)."""
        squares = self.design.squared_norms(w, self._raw(center))
        return squares / self.scale / self.scale

    def block_grams(self, table: Ints, w: Array, center: Array | None = None) -> Array:
        """Return products within groups of columns: (N, m, m) for a (N, m) table."""
        B = self.design.block_grams(table, w, self._raw(center))
        s = namespace(B).reshape(take(self.scale, table.ravel()), table.shape)
        return B / s[:, :, None] / s[:, None, :]
