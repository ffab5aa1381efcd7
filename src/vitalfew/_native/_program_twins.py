"""NumPy twins of programs, their oracle, and what the steps of programs mean."""

from collections.abc import Callable, Sequence
from enum import IntEnum
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vitalfew._native._blocksparse_twins import _ACTIVATIONS, BlockSparse, _require

Real = NDArray[Any]
Numbers = Sequence[int]

MOST = 2**31 - 1  # of all numbers of a step


class Op(IntEnum):
    """What a step does: its first number."""

    COPY = 0
    PRODUCT = 1
    ADD = 2
    POOL = 3
    MEAN = 4
    PACK = 5
    UNPACK = 6


class Kind(IntEnum):
    """Where a value lies."""

    NONE = -1
    BUFFER = 0
    INPUT = 1
    OUTPUT = 2


class Pool(IntEnum):
    """What is kept of a window."""

    MOST = 0
    AVERAGE = 1


ACTIVATIONS = ("none", "relu", "gelu", "silu")  # a step names one by its place
NONE = (Kind.NONE, 0, 0, 0, 0)  # a value of images that is not there


class _Value(NamedTuple):
    """Element (c, i, j) lies at ``first + c * plane + i * pitch + j``."""

    kind: int
    which: int
    first: int = 0
    plane: int = 0
    pitch: int = 0

    def at(self, size: tuple[int, int, int], step: int = 1) -> NDArray[np.int64]:
        """Return where the elements lie."""
        c, i, j = (np.arange(n) for n in size)
        rows = self.first + self.plane * c[:, None] + self.pitch * i
        return np.asarray(rows[:, :, None] + step * j, np.int64)

    def last(self, size: tuple[int, int, int], step: int = 1) -> int:
        """Return where the last element lies."""
        c, i, j = (n - 1 for n in size)
        return self.first + self.plane * c + self.pitch * i + step * j


class _Reader:
    """The numbers of a step one after the other, each within its bounds."""

    def __init__(self, step: Numbers, number: int) -> None:
        self._step, self._at, self._where = step, 0, f"step {number}: "

    def next(self, name: str, low: int = 1, high: int = MOST) -> int:
        self.check(
            self._at < len(self._step), f"must have more numbers, {name} is missing"
        )
        value = int(self._step[self._at])
        self._at += 1
        self.check(
            low <= value <= high, f"{name} must be from {low} to {high}, got {value}"
        )
        return value

    def check(self, holds: Any, what: str) -> None:
        _require(holds, self._where + what)

    def done(self) -> None:
        self.check(self._at == len(self._step), "must have fewer numbers")


_LAYOUT = ("first", "plane", "pitch")
Memory = tuple[list[Real], list[Real], list[Real]]  # buffers, inputs, outputs
Run = Callable[[Memory], None]


class _Program:
    """What both kinds of program share."""

    _steps: list[Run]

    def __init__(self, matrices: Sequence[BlockSparse]) -> None:
        for matrix in matrices:
            _require(isinstance(matrix, BlockSparse), "matrices must be of BlockSparse")
            _require(matrix._width == 1, "matrices must be of single precision")
            _require(matrix._matrix.shape[0] > 0, "matrices must have rows")
        self._matrices = list(matrices)

    def _parse(self, steps: Sequence[Numbers], read: Callable[[_Reader], Run]) -> None:
        self._steps = []
        for i, step in enumerate(steps):
            reader = _Reader(step, i)
            self._steps.append(read(reader))
            reader.done()


