"""Integrals of gradients along paths: one kernel for all methods."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vitalfew._arrays import as_array, namespace, zeros
from vitalfew._validation import check_count, check_nonnegative
from vitalfew.attribution._explained import Explained
from vitalfew.contracts import Array, Ints

MOST_POINTS = 4096  # at once: more fill the memory and save no time
NODES = ("midpoint", "gauss-legendre")

# Of some inputs at some times in [0, 1]: the points (h, s, *shape) of their paths and
# the derivative of the points by the time, or None where it is left to the caller.
Path = Callable[[slice, Array], tuple[Array, Array | None]]


@dataclass(frozen=True, eq=False)
class Rule:
    """Nodes in [0, 1] and weights that sum to one."""

    times: NDArray[np.float64]
    weights: NDArray[np.float64]


def quadrature(steps: int, nodes: str) -> Rule:
    """Return a rule of integration.

    Parameters
    ----------
    steps : int
        Number of nodes.
    nodes : {"midpoint", "gauss-legendre"}
        Where they lie.

    Returns
    -------
    Rule
        Nodes and weights.
    """
    check_count("steps", steps, 1)
    if nodes == "midpoint":
        return Rule((np.arange(steps) + 0.5) / steps, np.full(steps, 1 / steps))
    if nodes == "gauss-legendre":
        at, weights = np.polynomial.legendre.leggauss(steps)
        return Rule((at + 1) / 2, weights / 2)
    raise ValueError(f"nodes must be one of {', '.join(NODES)}, got {nodes!r}")


def points_together(function: Explained, memory: float) -> int:
    """How many points to evaluate at once."""
    check_nonnegative("memory", memory)
    return int(min(max(1, memory // function.point_bytes()), MOST_POINTS))


def integrals(
    function: Explained, path: Path, rule: Rule, together: int
) -> Iterator[tuple[slice, Array]]:
    """Yield the integrals of some inputs at a time, in their order.

    Parameters
    ----------
    function : Explained
        Whose gradients are integrated.
    path : callable
        As `Path`.
    rule : Rule
        Nodes and weights.
    together : int
        Points that are evaluated at once: all of some inputs, or some of one.

    Yields
    ------
    slice
        Rows of the inputs.
    array of shape (h, *shape)
        Integrals of gradient times derivative of the path, entry by entry; without
        the derivative, means of the gradients.
    """
    n, shape = function.inputs.shape[0], tuple(function.inputs.shape[1:])
    xp, n_times = namespace(function.inputs), len(rule.times)
    height, width = max(1, together // n_times), min(n_times, together)
    for top in range(0, n, height):
        rows = slice(top, min(top + height, n))
        h = rows.stop - rows.start
        total = zeros((h, int(np.prod(shape))), function.inputs)
        for start in range(0, n_times, width):
            some = slice(start, start + width)
            times = as_array(rule.times[some], function.inputs)
            points, velocity = path(rows, times)
            owners = np.repeat(np.arange(rows.start, rows.stop), len(times))
            gradient = function.gradient(xp.reshape(points, (-1, *shape)), owners)
            gradient = xp.reshape(gradient, (h, len(times), -1))
            if velocity is not None:
                gradient = gradient * xp.reshape(velocity, (h, len(times), -1))
            weights = as_array(rule.weights[some], function.inputs)
            total = total + xp.matmul(weights, gradient)
        yield rows, checked(xp.reshape(total, (h, *shape)), rows.start)


def straight(starts: Array, ends: Array) -> Path:
    """Return the straight lines between points; the derivative is left out."""

    def path(rows: slice, times: Array) -> tuple[Array, None]:
        start, end = starts[rows], ends[rows]
        return start[:, None] + along(times, start) * (end - start)[:, None], None

    return path


def along(times: Array, x: Array) -> Array:
    """Give times the axes of points, (1, s, 1, ...)."""
    return namespace(times).reshape(times, (1, -1, *(1 for _ in x.shape[1:])))


def gradients(
    function: Explained, points: Array, together: int, first: int = 0
) -> Array:
    """Return the gradient at one point of each input, from input `first` on."""
    parts = [
        checked(function.gradient(points[some], first + owners), first + some.start)
        for some, owners in _chunks(len(points), together)
    ]
    return namespace(points).concat(parts, axis=0)


def values(function: Explained, points: Array, together: int) -> Array:
    """Return the value at one point of each input."""
    parts = [
        function.value(points[some], owners)
        for some, owners in _chunks(len(points), together)
    ]
    return namespace(points).concat(parts, axis=0)


def _chunks(n: int, together: int) -> Iterator[tuple[slice, Ints]]:
    for start in range(0, n, together):
        stop = min(start + together, n)
        yield slice(start, stop), np.arange(start, stop)


def checked(gradient: Array, first: int) -> Array:
    """Return gradients that are finite, or say of which input they are not."""
    xp = namespace(gradient)
    if not bool(xp.isfinite(xp.sum(gradient))):
        flat = xp.reshape(gradient, (gradient.shape[0], -1))
        bad = ~xp.all(xp.isfinite(flat), axis=1)
        if bool(xp.any(bad)):
            row = first + int(xp.argmax(xp.astype(bad, xp.int32)))
            raise ValueError(
                f"the gradient of the model is not finite on the path of input {row}"
            )
    return gradient
