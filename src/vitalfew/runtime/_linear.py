"""Linear maps with pruned matrices, without torch."""

from math import prod
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vitalfew._native._blocksparse import BlockSparse
from vitalfew._threads import n_threads
from vitalfew.packed import Block, Packed, pack
from vitalfew.runtime._runs import pairs_of, quads_of, runs_of

__all__ = ["Activation", "Precision", "SparseConv2d", "SparseLinear"]

Activation = Literal["none", "relu", "gelu", "silu"]
Precision = Literal["float32", "bfloat16", "int8"]
Floats = NDArray[Any]  # of float32, or of uint16 that hold bfloat16
Pair = tuple[int, int]


class _Sparse:
    """A pruned matrix that is ready to be applied."""

    def __init__(
        self,
        weights: Any,
        block: Block,
        bias: Any,
        activation: Activation,
        threads: int | None,
        precision: Precision = "float32",
    ) -> None:
        _check_precision(precision)
        if not isinstance(weights, Packed):
            weights = pack(_array("weights", weights), block)
        if threads is not None and threads < 1:
            raise ValueError(f"threads must be at least 1, got {threads!r}")
        if bias is not None:
            bias = np.ascontiguousarray(_array("bias", bias))
        runs = runs_of(weights)
        scales = None
        if precision == "bfloat16":
            runs = pairs_of(runs, weights.shape[1])
        elif precision == "int8":
            runs, scales = quads_of(runs, *weights.shape[::-1])
        arrays = {**runs._asdict(), "bias": bias, "scales": scales}
        self._hold(arrays, weights.shape, activation, threads, precision)

    def _hold(
        self,
        arrays: dict[str, Any],
        shape: Pair,
        activation: Activation,
        threads: int | None,
        precision: Precision,
    ) -> None:
        self.n_out, self.n_in = shape
        self.activation, self.threads, self.precision = activation, threads, precision
        self._dtypes = (_HALF, _SINGLE) if precision == "bfloat16" else (_SINGLE,)
        self._matrix = BlockSparse(
            arrays["starts"],
            arrays["columns"],
            arrays["values"],
            self.n_out,
            self.n_in,
            arrays.get("bias"),
            activation,
            **{} if arrays.get("scales") is None else {"scales": arrays["scales"]},
        )

    @property
    def nbytes(self) -> int:
        """Bytes that weights and indices take."""
        return int(self._matrix.nbytes)

    @property
    def native(self) -> Any:
        """The matrix as native programs take it."""
        return self._matrix

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return what is stored, for files.

        Returns
        -------
        dict of str to array
            That `of` takes.
        """
        found: dict[str, NDArray[Any]] = self._matrix.arrays()
        return found

    def _n_threads(self, threads: int | None = None) -> int:
        threads = self.threads if threads is None else threads
        return n_threads() if threads is None else threads


class SparseLinear(_Sparse):
    """Apply a pruned matrix: ``activation(x W^T + bias + residual)``.

    Parameters
    ----------
    weights : Packed or array of shape (n_out, n_in)
        The matrix; blocks that are zero cost nothing.
    block : tuple of int, default=(8, 1)
        Rows and columns of the blocks that an array is cut into; a packed matrix brings
        its own.
    bias : array of shape (n_out,), optional
        What is added to each row of the matrix.
    activation : {"none", "relu", "gelu", "silu"}, default="none"
        What is applied last; GELU is the one with the normal distribution function.
    threads : int, optional
        How many are used at most; by default as many as BLAS would use.
    precision : {"float32", "bfloat16", "int8"}, default="float32"
        Of weights, tokens and results. Numbers of bfloat16 are given as uint16; sums
        and bias are of single precision, and the processor may take numbers below 1e-38
        for zero. Columns are then stored by twos: blocks of an even number of them,
        such as (16, 2), waste nothing. Tokens may also be of float32, and are then
        rounded to bfloat16. Residual, `out` and the result are of float32 with them,
        and are not rounded.

        With "int8" what is given and returned is of float32. Each row of weights and
        each token is rounded to whole multiples of a 127th of its largest magnitude,
        and their products are summed without error. A token with NaN or infinity has
        NaN for all its results. Columns are stored by fours: blocks of (16, 4) waste
        nothing. There are at most 65792 of them.

    Raises
    ------
    ValueError
        If shapes or types do not fit.

    Notes
    -----
    An array is anything that NumPy or DLPack knows on the CPU. It is copied where its
    last dimension does not lie in one piece. Calls may come from several threads.

    Examples
    --------
    >>> import numpy as np
    >>> from vitalfew.runtime import SparseLinear
    >>> layer = SparseLinear(np.array([[1, 0], [2, 0]], np.float32), block=(2, 1))
    >>> layer(np.array([[3, np.nan]], np.float32))
    array([[3., 6.]], dtype=float32)
    """

    def __init__(
        self,
        weights: Any,
        *,
        block: Block = (8, 1),
        bias: Any = None,
        activation: Activation = "none",
        threads: int | None = None,
        precision: Precision = "float32",
    ) -> None:
        super().__init__(weights, block, bias, activation, threads, precision)

    @classmethod
    def of(
        cls,
        arrays: dict[str, NDArray[Any]],
        shape: Pair,
        *,
        activation: Activation = "none",
        precision: Precision = "float32",
    ) -> "SparseLinear":
        """Return the layer whose `arrays` these are.

        Parameters
        ----------
        arrays : dict of str to array
            Everything in them is checked.
        shape : tuple of int
            Rows and columns of the matrix.
        activation, precision : str
            Of the layer.

        Raises
        ------
        ValueError
            If they are not those of such a layer.
        """
        _check_precision(precision)
        if ("scales" in arrays) != (precision == "int8"):
            raise ValueError("arrays must have scales for int8, and for nothing else")
        words = arrays["values"].dtype == np.uint32
        if words != (precision != "float32"):
            raise ValueError(f"arrays must be those of {precision}")
        layer = cls.__new__(cls)
        layer._hold(arrays, shape, activation, None, precision)
        return layer

    def __call__(
        self,
        x: Any,
        residual: Any = None,
        *,
        out: Floats | None = None,
        threads: int | None = None,
    ) -> Floats:
        """Apply the matrix to each token.

        Parameters
        ----------
        x : array of shape (..., n_in)
            Tokens of the layer's precision, or of float32.
        residual : array of shape (..., n_out), optional
            What is added before the activation.
        out : array of shape (..., n_out), optional
            Where the result is written; its last dimension lies in one piece.
        threads : int, optional
            How many are used at most, instead of what the layer was made with.

        Returns
        -------
        array of shape (..., n_out)
            `out`, if it was given.
        """
        x = _array("x", x, self._dtypes)
        if not x.ndim or x.shape[-1] != self.n_in:
            raise ValueError(f"x must have shape (..., {self.n_in}), got {x.shape}")
        shape = (*x.shape[:-1], self.n_out)
        y = _result(out, shape, x.dtype)
        n = prod(shape[:-1])
        lines = _lines(x.reshape(n, self.n_in))
        if x.dtype == _HALF:
            lines = _words(lines)
        self._matrix.tokens(
            lines,
            y if y.ndim == 2 else _view(y, (n, self.n_out)),
            _residual(residual, shape, (n, self.n_out), x.dtype),
            self._n_threads(threads),
        )
        return y

    def features(
        self, x: Any, residual: Any = None, *, out: Floats | None = None
    ) -> Floats:
        """Apply the matrix to tokens that stand side by side, in single precision.

        Parameters
        ----------
        x : array of shape (n_in, tokens)
            Features of float32.
        residual : array of shape (n_out, tokens), optional
            What is added before the activation.
        out : float32 array of shape (n_out, tokens), optional
            Where the result is written; its last dimension lies in one piece.

        Returns
        -------
        float32 array of shape (n_out, tokens)
            `out`, if it was given.
        """
        if self.precision != "float32":
            raise ValueError(
                f"precision must be 'float32' for features, got {self.precision!r}"
            )
        x = _array("x", x)
        if x.ndim != 2 or len(x) != self.n_in:
            raise ValueError(f"x must have shape ({self.n_in}, tokens), got {x.shape}")
        shape = (self.n_out, x.shape[1])
        y = _result(out, shape)
        residual = _residual(residual, shape, shape)
        self._matrix.features(_lines(x), y, residual, self._n_threads())
        return y


class SparseConv2d(_Sparse):
    """Apply a pruned convolution: ``activation(conv(x) + bias + residual)``.

    Parameters
    ----------
    weights : Packed or array of shape (n_out, channels, height, width)
        The kernel; a packed one as a matrix (n_out, channels * height * width).
    kernel : tuple of int, optional
        Height and width, which a packed kernel needs.
    stride, padding, dilation : tuple of int
        Vertical and horizontal, in pixels.
    block : tuple of int, default=(8, 1)
        As in `SparseLinear`, of the kernel as a matrix.
    bias : array of shape (n_out,), optional
        What is added to each channel.
    activation : {"none", "relu", "gelu", "silu"}, default="none"
        What is applied last.
    threads : int, optional
        How many are used at most; by default as many as BLAS would use.

    Raises
    ------
    ValueError
        If shapes do not fit or an array is not of float32.

    Notes
    -----
    Each image is copied with its padding; a position of the kernel is then an offset,
    and nothing else is laid out anew.
    """

    def __init__(
        self,
        weights: Any,
        *,
        kernel: Pair | None = None,
        stride: Pair = (1, 1),
        padding: Pair = (0, 0),
        dilation: Pair = (1, 1),
        block: Block = (8, 1),
        bias: Any = None,
        activation: Activation = "none",
        threads: int | None = None,
    ) -> None:
        if not isinstance(weights, Packed):
            weights = _array("weights", weights)
            if weights.ndim != 4 or kernel not in (None, weights.shape[2:]):
                raise ValueError(
                    "weights must have shape (n_out, channels, height, width) with the "
                    f"kernel's size last, got {weights.shape} with kernel={kernel!r}"
                )
            kernel = weights.shape[2:]
            weights = weights.reshape(len(weights), -1)
        elif kernel is None:
            raise ValueError("kernel must be given with packed weights, got None")
        for name, pair, least in (
            ("kernel", kernel, 1),
            ("stride", stride, 1),
            ("padding", padding, 0),
            ("dilation", dilation, 1),
        ):
            if len(pair) != 2 or min(pair) < least:
                raise ValueError(
                    f"{name} must be two integers of at least {least}, got {pair!r}"
                )
        super().__init__(weights, block, bias, activation, threads)
        if self.n_in % (kernel[0] * kernel[1]):
            raise ValueError(
                f"kernel must divide the {self.n_in} columns of weights, got {kernel!r}"
            )
        self.channels = self.n_in // (kernel[0] * kernel[1])
        self.kernel, self.stride = kernel, stride
        self.padding, self.dilation = padding, dilation

    def __call__(
        self, x: Any, residual: Any = None, *, out: Floats | None = None
    ) -> Floats:
        """Apply the convolution to images.

        Parameters
        ----------
        x : array of shape (images, channels, height, width)
            Pixels of float32.
        residual : array of the shape of the result, optional
            What is added before the activation.
        out : float32 array of the shape of the result, optional
            Where it is written; its last dimension lies in one piece.

        Returns
        -------
        float32 array of shape (images, n_out, out_height, out_width)
            `out`, if it was given.
        """
        x = _array("x", x)
        if x.ndim != 4 or x.shape[1] != self.channels:
            raise ValueError(
                f"x must have shape (images, {self.channels}, height, width), got "
                f"{x.shape}"
            )
        sides = zip(
            x.shape[2:],
            self.kernel,
            self.stride,
            self.padding,
            self.dilation,
            strict=True,
        )
        size = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in sides]
        if min(size) < 1:
            raise ValueError(f"x must not be smaller than the kernel, got {x.shape}")
        y = _result(out, (len(x), self.n_out, *size))
        self._matrix.images(
            _lines(x),
            y,
            _residual(residual, y.shape, y.shape),
            kernel=self.kernel,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            threads=self._n_threads(),
        )
        return y


_SINGLE, _HALF = np.dtype(np.float32), np.dtype(np.uint16)


def _check_precision(precision: str) -> None:
    if precision not in ("float32", "bfloat16", "int8"):
        raise ValueError(
            f"precision must be 'float32', 'bfloat16' or 'int8', got {precision!r}"
        )


def _array(
    name: str, array: Any, dtypes: tuple[np.dtype[Any], ...] = (_SINGLE,)
) -> Floats:
    """Return an array as NumPy's, without a copy if it can be had so."""
    if type(array) is np.ndarray and array.dtype in dtypes:
        return array
    if not isinstance(array, np.ndarray) and hasattr(array, "__dlpack__"):
        array = np.from_dlpack(array)
    array = np.asarray(array)
    if array.dtype not in dtypes:
        wanted = " or ".join(map(str, dtypes))
        raise ValueError(f"{name} must be of {wanted}, got {array.dtype}")
    found: Floats = array
    return found


