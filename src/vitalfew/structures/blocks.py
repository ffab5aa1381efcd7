"""At most k rectangular blocks of a matrix."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np

from vitalfew._arrays import block_sums
from vitalfew._validation import check_count
from vitalfew.contracts import Array, Shape
from vitalfew.structures._index import IndexStructure, Scores
from vitalfew.structures._matrix import matrix_shape
from vitalfew.supports import Coordinates


@dataclass(frozen=True, eq=False)
class Blocks(IndexStructure):
    """At most `n_blocks` blocks of ``rows x cols`` entries on a fixed grid.

    The pattern that fast kernels read: a block is in memory or it is not. An array of
    more than two dimensions is seen as (first) x (product of the others), as a
    convolution is, and a vector as one row. Blocks at the right and lower edge are
    smaller where the sizes do not divide, and count as blocks; a block larger than the
    matrix is the matrix. They are numbered row of blocks by row of blocks. The
    projection keeps the blocks of largest Euclidean norm.

    Parameters
    ----------
    size : tuple of two ints
        Rows and columns of a block; rows are outputs of a layer, columns inputs.
    n_blocks : int, optional
        How many blocks may differ from zero.
    density : float, optional
        The same as a fraction of the blocks. Exactly one of the two is given.
    keep : tuple of int
        Blocks that are always in the support; they count towards the budget.
    shape : tuple of int, optional
        Filled in by `on`; leave it alone.

    Examples
    --------
    >>> import numpy as np
    >>> Blocks((2, 1), 1).project(np.array([[1.0, 4.0, 2.0], [1.0, 0.0, 4.0]]))
    array([[0., 0., 2.],
           [0., 0., 4.]])
    """

    size: tuple[int, int]
    n_blocks: int | None = None
    density: float | None = field(default=None, kw_only=True)

    count_name: ClassVar[str] = "n_blocks"

    def __post_init__(self) -> None:
        self._require_one_budget()
        try:
            rows, cols = self.size
        except (TypeError, ValueError):
            raise ValueError(
                "size must be two integers, the rows and columns of a block, got "
                f"{self.size!r}"
            ) from None
        size = check_count("size[0]", rows, 1), check_count("size[1]", cols, 1)
        object.__setattr__(self, "size", size)

    def on(self, shape: Shape) -> Self:
        """Return this structure on arrays of one shape."""
        matrix_shape(shape)
        return super().on(shape)

    @property
    def _grid(self) -> tuple[int, int]:
        """Rows and columns of blocks."""
        height, width = matrix_shape(self._shape())
        return -(-height // self.size[0]), -(-width // self.size[1])

    @property
    def n_atoms(self) -> int:
        """Number of blocks."""
        down, across = self._grid
        return down * across

    def support(self, atoms: Any) -> Coordinates:
        """Return the span of some blocks, each row after row."""
        atoms = np.asarray(atoms, np.int64)
        height, width = matrix_shape(self._shape())
        rows, cols = min(self.size[0], height), min(self.size[1], width)
        down, across = np.divmod(atoms, self._grid[1])
        i = down[:, None] * rows + np.arange(rows)
        j = across[:, None] * cols + np.arange(cols)
        ids = i[:, :, None] * width + j[:, None, :]
        sizes = np.full(len(atoms), rows * cols)
        if height % rows or width % cols:
            inside = (i < height)[:, :, None] & (j < width)[:, None, :]
            sizes, ids = inside.sum(axis=(1, 2)), ids[inside]
        return Coordinates(atoms, ids.ravel(), sizes, self._shape())

    def scores(self, v: Array) -> Scores:
        """Squared length of `v` on each block."""
        return block_sums(v, matrix_shape(self._shape()), self.size)
