"""The sorted L1 penalty."""

from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, Self

import numpy as np

from vitalfew._arrays import as_array, namespace, precision, to_host
from vitalfew._validation import check_nonnegative
from vitalfew.contracts import Array
from vitalfew.penalties import _sorted
from vitalfew.penalties._sorted import Floats


@dataclass(frozen=True, eq=False)
class SLOPE:
    r"""Sorted L1 penalty: ``alpha * sum_k lambda_k |x|_(k)``, the largest entry first.

    Large entries pay more than small ones. With the default sequence and orthogonal
    columns the share of false discoveries is at most q. Entries of highly correlated
    columns are drawn to the same size.

    Parameters
    ----------
    alpha : float
        Strength, not negative. For a mean loss of standardised columns with noise of
        standard deviation s, ``s / sqrt(n)`` is the one theory gives.
    lambdas : array of shape (number of entries of `x`,), optional
        Nonincreasing, not negative. By default the normal quantiles at
        ``1 - k q / (2 p)``, k = 1, ..., p. All equal, they give the lasso; only the
        first not zero, they give the sup-norm.
    q : float, default=0.1
        Target rate of false discoveries of the default sequence.

    Notes
    -----
    The prox sorts the entries and is done on the host.

    References
    ----------
    .. [1] M. Bogdan, E. van den Berg, C. Sabatti, W. Su, E. J. Candès, "SLOPE: adaptive
       variable selection via convex optimization", Annals of Applied Statistics, 2015,
       eq. (1.5), (1.10) and section 2.2 (the prox).

    Examples
    --------
    >>> import numpy as np
    >>> SLOPE(1.0, [2.0, 1.0, 0.0]).prox(np.array([5.0, -4.5, 0.5]), 1.0).tolist()
    [3.25, -3.25, 0.5]
    """

    alpha: float
    lambdas: Any = field(default=None, repr=False)
    q: float = 0.1

    def __post_init__(self) -> None:
        check_nonnegative("alpha", self.alpha)
        _sorted.check_rate(self.q)
        object.__setattr__(self, "lambdas", _sorted.check_lambdas(self.lambdas))

    def with_alpha(self, alpha: float) -> Self:
        """Return this penalty with another strength."""
        return replace(self, alpha=alpha)

    def critical_alpha(self, gradient: Array) -> float:
        """Return the least strength at which zero is stationary."""
        sizes = np.abs(_flat(gradient))
        return _sorted.dual_norm(sizes, self._sequence(len(sizes)))

    def value(self, x: Array) -> float:
        """Return the penalty at `x`."""
        sizes = np.abs(_flat(x))
        return self.alpha * _sorted.norm(sizes, self._sequence(len(sizes)))

    def prox(self, x: Array, step_size: float) -> Array:
        """Shrink the sorted entries; what would change places gets one size."""
        flat = _flat(x)
        lambdas = self.alpha * step_size * self._sequence(len(flat))
        sizes = _sorted.shrink(np.abs(flat), lambdas)
        moved = np.sign(flat) * sizes + 0.0  # no negative zeros
        return as_array(moved.reshape(tuple(x.shape)), x)

    def subdifferential_distance(self, x: Array, gradient: Array) -> float:
        """Largest distance of a coordinate of `-gradient` to the subdifferential.

        The sup-norm distance to the whole subdifferential, exactly.
        """
        flat, g = _flat(x), _flat(gradient)
        slopes = np.where(flat == 0, np.abs(g), -np.sign(flat) * g)
        lambdas = self.alpha * self._sequence(len(flat))
        return _sorted.distance(np.abs(flat), slopes, lambdas, 4 * precision(x))

    def _sequence(self, size: int) -> Floats:
        if self.lambdas is None:
            return _normal_quantiles(size, self.q)
        if len(self.lambdas) != size:
            raise ValueError(
                f"lambdas must have one entry for each of the {size} entries of x, "
                f"got {len(self.lambdas)}"
            )
        known: Floats = self.lambdas
        return known


def _flat(x: Array) -> Floats:
    host = to_host(namespace(x).reshape(x, (-1,)))
    return host.astype(np.float64)


@lru_cache(maxsize=8)
def _normal_quantiles(size: int, q: float) -> Floats:
    from scipy.special import ndtri

    tails: Floats = -ndtri(np.arange(1, size + 1) * (q / (2 * size)))
    return tails