def _check_arrays(
    inputs: Sequence[Real],
    outputs: Sequence[Real],
    shapes: tuple[Sequence[tuple[int, ...]], Sequence[tuple[int, ...]]],
    lines: bool,
) -> int:
    """Refuse arrays that are not those of a program and return their length."""
    for arrays in (inputs, outputs):
        for a in arrays:
            fits = isinstance(a, np.ndarray) and a.dtype == np.float32
            fits = fits and (a.ndim == 2 if lines else a.flags.c_contiguous)
            if not fits or (arrays is outputs and not a.flags.writeable):
                raise TypeError("incompatible function arguments")
    n = -1
    for name, arrays, wanted in zip(
        ("inputs", "outputs"), (inputs, outputs), shapes, strict=True
    ):
        _require(
            len(arrays) == len(wanted), f"{name} must be as many as the program has"
        )
        for a, shape in zip(arrays, wanted, strict=True):
            _require(a.ndim, f"{name} must have a dimension for images")
            n = len(a) if n < 0 else n
            forward = a.flags.c_contiguous or (
                a.strides[0] >= 0 and a.strides[-1] == a.itemsize
            )
            _require(
                a.shape == (n, *shape) and a.flags.aligned and forward,
                f"{name} must have shapes (n, *shape), in lines",
            )
    for i, y in enumerate(outputs):
        _require(
            len(y) < 2 or y.strides[0] >= y.itemsize * prod(y.shape[1:]),
            "the lines of outputs must not overlap",
        )
        for x in inputs:
            _require(
                not np.may_share_memory(x, y), "outputs must not lie where inputs do"
            )
        for x in outputs[:i]:
            _require(not np.may_share_memory(x, y), "outputs must not overlap")
    return max(n, 0)


