"""The span of chosen coordinates."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from vitalfew._arrays import namespace, put, take
from vitalfew.contracts import Array, Ints, Shape


@dataclass(frozen=True, eq=False)
class Coordinates:
    """Span of coordinates `ids` of the flattened `x`; each atom owns a run of them.

    Parameters
    ----------
    atoms : integer array of shape (k,)
        Numbers of the atoms.
    ids : integer array of shape (K,)
        Coordinates of the flattened `x`, atom after atom.
    sizes : integer array of shape (k,)
        How many coordinates each atom owns.
    shape : tuple of int
        Shape of `x`.
    """

    atoms: Ints
    ids: Ints
    sizes: Ints
    shape: Shape

    def __len__(self) -> int:
        return len(self.atoms)

    @cached_property
    def starts(self) -> Ints:
        """Where each atom's coordinates begin in `ids`, and their number at the end."""
        return np.concatenate(([0], np.cumsum(self.sizes)))

    @cached_property
    def row_ids(self) -> Ints | None:
        """Rows of `x` if the span holds whole rows in order; None otherwise."""
        width = math.prod(self.shape[1:])
        if width == 1:
            return self.ids
        if len(self.ids) % width:
            return None
        first = self.ids[::width]
        whole = first[:, None] + np.arange(width)
        if np.any(first % width) or not np.array_equal(whole.ravel(), self.ids):
            return None
        return first // width

    def embed(self, z: Array) -> Array:
        """Return the point with coordinates `z`."""
        flat = put(math.prod(self.shape), self.ids, z)
        return namespace(z).reshape(flat, self.shape)

    def restrict(self, g: Array) -> Array:
        """Entries of `g` at the coordinates."""
        return take(g, self.ids)
