"""A point of a span."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from vitalfew.contracts import Array
from vitalfew.solution import Status


@dataclass(frozen=True, eq=False)
class Point:
    """A point of a span; gradient and `x` are computed once, when asked for.

    Parameters
    ----------
    support : Span
        Where it lies.
    z : array
        Coordinates in the support.
    value : float
        The objective there.
    compute_gradient : callable
        Takes the point, returns the gradient in `x`.
    intercept : array, optional
        The best intercept.
    status : Status, optional
        Set when the point is not the minimiser it should be.
    """

    support: Any
    z: Array
    value: float
    compute_gradient: Callable[["Point"], Array] = field(repr=False)
    intercept: Array | None = None
    status: Status | None = None

    def detached(self) -> "Point":
        """Return the point without its way back to the data: to keep or to pickle."""
        return replace(self, compute_gradient=_lost)

    def __getstate__(self) -> dict[str, Any]:
        names = ("support", "z", "value", "intercept", "status")
        return {"compute_gradient": _lost} | {n: getattr(self, n) for n in names}

    @cached_property
    def gradient(self) -> Array:
        """Gradient of the objective, of the shape of `x`."""
        return self.compute_gradient(self)

    @cached_property
    def x(self) -> Array:
        """The point itself."""
        return self.support.embed(self.z)


def _lost(fit: Point) -> Array:
    raise AttributeError(
        "this fit was stored without its data: refit its support on the objective to "
        "get the gradient"
    )