class ImageProgram(_Program):
    """Steps from buffer to buffer, carried out for one image after the other.

    Everything is checked here, so that no run can leave the arrays. Runs may come from
    several threads at a time.

    A *value* of c channels, h rows and w columns is five numbers: kind, index, first,
    plane, pitch. Kind says whether it lies in a buffer, an input or an output (`Kind`),
    index in which of them, and its element (c, i, j) lies at ``first + c * plane + i *
    pitch + j`` there. Inputs and outputs lie in one piece. A value that is not there is
    `NONE`. The rows of what is written must not overlap.

    A step is a list of integers that begins with one of `Op`:

    ``COPY, channels, height, width, *source, step, *destination``
        Source element j of a row is ``step * j`` behind its begin, so that a step and a
        doubled pitch take one phase of what a strided convolution reads.
    ``PRODUCT, matrix, table, source, grid pitch, height, width, *destination,
    *residual or NONE``
        ``activation(W x + bias + residual)`` at each position (i, j), with bias and
        activation of the matrix, whose rows are the channels. Entry e of the matrix
        meets what lies ``tables[table][e] + i * grid_pitch + j`` floats behind the
        begin of the source, a buffer; this must lie within it also for the positions
        between the rows of the result. It is fastest where the pitches of destination
        and residual are that of the grid.
    ``ADD, activation, channels, height, width, *a, *b or NONE, *destination``
        ``activation(a + b)``; the activation by its place in `ACTIVATIONS`.
    ``POOL, pooling, whether padding counts, channels, then for rows and again for
    columns: kernel, stride, padding, source size, size; *source, *destination``
        The largest number of each window, or the average (`Pool`). Windows begin inside
        or in the padding before, which is less than the kernel; they may end behind, as
        with a size that is rounded up. Averages are over what lies inside, or count the
        padding before and behind too.
    ``MEAN, channels, height, width, *source, *destination``
        A number for each channel, `plane` after `plane` in the destination.

    What is read must not lie where is written; of a residual, and of what is added, it
    may be the very same elements. Rows that are read by POOL and MEAN must not overlap.

    Parameters
    ----------
    matrices : sequence of BlockSparse
        In single precision, of one level.
    tables : sequence of int32 array
        Of each product: what each entry of its matrix meets, in the order of the
        entries.
    buffers : sequence of int
        Floats of each buffer. They are zero at first, and where no step writes they
        stay so; padding is made of that.
    inputs, outputs : sequence of tuple of int
        Shape of each array for one image.
    steps : sequence of sequence of int
        In the order in which they are carried out.

    Raises
    ------
    ValueError
        If a step is not one of these, or would leave its arrays.
    """

    def __init__(
        self,
        matrices: Sequence[BlockSparse],
        tables: Sequence[Real],
        buffers: Numbers,
        inputs: Sequence[Numbers],
        outputs: Sequence[Numbers],
        steps: Sequence[Numbers],
    ) -> None:
        super().__init__(matrices)
        for table in tables:
            if table.dtype != np.int32 or table.ndim != 1:
                raise TypeError("incompatible function arguments")
        self._tables = [table.copy() for table in tables]
        for n in buffers:
            _require(0 <= n <= MOST, "buffers must be from 0 to 2^31 - 1 floats")
        self._buffers = list(buffers)
        for shape in (*inputs, *outputs):
            _require(
                min(shape, default=1) >= 1,
                "shapes of inputs and outputs must be positive",
            )
            _require(
                prod(shape) <= MOST,
                "inputs and outputs must be below 2^31 floats an image",
            )
        self._shapes = [tuple(s) for s in inputs], [tuple(s) for s in outputs]
        self._sizes = (
            self._buffers,
            [prod(s) for s in inputs],
            [prod(s) for s in outputs],
        )
        self._parse(steps, self._read)
        self.nbytes = 4 * (sum(map(len, tables)) + sum(buffers))

    def run(
        self, inputs: Sequence[Real], outputs: Sequence[Real], threads: int = 1
    ) -> None:
        """Write the outputs for some images.

        Parameters
        ----------
        inputs, outputs : sequence of float32 array of shape (n, *shape)
            They lie in one piece each, and outputs nowhere where another lies.
        threads : int, default=1
            How many are used at most: each takes images, or where these are fewer, all
            take parts of each step.
        """
        del threads
        n = _check_arrays(inputs, outputs, self._shapes, lines=False)
        buffers = [np.zeros(size, np.float32) for size in self._buffers]
        for i in range(n):
            memory = (
                buffers,
                [x[i].reshape(-1) for x in inputs],
                [y[i].reshape(-1) for y in outputs],
            )
            for step in self._steps:
                step(memory)

    def _read(self, r: _Reader) -> Run:
        op = Op(r.next("operation", Op.COPY, Op.MEAN))
        if op == Op.PRODUCT:
            return self._product(r)
        if op == Op.ADD:
            return self._add(r)
        if op == Op.POOL:
            return self._pool(r)
        size = r.next("channels"), r.next("height"), r.next("width")
        source = self._value(r, "source")
        step = r.next("step") if op == Op.COPY else 1
        to = self._value(r, "destination", written=True)
        written = size if op == Op.COPY else (size[0], 1, 1)
        last = source.last(size, step)
        self._inside(r, source, last)
        if op == Op.MEAN:
            _separate(r, source, size)
        self._single(r, to, written)
        r.check(
            _apart(to, written, source, last),
            "what is read must not lie where is written",
        )

        def run(memory: Memory) -> None:
            found = memory[source.kind][source.which][source.at(size, step)]
            if op == Op.MEAN:
                found = found.mean((1, 2), keepdims=True)
            memory[to.kind][to.which][to.at(written)] = found

        return run

    def _product(self, r: _Reader) -> Run:
        matrix = self._matrices[r.next("matrix", 0, len(self._matrices) - 1)]
        table = self._tables[r.next("table", 0, len(self._tables) - 1)].astype(np.int64)
        index = r.next("source", 0, len(self._buffers) - 1)
        pitch, height, width = (r.next(n) for n in ("grid pitch", "height", "width"))
        to = self._value(r, "destination", written=True)
        other = self._value(r, "residual", optional=True)
        size = matrix._matrix.shape[0], height, width
        r.check(height == 1 or pitch >= width, "grid pitch must be at least width")
        self._single(r, to, size)
        self._elementwise(r, to, size, other)
        r.check(
            len(table) == matrix._entries.shape[1],
            "table must have an entry for each of the matrix",
        )
        pitch = width if height == 1 else pitch
        positions = (height - 1) * pitch + width
        r.check(positions <= MOST, "positions must be below 2^31")
        if len(table):
            r.check(table.min() >= 0, "table must not be negative")
            met = _Value(Kind.BUFFER, index, int(table.min()))
            last = int(table.max()) + positions - 1
            self._inside(r, met, last)
            r.check(
                _apart(to, size, met, last),
                "what is read must not lie where is written",
            )

        def run(memory: Memory) -> None:
            t = (pitch * np.arange(height)[:, None] + np.arange(width)).ravel()
            x = memory[Kind.BUFFER][index][table[:, None] + t]
            add = _found(memory, other, size)
            with np.errstate(over="ignore", invalid="ignore"):
                y = (matrix._entries @ x + matrix._bias[:, None]).reshape(size)
                y = matrix._activation(y if add is None else y + add)
            memory[to.kind][to.which][to.at(size)] = y

        return run

    def _add(self, r: _Reader) -> Run:
        activation = _ACTIVATIONS[ACTIVATIONS[r.next("activation", 0, 3)]]
        size = r.next("channels"), r.next("height"), r.next("width")
        a = self._value(r, "source")
        b = self._value(r, "other", optional=True)
        to = self._value(r, "destination", written=True)
        self._single(r, to, size)
        self._elementwise(r, to, size, a)
        self._elementwise(r, to, size, b)

        def run(memory: Memory) -> None:
            total, more = _found(memory, a, size), _found(memory, b, size)
            with np.errstate(over="ignore", invalid="ignore"):
                total = total if more is None else total + more
                memory[to.kind][to.which][to.at(size)] = activation(total)

        return run

    def _pool(self, r: _Reader) -> Run:
        most = r.next("pooling", 0, 1) == Pool.MOST
        padded = r.next("whether padding counts", 0, 1)
        channels = r.next("channels")
        windows = []
        for _ in range(2):
            kernel, stride = (r.next(n, 1, 2**15) for n in ("kernel", "stride"))
            padding = r.next("padding", 0, kernel - 1)
            n_in, n_out = r.next("source size"), r.next("size")
            r.check(
                (n_out - 1) * stride < n_in + padding,
                "windows must begin inside or in the padding before",
            )
            windows.append((kernel, stride, padding, n_in, n_out))
        source = self._value(r, "source")
        to = self._value(r, "destination", written=True)
        read = channels, windows[0][3], windows[1][3]
        size = channels, windows[0][4], windows[1][4]
        last = source.last(read)
        self._inside(r, source, last)
        _separate(r, source, read)
        self._single(r, to, size)
        r.check(
            _apart(to, size, source, last), "what is read must not lie where is written"
        )

        def run(memory: Memory) -> None:
            x = memory[source.kind][source.which][source.at(read)]
            for axis, (kernel, stride, padding, n_in, n_out) in enumerate(windows, 1):
                pieces = []
                for i in range(n_out):
                    begin = i * stride - padding
                    stop = begin + kernel
                    piece = np.take(x, range(max(begin, 0), min(stop, n_in)), axis)
                    if most:
                        pieces.append(piece.max(axis))
                    else:
                        whole = min(stop, n_in + padding) - begin
                        count = whole if padded else piece.shape[axis]
                        pieces.append(piece.sum(axis) / np.float32(count))
                x = np.stack(pieces, axis)
            memory[to.kind][to.which][to.at(size)] = x

        return run

    def _value(
        self, r: _Reader, name: str, written: bool = False, optional: bool = False
    ) -> _Value:
        kind = r.next(
            f"{name} kind", Kind.NONE if optional else Kind.BUFFER, Kind.OUTPUT
        )
        r.check(
            not written or kind != Kind.INPUT, "what is written must not be an input"
        )
        if kind == Kind.NONE:
            nothing = (r.next(f"{name} {n}", 0, 0) for n in ("index", *_LAYOUT))
            return _Value(kind, *nothing)
        which = r.next(f"{name} index", 0, len(self._sizes[kind]) - 1)
        return _Value(kind, which, *(r.next(f"{name} {n}", 0) for n in _LAYOUT))

    def _inside(self, r: _Reader, v: _Value, last: int) -> None:
        r.check(
            last < self._sizes[v.kind][v.which],
            "what is read and written must lie inside",
        )

    def _single(self, r: _Reader, to: _Value, size: tuple[int, int, int]) -> None:
        _separate(r, to, size)
        self._inside(r, to, to.last(size))

    def _elementwise(
        self, r: _Reader, to: _Value, size: tuple[int, int, int], v: _Value
    ) -> None:
        if v.kind == Kind.NONE:
            return
        self._inside(r, v, v.last(size))
        same = v[:3] == to[:3]
        same &= size[0] == 1 or v.plane == to.plane
        same &= size[1] == 1 or v.pitch == to.pitch
        r.check(
            same or _apart(to, size, v, v.last(size)),
            "what is added must be the result, or lie elsewhere",
        )


