"""What objectives over the rows of a table share: checked X, y and weights."""

import copy
import math
from typing import Any, ClassVar, Self

import numpy as np

from vitalfew._arrays import (
    as_array,
    columns,
    is_array_api_obj,
    namespace,
    rows,
    zeros,
)
from vitalfew._validation import (
    check_finite,
    check_nonnegative,
    check_rows,
    check_weights,
)
from vitalfew.contracts import Array, Ints
from vitalfew.designs import as_design
from vitalfew.objectives._base import BaseObjective
from vitalfew.objectives._ridge import Ridge
from vitalfew.supports import Coordinates, Whole


class DataObjective(BaseObjective):
    """A weighted mean of losses over the rows of a design, plus a ridge.

    Attributes
    ----------
    design : Design
        What X is.
    y : array
        Targets, in the library and dtype of the design.
    w : array of shape (n,)
        Row weights that sum to one.
    """

    _target: ClassVar[str] = "y"  # the argument that errors name
    center: Array | None  # weighted means of the columns, where shifts change nothing

    def __init__(
        self,
        X: Any,
        y: Any,
        *,
        sample_weight: Any = None,
        l2: float = 0.0,
        fit_intercept: bool = False,
    ) -> None:
        self.design = as_design(X)
        self.like, self.size = self.design.like, math.prod(self.design.shape)
        self.l2 = check_nonnegative("l2", l2)
        self.ridge = Ridge(self.l2)
        self.fit_intercept = bool(fit_intercept)
        n = self.design.shape[0]
        given = y if is_array_api_obj(y) else np.asarray(y)
        if (
            not is_array_api_obj(given)
            or getattr(given.dtype, "kind", "f") not in "biuf"
        ):
            raise ValueError(
                f"{self._target} must hold numbers, got dtype {given.dtype}"
            )
        check_rows(self._target, given, n)
        self.y = as_array(given, self.like)
        check_finite(self._target, self.y)
        self._set_weights(sample_weight)

    def _set_weights(self, sample_weight: Any) -> None:
        n = self.design.shape[0]
        xp = namespace(self.like)
        if sample_weight is None:
            self.weight: Array | None = None
            self.total_weight = float(n)
            self.w = zeros(n, self.like) + 1.0 / n
        else:
            weight = as_array(sample_weight, self.like)
            check_weights(weight, n)
            self.weight = weight
            self.total_weight = float(xp.sum(weight))
            self.w = weight / self.total_weight

    def _check_design(self, probe: Array) -> None:
        """Raise if X is not finite; `probe` is ``X^T r`` for some r, which shows it."""
        xp = namespace(probe)
        with np.errstate(invalid="ignore", over="ignore"):
            finite = bool(xp.isfinite(xp.sum(probe)))
        if not finite:
            inner = getattr(self.design, "design", self.design)
            check_finite("X", getattr(inner, "X", getattr(inner, "csr", probe)))

    @property
    def n_samples(self) -> int:
        """Number of rows."""
        return self.design.shape[0]

    @property
    def strata(self) -> Ints | None:
        """Classes that folds should hold in equal shares, or None."""
        return None

    @property
    def free_share(self) -> float:
        """Share of the coefficients that is free: below one if some are redundant."""
        return 1.0

    def rows(self, indices: Ints) -> Self:
        """Return the same objective on some of the rows."""
        other = copy.copy(self)
        other.design = self.design.rows(indices)
        other.y = rows(self.y, indices)
        weight = None if self.weight is None else rows(self.weight, indices)
        other._set_weights(weight)
        other._prepare()
        return other

    def with_ridge(self, weights: Array) -> Self:
        """Return this objective plus ``sum_i weights_i x_i^2 / 2``.

        Parameters
        ----------
        weights : array of the shape of `x`
            Not negative.

        Returns
        -------
        objective
            It shares what is remembered of the data.
        """
        weights = as_array(weights, self.like)
        if tuple(weights.shape) != tuple(self.shape):
            raise ValueError(
                f"weights must have the shape of x, {tuple(self.shape)}, "
                f"got {tuple(weights.shape)}"
            )
        other = copy.copy(self)
        other.ridge = self.ridge.plus(weights)
        return other

    def convexity(self, span: Any) -> float:
        """Return a mu such that ``f - mu/2 |x|^2`` is convex on a span: the ridge."""
        del span
        return self.l2

    def _prepare(self) -> None:
        """Compute what depends on the rows; called again by `rows`."""
        self.center = self.design.rmatvec(self.w) if self._shift_free else None

    @property
    def _shift_free(self) -> bool:
        """Whether adding a constant to a column changes nothing."""
        return self.fit_intercept

    def _backward(self, r: Array) -> Array:
        """Return ``X^T r``, around the columns' means where `r` sums to zero.

        It does so but for rounding, which large means would blow up.
        """
        g = self.design.rmatvec(r)
        if self.center is None:
            return g
        left = namespace(r).sum(r, axis=0)
        return g - (self.center if r.ndim == 1 else self.center[:, None]) * left

    def _row_ids(self, span: Any) -> Ints | None:
        """Rows of `x` that a span holds whole, or None for another kind of span."""
        return span.row_ids if isinstance(span, Coordinates) else None

    def _entries(self, span: Any) -> tuple[Ints, Ints]:
        """Rows of `x` that a span of coordinates touches, and where each entry is.

        Returns
        -------
        ids : integer array of shape (k,)
            Rows, ascending.
        places : integer array of shape (m,)
            Each coordinate's place in the flattened (k, q) array of these rows.
        """
        if isinstance(span, Coordinates):
            flat = span.ids
        elif isinstance(span, Whole):
            flat = np.arange(len(span))
        else:
            raise TypeError(
                f"span must be one of coordinates, got {type(span).__name__}"
            )
        width = math.prod(self.shape[1:])
        ids, local = np.unique(flat // width, return_inverse=True)
        return ids, local * width + flat % width

    def _arranged(self, G: Array, places: Ints) -> Array:
        """Rows and columns `places` of a matrix."""
        if np.array_equal(places, np.arange(G.shape[0])):
            return G
        return columns(rows(G, places), places)

    def _as_rows(self, z: Array) -> Array:
        """Coordinates of whole rows as a matrix, or as they are for a vector `x`."""
        if len(self.shape) == 1:
            return z
        return namespace(z).reshape(z, (-1, self.shape[1]))
