"""At most k whole outputs or inputs of a layer's weights."""

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np

from vitalfew._arrays import block_sums
from vitalfew._validation import check_count
from vitalfew.contracts import Array, Shape
from vitalfew.structures._index import IndexStructure, Scores
from vitalfew.structures._matrix import check_filled
from vitalfew.supports import Coordinates


@dataclass(frozen=True, eq=False)
class Channels(IndexStructure):
    """At most `n_channels` slices ``x[i]`` (outputs) or ``x[:, i]`` (inputs).

    The pattern that makes a network smaller without special kernels. An input channel
    of a convolution is all the columns of its matrix that read this channel. The
    projection keeps the channels of largest Euclidean norm. With ``axis=0`` it equals
    `Rows`.

    Parameters
    ----------
    n_channels : int, optional
        How many channels may differ from zero.
    density : float, optional
        The same as a fraction of the channels. Exactly one of the two is given.
    axis : {0, 1}, default=0
        Whether channels are outputs, the first dimension, or inputs, the second.
    width : int, default=1
        How many neighbours along the axis make one channel: kh * kw for the inputs of a
        kernel that is given as a matrix.
    keep : tuple of int
        Channels that are always in the support; they count towards the budget.
    shape : tuple of int, optional
        Filled in by `on`; leave it alone.

    Examples
    --------
    >>> import numpy as np
    >>> Channels(1, axis=1).project(np.array([[1.0, 1.0], [0.0, 3.0]]))
    array([[0., 1.],
           [0., 3.]])
    """

    n_channels: int | None = None
    density: float | None = field(default=None, kw_only=True)
    axis: int = field(default=0, kw_only=True)
    width: int = field(default=1, kw_only=True)

    count_name: ClassVar[str] = "n_channels"

    def __post_init__(self) -> None:
        self._require_one_budget()
        check_count("axis", self.axis, 0, 1)
        check_count("width", self.width, 1)

    def on(self, shape: Shape) -> Self:
        """Return this structure on arrays of one shape."""
        check_filled(shape)
        if self.axis >= len(shape):
            raise ValueError(
                f"axis must be one of the array's {len(shape)} dimensions, got "
                f"{self.axis}"
            )
        if shape[self.axis] % self.width:
            raise ValueError(
                f"width must divide the {shape[self.axis]} entries along axis "
                f"{self.axis}, got {self.width}"
            )
        return super().on(shape)

    @property
    def n_atoms(self) -> int:
        """Number of channels."""
        return self._shape()[self.axis] // self.width

    @property
    def _sides(self) -> tuple[int, int]:
        """How many runs a channel has, and how long each is."""
        shape = self._shape()
        after = math.prod(shape[self.axis + 1 :])
        return math.prod(shape[: self.axis]), self.width * after

    def support(self, atoms: Any) -> Coordinates:
        """Return the span of some channels."""
        atoms = np.asarray(atoms, np.int64)
        runs, length = self._sides
        first = np.arange(runs) * (self.n_atoms * length)
        ids = atoms[:, None, None] * length + first[:, None] + np.arange(length)
        sizes = np.full(len(atoms), runs * length)
        return Coordinates(atoms, ids.ravel(), sizes, self._shape())

    def scores(self, v: Array) -> Scores:
        """Squared length of `v` on each channel."""
        runs, length = self._sides
        return block_sums(v, (runs, self.n_atoms * length), (runs, length))