def _separate(r: _Reader, v: _Value, size: tuple[int, int, int]) -> None:
    channels, height, width = size
    r.check(
        (height == 1 or v.pitch >= width)
        and (channels == 1 or v.plane >= (height - 1) * v.pitch + width),
        "rows that are written, or read by windows and means, must not overlap",
    )


def _apart(to: _Value, size: tuple[int, int, int], v: _Value, last: int) -> bool:
    """Return whether what is read, up to `last`, does not lie where is written."""
    return v[:2] != to[:2] or last < to.first or to.last(size) < v.first


def _found(memory: Memory, v: _Value, size: tuple[int, int, int]) -> Any:
    if v.kind == Kind.NONE:
        return None
    return memory[v.kind][v.which][v.at(size)]


class TokenProgram(_Program):
    """Steps from buffer to buffer, carried out for some tokens at a time.

    Everything is checked here, so that no run can leave the arrays. Runs may come from
    several threads at a time.

    A buffer holds some features of each token. A step is a list of integers that begins
    with one of `Op`:

    ``PACK, input, buffer``
        Makes the features of an input those of a buffer.
    ``PRODUCT, matrix, source, kind, index, residual kind, residual index``
        ``activation(W x + bias + residual)`` of a buffer, with bias and activation of
        the matrix, into another buffer or an output (`Kind`). The residual is a buffer,
        also the very same, for a buffer, and an input for an output; for none its kind
        is that and its index 0.
    ``ADD, activation, a, b kind, b index, destination``
        ``activation(a + b)`` of buffers, of which each may be the destination; b may be
        none. The activation is told by its place in `ACTIVATIONS`.
    ``UNPACK, buffer, output``
        Writes the features of a buffer.

    Buffers hold nothing useful before they are written.

    Parameters
    ----------
    matrices : sequence of BlockSparse
        In single precision, of one level.
    buffers, inputs, outputs : sequence of int
        Features of each.
    steps : sequence of sequence of int
        In the order in which they are carried out.

    Raises
    ------
    ValueError
        If a step is not one of these, or features do not fit.
    """

    def __init__(
        self,
        matrices: Sequence[BlockSparse],
        buffers: Numbers,
        inputs: Numbers,
        outputs: Numbers,
        steps: Sequence[Numbers],
    ) -> None:
        super().__init__(matrices)
        self._features = list(buffers), list(inputs), list(outputs)
        for n in (*buffers, *inputs, *outputs):
            _require(1 <= n <= MOST, "features must be from 1 to 2^31 - 1")
        self._parse(steps, self._read)
        self.nbytes = 4 * sum(buffers)

    def run(
        self, inputs: Sequence[Real], outputs: Sequence[Real], threads: int = 1
    ) -> None:
        """Write the outputs for some tokens.

        Parameters
        ----------
        inputs, outputs : sequence of float32 array of shape (n, features)
            Lines lie in one piece each, and outputs nowhere where another lies.
        threads : int, default=1
            How many are used at most: each takes panels of tokens, or where these are
            fewer, all take parts of each step.
        """
        del threads
        shapes = [(n,) for n in self._features[1]], [(n,) for n in self._features[2]]
        n = _check_arrays(inputs, outputs, shapes, lines=True)
        buffers = [np.zeros((n, wide), np.float32) for wide in self._features[0]]
        for step in self._steps:
            step((buffers, list(inputs), list(outputs)))

    def _read(self, r: _Reader) -> Run:
        op = Op(r.next("operation", Op.COPY, Op.UNPACK))
        if op == Op.PRODUCT:
            return self._product(r)
        other = _Value(Kind.NONE, 0)
        activation = _ACTIVATIONS["none"]
        if op == Op.PACK:
            source = self._of(r, Kind.INPUT, "input")
            to = self._of(r, Kind.BUFFER, "buffer")
        elif op == Op.UNPACK:
            source = self._of(r, Kind.BUFFER, "buffer")
            to = self._of(r, Kind.OUTPUT, "output")
        else:
            r.check(op == Op.ADD, "operation must be one on tokens")
            activation = _ACTIVATIONS[ACTIVATIONS[r.next("activation", 0, 3)]]
            source = self._of(r, Kind.BUFFER, "source")
            other = self._value(r, "other", Kind.NONE, Kind.BUFFER)
            to = self._of(r, Kind.BUFFER, "destination")
        wide = {self._wide(v) for v in (source, other, to) if v.kind != Kind.NONE}
        r.check(len(wide) == 1, "features must be the same")

        def run(memory: Memory) -> None:
            found = memory[source.kind][source.which]
            with np.errstate(over="ignore", invalid="ignore"):
                if other.kind != Kind.NONE:
                    found = found + memory[other.kind][other.which]
                memory[to.kind][to.which][...] = activation(found)

        return run

    def _product(self, r: _Reader) -> Run:
        matrix = self._matrices[r.next("matrix", 0, len(self._matrices) - 1)]
        source = self._of(r, Kind.BUFFER, "source")
        to = self._value(r, "destination", Kind.BUFFER, Kind.OUTPUT)
        r.check(to.kind != Kind.INPUT, "what is written must not be an input")
        other = self._value(r, "residual", Kind.NONE, Kind.INPUT)
        r.check(
            other.kind == Kind.NONE
            or (other.kind == Kind.BUFFER) == (to.kind == Kind.BUFFER),
            "residual must be a buffer for a buffer, and an input for an output",
        )
        r.check(to[:2] != source[:2], "what is read must not be what is written")
        wide = [self._wide(v) for v in (to, source, other) if v.kind != Kind.NONE]
        shape = matrix._matrix.shape
        r.check(
            wide[:2] == list(shape) and wide[2:] in ([], [shape[0]]),
            "features must be those of the matrix",
        )

        def run(memory: Memory) -> None:
            add = None
            if other.kind != Kind.NONE:
                add = memory[other.kind][other.which].T
            found = matrix._apply(memory[source.kind][source.which].T, add)
            memory[to.kind][to.which][...] = found.T

        return run

    def _of(self, r: _Reader, kind: Kind, name: str) -> _Value:
        return _Value(kind, r.next(name, 0, len(self._features[kind]) - 1))

    def _value(self, r: _Reader, name: str, low: int, high: int) -> _Value:
        kind = r.next(f"{name} kind", low, high)
        most = 0 if kind == Kind.NONE else len(self._features[kind]) - 1
        return _Value(kind, r.next(f"{name} index", 0, most))

    def _wide(self, v: _Value) -> int:
        return self._features[v.kind][v.which]
