"""Exchanges of a structure's atoms in a quadratic over the rows of `x`."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vitalfew.contracts import Array, Exchanges, Fit, Ints
from vitalfew.linalg import QuadraticModel, group_exchanges, single_exchanges

MOST_BLOCK_NUMBERS = 1 << 27  # of the Hessian within atoms: 1 GB in double precision


def exchanges_of(
    structure: Any,
    fit: Fit,
    models: Sequence[QuadraticModel],
    blocks: Callable[[Ints], Array] | None,
    count: int,
) -> Exchanges | None:
    """Best exchanges, or None where no formula is at hand.

    Parameters
    ----------
    structure : Structure
        Whose atoms are exchanged; its atoms must hold whole rows of `x`.
    fit : Fit
        Where.
    models : sequence of QuadraticModel
        One, or one for each class when the classes are taken as independent.
    blocks : callable or None
        Takes a table of columns (N, m), returns the Hessian within each row of it.
    count : int
        How many entering atoms to return.

    Returns
    -------
    Exchanges or None
        None for several models on groups, for atoms that are not whole rows, and where
        blocks would be too many.
    """
    support = fit.support
    width = math.prod(support.shape[1:])
    everything = structure.support(np.arange(structure.n_atoms))
    if everything.row_ids is None or np.any(everything.sizes % width):
        return None  # atoms that share a row
    allowed = structure.exchangeable(support)
    # atom i must be row i: groups of one may be numbered in any order
    if np.array_equal(everything.row_ids, everything.atoms):
        return single_exchanges(models, support.row_ids, count, allowed)
    if len(models) > 1 or blocks is None:
        return None
    widest = int(everything.sizes.max()) // width
    if structure.n_atoms * widest**2 > MOST_BLOCK_NUMBERS:
        return None  # before the table, which one large group makes large for all
    table = structure.table[:, ::width] // width  # the padding, -1, stays -1
    starts = support.starts // width
    return group_exchanges(
        models[0], table, starts, support.atoms, blocks, count, allowed
    )
