"""The sorted L1 penalty of the norms of groups."""

from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import Any, Self

import numpy as np

from vitalfew._arrays import as_array, namespace, precision, to_host
from vitalfew._validation import check_labels, check_nonnegative
from vitalfew.contracts import Array
from vitalfew.penalties import _sorted
from vitalfew.penalties._sorted import Floats


@dataclass(frozen=True, eq=False)
class GroupSLOPE:
    r"""``alpha * sum_k lambda_k n_(k)``, with ``n_g = weight_g |x_g|`` for groups g.

    The largest n pays most. With the default sequence and groups of columns that are
    orthogonal to one another, the share of false groups is at most q.

    Parameters
    ----------
    labels : integer array of shape (p,)
        ``labels[i]`` is the group of coordinate i; every number from 0 to the largest
        must occur. For a matrix `x`, the group of row i.
    alpha : float
        Strength, not negative. For a mean loss of standardised columns with noise of
        standard deviation s, ``s / sqrt(n)`` is the one theory gives.
    lambdas : array of shape (number of groups,), optional
        Nonincreasing, not negative. By default ``lambda_k`` is the largest, over the
        groups, of the chi quantiles at ``1 - k q / (number of groups)`` over the
        group's weight.
    weights : array of shape (number of groups,), optional
        Positive; the square root of each group's size by default.
    q : float, default=0.1
        Target rate of false discoveries of the default sequence.

    Notes
    -----
    The prox is done on the host: with equal weights a sort; with unequal ones a sort
    for each time that groups split by size, for the order of the answer is not known
    beforehand.

    References
    ----------
    .. [1] D. Brzyski, A. Gossmann, W. Su, M. Bogdan, "Group SLOPE: adaptive selection
       of groups of predictors", JASA, 2019, eq. (2.5) and section 2.3.
    .. [2] F. Bach, "Learning with submodular functions: a convex optimization
       perspective", Found. Trends Mach. Learn., 2013, section 9.1 (the decomposition
       algorithm, for unequal weights).

    Examples
    --------
    >>> import numpy as np
    >>> penalty = GroupSLOPE([0, 0, 1], 1.0, [2.0, 1.0], weights=[1.0, 1.0])
    >>> penalty.prox(np.array([3.0, 4.0, 0.5]), 1.0).round(3).tolist()
    [1.8, 2.4, 0.0]
    """

    labels: Any = field(repr=False)
    alpha: float
    lambdas: Any = field(default=None, repr=False)
    weights: Any = field(default=None, repr=False)
    q: float = 0.1

    def __post_init__(self) -> None:
        labels = check_labels(self.labels)
        if labels.ndim != 1:
            raise ValueError(f"labels must have shape (p,), got {labels.shape}")
        check_nonnegative("alpha", self.alpha)
        _sorted.check_rate(self.q)
        count, given = int(labels.max()) + 1, self.weights
        sizes = np.bincount(labels)
        weights = np.sqrt(sizes) if given is None else np.asarray(given, np.float64)
        good = np.isfinite(weights) & (weights > 0)
        if weights.shape != (count,) or not np.all(good):
            raise ValueError(
                "weights must be positive and finite, one for each of the "
                f"{count} groups"
            )
        lambdas = _sorted.check_lambdas(self.lambdas)
        if lambdas is not None and len(lambdas) != count:
            raise ValueError(
                f"lambdas must have one entry for each of the {count} groups, "
                f"got {len(lambdas)}"
            )
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "weights", weights)
        object.__setattr__(self, "lambdas", lambdas)

    def with_alpha(self, alpha: float) -> Self:
        """Return this penalty with another strength."""
        return replace(self, alpha=alpha)

    def critical_alpha(self, gradient: Array) -> float:
        """Return the least strength at which zero is stationary."""
        g = self._host(gradient)
        return _sorted.dual_norm(self._norms(g) / self.weights, self._sequence(g))

    def value(self, x: Array) -> float:
        """Return the penalty at `x`."""
        host = self._host(x)
        norms = self.weights * self._norms(host)
        return self.alpha * _sorted.norm(norms, self._sequence(host))

    def prox(self, x: Array, step_size: float) -> Array:
        """Shrink the norms of the groups, keeping their directions."""
        host = self._host(x)
        norms = self._norms(host)
        lambdas = self.alpha * step_size * self._sequence(host)
        m = _sorted.shrink_weighted(self.weights * norms, 1 / self.weights**2, lambdas)
        safe = np.where(norms > 0, norms, 1.0)
        factor = m / self.weights / safe
        return as_array((host * factor[self.labels, None]).reshape(tuple(x.shape)), x)

    def subdifferential_distance(self, x: Array, gradient: Array) -> float:
        """Largest distance of a group of `-gradient` to the subdifferential, or more.

        Of each group's part across its direction the norm; of the parts along the
        directions, each over the group's weight, the sup-norm distance to what the
        sequence allows, times the largest weight.
        """
        host, g = self._host(x), self._host(gradient)
        norms = self._norms(host)
        towards = host / np.where(norms > 0, norms, 1.0)[self.labels, None]
        along = np.bincount(self.labels, (g * towards).sum(axis=1))
        across = self._norms(g - along[self.labels, None] * towards)
        slopes = np.where(norms > 0, -along, across) / self.weights
        off = _sorted.distance(
            self.weights * norms,
            slopes,
            self.alpha * self._sequence(host),
            1e3 * precision(x),  # norms that the prox made equal differ by rounding
        )
        turned = np.max(np.where(norms > 0, across, 0.0))
        return max(float(turned), off * float(self.weights.max()))

    def _host(self, x: Array) -> Floats:
        """Return `x` as a matrix on the host."""
        if x.shape[0] != len(self.labels):
            raise ValueError(
                f"labels must have one entry for each of the {x.shape[0]} rows of x, "
                f"got {len(self.labels)}"
            )
        return to_host(namespace(x).reshape(x, (x.shape[0], -1))).astype(np.float64)

    def _norms(self, host: Floats) -> Floats:
        squares = np.sum(host * host, axis=1)
        return np.sqrt(np.bincount(self.labels, squares))

    def _sequence(self, host: Floats) -> Floats:
        if self.lambdas is not None:
            known: Floats = self.lambdas
            return known
        return _chi_quantiles(self._kinds, host.shape[1], len(self.weights), self.q)

    @cached_property
    def _kinds(self) -> tuple[tuple[float, float], ...]:
        """The different pairs of a group's size and weight."""
        pairs = np.stack((np.bincount(self.labels), self.weights), axis=1)
        return tuple(map(tuple, np.unique(pairs, axis=0).tolist()))


@lru_cache(maxsize=8)
def _chi_quantiles(
    kinds: tuple[tuple[float, float], ...], columns: int, count: int, q: float
) -> Floats:
    from scipy.special import gammainccinv

    tails = np.arange(1, count + 1) * (q / count)
    each = [
        np.sqrt(2 * gammainccinv(size * columns / 2, tails)) / weight
        for size, weight in kinds
    ]
    largest: Floats = np.max(each, axis=0)
    return largest
