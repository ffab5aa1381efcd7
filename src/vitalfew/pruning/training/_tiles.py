"""How atoms lie in a weight matrix: numbers of atoms to entries and back."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


class Tiles:
    """The atoms of a structure as pieces of a matrix, in differentiable operations.

    Rectangles of one size, smaller at the lower and right edge, need no index: a
    product with one number for each is a broadcast. Other atoms have a label for every
    entry.

    Parameters
    ----------
    structure : IndexStructure
        On the shape of the matrix.

    Raises
    ------
    ValueError
        If an entry belongs to no atom.
    """

    def __init__(self, structure: Any) -> None:
        self.shape: tuple[int, int] = tuple(structure.shape)
        self.n_atoms = int(structure.n_atoms)
        n_out, n_in = self.shape
        if self.n_atoms == n_out * n_in:  # every entry is an atom
            self.size: tuple[int, int] | None = (1, 1)
            self.labels = torch.empty(0, dtype=torch.int32)
            return
        table = structure.table
        labels = np.full(n_out * n_in, -1, np.int32)
        inside = table >= 0
        labels[table[inside]] = np.nonzero(inside)[0]
        if np.any(labels < 0):
            raise ValueError(
                f"{int(np.sum(labels < 0))} of {labels.size} weights belong to no atom"
            )
        self.size = _rectangle(labels.reshape(self.shape))
        kept = labels[:0] if self.size else labels
        self.labels = torch.from_numpy(kept.copy())

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of rectangles."""
        assert self.size is not None
        return -(-self.shape[0] // self.size[0]), -(-self.shape[1] // self.size[1])

    def times(self, matrix: Tensor, values: Tensor) -> Tensor:
        """Multiply each atom of a matrix (n_out, n_in) by its number, (n_atoms,)."""
        if self.size is None or self.shape[0] % self.size[0]:
            return matrix * self.spread(values)
        if self.size == (1, 1):
            return matrix * values.reshape(self.shape)
        # a row of numbers for each row of blocks: broadcasts, and sums in the backward
        # pass, over whole rows are several times faster than over blocks
        pieces = matrix.reshape(self.grid[0], self.size[0], self.shape[1])
        return (pieces * self._along_rows(values)).reshape(self.shape)

    def _along_rows(self, values: Tensor) -> Tensor:
        """Repeat numbers of rectangles along columns, (rows of them, 1, n_in)."""
        assert self.size is not None
        (_, cols), (down, across) = self.size, self.grid
        wide = values.reshape(down, across, 1).expand(down, across, cols)
        return wide.reshape(down, 1, across * cols)[:, :, : self.shape[1]]

    def spread(self, values: Tensor) -> Tensor:
        """Return the number of the atom of each entry, (n_out, n_in)."""
        if self.size is None:
            labels = self.labels.to(values.device)
            return values.index_select(0, labels).reshape(self.shape)
        (rows, _), (down, _) = self.size, self.grid
        whole = self._along_rows(values).expand(down, rows, self.shape[1])
        return whole.reshape(down * rows, self.shape[1])[: self.shape[0]]

    def sums(self, matrix: Tensor) -> Tensor:
        """Add up the entries (n_out, n_in) of each atom, (n_atoms,)."""
        if self.size is None:
            labels = self.labels.to(matrix.device)
            return matrix.new_zeros(self.n_atoms).index_add(
                0, labels, matrix.reshape(-1)
            )
        (rows, cols), (down, across) = self.size, self.grid
        missing = down * rows - self.shape[0], across * cols - self.shape[1]
        if missing[0]:
            matrix = functional.pad(matrix, (0, 0, 0, missing[0]))
        if rows > 1:
            matrix = matrix.reshape(down, rows, self.shape[1]).sum(1)
        if missing[1]:
            matrix = functional.pad(matrix, (0, missing[1]))
        return matrix.reshape(down, across, cols).sum(2).reshape(-1)

    def sizes(self) -> Tensor:
        """Return the number of entries of each atom, (n_atoms,)."""
        return self.sums(torch.ones(self.shape))


def _rectangle(labels: Any) -> tuple[int, int] | None:
    """Rows and columns of the rectangles that labels are numbers of, if they are."""
    height, width = labels.shape
    rows = int(np.argmax(labels[:, 0] != labels[0, 0])) or height
    cols = int(np.argmax(labels[0] != labels[0, 0])) or width
    across = -(-width // cols)
    i, j = np.arange(height) // rows, np.arange(width) // cols
    fits = np.array_equal(labels, i[:, None] * across + j)
    return (rows, cols) if fits else None
