"""The packed form of a matrix with many zeros: what pruning writes, the runtime reads.

A matrix (n_out, n_in) is cut into blocks of r rows and c columns, from its first row
and column on; the last blocks of either axis are smaller where the size does not
divide. Block (i, j) has number ``i * ceil(n_in / c) + j``. The form holds

* `bits`: one bit a block, the least significant of a byte first, which is set where
  the block is stored; bits behind the last block are zero;
* `values`: the entries of the stored blocks in the order of their numbers, each block
  row after row, a smaller block with its own entries only.

A block is stored if any of its entries is not zero. NaN is not zero. Minus zero is,
for that is what a mask makes of a negative weight: in a block of zeros it becomes plus
zero, while inside a stored block every entry keeps its bits.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitalfew.contracts import Ints
from vitalfew.exceptions import DataError

__all__ = ["Packed", "best_block", "pack", "packed_bytes"]

# each with how its entries are held, and the bits of an entry that is not zero
_DTYPES = {
    "float64": ("f8", 0x7FFFFFFFFFFFFFFF),
    "float32": ("f4", 0x7FFFFFFF),
    "float16": ("f2", 0x7FFF),
    "bfloat16": ("u2", 0x7FFF),
    "int8": ("i1", 0xFF),
}
_BLOCKS = (
    *((1, 1), (4, 1), (8, 1), (16, 1), (32, 1), (64, 1)),
    *((1, 4), (1, 8), (1, 16), (1, 32), (1, 64)),
    *((2, 2), (4, 4), (8, 8), (16, 16), (32, 32), (64, 64)),
)
_MOST = 2**31 - 1  # rows or columns, so that numbers of entries fit into 64 bits

Block = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Packed:
    """A matrix of which only the blocks that are not zero are held.

    Whatever is given is checked, so that one that was read can be trusted.

    Parameters
    ----------
    shape : tuple of int
        Rows and columns of the matrix.
    block : tuple of int
        Rows and columns of a block, none more than the matrix has.
    dtype : str
        ``"float64"``, ``"float32"``, ``"float16"``, ``"bfloat16"`` or ``"int8"``.
    bits : array of uint8
        Which blocks are stored.
    values : array
        Entries of the stored blocks; those of ``"bfloat16"`` as uint16.

    Raises
    ------
    DataError
        If these do not belong together.

    Notes
    -----
    A few words may describe a very large matrix of zeros: who reads a file compares
    `shape` with what he expects before `unpack` makes that matrix.
    """

    shape: tuple[int, int]
    block: Block
    dtype: str
    bits: NDArray[np.uint8]
    values: NDArray[Any]

    def __post_init__(self) -> None:
        for name, sizes, least in (("shape", self.shape, 0), ("block", self.block, 1)):
            whole = isinstance(sizes, tuple) and all(type(s) is int for s in sizes)
            if not whole or len(sizes) != 2 or not least <= min(sizes):
                raise DataError(
                    f"{name} of a packed matrix must be two integers of at least "
                    f"{least}, got {sizes!r}"
                )
            if max(sizes) > _MOST:
                raise DataError(
                    f"{name} of a packed matrix must be below 2^31, got {sizes!r}"
                )
        if any(b > max(s, 1) for b, s in zip(self.block, self.shape, strict=True)):
            raise DataError(
                "block of a packed matrix must not be larger than the matrix, got "
                f"{self.block!r} for {self.shape!r}"
            )
        if not isinstance(self.dtype, str) or self.dtype not in _DTYPES:
            raise DataError(
                f"dtype of a packed matrix must be one of {', '.join(_DTYPES)}, got "
                f"{self.dtype!r}"
            )
        _check_array("bits", self.bits, np.dtype(np.uint8))
        _check_array("values", self.values, np.dtype(_DTYPES[self.dtype][0]))
        n_blocks = math.prod(_grid(self.shape, self.block))
        if len(self.bits) != -(-n_blocks // 8):
            raise DataError(
                f"a packed matrix of {n_blocks} blocks has {-(-n_blocks // 8)} bytes "
                f"of bits, got {len(self.bits)}"
            )
        if n_blocks % 8 and self.bits[-1] >> n_blocks % 8:
            raise DataError("bits behind the last block of a packed matrix must be 0")
        n_values = _n_values(self.stored, self.shape, self.block)
        if len(self.values) != n_values:
            raise DataError(
                f"the stored blocks of a packed matrix have {n_values} values, got "
                f"{len(self.values)}"
            )

    @cached_property
    def stored(self) -> NDArray[np.bool_]:
        """Which blocks are stored, (block rows, block columns)."""
        rows, columns = _grid(self.shape, self.block)
        bits = np.unpackbits(self.bits, count=rows * columns, bitorder="little")
        return bits.view(np.bool_).reshape(rows, columns)

    @property
    def nbytes(self) -> int:
        """Bytes that bits and values take."""
        return int(self.bits.nbytes + self.values.nbytes)

    @property
    def dense_nbytes(self) -> int:
        """Bytes that the matrix takes when it is unpacked."""
        return math.prod(self.shape) * self.values.dtype.itemsize

    def unpack(self) -> NDArray[Any]:
        """Return the matrix, (n_out, n_in)."""
        (rows, columns), (r, c) = _grid(self.shape, self.block), self.block
        padded = np.zeros((rows * r, columns * c), self.values.dtype)
        tiles = _tiles(padded, self.block)
        if padded.shape == self.shape:
            tiles[self.stored] = self.values.reshape(-1, r, c)
            return padded
        inside = _inside(self.stored, self.shape, self.block)
        held = np.zeros(inside.shape, self.values.dtype)
        held[inside] = self.values
        tiles[self.stored] = held
        return np.ascontiguousarray(padded[: self.shape[0], : self.shape[1]])


def pack(matrix: NDArray[Any], block: Block, *, dtype: str | None = None) -> Packed:
    """Hold the blocks of a matrix that are not zero.

    Parameters
    ----------
    matrix : array of shape (n_out, n_in)
        What to pack.
    block : tuple of int
        Rows and columns of a block; one larger than the matrix is cut to it.
    dtype : str, optional
        ``"bfloat16"`` for a matrix of uint16 that holds such numbers; otherwise the
        matrix says it.

    Returns
    -------
    Packed
        Copies of what is stored.

    Raises
    ------
    ValueError
        If the matrix is none, or of a type that the form does not hold.

    Notes
    -----
    Costs one pass over the matrix.
    """
    matrix, dtype = _checked(matrix, dtype)
    n_out, n_in = shape = matrix.shape
    if len(block) != 2 or min(block) < 1 or tuple(block) != tuple(map(int, block)):
        raise ValueError(f"block must be two positive integers, got {block!r}")
    r, c = min(int(block[0]), max(n_out, 1)), min(int(block[1]), max(n_in, 1))
    stored = _stored(_nonzero(matrix, dtype), (r, c))
    rows, columns = stored.shape
    if shape == (rows * r, columns * c):
        values = _tiles(matrix, (r, c))[stored].ravel()
    else:
        padded = np.zeros((rows * r, columns * c), matrix.dtype)
        padded[:n_out, :n_in] = matrix
        inside = _inside(stored, shape, (r, c))
        values = _tiles(padded, (r, c))[stored][inside]
    bits = np.packbits(stored.ravel(), bitorder="little")
    return Packed(shape, (r, c), dtype, bits, values)


def best_block(
    matrix: NDArray[Any],
    candidates: Iterable[Block] = _BLOCKS,
    *,
    dtype: str | None = None,
) -> Block:
    """Choose the block size with which a matrix takes the fewest bytes.

    Parameters
    ----------
    matrix : array of shape (n_out, n_in)
        What is to be packed.
    candidates : iterable of tuple of int
        Block sizes, at least one; of equally good ones the first is taken. By default
        columns, rows and squares of up to 64 entries a side.
    dtype : str, optional
        As in `pack`.

    Returns
    -------
    tuple of int
        Rows and columns of a block.

    Notes
    -----
    Costs a few passes over the matrix: large blocks are counted from small ones.
    """
    matrix, dtype = _checked(matrix, dtype)
    sizes = _bytes_with(candidates, _nonzero(matrix, dtype), matrix.itemsize)
    return min(sizes, key=sizes.__getitem__)


def packed_bytes(nonzero: NDArray[np.bool_], itemsize: int) -> int:
    """Count the bytes that a matrix takes in a file, packed or as it is.

    Parameters
    ----------
    nonzero : bool array of shape (n_out, n_in)
        Which of its entries are not zero.
    itemsize : int
        Bytes of an entry.

    Returns
    -------
    int
        Of bits and values with the best block size, or of all entries if that is less.
    """
    sizes = _bytes_with(_BLOCKS, np.asarray(nonzero, np.bool_), itemsize)
    return min(nonzero.size * itemsize, *sizes.values())


def _bytes_with(
    candidates: Iterable[Block], nonzero: NDArray[np.bool_], itemsize: int
) -> dict[Block, int]:
    """Return what a matrix takes with each block size."""
    known = {(1, 1): nonzero}
    sizes = {}
    for block in candidates:
        r, c = block
        divide = [b for b in known if r % b[0] == 0 and c % b[1] == 0]
        start = min(divide, key=lambda b: known[b].size)
        known[block] = _stored(known[start], (r // start[0], c // start[1]))
        n_values = _n_values(known[block], nonzero.shape, block)
        sizes[block] = n_values * itemsize + -(-known[block].size // 8)
    return sizes


def _checked(matrix: Any, dtype: str | None) -> tuple[NDArray[Any], str]:
    """Return a matrix in the byte order of the machine, with the name of its type."""
    matrix = np.asarray(matrix)
    if matrix.ndim != 2 or max(matrix.shape) > _MOST:
        raise ValueError(
            "matrix must have two dimensions below 2^31, got an array of shape "
            f"{matrix.shape}"
        )
    known = dtype or matrix.dtype.name
    if known not in _DTYPES or matrix.dtype.kind != _DTYPES[known][0][0]:
        raise ValueError(
            f"matrix must be one of {', '.join(_DTYPES)} (the last but one as uint16 "
            f"with dtype='bfloat16'), got {matrix.dtype} with dtype={dtype!r}"
        )
    return matrix.astype(_DTYPES[known][0], copy=False), known


def _check_array(name: str, array: Any, dtype: np.dtype[Any]) -> None:
    found = getattr(array, "dtype", None), getattr(array, "ndim", None)
    if not isinstance(array, np.ndarray) or found != (dtype, 1):
        raise DataError(
            f"{name} of a packed matrix must be an array of one dimension and of type "
            f"{dtype}, got {found[0]} with {found[1]} dimensions"
        )


def _grid(shape: tuple[int, ...], block: Block) -> tuple[int, int]:
    """Return how many blocks stand one below and one beside the other."""
    return -(-shape[0] // block[0]), -(-shape[1] // block[1])


def _nonzero(matrix: NDArray[Any], dtype: str) -> NDArray[np.bool_]:
    """Which entries are not zero; by their bits, for processors may flush small ones.

    Parameters
    ----------
    matrix : array
        Of a type that the form holds.
    dtype : str
        Its name.
    """
    bits = np.ascontiguousarray(matrix).view(f"u{matrix.dtype.itemsize}")
    nonzero: NDArray[np.bool_] = (bits & bits.dtype.type(_DTYPES[dtype][1])) != 0
    return nonzero


def _stored(nonzero: NDArray[np.bool_], block: Block) -> NDArray[np.bool_]:
    """Which blocks have an entry that is not zero."""
    if nonzero.size == 0:
        return np.zeros(_grid(nonzero.shape, block), np.bool_)
    for axis in (0, 1):
        if block[axis] > 1:
            starts = np.arange(0, nonzero.shape[axis], block[axis])
            nonzero = np.logical_or.reduceat(nonzero, starts, axis=axis)
    return nonzero


def _sizes(n: int, size: int, count: int) -> Ints:
    """Return the sizes of the blocks along an axis."""
    return np.minimum(size, n - size * np.arange(count, dtype=np.int64))


def _n_values(stored: NDArray[np.bool_], shape: tuple[int, ...], block: Block) -> int:
    heights = _sizes(shape[0], block[0], stored.shape[0])
    widths = _sizes(shape[1], block[1], stored.shape[1])
    return int(heights @ (stored @ widths))


def _tiles(matrix: NDArray[Any], block: Block) -> NDArray[Any]:
    """View a matrix whose size divides by blocks: (rows, columns, r, c)."""
    (r, c), (rows, columns) = block, _grid(matrix.shape, block)
    return matrix.reshape(rows, r, columns, c).swapaxes(1, 2)


def _inside(
    stored: NDArray[np.bool_], shape: tuple[int, ...], block: Block
) -> NDArray[np.bool_]:
    """Which entries of the stored blocks lie in the matrix, (n_stored, r, c)."""
    i, j = np.nonzero(stored)
    heights = _sizes(shape[0], block[0], stored.shape[0])[i]
    widths = _sizes(shape[1], block[1], stored.shape[1])[j]
    in_rows = np.arange(block[0]) < heights[:, None]
    in_columns = np.arange(block[1]) < widths[:, None]
    return in_rows[:, :, None] & in_columns[:, None, :]
