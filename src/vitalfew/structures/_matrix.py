"""Arrays seen as matrices, as the structures of weights see them."""

import math
from typing import Any

from vitalfew.contracts import Shape


def matrix_shape(shape: Shape) -> tuple[int, int]:
    """Rows and columns of an array seen as a matrix.

    Parameters
    ----------
    shape : tuple of int
        Of any array: a vector is one row, and more than two dimensions are the first
        by the product of the others.

    Returns
    -------
    tuple of two ints
        Both at least one.

    Raises
    ------
    ValueError
        If the array has no dimensions or no entries.
    """
    check_filled(shape)
    if len(shape) == 1:
        return 1, shape[0]
    return shape[0], math.prod(shape[1:])


def check_filled(shape: Any) -> None:
    """Raise unless an array of this shape has dimensions and entries."""
    if not len(shape) or math.prod(shape) == 0:
        raise ValueError(
            "shape must be that of an array of at least one dimension and one entry, "
            f"got {tuple(shape)}"
        )
