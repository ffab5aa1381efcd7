"""Bounds on every entry."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from vitalfew._arrays import as_array, is_array_api_obj, namespace, precision, to_host
from vitalfew.contracts import Array
from vitalfew.penalties.simplex import ROUNDING


@dataclass(frozen=True, eq=False)
class Box:
    """The constraint ``lower <= x <= upper``: 0 where it holds, else infinite.

    ``Box(lower=0)`` asks for coefficients that are not negative.

    Parameters
    ----------
    lower, upper : float or array of the shape of `x`
        Bounds, with lower <= upper; by default there is none on that side.

    Examples
    --------
    >>> import numpy as np
    >>> Box(lower=0.0).prox(np.array([3.0, -0.5]), 1.0).tolist()
    [3.0, 0.0]
    """

    lower: Any = -math.inf
    upper: Any = math.inf

    def __post_init__(self) -> None:
        for name in ("lower", "upper"):
            object.__setattr__(self, name, _checked(name, getattr(self, name)))
        if np.ndim(self.lower) and np.ndim(self.upper):
            fits = self.lower.shape == self.upper.shape
            if not fits:
                raise ValueError(
                    "lower and upper must have one shape, got "
                    f"{self.lower.shape} and {self.upper.shape}"
                )
        possible = (self.lower <= self.upper) & (self.lower < math.inf)
        if not np.all(possible & (self.upper > -math.inf)):
            raise ValueError(
                "lower must be at most upper, with a number between them, in every "
                f"entry, got lower={self.lower!r} and upper={self.upper!r}"
            )

    def _bounds(self, x: Array) -> tuple[Array, Array]:
        for name, bound in (("lower", self.lower), ("upper", self.upper)):
            if np.ndim(bound) and bound.shape != tuple(x.shape):
                raise ValueError(
                    f"{name} must be a number or have the shape of x, "
                    f"{tuple(x.shape)}, got {bound.shape}"
                )
        return as_array(self.lower, x), as_array(self.upper, x)

    def value(self, x: Array) -> float:
        """Return 0 within the bounds, up to rounding, and infinity elsewhere."""
        xp, (lower, upper) = namespace(x), self._bounds(x)
        slack = ROUNDING * precision(x) * xp.abs(x)
        inside = (x >= lower - slack) & (x <= upper + slack)
        return 0.0 if bool(xp.all(inside)) else math.inf

    def prox(self, x: Array, step_size: float) -> Array:
        """Return the nearest point within the bounds, whatever the step size."""
        del step_size
        xp, (lower, upper) = namespace(x), self._bounds(x)
        return xp.minimum(xp.maximum(x, lower), upper)

    def subdifferential_distance(self, x: Array, gradient: Array) -> float:
        """Largest entry of the gradient along which `x` may still move down."""
        xp, (lower, upper) = namespace(x), self._bounds(x)
        none = xp.zeros_like(gradient)
        down = xp.where(x > lower, gradient, none)
        up = xp.where(x < upper, -gradient, none)
        return max(0.0, float(xp.max(down)), float(xp.max(up)))

    def vertex(self, gradient: Array) -> Array:
        """Return the corner that minimises ``<gradient, x>``.

        Raises
        ------
        ValueError
            If a bound is infinite: then there may be no such corner.
        """
        for name in ("lower", "upper"):
            if not np.all(np.isfinite(getattr(self, name))):
                raise ValueError(
                    f"{name} must be finite to have corners, got "
                    f"{getattr(self, name)!r}; give a bound, or use ProximalGradient"
                )
        xp, (lower, upper) = namespace(gradient), self._bounds(gradient)
        return xp.where(gradient > 0, lower, upper)


def _checked(name: str, bound: Any) -> Any:
    """Return a bound as a number or as an array on the host."""
    given = to_host(bound) if is_array_api_obj(bound) else bound
    try:
        host = np.array(given, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} must be a number or an array of numbers, got {bound!r}"
        ) from error
    if np.any(np.isnan(host)):
        raise ValueError(f"{name} must not be NaN, got {bound!r}")
    return host if host.ndim else float(host)
