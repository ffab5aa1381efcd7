"""The sparse group lasso penalty."""

import math
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from vitalfew._arrays import as_array, namespace, to_host
from vitalfew._validation import check_nonnegative
from vitalfew.contracts import Array, Ints
from vitalfew.penalties._weights import check_ratio
from vitalfew.penalties.group_l2 import (
    checked_groups,
    group_norms,
    renumbered,
    shrink_groups,
    spread,
)


@dataclass(frozen=True, eq=False)
class SparseGroup:
    """``alpha * (l1_ratio |x|_1 + (1 - l1_ratio) sum_g weight_g |x_g|)``.

    The sparse group lasso: few groups, and few coordinates within them.

    Parameters
    ----------
    labels : integer array of shape (p,)
        ``labels[i]`` is the group of coordinate i; every number from 0 to the largest
        must occur. For a matrix `x`, the group of row i.
    alpha : float
        Strength, not negative.
    l1_ratio : float, default=0.5
        From 0, the group lasso, to 1, the lasso.
    weights : array of shape (number of groups,), optional
        Not negative, for the groups' norms; a group of weight zero is left without any
        penalty. The square root of each group's size by default.

    References
    ----------
    .. [1] N. Simon, J. Friedman, T. Hastie, R. Tibshirani, "A sparse-group lasso",
       J. Comput. Graph. Stat., 2013, eq. (3).
    """

    labels: Any = field(repr=False)
    alpha: float
    l1_ratio: float = 0.5
    weights: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        labels, weights = checked_groups(self.labels, self.weights)
        check_nonnegative("alpha", self.alpha)
        check_ratio("l1_ratio", self.l1_ratio)
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
        strength[:, 0] = self._cut_of_groups[blocks]
        strength[:, 1] = self._pull_of_groups[blocks]
        return "shrink", strength

    @property
    def _cut_of_groups(self) -> NDArray[np.float64]:
        """Strength of the absolute values in each group."""
        each: NDArray[np.float64] = self.alpha * self.l1_ratio * (self.weights > 0)
        return each

    @property
    def _pull_of_groups(self) -> NDArray[np.float64]:
        """Strength of the norm of each group."""
        each: NDArray[np.float64] = self.alpha * (1 - self.l1_ratio) * self.weights
        return each

    def _cut(self, x: Array) -> Array:
        return spread(as_array(self._cut_of_groups, x), self.labels, x)

    def critical_alpha(self, gradient: Array) -> float:
        """Return the least strength at which no penalised group leaves zero."""
        if not self.weights.any():
            return 0.0
        g = np.abs(to_host(gradient)).astype(np.float64)
        g = g.reshape(len(g), -1) * (self.weights > 0)[self.labels, None]
        order = np.argsort(self.labels, kind="stable")
        starts = np.searchsorted(self.labels[order], np.arange(len(self.weights)))
        largest = 0.0
        norms = group_norms(g, self.labels, len(self.weights))
        most = norms / np.maximum(self.l1_ratio, 1e-300)
        # a bound for each group; only groups above the best so far need solving
        push = (1 - self.l1_ratio) * self.weights
        with np.errstate(divide="ignore", invalid="ignore"):
            most = np.fmin(most, np.where(push > 0, norms / push, np.inf))
        ends = np.append(starts[1:], len(order))
        for group in np.argsort(-most, kind="stable"):
            if most[group] <= largest:
                break
            members = g[order[starts[group] : ends[group]]].ravel()
            root = self._critical(members, float(push[group]), float(most[group]))
            largest = max(largest, root)
        return largest

    def _critical(self, g: NDArray[Any], push: float, most: float) -> float:
        """Least alpha with ``|soft(g, alpha l1_ratio)| <= alpha push``, by halving."""
        least = 0.0
        while True:
            middle = 0.5 * (least + most)
            if not least < middle < most:
                return most
            left = np.maximum(g - middle * self.l1_ratio, 0.0)
            if math.sqrt(float(left @ left)) <= middle * push:
                most = middle
            else:
                least = middle

    def value(self, x: Array) -> float:
        """Return the penalty at `x`."""
        xp = namespace(x)
        norms = group_norms(x, self.labels, len(self.weights))
        pull = as_array(self._pull_of_groups, norms)
        return float(xp.sum(xp.abs(x) * self._cut(x)) + xp.sum(pull * norms))

    def prox(self, x: Array, step_size: float) -> Array:
        """Soft thresholding of the entries, then of the norms of the groups."""
        xp = namespace(x)
        left = xp.sign(x) * xp.clip(xp.abs(x) - self._cut(x) * step_size, min=0.0)
        return shrink_groups(left, self.labels, self._pull_of_groups * step_size) + 0.0

    def subdifferential_distance(self, x: Array, gradient: Array) -> float:
        """Largest distance of a group of `-gradient` to the subdifferential."""
        xp, count, cut = namespace(x), len(self.weights), self._cut(x)
        norms = group_norms(x, self.labels, count)
        pull = as_array(self._pull_of_groups, norms)
        safe = xp.where(norms > 0, norms, xp.ones_like(norms))
        soft = xp.clip(xp.abs(gradient) - cut, min=0.0)
        steep = gradient + cut * xp.sign(x) + x * spread(pull / safe, self.labels, x)
        outside = group_norms(xp.where(x == 0, soft, steep), self.labels, count)
        inside = xp.clip(group_norms(soft, self.labels, count) - pull, min=0.0)
        return float(xp.max(xp.where(norms > 0, outside, inside)))
