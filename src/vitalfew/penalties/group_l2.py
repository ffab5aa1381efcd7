"""The group lasso penalty."""

from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from vitalfew._arrays import as_array, namespace, rows, segment_sum
from vitalfew._validation import check_labels, check_nonnegative
from vitalfew.contracts import Array, Ints
from vitalfew.penalties._weights import check_row_count, checked_weights, strongest


def checked_groups(labels: Any, weights: Any) -> tuple[Ints, NDArray[np.float64]]:
    """Return labels of rows and a weight for each group, or say what is wrong."""
    labels = check_labels(labels)
    if labels.ndim != 1:
        raise ValueError(f"labels must have shape (p,), got {labels.shape}")
    sizes = np.bincount(labels)
    if weights is None:
        return labels, np.sqrt(sizes)
    return labels, checked_weights(weights, len(sizes), "group")


def group_norms(x: Array, labels: Ints, count: int) -> Array:
    """Return the norm of each group of rows, (count,)."""
    check_row_count("labels", len(labels), x)
    xp = namespace(x)
    largest = xp.max(xp.abs(x))
    unit = xp.where(largest > 0, largest, xp.ones_like(largest))
    x = x / unit  # or squares would overflow, or vanish
    squares = x * x if x.ndim == 1 else xp.sum(x * x, axis=1)
    return unit * segment_sum(squares, labels, count) ** 0.5


def spread(per_group: Array, labels: Ints, x: Array) -> Array:
    """Return a number of each group as a factor for `x`."""
    each = rows(per_group, labels)
    return each if x.ndim == 1 else each[:, None]


def shrink_groups(x: Array, labels: Ints, cuts: NDArray[np.float64]) -> Array:
    """Shorten each group of rows by `cuts`, to zero where it is no longer."""
    xp, norms = namespace(x), group_norms(x, labels, len(cuts))
    cut = as_array(cuts, norms)
    safe = xp.where(norms > 0, norms, xp.ones_like(norms))
    factor = xp.where(norms > cut, 1 - cut / safe, xp.zeros_like(norms))
    return x * spread(factor, labels, x)


def renumbered(labels: Ints, blocks: Ints) -> Ints:
    """Return labels of the rows of some groups alone, group after group."""
    sizes = np.bincount(labels)[blocks]
    return np.repeat(np.arange(len(blocks)), sizes)


@dataclass(frozen=True, eq=False)
class GroupL2:
    """``alpha * sum_g weight_g |x_g|`` over groups of coordinates, the group lasso.

    Parameters
    ----------
    labels : integer array of shape (p,)
        ``labels[i]`` is the group of coordinate i; every number from 0 to the largest
        must occur. For a matrix `x`, the group of row i.
    alpha : float
        Strength, not negative.
    weights : array of shape (number of groups,), optional
        Not negative; zero leaves a group unpenalised. The square root of each group's
        size by default.

    References
    ----------
    .. [1] M. Yuan, Y. Lin, "Model selection and estimation in regression with grouped
       variables", JRSS B, 2006, eq. (2.1).
    """

    labels: Any = field(repr=False)
    alpha: float
    weights: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        labels, weights = checked_groups(self.labels, self.weights)
        check_nonnegative("alpha", self.alpha)
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "weights", weights)

    def with_alpha(self, alpha: float) -> Self:
        """Return this penalty with another strength."""
        return replace(self, alpha=alpha)

    def on_blocks(self, blocks: Ints) -> Self:
        """Return the penalty on some groups alone; rows come group after group."""
        labels = renumbered(self.labels, blocks)
        return replace(self, labels=labels, weights=self.weights[blocks])

    def kernel(self, blocks: Ints) -> tuple[str, NDArray[np.float64]]:
        """Return the name of the compiled prox and its parameters, (k, 3)."""
        strength = np.zeros((len(blocks), 3))
        strength[:, 1] = self.alpha * self.weights[blocks]
        return "shrink", strength

    def critical_alpha(self, gradient: Array) -> float:
        """Return the least strength at which no penalised group leaves zero."""
        norms = group_norms(gradient, self.labels, len(self.weights))
        return strongest(norms, self.weights)

    def value(self, x: Array) -> float:
        """Return the penalty at `x`."""
        norms = group_norms(x, self.labels, len(self.weights))
        total = namespace(x).sum(as_array(self.weights, norms) * norms)
        return self.alpha * float(total)

    def prox(self, x: Array, step_size: float) -> Array:
        """Shrink each group's norm by ``alpha * weight * step_size``."""
        return shrink_groups(x, self.labels, self.alpha * step_size * self.weights)

    def subdifferential_distance(self, x: Array, gradient: Array) -> float:
        """Largest distance of a group of `-gradient` to the subdifferential."""
        xp, count = namespace(x), len(self.weights)
        norms = group_norms(x, self.labels, count)
        cut = as_array(self.alpha * self.weights, norms)
        safe = xp.where(norms > 0, norms, xp.ones_like(norms))
        pull = x * spread(cut / safe, self.labels, x)
        outside = group_norms(gradient + pull, self.labels, count)
        inside = xp.clip(group_norms(gradient, self.labels, count) - cut, min=0.0)
        return float(xp.max(xp.where(norms > 0, outside, inside)))
