"""The group lasso penalty."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from vitalfew._arrays import as_array, namespace, rows, segment_sum
from vitalfew._validation import check_labels, check_nonnegative
from vitalfew.contracts import Array


@dataclass(frozen=True, eq=False)
class GroupL2:
    """``alpha * sum_g weight_g |x_g|`` over groups of coordinates.

    Parameters
    ----------
    labels : integer array of shape (p,)
        ``labels[i]`` is the group of coordinate i; every number from 0 to the largest
        must occur. For a matrix `x`, the group of row i.
    alpha : float
        Strength, not negative.
    weights : array of shape (number of groups,), optional
        Positive; the square root of each group's size by default.
    """

    labels: Any = field(repr=False)
    alpha: float
    weights: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        labels = check_labels(self.labels)
        if labels.ndim != 1:
            raise ValueError(f"labels must have shape (p,), got {labels.shape}")
        check_nonnegative("alpha", self.alpha)
        sizes = np.bincount(labels)
        given = self.weights
        weights = np.sqrt(sizes) if given is None else np.asarray(given, np.float64)
        good = np.isfinite(weights) & (weights > 0)
        if weights.shape != sizes.shape or not np.all(good):
            raise ValueError(
                "weights must be positive and finite, one for each of the "
                f"{len(sizes)} groups"
            )
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "weights", weights)

    def _norms(self, x: Array) -> Array:
        """Norm of each group, (number of groups,)."""
        xp = namespace(x)
        if x.shape[0] != len(self.labels):
            raise ValueError(
                f"labels must have one entry for each of the {x.shape[0]} rows of x, "
                f"got {len(self.labels)}"
            )
        squares = x * x if x.ndim == 1 else xp.sum(x * x, axis=1)
        return segment_sum(squares, self.labels, len(self.weights)) ** 0.5

    def _spread(self, per_group: Array, x: Array) -> Array:
        each = rows(per_group, self.labels)
        return each if x.ndim == 1 else each[:, None]

    def value(self, x: Array) -> float:
        """Return the penalty at `x`."""
        norms = self._norms(x)
        xp = namespace(x)
        return self.alpha * float(xp.sum(as_array(self.weights, norms) * norms))

    def prox(self, x: Array, step_size: float) -> Array:
        """Shrink each group's norm by ``alpha * weight * step_size``."""
        xp, norms = namespace(x), self._norms(x)
        cut = as_array(self.alpha * step_size * self.weights, norms)
        safe = xp.where(norms > 0, norms, xp.ones_like(norms))
        factor = xp.where(norms > cut, 1 - cut / safe, xp.zeros_like(norms))
        return x * self._spread(factor, x)

    def subdifferential_distance(self, x: Array, gradient: Array) -> float:
        """Largest distance of a group of `-gradient` to the subdifferential."""
        xp, norms = namespace(x), self._norms(x)
        cut = as_array(self.alpha * self.weights, norms)
        safe = xp.where(norms > 0, norms, xp.ones_like(norms))
        outside = self._norms(gradient + x * self._spread(cut / safe, x))
        inside = xp.clip(self._norms(gradient) - cut, min=0.0)
        return float(xp.max(xp.where(norms > 0, outside, inside)))
