"""NumPy twin of products with a matrix that is stored by blocks, and its oracle."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.special import erfc

Real = NDArray[Any]
Halves = NDArray[np.uint16]
Floats = NDArray[np.float32]
Pair = tuple[int, int]


def levels() -> list[str]:
    """Return the instruction sets that may be asked for, the fastest first."""
    return ["numpy"]


def _gelu(x: Real) -> Real:
    return np.asarray(x * erfc(-x / np.sqrt(2)) / 2)


def _silu(x: Real) -> Real:
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(x / (1 + np.exp(-x)))


_ACTIVATIONS = {
    "none": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "gelu": _gelu,
    "silu": _silu,
}


def activate(name: str, x: Real) -> Real:
    """Return an activation of numbers.

    Parameters
    ----------
    name : {"none", "relu", "gelu", "silu"}
        Which.
    x : array
        The numbers.
    """
    return np.asarray(_ACTIVATIONS[name](x))


def widen(bits: Halves) -> NDArray[np.float32]:
    """Return numbers of bfloat16 in single precision.

    Parameters
    ----------
    bits : uint16 array
        The numbers.
    """
    return (bits.astype(np.uint32) << 16).view(np.float32)


def narrow(numbers: Real) -> Halves:
    """Return the nearest numbers of bfloat16, of two the even one.

    Parameters
    ----------
    numbers : float32 array
        The numbers.
    """
    bits = np.ascontiguousarray(numbers, np.float32).view(np.uint32)
    rounded = bits + (0x7FFF + ((bits >> 16) & 1)).astype(np.uint32)
    kept = np.where(np.isnan(numbers), bits | 0x400000, rounded)
    return (kept >> 16).astype(np.uint16).reshape(np.shape(numbers))


def byte_scales(largest: Real) -> tuple[Floats, Floats]:
    """Return what bytes count in, and its inverse.

    Parameters
    ----------
    largest : float32 array
        The largest magnitude among the numbers that share a scale; NaN is the largest.

    Returns
    -------
    scales : float32 array of the same shape
        A 127th of the magnitudes, but at least the smallest normal number; NaN for
        those that are not finite.
    inverses : float32 array of the same shape
        What numbers are multiplied with; 0 where the scale is NaN.
    """
    unit, finite = np.float32(127), largest < np.inf
    most = np.where(finite, largest, np.float32(0))
    most = np.maximum(most, unit * np.finfo(np.float32).tiny)
    nan, none = np.float32(np.nan), np.float32(0)
    return np.where(finite, most / unit, nan), np.where(finite, unit / most, none)


def to_bytes(numbers: Real, inverses: Real) -> NDArray[np.int8]:
    """Return numbers rounded to whole multiples of a scale, of two the even one.

    Parameters
    ----------
    numbers : float32 array
        The numbers.
    inverses : float32 array
        Inverses of the scales from `byte_scales`.
    """
    with np.errstate(invalid="ignore"):
        scaled = np.rint(numbers * inverses)
    return np.asarray(np.nan_to_num(scaled, nan=0), np.int8)


def _require(holds: Any, what: str) -> None:
    if not holds:
        raise ValueError(what)


class BlockSparse:
    """A matrix of which some columns of each run of rows are stored.

    Everything is copied and checked, so that no later call can leave the arrays. Calls
    may come from several threads at a time. The result is ``activation(W x + bias +
    residual)``; numbers that only meet weights which are not stored are not looked at,
    so that NaN and infinity among them do no harm.

    Parameters
    ----------
    starts : int64 array of shape (ceil(n_out / height) + 1,)
        First entry of each run of `height` rows, and their number.
    columns : int32 array of shape (n,)
        Column of each entry.
    values : float32 or uint32 array of shape (n, height)
        Weights of each entry; those of rows that the matrix has not are not used. Words
        of 32 bits are pairs of bfloat16 for two columns, the even one in the lower
        half; `columns` then number pairs, of which the last may go beyond n_in with
        weights that are zero. Tokens, residual and results are all of bfloat16, as
        uint16, or all of float32: tokens are then rounded as by `narrow`, and results
        are not. Sums are of single precision. With `scales`, words are four signed
        bytes for four columns, the first in the lowest; `columns` then number quads, of
        which the last may go beyond n_in.
    n_out, n_in : int
        Shape of the matrix.
    bias : float32 array of shape (n_out,), optional
        What is added to each row.
    activation : {"none", "relu", "gelu", "silu"}
        What is applied last: GELU with the normal distribution function, not its
        approximation by a hyperbolic tangent.
    level : str, optional
        Instruction set, one of `levels`; the fastest by default.
    scales : float32 array of shape (n_out,), optional
        What the bytes of each row count in. Tokens of float32 are then rounded by
        `byte_scales` and `to_bytes`. Sums of products are whole and exact, and are
        multiplied by the scale of the row and then by that of the token. A token that
        is not finite has NaN for all its results. n_in is at most 65792, so that no sum
        reaches 2^31.
    """

    def __init__(
        self,
        starts: Real,
        columns: Real,
        values: Real,
        n_out: int,
        n_in: int,
        bias: Real | None = None,
        activation: str = "none",
        level: str | None = None,
        scales: Real | None = None,
    ) -> None:
        nothing = np.zeros(0, np.float32)
        for array, dtype, ndim in (
            (starts, np.int64, 1),
            (columns, np.int32, 1),
            (values, np.uint32 if values.dtype == np.uint32 else np.float32, 2),
            (nothing if bias is None else bias, np.float32, 1),
            (nothing if scales is None else scales, np.float32, 1),
        ):
            if array.dtype != dtype or array.ndim != ndim:
                raise TypeError("incompatible function arguments")
        words = values.dtype == np.uint32
        self._width = width = 1 if not words else 2 if scales is None else 4
        _require(words or scales is None, "scales must be those of words")
        _require(width != 4 or n_in <= 65792, "n_in must be at most 65792 for bytes")
        _require(
            scales is None or len(scales) == n_out,
            "scales must have an entry for each row",
        )
        height = values.shape[1]
        _require(
            height in (1, 2, 4, 8, 16), "values must have 1, 2, 4, 8 or 16 columns"
        )
        _require(
            max(n_out, n_in) < 2**31 and min(n_out, n_in) >= 0,
            "n_out and n_in must be below 2^31",
        )
        runs = -(-n_out // height)
        _require(
            len(starts) == runs + 1, "starts must have one entry more than runs of rows"
        )
        _require(
            len(values) == len(columns), "values must have a row for each of columns"
        )
        _require(
            starts[0] == 0 and starts[-1] == len(columns),
            "starts must run from 0 to the number of entries",
        )
        _require(np.all(np.diff(starts) >= 0), "starts must not fall")
        _require(
            np.all((columns >= 0) & (columns < -(-n_in // width))),
            "columns must lie within n_in",
        )
        _require(
            bias is None or len(bias) == n_out, "bias must have an entry for each row"
        )
        _require(
            activation in _ACTIVATIONS, "activation must be none, relu, gelu or silu"
        )
        _require(level in (None, *levels()), "level must be one of levels()")
        counts = np.repeat(np.diff(starts), height)[:n_out]
        indptr = np.concatenate(([0], np.cumsum(counts)))
        rows = np.arange(n_out)
        entry = np.arange(indptr[-1]) - np.repeat(indptr[:-1], counts)
        entry += np.repeat(starts[rows // height], counts)
        data = values[entry, np.repeat(rows % height, counts)]
        at = columns[entry].astype(np.int64)
        if width == 1:  # what meets the entries, for programs
            entries = (data, entry, indptr)
            self._entries = csr_array(entries, shape=(n_out, len(columns)))
        if width == 2:
            data = widen(data[:, None].view(np.uint16).ravel())
        elif width == 4:
            data = data.astype("<u4")[:, None].view(np.int8).ravel().astype(np.int32)
        at = (width * at[:, None] + np.arange(width)).ravel()
        shape = n_out, -(-n_in // width) * width
        self._matrix = csr_array((data, at, width * indptr), shape=shape)
        self._shape = n_out, n_in
        self._scales = None if scales is None else scales[:, None].copy()
        self._bias = np.zeros(n_out, np.float32) if bias is None else bias.copy()
        self._activation = _ACTIVATIONS[activation]
        self._arrays = {"starts": starts, "columns": columns, "values": values}
        self._arrays["bias"] = self._bias
        if scales is not None:
            self._arrays["scales"] = scales
        self._arrays = {name: a.copy() for name, a in self._arrays.items()}
        self.nbytes = 4 * len(columns) * (height + 1) + 8 * len(starts)
        self.nbytes += 8 * n_out * (width == 4)
        self.level = "numpy"

    def arrays(self) -> dict[str, Real]:
        """Return copies of what the matrix was made from, a bias of zeros among them.

        Returns
        -------
        dict of str to array
            starts, columns, values and bias; for bytes also scales.
        """
        return {name: array.copy() for name, array in self._arrays.items()}

    def tokens(
        self, x: Real, y: Real, residual: Real | None = None, threads: int = 1
    ) -> None:
        """Write the result for each row of `x`.

        Parameters
        ----------
        x : float32 or uint16 array of shape (tokens, n_in)
            Lines lie in one piece each, in any order of addresses that rises; those of
            bfloat16 begin at addresses that 4 divides, and where n_in is odd they have
            one number more, which is zero.
        y : float32 or uint16 array of shape (tokens, n_out)
            What is written; it may not lie where `x` does.
        residual : float32 or uint16 array of shape (tokens, n_out), optional
            What is added before the activation; it may be `y`.
        threads : int, default=1
            How many are used at most.
        """
        del threads
        n_out, n_in = self._shape
        halves = self._width == 2 and x.dtype == np.uint16
        n_in = self._matrix.shape[1] if halves else n_in
        _require(
            x.ndim == y.ndim == 2 and x.shape == (len(y), n_in) and y.shape[1] == n_out,
            "x and y must have shapes (tokens, n_in) and (tokens, n_out)",
        )
        self._check(x, y, residual, np.uint16 if halves else np.float32)
        if not halves:
            y[...] = self._apply(x.T, None if residual is None else residual.T).T
            return
        whole = not x.size or (x.strides[0] % 4 == 0 and x.ctypes.data % 4 == 0)
        _require(whole, "the lines of x must begin at whole words")
        add = None if residual is None else widen(residual).T
        y[...] = narrow(self._apply(widen(x).T, add).T)

    def features(
        self, x: Real, y: Real, residual: Real | None = None, threads: int = 1
    ) -> None:
        """Write the result for each column of `x`.

        Parameters
        ----------
        x : float32 array of shape (n_in, tokens)
            As for `tokens`.
        y : float32 array of shape (n_out, tokens)
            What is written.
        residual : float32 array of shape (n_out, tokens), optional
            What is added before the activation.
        threads : int, default=1
            How many are used at most.
        """
        del threads
        n_out, n_in = self._shape
        _require(
            x.ndim == y.ndim == 2 and len(x) == n_in and y.shape == (n_out, x.shape[1]),
            "x and y must have shapes (n_in, tokens) and (n_out, tokens)",
        )
        self._require_single("features")
        self._check(x, y, residual)
        y[...] = self._apply(x, residual)

    def images(
        self,
        x: Real,
        y: Real,
        residual: Real | None = None,
        *,
        kernel: Pair,
        stride: Pair = (1, 1),
        padding: Pair = (0, 0),
        dilation: Pair = (1, 1),
        threads: int = 1,
    ) -> None:
        """Write the convolution of images, with channels and kernel as columns.

        Parameters
        ----------
        x : float32 array of shape (images, channels, height, width)
            Rows lie in one piece each; ``channels * kernel[0] * kernel[1]`` is n_in.
        y : float32 array of shape (images, n_out, out_height, out_width)
            What is written.
        residual : float32 array of the shape of y, optional
            What is added before the activation.
        kernel, stride, padding, dilation : tuple of int
            Vertical and horizontal, in pixels.
        threads : int, default=1
            How many are used at most.
        """
        del threads
        n_out, n_in = self._shape
        _require(x.ndim == y.ndim == 4, "x and y must have four dimensions")
        for pair, least in ((kernel, 1), (stride, 1), (padding, 0), (dilation, 1)):
            _require(
                least <= min(pair) and max(pair) <= 2**15,
                "kernel, stride, padding and dilation must be small numbers, none "
                "negative and but padding none zero",
            )
        _require(
            kernel[0] * kernel[1] * x.shape[1] == n_in,
            "x must have as many channels as n_in over the size of the kernel",
        )
        free = [
            x.shape[2 + i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1
            for i in (0, 1)
        ]
        shape = [0 if free[i] < 0 else free[i] // stride[i] + 1 for i in (0, 1)]
        _require(
            y.shape == (len(x), n_out, *shape), "y must have the shape of the result"
        )
        self._require_single("images")
        self._check(x, y, residual)
        if not y.size:
            return
        sides = [(p, p) for p in padding]
        for i, image in enumerate(np.pad(x, ((0, 0), (0, 0), *sides))):
            columns = np.stack(
                [
                    image[:, a * dilation[0] :, b * dilation[1] :][
                        :, : free[0] + 1 : stride[0], : free[1] + 1 : stride[1]
                    ]
                    for a in range(kernel[0])
                    for b in range(kernel[1])
                ],
                axis=1,
            ).reshape(n_in, -1)
            add = None if residual is None else residual[i].reshape(n_out, -1)
            y[i] = self._apply(columns, add).reshape(y.shape[1:])

    def _apply(self, x: Real, residual: Real | None) -> Real:
        with np.errstate(over="ignore", invalid="ignore"):
            y = self._product(x) + self._bias[:, None]
            if residual is not None:
                y = y + residual
            return np.asarray(self._activation(y))

    def _product(self, x: Real) -> Real:
        beyond = self._matrix.shape[1] - len(x)
        if beyond:
            x = np.pad(x, ((0, beyond), (0, 0)))
        if self._width == 2:
            x = widen(narrow(x))
        if self._scales is None:
            return np.asarray(self._matrix @ x)
        scales, inverses = byte_scales(np.abs(x).max(0, initial=0))
        sums = self._matrix @ to_bytes(x, inverses).astype(np.int32)
        return np.asarray(sums.astype(np.float32) * self._scales * scales)

    def _require_single(self, what: str) -> None:
        _require(
            self._width == 1, f"{what} must be of single precision, as the weights"
        )

    def _check(
        self, x: Real, y: Real, residual: Real | None, kind: type = np.float32
    ) -> None:
        for a in (x, y) if residual is None else (x, y, residual):
            if a.dtype != kind:
                raise TypeError("incompatible function arguments")
        if not y.flags.writeable:
            raise TypeError("incompatible function arguments")
        named = [("x", x), ("y", y)]
        named += [] if residual is None else [("residual", residual)]
        for name, a in named:
            lines = not a.size or a.shape[-1] == 1 or a.strides[-1] == a.itemsize
            forward = not a.size or min(a.strides) >= 0
            _require(
                lines and forward and a.flags.aligned,
                f"the last dimension of {name} must lie in one piece",
            )
        inner = y.itemsize
        for size, step in zip(y.shape[::-1], y.strides[::-1], strict=True):
            if y.size and size > 1:
                _require(step >= inner, "the lines of y must not overlap")
                inner += step * (size - 1)
        _require(not np.may_share_memory(x, y), "y must not lie where x does")
        if residual is None:
            return
        _require(residual.shape == y.shape, "residual must have the shape of y")
        same = (
            residual.__array_interface__["data"] == y.__array_interface__["data"]
            and residual.strides == y.strides
        )
        _require(
            same or not np.may_share_memory(residual, y),
            "residual must be y, or lie elsewhere",
        )
