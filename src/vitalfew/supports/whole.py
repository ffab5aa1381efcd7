"""The span of everything."""

import math
from dataclasses import dataclass

import numpy as np

from vitalfew._arrays import namespace
from vitalfew.contracts import Array, Ints, Shape


@dataclass(frozen=True)
class Whole:
    """Span of all coordinates: where penalised problems live.

    Parameters
    ----------
    shape : tuple of int
        Shape of `x`.
    """

    shape: Shape

    @property
    def atoms(self) -> Ints:
        """Numbers of all coordinates."""
        return np.arange(len(self))

    def __len__(self) -> int:
        return math.prod(self.shape)

    def embed(self, z: Array) -> Array:
        """Return `z` in the shape of `x`."""
        return namespace(z).reshape(z, self.shape)

    def restrict(self, g: Array) -> Array:
        """Return `g` as a vector."""
        return namespace(g).reshape(g, (-1,))
