"""The order of weights in which the kernels read them."""

from math import gcd
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vitalfew._native._blocksparse_twins import byte_scales, narrow, to_bytes
from vitalfew.contracts import Ints
from vitalfew.packed import Packed

HIGHEST = 16  # rows of a run


class Runs(NamedTuple):
    """A matrix by runs of rows: of each, some columns are stored.

    Attributes
    ----------
    starts : int64 array of shape (n_runs + 1,)
        First entry of each run, and their number.
    columns : int32 array of shape (n,)
        Column of each entry.
    values : float32 or uint32 array of shape (n, height)
        Weights of each entry, or words of several; zero below the last row of the
        matrix.
    """

    starts: Ints
    columns: NDArray[np.int32]
    values: NDArray[np.float32] | NDArray[np.uint32]


def runs_of(packed: Packed) -> Runs:
    """Order the stored blocks of a matrix by runs of rows.

    A block of several columns becomes several entries, and one whose height is not 1,
    2, 4, 8 or 16 becomes several runs.

    Parameters
    ----------
    packed : Packed
        Of real numbers; others than float32 are converted.

    Returns
    -------
    Runs
        The same matrix. All entries of a stored block are there, zeros among them too.

    Raises
    ------
    ValueError
        If the matrix holds whole numbers, whose scale it does not know.

    Notes
    -----
    Costs a few passes over the stored weights.
    """
    if packed.dtype == "int8":
        raise ValueError("packed must hold real numbers, got int8: apply its scale")
    (n_out, n_in), c = packed.shape, packed.block[1]
    rows, height = _heights(n_out, packed.block[0], len(packed.stored))
    blocks, split = _blocks(packed, rows), rows // height
    i, j = np.nonzero(packed.stored)
    run = (i[:, None] * split + np.arange(split)).ravel()
    pieces = blocks.reshape(-1, height, c)
    columns = np.repeat(j * c, split)
    n_runs = -(-n_out // height)
    if split > 1:
        order = np.argsort(run, kind="stable")
        order = order[: np.searchsorted(run[order], n_runs)]
        run, pieces, columns = run[order], pieces[order], columns[order]
    entries = columns[:, None] + np.arange(c)
    values = pieces.swapaxes(1, 2)
    counts = np.bincount(run, minlength=n_runs) * c
    if n_in % c:
        inside = entries < n_in
        counts = np.bincount(run, inside.sum(1), minlength=n_runs)
        entries, values = entries[inside], values[inside]
    return Runs(
        np.concatenate(([0], np.cumsum(counts))).astype(np.int64),
        entries.ravel().astype(np.int32),
        np.ascontiguousarray(values.reshape(-1, height)),
    )


def pairs_of(runs: Runs, n_in: int) -> Runs:
    """Round weights to bfloat16 and take two columns that follow one another as one.

    Parameters
    ----------
    runs : Runs
        Of single numbers.
    n_in : int
        Columns of the matrix.

    Returns
    -------
    Runs
        Of words; the even column is in the lower half. Where only one column of two was
        stored, the other is stored as zeros.
    """
    return _words(runs, n_in, narrow(runs.values))


def quads_of(runs: Runs, n_in: int, n_out: int) -> tuple[Runs, NDArray[np.float32]]:
    """Round weights to bytes and take four columns that follow one another as one.

    Parameters
    ----------
    runs : Runs
        Of single numbers.
    n_in, n_out : int
        Columns and rows of the matrix.

    Returns
    -------
    runs : Runs
        Of words; the first column is in the lowest byte. Where only some columns of
        four were stored, the others are stored as zeros.
    scales : float32 array of shape (n_out,)
        What the bytes of each row count in: its largest weight is 127 of them. A row of
        zeros has the smallest normal number, one that is not finite NaN.
    """
    starts, _, values = runs
    n_runs, height = len(starts) - 1, values.shape[1]
    largest = np.zeros((n_runs, height), np.float32)
    filled = np.flatnonzero(np.diff(starts))
    if len(filled):
        largest[filled] = np.maximum.reduceat(np.abs(values), starts[filled])
    run = np.repeat(np.arange(n_runs), np.diff(starts))
    scales, inverses = byte_scales(largest)
    rounded = to_bytes(values, inverses[run]).view(np.uint8)
    return _words(runs, n_in, rounded), scales.ravel()[:n_out]


def _words(runs: Runs, n_in: int, values: NDArray[Any]) -> Runs:
    """Return words of 32 bits of as many columns as fit.

    Parameters
    ----------
    runs : Runs
        Of single numbers.
    n_in : int
        Columns of the matrix.
    values : uint8 or uint16 array of shape (n, height)
        What stands for the values of `runs`.
    """
    starts, columns, _ = runs
    width = 4 // values.itemsize
    part, n_runs = max(-(-n_in // width), 1), len(starts) - 1
    run = np.repeat(np.arange(n_runs), np.diff(starts))
    keys, entry = np.unique(run * part + columns // width, return_inverse=True)
    words = np.zeros((len(keys), values.shape[1], width), values.dtype)
    words[entry, :, columns % width] = values
    counts = np.bincount(keys // part, minlength=n_runs)
    return Runs(
        np.concatenate(([0], np.cumsum(counts))).astype(np.int64),
        (keys % part).astype(np.int32),
        words.view("<u4")[:, :, 0].astype(np.uint32),
    )


def _heights(n_out: int, r: int, n_rows: int) -> tuple[int, int]:
    """Return the rows of a block, filled up if no other is below, and of a run.

    Parameters
    ----------
    n_out, r : int
        Rows of the matrix and of a block.
    n_rows : int
        Blocks one below the other.
    """
    if n_rows > 1:
        return r, gcd(r, HIGHEST)
    height = min(HIGHEST, 1 << max(n_out - 1, 0).bit_length())
    return -(-r // height) * height, height


def _blocks(packed: Packed, rows: int) -> NDArray[np.float32]:
    """Return the stored blocks, filled with zeros, (n_stored, rows, c)."""
    (n_out, n_in), (r, c) = packed.shape, packed.block
    if n_out % r == 0 and n_in % c == 0 and rows == r:
        return _floats(packed.values, packed.dtype).reshape(-1, r, c)
    down, across = packed.stored.shape
    filled = np.zeros((down * rows, across * c), np.float32)
    filled[:n_out, :n_in] = _floats(packed.unpack(), packed.dtype)
    tiles = filled.reshape(down, rows, across, c).swapaxes(1, 2)
    blocks: NDArray[np.float32] = tiles[packed.stored]
    return blocks


def _floats(values: NDArray[Any], dtype: str) -> NDArray[np.float32]:
    if dtype == "bfloat16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32, copy=False)
