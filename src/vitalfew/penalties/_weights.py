"""Weights of the parts of a penalty; a weight of zero leaves its part unpenalised."""

import numbers
from dataclasses import replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from vitalfew._arrays import as_array, is_array_api_obj, namespace, to_host
from vitalfew._validation import check_nonnegative
from vitalfew.contracts import Array, Ints


def checked_weights(
    weights: Any, count: int | None, of_what: str
) -> NDArray[np.float64]:
    """Return weights as a vector, or say what is wrong with them.

    Parameters
    ----------
    weights : array-like
        What was given.
    count : int or None
        How many there must be; None when that is not known yet.
    of_what : str
        What each belongs to, for the message.
    """
    each = of_what if count is None else f"of the {count} {of_what}s"
    rule = f"weights must be one number for each {each}"
    try:
        given = to_host(weights) if is_array_api_obj(weights) else weights
        host = np.array(given, np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{rule}, got {weights!r}") from error
    if host.ndim != 1 or (count is not None and len(host) != count):
        raise ValueError(f"{rule}, got shape {host.shape}")
    bad = np.flatnonzero(~(np.isfinite(host) & (host >= 0)))
    if len(bad):
        raise ValueError(
            f"weights must be finite and not negative, got {host[bad[0]]} for "
            f"{of_what} {bad[0]}"
        )
    return host


def check_ratio(name: str, value: Any) -> None:
    """Raise unless a number lies between zero and one."""
    if not isinstance(value, numbers.Real) or not 0 <= float(value) <= 1:
        raise ValueError(f"{name} must lie between 0 and 1, got {value!r}")


def check_row_count(name: str, count: int, x: Array) -> None:
    """Raise unless something was given for every row of `x`."""
    if x.shape[0] != count:
        raise ValueError(
            f"{name} must have one entry for each of the {x.shape[0]} rows of x, "
            f"got {count}"
        )


def per_row(weights: NDArray[np.float64] | None, x: Array) -> Any:
    """Return weights of rows as a factor for `x`: one, or an array."""
    if weights is None:
        return 1.0
    check_row_count("weights", len(weights), x)
    each = as_array(weights, x)
    return each if x.ndim == 1 else each[:, None]


def strongest(sizes: Array, weights: NDArray[np.float64] | None) -> float:
    """Return the largest of ``sizes / weights`` where the weight is not zero."""
    xp, each = namespace(sizes), per_row(weights, sizes)
    if weights is not None:
        counted = each > 0
        sizes = xp.where(counted, sizes, xp.zeros_like(sizes))
        sizes = sizes / xp.where(counted, each, xp.ones_like(each))
    return float(xp.max(sizes))


class PerRow:
    """What penalties of single coordinates with weights for the rows of `x` share.

    A subclass is a frozen dataclass with the fields `alpha` and `weights`.
    """

    alpha: float
    weights: Any

    def __post_init__(self) -> None:
        check_nonnegative("alpha", self.alpha)
        if self.weights is not None:
            weights = checked_weights(self.weights, None, "row of x")
            object.__setattr__(self, "weights", weights)

    @property
    def labels(self) -> None:
        """None: every coordinate is its own block."""
        return

    def with_alpha(self, alpha: float) -> Self:
        """Return this penalty with another strength."""
        changed: Self = replace(self, alpha=alpha)  # type: ignore[type-var]
        return changed

    def on_blocks(self, blocks: Ints) -> Self:
        """Return the penalty on some rows alone, in this order."""
        if self.weights is None:
            return self
        part: Self = replace(self, weights=self.weights[blocks])  # type: ignore[type-var]
        return part
