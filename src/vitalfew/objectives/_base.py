"""What every objective gets for nothing: any span, by L-BFGS."""

import sys
from abc import ABC, abstractmethod
from typing import Any

import numpy as np

from vitalfew._arrays import as_array, precision, to_host, zeros
from vitalfew.contracts import Array, Fit, Shape
from vitalfew.supports import Point


class BaseObjective(ABC):
    """A smooth function; subclasses give `shape`, `like` and `value_and_gradient`."""

    shape: Shape
    like: Array
    size: int = sys.maxsize  # numbers it works on: small ones get one thread

    @abstractmethod
    def value_and_gradient(self, x: Array) -> tuple[float, Array]:
        """Value and gradient at `x`."""

    def intercept_at(self, x: Array) -> Array | None:
        """Return the best intercept for `x`, or None where there is none."""
        del x
        return None

    def at(self, span: Any, z: Array) -> Fit:
        """Return the point `z` of a span, not minimised."""
        x = span.embed(z)
        value, gradient = self.value_and_gradient(x)
        return Point(span, z, value, lambda _: gradient, self.intercept_at(x))

    def refit(self, span: Any, start: Fit | None = None, likely: Any = None) -> Fit:
        """Minimise over any span, by L-BFGS in its coordinates."""
        from scipy.optimize import minimize  # half of the import time of this package

        del likely
        x0 = start.x if start is not None else zeros(self.shape, self.like)
        z0 = span.restrict(x0)
        host = to_host(z0).astype(np.float64)

        def f(z: np.ndarray[Any, Any]) -> tuple[float, np.ndarray[Any, Any]]:
            value, g = self.value_and_gradient(span.embed(as_array(z, self.like)))
            return value, to_host(span.restrict(g)).astype(np.float64)

        if host.size:
            eps = precision(self.like)
            host = minimize(
                f,
                host,
                jac=True,
                method="L-BFGS-B",
                options={
                    "ftol": 4 * eps,
                    "gtol": eps**0.6,
                    "maxiter": 2000,
                    "maxcor": 20,
                },
            ).x
        return self.at(span, as_array(host, self.like))
