"""The ridge of an objective: one number, or one for each coefficient."""

from typing import Any

from vitalfew._arrays import eye, namespace, rows
from vitalfew.contracts import Array, Ints


class Ridge:
    """``sum_i r_i x_i^2 / 2`` with ``r_i = l2``, or more where something was added.

    Parameters
    ----------
    l2 : float
        The same for all coefficients, not negative.
    extra : array of the shape of `x`, optional
        What is added to it.
    """

    def __init__(self, l2: float, extra: Array | None = None) -> None:
        self.l2, self.extra = l2, extra

    def __bool__(self) -> bool:
        return self.l2 > 0 or self.extra is not None

    @property
    def varies(self) -> bool:
        """Whether the coefficients of one row of `x` may have different ridges."""
        return self.extra is not None and self.extra.ndim > 1

    def plus(self, weights: Array) -> "Ridge":
        """Return the sum with further weights, of the shape of `x`."""
        extra = self.extra
        return Ridge(self.l2, weights if extra is None else extra + weights)

    def at(self, ids: Ints | None = None) -> Any:
        """Ridge of rows `ids` of `x`, or of all: a number, or an array like them."""
        if self.extra is None:
            return self.l2
        return self.l2 + (self.extra if ids is None else rows(self.extra, ids))

    def of_run(self, part: slice) -> Any:
        """Ridge of a run of rows of `x`."""
        return self.l2 if self.extra is None else self.l2 + self.extra[part]

    def value(self, x: Array, ids: Ints | None = None) -> float:
        """Return the ridge of rows `ids` that hold `x`."""
        if not self:
            return 0.0
        return 0.5 * float(namespace(x).sum(self.at(ids) * x * x))

    def times(self, x: Array, ids: Ints | None = None) -> Array:
        """Return its gradient."""
        return self.at(ids) * x

    def added_to(self, G: Array, ids: Ints) -> Array:
        """Return a Hessian over rows `ids`, of one column of `x`, with it."""
        if not self:
            return G
        r, unit = self.at(ids), eye(G.shape[-1], G)
        return G + (r * unit if self.extra is None else r[:, None] * unit)

    def added_to_blocks(self, B: Array, table: Ints) -> Array:
        """Return Hessians within groups of rows, (N, m, m) for a (N, m) table."""
        if not self:
            return B
        unit = eye(B.shape[-1], B)
        if self.extra is None:
            return B + self.l2 * unit
        r = namespace(B).reshape(self.at(table.ravel()), table.shape)
        return B + r[:, :, None] * unit[None, :, :]
