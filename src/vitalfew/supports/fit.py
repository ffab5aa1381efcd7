"""A point of a span."""

from collections.abc import Callable
from dataclasses import dataclass, field
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

    @cached_property
    def gradient(self) -> Array:
        """Gradient of the objective, of the shape of `x`."""
        return self.compute_gradient(self)

    @cached_property
    def x(self) -> Array:
        """The point itself."""
        return self.support.embed(self.z)