def _lines(array: Floats) -> Floats:
    """Return an array whose last dimension lies in one piece and none backwards."""
    flags = array.flags
    if flags.c_contiguous and flags.aligned:
        return array
    wanted = array.ndim and array.shape[-1] > 1
    size = array.itemsize
    if min(array.strides, default=0) < 0 or (wanted and array.strides[-1] != size):
        return np.ascontiguousarray(array)
    return array if flags.aligned else array.copy()


def _words(x: Floats) -> Floats:
    """Return tokens of bfloat16 as lines of whole words of two."""
    n_in = x.shape[1]
    whole = n_in % 2 == 0 and x.strides[0] % 4 == 0
    if whole and (not n_in or x.view(np.uint32).flags.aligned):
        return x
    copied = np.zeros((len(x), (n_in + 1) // 2), np.uint32).view(np.uint16)
    copied[:, :n_in] = x
    return copied


def _result(
    out: Floats | None, shape: tuple[int, ...], dtype: np.dtype[Any] = _SINGLE
) -> Floats:
    if out is None:
        return np.empty(shape, dtype)
    if not isinstance(out, np.ndarray) or out.dtype != dtype or out.shape != shape:
        raise ValueError(
            f"out must be a NumPy array of {dtype} and shape {shape}, got "
            f"{getattr(out, 'dtype', type(out))} and {getattr(out, 'shape', None)}"
        )
    return out


def _view(y: Floats, shape: tuple[int, ...]) -> Floats:
    try:
        return np.reshape(y, shape, copy=False)
    except ValueError:
        raise ValueError(
            "out must have its leading dimensions in one piece, got strides "
            f"{y.strides}"
        ) from None


def _residual(
    residual: Any,
    shape: tuple[int, ...],
    flat: tuple[int, ...],
    dtype: np.dtype[Any] = _SINGLE,
) -> Floats | None:
    if residual is None:
        return None
    residual = _array("residual", residual, (dtype,))
    if residual.shape != shape:
        raise ValueError(f"residual must have shape {shape}, got {residual.shape}")
    return _lines(residual.reshape(flat))
